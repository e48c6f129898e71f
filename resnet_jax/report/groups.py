"""Runs of one label, and what tells two runs apart."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from resnet_jax.report import intervals, records
from resnet_jax.report.records import Curve, Run

Split = Literal["train", "val", "test"]
# A run's folder: its label, and which of its label's seeds it is.
NAME = re.compile(r"(?P<label>.+)-seed(?P<seed>\d{1,10})", re.DOTALL)
# Fields that cannot change what a run computes (`operational` in config/schema.py), or that only
# name its verdict; a final dot stands for all of a part.
NO_EFFECT = (
    *("data.data_dir", "data.workers", "data.max_unreadable"),
    *("train.eval_interval", "train.eval_batch_size"),
    *("train.checkpoint_interval", "train.keep_checkpoints", "train.steps_per_call"),
    *("train.block_loop", "train.recompute_blocks", "train.deterministic"),
    *("train.check", "transfer.features_dir"),
    *("train.not_converged_error", "parallel.", "log.", "evaluation."),
)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanCurve:
    """A curve over seeds.

    Attributes:
        steps: int [points].
        mean: [points].
        low: lower edge of the band [points], or None with one seed.
        high: upper edge.
        band: what the band is, in words; "" with one seed.
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    band: str


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The runs of one label, which differ in nothing but the seed.

    Attributes:
        label: the folders' common name.
        runs: completed ones, by seed.
        diverged: runs whose loss was not finite: counted and drawn, never averaged.
    """

    label: str
    runs: tuple[Run, ...]
    diverged: tuple[Run, ...]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that its runs share, but for the seed."""
        return (self.runs + self.diverged)[0].config

    @property
    def family(self) -> Literal["plain", "residual"]:
        """Without or with shortcuts."""
        return "residual" if self.config["model"]["residual"] else "plain"

    @property
    def depth(self) -> int:
        """Layers with weights."""
        return int(self.config["model"]["depth"])

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the completed runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def n(self) -> int:
        """The number of completed runs, over which means are taken."""
        return len(self.runs)

    @property
    def n_diverged(self) -> int:
        """The number of diverged runs."""
        return len(self.diverged)

    def seed_by_seed(self, other: "Group") -> Iterator[tuple[Run, Run]]:
        """Its completed runs, each with the other group's of the same seed, if there is one."""
        theirs = {run.seed: run for run in other.runs}
        for run in self.runs:
            if run.seed in theirs:
                yield run, theirs[run.seed]

    def final(self, split: Split) -> dict[int, float]:
        """Final error in percent, by seed: of train over the last tenth of the steps."""
        values = {
            run.seed: run.final_train_error if split == "train" else run.final_error(split)
            for run in self.runs
        }
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def mean(self, split: Split) -> intervals.Mean:
        """Mean final error in percent over seeds."""
        return intervals.mean(list(self.final(split).values()))

    def curve(self, split: str, metric: str) -> MeanCurve:
        """Mean and band over seeds.

        Runs may have been logged at other steps: all are read off, linearly between records, at
        the steps of the run with the fewest, within what all of them cover.
        """
        curves = [run.curve(split, metric) for run in self.runs]
        curves = [curve for curve in curves if len(curve[0])]
        if not curves:
            return MeanCurve(np.zeros(0, int), np.zeros(0), None, None, "")
        steps = min((curve[0] for curve in curves), key=len)
        first, last = (max(c[0][0] for c in curves), min(c[0][-1] for c in curves))
        steps = steps[(steps >= first) & (steps <= last)]
        values = np.stack([_at(steps, curve) for curve in curves])
        average, n = values.mean(0), len(curves)
        if n == 1:
            return MeanCurve(steps, average, None, None, "")
        if n == 2:
            return MeanCurve(steps, average, values.min(0), values.max(0), band_name(n))
        half = intervals.quantile(n - 1) * values.std(0, ddof=1) / math.sqrt(n)
        return MeanCurve(steps, average, average - half, average + half, band_name(n))


