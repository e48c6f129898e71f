"""The layers that all nets are made of, and what the layers of one net share."""

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
    in_width: int,
    width: int,
    kernel: int,
    stride: int,
    numerics: Numerics,
    rngs: nnx.Rngs,
    *,
    bias: float | None = None,
) -> nnx.Conv:
    """A convolution, padded symmetrically, with a bias of this initial value or (None) without.

    'SAME' would pad (0, 1) at stride 2, which is neither the papers' nor PyTorch's convention.
    """
    side = kernel // 2
    return nnx.Conv(
        in_width,
        width,
        kernel_size=(kernel, kernel),
        strides=stride,
        padding=((side, side), (side, side)),
        use_bias=bias is not None,
        bias_init=nnx.initializers.constant(bias or 0.0),
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
