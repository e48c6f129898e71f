"""Do two trained nets err on the same test images? McNemar's test and a paired bootstrap.

python -m resnet_jax.report.compare runs/fig6/plain-20-seed0 runs/fig6/ResNet-20-seed0
python -m resnet_jax.report.compare runs/fig6 --reference=runs/fig6/plain-20-seed0
python -m resnet_jax.report.compare RUN RUN RUN --out=pairs.json      # or .csv, .md
"""

import dataclasses
import itertools
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from resnet_jax.arguments import Parser
from resnet_jax.errors import InputError
from resnet_jax.report import predictions, shell, tables
from resnet_jax.report.intervals import LEVEL
from resnet_jax.report.predictions import Predictions
from resnet_jax.report.tables import NOTHING, Table, number

RESAMPLES, BOOTSTRAP_SEED = 10_000, 0
# 66 pairs. All pairs of more nets are a table that nobody reads, and Holm's correction eats it up.
MOST_NETS = 12
# Thousands of discordant images can make p smaller than a double can hold.
LEAST_P = 1e-300
FIXED = (
    "These tests take the trained nets as they are: they answer for these nets on new images, not "
    "for nets of other seeds; intervals over seeds are in the report's verdict."
)
METHOD = (
    "p: McNemar's exact test (two-sided binomial on the images that only one net gets wrong); "
    "Holm p: corrected for all rows (Holm 1979); interval: paired bootstrap over images, "
    f"{RESAMPLES:,} resamples, percentiles, seed {BOOTSTRAP_SEED}."
)
SAME_EVERYWHERE = "the difference is the same on every image, so resampling them tells nothing"


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two nets, a and b, on the same images.

    Attributes:
        examples: how many images.
        errors: of a and b, in percent.
        difference: b's error minus a's, in percentage points.
        only_wrong: how many images only a gets wrong, and only b (McNemar's discordant counts).
        p: of McNemar's exact two-sided test. It is 1 where nothing is discordant: the one outcome
            that is then possible has probability 1, and so the pair still counts in Holm's number
            of tests.
        low: lower end of the bootstrap's 95 % interval of the difference; NaN without one.
        high: upper end.
        reason: why there is no interval; "" if there is one.
    """

    examples: int
    errors: tuple[float, float]
    difference: float
    only_wrong: tuple[int, int]
    p: float
    low: float
    high: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One of several comparisons: the names of the nets, and `holm_p`, p corrected for all."""

    a: str
    b: str
    pair: Paired
    holm_p: float


def paired(a: np.ndarray, b: np.ndarray) -> Paired:
    """Compares two nets.

    Args:
        a: whether each image is wrong in the first net: bool [examples], at least one.
        b: the same for the second.
    """
    only_a, only_b, examples = int((a & ~b).sum()), int((b & ~a).sum()), len(a)
    low, high = bootstrap(only_a, only_b, examples)
    return Paired(
        examples=examples,
        errors=(100 * float(a.mean()), 100 * float(b.mean())),
        difference=100 * (only_b - only_a) / examples,
        only_wrong=(only_a, only_b),
        p=mcnemar(only_a, only_b),
        low=low,
        high=high,
        reason=SAME_EVERYWHERE if math.isnan(low) else "",
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value that discordant images fall on either side alike; 1 if none."""
    if only_a + only_b == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def bootstrap(only_a: int, only_b: int, examples: int) -> tuple[float, float]:
    """The 95 % percentile interval of b's error minus a's, in points, over resampled images.

    An image counts -1, 0 or +1, so drawing images with replacement is drawing three counts from a
    multinomial distribution. NaN where all images count alike: every resample is then the same,
    and a width of 0 would claim a certainty that is not there.
    """
    counts = np.array([only_a, only_b, examples - only_a - only_b])
    if counts.max() == examples:
        return math.nan, math.nan
    random = np.random.RandomState(BOOTSTRAP_SEED)
    drawn = random.multinomial(examples, counts / examples, size=RESAMPLES)
    differences = 100 * (drawn[:, 1] - drawn[:, 0]) / examples
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down procedure, in the order given.

    Holm (1979), Scandinavian Journal of Statistics 6: the k-th smallest of m is multiplied by
    m - k + 1, is at least what the smaller ones became, and at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values, float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def cells(pair: Paired, adjusted: float) -> list[str]:
    """A comparison in a table: difference, interval, only a wrong, only b wrong, p, Holm p."""
    interval = NOTHING if pair.reason else f"{pair.low:.2f} to {pair.high:.2f}"
    p_values = [f"{p:.3g}" if p > LEAST_P else f"< {LEAST_P:g}" for p in (pair.p, adjusted)]
    return [f"{pair.difference:+.2f}", interval, *map(str, pair.only_wrong), *p_values]


def compare(nets: Sequence[Predictions], *, with_first: bool = False) -> list[Comparison]:
    """Compares nets on the test images: all pairs, or each with the first one only.

    Raises:
        InputError: if there are fewer than two, or they were not measured on the same images.
    """
    if len(nets) < 2:
        raise InputError("a comparison needs two nets; give another run")
    wrong = predictions.align(nets, "test").wrong
    chosen = list(itertools.combinations(range(len(nets)), 2))
    chosen = chosen[: len(nets) - 1] if with_first else chosen
    pairs = [paired(wrong[i], wrong[j]) for i, j in chosen]
    adjusted = holm([pair.p for pair in pairs])
    return [
        Comparison(nets[i].name, nets[j].name, pair, holm_p)
        for (i, j), pair, holm_p in zip(chosen, pairs, adjusted, strict=True)
    ]


def as_table(nets: Sequence[Predictions], comparisons: Sequence[Comparison]) -> Table:
    """One row a comparison."""
    columns = (
        *("a", "b", "n", "a's test error %", "b's test error %", "b - a", "95 % interval"),
        *("only a wrong", "only b wrong", "p", "Holm p"),
    )
    return Table(
        name="comparisons",
        title=f"The same {comparisons[0].pair.examples:,} test images",
        columns=columns,
        rows=tuple(
            (c.a, c.b, "1", *map(number, c.pair.errors), *cells(c.pair, c.holm_p))
            for c in comparisons
        ),
        numeric=frozenset(range(2, len(columns))),
        facts=shell.origin(nets),
        notes=(*shell.unusual_steps(nets), METHOD, FIXED),
    )


def as_json(nets: Sequence[Predictions], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The same as data; numbers that are not there are NaN, with a reason."""
    return {
        "notes": [METHOD, FIXED],
        "origin": shell.origin(nets),
        "nets": [{"name": net.name, "step": net.step} for net in nets],
        "comparisons": [
            {"a": c.a, "b": c.b, **dataclasses.asdict(c.pair), "holm_p": c.holm_p}
            for c in comparisons
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares runs and prints a table; returns the exit code."""
    parser = Parser(
        prog="python -m resnet_jax.report.compare",
        description="Compares trained nets on the same test images, from run folders alone.",
    )
    parser.add_argument(
        "runs", type=pathlib.Path, nargs="+", help="runs' folders, prediction files, or a sweep's"
    )
    parser.add_argument("--reference", type=pathlib.Path, help="compare each with this run only")
    parser.add_argument("--out", type=pathlib.Path, help="also write FILE.json, .csv or .md")
    flags = parser.parse_args(arguments)
    return shell.answer(lambda: _run(flags.runs, flags.reference, flags.out))


def _run(
    paths: Sequence[pathlib.Path], reference: pathlib.Path | None, out: pathlib.Path | None
) -> None:
    shell.check_out(out, (".json", ".csv", ".md"))
    nets, left_out = predictions.gather(paths)
    if reference is not None:
        first = predictions.read(reference)
        others = [net for net in nets if net.path.resolve() != first.path.resolve()]
        nets = predictions.distinct([first, *others])
    elif len(nets) > max(MOST_NETS, len(paths)):
        raise InputError(
            f"{paths[0]} holds {len(nets)} completed runs, more than the {MOST_NETS} of which all "
            "pairs are compared; name the runs, or give --reference=RUN"
        )
    comparisons = compare(nets, with_first=reference is not None)
    table = as_table(nets, comparisons)
    shell.show([table], left_out)
    if out is not None:
        render = {".csv": tables.to_csv, ".md": tables.markdown}.get(out.suffix)
        shell.write(out, render(table) if render else as_json(nets, comparisons))


if __name__ == "__main__":
    sys.exit(main())
