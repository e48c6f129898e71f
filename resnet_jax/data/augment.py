"""Augmentation and normalisation, inside the compiled step: pure, one key for each image."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from resnet_jax.config import DataConfig
from resnet_jax.data.split import Split

# Principal components of ImageNet's RGB values in 0..1: the square roots of the covariance's
# eigenvalues, and its eigenvectors as columns (Krizhevsky et al. 2012, Sec. 4.1, gives the method;
# the numbers are those of fb.resnet.torch, datasets/imagenet.lua).
IMAGENET_EIGENVALUES = (0.2175, 0.0188, 0.0045)
IMAGENET_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
# Mean and standard deviation of ImageNet's RGB channels in 0..1, which published CIFAR weights use.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """x -> (x / 255 - mean) / std.

    Attributes:
        mean: float32 [height, width, channels] or [channels], of pixels in 0..1.
        std: float32, of the same shape.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, kind: str, train: Split) -> "Normalization":
        """Statistics of the training split, and of no other image.

        Args:
            kind: 'pixel_mean' (He 2015, Sec. 4.2: per-pixel mean, no scaling), 'channel' (mean
                and standard deviation of each channel), 'imagenet' (fixed constants) or 'none'.
            train: the images to fit.
        """
        shape = train.images.shape[1:]
        if kind in ("imagenet", "none"):
            return cls.constant(kind, channels=shape[-1])
        if kind == "pixel_mean":
            mean = train.images.mean(0, dtype=np.float64) / 255
            return cls(mean.astype(np.float32), np.ones(shape, np.float32))
        pixels = train.images.reshape(-1, shape[-1])
        mean = pixels.mean(0, dtype=np.float64) / 255
        std = pixels.std(0, dtype=np.float64) / 255
        return cls(mean.astype(np.float32), np.maximum(std, 1e-3).astype(np.float32))

    @classmethod
    def constant(cls, kind: str, *, channels: int) -> "Normalization":
        """Statistics that no image is needed for: of 'imagenet', or of 'none'."""
        if kind == "imagenet":
            return cls(np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32))
        return cls(np.zeros(channels, np.float32), np.ones(channels, np.float32))


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Brings uint8 images to float32 with the given statistics of pixels in 0..1."""
    return (images.astype(jnp.float32) / 255 - mean) / std


def crop_and_flip(key: jax.Array, image: jax.Array, *, padding: int, flip: bool) -> jax.Array:
    """Pads with zeros, crops at a random place to the old size, and mirrors every other image.

    Args:
        key: of this image alone.
        image: [height, width, channels].
        padding: pixels on each side.
        flip: whether to mirror left and right with probability 1/2.

    Returns:
        The same shape.

    Reference: He et al. 2015 (arXiv 1512.03385), Sec. 4.2.
    """
    crop_key, flip_key = jax.random.split(key)
    if padding:
        row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        image = lax.dynamic_slice(padded, (row, column, 0), image.shape)
    if flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    return image


def color_shift(key: jax.Array, deviation: float) -> jax.Array:
    """What is added to all pixels of an image, in 0..1: float32 [3].

    The sum of the principal components of ImageNet's colours, each times its eigenvalue and a
    number from a normal distribution of mean 0 and the given standard deviation.

    Reference: Krizhevsky et al. 2012, Sec. 4.1, with 0.1.
    """
    amounts = deviation * jax.random.normal(key, (3,), jnp.float32)
    values = amounts * jnp.array(IMAGENET_EIGENVALUES, jnp.float32)
    # Written out: a matrix product may be rounded to fewer bits on accelerators.
    return (jnp.array(IMAGENET_EIGENVECTORS, jnp.float32) * values).sum(1)


def flip_and_color(
    key: jax.Array, image: jax.Array, std: jax.Array, *, flip: bool, color_deviation: float
) -> jax.Array:
    """Mirrors every other image and shifts its colours, what crops of ImageNet still need.

    Args:
        key: of this image alone.
        image: float32 [height, width, 3], normalised.
        std: by which it was divided.
        flip: whether to mirror left and right with probability 1/2.
        color_deviation: as in `color_shift`; 0 for none.
    """
    flip_key, color_key = jax.random.split(key)
    if flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    if color_deviation:
        image = image + color_shift(color_key, color_deviation) / std
    return image


def training_images(
    config: DataConfig,
    key: jax.Array,
    images: jax.Array,
    examples: jax.Array,
    mean: jax.Array,
    std: jax.Array,
) -> jax.Array:
    """Normalises and augments a batch; streamed images come cropped.

    Args:
        config: padding, what it is filled with, flip; of streamed images flip and colour.
        key: of the step.
        images: uint8 [batch, height, width, channels].
        examples: int [batch]; each image's key is the step's with this number folded in, so it
            does not depend on how the batch is spread over devices.
        mean: as in `Normalization`.
        std: as in `Normalization`.

    Returns:
        float32 [batch, height, width, channels], of the size that the net sees.
    """
    keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)
    if config.is_streamed:
        seen = functools.partial(
            flip_and_color, flip=config.flip, color_deviation=config.color_deviation
        )
        return jax.vmap(seen, (0, 0, None))(keys, normalize(images, mean, std), std)
    augment = jax.vmap(
        lambda key, image: crop_and_flip(key, image, padding=config.crop_padding, flip=config.flip)
    )
    if config.crop_fill == "black":
        augmented = normalize(augment(keys, images), mean, std)
    else:
        augmented = augment(keys, normalize(images, mean, std))
    return resized(augmented, config.resize)


def evaluation_images(
    config: DataConfig, images: jax.Array, mean: jax.Array, std: jax.Array
) -> jax.Array:
    """A batch as it is evaluated: normalised, and of the size that the net sees.

    Args:
        config: with that size.
        images: uint8 [batch, height, width, channels].
        mean: as in `Normalization`.
        std: as in `Normalization`.
    """
    return resized(normalize(images, mean, std), config.resize)


def resized(images: jax.Array, side: int) -> jax.Array:
    """Brings images [batch, height, width, channels] to `side` pixels both ways; 0 leaves them.

    Bilinear between the centres of pixels, and antialiased where there are fewer of them, as
    PyTorch's `interpolate(mode="bilinear", antialias=True)`.
    """
    count, *size, channels = images.shape
    if not side or size == [side, side]:
        return images
    sized: jax.Array = jax.image.resize(images, (count, side, side, channels), "bilinear")
    return sized


def seen_shape(config: DataConfig, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(height, width, channels) that a net sees of images of a shape."""
    return (config.resize, config.resize, shape[-1]) if config.resize else shape
