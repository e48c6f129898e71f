"""The papers' tables, published beside measured, from kept records, as Markdown."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from configs import cifar_resnet20
from experiments.plan import plan
from experiments.reproduce import ITERATIONS, TABLES
from resnet_jax import run_folder
from resnet_jax.report import (
    analyses,
    charts,
    groups,
    intervals,
    phrases,
    published,
    recipes,
    signals,
    tables,
    verdict,
)
from resnet_jax.report.groups import Group
from resnet_jax.report.published import Published
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep, short
from resnet_jax.report.tables import NOTHING, Table

MEASURED = ("measured test error %", "measured training error %")
ORIGIN = ("n", "iterations", "images", "hardware", "commit")
NOT_RUN = "Not run yet.\n"
SPREAD = (
    "Measured: mean and standard deviation over n seeds; test error after the last step, training "
    "error over the last tenth of the steps, of augmented images."
)
TABLE_6, FIG_6 = f"{published.HE_2015}, Table 6", f"{published.HE_2015}, Fig. 6"
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


def _he_2015(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The residual nets of Table 6, and the plain ones of Fig. 6."""
    papers = [paper for paper in published.PUBLISHED if paper.source == TABLE_6]
    papers += [_plain(depth) for depth in sorted(TABLES["he2015_fig6"].depths)]
    papers = _of_grid("he2015_fig6", papers)
    return _table("He et al. 2015, Table 6 and Fig. 6: CIFAR-10", papers, all_kept)


def _plain(depth: int) -> Published:
    """What is published of a plain net: of the deepest a bound, of the others a curve."""
    net, model = f"plain-{depth}", {"depth": depth, "residual": False}
    drawn = Published(net, None, "a curve", FIG_6, "cifar10", model)
    return next((paper for paper in published.PUBLISHED if paper.net == net), drawn)


def _he_2016(table: int, all_kept: Sequence[Kept]) -> str:
    """A table of He et al. 2016; the original net of depth 110 is published in 2015's."""
    original = [p for p in published.PUBLISHED if p.source == TABLE_6 and p.model["depth"] == 110]
    source = f"{published.HE_2016}, Table {table}"
    papers = original + [paper for paper in published.PUBLISHED if paper.source == source]
    papers = _of_grid(f"he2016_table{table}", papers)
    return _table(f"He et al. 2016, Table {table}: CIFAR-10", papers, all_kept)


def _of_grid(name: str, papers: Iterable[Published]) -> list[Published]:
    """Those that a table's grid has a run of: He et al. 2016 also name what is between two rows."""
    table = TABLES[name]
    rows = table.rows(depths=table.depths, families=table.families, seeds=[0])
    runs = plan(cifar_resnet20.get_config(), rows, pathlib.Path("runs"))
    configs = [dataclasses.asdict(run.config) for run in runs]
    return [paper for paper in papers if any(map(paper.is_of, configs))]


