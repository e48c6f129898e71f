"""Gates on the two paths of each block, so that a net is edited by numbers and compiled once.

A gated net computes H = b F + s h with b and s among its parameters: (1, 1) is a residual block,
(1, 0) a plain one, and (0, 1) a block of either kind that is taken out, its shortcut left.
"""

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet_jax.config import ModelConfig
from resnet_jax.models import shortcuts
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet

# Their names among the parameters of an addition.
BRANCH, SHORTCUT = "branch_gate", "shortcut_gate"


class GatedPaths(nnx.Module):
    """An addition whose two arguments pass gates first.

    Args:
        addition: of the block; a plain block gets an `Addition`.
        gates: of branch and shortcut, at first.
        gradient_only: values pass whatever the gates are, and gradients are multiplied by them.
    """

    def __init__(self, addition: nnx.Module, gates: tuple[float, float], *, gradient_only: bool):
        self.addition = addition
        self.gradient_only = gradient_only
        self.branch_gate, self.shortcut_gate = (
            nnx.Param(jnp.asarray(g, jnp.float32)) for g in gates
        )

    def __call__(
        self,
        branch: jax.Array,
        shortcut: jax.Array,
        x: jax.Array,
        keys: jax.Array | None,
        shortcut_scale: jax.Array | None,
    ) -> jax.Array:
        """As `shortcuts.Addition`."""
        paths = []
        for value, gate in ((branch, self.branch_gate), (shortcut, self.shortcut_gate)):
            factor = gate[...].astype(value.dtype)
            rest = jax.lax.stop_gradient((1 - factor) * value) if self.gradient_only else 0
            paths.append(factor * value + rest)
        added: jax.Array = self.addition(*paths, x, keys, shortcut_scale)
        return added


class Probed(nnx.Module):
    """A batch norm and zeros added to what it makes, whose gradient is that of its output.

    Args:
        norm: the layer.
        shape: of its output.
    """

    def __init__(self, norm: BatchNorm, shape: tuple[int, ...]):
        self.norm = norm
        self.probe = nnx.Param(jnp.zeros(shape, norm.numerics.param_dtype))

    def __call__(self, x: jax.Array, **how: Any) -> jax.Array:
        """As `BatchNorm`."""
        y = self.norm(x, **how)
        return y + self.probe[...].astype(y.dtype)


def gated(model: ResNet, config: ModelConfig, *, gradient_only: bool = False) -> ResNet:
    """A copy of a net whose blocks have gates; it computes the same until they are moved.

    A plain net's blocks get the option A shortcuts of its residual twin, which have no parameters,
    with their gates closed.

    Args:
        model: the net; it stays as it is.
        config: that it was built from.
        gradient_only: as in `GatedPaths`.
    """
    twin = dataclasses.replace(config, residual=True, shortcut="A", shortcut_transform="identity")
    net = nnx.clone(model)
    for block in (block for stage in net.stages for block in stage):
        gates = (1.0, 1.0)
        if block.shortcut is None:
            widths = block.convs[0].in_features, block.convs[-1].out_features
            stride = math.prod(int(conv.strides) for conv in block.convs)  # type: ignore[arg-type, misc]
            block.shortcut = nnx.data(
                shortcuts.shortcut(
                    twin, *widths, stride, net.numerics, nnx.Rngs(0), normalized=False
                )
            )
            block.addition = nnx.data(shortcuts.Addition())
            gates = (1.0, 0.0)
        assert block.addition is not None
        # In place of an addition: it is called alike.
        block.addition = cast(
            shortcuts.Addition, GatedPaths(block.addition, gates, gradient_only=gradient_only)
        )
        block.norm_adds = False  # what is gated cannot be had in one pass
    return net


Place = tuple[int, int]


def places(params: Any) -> list[Place]:
    """(stage, block) of each block, counted from 0, from the stem to the head."""
    return [(s, b) for s, blocks in sorted(params["stages"].items()) for b in sorted(blocks)]


def changes_shape(params: Any, place: Place) -> bool:
    """Whether a block halves the feature map or has more channels than its input."""
    stage, block = place
    convs = params["stages"][stage][block]["convs"]
    before, after = convs[0]["kernel"].shape[2], convs[max(convs)]["kernel"].shape[3]
    return (stage > 0 and block == 0) or before != after


def with_gates(params: Any, taken_out: Any) -> Any:
    """A gated net's parameters with some blocks taken out: their branches shut, shortcuts open.

    Args:
        params: of a gated net, with no block taken out.
        taken_out: places of blocks.
    """
    changed = with_own_dicts(params)
    for stage, block in taken_out:
        addition = changed["stages"][stage][block]["addition"]
        addition[BRANCH], addition[SHORTCUT] = np.float32(0), np.float32(1)
    return changed


def with_own_dicts(tree: Any) -> Any:
    """The same nested dict with dicts of its own; the arrays are shared."""
    return jax.tree.map(lambda leaf: leaf, tree)
