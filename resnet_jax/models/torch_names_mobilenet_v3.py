"""A MobileNetV3's arrays under the names of torchvision and of timm."""

import itertools
from collections.abc import Iterator

from resnet_jax.errors import InputError
from resnet_jax.models.mobilenet_v3 import ROWS, InvertedResidual, Layer, MobileNetV3
from resnet_jax.models.torch_arrays import Target, convolution, linear, norm, pointwise, vector

# What is added to a variance in the nets that have these names. It is no part of a file. (timm's
# nets called tf_... have another one, and another padding: another function.)
EPSILON = {"torchvision": 1e-3, "timm": 1e-5}
PARTS = ("expansion", "depthwise", "squeeze", "projection")


def namings(model: MobileNetV3) -> tuple[str, ...]:
    """Both, those of the net's own epsilon first."""
    own = model.numerics.epsilon
    return tuple(sorted(EPSILON, key=lambda naming: EPSILON[naming] != own))


def require_epsilon(model: MobileNetV3, naming: str) -> None:
    """Refuses names whose nets add something else to a variance.

    Raises:
        InputError: if the net's epsilon differs from theirs.
    """
    own, theirs = model.numerics.epsilon, EPSILON[naming]
    if own != theirs:
        raise InputError(
            f"config.model.batch_norm_epsilon={own:g} is not that of the nets that have {naming}'s "
            f"names of a MobileNetV3, and their files do not say it; use {theirs:g}"
        )


def timm_places(variant: str) -> list[tuple[int, int]]:
    """Stage and block of each block, in order: timm's stages are of blocks of one width."""
    groups = itertools.groupby(ROWS[variant], lambda row: row.width)
    return [(s, b) for s, (_, rows) in enumerate(groups) for b, _ in enumerate(rows)]


def targets(model: MobileNetV3, naming: str) -> Iterator[Target]:
    """All arrays, running statistics included."""
    blocks = [block for stage in model.stages for block in stage]
    yield from (_torchvision if naming == "torchvision" else _timm)(model, blocks)


def _torchvision(model: MobileNetV3, blocks: list[InvertedResidual]) -> Iterator[Target]:
    yield convolution("features.0.0", model.stem_conv)
    yield from norm("features.0.1", model.stem_norm)
    for number, block in enumerate(blocks, 1):
        present = [part for part in PARTS if getattr(block, part) is not None]
        for place, part in enumerate(present):
            prefix = f"features.{number}.block.{place}"
            if part == "squeeze":
                yield from _squeeze(block, f"{prefix}.fc1", f"{prefix}.fc2")
            else:
                yield from _layer(getattr(block, part), f"{prefix}.0", f"{prefix}.1")
    last = f"features.{len(blocks) + 1}"
    yield convolution(f"{last}.0", model.final_conv)
    yield from norm(f"{last}.1", model.final_norm)
    yield from linear("classifier.0", model.hidden[0])
    yield from linear("classifier.3", model.head)


def _timm(model: MobileNetV3, blocks: list[InvertedResidual]) -> Iterator[Target]:
    yield convolution("conv_stem", model.stem_conv)
    yield from norm("bn1", model.stem_norm)
    places = timm_places(model.variant)
    for (stage, number), block in zip(places, blocks, strict=True):
        prefix = f"blocks.{stage}.{number}"
        # Without an expansion, the bottleneck has the name that the expansion has elsewhere.
        layers = {"conv_dw": block.depthwise, "conv_pw": block.projection}
        if block.expansion is not None:
            layers = {
                "conv_pw": block.expansion,
                "conv_dw": block.depthwise,
                "conv_pwl": block.projection,
            }
        for i, (name, layer) in enumerate(layers.items(), 1):
            yield from _layer(layer, f"{prefix}.{name}", f"{prefix}.bn{i}")
        if block.squeeze is not None:
            yield from _squeeze(block, f"{prefix}.se.conv_reduce", f"{prefix}.se.conv_expand")
    last = f"blocks.{places[-1][0] + 1}.0"
    yield convolution(f"{last}.conv", model.final_conv)
    yield from norm(f"{last}.bn1", model.final_norm)
    yield from pointwise("conv_head", model.hidden[0])
    yield from linear("classifier", model.head)


def _layer(layer: Layer, conv: str, batch_norm: str) -> Iterator[Target]:
    yield convolution(conv, layer.conv)
    yield from norm(batch_norm, layer.norm)


def _squeeze(block: InvertedResidual, *names: str) -> Iterator[Target]:
    assert block.squeeze is not None
    for name, conv in zip(names, (block.squeeze.reduce, block.squeeze.expand), strict=True):
        assert conv.bias is not None
        yield convolution(name, conv)
        yield vector(f"{name}.bias", conv.bias)
