"""The CIFAR family: depth 6n + 2 with basic blocks, 9n + 2 with bottlenecks, plain or residual."""

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_jax.config import ModelConfig, blocks_per_stage
from resnet_jax.models.blocks import BatchNorm, Block, Numerics, convolution

STEM_WIDTH = 16
STAGE_WIDTHS = (16, 32, 64)  # He 2015, Sec. 4.2; four times as wide outside bottlenecks


class CifarResNet(nnx.Module):
    """Stem, three stages, global average pooling, head.

    Works on images of any size and number of channels; stages two and three halve the feature map.

    Args:
        config: depth, block, shortcut, activation order, width.
        channels: of the images.
        num_classes: outputs of the head.
        axis_name: mapped device axis for synced batch norm, or None outside a mapped program.
        rngs: for the initial weights; a plain net and its option A twin draw the same ones.

    Raises:
        InputError: if the depth fits no whole number of blocks.

    Reference: He et al. 2015 (arXiv 1512.03385), Sec. 4.2; He et al. 2016 (arXiv 1603.05027).
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        channels: int,
        num_classes: int,
        rngs: nnx.Rngs,
        axis_name: str | None = None,
    ):
        numerics = Numerics.of(config, axis_name)
        per_stage = blocks_per_stage(config.depth, config.block)
        expansion = 4 if config.block == "bottleneck" else 1
        in_width = round(STEM_WIDTH * config.width)
        preactivated = config.activation_order == "full_preactivation"

        self.stem_conv = convolution(channels, in_width, 3, 1, numerics, rngs)
        self.stem_norm = BatchNorm(in_width, numerics)
        stages = []
        for index, stage_width in enumerate(STAGE_WIDTHS):
            width = round(stage_width * config.width) * expansion
            blocks = []
            for position in range(per_stage):
                stride = 2 if index > 0 and position == 0 else 1
                first = index == 0 and position == 0
                blocks.append(
                    Block(
                        config, in_width, width, stride, first=first, numerics=numerics, rngs=rngs
                    )
                )
                in_width = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        # He 2016, appendix: "an extra activation right after" the last unit's addition.
        self.final_norm = BatchNorm(in_width, numerics) if preactivated else None
        self.head = nnx.Linear(
            in_width,
            num_classes,
            # He's formula for a layer that no ReLU follows: variance 1 / fan in.
            kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "normal"),
            dtype=numerics.dtype,
            param_dtype=numerics.param_dtype,
            rngs=rngs,
        )
        self.numerics = numerics

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Classifies images.

        Args:
            x: float [batch, height, width, channels], normalised.
            train: normalise with the batch's statistics and update the running ones.

        Returns:
            Logits [batch, classes], in float32 (float64 if the net is).
        """
        x = self.features(x, train=train).mean((1, 2))
        return self.head(x).astype(self.numerics.param_dtype)

    def features(self, x: jax.Array, *, train: bool) -> jax.Array:
        """The last feature map, [batch, height / 4, width / 4, channels], before pooling."""
        x = jnp.asarray(x, self.numerics.dtype)
        x = nnx.relu(self.stem_norm(self.stem_conv(x), train=train))
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
        return x if self.final_norm is None else nnx.relu(self.final_norm(x, train=train))
