"""What carries a block's input past its branch F, and how the two are added.

`shortcut` maps the input to the output's shape: h(x) by option A, B or C (He et al. 2015,
arXiv 1512.03385). `addition` makes the sum, F(x) + h(x) or one of the variants that impede the
shortcut (He et al. 2016, arXiv 1603.05027, Fig. 2 and Table 1).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from resnet_jax.config import ModelConfig
from resnet_jax.models.layers import BatchNorm, Numerics, convolution, dropout


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
    """Options B and C: a 1x1 convolution, and BN where the branch too ends in BN.

    Reference: He et al. 2015, Sec. 3.3, eq. 2; He et al. 2016, Fig. 2e.
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
    *,
    normalized: bool,
) -> IdentityShortcut | ZeroPadShortcut | ProjectionShortcut | None:
    """The map h that `config.shortcut` prescribes for a block of this shape; None in a plain net.

    Args:
        config: of the net.
        in_width: channels of the block's input.
        width: channels of its output.
        stride: of the block.
        numerics: shared by the net's layers.
        rngs: for the initial weights.
        normalized: whether BN follows a projection.

    Raises:
        ValueError: for an option other than A, B or C.
    """
    if config.shortcut not in ("A", "B", "C"):
        raise ValueError(f"model.shortcut must be 'A', 'B' or 'C', got {config.shortcut!r}")
    scales = (config.shortcut_scale, config.branch_scale)
    # He 2016, Table 1, of scaling by (0, 1): "This is a plain net". So it is here, to the last bit.
    is_scaled_away = config.shortcut_transform == "constant_scaling" and scales == (0, 1)
    if not config.residual or is_scaled_away:
        return None
    changes_shape = stride != 1 or in_width != width
    if config.shortcut == "C" or (config.shortcut == "B" and changes_shape):
        return ProjectionShortcut(
            in_width, width, stride, numerics, normalized=normalized, rngs=rngs
        )
    if changes_shape:
        return ZeroPadShortcut(in_width, width, stride, config.zero_padding)
    return IdentityShortcut()


class Addition(nnx.Module):
    """H = F + h (He 2016, Fig. 2a). The other additions are called alike."""

    def __call__(
        self,
        branch: jax.Array,
        shortcut: jax.Array,
        x: jax.Array,
        keys: jax.Array | None,
        shortcut_scale: jax.Array | None,
    ) -> jax.Array:
        """Joins the two paths of a block.

        Args:
            branch: F(x), [batch, height, width, channels].
            shortcut: h(x), of the same shape.
            x: where the paths part, [batch, s * height, s * width, channels before].
            keys: one for each image [batch]; None outside training.
            shortcut_scale: the present scale of an annealed net; None in all others.

        Returns:
            H(x), of the branch's shape.
        """
        return branch + shortcut


class ScaledAddition(nnx.Module):
    """H = b F + s h, with s constant (He 2016, Fig. 2b) or, if it is None, given at run time."""

    def __init__(self, branch_scale: float, shortcut_scale: float | None):
        self.branch_scale = branch_scale
        self.shortcut_scale = shortcut_scale

    def __call__(
        self,
        branch: jax.Array,
        shortcut: jax.Array,
        x: jax.Array,
        keys: jax.Array | None,
        shortcut_scale: jax.Array | None,
    ) -> jax.Array:
        """As `Addition`."""
        if self.shortcut_scale is not None:
            return self.branch_scale * branch + self.shortcut_scale * shortcut
        assert shortcut_scale is not None, "an annealed net hands its scale to every block"
        return self.branch_scale * branch + shortcut_scale.astype(branch.dtype) * shortcut


class GatedAddition(nnx.Module):
    """H = F + (1 - g) h, or g F + (1 - g) h if exclusive; g(x) = sigmoid(W x + b), a 1x1 conv.

    Reference: He et al. 2016, Sec. 3.1, Fig. 2c and 2d.
    """

    def __init__(
        self,
        config: ModelConfig,
        in_width: int,
        width: int,
        stride: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
    ):
        self.exclusive = config.shortcut_transform == "exclusive_gating"
        # Where the block changes the shape, the gate does so with the same stride.
        self.gate = convolution(in_width, width, 1, stride, numerics, rngs, bias=config.gate_bias)

    def __call__(
        self,
        branch: jax.Array,
        shortcut: jax.Array,
        x: jax.Array,
        keys: jax.Array | None,
        shortcut_scale: jax.Array | None,
    ) -> jax.Array:
        """As `Addition`."""
        gate = nnx.sigmoid(self.gate(x))
        return (gate * branch if self.exclusive else branch) + (1 - gate) * shortcut


class DropoutAddition(nnx.Module):
    """H = F + dropout(h) (He 2016, Fig. 2f); in evaluation H = F + h.

    What is kept is divided by its share in training, as by Caffe's and Torch's layers, so that
    the expectation of h stays. The paper does not say so; it speaks of "a scale of lambda with an
    expectation of 0.5".

    Args:
        rate: share of the values that is set to zero.
        position: of the block in the net, so that each block draws masks of its own.
    """

    def __init__(self, rate: float, position: int):
        self.rate, self.position = rate, position

    def __call__(
        self,
        branch: jax.Array,
        shortcut: jax.Array,
        x: jax.Array,
        keys: jax.Array | None,
        shortcut_scale: jax.Array | None,
    ) -> jax.Array:
        """As `Addition`; each image's mask depends on its own key alone."""
        if keys is None:
            return branch + shortcut
        return branch + dropout(shortcut, self.rate, keys, self.position)


def addition(
    config: ModelConfig,
    in_width: int,
    width: int,
    stride: int,
    numerics: Numerics,
    rngs: nnx.Rngs,
    *,
    position: int,
) -> Addition | ScaledAddition | GatedAddition | DropoutAddition:
    """The sum that `config.shortcut_transform` prescribes for a block of this shape.

    He 2016, Fig. 2e, the 1x1 convolution, is no sum of its own: it is option C of `shortcut`.

    Raises:
        ValueError: for an unknown transform.
    """
    match config.shortcut_transform:
        case "identity":
            return Addition()
        case "constant_scaling" if config.shortcut_scale == config.branch_scale == 1:
            return Addition()  # to the last bit, which another order of operations would miss
        case "constant_scaling":
            return ScaledAddition(config.branch_scale, config.shortcut_scale)
        case "annealed_scaling":
            return ScaledAddition(config.branch_scale, None)
        case "exclusive_gating" | "shortcut_only_gating":
            return GatedAddition(config, in_width, width, stride, numerics, rngs)
        case "dropout":
            return DropoutAddition(config.shortcut_dropout, position)
    raise ValueError(f"model.shortcut_transform={config.shortcut_transform!r} is unknown")
