"""Means, differences and their 95 % intervals over seeds, by Student's t."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

LEVEL = 0.95
POWER = 0.8
# Beyond this an estimate of the number of seeds says nothing that can be acted upon.
MOST_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        mean: NaN if n is 0.
        sd: standard deviation with n - 1 in the denominator; NaN if n < 2.
        n: how many seeds.
        low: lower end of the 95 % t-interval; NaN if n < 2.
        high: upper end.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of b minus the mean of a.

    Attributes:
        mean: the difference; NaN if either side has no value.
        low: lower end of the 95 % interval; NaN without one.
        high: upper end.
        method: 'paired' by seed, 'Welch', or 'no interval'.
        n: seeds on either side that were used (a, b).
        left_out: seeds that are only on one side of a paired comparison.
        sd: of the paired differences, or the two sides' root mean variance; NaN without interval.
        outcome: of b against a: 'higher', 'lower' or 'cannot tell'. Without an interval, the sign
            of the difference.
        seeds_needed: an estimate of the seeds on each side with which a t-test at the 5 % level
            would show a difference of this size with 80 % power, taking the measured spread for
            the true one; None where the interval leaves out 0, and where no number up to 1,000
            suffices.
    """

    mean: float
    low: float
    high: float
    method: str
    n: tuple[int, int]
    left_out: tuple[int, ...]
    sd: float
    outcome: str
    seeds_needed: int | None

    @property
    def has_interval(self) -> bool:
        """Whether there are seeds enough for one."""
        return self.method != "no interval"


def mean(values: Sequence[float]) -> Mean:
    """Mean, deviation and t-interval of values of independent seeds."""
    n = len(values)
    average = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Mean(average, math.nan, n, math.nan, math.nan)
    sd = float(np.std(values, ddof=1))
    half = quantile(n - 1) * sd / math.sqrt(n)
    return Mean(average, sd, n, average - half, average + half)


def difference(
    a: Mapping[int, float], b: Mapping[int, float], *, paired: bool = True
) -> Difference:
    """The change from a to b, with an interval where there are seeds enough.

    Args:
        a: value by seed.
        b: value by seed. Where at least two seeds are on both sides, only those count, as pairs;
            else all do, by Welch's formula.
        paired: False if a seed gives two runs nothing in common, so that all count on their own.
    """
    shared = sorted(a.keys() & b.keys())
    if paired and len(shared) >= 2:
        change = np.array([b[seed] - a[seed] for seed in shared])
        sd, n = float(change.std(ddof=1)), len(shared)
        left_out = tuple(sorted(a.keys() ^ b.keys()))
        error, freedom = sd / math.sqrt(n), float(n - 1)
        return _difference(float(change.mean()), error, freedom, "paired", (n, n), left_out, sd)
    sizes = (len(a), len(b))
    gap = math.nan
    if a and b:
        gap = float(np.mean(list(b.values())) - np.mean(list(a.values())))
    if min(sizes) < 2:
        return Difference(
            *(gap, math.nan, math.nan, "no interval", sizes, (), math.nan),
            outcome=_outcome(gap, gap),
            seeds_needed=None,
        )
    squares = [float(np.var(list(side.values()), ddof=1)) / len(side) for side in (a, b)]
    parts = sum(q * q / (size - 1) for q, size in zip(squares, sizes, strict=True))
    freedom = sum(squares) ** 2 / parts if parts > 0 else float(sum(sizes) - 2)
    sd = math.sqrt(sum(q * size for q, size in zip(squares, sizes, strict=True)) / 2)
    return _difference(gap, math.sqrt(sum(squares)), freedom, "Welch", sizes, (), sd)


def seeds_needed(size: float, sd: float, *, paired: bool) -> int | None:
    """The smallest number of seeds a side whose t-test at 5 % has 80 % power, at most 1,000.

    Args:
        size: the true difference that is to be shown.
        sd: of the paired differences, or of one side's values.
        paired: whether the test is paired, else of two independent sides.

    Returns:
        At least 2, or None if no number up to 1,000 suffices.
    """
    if not size or not math.isfinite(size) or not math.isfinite(sd):
        return None
    if sd == 0:
        return 2
    n = np.arange(2, MOST_SEEDS + 1)
    freedom = n - 1 if paired else 2 * n - 2
    noncentrality = abs(size) / sd * np.sqrt(n if paired else n / 2)
    critical = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)
    # Far out the noncentral t is not needed, and SciPy's loses its digits: the power is 1.
    power = scipy.stats.nct.sf(critical, freedom, np.minimum(noncentrality, 30.0))
    enough = n[np.nan_to_num(power, nan=1.0) >= POWER]
    return int(enough[0]) if len(enough) else None


def quantile(freedom: float) -> float:
    """Student's t below which 97.5 % lie: half of a 95 % interval, in standard errors."""
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom))


def _outcome(low: float, high: float) -> str:
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "cannot tell"


def _difference(
    gap: float,
    error: float,
    freedom: float,
    method: str,
    n: tuple[int, int],
    left_out: tuple[int, ...],
    sd: float,
) -> Difference:
    low, high = gap - quantile(freedom) * error, gap + quantile(freedom) * error
    outcome = _outcome(low, high)
    needed = None
    if outcome == "cannot tell":
        needed = seeds_needed(gap, sd, paired=method == "paired")
    return Difference(gap, low, high, method, n, left_out, sd, outcome, needed)
