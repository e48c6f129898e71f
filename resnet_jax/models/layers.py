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
    """The convolution of `convolution` below, by whatever is fast where it runs."""
    groups = rest["feature_group_count"]
    if groups == 1 and library.suits(x, kernel):
        return operations.convolution(x, kernel, strides[0], padding[0][0])
    depthwise = groups == x.shape[-1] == kernel.shape[-1]
    if depthwise and jax.default_backend() == "cpu" and not library.being_read():
        return _shifted_sum(x, kernel[:, :, 0], strides, padding)
    return lax.conv_general_dilated(x, kernel, strides, padding, **rest)


def _shifted_sum(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> jax.Array:
    """A depthwise convolution as a sum of shifted maps, which XLA:CPU fuses.

    Its convolution in groups takes 20 to 100 times as long there (docs/performance.md).

    Args:
        x: [batch, height, width, channels].
        kernel: [height, width, channels].
        strides: in pixels, down and right.
        padding: with zeros, before and after, of rows and of columns.
    """
    wide = x.dtype if x.dtype == jnp.float64 else jnp.float32
    x, kernel, kind = x.astype(wide), kernel.astype(wide), x.dtype
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, *sides, channels = x.shape
    spans = [(n - k) // s * s + 1 for n, k, s in zip(sides, kernel.shape[:2], strides, strict=True)]
    total = jnp.zeros((), wide)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            ends = (batch, i + spans[0], j + spans[1], channels)
            total = total + lax.slice(x, (0, i, j, 0), ends, (1, *strides, 1)) * kernel[i, j]
    return total.astype(kind)


def convolution(
    in_width: int,
    width: int,
    kernel: int,
    stride: int,
    numerics: Numerics,
    rngs: nnx.Rngs,
    *,
    bias: float | None = None,
    groups: int = 1,
) -> nnx.Conv:
    """A convolution, padded symmetrically, with a bias of this initial value or (None) without.

    'SAME' would pad (0, 1) at stride 2, which is neither the papers' nor PyTorch's convention.
    With as many groups as channels it is depthwise; the fan out that its initial weights are drawn
    by is then PyTorch's, of all channels.
    """
    side = kernel // 2
    return nnx.Conv(
        in_width,
        width,
        kernel_size=(kernel, kernel),
        strides=stride,
        padding=((side, side), (side, side)),
        feature_group_count=groups,
        conv_general_dilated=_convolve,
        use_bias=bias is not None,
        bias_init=nnx.initializers.constant(bias or 0.0),
        kernel_init=HE_NORMAL,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


def max_pool(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """The largest value of each window, channel by channel, as PyTorch's layer takes it.

    Args:
        x: [batch, height, width, channels].
        size: of the window, in pixels both ways.
        stride: likewise.
        padding: on all four sides, in pixels that are never the largest.

    Returns:
        [batch, (height + 2 padding - size) // stride + 1, likewise, channels].
    """
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    found: jax.Array = lax.reduce_window(
        x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), sides
    )
    return found


def dropout(
    x: jax.Array, rate: float, keys: jax.Array, position: int, *, whole: bool = False
) -> jax.Array:
    """Sets a share of the values to zero, and divides the others by what is kept.

    Args:
        x: [batch, ...].
        rate: the share, below 1.
        keys: one for each image [batch], on which alone its mask depends.
        position: of the layer in the net, so that each draws masks of its own.
        whole: an image's values stay or go together, as a branch's do in stochastic depth (Huang
            et al. 2016, arXiv 1603.09382).
    """
    kept = 1 - rate
    shape = (1,) * (x.ndim - 1) if whole else x.shape[1:]

    def mask(key: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, position)
        return jax.random.bernoulli(own, kept, shape)

    return jnp.where(jax.vmap(mask)(keys), x / kept, 0)


def classifier(in_width: int, classes: int, numerics: Numerics, rngs: nnx.Rngs) -> nnx.Linear:
    """A fully connected layer that gives logits."""
    # He's formula for a layer that no ReLU follows: variance 1 / fan in.
    return fully_connected(in_width, classes, numerics, rngs, gain=1.0)


def fully_connected(
    in_width: int,
    width: int,
    numerics: Numerics,
    rngs: nnx.Rngs,
    *,
    gain: float = 2.0,
    deviation: float | None = None,
    bias: bool = True,
) -> nnx.Linear:
    """A fully connected layer, before a ReLU unless another gain says otherwise.

    Its initial weights have variance gain / fan in: He et al. 2015 (arXiv 1502.01852), eq. 10, in
    its forward form. The backward form, by fan out, would make the outputs of a layer that has six
    times as many inputs (VGG's first) two and a half times as large. A given standard deviation
    takes their place. The bias, if there is one, starts at zero.
    """
    scaled = nnx.initializers.variance_scaling(gain, "fan_in", "normal")
    return nnx.Linear(
        in_width,
        width,
        use_bias=bias,
        kernel_init=scaled if deviation is None else nnx.initializers.normal(deviation),
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


class LayerNorm(nnx.Module):
    """Layer normalisation over channels, computed in `param_dtype` whatever the activations are.

    Flax's layer mixes single with double precision in the latter, which JAX can be told to refuse.

    Args:
        width: channels.
        numerics: shared by the net's layers; `epsilon` is batch norm's, this one's is 1e-5.

    Reference: Ba et al. 2016 (arXiv 1607.06450).
    """

    def __init__(self, width: int, numerics: Numerics):
        self.scale = nnx.Param(jnp.ones(width, numerics.param_dtype))
        self.bias = nnx.Param(jnp.zeros(width, numerics.param_dtype))
        self.numerics = numerics

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., channels] to the same shape, in the net's dtype."""
        wide = x.astype(self.numerics.param_dtype)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * lax.rsqrt(variance + 1e-5) * self.scale[...] + self.bias[...]
        return y.astype(self.numerics.dtype)


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
