"""Under which names, and in which order of axes, PyTorch's state dicts keep a net's arrays."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from flax import nnx

from resnet_jax.errors import InputError
from resnet_jax.models.blocks import Block
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shortcuts import GatedAddition, ProjectionShortcut
from resnet_jax.models.vgg import SIDE, VGG

# Of convolutions: height, width, in, out in Flax, and out, in, height, width in PyTorch.
CONVOLUTION = (3, 2, 0, 1)
# What projections and the head of a ResNet are called; all else has one name. The widely used CIFAR
# nets of akamaster/pytorch_resnet_cifar10, and torchvision's, which timm and others share.
RESNET = {"akamaster": ("shortcut", "linear"), "torchvision": ("downsample", "fc")}
# timm has VGG's hidden layers as convolutions of 7x7 and 1x1 pixels.
VGG_HIDDEN = {
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
}


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


def namings(model: nnx.Module) -> tuple[str, ...]:
    """The names that a net can have, those first under which it is written.

    Raises:
        InputError: if it has none.
    """
    if isinstance(model, VGG):
        return tuple(VGG_HIDDEN)
    if not isinstance(model, ResNet):
        raise InputError(f"no PyTorch names are known for a {type(model).__name__}")
    usual = "akamaster" if len(model.stages) == 3 else "torchvision"
    return (usual, *(naming for naming in RESNET if naming != usual))


def targets(model: nnx.Module, naming: str) -> Iterator[Target]:
    """All arrays of a net, running statistics included.

    Args:
        model: a `ResNet`, not looped, or a `VGG`.
        naming: one of its `namings`.
    """
    if isinstance(model, VGG):
        yield from _vgg(model, naming)
    else:
        assert isinstance(model, ResNet)
        yield from _resnet(model, *RESNET[naming])


def _resnet(model: ResNet, shortcut: str, head: str) -> Iterator[Target]:
    yield _convolution("conv1", model.stem_conv)
    yield from _norm("bn1", model.stem_norm)
    for s, stage in enumerate(model.stages, 1):
        for b, block in enumerate(stage):
            yield from _block(f"layer{s}.{b}", block, shortcut)
    if model.final_norm is not None:
        yield from _norm("bn", model.final_norm)
    yield from _linear(head, model.head)


def _block(prefix: str, block: Block, shortcut: str) -> Iterator[Target]:
    for i, conv in enumerate(block.convs, 1):
        yield _convolution(f"{prefix}.conv{i}", conv)
    # A pre-activated first block has no norm before its first convolution.
    skipped = len(block.convs) - len(block.norms)
    for i, norm in enumerate(block.norms, 1 + skipped):
        yield from _norm(f"{prefix}.bn{i}", norm)
    if isinstance(block.shortcut, ProjectionShortcut):
        yield _convolution(f"{prefix}.{shortcut}.0", block.shortcut.conv)
        if block.shortcut.norm is not None:
            yield from _norm(f"{prefix}.{shortcut}.1", block.shortcut.norm)
    if isinstance(block.addition, GatedAddition):
        gate = block.addition.gate
        assert gate.bias is not None
        yield _convolution(f"{prefix}.gate", gate)
        yield _vector(f"{prefix}.gate.bias", gate.bias)


def _vgg(model: VGG, naming: str) -> Iterator[Target]:
    place = 0  # in a list of convolutions, batch norms, ReLUs and max-pools
    for stage in model.stages:
        for layer in stage:
            assert layer.conv.bias is not None
            yield _convolution(f"features.{place}", layer.conv)
            yield _vector(f"features.{place}.bias", layer.conv.bias)
            if layer.norm is not None:
                place += 1
                yield from _norm(f"features.{place}", layer.norm)
            place += 2
        place += 1
    *hidden, head = VGG_HIDDEN[naming]
    # The first one reads pixels: theirs is the outer order here, channels' in PyTorch.
    for name, linear, side in zip(hidden, model.hidden, (SIDE, 1), strict=True):
        inputs, outputs = linear.kernel.shape
        split = (side, side, inputs // side**2, outputs)
        shape = tuple(split[axis] for axis in CONVOLUTION)
        if naming == "torchvision":
            shape = (outputs, inputs)
        yield Target(f"{name}.weight", linear.kernel, split, CONVOLUTION, shape)
        assert linear.bias is not None
        yield _vector(f"{name}.bias", linear.bias)
    yield from _linear(head, model.head)


def _convolution(name: str, conv: nnx.Conv) -> Target:
    split = conv.kernel.shape
    shape = tuple(split[axis] for axis in CONVOLUTION)
    return Target(f"{name}.weight", conv.kernel, split, CONVOLUTION, shape)


def _linear(name: str, linear: nnx.Linear) -> Iterator[Target]:
    inputs, outputs = linear.kernel.shape
    yield Target(f"{name}.weight", linear.kernel, (inputs, outputs), (1, 0), (outputs, inputs))
    assert linear.bias is not None
    yield _vector(f"{name}.bias", linear.bias)


def _vector(name: str, variable: nnx.Variable) -> Target:
    size = math.prod(variable.shape)
    return Target(name, variable, (size,), (0,), (size,))


def _norm(name: str, norm: BatchNorm) -> Iterator[Target]:
    yield _vector(f"{name}.weight", norm.scale)
    yield _vector(f"{name}.bias", norm.bias)
    yield _vector(f"{name}.running_mean", norm.mean)
    yield _vector(f"{name}.running_var", norm.variance)
