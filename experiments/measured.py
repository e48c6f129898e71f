"""The papers' tables, published beside measured, from kept records, as Markdown."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from configs import cifar_resnet20
from experiments import readings
from experiments.cells import NOT_RUN, ORIGIN, Kept, facts, origin, spread
from experiments.plan import plan
from experiments.reproduce import ITERATIONS, TABLES
from resnet_jax.report import analyses, charts, intervals, published, signals, tables, verdict
from resnet_jax.report.groups import Group
from resnet_jax.report.published import Published
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tables import NOTHING, Table

NET = ("net", "published test error %")
MEASURED = ("measured test error %", "measured training error %")
SPREAD = (
    "Measured: mean and standard deviation over n seeds; test error after the last step, training "
    "error over the last tenth of the steps, of augmented images."
)
TABLE_6, FIG_6 = f"{published.HE_2015}, Table 6", f"{published.HE_2015}, Fig. 6"


def _he_2015(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The residual nets of Table 6, and the plain ones of Fig. 6."""
    papers = [paper for paper in published.PUBLISHED if paper.source == TABLE_6]
    papers += [_plain(depth) for depth in sorted(TABLES["he2015_fig6"].depths)]
    papers = _of_grid("he2015_fig6", papers)
    return _table("He et al. 2015, Table 6 and Fig. 6: CIFAR-10", papers, all_kept)


def _plain(depth: int) -> Published:
    """What is published of a plain net: of the deepest a bound, of the others a curve."""
    net, model = f"plain-{depth}", {"depth": depth, "residual": False}
    drawn = Published(net, None, "a curve, no number", FIG_6, "cifar10", model)
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
    """The curves of every sweep, and the verdict on them."""
    parts = []
    for item in all_kept:
        main = charts.main_series(item.runs.groups)
        ends = "; ".join(
            f"{group.label} ends at {group.mean('train').mean:.1f} % training error"
            if group.n
            else f"all {group.n_diverged} seeds of {group.label} diverged"
            for group in main
        )
        told = [family.text for family in verdict.judge(item.runs).families]
        parts += [_image(item, "fig6.png", ends, near), _caption(item, item.runs.runs), *told]
    return "\n\n".join(parts) + "\n" if parts else NOT_RUN


def _fig_7(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The responses in every sweep that has them, and each net's mean and median over layers."""
    looked = [(item, nets) for item in all_kept if (nets := responses(item.runs))]
    if not looked:
        return NOT_RUN
    images, rows = [], []
    for item, nets in looked:
        ends = []
        for net in nets:
            mean, median = (_plus_minus(over(net.by_run, axis=1)) for over in (np.mean, np.median))
            rows.append((net.label, mean, median, *origin(item, net.runs)))
            ends.append(f"{net.label} has a mean of {mean}")
        images.append(_image(item, "fig7.png", "; ".join(ends), near))
    notes = (
        "Of each run the mean and the median over its layers; here their mean and standard "
        f"deviation over n seeds. Published as curves, without numbers. Of {looked[0][1][0].note}, "
        "whose own statistics BN takes.",
    )
    title = "He et al. 2015, Fig. 7: standard deviation of the layers' responses"
    columns = ("net", "mean over layers", "median over layers", *ORIGIN)
    table = Table(
        *("", title, columns, tuple(rows), frozenset({1, 2, 3, 4, 5})),
        *(facts([item for item, _ in looked]), notes),
    )
    return "\n\n".join([*images, tables.markdown(table)])


def _plus_minus(values: np.ndarray) -> str:
    """Over seeds, a response's mean and deviation; `values`: [seeds]."""
    over = intervals.mean(values.tolist())
    return f"{over.mean:.3f}" + (f" +- {over.sd:.3f}" if over.n > 1 else "")


def responses(sweep: Sweep) -> list[signals.Responses]:
    """The layers' responses of each net after its last step, of completed runs."""
    return signals.responses(analyses.read(sweep, signals.FILE, most=None))


# By table; each is given the records that it is of, and the folder that figures are linked from.
SECTIONS: dict[str, Callable[[Sequence[Kept], pathlib.Path], str]] = {
    "he2015_table6": _he_2015,
    "he2015_fig6": _fig_6,
    "he2015_fig7": _fig_7,
    "he2016_table1": lambda all_kept, near: _he_2016(1, all_kept),
    "he2016_table2": lambda all_kept, near: _he_2016(2, all_kept),
    "ambiguities": readings.told,
}


def _table(title: str, papers: Sequence[Published], all_kept: Sequence[Kept]) -> str:
    """What is measured beside what is published, then what is published alone."""
    left = [(item, group) for item in all_kept for group in item.runs.groups]
    rows: list[tuple[str, ...]] = []
    for paper in papers:
        its = [pair for pair in left if paper.is_of(_at_full_width(pair[1].config))]
        left = [pair for pair in left if pair not in its]
        rows += [(_name(paper), paper.words, *_measured(*pair)) for pair in its]
    measured = {row[0] for row in rows}
    rows += [(group.label, NOTHING, *_measured(item, group)) for item, group in left]
    missing = [(_name(p), p.words) for p in papers if _name(p) not in measured]
    if not rows:
        table = Table("", title, NET, tuple(missing), frozenset(), {}, ("None is run yet.",))
        return tables.markdown(table)
    notes = [SPREAD, f"Published values are of {ITERATIONS:,} iterations at width 1."]
    if any((item.iterations, item.width) != (ITERATIONS, 1) for item in all_kept):
        notes.append(
            "Rows of fewer iterations or narrower nets are for comparison with one another: the "
            "number published beside them is of another run."
        )
    if any("median" in paper.words for paper in papers):
        notes.append("The papers' medians stand beside our means.")
    if missing:
        nets = ", ".join(f"{net} (published: {words})" for net, words in missing)
        notes.append(f"Not run yet: {nets}.")
    columns, numeric = (*NET, *MEASURED, *ORIGIN), frozenset({2, 3, 4, 5, 6})
    table = Table("", title, columns, tuple(rows), numeric, facts(all_kept), tuple(notes))
    return tables.markdown(table)


def _name(paper: Published) -> str:
    order = paper.model.get("activation_order", "original").replace("_", " ")
    return paper.net + (f", {order}" if order != "original" else "")


def _at_full_width(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that a published one is found by; how wide its net is has a column."""
    return {**config, "model": {**config["model"], "width": 1.0}}


def _measured(item: Kept, group: Group) -> tuple[str, ...]:
    """A row from the first measured number on."""
    runs = group.runs + group.diverged
    return (spread(group, "test"), spread(group, "train"), *origin(item, runs))


def _caption(item: Kept, runs: Sequence[Run]) -> str:
    n, iterations, width, _, machines, commit = origin(item, runs)
    data = tables.facts(item.runs)["dataset"]
    return (
        f"{n} runs of {iterations} iterations at width {width}; {data}; {machines}; "
        f"commit {commit}."
    )


def _image(item: Kept, name: str, told: str, near: pathlib.Path) -> str:
    return f"![{told}]({os.path.relpath(item.folder / name, near)})"
