"""The VGG nets, with and without batch norm: plain nets of before the residual ones."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_jax.config import ModelConfig, stage_sizes
from resnet_jax.errors import InputError
from resnet_jax.models.layers import (
    BatchNorm,
    Numerics,
    classifier,
    convolution,
    dropout,
    fully_connected,
    max_pool,
)
from resnet_jax.models.parts import HEAD, Part, PartedNet
from resnet_jax.models.repeated import UNROLLED, Repetition

# Simonyan and Zisserman 2015 (arXiv 1409.1556), Table 1: filters of the stages, hidden units.
STAGE_WIDTHS, HIDDEN_WIDTH = (64, 128, 256, 512, 512), 4096
DROPOUT = 0.5  # Sec. 3.1, on both hidden layers
SIDE = 7  # of the last feature map, of images of 224 pixels
LEAST = 32  # pixels that five halvings leave one of


class Layer(nnx.Module):
    """A 3x3 convolution with a bias, BN if the net has it, and ReLU."""

    def __init__(
        self, in_width: int, width: int, numerics: Numerics, rngs: nnx.Rngs, *, normalized: bool
    ):
        self.conv = convolution(in_width, width, 3, 1, numerics, rngs, bias=0.0)
        self.norm = BatchNorm(width, numerics) if normalized else None

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, channels] to as many pixels of `width` channels."""
        x = self.conv(x)
        return nnx.relu(x) if self.norm is None else self.norm(x, train=train, relu=True)


class VGG(PartedNet):
    """Five stages that end in a max-pool, two hidden layers with dropout, head.

    Images of 224x224 come to the hidden layers as 7x7 pixels; of another size, they are averaged to
    7x7 first, as torchvision does it.

    Args:
        config: depth, width, batch norm.
        channels: of the images.
        num_classes: outputs of the head.
        axis_name: mapped device axis for synced batch norm, or None outside a mapped program.
        repetition: has to leave the program as it is, for there are no blocks that are alike.
        rngs: for the initial weights; biases start at zero.

    Raises:
        InputError: if there is no such net of this depth.

    Reference: Simonyan and Zisserman 2015 (arXiv 1409.1556), Sec. 2.1 and Table 1.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        channels: int,
        num_classes: int,
        rngs: nnx.Rngs,
        axis_name: str | None = None,
        repetition: Repetition = UNROLLED,
    ):
        if repetition != UNROLLED:
            raise ValueError(f"a VGG net has no blocks to repeat, got {repetition}")
        numerics = Numerics.of(config, axis_name)
        stages, width = [], channels
        for size, stage_width in zip(stage_sizes(config), STAGE_WIDTHS, strict=True):
            layers = []
            for _ in range(size):
                before, width = width, round(stage_width * config.width)
                normalized = config.batch_norm != "none"
                layers.append(Layer(before, width, numerics, rngs, normalized=normalized))
            stages.append(nnx.List(layers))
        self.stages = nnx.List(stages)
        hidden = round(HIDDEN_WIDTH * config.width)
        self.hidden = nnx.List(
            fully_connected(before, hidden, numerics, rngs)
            for before in (SIDE * SIDE * width, hidden)
        )
        self.head = classifier(hidden, num_classes, numerics, rngs)
        self.numerics = numerics
        self.repetition = repetition
        self.has_dropout = config.has_dropout

    def _parts(
        self,
        *,
        train: bool,
        keys: jax.Array | None,
        progress: jax.Array | None,
        blocks: bool,
    ) -> list[Part]:
        found = [
            Part(f"stage {number}", functools.partial(self._through, number, train=train))
            for number in range(1, len(self.stages) + 1)
        ]
        found.append(Part("pooling to 7x7", lambda x: average_pool(x, SIDE)))
        for number, layer in enumerate(self.hidden):
            run = functools.partial(self._hidden, layer, number, keys=keys)
            found.append(Part(f"hidden layer {number + 1}", run))
        found.append(Part(HEAD, lambda x: self.head(x).astype(self.numerics.param_dtype)))
        return found

    def _through(self, number: int, x: jax.Array, *, train: bool) -> jax.Array:
        if number == 1:
            require_large_enough(x.shape[1:3])
            x = jnp.asarray(x, self.numerics.dtype)
        for layer in self.stages[number - 1]:
            x = layer(x, train=train)
        return max_pool(x, 2, 2, 0)

    def _hidden(self, layer: Any, number: int, x: jax.Array, *, keys: Any) -> jax.Array:
        x = nnx.relu(layer(x.reshape(len(x), -1)))
        return x if keys is None else dropout(x, DROPOUT, keys, number)


def require_large_enough(image: Sequence[int]) -> None:
    """Refuses images of which the last stage leaves nothing.

    Args:
        image: their height and width, and whatever follows.

    Raises:
        InputError: if one is below 32 pixels.
    """
    height, width, *_ = image
    if min(height, width) < LEAST:
        raise InputError(
            f"images of {height}x{width} pixels are too small for config.model.family='vgg', which "
            f"halves them five times; use images of {LEAST}x{LEAST} or more, or another family"
        )


def average_pool(x: jax.Array, side: int) -> jax.Array:
    """Averages a feature map to so many pixels a side; a map of that size stays as it is.

    Row i is the mean of rows floor(i h / side) to ceil((i + 1) h / side) of h, columns likewise, as
    PyTorch's `AdaptiveAvgPool2d` takes them.

    Args:
        x: [batch, height, width, channels].
        side: rows and columns of the result.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length == side:
            continue
        cuts = [(i * length // side, -(-(i + 1) * length // side)) for i in range(side)]
        means = [jax.lax.slice_in_dim(x, *cut, axis=axis).mean(axis) for cut in cuts]
        x = jnp.stack(means, axis)
    return x
