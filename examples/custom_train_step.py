"""A `train_step` and a contrastive loss of one's own: which lower half belongs to which upper half of a digit?

No labels are used. The network is given a batch of upper and a batch of lower halves, and learns to find the pairs.
"""

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam


class HalfMatcher(keras.Model):
    """Two encoders, and how similar each upper half is to each lower half."""

    def __init__(self):
        super().__init__()
        self.encoders = [
            keras.Sequential([keras.layers.Dense(128, activation="relu"), keras.layers.Dense(32)]) for _ in range(2)
        ]

    def call(self, halves):
        """The similarities: a row for each upper half, a column for each lower half."""
        upper, lower = (ops.normalize(encode(half)) for encode, half in zip(self.encoders, halves, strict=True))
        return 10 * ops.matmul(upper, ops.transpose(lower))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Cross-entropy of rows and of columns; the right ones are on the diagonal."""
        rows, columns = ops.log_softmax(y_pred, axis=1), ops.log_softmax(y_pred, axis=0)
        return -ops.mean(ops.diagonal(rows) + ops.diagonal(columns)) / 2

    def train_step(self, *args):
        """Cut the images into halves, and take a step with SAM on them."""
        *state, data = args  # TensorFlow and PyTorch give (data,), JAX gives (state, data)
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        # What stands here is done once a step: both gradients are of the same halves.
        halves = images[:, :32], images[:, 32:]
        # Keras's own step is run, with the loss above. A step that computes gradients itself and calls
        # `self.optimizer.apply` goes to the argument `train_step`, or stands in a class of its own that `SAMModel` is
        # put before, as in `mean_teacher.py` and `two_optimizers.py`.
        return keras_sam.sam_train_step(self, *state, (halves,))


keras.utils.set_random_seed(0)
x, _ = load_digits(return_X_y=True)
x_train, x_test = train_test_split((x / 16).astype("float32"), test_size=100, random_state=0)

model = HalfMatcher()
model((x_train[:1, :32], x_train[:1, 32:]))  # builds it, as `fit` would build it for whole images
optimizer = keras_sam.SAMOptimizer(keras.optimizers.Adam(0.001), rho=0.05)
model.compile(optimizer)
model.fit(x_train, batch_size=128, epochs=40, verbose=0)

similar = ops.convert_to_numpy(model((x_test[:, :32], x_test[:, 32:])))
accuracy = np.mean(similar.argmax(1) == np.arange(len(x_test)))
perturbation = np.sqrt(sum(np.sum(ops.convert_to_numpy(e) ** 2) for e in optimizer.perturbations))  # rho, if SAM works
print(f"{len(x_test)} halves to choose from, accuracy {accuracy:.3f}, perturbation {perturbation:.4f}")
