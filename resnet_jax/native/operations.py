"""The extension's operations as JAX functions with gradients.

Call them only where `library.suits` says so. They work under `jit`, `grad`, `checkpoint`,
`shard_map` and `pmap`; a `vmap` with batched arguments calls them once an element.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _call(
    name: str, results: jax.ShapeDtypeStruct | tuple[jax.ShapeDtypeStruct, ...], *arrays: jax.Array
) -> functools.partial[Any]:
    call = jax.ffi.ffi_call(f"resnet_jax_{name}", results, vmap_method="sequential")
    return functools.partial(call, *arrays)


def _like(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: jax.Array, weights: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolves images, float32 or bfloat16; sums are float32 in both.

    Args:
        x: [batch, height, width, in].
        weights: [kernel height, kernel width, in, out], of x's dtype.
        stride: in pixels, both ways.
        padding: zeros on each of the four sides, in pixels.

    Returns:
        [batch, (height + 2 padding - kernel height) // stride + 1, likewise, out].
    """
    rows, columns = (
        (size + 2 * padding - kernel) // stride + 1
        for size, kernel in zip(x.shape[1:3], weights.shape[:2], strict=True)
    )
    y = jax.ShapeDtypeStruct((x.shape[0], rows, columns, weights.shape[3]), x.dtype)
    result: jax.Array = _call("convolution_forward", y, x, weights)(**_geometry(stride, padding))
    return result


def _geometry(stride: int, padding: int) -> dict[str, np.int64]:
    return {"stride": np.int64(stride), "padding": np.int64(padding)}


def _convolution_forward(
    x: jax.Array, weights: jax.Array, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(x, weights, stride, padding), (x, weights)


def _convolution_backward(
    stride: int, padding: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weights = saved
    geometry = _geometry(stride, padding)
    # Two calls, so that XLA drops the one whose result nobody reads, as at the stem.
    dx = _call("convolution_backward_data", _like(x), dy, weights)(**geometry)
    dw = _call("convolution_backward_weights", _like(weights), x, dy)(**geometry)
    return dx, dw


convolution.defvjp(_convolution_forward, _convolution_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    added: jax.Array | None,
    epsilon: float,
    relu: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the batch's own statistics; then adds, then ReLU, each if asked for.

    Args:
        x: [batch, height, width, channels], float32 or bfloat16.
        scale: float32 [channels].
        shift: float32 [channels].
        added: of x's shape and dtype, or None.
        epsilon: added to the variance.
        relu: whether negative results become zero.

    Returns:
        y of x's shape and dtype, mean and biased variance, float32 [channels]. The two are for
        running statistics: gradients do not flow through them.
    """
    extra = jnp.zeros(0, x.dtype) if added is None else added
    results = (_like(x), _like(scale), _like(scale))
    call = _call("batch_norm_forward", results, x, extra, scale, shift)
    y, mean, variance = call(epsilon=np.float32(epsilon), relu=relu)
    return y, mean, variance


def _batch_norm_forward(
    x: jax.Array, scale: jax.Array, shift: jax.Array, added: jax.Array | None, *how: Any
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[Any, ...]]:
    epsilon, relu = how
    y, mean, variance = batch_norm(x, scale, shift, added, epsilon, relu)
    # Where y is positive tells where ReLU was open; without ReLU it need not be kept.
    return (y, mean, variance), (x, y if relu else None, scale, mean, variance, added)


def _batch_norm_backward(
    epsilon: float,
    relu: bool,
    saved: tuple[Any, ...],
    cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    x, y, scale, mean, variance, added = saved
    dy = cotangents[0]
    # Without ReLU the gradient of what was added is dy itself.
    masks = relu and added is not None
    extra = _like(x) if masks else jax.ShapeDtypeStruct((0,), x.dtype)
    results = (_like(x), extra, _like(scale), _like(scale))
    output = x if y is None else y
    call = _call("batch_norm_backward", results, dy, x, output, scale, mean, variance)
    dx, dadded, dscale, dshift = call(epsilon=np.float32(epsilon), relu=relu)
    if added is None:
        return dx, dscale, dshift, None
    return dx, dscale, dshift, dadded if masks else dy


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
