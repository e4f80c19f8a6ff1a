"""SAM with a network of `keras.applications`: the first layers of MobileNet learn handwritten digits.

The network exists already, so one line is enough: `keras_sam.as_sam_model`.
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam

keras.utils.set_random_seed(0)

x, y = load_digits(return_X_y=True)
images = (x / 16).reshape(-1, 8, 8, 1).astype("float32").repeat(4, axis=1).repeat(4, axis=2)  # 32x32, from 0 to 1
x_train, x_test, y_train, y_test = train_test_split(images, y, train_size=640, test_size=320, random_state=0)

mobile_net = keras.applications.MobileNet(input_shape=(32, 32, 1), alpha=0.25, weights=None, include_top=False)
features = mobile_net.get_layer("conv_pw_2_relu").output  # digits need no more, and the rest takes long to compile
outputs = keras.layers.Dense(10)(keras.layers.Flatten()(features))
classifier = keras.Model(mobile_net.input, outputs)
for layer in classifier.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.9  # a run of a hundred steps is too short for statistics that take hundreds to settle

model = keras_sam.as_sam_model(classifier)  # shares its layers and weights with `classifier`
model.compile(
    keras_sam.SAMOptimizer(keras.optimizers.Adam(0.003), rho=0.05),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(x_train, y_train, batch_size=64, epochs=6, verbose=2).history

accuracy = model.evaluate(x_test, y_test, batch_size=64, verbose=0, return_dict=True)["accuracy"]
print(f"{len(y_test)} test images, accuracy {accuracy:.3f}, sharpness {history['sharpness'][-1]:.4f}")
