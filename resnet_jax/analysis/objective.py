"""The mean training loss as a function of a net's parameters, on images that stay the same."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from resnet_jax.analysis import recorders
from resnet_jax.config import ModelConfig
from resnet_jax.errors import InputError
from resnet_jax.models import registry
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet

# Statistics by which batch norms normalise: the checkpoint's, or those of each batch.
BATCH_NORM = ("running", "batch")
BATCH = 128


@dataclasses.dataclass(frozen=True)
class Objective:
    """A net's loss on some images, without augmentation and weight decay.

    Attributes:
        loss_and_error: (params, images, labels) -> mean cross-entropy in nats and error in percent
            of one batch; NaN if a batch norm or a logit is not finite.
        params: of the net.
        batches: (images, labels) each; all of one size, so that the mean over batches is that over
            images.
    """

    loss_and_error: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    params: Any
    batches: tuple[tuple[jax.Array, jax.Array], ...]

    @property
    def examples(self) -> int:
        """How many images."""
        return sum(len(labels) for _, labels in self.batches)

    def loss(self, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        """The mean loss of one batch alone."""
        return self.loss_and_error(params, images, labels)[0]


class WatchedNorm(BatchNorm):
    """A batch norm that notes whether what it makes is finite; its parameters stand as before.

    Compiled for CPUs, ReLU can make 0 of NaN, and a net whose activations overflow would end in a
    small loss.
    """

    def __init__(self, norm: BatchNorm):
        self.scale, self.bias, self.mean, self.variance = (
            norm.scale,
            norm.bias,
            norm.mean,
            norm.variance,
        )
        self.numerics = norm.numerics
        self.finite = recorders.Noted(jnp.ones((), norm.numerics.param_dtype))

    def __call__(
        self, x: jax.Array, *, train: bool, relu: bool = False, added: jax.Array | None = None
    ) -> jax.Array:
        """As `BatchNorm`."""
        y = super().__call__(x, train=train)
        if added is not None:
            y = y + added
        self.finite[...] = jnp.isfinite(y).all().astype(self.finite[...].dtype)
        return nnx.relu(y) if relu else y


def of(
    model: ResNet, images: jax.Array, labels: jax.Array, *, batch_norm: str = "running"
) -> Objective:
    """The objective of a net.

    Args:
        model: the net; it stays as it is.
        images: float [examples, height, width, channels], normalised. They are divided into
            batches of one size, at most `BATCH`; what is left over (fewer images than there are
            batches) is not used.
        labels: int [examples].
        batch_norm: 'running', as in evaluation, or 'batch', as in training.
    """
    net = registry.functional(recorders.with_norms(model, WatchedNorm))
    train = batch_norm == "batch"

    def loss_and_error(params: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, stats = net.apply(params, net.stats, x, train)
        notes = [
            note
            for path, note in jax.tree_util.tree_leaves_with_path(stats)
            if path[-1].key == "finite"
        ]
        is_finite = jnp.isfinite(logits).all() & (jnp.stack(notes) > 0).all()
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        wrong = (logits.argmax(-1).astype(y.dtype) != y).astype(losses.dtype)
        loss, error = (
            jnp.where(is_finite, mean, jnp.nan) for mean in (losses.mean(), 100 * wrong.mean())
        )
        return loss, error

    parts = -(-len(labels) // BATCH)
    size = len(labels) // parts
    cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
    return Objective(loss_and_error, net.params, tuple((images[cut], labels[cut]) for cut in cuts))


def require_batch_norm(batch_norm: str, config: ModelConfig) -> None:
    """Refuses statistics of the batch for nets that training changes in other ways too.

    Raises:
        InputError: for a net with dropout or annealed shortcuts.
    """
    if batch_norm == "batch" and (config.has_dropout or config.is_annealed):
        what = "dropout" if config.has_dropout else "annealed shortcuts"
        raise InputError(
            f"--batch_norm=batch: the net has {what}, and computes something else in training; "
            "give --batch_norm=running"
        )
