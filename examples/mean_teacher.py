"""A `train_step` of one's own that averages weights: a mean teacher (arXiv 1703.01780), with labels for few digits.

The student learns the labels that there are, and to predict under noise what the teacher predicts under other noise.
The teacher's weights are the moving average of the student's. They move after `optimizer.apply`, with which Keras's
step ends: once a batch, and towards the updated weights, with SAM as without.
"""

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam

LABELLED, CONSISTENCY, DECAY = 50, 30.0, 0.98


def network():
    """A classifier of noisy images."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.GaussianNoise(0.2),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


class MeanTeacher(keras.Model):
    """A student that is trained, and a teacher that follows it."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = network(), network()
        self.teacher.trainable = False
        self.teacher.set_weights(self.student.get_weights())

    def call(self, images, training=False):
        """The student's predictions in training, the teacher's otherwise."""
        return self.student(images, training=True) if training else self.teacher(images)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Cross-entropy where there are labels, by the weights of the samples, and consistency on all images."""
        cross_entropy = super().compute_loss(x, y, y_pred, sample_weight, training)
        expected = ops.stop_gradient(self.teacher(x, training=True))
        return cross_entropy + CONSISTENCY * ops.mean(ops.square(y_pred - expected))

    def follow(self):
        """Move the teacher towards the student."""
        for slow, fast in zip(self.teacher.weights, self.student.weights, strict=True):
            slow.assign(DECAY * slow + (1 - DECAY) * fast)

    if keras.backend.backend() == "jax":

        def train_step(self, state, data):
            """Keras's step, then the teacher's."""
            logs, (weights, others, *rest) = super().train_step(state, data)
            variables = self.trainable_variables + self.non_trainable_variables
            with keras.StatelessScope(zip(variables, weights + others, strict=True)) as scope:
                self.follow()
            others = [scope.get_current_value(v) for v in self.non_trainable_variables]
            return logs, (weights, others, *rest)

    else:

        def train_step(self, data):
            """Keras's step, then the teacher's."""
            logs = super().train_step(data)
            self.follow()
            return logs


class SAMMeanTeacher(keras_sam.SAMModel, MeanTeacher):
    """The same, trained with SAM."""


keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    (x / 16).astype("float32"), y, test_size=0.2, random_state=0, stratify=y
)
labelled = np.arange(len(y_train)) < LABELLED
y_train = np.where(labelled, y_train, 0)  # the labels of the others weigh nothing

model = SAMMeanTeacher()
optimizer = keras_sam.SAMOptimizer(keras.optimizers.Adam(0.002), rho=0.1)
model.compile(optimizer, loss="sparse_categorical_crossentropy")
history = model.fit(
    x_train, y_train, sample_weight=labelled / labelled.mean(), batch_size=128, epochs=50, verbose=0
).history

for name in ("student", "teacher"):
    predicted = ops.convert_to_numpy(getattr(model, name)(x_test)).argmax(-1)
    accuracy = np.mean(predicted == y_test)
    print(f"{name}, with {LABELLED} labels: accuracy {accuracy:.3f}")
print(f"{len(y_test)} test images, accuracy {accuracy:.3f}, sharpness {history['sharpness'][-1]:.4f}")
