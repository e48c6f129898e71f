"""What the mean of several nets' softmax predicts, and which of them to take, chosen on val."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats

from resnet_jax.errors import InputError
from resnet_jax.report import predictions
from resnet_jax.report.intervals import LEVEL
from resnet_jax.report.predictions import Aligned, Predictions

# With as many members all subsets, 1,023, are looked at; with more, those that greed finds.
EXHAUSTIVE = 10


@dataclasses.dataclass(frozen=True)
class Measured:
    """One net or ensemble on one split.

    Attributes:
        examples: how many images.
        error: in percent.
        low: lower end of Wilson's 95 % interval of the error.
        high: upper end.
        loss: mean cross-entropy of the (averaged) probabilities, in nats.
    """

    examples: int
    error: float
    low: float
    high: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Selection:
    """The members that are best on val.

    Attributes:
        method: how they were looked for, in words.
        members: indices, in the order given; empty if nothing could be chosen.
        val_error: of their ensemble, in percent; low by choice. NaN if nothing could be chosen.
        test: their ensemble on test, measured once; None if nothing could be chosen.
        reason: why nothing could be chosen; "" otherwise.
    """

    method: str
    members: tuple[int, ...]
    val_error: float
    test: Measured | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """All members together, against each of them.

    Attributes:
        members: each alone, on test.
        together: the mean of all members' softmax, on test.
        disagreement: share of test images with different predicted classes, [members][members].
        mean_disagreement: over all pairs; NaN with one member, which has none to differ from.
        selection: the best on val.
    """

    members: tuple[Measured, ...]
    together: Measured
    disagreement: tuple[tuple[float, ...], ...]
    mean_disagreement: float
    selection: Selection


def average(probabilities: np.ndarray, members: Sequence[int]) -> np.ndarray:
    """The mean over chosen members of [members, examples, classes]: [examples, classes]."""
    mean: np.ndarray = probabilities[list(members)].mean(0)
    return mean


def measure(logits: np.ndarray, labels: np.ndarray) -> Measured:
    """The ensemble of all nets given.

    Args:
        logits: float [nets, examples, classes].
        labels: int [examples].
    """
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    wrong = int((np.exp(log_p).mean(0).argmax(-1) != labels).sum())
    # Of logarithms, so that a class that all members think impossible has a finite loss.
    of_labels = log_p[:, np.arange(len(labels)), labels]
    losses = math.log(len(logits)) - scipy.special.logsumexp(of_labels, axis=0)
    interval = scipy.stats.binomtest(wrong, len(labels)).proportion_ci(LEVEL, method="wilson")
    return Measured(
        examples=len(labels),
        error=100 * wrong / len(labels),
        low=100 * float(interval.low),
        high=100 * float(interval.high),
        loss=float(losses.mean()),
    )


def disagreement(predicted: np.ndarray) -> np.ndarray:
    """Share of examples on which two nets differ: int [nets, examples] to float [nets, nets]."""
    return np.array([(predicted != own).mean(-1) for own in predicted])


def best_subset(logits: np.ndarray, labels: np.ndarray) -> tuple[tuple[int, ...], str]:
    """The members whose ensemble has the lowest error, and how they were looked for.

    All subsets are looked at, or, of more than 10 members, those of greedy forward selection
    (Caruana et al. 2004, Sec. 2: add the member that lowers the error most until all are in, and
    take the best on the way). Ties go to the smaller subset, then to the order given.

    Args:
        logits: float [members, examples, classes], of val.
        labels: int [examples].
    """
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=-1)

    def wrong(members: Sequence[int]) -> int:
        return int((average(probabilities, members).argmax(-1) != labels).sum())

    count = len(logits)
    if count <= EXHAUSTIVE:
        sizes = range(1, count + 1)
        subsets = [s for size in sizes for s in itertools.combinations(range(count), size)]
        return min(subsets, key=wrong), f"all {len(subsets):,} subsets"
    chosen: tuple[int, ...] = ()
    path = []
    for _ in range(count):
        larger = [tuple(sorted({*chosen, i})) for i in range(count) if i not in chosen]
        chosen = min(larger, key=wrong)
        path.append(chosen)
    return min(path, key=wrong), "greedy forward selection (Caruana et al. 2004)"


def select(nets: Sequence[Predictions], test: Aligned) -> Selection:
    """Chooses members on val and measures their ensemble on test, once."""
    nothing = Selection("none", (), math.nan, None, "")
    without = [net.name for net in nets if "val" not in net.splits]
    if without:
        reason = f"no predictions for val: {', '.join(without)}"
        return dataclasses.replace(nothing, reason=reason)
    try:
        val = predictions.align(nets, "val")
    except InputError as error:  # what is val to one may have trained another
        return dataclasses.replace(nothing, reason=str(error))
    members, method = best_subset(val.logits, val.labels)
    chosen = list(members)
    return Selection(
        method=method,
        members=members,
        val_error=measure(val.logits[chosen], val.labels).error,
        test=measure(test.logits[chosen], test.labels),
        reason="",
    )


def combine(nets: Sequence[Predictions]) -> Ensemble:
    """Measures the ensemble of nets.

    Raises:
        InputError: if they were not measured on the same test images.
    """
    test = predictions.align(nets, "test")
    differ = disagreement(test.predicted)
    above = differ[np.triu_indices(len(nets), 1)]
    return Ensemble(
        members=tuple(measure(logits[None], test.labels) for logits in test.logits),
        together=measure(test.logits, test.labels),
        disagreement=tuple(map(tuple, differ.tolist())),
        mean_disagreement=float(above.mean()) if len(above) else math.nan,
        selection=select(nets, test),
    )
