"""Data for the benchmarks: from a library or a file, with wrong labels, in shuffled and augmented batches."""

from typing import Any, NamedTuple

import keras
import numpy as np
import sentences


class Data(NamedTuple):
    """Samples: images, float32 from 0 to 1 with a channel axis, rows of numbers, or int32 numbers of words.

    Integer labels, of which some of `y_train` are wrong.

    Or float32 targets, and no `classes`. With a part for validation the weights are to be those of the best epoch.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int = 0
    validation: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def target(self) -> Any:
        """How many numbers a network answers with for a sample, or in what shape if that is no vector."""
        return self.classes or (self.y_train.shape[1:] if self.y_train.ndim > 2 else self.y_train.shape[1])


TABLES = ("breast_cancer", "wine", "iris", "diabetes")  # of scikit-learn
HOURS = 30 * 24  # of a month
KNOWN = 512  # hours that a forecast may look at


def load(
    name: str,
    file: str | None,
    seed: int,
    label_noise: float,
    train_size: int | None = None,
    validation: int = 0,
    test_size: int | None = None,
    horizon: int = 96,
) -> Data:
    """Load `file`, or the data set `name`; redraw the share `label_noise` of the training labels.

    `validation` of the training samples become a part of their own, with the right labels where these are known: those
    before any is redrawn, or `y_train_clean` where a file has it. `horizon` is how many hours to forecast.
    """
    rng = np.random.default_rng(seed)
    if file is not None and file.endswith(".csv"):
        return _series(np.loadtxt(file, delimiter=",", skiprows=1, usecols=range(1, 8), dtype="float32"), horizon)
    if name in TABLES and file is None:
        return _table(name, seed, label_noise, validation, rng)
    if name == "sentences":
        x, y = sentences.load((train_size or 1000) + (test_size or 2000), rng)
        x_train, x_test, y_train, y_test = (part for each in (x, y) for part in np.split(each, [train_size or 1000]))
        return Data(x_train, _redrawn(y_train, label_noise, rng), x_test, y_test, 2)
    right = None
    if file is not None:
        with np.load(file) as arrays:
            parts = [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]
            right = arrays.get("y_train_clean")
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
    right = np.ravel(y_train if right is None else right)[chosen].astype("int32")
    x_train, x_test = (_images(x) for x in (x_train[chosen], x_test[:test_size]))
    y_train, y_test = (np.ravel(y).astype("int32") for y in (y_train[chosen], y_test[:test_size]))
    classes = int(max(y_train.max(), y_test.max())) + 1
    x_train, y_train, apart = _apart(x_train, y_train, right, validation)
    return Data(x_train, _redrawn(y_train, label_noise, rng), x_test, y_test, classes, apart)


def _apart(x: np.ndarray, y: np.ndarray, right: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Without the last `size` samples, and these with the right labels."""
    return (x[:-size], y[:-size], (x[-size:], right[-size:])) if size else (x, y, None)


def _redrawn(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Some labels drawn from all classes; some numbers from all of them."""
    redrawn = rng.choice(len(y), round(share * len(y)), replace=False)
    labels = y.ndim == 1
    y[redrawn] = rng.integers(int(y.max()) + 1, size=len(redrawn)) if labels else rng.choice(y, len(redrawn))
    return y


def _table(name: str, seed: int, label_noise: float, validation: int, rng: np.random.Generator) -> Data:
    """Rows of numbers, standardized by the training rows; targets too, where they are numbers."""
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    labels = None if name == "diabetes" else y
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, stratify=labels, random_state=seed)
    x, x_test = ((part - x.mean(0)).astype("float32") / x.std(0).astype("float32") for part in (x, x_test))
    if labels is None:
        y, y_test = ((part - y.mean())[:, None].astype("float32") / y.std().astype("float32") for part in (y, y_test))
    else:
        y, y_test = y.astype("int32"), y_test.astype("int32")
    x, y, apart = _apart(x, y, y, validation)
    classes = 0 if labels is None else int(labels.max()) + 1
    return Data(x, _redrawn(y, label_noise, rng), x_test, y_test, classes, apart)


def _series(values: np.ndarray, horizon: int) -> Data:
    """Windows of `(hours, 7)`: 12 months to train with, 4 to choose the epoch and 4 to test, as in arXiv 2402.10198."""
    ends = [12 * HOURS, 16 * HOURS, 20 * HOURS]
    values = (values - values[: ends[0]].mean(0)) / values[: ends[0]].std(0)
    parts = []
    for begin, end in zip([0, ends[0] - KNOWN, ends[1] - KNOWN], ends, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(values[begin:end], KNOWN + horizon, axis=0).swapaxes(1, 2)
        parts.append((windows[:, :KNOWN], windows[:, KNOWN:]))
    train, validation, test = parts
    return Data(*train, *test, validation=validation)


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
