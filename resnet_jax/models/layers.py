"""The layers that all nets are made of, and what the layers of one net share."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from resnet_jax.config import ModelConfig
from resnet_jax.native import library, operations

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
        frozen: whether training too normalises with the running statistics, and leaves them.
    """

    dtype: Any
    axis_name: str | None
    decay: float
    epsilon: float
    frozen: bool = False

    @classmethod
    def of(cls, config: ModelConfig, axis_name: str | None) -> "Numerics":
        """Reads them from the config; local batch norm has no axis to average over."""
        return cls(
            dtype=jnp.dtype(config.dtype),
            axis_name=axis_name if config.batch_norm == "synced" else None,
            decay=config.batch_norm_decay,
            epsilon=config.batch_norm_epsilon,
            frozen=config.batch_norm == "frozen",
        )

    @property
    def param_dtype(self) -> Any:
        """At least float32: bfloat16 would lose small updates and small batch statistics."""
        return self.dtype if self.dtype == jnp.float64 else jnp.dtype(jnp.float32)


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    **rest: Any,
) -> jax.Array:
    """The convolution of `convolution` below, by the CPU extension where it is at hand."""
    if library.suits(x, kernel):
        return operations.convolution(x, kernel, strides[0], padding[0][0])
    return lax.conv_general_dilated(x, kernel, strides, padding, **rest)


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
        conv_general_dilated=_convolve,
        use_bias=bias is not None,
        bias_init=nnx.initializers.constant(bias or 0.0),
        kernel_init=HE_NORMAL,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


def classifier(in_width: int, classes: int, numerics: Numerics, rngs: nnx.Rngs) -> nnx.Linear:
    """A fully connected layer that gives logits."""
    return nnx.Linear(
        in_width,
        classes,
        # He's formula for a layer that no ReLU follows: variance 1 / fan in.
        kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "normal"),
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

    def __call__(
        self, x: jax.Array, *, train: bool, relu: bool = False, added: jax.Array | None = None
    ) -> jax.Array:
        """Normalises over all axes but the last, then adds, then ReLU, each if asked for.

        What follows is done here because the CPU extension does all three in one pass.

        Args:
            x: [batch, height, width, channels].
            train: with the batch's statistics, updating the running ones; else, and where they are
                frozen, with the latter.
            relu: whether negative results become zero.
            added: to the normalised x, of its shape, in the net's dtype.

        Returns:
            The same shape, in the net's dtype.
        """
        train = train and not self.numerics.frozen
        if train and self._devices() == 1 and library.suits(x):
            scale, bias = self.scale[...], self.bias[...]
            y, mean, variance = operations.batch_norm(
                x, scale, bias, added, self.numerics.epsilon, relu
            )
            self._keep(mean, variance, x.size // x.shape[-1])
            return y
        wide = x.astype(self.numerics.param_dtype)
        mean, variance = (
            self._batch_moments(wide) if train else (self.mean[...], self.variance[...])
        )
        factor = self.scale[...] * lax.rsqrt(variance + self.numerics.epsilon)
        y = ((wide - mean) * factor + self.bias[...]).astype(self.numerics.dtype)
        if added is not None:
            y = y + added
        return nnx.relu(y) if relu else y

    def _devices(self) -> int:
        """How many devices' statistics are averaged."""
        return lax.axis_size(self.numerics.axis_name) if self.numerics.axis_name else 1

    def _batch_moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = tuple(range(x.ndim - 1))
        mean, square = x.mean(axes), (x * x).mean(axes)
        if self.numerics.axis_name:
            mean, square = lax.pmean((mean, square), self.numerics.axis_name)
        variance = jnp.maximum(square - mean * mean, 0)  # rounding can push it below zero
        self._keep(mean, variance, x.size // x.shape[-1] * self._devices())
        return mean, variance

    def _keep(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        """Lets the running statistics follow those of a batch of `count` values a channel."""
        unbiased = variance * (count / max(count - 1, 1))
        keep, take = self.numerics.decay, 1 - self.numerics.decay
        self.mean[...] = keep * self.mean[...] + take * mean
        self.variance[...] = keep * self.variance[...] + take * unbiased
