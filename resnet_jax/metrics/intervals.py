"""95 % intervals over the examples of one evaluated split; those over seeds are the report's."""

import math

import numpy as np
import scipy.stats

LEVEL = 0.95
# Resamples that are drawn at a time, to bound memory.
CHUNK = 50

Interval = tuple[float, float]


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a rate, as shares; NaN without trials.

    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if trials == 0:
        return math.nan, math.nan
    found = scipy.stats.binomtest(int(successes), int(trials))
    interval = found.proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def areas(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Areas under the ROC and the precision-recall curve of many weighted samples at once.

    They equal scikit-learn's `roc_auc_score` and `average_precision_score` with `sample_weight`,
    which would have to sort anew for every sample.

    Args:
        scores: float [examples], high for the positive class.
        positive: bool [examples].
        weights: [samples, examples], how often each sample holds each example.

    Returns:
        ROC area and average precision, each [samples]; NaN where a sample lacks one of the classes.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    weights = weights[:, order]
    true = np.cumsum(weights * positive[order], axis=1)[:, ends]
    false = np.cumsum(weights * ~positive[order], axis=1)[:, ends]
    true, false = (np.pad(x.astype(np.float64), ((0, 0), (1, 0))) for x in (true, false))
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = np.diff(false) * (true[:, 1:] + true[:, :-1]) / 2
        roc = steps.sum(axis=1) / (true[:, -1] * false[:, -1])
        precision = np.nan_to_num(true[:, 1:] / (true[:, 1:] + false[:, 1:]))
        average_precision = (np.diff(true) * precision).sum(axis=1) / true[:, -1]
    there = (true[:, -1] > 0) & (false[:, -1] > 0)
    return np.where(there, roc, np.nan), np.where(there, average_precision, np.nan)


def bootstrap_areas(
    scores: np.ndarray, labels: np.ndarray, classes: list[int], samples: int
) -> list[tuple[Interval, Interval]]:
    """Percentile bootstrap of both areas of each class against the rest, over the examples.

    Args:
        scores: float [examples, classes].
        labels: int [examples].
        classes: the columns of `scores` to look at.
        samples: how many resamples; always the same ones, and the same for all classes.

    Returns:
        For each class the intervals of the ROC area and of the average precision.
    """
    count = len(labels)
    random = np.random.RandomState(0)  # frozen stream: the same interval whenever it is asked for
    found: list[list[np.ndarray]] = [[] for _ in classes]
    for first in range(0, samples, CHUNK):
        size = min(CHUNK, samples - first)
        weights = random.multinomial(count, np.full(count, 1 / count), size)
        for parts, label in zip(found, classes, strict=True):
            parts.append(np.stack(areas(scores[:, label], labels == label, weights)))
    return [(_percentiles(both[0]), _percentiles(both[1])) for both in map(_joined, found)]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, axis=1) if parts else np.full((2, 1), np.nan)


def _percentiles(values: np.ndarray) -> Interval:
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
