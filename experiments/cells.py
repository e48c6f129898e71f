"""What the tables of reproduced runs say of a number: where it comes from, and how it spreads."""

import dataclasses
import pathlib
from collections.abc import Sequence

from resnet_jax import run_folder
from resnet_jax.report import groups, recipes, tables
from resnet_jax.report.groups import Group
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep, short

ORIGIN = ("n", "iterations", "width", "images", "hardware", "commit")
NOT_RUN = "Not run yet.\n"
IMAGES = {True: "original", False: "a copy", None: "not recorded"}


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """The records of one sweep.

    Attributes:
        folder: below docs/results/reproduction.
        runs: what they say.
    """

    folder: pathlib.Path
    runs: Sweep

    @property
    def iterations(self) -> int:
        """Of its runs."""
        return int(self.runs.groups[0].config["train"]["steps"])

    @property
    def width(self) -> float:
        """Of its nets, as a factor."""
        return float(self.runs.groups[0].config["model"]["width"])


def spread(group: Group, split: groups.Split) -> str:
    """Mean and standard deviation over a net's seeds."""
    mean = group.mean(split)
    text = tables.number(mean.mean) + (f" +- {mean.sd:.2f}" if mean.n > 1 else "")
    return text + (f" ({group.n_diverged} diverged)" if group.n_diverged else "")


def origin(item: Kept, runs: Sequence[Run]) -> tuple[str, ...]:
    """Where the numbers of a net's runs come from, as `ORIGIN` has it."""
    done = sum(run.state == run_folder.COMPLETED for run in runs)
    images = IMAGES[item.runs.dataset.get("original")]
    commits = sorted({short(groups.commit_of(run)) for run in runs})
    width, machines = f"{item.width:g}", _machines(runs)
    return (str(done), f"{item.iterations:,}", width, images, machines, "; ".join(commits))


def _machines(runs: Sequence[Run]) -> str:
    """What runs were computed on, and which of them where if not all on the same."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        machine = " and ".join(sorted(groups.hardware_of(run)))
        seeds.setdefault(machine, set()).add(run.seed)
    if len(seeds) == 1:
        return next(iter(seeds))
    return "; ".join(
        f"{machine}: seed{'s' if len(those) > 1 else ''} {', '.join(map(str, sorted(those)))}"
        for machine, those in seeds.items()
    )


def facts(all_kept: Sequence[Kept], *, each: bool = True) -> dict[str, str]:
    """Of each sweep: how its runs depart from the papers' recipe, what its images are, and JAX.

    Args:
        all_kept: the sweeps.
        each: whether to tell how some runs depart alone, too.
    """
    told = {}
    for item in all_kept:
        dataset = item.runs.dataset
        departures: dict[str, list[str]] = {}
        for group in item.runs.groups:
            for text in recipes.recipe_differences(group.config, dataset):
                departures.setdefault(text, []).append(group.label)
        n = len(item.runs.groups)
        shared = [text for text, labels in departures.items() if len(labels) == n]
        shared.append(f"data set {tables.facts(item.runs)['dataset']}")
        versions = {str(a["versions"]["jax"]) for r in item.runs.runs for a in r.attempts}
        shared.append(f"jax {', '.join(sorted(versions))}")
        some: dict[str, list[str]] = {}
        for text, labels in departures.items():
            if each and len(labels) < n:
                some.setdefault(", ".join(labels), []).append(text)
        shared += [f"{labels} alone: {', '.join(texts)}" for labels, texts in some.items()]
        told[f"Runs of {item.iterations:,} iterations at width {item.width:g}"] = "; ".join(shared)
    return told
