"""Attention within the windows of a feature map, shifted or not, as Swin Transformers have it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from resnet_jax.models.layers import Numerics, fully_connected

WINDOW = 7  # Liu et al. 2021 (arXiv 2103.14030), Sec. 3.3: M
# Of weights and of the table of positions: the published code's "trunc_normal_(std=.02)", which
# cuts at +-2, a hundred deviations away.
DEVIATION = 0.02


@functools.cache
def relative_positions() -> np.ndarray:
    """For each two pixels of a window, the row of the table that their distance has.

    Returns:
        int [49, 49], query by key, in 0..168 = 13 * (row difference + 6) + column difference + 6.
    """
    rows, columns = np.divmod(np.arange(WINDOW**2), WINDOW)
    apart = [axis[:, None] - axis + WINDOW - 1 for axis in (rows, columns)]
    found: np.ndarray = apart[0] * (2 * WINDOW - 1) + apart[1]
    return found


@functools.cache
def shift_mask(height: int, width: int, shift: tuple[int, int]) -> np.ndarray:
    """What keeps pixels apart that only the cyclic shift has made neighbours (Fig. 4).

    Args:
        height: of the shifted map, in pixels, a multiple of the window's side.
        width: likewise.
        shift: in pixels, down and right.

    Returns:
        float [windows, 49, 49], query by key: 0, or -100 for pixels of which one was carried over.
    """
    carried = [np.arange(n) >= n - s for n, s in zip((height, width), shift, strict=True)]
    region: np.ndarray = 2 * carried[0][:, None] + carried[1]
    region = region.reshape(height // WINDOW, WINDOW, width // WINDOW, WINDOW)
    windows = region.transpose(0, 2, 1, 3).reshape(-1, WINDOW**2)
    return np.where(windows[:, :, None] == windows[:, None], 0.0, -100.0)


def window_attention(qkv: jax.Array, bias: jax.Array, shift: tuple[int, int]) -> jax.Array:
    """Multi-head attention of each window's pixels to one another.

    A function of its own name in traced programs, by which `receptive_field` knows it.

    Args:
        qkv: queries, keys and values one after the other, [batch, height, width, 3 * channels],
            with height and width multiples of the window's side.
        bias: added to the logits of each head, [heads, 49, 49].
        shift: of the windows, in pixels, down and right.

    Returns:
        [batch, height, width, channels].

    Reference: Liu et al. 2021, Sec. 3.2, eq. 4.
    """
    batch, height, width, _ = qkv.shape
    heads, pixels, _ = bias.shape
    if any(shift):
        qkv = jnp.roll(qkv, (-shift[0], -shift[1]), (1, 2))
    across = (height // WINDOW, WINDOW, width // WINDOW, WINDOW)
    parts = qkv.reshape(batch, *across, 3, heads, -1).transpose(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = parts.reshape(3, batch, -1, heads, pixels, parts.shape[-1])
    logits = jnp.einsum("bwhqc,bwhkc->bwhqk", q * q.shape[-1] ** -0.5, k).astype(bias.dtype) + bias
    if any(shift):
        logits += jnp.asarray(shift_mask(height, width, shift), bias.dtype)[:, None]
    weights = jax.nn.softmax(logits).astype(v.dtype)
    y = jnp.einsum("bwhqk,bwhkc->bwqhc", weights, v)
    y = y.reshape(batch, across[0], across[2], WINDOW, WINDOW, -1).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, height, width, -1)
    return jnp.roll(y, shift, (1, 2)) if any(shift) else y


_window_attention = jax.jit(window_attention, static_argnames="shift")


class Attention(nnx.Module):
    """Window attention with relative position bias, between two linear layers.

    Args:
        width: channels.
        heads: that they are divided among.
        shifted: whether the windows are moved by half their side.
        numerics: shared by the net's layers.
        rngs: for the initial weights.
    """

    def __init__(self, width: int, heads: int, shifted: bool, numerics: Numerics, rngs: nnx.Rngs):
        self.qkv = fully_connected(width, 3 * width, numerics, rngs, deviation=DEVIATION)
        self.output = fully_connected(width, width, numerics, rngs, deviation=DEVIATION)
        shape = ((2 * WINDOW - 1) ** 2, heads)
        drawn = nnx.initializers.normal(DEVIATION)(rngs.params(), shape, numerics.param_dtype)
        self.position_bias = nnx.Param(drawn)
        self.shifted = shifted

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the same shape.

        Maps are padded with zeros at the bottom and on the right to multiples of the window, and
        windows are not shifted along an axis that has one alone, as torchvision does both.
        """
        batch, height, width, channels = x.shape
        qkv = self._padded(self.qkv(x))
        down, right = (
            WINDOW // 2 if self.shifted and side > WINDOW else 0 for side in qkv.shape[1:3]
        )
        bias = self.position_bias[...][relative_positions()].transpose(2, 0, 1)
        y = _window_attention(qkv, bias, (down, right))
        return self.output(lax.slice(y, (0, 0, 0, 0), (batch, height, width, channels)))

    def _padded(self, qkv: jax.Array) -> jax.Array:
        """Queries, keys and values of padded maps.

        Those of a pixel of zeros are the linear layer's bias, and need no product: of a map of 2x2
        pixels, 45 of a window's 49 are such.
        """
        _, height, width, _ = qkv.shape
        below, right = -height % WINDOW, -width % WINDOW
        if not (below or right):
            return qkv
        assert self.qkv.bias is not None
        padded = jnp.pad(qkv, ((0, 0), (0, below), (0, right), (0, 0)))
        rows, columns = (np.arange(n + more) < n for n, more in ((height, below), (width, right)))
        inside = (rows[:, None] & columns)[..., None]
        return jnp.where(inside, padded, self.qkv.bias[...].astype(qkv.dtype))
