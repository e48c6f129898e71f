"""The parts of a residual net: batch normalisation, the three shortcuts, and one block.

A plain block is the same class with `shortcut=None`: the code has no second path that could drift.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from resnet_jax.config import ModelConfig

# He et al. 2015 (arXiv 1502.01852), eq. 10, in its backward form; Flax's own default is LeCun's.
HE_NORMAL = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class Numerics:
    """What all layers of one net share.

    Attributes:
        dtype: of activations. Parameters and statistics are float32, or float64 with float64.
        axis_name: mapped device axis over which batch statistics are averaged, or None.
        decay: of the running statistics, new = decay * old + (1 - decay) * batch.
        epsilon: added to the variance.
    """

    dtype: Any
    axis_name: str | None
    decay: float
    epsilon: float

    @classmethod
    def of(cls, config: ModelConfig, axis_name: str | None) -> "Numerics":
        """Reads them from the config; local batch norm has no axis to average over."""
        return cls(
            dtype=jnp.dtype(config.dtype),
            axis_name=axis_name if config.batch_norm == "synced" else None,
            decay=config.batch_norm_decay,
            epsilon=config.batch_norm_epsilon,
        )

    @property
    def param_dtype(self) -> Any:
        """At least float32: bfloat16 would lose small updates and small batch statistics."""
        return self.dtype if self.dtype == jnp.float64 else jnp.dtype(jnp.float32)


def convolution(
    in_width: int, width: int, kernel: int, stride: int, numerics: Numerics, rngs: nnx.Rngs
) -> nnx.Conv:
    """A convolution without bias (BN follows it), padded symmetrically.

    'SAME' would pad (0, 1) at stride 2, which is neither the papers' nor PyTorch's convention.
    """
    side = kernel // 2
    return nnx.Conv(
        in_width,
        width,
        kernel_size=(kernel, kernel),
        strides=stride,
        padding=((side, side), (side, side)),
        use_bias=False,
        kernel_init=HE_NORMAL,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Batch normalisation with the running statistics of Caffe and PyTorch.

    Flax's layer keeps the biased batch variance, while the papers' Caffe and PyTorch correct it by
    n / (n - 1) for the running statistic; at 8x8 stages with 128 images that is 1e-4 relative.
    Statistics are computed in `param_dtype` whatever the activations are.

    Reference: Ioffe and Szegedy 2015 (arXiv 1502.03167), Alg. 1 and 2.
    """

    def __init__(self, width: int, numerics: Numerics):
        self.scale = nnx.Param(jnp.ones(width, numerics.param_dtype))
        self.bias = nnx.Param(jnp.zeros(width, numerics.param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros(width, numerics.param_dtype))
        self.variance = nnx.BatchStat(jnp.ones(width, numerics.param_dtype))
        self.numerics = numerics

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises over all axes but the last.

        Args:
            x: [batch, height, width, channels].
            train: with the batch's statistics, updating the running ones; else with the latter.

        Returns:
            The same shape, in the net's dtype.
        """
        wide = x.astype(self.numerics.param_dtype)
        mean, variance = (
            self._batch_moments(wide) if train else (self.mean[...], self.variance[...])
        )
        factor = self.scale[...] * lax.rsqrt(variance + self.numerics.epsilon)
        return ((wide - mean) * factor + self.bias[...]).astype(self.numerics.dtype)

    def _batch_moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = tuple(range(x.ndim - 1))
        mean, square = x.mean(axes), (x * x).mean(axes)
        count = x.size // x.shape[-1]
        if self.numerics.axis_name:
            mean, square = lax.pmean((mean, square), self.numerics.axis_name)
            count = count * lax.psum(1, self.numerics.axis_name)
        variance = jnp.maximum(square - mean * mean, 0)  # rounding can push it below zero
        unbiased = variance * (count / max(count - 1, 1))
        keep, take = self.numerics.decay, 1 - self.numerics.decay
        self.mean[...] = keep * self.mean[...] + take * mean
        self.variance[...] = keep * self.variance[...] + take * unbiased
        return mean, variance


class IdentityShortcut(nnx.Module):
    """The block's input, unchanged."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns x."""
        return x


class ZeroPadShortcut(nnx.Module):
    """Option A: every `stride`-th pixel, and zeros for the new channels; no parameters.

    Reference: He et al. 2015 (arXiv 1512.03385), Sec. 3.3 and 4.1.
    """

    def __init__(self, in_width: int, width: int, stride: int, zero_padding: str):
        new = width - in_width
        before = new // 2 if zero_padding == "both" else 0
        self.stride = stride
        self.channels = (before, new - before)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / s, width / s, new channels]."""
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), self.channels))


class ProjectionShortcut(nnx.Module):
    """Options B and C: a 1x1 convolution, and BN unless the block is pre-activated.

    Reference: He et al. 2015, Sec. 3.3, eq. 2; He et al. 2016 (arXiv 1603.05027), Sec. 4.1.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        numerics: Numerics,
        *,
        normalized: bool,
        rngs: nnx.Rngs,
    ):
        self.conv = convolution(in_width, width, 1, stride, numerics, rngs)
        self.norm = BatchNorm(width, numerics) if normalized else None

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / s, width / s, new channels]."""
        x = self.conv(x)
        return x if self.norm is None else self.norm(x, train=train)


def shortcut(
    config: ModelConfig,
    in_width: int,
    width: int,
    stride: int,
    numerics: Numerics,
    rngs: nnx.Rngs,
) -> IdentityShortcut | ZeroPadShortcut | ProjectionShortcut:
    """The shortcut that `config.shortcut` prescribes for a block of this shape.

    Raises:
        ValueError: for an option other than A, B or C.
    """
    changes_shape = stride != 1 or in_width != width
    if config.shortcut not in ("A", "B", "C"):
        raise ValueError(f"model.shortcut must be 'A', 'B' or 'C', got {config.shortcut!r}")
    if config.shortcut == "C" or (config.shortcut == "B" and changes_shape):
        normalized = config.activation_order == "original"
        return ProjectionShortcut(
            in_width, width, stride, numerics, normalized=normalized, rngs=rngs
        )
    if changes_shape:
        return ZeroPadShortcut(in_width, width, stride, config.zero_padding)
    return IdentityShortcut()


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
    """One block, H(x) = F(x) + shortcut(x), or H(x) = F(x) in a plain net.

    original (He 2015, Fig. 2): F = conv BN ReLU conv BN, and a ReLU after the addition.
    full_preactivation (He 2016, Fig. 4e): F = BN ReLU conv BN ReLU conv, nothing after it.

    Args:
        config: of the net.
        in_width: channels of the input.
        width: channels of the output.
        stride: of the block, 1 or 2.
        first: the block follows the stem, which in a pre-activated net has done BN and ReLU
            already (He 2016, appendix: "the first activation right after conv1").
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
        first: bool,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        rows = branch_convolutions(config, in_width, width, stride)
        self.preactivated = config.activation_order == "full_preactivation"
        self.convs = nnx.List(
            convolution(inside, outside, kernel, step, numerics, rngs)
            for kernel, inside, outside, step in rows
        )
        norms = [BatchNorm(row[1 if self.preactivated else 2], numerics) for row in rows]
        # Where the shape changes, a pre-activated block activates before the paths split, so that
        # the shortcut too starts from normalised features (He 2016, appendix).
        self.activates_both = self.preactivated and (stride != 1 or in_width != width)
        self.stem_activated = self.preactivated and first
        self.norms = nnx.List(norms[1:] if self.stem_activated else norms)
        self.shortcut = (
            shortcut(config, in_width, width, stride, numerics, rngs) if config.residual else None
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / s, width / s, new channels]."""
        if not self.preactivated:
            return nnx.relu(self._add(self._branch(x, train), x, train))
        norms = list(self.norms)
        y = x if self.stem_activated else nnx.relu(norms.pop(0)(x, train=train))
        start = y if self.activates_both else x
        return self._add(self._preactivated_branch(y, norms, train), start, train)

    def _branch(self, x: jax.Array, train: bool) -> jax.Array:
        last = len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x), train=train)
            x = x if i == last else nnx.relu(x)
        return x

    def _preactivated_branch(self, x: jax.Array, norms: list[BatchNorm], train: bool) -> jax.Array:
        for conv, norm in zip(list(self.convs)[:-1], norms, strict=True):
            x = nnx.relu(norm(conv(x), train=train))
        return self.convs[-1](x)

    def _add(self, branch: jax.Array, x: jax.Array, train: bool) -> jax.Array:
        return branch if self.shortcut is None else branch + self.shortcut(x, train=train)
