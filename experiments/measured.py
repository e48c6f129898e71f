"""The papers' tables, published beside measured, from kept records, as Markdown."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.reproduce import ITERATIONS, TABLES
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
from resnet_jax.report.sweep import Sweep

MEASURED = ("measured test error %", "measured training error %")
ORIGIN = ("n", "iterations", "images", "hardware", "commit")
NOT_RUN = "Not run yet.\n"
SPREAD = (
    "Measured: mean and standard deviation over n seeds; test error after the last step, training "
    "error over the last tenth of the steps, of augmented images."
)
TABLE_6, FIG_6 = f"{published.HE_2015}, Table 6", f"{published.HE_2015}, Fig. 6"


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


def _table_6(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The residual nets of Table 6, and the plain ones of Fig. 6."""
    papers = [paper for paper in published.PUBLISHED if paper.source == TABLE_6]
    papers += [_plain(depth) for depth in sorted(TABLES["he2015_fig6"].depths)]
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
    return _table(f"He et al. 2016, Table {table}: CIFAR-10", papers, all_kept)


def _fig_6(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The curves of the longest runs of several depths, and the verdict on them."""
    of_depths = [item for item in all_kept if len({g.depth for g in item.runs.groups}) > 1]
    if not of_depths:
        return NOT_RUN
    item = of_depths[0]
    ends = "; ".join(
        f"{group.label} ends at {group.mean('train').mean:.1f} % training error"
        for group in charts.main_series(item.runs.groups)
    )
    told = [family.text for family in verdict.judge(item.runs).families]
    return "\n\n".join([_image(item, "fig6.png", ends, near), *told]) + "\n"


def _fig_7(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """The responses in the longest runs that have them, and each net's mean."""
    for item in all_kept:
        found = analyses.read(item.runs, signals.FILE, most=None)
        if found:
            break
    else:
        return NOT_RUN
    nets = signals.responses(found)
    rows = [
        (label, f"{layers.mean():.3f}", *_origin(item, len(layers)))
        for (label, _, _), layers in nets.items()
    ]
    title = "He et al. 2015, Fig. 7: standard deviation of the layers' responses, mean over layers"
    table = tables.Table(
        *("fig7", title, ("net", "measured", *ORIGIN), tuple(rows), frozenset({1, 2, 3}), {}),
        notes=("Published as curves, without numbers.",),
    )
    ends = "; ".join(f"{row[0]} has a mean of {row[1]}" for row in rows)
    return f"{_image(item, 'fig7.png', ends, near)}\n\n{tables.markdown(table)}"


def _ambiguities(all_kept: Sequence[Kept], near: pathlib.Path) -> str:
    """What each reading of what the paper leaves open changes, by the longest runs."""
    if not all_kept:
        return NOT_RUN
    item = all_kept[0]
    by_label = {group.label: group for group in item.runs.groups}
    rows = []
    for group in by_label.values():
        # Its own reading is that of the net whose label the others' end in.
        net = by_label[min(filter(group.label.endswith, by_label), key=len)]
        cells = []
        for split in ("test", "train"):
            change = intervals.difference(net.final(split), group.final(split))
            told = f"{change.mean:+.2f} ({phrases.interval(change)})"
            cells += [_spread(group, split), tables.NOTHING if group is net else told]
        rows.append((group.label, *cells, *_origin(item, group.n)))
    measured = [name for kind in MEASURED for name in (kind, "difference")]
    columns = ("net and reading", *measured, *ORIGIN)
    title = "What He et al. 2015 leaves open: CIFAR-10"
    return tables.markdown(
        tables.Table("", title, columns, tuple(rows), frozenset({1, 3, 5, 6}), {}, (SPREAD,))
    )


# By table; each is given the records that it is of, and the folder that figures are linked from.
SECTIONS: dict[str, Callable[[Sequence[Kept], pathlib.Path], str]] = {
    "he2015_table6": _table_6,
    "he2015_fig6": _fig_6,
    "he2015_fig7": _fig_7,
    "he2016_table1": lambda all_kept, near: _he_2016(1, all_kept),
    "he2016_table2": lambda all_kept, near: _he_2016(2, all_kept),
    "ambiguities": _ambiguities,
}


def _table(title: str, papers: Sequence[Published], all_kept: Sequence[Kept]) -> str:
    rows: list[tuple[str, ...]] = []
    for paper in papers:
        measured = [
            (
                *(
                    _named(paper.net, group),
                    paper.words,
                    _spread(group, "test"),
                    _spread(group, "train"),
                ),
                *_origin(item, group.n),
            )
            for item in all_kept
            for group in item.runs.groups
            if paper.is_of(_at_full_width(group.config))
        ]
        nothing = (tables.NOTHING, tables.NOTHING, "0", *[tables.NOTHING] * 4)
        rows += measured or [(paper.net, paper.words, *nothing)]
    notes = [SPREAD]
    if not any(item.iterations == ITERATIONS for item in all_kept):
        notes.append(f"Published values are of {ITERATIONS:,} iterations; none of ours is yet.")
    facts = {
        item.folder.name: "; ".join(
            [*_departures(item), f"data set {tables.facts(item.runs)['dataset']}"]
        )
        for item in all_kept
    }
    columns = ("net", "published test error %", *MEASURED, *ORIGIN)
    numeric = frozenset({2, 3, 4, 5})
    return tables.markdown(
        tables.Table("", title, columns, tuple(rows), numeric, facts, tuple(notes))
    )


def _at_full_width(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that a published one may be compared with; what is narrower is named so."""
    return {**config, "model": {**config["model"], "width": 1.0}}


def _named(net: str, group: Group) -> str:
    width = group.config["model"]["width"]
    return net if width == 1 else f"{net}, {width:g} times as wide"


def _spread(group: Group, split: groups.Split) -> str:
    mean = group.mean(split)
    text = tables.number(mean.mean) + (f" +- {mean.sd:.2f}" if mean.n > 1 else "")
    return text + (f" ({group.n_diverged} diverged)" if group.n_diverged else "")


def _origin(item: Kept, n: int) -> tuple[str, ...]:
    """Where numbers come from, as `ORIGIN` has it."""
    facts = tables.facts(item.runs)
    images = "original" if item.runs.dataset.get("original") is True else "a copy"
    return (str(n), f"{item.iterations:,}", images, facts["hardware"], facts["commit"])


def _departures(item: Kept) -> list[str]:
    """In what all runs depart from the papers' recipe."""
    own = [recipes.recipe_differences(g.config, item.runs.dataset) for g in item.runs.groups]
    return [text for text in own[0] if all(text in other for other in own)]


def _image(item: Kept, name: str, told: str, near: pathlib.Path) -> str:
    return f"![{told}]({os.path.relpath(item.folder / name, near)})"
