"""Operating points: where to cut a score in two, chosen on val by what mistakes cost."""

import math
from typing import Any

import numpy as np
import sklearn.metrics

from resnet_jax.config import EvaluationConfig
from resnet_jax.metrics.scores import MOST_CURVES

# The rows that every table has.
GRID = tuple(i / 10 for i in range(1, 10))


def operating_points(
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    class_names: tuple[str, ...],
    settings: EvaluationConfig,
    *,
    positive: int | None,
) -> list[dict[str, Any]]:
    """The table of thresholds of each class, one against the rest.

    An example counts as positive if its probability is at least the threshold. Nothing is chosen
    on test: it is only measured at what val has chosen.

    Args:
        val: probabilities [examples, classes] and labels [examples].
        test: the same.
        class_names: in label order.
        settings: costs, and the precision and recall that are asked for.
        positive: the only class to look at (binary data); None looks at each, if they are not
            more than `scores.MOST_CURVES`.

    Returns:
        For each class: class, costs, and rows of name (a grid's threshold; 'default' 0.5;
        'cheapest', 'be sure' and 'find all'), threshold (NaN with a reason if there is none), and
        the counts, precision, recall, F1 and cost per example on val and on test.
    """
    classes = list(range(len(class_names))) if positive is None else [positive]
    if len(classes) > MOST_CURVES:
        return []
    return [
        _of_class(
            (val[0][:, label], val[1] == label),
            (test[0][:, label], test[1] == label),
            class_names[label],
            settings,
            costs=costs_of(settings, label),
        )
        for label in classes
    ]


def costs_of(settings: EvaluationConfig, label: int) -> tuple[float, float]:
    """What a false negative and a false positive of a class cost."""
    missed, alarm = settings.false_negative_cost, settings.false_positive_cost
    return missed[label % len(missed)], alarm[label % len(alarm)]


def counts(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, int]:
    """TP, FP, FN and TN at a threshold."""
    named = scores >= threshold
    return {
        "tp": int((named & positive).sum()),
        "fp": int((named & ~positive).sum()),
        "fn": int((~named & positive).sum()),
        "tn": int((~named & ~positive).sum()),
    }


def cheapest(scores: np.ndarray, positive: np.ndarray, costs: tuple[float, float]) -> float:
    """The threshold of least cost; of several, the one nearest to 0.5.

    Args:
        scores: float [examples].
        positive: bool [examples], of both kinds.
        costs: of a false negative, and of a false positive.

    Returns:
        One of the scores, or infinity to call nothing positive.
    """
    false_rate, true_rate, thresholds = sklearn.metrics.roc_curve(
        positive, scores, drop_intermediate=False
    )
    missed = (1 - true_rate) * positive.sum()
    total = costs[0] * missed + costs[1] * false_rate * (~positive).sum()
    least = thresholds[np.isclose(total, total.min(), rtol=1e-9, atol=1e-9)]
    return float(least[np.abs(least - 0.5).argmin()])


def _of_class(
    val: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    name: str,
    settings: EvaluationConfig,
    *,
    costs: tuple[float, float],
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"name": f"{t:g}", "threshold": t} for t in GRID if t != 0.5]
    rows.append({"name": "default", "threshold": 0.5})
    rows += _chosen(*val, settings, costs)
    for row in rows:
        if not math.isnan(row["threshold"]):
            for split, (scores, positive) in (("val", val), ("test", test)):
                row[split] = _measured(counts(scores, positive, row["threshold"]), costs)
    rows.sort(key=lambda row: (math.isnan(row["threshold"]), row["threshold"]))
    return {
        "class": name,
        "false_negative_cost": costs[0],
        "false_positive_cost": costs[1],
        "rows": rows,
    }


def _chosen(
    scores: np.ndarray, positive: np.ndarray, settings: EvaluationConfig, costs: tuple[float, float]
) -> list[dict[str, Any]]:
    names = ("cheapest", "be sure", "find all")
    if positive.all() or not positive.any():
        reason = "val has no examples of the class" if not positive.any() else "val has no others"
        return [{"name": name, "threshold": math.nan, "reason": reason} for name in names]
    # Ends with precision 1 at recall 0, which has no threshold.
    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(positive, scores)
    sure = np.flatnonzero(precision[:-1] >= settings.sure_precision)
    finds = np.flatnonzero(recall[:-1] >= settings.find_recall)
    rows: list[dict[str, Any]] = [
        {"name": names[0], "threshold": cheapest(scores, positive, costs)}
    ]
    if len(sure):  # the lowest finds the most
        rows.append({"name": names[1], "threshold": float(thresholds[sure[0]])})
    else:
        reason = f"no threshold has a precision of {settings.sure_precision:g} on val"
        rows.append({"name": names[1], "threshold": math.nan, "reason": reason})
    # The highest is the most precise; recall falls as the threshold rises, and starts at 1.
    rows.append({"name": names[2], "threshold": float(thresholds[finds[-1]])})
    return rows


def _measured(found: dict[str, int], costs: tuple[float, float]) -> dict[str, Any]:
    tp, fp, fn = found["tp"], found["fp"], found["fn"]

    def share(part: int, whole: int) -> float:
        return part / whole if whole else math.nan

    return {
        **found,
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "f1": share(2 * tp, 2 * tp + fp + fn),
        "cost": share(1, sum(found.values())) * (costs[0] * fn + costs[1] * fp),
    }
