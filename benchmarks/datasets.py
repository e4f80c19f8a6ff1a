"""Data for the benchmarks: from a library or a file, with wrong labels, in shuffled and augmented batches."""

from typing import Any, NamedTuple

import keras
import numpy as np


class Data(NamedTuple):
    """Float32 images from 0 to 1 with a channel axis, and integer labels; some of `y_train` are wrong."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int


def load(name: str, file: str | None, seed: int, label_noise: float, train_size: int | None) -> Data:
    """Load `file`, or the data set `name`; redraw the share `label_noise` of the training labels."""
    rng = np.random.default_rng(seed)
    if file is not None:
        with np.load(file) as arrays:
            parts = [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    elif name == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        images = (x * (255 / 16)).reshape(-1, 8, 8)
        x_train, x_test, y_train, y_test = train_test_split(images, y, test_size=0.2, stratify=y, random_state=seed)
        parts = [x_train, y_train, x_test, y_test]
    else:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        parts = [x_train, y_train, x_test, y_test]
    x_train, y_train, x_test, y_test = parts
    chosen = rng.permutation(len(x_train))[:train_size]
    x_train, x_test = (_images(x) for x in (x_train[chosen], x_test))
    y_train, y_test = (np.ravel(y).astype("int32") for y in (y_train[chosen], y_test))
    classes = int(max(y_train.max(), y_test.max())) + 1
    redrawn = rng.choice(len(y_train), round(label_noise * len(y_train)), replace=False)
    y_train[redrawn] = rng.integers(classes, size=len(redrawn))
    return Data(x_train, y_train, x_test, y_test, classes)


def _images(x: np.ndarray) -> np.ndarray:
    x = x.astype("float32") / 255
    return x if x.ndim == 4 else x[..., None]


class Batches(keras.utils.PyDataset):
    """Training batches, in another order each epoch, padded and cropped and flipped if asked."""

    def __init__(self, data: Data, batch_size: int, augment: bool, seed: int) -> None:
        super().__init__()
        self.data, self.batch_size, self.augment = data, batch_size, augment
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.data.x_train) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        x = self.data.x_train[chosen]
        return (self._augmented(x) if self.augment else x), self.data.y_train[chosen]

    def on_epoch_end(self) -> None:
        """Draw the next order."""
        self.order = self.rng.permutation(len(self.data.x_train))

    def _augmented(self, x: np.ndarray) -> np.ndarray:
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
        found = np.empty_like(x)
        for i, (top, left, flip) in enumerate(zip(*self.rng.integers(0, [[9], [9], [2]], (3, len(x))), strict=True)):
            image = padded[i, top : top + height, left : left + width]
            found[i] = image[:, ::-1] if flip else image
        return found
