"""Tables: published against measured, by label, by run; to Markdown, CSV and LaTeX.

Every table carries commit, data set and hardware: below it in Markdown and LaTeX; columns in CSV.
"""

import csv
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.report import published, recipes, records
from resnet_jax.report.groups import Group, commit_of, hardware_of
from resnet_jax.report.style import dataset_name
from resnet_jax.report.sweep import Sweep, short

NOTHING = "-"
LATEX = {
    **{c: f"\\{c}" for c in "{}$&#%_"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of words.

    Attributes:
        name: of its files.
        title: above it.
        columns: headings.
        rows: cells, as many in each as there are columns.
        numeric: the columns that are set flush right.
        facts: what holds for all of it: commit, dataset, hardware.
        notes: sentences below it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int]
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """What holds for all of it, in one line."""
        facts = "; ".join(f"{name}: {value}" for name, value in self.facts.items())
        return " ".join([*([f"{facts}."] if facts else []), *self.notes])


def all_tables(sweep: Sweep) -> list[Table]:
    """Every table of a report that its records alone give."""
    return [against_published(sweep), by_label(sweep), by_run(sweep)]


def against_published(sweep: Sweep) -> Table:
    """Published and measured test error, their difference, and how the recipes differ.

    Differences of recipe that all rows share stand with what holds for the whole table.
    """
    columns = [
        *("net", "published test error %", "source", "measured test error %"),
        *("standard deviation", "n", "difference", "recipe differences"),
    ]
    departures = [recipes.recipe_differences(g.config, sweep.dataset) for g in sweep.groups]
    shared = [text for text in departures[0] if all(text in own for own in departures)]
    shared = shared if len(departures) > 1 else []
    rows = []
    for group, own in zip(sweep.groups, departures, strict=True):
        paper, mean = published.find(group.config), group.mean("test")
        gap = NOTHING
        if paper and paper.value is not None and mean.n:
            gap = f"{mean.mean - paper.value:+.2f}"
        rows.append(
            (
                group.label,
                paper.words if paper else NOTHING,
                paper.source if paper else NOTHING,
                _measured(group, mean.mean),
                number(mean.sd),
                str(mean.n),
                gap,
                "; ".join(text for text in own if text not in shared) or NOTHING,
            )
        )
    notes = ["The test error is the last step's."]
    if not any(published.find(group.config) for group in sweep.groups):
        notes.append("The papers have no number for these nets on this data set.")
    table = _table(sweep, "published", "Published and measured", columns, rows, {3, 4, 5, 6}, notes)
    if shared:
        said = {**table.facts, "recipe differences of all rows": "; ".join(shared)}
        table = dataclasses.replace(table, facts=said)
    return table


def by_label(sweep: Sweep) -> Table:
    """Final errors by label, with intervals over seeds."""
    columns = [
        *("label", "family", "depth", "n", "diverged", "seeds"),
        *("training error %", "sd (training)", "95 % interval (training)"),
        *("test error %", "sd (test)", "95 % interval (test)"),
    ]
    rows = []
    for group in sweep.groups:
        has_depth = not records.field(group.config, "model.variant", "")
        depth = str(group.depth) if has_depth else NOTHING
        row = [group.label, group.family, depth, str(group.n), str(group.n_diverged)]
        row.append(" ".join(map(str, group.seeds)) or NOTHING)
        for mean in (group.mean("train"), group.mean("test")):
            interval = NOTHING
            if mean.n > 1:
                interval = f"{mean.low:.2f} to {mean.high:.2f}"
            row += [number(mean.mean), number(mean.sd), interval]
        rows.append(tuple(row))
    notes = [
        "Training error: mean over the last tenth of the steps; test error: after the last step.",
        "Intervals: Student's t over seeds; none with one seed.",
    ]
    numeric = {2, 3, 4, 6, 7, 8, 9, 10, 11}
    return _table(sweep, "labels", "Final errors by label", columns, rows, numeric, notes)


def by_run(sweep: Sweep) -> Table:
    """Every completed or diverged run."""
    columns = [
        *("run", "net", "seed", "n", "state", "step", "parameters"),
        *("training error %", "val error %", "test error %", "commit", "hardware"),
    ]
    audited = any(not math.isnan(run.error_without_leaks) for run in sweep.runs)
    if audited:
        columns.insert(columns.index("commit"), "test error % without duplicates")
    rows = []
    for run in sweep.runs:
        done = run.state == run_folder.COMPLETED
        errors = [run.final_train_error, run.final_error("val"), run.final_error("test")]
        errors += [run.error_without_leaks] * audited
        count = run.status.get("parameters")
        rows.append(
            (
                *(run.name, run.net, str(run.seed), "1", run.state),
                str(run.status.get("step", NOTHING)),
                f"{count:,}" if isinstance(count, int) else NOTHING,
                *(number(error) if done else NOTHING for error in errors),
                *(short(commit_of(run)), "; ".join(sorted(hardware_of(run)))),
            )
        )
    return _table(
        *(sweep, "runs", "Final errors by run", columns, rows),
        numeric={2, 3, *range(5, 10 + audited)},
        notes=["One seed a row, so n = 1. Diverged runs have no final error."],
    )


def number(value: float, digits: int = 2) -> str:
    """A number as it stands in a table; a dash if there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else NOTHING


def facts(sweep: Sweep) -> dict[str, str]:
    """What every table says of its numbers' origin."""
    return origin([sweep.commit], [sweep.dataset], sweep.hardware)


def origin(
    commits: Iterable[str | None], datasets: Iterable[Mapping[str, Any]], hardware: Iterable[str]
) -> dict[str, str]:
    """Commits, data sets and hardware in words, each once."""
    words = {
        "commit": [short(commit) for commit in commits],
        "dataset": [_dataset(dataset) for dataset in datasets],
        "hardware": list(hardware),
    }
    return {name: "; ".join(dict.fromkeys(all_)) or "unknown" for name, all_ in words.items()}


def _dataset(dataset: Mapping[str, Any]) -> str:
    print_ = dataset.get("sha256")
    return dataset_name(dataset) + (f", SHA-256 {str(print_)[:12]}" if print_ else "")


def markdown(table: Table) -> str:
    """As a GitHub table with its caption below."""
    align = ["--:" if i in table.numeric else ":--" for i in range(len(table.columns))]
    lines = [f"**{_markdown(table.title)}**", ""]
    for row in (table.columns, align, *table.rows):
        cells = row if row is align else [_markdown(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _markdown(table.caption), ""])


def to_csv(table: Table) -> str:
    """As CSV (RFC 4180), with commit, dataset and hardware as columns where they are missing."""
    extra = [name for name in table.facts if name not in table.columns]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow([*table.columns, *extra])
    for row in table.rows:
        writer.writerow([_spreadsheet(c) for c in [*row, *(table.facts[name] for name in extra)]])
    return file.getvalue()


def latex(table: Table) -> str:
    """As a LaTeX table in booktabs' style; needs booktabs and T1 fonts."""
    long = (
        table.columns.index("recipe differences") if "recipe differences" in table.columns else -1
    )
    align = "".join("r" if i in table.numeric else "l" for i in range(len(table.columns)))
    align = align if long < 0 else align[:long] + "p{60mm}" + align[long + 1 :]
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in (table.columns, *table.rows)]
    return "\n".join(
        [
            *(r"\begin{table}", r"  \centering", rf"  \caption{{{_latex(table.title)}}}"),
            *(rf"  \begin{{tabular}}{{{align}}}", r"    \toprule", f"    {rows[0]}"),
            *(r"    \midrule", *(f"    {row}" for row in rows[1:]), r"    \bottomrule"),
            *(r"  \end{tabular}", rf"  \par\footnotesize {_latex(table.caption)}"),
            *(r"\end{table}", ""),
        ]
    )


