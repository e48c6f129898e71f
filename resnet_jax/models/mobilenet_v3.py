"""MobileNetV3, large and small: inverted residual blocks of depthwise convolutions."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_jax.config import ModelConfig, stage_sizes
from resnet_jax.models.layers import (
    BatchNorm,
    Numerics,
    convolution,
    dropout,
    fully_connected,
)
from resnet_jax.models.parts import HEAD, POOLING, Part, PartedNet, of_stages
from resnet_jax.models.repeated import UNROLLED, Repetition, through


class Row(NamedTuple):
    """One block, as the paper's tables list it.

    Attributes:
        kernel: of the depthwise convolution, in pixels.
        expanded: channels of the depthwise convolution ("exp size").
        width: channels of the output ("#out").
        squeezed: whether it has squeeze and excitation ("SE").
        hard_swish: its nonlinearity, else ReLU ("NL").
        stride: of the depthwise convolution.
    """

    kernel: int
    expanded: int
    width: int
    squeezed: bool
    hard_swish: bool
    stride: int


# Howard et al. 2019 (arXiv 1905.02244), Tables 1 and 2.
ROWS = {
    "large": (
        Row(3, 16, 16, False, False, 1),
        Row(3, 64, 24, False, False, 2),
        Row(3, 72, 24, False, False, 1),
        Row(5, 72, 40, True, False, 2),
        Row(5, 120, 40, True, False, 1),
        Row(5, 120, 40, True, False, 1),
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 480, 112, True, True, 1),
        Row(3, 672, 112, True, True, 1),
        Row(5, 672, 160, True, True, 2),
        Row(5, 960, 160, True, True, 1),
        Row(5, 960, 160, True, True, 1),
    ),
    "small": (
        Row(3, 16, 16, True, False, 2),
        Row(3, 72, 24, False, False, 2),
        Row(3, 88, 24, False, False, 1),
        Row(5, 96, 40, True, True, 2),
        Row(5, 240, 40, True, True, 1),
        Row(5, 240, 40, True, True, 1),
        Row(5, 120, 48, True, True, 1),
        Row(5, 144, 48, True, True, 1),
        Row(5, 288, 96, True, True, 2),
        Row(5, 576, 96, True, True, 1),
        Row(5, 576, 96, True, True, 1),
    ),
}
STEM_WIDTH, HIDDEN_WIDTH = 16, {"large": 1280, "small": 1024}
DROPOUT = 0.2  # Sec. 6.1.1: "dropout of 0.8", which is the share that is kept


def divisible(channels: float) -> int:
    """The nearest multiple of 8, or the next one where that would be a tenth too small.

    As the published code of MobileNetV2 and V3 and torchvision's `_make_divisible` have it.
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


class Layer(nnx.Module):
    """A convolution without bias, BN, and hard-swish, ReLU or nothing."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int,
        stride: int,
        activation: str,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        groups: int = 1,
    ):
        self.conv = convolution(in_width, width, kernel, stride, numerics, rngs, groups=groups)
        self.norm = BatchNorm(width, numerics)
        self.activation = activation

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / s, width / s, new channels]."""
        x = self.norm(self.conv(x), train=train, relu=self.activation == "relu")
        return jax.nn.hard_swish(x) if self.activation == "hard_swish" else x


