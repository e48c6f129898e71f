"""Batch norms that note what passes them, forward and backward.

A net whose batch norms are replaced computes the same. What went forward is found among its
statistics after a call, and what went backward among the gradients with respect to its parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet


class Noted(nnx.BatchStat):
    """A number of the last call; kept with the running statistics, which leave a program too."""


@jax.custom_vjp
def tapped(x: jax.Array, tap: jax.Array) -> jax.Array:
    """x; the gradient with respect to the tap is the root mean square of x's own gradient."""
    return x


def _tapped_forward(x: jax.Array, tap: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, tap


def _tapped_backward(tap: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, _rms(dy).astype(tap.dtype)


tapped.defvjp(_tapped_forward, _tapped_backward)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32)))))


class RecordedNorm(nnx.Module):
    """A batch norm that notes its response, what is dead behind its ReLU, and its gradient.

    Attributes:
        response: standard deviation of what BN makes, before ReLU and addition (He et al. 2015,
            Sec. 4.2 and Fig. 7).
        activation: root mean square of what leaves the layer.
        dead: share of units (pixels of channels) that ReLU leaves at 0 for every image; NaN where
            ReLU does not follow at once, as at the end of a plain block.
        tap: its gradient is the root mean square of the loss's at what BN makes.
    """

    def __init__(self, norm: BatchNorm):
        self.norm = norm
        kind = norm.numerics.param_dtype
        self.response, self.activation, self.dead = (Noted(jnp.zeros((), kind)) for _ in range(3))
        self.tap = nnx.Param(jnp.zeros((), kind))

    def __call__(
        self, x: jax.Array, *, train: bool, relu: bool = False, added: jax.Array | None = None
    ) -> jax.Array:
        """As `BatchNorm`."""
        y = tapped(self.norm(x, train=train), self.tap[...])
        kind = self.response[...].dtype
        self.response[...] = jnp.std(y.astype(kind))
        if added is not None:
            y = y + added
        if relu:
            y = nnx.relu(y)
        dead = jnp.mean(jnp.all(y == 0, axis=0).astype(kind))
        self.dead[...] = dead if relu else jnp.full((), jnp.nan, kind)
        self.activation[...] = _rms(y).astype(kind)
        return y


def recorded(model: ResNet) -> ResNet:
    """A copy of a net with recorders in place of the batch norms on its main path."""
    return with_norms(model, RecordedNorm)


def with_norms(model: ResNet, kind: Callable[[BatchNorm], nnx.Module]) -> ResNet:
    """A copy of a net with others in place of the batch norms on its main path.

    Args:
        model: the net; it stays as it is.
        kind: makes another of each.
    """
    net: Any = nnx.clone(model)
    net.stem_norm = kind(net.stem_norm)
    for block in (block for stage in net.stages for block in stage):
        block.norms = nnx.List(map(kind, block.norms))
    if net.final_norm is not None:
        net.final_norm = kind(net.final_norm)
    changed: ResNet = net
    return changed


def put_in(recorded: Any, values: Any) -> Any:
    """Parameters or statistics of a recorded net, with the values of the net that was recorded.

    Args:
        recorded: of the recorded net; what its recorders have of their own stays.
        values: of the net itself.
    """
    if not isinstance(recorded, dict):
        return values
    if "norm" in recorded and "norm" not in values:
        return recorded | {"norm": values}
    return {key: put_in(value, values[key]) for key, value in recorded.items()}


def taken_out(recorded: Any, like: Any) -> Any:
    """The inverse: parameters, or gradients, of a recorded net as those of the net itself.

    Args:
        recorded: of the recorded net.
        like: parameters of the net itself.
    """
    if not isinstance(like, dict):
        return recorded
    if "norm" in recorded and "norm" not in like:
        recorded = recorded["norm"]
    return {key: taken_out(recorded[key], value) for key, value in like.items()}


Path = tuple[str | int, ...]


def layers(params: Any) -> list[tuple[str, Path, Path]]:
    """The convolutions from the stem on, each with its batch norm.

    That is the one after it, or before it in a block that starts with one.

    Args:
        params: of a recorded net.

    Returns:
        For each the name, and where the batch norm and the convolution stand in the parameters.
    """
    found: list[tuple[str, Path, Path]] = [("stem", ("stem_norm",), ("stem_conv",))]
    for s, stage in sorted(params["stages"].items()):
        for b, block in sorted(stage.items()):
            # A pre-activated first block has its first batch norm in the stem.
            skipped = len(block["convs"]) - len(block["norms"])
            for i in sorted(block["norms"]):
                place: Path = ("stages", s, b)
                found.append(
                    (
                        f"stage {s + 1}, block {b + 1}, layer {i + skipped + 1}",
                        (*place, "norms", i),
                        (*place, "convs", i + skipped),
                    )
                )
    return found


def at(tree: Any, path: Path) -> Any:
    """What stands at a place of a nested dict."""
    for key in path:
        tree = tree[key]
    return tree
