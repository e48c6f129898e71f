"""Writes everything that a report consists of."""

import dataclasses
import pathlib

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import (
    charts,
    html,
    search,
    seeds,
    sweep,
    tables,
    transfer,
    tuned,
    twins,
)
from resnet_jax.report import verdict as verdicts
from resnet_jax.report.verdict import Verdict


@dataclasses.dataclass(frozen=True)
class Paths:
    """What was written, and what it says.

    Attributes:
        html: the report.
        verdict_json: the verdict as data.
        figures: PNG and SVG.
        tables: Markdown, CSV and LaTeX.
        verdict: the verdict itself.
        text: what it comes to, in words: the verdict on depth, or what else the sweep asks for.
    """

    html: pathlib.Path
    verdict_json: pathlib.Path
    figures: tuple[pathlib.Path, ...]
    tables: tuple[pathlib.Path, ...]
    verdict: Verdict
    text: str


def write_report(root: pathlib.Path, out: pathlib.Path | None = None) -> Paths:
    """Reads the runs below `root` and writes report, figures, tables and verdict.

    Args:
        root: a sweep's folder, or a run's.
        out: where to; `root`/report if None. Files of an earlier report are replaced.

    Raises:
        InputError: if there are no runs, or `out` cannot be written.
    """
    runs = sweep.load(root)
    verdict = verdicts.judge(tuned.without(runs, tuned.read(root)))
    found = search.findings(runs) or tuned.findings(runs) or transfer.findings(runs)
    out = root / "report" if out is None else out
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, endings in (("figures", ("png", "svg")), ("tables", ("md", "csv", "tex"))):
            for ending in endings:  # those of runs that are not there any more
                for old in (out / name).glob(f"*.{ending}"):
                    old.unlink()
        run_folder.write_json(out / "verdict.json", verdict.as_dict(), durable=False)
        figures = charts.save_all(runs, out / "figures")
        own = list(found.tables) if found else []
        more = [table for table in (twins.table(runs), seeds.table(runs)) if table]
        written = tables.save_all(runs, out / "tables", own + more) if runs.groups else []
        grids = [p for p in figures if p.suffix == ".svg" and p.stem in charts.GRIDS]
        html.save(runs, verdict, out / "report.html", grids, more, found)
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error}; choose another") from error
    text = "\n".join(found.sentences) if found else verdict.text
    if found and found.asks_for_depth:
        text += f"\n{verdict.text}"
    return Paths(
        *(out / "report.html", out / "verdict.json", tuple(figures), tuple(written)), verdict, text
    )
