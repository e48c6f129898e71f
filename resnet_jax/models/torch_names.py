"""Under which names, and in which order of axes, PyTorch's state dicts keep a net's arrays."""

from collections.abc import Iterator

from flax import nnx

from resnet_jax.errors import InputError
from resnet_jax.models import torch_names_mobilenet_v3, torch_names_swin
from resnet_jax.models.blocks import Block
from resnet_jax.models.mobilenet_v3 import MobileNetV3
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shortcuts import GatedAddition, ProjectionShortcut
from resnet_jax.models.swin import Swin
from resnet_jax.models.torch_arrays import CONVOLUTION, Target, convolution, linear, norm, vector
from resnet_jax.models.vgg import SIDE, VGG

# What projections and the head of a ResNet are called; all else has one name. The widely used CIFAR
# nets of akamaster/pytorch_resnet_cifar10, and torchvision's, which timm and others share.
RESNET = {"akamaster": ("shortcut", "linear"), "torchvision": ("downsample", "fc")}
# timm has VGG's hidden layers as convolutions of 7x7 and 1x1 pixels.
VGG_HIDDEN = {
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
}
# How names of arrays end that are not weights: batch norm's count of batches for a mean over all of
# them, which neither side uses, and tables that Swin Transformers make of the windows' side.
NO_WEIGHTS = ("num_batches_tracked", "relative_position_index", "attn_mask")


def namings(model: nnx.Module) -> tuple[str, ...]:
    """The names that a net can have, those first under which it is written.

    Raises:
        InputError: if it has none.
    """
    if isinstance(model, VGG):
        return tuple(VGG_HIDDEN)
    if isinstance(model, MobileNetV3):
        return torch_names_mobilenet_v3.namings(model)
    if isinstance(model, Swin):
        return tuple(torch_names_swin.NAMINGS)
    if not isinstance(model, ResNet):
        raise InputError(f"no PyTorch names are known for a {type(model).__name__}")
    usual = "akamaster" if len(model.stages) == 3 else "torchvision"
    return (usual, *(naming for naming in RESNET if naming != usual))


def targets(model: nnx.Module, naming: str) -> Iterator[Target]:
    """All arrays of a net, running statistics included.

    Args:
        model: a net of one of `registry.FAMILIES`, not looped.
        naming: one of its `namings`.
    """
    if isinstance(model, VGG):
        yield from _vgg(model, naming)
    elif isinstance(model, MobileNetV3):
        yield from torch_names_mobilenet_v3.targets(model, naming)
    elif isinstance(model, Swin):
        yield from torch_names_swin.targets(model, naming)
    else:
        assert isinstance(model, ResNet)
        yield from _resnet(model, *RESNET[naming])


def require_same_function(model: nnx.Module, naming: str) -> None:
    """Refuses names under which a net of these weights computes something else.

    Raises:
        InputError: if the net's epsilon is not that of the nets of these names.
    """
    if isinstance(model, MobileNetV3):
        torch_names_mobilenet_v3.require_epsilon(model, naming)


def _resnet(model: ResNet, shortcut: str, head: str) -> Iterator[Target]:
    yield convolution("conv1", model.stem_conv)
    yield from norm("bn1", model.stem_norm)
    for s, stage in enumerate(model.stages, 1):
        for b, block in enumerate(stage):
            yield from _block(f"layer{s}.{b}", block, shortcut)
    if model.final_norm is not None:
        yield from norm("bn", model.final_norm)
    yield from linear(head, model.head)


def _block(prefix: str, block: Block, shortcut: str) -> Iterator[Target]:
    for i, conv in enumerate(block.convs, 1):
        yield convolution(f"{prefix}.conv{i}", conv)
    # A pre-activated first block has no norm before its first convolution.
    skipped = len(block.convs) - len(block.norms)
    for i, layer in enumerate(block.norms, 1 + skipped):
        yield from norm(f"{prefix}.bn{i}", layer)
    if isinstance(block.shortcut, ProjectionShortcut):
        yield convolution(f"{prefix}.{shortcut}.0", block.shortcut.conv)
        if block.shortcut.norm is not None:
            yield from norm(f"{prefix}.{shortcut}.1", block.shortcut.norm)
    if isinstance(block.addition, GatedAddition):
        gate = block.addition.gate
        assert gate.bias is not None
        yield convolution(f"{prefix}.gate", gate)
        yield vector(f"{prefix}.gate.bias", gate.bias)


def _vgg(model: VGG, naming: str) -> Iterator[Target]:
    place = 0  # in a list of convolutions, batch norms, ReLUs and max-pools
    for stage in model.stages:
        for one in stage:
            assert one.conv.bias is not None
            yield convolution(f"features.{place}", one.conv)
            yield vector(f"features.{place}.bias", one.conv.bias)
            if one.norm is not None:
                place += 1
                yield from norm(f"features.{place}", one.norm)
            place += 2
        place += 1
    *hidden, head = VGG_HIDDEN[naming]
    # The first one reads pixels: theirs is the outer order here, channels' in PyTorch.
    for name, layer, side in zip(hidden, model.hidden, (SIDE, 1), strict=True):
        inputs, outputs = layer.kernel.shape
        split = (side, side, inputs // side**2, outputs)
        shape = tuple(split[axis] for axis in CONVOLUTION)
        if naming == "torchvision":
            shape = (outputs, inputs)
        yield Target(f"{name}.weight", layer.kernel, split, CONVOLUTION, shape)
        assert layer.bias is not None
        yield vector(f"{name}.bias", layer.bias)
    yield from linear(head, model.head)
