"""Metrics that add up: over examples, devices, steps and batches, divided once at the end."""

from collections.abc import Sequence
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics


@flax.struct.dataclass
class Top1Error(clu_metrics.Average):
    """The share of misclassified examples, in percent."""

    @classmethod
    def from_model_output(
        cls, logits: jax.Array, labels: jax.Array, mask: jax.Array | None = None, **_: Any
    ) -> "Top1Error":
        """Counts errors.

        Args:
            logits: [batch, classes].
            labels: int [batch].
            mask: bool [batch], False for examples that only fill the batch.
        """
        predicted = logits.argmax(-1).astype(labels.dtype)
        wrong = jnp.where(predicted != labels, 100.0, 0.0)
        return cast("Top1Error", super().from_model_output(values=wrong, mask=mask))


@flax.struct.dataclass
class ClassificationMetrics(clu_metrics.Collection):
    """Mean cross-entropy in nats, and top-1 error in percent; NaN over no examples."""

    loss: clu_metrics.Average.from_output("loss")  # type: ignore[valid-type]
    error: Top1Error


@flax.struct.dataclass
class StepRecord:
    """What one training step leaves behind.

    Attributes:
        metrics: of the step's batch.
        gradient_norm: L2 norm over all parameters, without weight decay.
        learning_rate: as the optimizer applied it.
    """

    metrics: ClassificationMetrics
    gradient_norm: jax.Array
    learning_rate: jax.Array


def merge(parts: Sequence[ClassificationMetrics]) -> dict[str, float]:
    """Adds up metrics of several batches (their leaves may carry leading axes) and divides once."""
    host = jax.device_get(list(parts))
    summed = jax.tree.map(lambda *leaves: np.sum([np.sum(leaf) for leaf in leaves]), *host)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: float(value) for name, value in summed.compute().items()}


def summarize(records: Sequence[StepRecord]) -> dict[str, float]:
    """Means of loss, error and gradient norm over steps, and the last learning rate."""
    host = jax.device_get(list(records))
    norms = np.concatenate([np.ravel(record.gradient_norm) for record in host])
    return {
        **merge([record.metrics for record in host]),
        "gradient_norm": float(norms.mean()),
        "learning_rate": float(np.ravel(host[-1].learning_rate)[-1]),
    }
