"""A block whose branch is a constant, computed a second time, as the config describes it.

Nothing here calls the code of `models`. Making F a constant leaves of a block what its shortcut
does, in value and, by differentiating this, in derivative.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.analysis import expected
from resnet_jax.analysis.expected import Place
from resnet_jax.config import ModelConfig

# What annealed shortcuts are probed with: any number that no other sum would give.
PROBED_SCALE = 0.375


def silenced(config: ModelConfig, values: Any, constant: np.ndarray) -> tuple[Any, np.ndarray]:
    """Sets a block's values so that its branch is the same for any input.

    Where BN ends the branch, the last kernel is zero and that BN's bias the constant. Elsewhere the
    BN before the last convolution has scale zero and bias one in all channels, and the last kernel
    only its central pixel, from the first of these channels.

    Args:
        config: of the net.
        values: of the block, nested dict of NumPy arrays; left as it is.
        constant: for each channel, [width].

    Returns:
        The changed values, and F as it enters the sum, [width].
    """
    values = jax.tree.map(np.copy, values)
    convs, norms = _in_order(values["convs"]), _in_order(values["norms"])
    kernel = convs[-1]["kernel"]
    kernel[...] = 0
    if expected.branch_ends_in_norm(config):
        norms[-1]["bias"][...], norms[-1]["mean"][...] = constant, 0
        rectified = config.activation_order == "relu_before_addition"
        return values, np.maximum(constant, 0) if rectified else constant
    before = norms[-2] if config.activation_order == "bn_after_addition" else norms[-1]
    before["scale"][...], before["bias"][...] = 0, 1
    side = kernel.shape[0] // 2
    kernel[side, side, 0] = constant
    return values, constant


def output(
    config: ModelConfig, place: Place, values: Any, branch: jax.Array, x: jax.Array, key: jax.Array
) -> jax.Array:
    """The block's output where its branch is a constant.

    Args:
        config: of the net.
        place: of the block.
        values: of the block, for BN, projections and gates.
        branch: F, [width].
        x: the block's input, [batch, height, width, channels].
        key: one for each image [batch] in training; without images in evaluation, [0].
    """
    training = key.size > 0
    norms = _in_order(values["norms"])
    start = x
    if expected.activates_first(config, place):
        bn_too = config.activation_order == "full_preactivation"
        start = jnp.maximum(_norm(config, norms[0], x, training) if bn_too else x, 0)
    f = jnp.broadcast_to(branch, (*_every(start, place.stride).shape[:3], place.width))
    kind = expected.shortcut_kind(config, place)
    if kind != "none":
        h = _shortcut(config, place, values, start, training)
        f = _sum(config, place, values, f, h, start, key)
    if config.activation_order == "bn_after_addition":
        f = _norm(config, norms[-1], f, training)
    is_last = config.activation_order in ("original", "bn_after_addition")
    return jnp.maximum(f, 0) if is_last else f


def _shortcut(
    config: ModelConfig, place: Place, values: Any, x: jax.Array, training: bool
) -> jax.Array:
    kind, taken = expected.shortcut_kind(config, place), _every(x, place.stride)
    if kind == "identity":
        return x
    if kind == "zero-pad":
        first = (place.width - place.in_width) // 2 if config.zero_padding == "both" else 0
        padded = jnp.zeros((*taken.shape[:3], place.width), x.dtype)
        return padded.at[..., first : first + place.in_width].set(taken)
    projected = jnp.einsum("bhwi,io->bhwo", taken, values["shortcut"]["conv"]["kernel"][0, 0])
    if expected.branch_ends_in_norm(config):
        return _norm(config, values["shortcut"]["norm"], projected, training)
    return projected


def _sum(
    config: ModelConfig,
    place: Place,
    values: Any,
    f: jax.Array,
    h: jax.Array,
    start: jax.Array,
    key: jax.Array,
) -> jax.Array:
    transform = config.shortcut_transform
    if transform == "constant_scaling":
        return config.branch_scale * f + config.shortcut_scale * h
    if transform == "annealed_scaling":
        return config.branch_scale * f + PROBED_SCALE * h
    if expected.is_gated(config):
        gate = values["addition"]["gate"]
        score = jnp.einsum("bhwi,io->bhwo", _every(start, place.stride), gate["kernel"][0, 0])
        g = 1 / (1 + jnp.exp(-score - gate["bias"]))
        return (g * f if transform == "exclusive_gating" else f) + (1 - g) * h
    if transform == "dropout" and key.size:
        kept = 1 - config.shortcut_dropout
        # Each block's masks are those of its position, which the check sets to 0 in all of them.
        own = [jax.random.fold_in(one, 0) for one in key]
        masks = jnp.stack([jax.random.bernoulli(k, kept, h.shape[1:]) for k in own])
        return f + jnp.where(masks, h / kept, 0)
    return f + h


def _norm(config: ModelConfig, values: Any, x: jax.Array, training: bool) -> jax.Array:
    mean, variance = values["mean"], values["variance"]
    if training and config.batch_norm != "frozen":
        mean = x.mean((0, 1, 2))
        variance = ((x - mean) ** 2).mean((0, 1, 2))
    deviation = jnp.sqrt(variance + config.batch_norm_epsilon)
    y: jax.Array = values["scale"] * ((x - mean) / deviation) + values["bias"]
    return y


def _every(x: jax.Array, stride: int) -> jax.Array:
    return x[:, ::stride, ::stride]


def _in_order(layers: Any) -> list[Any]:
    return [layers[i] for i in sorted(layers)]


def with_gradient(
    f: Callable[[jax.Array], jax.Array], x: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """f(x), and the gradient with respect to x that `cotangent` comes back as."""
    y, back = jax.vjp(f, x)
    if y.shape != cotangent.shape:  # which the comparison will tell
        return y, jnp.zeros_like(x)
    return y, back(cotangent)[0]
