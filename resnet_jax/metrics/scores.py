"""What a classifier's probabilities say beyond its predictions: rankings and calibration."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics

from resnet_jax.metrics.intervals import bootstrap_areas

# Points that stay of a curve.
POINTS = 100
# With more classes than this, areas get no interval and curves are not kept.
MOST_CURVES = 20


def top_5_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Percent of examples whose class is not among the five likeliest; NaN with five or fewer."""
    classes = probabilities.shape[1]
    if classes <= 5:
        return math.nan
    share = sklearn.metrics.top_k_accuracy_score(
        labels, probabilities, k=5, labels=np.arange(classes)
    )
    return 100 * (1 - float(share))


def ranking(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    positive: int | None,
    samples: int,
) -> dict[str, Any]:
    """ROC and precision-recall curves and areas, of each class against the rest.

    Args:
        probabilities: float [examples, classes].
        labels: int [examples].
        class_names: in label order.
        positive: the only class to look at (binary data); None looks at all.
        samples: of the bootstrap; 0 gives no intervals.

    Returns:
        per_class: class, roc_auc, average_precision, their 95 % intervals, and the thinned curves
        (fpr and tpr, recall and precision, all shares); macro: the means over the classes for
        which they are defined; undefined: reasons.
    """
    classes = list(range(len(class_names))) if positive is None else [positive]
    few = len(classes) <= MOST_CURVES
    bounds = bootstrap_areas(probabilities, labels, classes, samples) if few and samples else None
    rows, undefined = [], {}
    for place, label in enumerate(classes):
        is_positive, score = labels == label, probabilities[:, label]
        row: dict[str, Any] = {"class": class_names[label]}
        if is_positive.all() or not is_positive.any():
            which = "of it" if is_positive.all() else "of another class"
            undefined[f"areas of {class_names[label]}"] = f"all examples are {which}"
            row |= {"roc_auc": math.nan, "average_precision": math.nan}
        else:
            row["roc_auc"] = float(sklearn.metrics.roc_auc_score(is_positive, score))
            row["average_precision"] = float(
                sklearn.metrics.average_precision_score(is_positive, score)
            )
            if bounds:
                row["roc_auc_interval"], row["average_precision_interval"] = map(
                    list, bounds[place]
                )
            if few:
                row |= _curves(is_positive, score)
        rows.append(row)
    return {
        "per_class": rows,
        "macro": {
            name: _mean([row[name] for row in rows]) for name in ("roc_auc", "average_precision")
        },
        "undefined": undefined,
    }


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> dict[str, Any]:
    """Whether what is said with probability p is right in a share p of cases.

    Args:
        probabilities: float [examples, classes].
        labels: int [examples].
        bins: equal ones over the probability of the predicted class.

    Returns:
        ece, the expected calibration error (share); brier, the mean squared distance to the truth
        (over all classes, 0 to 2; of the second class alone with two, 0 to 1); and of each bin
        with examples in it: examples, confidence and accuracy (means).

    Reference: Guo et al. 2017 (arXiv 1706.04599), Sec. 2; Brier 1950.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    # Guo et al. close the bins on the right.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    there = counts > 0
    sums = (np.bincount(place, x, minlength=bins)[there] for x in (confidence, right))
    mean_confidence, accuracy = (total / counts[there] for total in sums)
    gaps = np.abs(accuracy - mean_confidence) * counts[there] / len(labels)
    return {
        "ece": float(gaps.sum()),
        "brier": _brier(probabilities, labels),
        "bins": [
            {"examples": int(n), "confidence": float(c), "accuracy": float(a)}
            for n, c, a in zip(counts[there], mean_confidence, accuracy, strict=True)
        ],
    }


def _brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    truth = np.eye(probabilities.shape[1])[labels]
    squares = ((probabilities - truth) ** 2).sum(1).mean()
    return float(squares / 2 if probabilities.shape[1] == 2 else squares)


def _curves(is_positive: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    fpr, tpr, _ = sklearn.metrics.roc_curve(is_positive, score)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(is_positive, score)
    return {"roc": _thinned(fpr, tpr), "precision_recall": _thinned(recall, precision)}


def _thinned(x: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    """At most `POINTS` points of a curve, evenly along it, with both ends."""
    way = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)).clip(0, len(x) - 1))
    kept = np.unique([0, *kept, len(x) - 1])
    return {"x": x[kept].round(5).tolist(), "y": y[kept].round(5).tolist()}


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
