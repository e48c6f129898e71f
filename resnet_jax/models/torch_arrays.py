"""One array of a net, and its place in a PyTorch state dict; of each kind of layer, all of them."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from flax import nnx

from resnet_jax.models.layers import BatchNorm, LayerNorm

# Of convolutions: height, width, in, out in Flax, and out, in, height, width in PyTorch.
CONVOLUTION = (3, 2, 0, 1)


class Target(NamedTuple):
    """One array of a net, and its place in a state dict.

    Attributes:
        name: in the state dict.
        variable: of the net.
        split: the shape that the net's array is first brought to.
        axes: how its axes are then ordered.
        shape: what it has in the state dict.
    """

    name: str
    variable: nnx.Variable
    split: tuple[int, ...]
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def to_torch(self) -> np.ndarray:
        """The net's array as PyTorch has it."""
        array = np.asarray(self.variable[...]).reshape(self.split).transpose(self.axes)
        return np.ascontiguousarray(array.reshape(self.shape))

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's array, of `shape`, as the net has it."""
        permuted = array.reshape([self.split[axis] for axis in self.axes])
        return permuted.transpose(np.argsort(self.axes)).reshape(self.variable.shape)


def convolution(name: str, conv: nnx.Conv) -> Target:
    """The kernel; a bias, if there is one, is a `vector`."""
    split = conv.kernel.shape
    shape = tuple(split[axis] for axis in CONVOLUTION)
    return Target(f"{name}.weight", conv.kernel, split, CONVOLUTION, shape)


def linear(name: str, layer: nnx.Linear) -> Iterator[Target]:
    """The kernel, and the bias if there is one."""
    inputs, outputs = layer.kernel.shape
    yield Target(f"{name}.weight", layer.kernel, (inputs, outputs), (1, 0), (outputs, inputs))
    if layer.bias is not None:
        yield vector(f"{name}.bias", layer.bias)


def pointwise(name: str, layer: nnx.Linear) -> Iterator[Target]:
    """A fully connected layer that PyTorch has as a convolution of one pixel."""
    inputs, outputs = layer.kernel.shape
    split, shape = (1, 1, inputs, outputs), (outputs, inputs, 1, 1)
    yield Target(f"{name}.weight", layer.kernel, split, CONVOLUTION, shape)
    assert layer.bias is not None
    yield vector(f"{name}.bias", layer.bias)


def vector(name: str, variable: nnx.Variable) -> Target:
    """An array of one axis there, of as many values here."""
    size = math.prod(variable.shape)
    return Target(name, variable, (size,), (0,), (size,))


def norm(name: str, layer: BatchNorm) -> Iterator[Target]:
    """Scale, shift and both running statistics."""
    yield vector(f"{name}.weight", layer.scale)
    yield vector(f"{name}.bias", layer.bias)
    yield vector(f"{name}.running_mean", layer.mean)
    yield vector(f"{name}.running_var", layer.variance)


def layer_norm(name: str, layer: LayerNorm) -> Iterator[Target]:
    """Scale and shift."""
    yield vector(f"{name}.weight", layer.scale)
    yield vector(f"{name}.bias", layer.bias)
