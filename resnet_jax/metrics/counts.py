"""What a confusion matrix says. Matrices add up, so parts merge in any order."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn.metrics

from resnet_jax.metrics.intervals import wilson

AVERAGES = ("macro", "micro", "weighted")


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 [true class, predicted class]; none of no examples."""
    if not len(labels):
        return np.zeros((classes, classes), np.int64)
    return np.asarray(
        sklearn.metrics.confusion_matrix(labels, predicted, labels=np.arange(classes)), np.int64
    )


def measure(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Rates of a classifier by scikit-learn, with Wilson's 95 % intervals.

    Args:
        matrix: counts int [true class, predicted class].
        class_names: in label order.

    Returns:
        examples, accuracy (share), error (percent), balanced_accuracy, mcc, baseline (the most
        frequent class, the accuracy of always naming it, and whether accuracy lies above it with
        the whole interval), averages (macro, micro, weighted), per_class, confusion_matrix
        and undefined (which values are NaN, and why). An average leaves out the classes for which
        its value is undefined.

    Raises:
        ValueError: if there are no examples.
    """
    matrix = np.asarray(matrix)
    examples = int(matrix.sum())
    if not examples:
        raise ValueError("a classifier cannot be measured on no examples")
    classes = np.arange(len(class_names))
    cells = matrix > 0  # each cell is one example with a weight
    true, predicted = np.nonzero(cells)
    how = {"labels": classes, "sample_weight": matrix[cells], "zero_division": np.nan}
    score = sklearn.metrics.precision_recall_fscore_support
    precision, recall, f1, _ = score(true, predicted, **how)
    support, named, right = matrix.sum(1), matrix.sum(0), np.diag(matrix)
    accuracy = float(right.sum() / examples)
    low, high = wilson(int(right.sum()), examples)
    return {
        "examples": examples,
        "accuracy": accuracy,
        "error": 100 * (1 - accuracy),
        "error_interval": [100 * (1 - high), 100 * (1 - low)],
        "balanced_accuracy": float(recall[support > 0].mean()),
        "mcc": _mcc(matrix, true, predicted),
        "baseline": _baseline(matrix, class_names, low),
        "averages": {
            kind: dict(
                zip(
                    ("precision", "recall", "f1"),
                    map(float, score(true, predicted, average=kind, **how)[:3]),
                    strict=True,
                )
            )
            for kind in AVERAGES
        },
        "confusion_matrix": matrix.tolist(),
        "per_class": [
            {
                "class": name,
                "precision": float(precision[i]),
                "precision_interval": list(wilson(right[i], named[i])),
                "recall": float(recall[i]),
                "recall_interval": list(wilson(right[i], support[i])),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(class_names)
        ],
        "undefined": _undefined(support, named, class_names),
    }


def _mcc(matrix: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> float:
    """Matthews' correlation coefficient; scikit-learn gives 0 where it is 0 / 0."""
    if len(set(true)) < 2 or len(set(predicted)) < 2:
        return math.nan
    weights = matrix[true, predicted]
    return float(sklearn.metrics.matthews_corrcoef(true, predicted, sample_weight=weights))


def _baseline(matrix: np.ndarray, class_names: Sequence[str], low: float) -> dict[str, Any]:
    support = matrix.sum(1)
    share = float(support.max() / support.sum())
    return {
        "class": class_names[int(np.argmax(support))],
        "accuracy": share,
        "beaten": low > share,
    }


def _undefined(
    support: np.ndarray, named: np.ndarray, class_names: Sequence[str]
) -> dict[str, str]:
    reasons = {}
    for name, there, times in zip(class_names, support, named, strict=True):
        if not times:
            reasons[f"precision of {name}"] = "it was never predicted"
        if not there:
            reasons[f"recall of {name}"] = "the split has no example of it"
        if not there and not times:
            reasons[f"F1 of {name}"] = "the split has no example of it, and it was never predicted"
    if (support > 0).sum() < 2:
        reasons["MCC"] = "all examples are of one class"
    elif (named > 0).sum() < 2:
        reasons["MCC"] = "all predictions are of one class"
    return reasons
