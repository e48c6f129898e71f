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
class Window:
    """Sums over the steps since the last log line; part of a run's state, so never lost.

    Attributes:
        metrics: of all batches.
        gradient_norms: sum over steps of the gradient's L2 norm, without weight decay.
        steps: how many.
    """

    metrics: ClassificationMetrics
    gradient_norms: jax.Array
    steps: jax.Array

    @classmethod
    def zero(cls) -> "Window":
        """A window of no step."""
        return _typed(cls(ClassificationMetrics.empty(), jnp.zeros(()), jnp.zeros(())))

    @classmethod
    def of_step(cls, metrics: ClassificationMetrics, gradient_norm: jax.Array) -> "Window":
        """A window of one step."""
        return _typed(cls(metrics, gradient_norm, jnp.ones(())))

    def add(self, step: "Window", *, restart: jax.Array) -> "Window":
        """This window and a step after it, or that step alone."""
        summed = jax.tree.map(lambda a, b: jnp.where(restart, b, a + b), self, step)
        return cast(Window, summed)

    def compute(self) -> dict[str, float]:
        """Mean loss, error (percent) and gradient norm."""
        host = jax.device_get(self)
        with np.errstate(invalid="ignore", divide="ignore"):
            norm = float(host.gradient_norms / host.steps)
        return {**merge([host.metrics]), "gradient_norm": norm}


def _typed(window: Window) -> Window:
    """The same sums, all in the default float type: a state's types must never change."""
    return cast(Window, jax.tree.map(lambda x: x.astype(jnp.zeros(()).dtype), window))


def merge(parts: Sequence[ClassificationMetrics]) -> dict[str, float]:
    """Adds up metrics of several batches and divides once."""
    host = jax.device_get(list(parts))
    summed = jax.tree.map(lambda *leaves: np.sum(leaves, dtype=np.float64), *host)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: float(value) for name, value in summed.compute().items()}
