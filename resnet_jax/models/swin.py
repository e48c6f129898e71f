"""Swin Transformers: attention within windows, which every second block shifts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from resnet_jax.config import ModelConfig, stage_sizes, swin_heads
from resnet_jax.models.layers import LayerNorm, Numerics, dropout, fully_connected
from resnet_jax.models.parts import HEAD, POOLING, Part, PartedNet, of_stages
from resnet_jax.models.repeated import UNROLLED, Repetition, through
from resnet_jax.models.windows import DEVIATION, Attention

# Liu et al. 2021 (arXiv 2103.14030), Sec. 3.1, and 3.3: alpha, of the MLP's hidden layer.
PATCH, EXPANSION = 4, 4
# Rate at which the last block's branches are dropped in training; Liu et al. 2021, Sec. A2.1.
STOCHASTIC_DEPTH = {"tiny": 0.2, "small": 0.3, "base": 0.5}


class Merging(nnx.Module):
    """Two by two pixels become one of twice the channels.

    Reference: Liu et al. 2021, Sec. 3.1, "patch merging".
    """

    def __init__(self, width: int, numerics: Numerics, rngs: nnx.Rngs):
        self.norm = LayerNorm(4 * width, numerics)
        self.reduction = fully_connected(
            4 * width, 2 * width, numerics, rngs, deviation=DEVIATION, bias=False
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to half of each side, odd ones padded with 0."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        # Down before right, as the published weights have their inputs.
        corners = [
            lax.slice(x, (0, row, column, 0), x.shape, (1, 2, 2, 1))
            for column in (0, 1)
            for row in (0, 1)
        ]
        return self.reduction(self.norm(jnp.concatenate(corners, -1)))


class Block(nnx.Module):
    """Attention and MLP, each after a layer norm and beside a shortcut; a stage's first one merges.

    Args:
        width: channels of the output.
        heads: of the attention.
        shifted: whether its windows are.
        merges: whether it starts with patch merging.
        rate: at which each of the two branches is dropped in training, image by image.
        position: of the block in the net.
        numerics: shared by the net's layers.
        rngs: for the initial weights.

    Reference: Liu et al. 2021, eq. 3 and Fig. 3b; Huang et al. 2016 (arXiv 1603.09382).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        shifted: bool,
        merges: bool,
        rate: float,
        position: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.merging = Merging(width // 2, numerics, rngs) if merges else None
        self.attention_norm = LayerNorm(width, numerics)
        self.attention = Attention(width, heads, shifted, numerics, rngs)
        self.mlp_norm = LayerNorm(width, numerics)
        inner = EXPANSION * width
        self.mlp_hidden = fully_connected(width, inner, numerics, rngs, deviation=DEVIATION)
        self.mlp_output = fully_connected(inner, width, numerics, rngs, deviation=DEVIATION)
        self.rate = rate
        self.position = position

    def __call__(self, x: jax.Array, *, train: bool, keys: jax.Array | None = None) -> jax.Array:
        """Maps [batch, height, width, channels] to its output.

        Args:
            x: the block's input.
            train: drop branches.
            keys: one for each image [batch], needed in training.
        """
        if self.merging is not None:
            x = self.merging(x)
        x = x + self._kept(self.attention(self.attention_norm(x)), 0, keys if train else None)
        hidden = jax.nn.gelu(self.mlp_hidden(self.mlp_norm(x)), approximate=False)
        return x + self._kept(self.mlp_output(hidden), 1, keys if train else None)

    def _kept(self, branch: jax.Array, number: int, keys: jax.Array | None) -> jax.Array:
        if keys is None or not self.rate:
            return branch
        return dropout(branch, self.rate, keys, 2 * self.position + number, whole=True)


class Swin(PartedNet):
    """Patch embedding, four stages of blocks, a final norm, global average pooling, head.

    Works on images of any size of 4 pixels or more, and any number of channels. Initial weights are
    those of the published code and torchvision: deviation 0.02 for linear layers and position
    biases, PyTorch's default (uniform, by fan in) for the patch embedding.

    Args:
        config: variant and width.
        channels: of the images.
        num_classes: outputs of the head.
        axis_name: of the mapped devices; nothing here depends on other images.
        repetition: how blocks become a program; they are not alike, so there is no loop.
        rngs: for the initial weights.

    Raises:
        InputError: if the width divides into no heads.

    Reference: Liu et al. 2021 (arXiv 2103.14030), Sec. 3 and Table 7.
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
            raise ValueError(f"blocks of a Swin Transformer are not alike, got {repetition}")
        numerics = Numerics.of(config, axis_name)
        width, heads = swin_heads(config)
        self.stem_conv = _embedding(channels, width, numerics, rngs)
        self.stem_norm = LayerNorm(width, numerics)
        sizes = stage_sizes(config)
        # Liu et al. 2021 leave it open how the rate grows; evenly from 0, as the published code.
        rates = np.linspace(0, STOCHASTIC_DEPTH[config.variant], sum(sizes)).tolist()
        stages: list[nnx.List[Block]] = []
        for index, size in enumerate(sizes):
            blocks = []
            for number in range(size):
                position = sum(sizes[:index]) + number
                blocks.append(
                    Block(
                        width * 2**index,
                        heads * 2**index,
                        shifted=number % 2 == 1,
                        merges=index > 0 and number == 0,
                        rate=rates[position],
                        position=position,
                        numerics=numerics,
                        rngs=rngs,
                    )
                )
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        last = width * 2 ** (len(sizes) - 1)
        self.final_norm = LayerNorm(last, numerics)
        self.head = fully_connected(last, num_classes, numerics, rngs, deviation=DEVIATION)
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
        run = functools.partial(self._through, train=train, keys=keys)
        return [
            Part("stem", self._stem),
            *of_stages(self.stages, run, blocks=blocks),
            Part("final norm", self.final_norm),
            Part(POOLING, lambda x: x.mean((1, 2))),
            Part(HEAD, lambda x: self.head(x).astype(self.numerics.param_dtype)),
        ]

    def _stem(self, x: jax.Array) -> jax.Array:
        return self.stem_norm(self.stem_conv(jnp.asarray(x, self.numerics.dtype)))

    def _through(self, blocks: list[Any], x: jax.Array, **how: Any) -> jax.Array:
        for block in blocks:
            x = through([block], x, recompute=self.repetition.recompute, **how)
        return x


def _embedding(channels: int, width: int, numerics: Numerics, rngs: nnx.Rngs) -> nnx.Conv:
    """Maps patches of 4x4 pixels to vectors; rows and columns that fill none are left out."""
    limit = (channels * PATCH**2) ** -0.5

    def uniform(key: Any, shape: Any, dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return nnx.Conv(
        channels,
        width,
        kernel_size=(PATCH, PATCH),
        strides=PATCH,
        padding="VALID",
        kernel_init=uniform,
        bias_init=uniform,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )
