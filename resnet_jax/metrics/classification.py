"""The final report of a classifier, computed on the host; scikit-learn does what it can do."""

from typing import Any

import numpy as np
import scipy.special

from resnet_jax.config import EvaluationConfig
from resnet_jax.metrics import counts, scores

DEFAULT = EvaluationConfig()


def report(
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    settings: EvaluationConfig = DEFAULT,
    *,
    positive: int | None = None,
    mask: np.ndarray | None = None,
) -> dict[str, Any]:
    """Measures predictions against labels.

    Args:
        logits: float [examples, classes].
        labels: int [examples].
        class_names: in label order.
        settings: bins and resamples.
        positive: the class that binary data ask for; None if there are more, or none is named.
        mask: bool [examples], False for examples that do not count; None counts all.

    Returns:
        What `counts.measure` tells, and loss (mean cross-entropy, nats), top5_error (percent),
        ranking and calibration (see `scores`), and undefined: why a value is NaN.

    Raises:
        ValueError: if there are no examples.
    """
    if mask is not None:
        logits, labels = logits[mask], labels[mask]
    if not len(labels):
        raise ValueError("a classifier cannot be measured on no examples")
    likelihoods = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    probabilities = np.exp(likelihoods)
    matrix = counts.confusion(labels, logits.argmax(-1), len(class_names))
    measured = counts.measure(matrix, class_names)
    ranking = scores.ranking(
        probabilities,
        labels,
        class_names,
        positive=positive,
        samples=settings.bootstrap_samples,
    )
    undefined = measured["undefined"] | ranking.pop("undefined")
    if len(class_names) <= 5:
        undefined["top-5 error"] = "with five classes or fewer it is always 0"
    return {
        **measured,
        "loss": float(-likelihoods[np.arange(len(labels)), labels].mean()),
        "top5_error": scores.top_5_error(probabilities, labels),
        "ranking": ranking,
        "calibration": scores.calibration(probabilities, labels, settings.calibration_bins),
        "undefined": undefined,
    }