def band_name(n: int) -> str:
    """What the band or bar around a mean over n seeds is, in words."""
    if n < 2:
        return ""
    return "range of 2 seeds" if n == 2 else f"95 % t-interval of {n} seeds"


def band_names(members: Sequence[Group], what: str) -> str:
    """What the bands or bars of several groups are, in words.

    Args:
        members: the groups that are drawn.
        what: 'bands' or 'bars'.
    """
    sizes = sorted({group.n for group in members if group.n > 1})
    if not sizes:
        return f"no {what}: one seed each"
    if len(sizes) == 1:
        return f"{what}: {band_name(sizes[0])}"
    if sizes[0] > 2:
        return f"{what}: 95 % t-interval of {sizes[0]} to {sizes[-1]} seeds"
    return f"{what}: 95 % t-interval, or the range where there are 2 seeds"


def label_of(run: Run) -> str:
    """What a run is called beside others: its folder's name without the seed."""
    match = NAME.fullmatch(run.name)
    return match["label"] if match else run.name


def commit_of(run: Run) -> str | None:
    """The commit of the last attempt."""
    return run.attempts[-1].get("commit") if run.attempts else None


def dataset_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Name and, where provenance tells it, fingerprint of the runs' data set."""
    if not runs:
        return {}
    described = runs[0].attempts[-1].get("dataset") if runs[0].attempts else None
    name = runs[0].config["data"]["name"]
    return {"name": name, **(described if isinstance(described, dict) else {})}


def hardware_of(run: Run) -> set[str]:
    """What a run was computed on, one string an attempt."""
    names = set()
    for attempt in run.attempts:
        devices = collections.Counter(map(str, attempt.get("devices") or ["unknown device"]))
        text = " + ".join(f"{k} x {name}" if k > 1 else name for name, k in devices.items())
        machine = attempt.get("hardware")
        if isinstance(machine, dict) and machine.get("processor"):
            cores = machine.get("usable_cores")
            text += f" ({machine['processor']}, {cores} {'core' if cores == 1 else 'cores'})"
        names.add(text)
    return names


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Fields that can change results and differ, as 'model.depth: 20, not 56'; seeds excepted."""
    a, b = effective(one), effective(other)
    return [
        f"{key}: {a.get(key, 'absent')}, not {b.get(key, 'absent')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, "absent") != b.get(key, "absent")
    ]


def effective(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration without the seed and without what cannot change results.

    What is measured of a trained net, and what its rate follows, count all the same.
    """
    skip = (*NO_EFFECT, "train.seed")
    flat = records.flatten(config)
    kept = {k: v for k, v in flat.items() if not k.startswith(skip)}
    if flat.get("evaluation.crops", "center") != "center":
        kept["evaluation.crops"] = flat["evaluation.crops"]
    if flat.get("optimizer.schedule") == "plateau":
        kept["train.eval_interval"] = flat["train.eval_interval"]
    return kept


def _at(steps: np.ndarray, curve: Curve) -> np.ndarray:
    if np.array_equal(steps, curve[0]):
        return curve[1]
    values: np.ndarray = np.interp(steps, *curve)
    return values


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What nets of different depth must share to be compared: all but depth, family and warm-up.

    The papers start some depths with a warm-up and others without, and call it one recipe.
    """
    apart = ("model.depth", "model.residual", "optimizer.warmup")
    return {k: v for k, v in effective(config).items() if not k.startswith(apart)}


def warm_up(config: Mapping[str, Any]) -> str:
    """How training starts, in words."""
    get = lambda name: records.field(config, f"optimizer.{name}")  # noqa: E731
    kind = get("warmup")
    if kind in (None, "none"):
        return "no warm-up"
    end = f"error below {get('warmup_error'):g} %"
    if kind != "until_error":
        end = f"step {get('warmup_steps'):,}"
    return f"{kind} warm-up at {get('warmup_learning_rate'):g} until {end}"
