"""The nets of blocks, plain or residual: those of the papers for CIFAR and for ImageNet."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_jax.config import ModelConfig, stage_sizes
from resnet_jax.models.blocks import ORDERS, Block
from resnet_jax.models.layers import BatchNorm, Numerics, classifier, convolution, max_pool
from resnet_jax.models.parts import HEAD, POOLING, Part, PartedNet, of_stages
from resnet_jax.models.repeated import UNROLLED, Loop, Repetition, through


class Layout(NamedTuple):
    """What families of these nets differ in, beside the number of blocks.

    Attributes:
        widths: of the stages, four times as wide outside bottlenecks; the stem has the first.
        stem_kernel: of the stem's convolution, in pixels.
        stem_stride: of the same.
        pooled: whether the stem ends in a 3x3 max-pool with stride 2.
    """

    widths: tuple[int, ...]
    stem_kernel: int
    stem_stride: int
    pooled: bool


LAYOUTS = {
    "cifar_resnet": Layout((16, 32, 64), 3, 1, pooled=False),  # He 2015, Sec. 4.2
    "imagenet_resnet": Layout((64, 128, 256, 512), 7, 2, pooled=True),  # He 2015, Table 1
}


def layout(config: ModelConfig) -> Layout:
    """The configured family's, with the configured stem."""
    of_family = LAYOUTS[config.family]
    if config.stem == "3x3":
        return of_family._replace(stem_kernel=3, stem_stride=1, pooled=False)
    return of_family


class ResNet(PartedNet):
    """Stem, three or four stages, global average pooling, head.

    Works on images of any size and number of channels; all stages but the first halve the feature
    map. In the pre-activated orders the stem too is convolution, BN, ReLU and, if it has one,
    max-pool, and the first block is not activated again: He 2016, appendix, and its published code.

    Args:
        config: depth, block, shortcut, activation order, width.
        channels: of the images.
        num_classes: outputs of the head.
        axis_name: mapped device axis for synced batch norm, or None outside a mapped program.
        repetition: how blocks that are alike become a program.
        rngs: for the initial weights; a plain net and its option A twin draw the same ones.

    Raises:
        InputError: if the family has no net of this depth.

    Reference: He et al. 2015 (arXiv 1512.03385), Table 1 and Sec. 4.2; He et al. 2016 (arXiv
    1603.05027).
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
        numerics = Numerics.of(config, axis_name)
        of_family = layout(config)
        expansion = 4 if config.block == "bottleneck" else 1
        in_width = round(of_family.widths[0] * config.width)

        self.stem_conv = convolution(
            channels, in_width, of_family.stem_kernel, of_family.stem_stride, numerics, rngs
        )
        self.stem_norm = BatchNorm(in_width, numerics)
        self.stem_pooled = of_family.pooled
        stages, made = [], 0
        for index, size in enumerate(stage_sizes(config)):
            width = round(of_family.widths[index] * config.width) * expansion
            blocks = []
            for number in range(size):
                stride = 2 if index > 0 and number == 0 else 1
                blocks.append(
                    Block(
                        config,
                        in_width,
                        width,
                        stride,
                        position=made,
                        numerics=numerics,
                        rngs=rngs,
                    )
                )
                in_width, made = width, made + 1
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        # He 2016, appendix: "an extra activation right after" the last unit's addition, of the
        # kind that its next unit would have started with.
        final = ORDERS[config.activation_order].start
        self.final_norm = BatchNorm(in_width, numerics) if "BN" in final else None
        self.final_relu = "ReLU" in final
        self.head = classifier(in_width, num_classes, numerics, rngs)
        # Drawn last, so that the net beside them has the weights that it has without them.
        self.auxiliary_heads = nnx.List(
            classifier(stage[-1].convs[-1].out_features, num_classes, numerics, rngs)
            for stage in stages[:-1]
            if config.auxiliary_weight
        )
        self.numerics = numerics
        self.repetition = repetition
        self.has_dropout = config.has_dropout
        self.annealing = (config.shortcut_scale, config.shortcut_scale_end)
        # Kept with the running statistics, so that an evaluation uses the scale of the last step.
        self.shortcut_scale = (
            nnx.BatchStat(jnp.asarray(config.shortcut_scale, numerics.param_dtype))
            if config.is_annealed
            else None
        )

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        keys: jax.Array | None = None,
        progress: jax.Array | None = None,
    ) -> jax.Array:
        """As `PartedNet`, but for auxiliary heads.

        Returns:
            In training, of a net that has some, logits [batch, heads, classes], its own head's
            first; else as `PartedNet`.
        """
        logits = []
        heads = iter(self.auxiliary_heads if train else ())
        for part in self.parts(train=train, keys=keys, progress=progress):
            x = part.run(x)
            if part.name.startswith("stage") and (head := next(heads, None)):
                logits.append(head(nnx.relu(x).mean((1, 2))).astype(self.numerics.param_dtype))
        return jnp.stack([x, *logits], 1) if logits else x

    def _parts(
        self,
        *,
        train: bool,
        keys: jax.Array | None,
        progress: jax.Array | None,
        blocks: bool,
    ) -> list[Part]:
        if train and self.shortcut_scale is not None:
            self._anneal(progress)
        scale = None if self.shortcut_scale is None else self.shortcut_scale[...]
        how: Any = {"train": train, "keys": keys, "shortcut_scale": scale}
        found = [Part("stem", functools.partial(self._stem, train=train))]
        found += of_stages(self.stages, functools.partial(self._through, **how), blocks=blocks)
        if self.final_norm is not None or self.final_relu:
            found.append(Part("final activation", functools.partial(self._final, train=train)))
        found.append(Part(POOLING, lambda x: x.mean((1, 2))))
        found.append(Part(HEAD, lambda x: self.head(x).astype(self.numerics.param_dtype)))
        return found

    def _stem(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.asarray(x, self.numerics.dtype)
        x = self.stem_norm(self.stem_conv(x), train=train, relu=True)
        return max_pool(x, 3, 2, 1) if self.stem_pooled else x

    def _through(self, blocks: list[Any], x: jax.Array, **how: Any) -> jax.Array:
        """Maps x through blocks of one stage; only the first one may change its shape."""
        # With dropout each draws masks of its own.
        alike = [[b] for b in blocks] if self.has_dropout else [blocks[:1], blocks[1:]]
        for group in filter(None, alike):
            x = through(group, x, recompute=self.repetition.recompute, **how)
        return x

    def _final(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.final_norm is not None:
            return self.final_norm(x, train=train, relu=self.final_relu)
        return nnx.relu(x) if self.final_relu else x

    def looped(self) -> "ResNet":
        """The same net with the weights of blocks that are alike stacked; see `repeated`."""
        net = nnx.clone(self)
        stages: list[Any] = []
        for first, *rest in self.stages:
            stages.append(nnx.List([first, *map(Loop, filter(None, [rest]))]))
        net.stages = nnx.List(stages)
        return net

    def _anneal(self, progress: jax.Array | None) -> None:
        if progress is None:
            raise ValueError("an annealed net is trained with the run's progress, got None")
        assert self.shortcut_scale is not None
        start, end = self.annealing
        scale = (1 - progress) * start + progress * end  # exactly start, and in the end exactly end
        self.shortcut_scale[...] = jnp.asarray(scale, self.numerics.param_dtype)