def _fig_6(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The curves of the sweep with the most nets, and the verdict on them."""
    item = _fullest(all_kept)
    if item is None:
        return NOT_RUN
    main = charts.main_series(item.runs.groups)
    ends = "; ".join(
        f"{group.label} ends at {group.mean('train').mean:.1f} % training error"
        if group.n
        else f"all {group.n_diverged} seeds of {group.label} diverged"
        for group in main
    )
    told = [family.text for family in verdict.judge(item.runs).families]
    image = _image(item, "fig6.png", ends, near)
    return "\n\n".join([image, _caption(item, item.runs.runs), *told]) + "\n"


def _fullest(all_kept: Sequence[Kept]) -> Kept | None:
    """The sweep with the most nets; of several the first."""
    return max(all_kept, key=lambda item: len(item.runs.groups), default=None)


def _fig_7(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The responses in the sweep with the most nets that have them, and each net's mean."""
    looked = [(item, responses(item.runs)) for item in all_kept]
    item, nets = max(looked, key=lambda pair: len(pair[1]), default=(None, []))
    if item is None or not nets:
        return NOT_RUN
    rows = [
        (
            _named(net.label, net.runs[0].config),
            f"{net.layers.mean():.3f}",
            *_origin(item, net.runs),
        )
        for net in nets
    ]
    title = "He et al. 2015, Fig. 7: standard deviation of the layers' responses, mean over layers"
    notes = (f"Published as curves, without numbers. Of {nets[0].note}.",)
    columns = ("net", "measured", *ORIGIN)
    table = Table("", title, columns, tuple(rows), frozenset({1, 2, 3}), _facts([item]), notes)
    ends = "; ".join(f"{row[0]} has a mean of {row[1]}" for row in rows)
    return f"{_image(item, 'fig7.png', ends, near)}\n\n{tables.markdown(table)}"


def responses(sweep: Sweep) -> list[signals.Responses]:
    """The layers' responses of each net after its last step, of completed runs."""
    return signals.responses(analyses.read(sweep, signals.FILE, most=None))


def _ambiguities(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """What each reading of what the paper leaves open changes, by the sweep with the most."""
    item = _fullest(all_kept)
    if item is None:
        return NOT_RUN
    by_label = {group.label: group for group in item.runs.groups}
    rows = []
    for group in by_label.values():
        # Its own reading is that of the net whose label the others' end in.
        net = by_label[min(filter(group.label.endswith, by_label), key=len)]
        cells = []
        for split in ("test", "train"):
            change = intervals.difference(net.final(split), group.final(split))
            told = f"{change.mean:+.2f} ({phrases.interval(change)})"
            cells += [_spread(group, split), NOTHING if group is net else told]
        label = _named(group.label, group.config)
        rows.append((label, *cells, *_origin(item, group.runs + group.diverged)))
    measured = [name for kind in MEASURED for name in (kind, "difference")]
    columns = ("net and reading", *measured, *ORIGIN)
    title = "What He et al. 2015 leaves open: CIFAR-10"
    numeric = frozenset({1, 3, 5, 6})
    table = Table("", title, columns, tuple(rows), numeric, _facts([item]), (SPREAD,))
    return tables.markdown(table)


# By table; each is given the records that it is of, and the folder that figures are linked from.
SECTIONS: dict[str, Callable[[Sequence[Kept], pathlib.Path], str]] = {
    "he2015_table6": _he_2015,
    "he2015_fig6": _fig_6,
    "he2015_fig7": _fig_7,
    "he2016_table1": lambda all_kept, near: _he_2016(1, all_kept),
    "he2016_table2": lambda all_kept, near: _he_2016(2, all_kept),
    "ambiguities": _ambiguities,
}


def _table(title: str, papers: Sequence[Published], all_kept: Sequence[Kept]) -> str:
    rows: list[tuple[str, ...]] = []
    for paper in papers:
        order = paper.model.get("activation_order", "original").replace("_", " ")
        net = paper.net + (f", {order}" if order != "original" else "")
        measured = [
            (
                *(_named(net, group.config), paper.words),
                *(_spread(group, "test"), _spread(group, "train")),
                *_origin(item, group.runs + group.diverged),
            )
            for item in all_kept
            for group in item.runs.groups
            if paper.is_of(_at_full_width(group.config))
        ]
        rows += measured or [(net, paper.words, NOTHING, NOTHING, "0", *[NOTHING] * 4)]
    notes = [SPREAD]
    if any("median" in paper.words for paper in papers):
        notes.append("The papers' medians stand beside our means.")
    if not any(item.iterations == ITERATIONS for item in all_kept):
        notes.append(f"Published values are of {ITERATIONS:,} iterations; none of ours is yet.")
    columns = ("net", "published test error %", *MEASURED, *ORIGIN)
    numeric, facts = frozenset({2, 3, 4, 5}), _facts(all_kept)
    return tables.markdown(Table("", title, columns, tuple(rows), numeric, facts, tuple(notes)))


def _at_full_width(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that a published one may be compared with; what is narrower is named so."""
    return {**config, "model": {**config["model"], "width": 1.0}}


def _named(net: str, config: Mapping[str, Any]) -> str:
    width = config["model"]["width"]
    return net if width == 1 else f"{net}, {width:g} times as wide"


def _spread(group: Group, split: groups.Split) -> str:
    mean = group.mean(split)
    text = tables.number(mean.mean) + (f" +- {mean.sd:.2f}" if mean.n > 1 else "")
    return text + (f" ({group.n_diverged} diverged)" if group.n_diverged else "")


def _origin(item: Kept, runs: Sequence[Run]) -> tuple[str, ...]:
    """Where the numbers of a net's runs come from, as `ORIGIN` has it."""
    done = sum(run.state == run_folder.COMPLETED for run in runs)
    hardware = sorted({name for run in runs for name in groups.hardware_of(run)})
    commits = sorted({short(groups.commit_of(run)) for run in runs})
    images = IMAGES[item.runs.dataset.get("original")]
    return (str(done), f"{runs[0].steps:,}", images, "; ".join(hardware), "; ".join(commits))


def _caption(item: Kept, runs: Sequence[Run]) -> str:
    n, iterations, _, hardware, commit = _origin(item, runs)
    width = "" if item.width == 1 else f"nets {item.width:g} times as wide; "
    data = tables.facts(item.runs)["dataset"]
    return f"{n} runs of {iterations} iterations; {width}{data}; {hardware}; commit {commit}."


def _facts(all_kept: Sequence[Kept]) -> dict[str, str]:
    """Of each sweep: how its runs depart from the papers' recipe, and what its images are."""
    facts = {}
    for item in all_kept:
        dataset = item.runs.dataset
        own = {g.label: recipes.recipe_differences(g.config, dataset) for g in item.runs.groups}
        shared = [t for t in next(iter(own.values())) if all(t in other for other in own.values())]
        told = [*shared, f"data set {tables.facts(item.runs)['dataset']}"]
        told += [
            f"{label} alone: {text}"
            for label, texts in own.items()
            for text in texts
            if text not in shared
        ]
        facts[item.folder.name] = "; ".join(told)
    return facts


def _image(item: Kept, name: str, told: str, near: pathlib.Path) -> str:
    return f"![{told}]({os.path.relpath(item.folder / name, near)})"
