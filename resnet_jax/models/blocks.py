"""One block, basic or bottleneck, in the five orders of activation.

A plain block is the same class with `shortcut=None`: the code has no second path that could drift.
"""

from typing import NamedTuple

import jax
from flax import nnx

from resnet_jax.config import ModelConfig
from resnet_jax.models.layers import BatchNorm, Numerics, convolution
from resnet_jax.models.shortcuts import Addition, addition, shortcut


class Order(NamedTuple):
    """Where BN and ReLU stand; between two convolutions of a branch it is always BN, ReLU.

    Attributes:
        start: before the branch's first convolution, on the branch alone (pre-activation).
        end: after the branch's last convolution, before the addition.
        after: after the addition, on both paths.
    """

    start: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


# He 2016, Fig. 4: "All these units consist of the same components - only the orders are different".
ORDERS = {
    "original": Order(end=("BN",), after=("ReLU",)),  # Fig. 4a, and He 2015, Fig. 2
    "bn_after_addition": Order(after=("BN", "ReLU")),  # Fig. 4b
    "relu_before_addition": Order(end=("BN", "ReLU")),  # Fig. 4c: what F adds is never negative
    "relu_only_preactivation": Order(start=("ReLU",), end=("BN",)),  # Fig. 4d
    "full_preactivation": Order(start=("BN", "ReLU")),  # Fig. 4e
}


def branch_convolutions(
    config: ModelConfig, in_width: int, width: int, stride: int
) -> list[tuple[int, int, int, int]]:
    """The branch's convolutions as (kernel, in width, width, stride) rows.

    He 2015, Fig. 5: two 3x3 (basic), or 1x1, 3x3, 1x1 with a quarter of the block's width inside
    (bottleneck).
    """
    if config.block == "basic":
        return [(3, in_width, width, stride), (3, width, width, 1)]
    inner = width // 4
    first, middle = (stride, 1) if config.bottleneck_stride == "1x1" else (1, stride)
    return [(1, in_width, inner, first), (3, inner, inner, middle), (1, inner, width, 1)]


class Block(nnx.Module):
    """One block: H(x) = F(x) + h(x), or H(x) = F(x) in a plain net, activated as its `Order` says.

    Two rules of He 2016 (appendix) hold for both pre-activated orders. The first block leaves its
    first activation to the stem, which has just done it ("before splitting into two paths"). And
    where the shape changes, a block activates before the paths split, so that the shortcut too
    starts from activated features.

    Args:
        config: of the net.
        in_width: channels of the input.
        width: channels of the output.
        stride: of the block, 1 or 2.
        position: of the block in the net; 0 follows the stem.
        numerics: shared by the net's layers.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        config: ModelConfig,
        in_width: int,
        width: int,
        stride: int,
        *,
        position: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        rows = branch_convolutions(config, in_width, width, stride)
        self.order = ORDERS[config.activation_order]
        self.convs = nnx.List(
            convolution(inside, outside, kernel, step, numerics, rngs)
            for kernel, inside, outside, step in rows
        )
        changes_shape = stride != 1 or in_width != width
        self.activates_both = bool(self.order.start) and changes_shape
        self.stem_activated = bool(self.order.start) and position == 0
        # As many as convolutions, in order of application: before each of them, or after it.
        norm_first = "BN" in self.order.start
        norms = [BatchNorm(row[1 if norm_first else 2], numerics) for row in rows]
        self.norms = nnx.List(norms[1:] if norm_first and self.stem_activated else norms)
        self.shortcut = shortcut(
            config,
            in_width,
            width,
            stride,
            numerics,
            rngs,
            # Only where BN ends the branch. Elsewhere BN follows the addition, or starts a branch.
            normalized="BN" in self.order.end,
        )
        self.addition = (
            None
            if self.shortcut is None
            else addition(config, in_width, width, stride, numerics, rngs, position=position)
        )
        # F(x) + h(x) can be had in one pass with the BN that ends F, and with the ReLU after it.
        self.norm_adds = isinstance(self.addition, Addition) and self.order.end == ("BN",)

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        keys: jax.Array | None = None,
        shortcut_scale: jax.Array | None = None,
    ) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / s, width / s, new channels].

        Args:
            x: the block's input.
            train: normalise with the batch's statistics and update the running ones.
            keys: as in `shortcuts.Addition`.
            shortcut_scale: as in `shortcuts.Addition`.
        """
        norms = iter(self.norms)

        def activate(
            y: jax.Array, layers: tuple[str, ...], added: jax.Array | None = None
        ) -> jax.Array:
            if "BN" in layers:
                return next(norms)(y, train=train, relu="ReLU" in layers, added=added)
            return nnx.relu(y) if "ReLU" in layers else y

        y = x if self.stem_activated else activate(x, self.order.start)
        start = y if self.activates_both else x
        *inner, last = self.convs
        for conv in inner:
            y = activate(conv(y), ("BN", "ReLU"))
        y = last(y)
        if self.shortcut is None or self.addition is None:
            return activate(activate(y, self.order.end), self.order.after)
        carried = self.shortcut(start, train=train)
        if self.norm_adds:
            return activate(y, ("BN", *self.order.after), added=carried)
        y = self.addition(activate(y, self.order.end), carried, start, keys, shortcut_scale)
        return activate(y, self.order.after)
