"""The networks of the benchmarks."""

import functools
from collections.abc import Callable
from typing import Any

import efficientnet
import keras
import sentences
from keras import layers


def mlp(shape: tuple[int, ...], classes: int, width: int = 256) -> keras.Model:
    """Two hidden layers of `width` units."""
    hidden = [layers.Dense(width, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input(shape), layers.Flatten(), *hidden, layers.Dense(classes)])


def resnet(shape: tuple[int, ...], classes: int, blocks: int, width: int = 1, stride: int = 1) -> keras.Model:
    """A residual network for small images: three stages of `blocks` blocks, of 16, 32 and 64 channels times `width`."""
    inputs = keras.Input(shape)
    x = _convolution(inputs, 16, stride)
    for stage, channels in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range(blocks):
            x = _block(x, channels, stride=2 if stage and not block else 1)
    x = layers.GlobalAveragePooling2D()(_norm_relu(x))
    return keras.Model(inputs, layers.Dense(classes)(x))


def transformer(shape: tuple[int, ...], classes: int) -> keras.Model:
    """An encoder of one block over tokens."""
    inputs = keras.Input(shape, dtype="int32")
    x = layers.Embedding(1000, 64)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 16, dropout=0.1)(x, x))
    hidden = layers.Dense(128, activation="relu")(x)
    x = layers.LayerNormalization()(x + layers.Dropout(0.1)(layers.Dense(64)(hidden)))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling1D()(x)))


class PlaceEmbedding(layers.Layer):
    """Adds to each word of a sentence what its place says."""

    def build(self, shape: tuple[int, ...]) -> None:
        """Create a vector for each place."""
        self.places = self.add_weight(shape=shape[1:], initializer="uniform", name="places")

    def call(self, words: Any) -> Any:
        """Of shape `(batch, places, width)`."""
        return words + self.places


def text(shape: tuple[int, ...], classes: int, width: int = 32) -> keras.Model:
    """Embeddings of words and of places, one layer of attention, and the mean over the words."""
    inputs = keras.Input(shape, dtype="int32")
    x = PlaceEmbedding()(layers.Embedding(sentences.WORDS, width)(inputs))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, width // 4)(x, x))
    x = layers.GlobalAveragePooling1D()(layers.Dense(64, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(classes)(x))


def columns(shape: tuple[int, ...], outputs: int) -> keras.Model:
    """A transformer of one block for a row of numbers, each of which is a token (arXiv 2106.11959)."""
    inputs = keras.Input(shape)
    x = layers.EinsumDense("bc,cd->bcd", (shape[0], 32), bias_axes="cd")(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(64, activation="relu")(x)))
    return keras.Model(inputs, layers.Dense(outputs)(layers.GlobalAveragePooling1D()(x)))


class SAMformer(keras.Model):
    """A transformer of one layer for time series, whose attention goes over the channels (arXiv 2402.10198).

    From `(batch, steps, channels)` to `(batch, horizon, channels)`.
    """

    def __init__(self, steps: int, channels: int, horizon: int) -> None:
        super().__init__()
        self.keys, self.queries = layers.Dense(16), layers.Dense(16)
        self.values, self.forecast = layers.Dense(steps), layers.Dense(horizon)
        self.scale = self.add_weight(shape=(channels,), initializer="ones", name="scale")
        self.shift = self.add_weight(shape=(channels,), initializer="zeros", name="shift")

    def call(self, x: Any) -> Any:
        """Forecast, from series that are normalized each by itself and scaled back at the end."""
        ops = keras.ops  # which legacy Keras, of which the other networks are built too, has not
        mean = ops.mean(x, axis=1, keepdims=True)
        deviation = ops.sqrt(ops.var(x, axis=1, keepdims=True) + 1e-5)
        z = ops.transpose((x - mean) / deviation * self.scale + self.shift, (0, 2, 1))
        attention = ops.softmax(ops.matmul(self.queries(z), ops.transpose(self.keys(z), (0, 2, 1))) / 4.0)
        z = self.forecast(z + ops.matmul(attention, self.values(z)))
        return (ops.transpose(z, (0, 2, 1)) - self.shift) / (self.scale + 1e-10) * deviation + mean


def _convolution(x: Any, channels: int, stride: int = 1, size: int = 3) -> Any:
    initializer = keras.initializers.HeNormal()
    return layers.Conv2D(channels, size, stride, "same", use_bias=False, kernel_initializer=initializer)(x)


def _norm_relu(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _block(x: Any, channels: int, stride: int) -> Any:
    """Normalization first, as in wide residual networks."""
    active = _norm_relu(x)
    same = stride == 1 and x.shape[-1] == channels
    shortcut = x if same else _convolution(active, channels, stride, size=1)
    y = _norm_relu(_convolution(active, channels, stride))
    return layers.Add()([shortcut, _convolution(y, channels)])


# Of the shape of a sample and of its target: a number of classes, or what a target has for a shape.
MODELS: dict[str, Callable[[tuple[int, ...], Any], keras.Model]] = {
    "mlp": mlp,
    "mlp64": functools.partial(mlp, width=64),
    "mlp512": functools.partial(mlp, width=512),
    "columns": columns,
    "text": text,
    "samformer": lambda shape, target: SAMformer(*shape, target[0]),
    "efficientnet": efficientnet.fine_tuned,
    "resnet8": lambda shape, classes: resnet(shape, classes, 1),
    "resnet8_half": lambda shape, classes: resnet(shape, classes, 1, stride=2),  # a quarter of the cost
    "resnet20": lambda shape, classes: resnet(shape, classes, 3),
    "resnet32": lambda shape, classes: resnet(shape, classes, 5),
    "wrn16_4": lambda shape, classes: resnet(shape, classes, 2, width=4),
}

# Of the step cost: the network, and the shape of its samples.
NETWORKS = {
    "mlp": (mlp, (64,)),
    "resnet20": (MODELS["resnet20"], (32, 32, 3)),
    "transformer": (transformer, (64,)),
}
