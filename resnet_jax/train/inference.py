"""What is computed of a batch in evaluation mode: pure, for one device of the axis `data`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from resnet_jax.config import DataConfig
from resnet_jax.data import augment
from resnet_jax.metrics.accumulate import ClassificationMetrics
from resnet_jax.models.registry import Apply
from resnet_jax.parallel import AXIS
from resnet_jax.train.step import FEATURES, Inputs, images_of, labels_of


def evaluation_batch(data: DataConfig, arrays: dict[str, jax.Array], batch: Inputs) -> jax.Array:
    """What comes to the net in evaluation: images [share, ...], or cached features [share, width].

    Args:
        data: as in `prediction_program`.
        arrays: as in `training_program`.
        batch: [share].
    """
    if FEATURES in arrays:
        return arrays[FEATURES][batch]
    return augment.evaluation_images(data, images_of(arrays, batch), arrays["mean"], arrays["std"])


def features_program(data: DataConfig, features: Callable[..., jax.Array]) -> Callable[..., Any]:
    """What frozen parts make of one batch.

    Args:
        data: as in `prediction_program`.
        features: as in `registry.Functional`.

    Returns:
        (params, stats, arrays, batch [share]) -> (features float [share, width],).
    """

    def program(
        params: Any, stats: Any, arrays: dict[str, jax.Array], batch: Inputs
    ) -> tuple[jax.Array]:
        return (features(params, stats, evaluation_batch(data, arrays, batch)),)

    return program


def prediction_program(data: DataConfig, apply: Apply) -> Callable[..., Any]:
    """A net's scores of images, in evaluation mode.

    Args:
        data: of the run, for the size that the net sees.
        apply: the net.

    Returns:
        (params, stats, images uint8 [share, height, width, channels], mean, std) -> (logits
        float [share, classes],).
    """

    def program(
        params: Any, stats: Any, images: jax.Array, mean: jax.Array, std: jax.Array
    ) -> tuple[jax.Array]:
        logits, _ = apply(params, stats, augment.evaluation_images(data, images, mean, std), False)
        return (logits,)

    return program


def evaluation_program(data: DataConfig, apply: Apply) -> Callable[..., Any]:
    """Measures one batch in evaluation mode; every example counts alike.

    Args:
        data: as in `prediction_program`.
        apply: the net, or its head if there are cached features.

    Returns:
        (params, stats, arrays, batch [share], mask bool [share]) -> (metrics summed over all
        devices, logits float [share, classes]); `batch` is as `data.feed.Inputs`.
    """

    def program(
        params: Any, stats: Any, arrays: dict[str, jax.Array], batch: Inputs, mask: jax.Array
    ) -> tuple[ClassificationMetrics, jax.Array]:
        labels = labels_of(arrays, batch)
        logits, _ = apply(params, stats, evaluation_batch(data, arrays, batch), False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        metrics = ClassificationMetrics.single_from_model_output(
            logits=logits, labels=labels, loss=losses, mask=mask
        )
        return lax.psum(metrics, AXIS), logits

    return program


def crop_program(data: DataConfig, apply: Apply) -> Callable[..., Any]:
    """A net's probabilities for one crop of each image, in evaluation mode.

    Args:
        data: as in `prediction_program`.
        apply: the net.

    Returns:
        (params, stats, images uint8 [share, height, width, channels], mean, std, mirrored bool) ->
        (probabilities float [share, classes],), of the mirror images if `mirrored`.
    """
    predict = prediction_program(data, apply)

    def program(
        params: Any,
        stats: Any,
        images: jax.Array,
        mean: jax.Array,
        std: jax.Array,
        mirrored: jax.Array,
    ) -> tuple[jax.Array]:
        images = jnp.where(mirrored, images[:, :, ::-1], images)
        (logits,) = predict(params, stats, images, mean, std)
        return (jax.nn.softmax(logits.astype(jnp.float32)),)

    return program
