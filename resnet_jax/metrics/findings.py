"""Is the model good? One line for each question, with the number and what it means."""

import math
from typing import Any

from resnet_jax.config import EvaluationConfig

GOOD, WARNING, BAD = "good", "warning", "bad"
# Classes that are named in a line; the others are counted.
MOST_NAMES = 5


def judge(
    splits: dict[str, dict[str, Any]], train_error: float, settings: EvaluationConfig
) -> list[dict[str, str]]:
    """Judges one trained net.

    Args:
        splits: of 'val' and 'test', what `classification.report` tells.
        train_error: percent, over the last log window of training; NaN if not known.
        settings: where good ends.

    Returns:
        Lines of level ('good', 'warning' or 'bad'), subject and text.
    """
    lines = [_baseline(splits["test"])]
    if not math.isnan(train_error):
        lines.append(_underfitting(train_error, settings))
        if "val" in splits:
            lines.append(_overfitting(train_error, splits["val"]["error"], settings))
    lines.append(_low_recall(splits["test"], settings))
    lines.append(_calibration(splits["test"], settings))
    clean = splits["test"].get("deduplicated")
    if clean:
        lines.append(_leakage(splits["test"], clean))
    return lines


def _line(level: str, subject: str, text: str) -> dict[str, str]:
    return {"level": level, "subject": subject, "text": text}


def _baseline(test: dict[str, Any]) -> dict[str, str]:
    base = test["baseline"]
    low, high = (100 - bound for bound in reversed(test["error_interval"]))
    numbers = (
        f"Accuracy {100 * test['accuracy']:.2f} % (95 % interval {low:.2f} to {high:.2f}, "
        f"n = {test['examples']}); always saying {base['class']!r} has "
        f"{100 * base['accuracy']:.2f} %"
    )
    balanced = f"balanced accuracy is {test['balanced_accuracy']:.3f}"
    if base["beaten"]:
        return _line(GOOD, "better than the majority class", f"{numbers}; {balanced}.")
    return _line(
        BAD,
        "not better than the majority class",
        f"{numbers}. The interval does not lie above it: the accuracy says nothing about the "
        f"model; {balanced}.",
    )


def _underfitting(train_error: float, settings: EvaluationConfig) -> dict[str, str]:
    limit = settings.underfitting_error
    numbers = f"Training error {train_error:.2f} %, limit {limit:g} %"
    if train_error <= limit:
        return _line(GOOD, "fits the training images", f"{numbers}.")
    return _line(
        WARNING,
        "underfitting",
        f"{numbers}: the net has not learnt what it was shown; train longer, or with another "
        "learning rate, or a net that can be trained.",
    )


def _overfitting(train: float, val: float, settings: EvaluationConfig) -> dict[str, str]:
    limit, gap = settings.overfitting_gap, val - train
    numbers = f"Val error {val:.2f} %, training error {train:.2f} %: a gap of {gap:.2f} points"
    if gap <= limit:
        return _line(GOOD, "no overfitting", f"{numbers}, limit {limit:g}.")
    return _line(
        WARNING,
        "overfitting",
        f"{numbers}, limit {limit:g}: the net knows its training images better than new ones; "
        "more images, more augmentation or more weight decay.",
    )


def _low_recall(test: dict[str, Any], settings: EvaluationConfig) -> dict[str, str]:
    limit = settings.low_recall
    low = sorted(
        (row for row in test["per_class"] if row["recall"] < limit), key=lambda row: row["recall"]
    )
    if not low:
        return _line(GOOD, "every class is found", f"No class has a recall below {limit:g}.")
    names = ", ".join(
        f"{row['class']} {row['recall']:.2f} ({row['recall_interval'][0]:.2f} to "
        f"{row['recall_interval'][1]:.2f})"
        for row in low[:MOST_NAMES]
    )
    more = f" and {len(low) - MOST_NAMES} more" if len(low) > MOST_NAMES else ""
    return _line(BAD, "classes that are missed", f"Recall below {limit:g} on test: {names}{more}.")


def _calibration(test: dict[str, Any], settings: EvaluationConfig) -> dict[str, str]:
    ece, limit = test["calibration"]["ece"], settings.calibration_error
    numbers = f"Expected calibration error {ece:.3f}, limit {limit:g}"
    if ece <= limit:
        return _line(GOOD, "probabilities can be believed", f"{numbers}.")
    bins = test["calibration"]["bins"]
    over = sum(b["examples"] * (b["confidence"] - b["accuracy"]) for b in bins) > 0
    kind = "higher" if over else "lower"
    return _line(
        WARNING,
        "overconfident" if over else "underconfident",
        f"{numbers}: on average the stated probabilities are {kind} than the shares that are "
        "right; do not read them as such.",
    )


def _leakage(test: dict[str, Any], clean: dict[str, Any]) -> dict[str, str]:
    numbers = (
        f"{clean['removed']} test images have a duplicate in train or val; without them the error "
        f"is {clean['error']:.2f} % instead of {test['error']:.2f} %"
    )
    if not clean["removed"]:
        return _line(GOOD, "no leaked test images", "The audit found no duplicate of a test image.")
    low, high = test["error_interval"]
    if low <= clean["error"] <= high:
        return _line(WARNING, "leaked test images", f"{numbers}: within the interval.")
    return _line(BAD, "leaked test images", f"{numbers}: outside the interval; report the latter.")