def save_all(sweep: Sweep, folder: pathlib.Path, more: Sequence[Table] = ()) -> list[pathlib.Path]:
    """Writes every table, and those in `more`, in three formats; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in [*all_tables(sweep), *more]:
        for ending, render in (("md", markdown), ("csv", to_csv), ("tex", latex)):
            paths.append(folder / f"{table.name}.{ending}")
            paths[-1].write_text(render(table), encoding="utf-8", newline="")
    return paths


def _table(
    sweep: Sweep,
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    numeric: set[int],
    notes: Sequence[str],
) -> Table:
    kinds = frozenset(numeric)
    return Table(name, title, tuple(columns), tuple(rows), kinds, facts(sweep), tuple(notes))


def _measured(group: Group, mean: float) -> str:
    if group.n:
        return number(mean) + (f" ({group.n_diverged} diverged)" if group.n_diverged else "")
    return f"{group.n_diverged} of {group.n_diverged} diverged"


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _markdown(text: str) -> str:
    text = re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", _one_line(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in _one_line(text))


def _spreadsheet(text: str) -> str:
    """With an apostrophe before what a spreadsheet would take for a formula; numbers stay."""
    text = _one_line(text)
    is_number = re.fullmatch(r"[-+]?[\d,.]+( to -?[\d.]+)?|-", text) is not None
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not is_number else text