class SqueezeExcitation(nnx.Module):
    """Scales each channel by what all channels' means say of it.

    Reference: Hu et al. 2018 (arXiv 1709.01507), with the hard sigmoid of Howard et al. 2019,
    Sec. 5.3, at a quarter of the expanded channels.
    """

    def __init__(self, width: int, numerics: Numerics, rngs: nnx.Rngs):
        squeezed = divisible(width // 4)
        self.reduce = convolution(width, squeezed, 1, 1, numerics, rngs, bias=0.0)
        self.expand = convolution(squeezed, width, 1, 1, numerics, rngs, bias=0.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the same shape."""
        means = x.mean((1, 2), keepdims=True)
        return x * jax.nn.hard_sigmoid(self.expand(nnx.relu(self.reduce(means))))


class InvertedResidual(nnx.Module):
    """Expansion, depthwise convolution, squeeze and excitation, linear bottleneck, shortcut.

    The expansion is left out where it would not add channels, and the shortcut where the shape
    changes.

    Args:
        row: the block's, at the net's width.
        in_width: channels of the input.
        numerics: shared by the net's layers.
        rngs: for the initial weights.

    Reference: Howard et al. 2019 (arXiv 1905.02244), Fig. 4.
    """

    def __init__(self, row: Row, in_width: int, numerics: Numerics, rngs: nnx.Rngs):
        inner, activation = row.expanded, "hard_swish" if row.hard_swish else "relu"
        self.expansion = (
            Layer(in_width, inner, 1, 1, activation, numerics, rngs) if inner != in_width else None
        )
        self.depthwise = Layer(
            *(inner, inner, row.kernel, row.stride, activation, numerics, rngs), groups=inner
        )
        self.squeeze = SqueezeExcitation(inner, numerics, rngs) if row.squeezed else None
        self.projection = Layer(inner, row.width, 1, 1, "", numerics, rngs)
        self.has_shortcut = row.stride == 1 and in_width == row.width

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / s, width / s, new channels]."""
        y = x if self.expansion is None else self.expansion(x, train=train)
        y = self.depthwise(y, train=train)
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.projection(y, train=train)
        return x + y if self.has_shortcut else y


class MobileNetV3(PartedNet):
    """Stem, stages of inverted residual blocks, a last convolution, one hidden layer, head.

    Works on images of any size and number of channels. Initial weights are those of torchvision's
    reference: He-normal convolutions by fan out, fully connected layers with deviation 0.01.

    Args:
        config: variant, width, batch norm.
        channels: of the images.
        num_classes: outputs of the head.
        axis_name: mapped device axis for synced batch norm, or None outside a mapped program.
        repetition: how blocks become a program; they are not alike, so there is no loop.
        rngs: for the initial weights.

    Reference: Howard et al. 2019 (arXiv 1905.02244), Tables 1 and 2. The hidden layer has a bias
    and no BN, as the tables have it.
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
        if repetition.loop:
            raise ValueError(f"blocks of a MobileNetV3 are not alike, got {repetition}")
        numerics = Numerics.of(config, axis_name)
        width = divisible(STEM_WIDTH * config.width)
        self.stem_conv = convolution(channels, width, 3, 2, numerics, rngs)
        self.stem_norm = BatchNorm(width, numerics)
        rows = iter(ROWS[config.variant])
        stages = []
        for size in stage_sizes(config):
            blocks = []
            for _ in range(size):
                row = scaled(next(rows), config.width)
                blocks.append(InvertedResidual(row, width, numerics, rngs))
                width = row.width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        last, hidden = 6 * width, divisible(HIDDEN_WIDTH[config.variant] * config.width)
        self.final_conv = convolution(width, last, 1, 1, numerics, rngs)
        self.final_norm = BatchNorm(last, numerics)
        self.hidden = nnx.List([fully_connected(last, hidden, numerics, rngs, deviation=0.01)])
        self.head = fully_connected(hidden, num_classes, numerics, rngs, deviation=0.01)
        self.variant = config.variant
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
        run = functools.partial(self._through, train=train)
        return [
            Part("stem", functools.partial(self._stem, train=train)),
            *of_stages(self.stages, run, blocks=blocks),
            Part("final convolution", functools.partial(self._final, train=train)),
            Part(POOLING, lambda x: x.mean((1, 2))),
            Part("hidden layer 1", functools.partial(self._hidden, keys=keys)),
            Part(HEAD, lambda x: self.head(x).astype(self.numerics.param_dtype)),
        ]

    def _stem(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.asarray(x, self.numerics.dtype)
        return jax.nn.hard_swish(self.stem_norm(self.stem_conv(x), train=train))

    def _through(self, blocks: list[Any], x: jax.Array, *, train: bool) -> jax.Array:
        for block in blocks:
            x = through([block], x, recompute=self.repetition.recompute, train=train)
        return x

    def _final(self, x: jax.Array, *, train: bool) -> jax.Array:
        return jax.nn.hard_swish(self.final_norm(self.final_conv(x), train=train))

    def _hidden(self, x: jax.Array, *, keys: jax.Array | None) -> jax.Array:
        x = jax.nn.hard_swish(self.hidden[0](x))
        return x if keys is None else dropout(x, DROPOUT, keys, 0)


def scaled(row: Row, width: float) -> Row:
    """A row at a multiple of the published width."""
    return row._replace(
        expanded=divisible(row.expanded * width), width=divisible(row.width * width)
    )
