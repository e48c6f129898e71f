"""One self-contained HTML file: verdict, interactive curves, tables, configs and provenance."""

import base64
import hashlib
import json
import os
import pathlib
import urllib.parse
from collections.abc import Sequence

from plotly.offline import get_plotlyjs

from resnet_jax.report import evaluation_page, figures, groups, payload, tables
from resnet_jax.report.findings import Findings
from resnet_jax.report.markup import escape
from resnet_jax.report.records import Run, printable
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tables import Table
from resnet_jax.report.verdict import FamilyVerdict, Verdict

SCRIPTS = ("page.js", "curves.js", "evaluation.js", "start.js")
PAGE = pathlib.Path(__file__).parent / "page"


def save(
    sweep: Sweep,
    verdict: Verdict,
    path: pathlib.Path,
    pictures: Sequence[pathlib.Path] = (),
    more: Sequence[Table] = (),
    found: Findings | None = None,
) -> None:
    """Writes the report.

    Args:
        sweep: the runs.
        verdict: on them.
        path: of the file; links to run folders are relative to it.
        pictures: SVG files to be put into it.
        more: tables beside those of `tables.all_tables`.
        found: the answer, if the sweep asks for something else than depth.
    """
    text = render(sweep, verdict, path.parent, pictures, more, found)
    path.write_text(text, encoding="utf-8", newline="")


def render(
    sweep: Sweep,
    verdict: Verdict,
    folder: pathlib.Path,
    pictures: Sequence[pathlib.Path] = (),
    more: Sequence[Table] = (),
    found: Findings | None = None,
) -> str:
    """The report's text.

    Only the scripts whose hashes its head names can run, and nothing can be requested from
    anywhere: a name that slipped through the escaping could not do harm either.
    """
    own = [(PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    scripts = [get_plotlyjs(), *own]
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    searched = found is not None and found.is_search
    title = f"Report on {printable(sweep.root.resolve().name)}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(_origin(sweep))}</p>',
        # What a sweep is made for comes first.
        *(_answer(found, pictures, folder, sweep) if found else []),
        _verdict(verdict) if found is None or found.asks_for_depth else "",
        *(
            _judged(sweep, pictures, more, folder, found)
            if not searched
            else [_curves(sweep, "val")]
        ),
        _left_out(sweep, folder),
        _details(sweep),
    ]
    data = payload.embed(payload.payload(sweep))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="generator" content="resnet_jax.report">',
            '<link rel="icon" href="data:,">',  # or a browser asks the server for one
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style></head><body>",
            *(section for section in sections if section),
            f'<script type="application/json" id="data">{data}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>",
            "",
        ]
    )


def _in_order(curves: str, findings: str, sweep: Sweep) -> tuple[str, str]:
    """One run is first asked whether it is good, a sweep what depth does."""
    alone = len(sweep.runs) + len(sweep.unfinished) == 1
    return (findings, curves) if alone else (curves, findings)


def _policy(scripts: Sequence[str]) -> str:
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    # Plotly sets styles while it draws, and saves pictures by way of blob: and data: addresses.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _origin(sweep: Sweep) -> str:
    return " · ".join(f"{name} {value}" for name, value in tables.facts(sweep).items())


def _answer(
    found: Findings, pictures: Sequence[pathlib.Path], folder: pathlib.Path, sweep: Sweep
) -> list[str]:
    items = "".join(f"<p>{escape(text)}</p>" for text in found.sentences)
    answer = f'<section id="answer"><h2>{escape(found.question)}</h2>{items}</section>'
    links = _links([sweep.root / name for name in found.folders], folder)
    shown = [_table(table, links if not i else ()) for i, table in enumerate(found.tables)]
    return [answer, _pictures(pictures), *shown]


def _judged(
    sweep: Sweep,
    pictures: Sequence[pathlib.Path],
    more: Sequence[Table],
    folder: pathlib.Path,
    found: Findings | None,
) -> list[str]:
    """Curves, judgements and tables of runs that are there to be compared on test."""
    there = bool(sweep.groups)
    return [
        *_in_order(
            _curves(sweep, "test")
            + (_depths(sweep) if not (found and found.asks_for_depth) else ""),
            evaluation_page.findings(sweep),
            sweep,
        ),
        _pictures(pictures) if not found else "",
        _table(tables.against_published(sweep)) if there and not found else "",
        _table(tables.by_label(sweep)) if there else "",
        *map(_table, more),
        _table(tables.by_run(sweep), _run_links(sweep.runs, folder)) if there else "",
        evaluation_page.details(sweep),
        evaluation_page.albums(sweep),
    ]


def _verdict(verdict: Verdict) -> str:
    cards = "".join(_card(family) for family in verdict.families)
    rest = verdict.text
    for family in verdict.families:
        rest = rest.replace(family.text, "", 1)
    checks = "".join(
        f"<tr><td>{escape(check.what)}</td><td>{escape(check.measured)}</td>"
        f"<td>{'met' if check.passed else 'not met'}</td></tr>"
        for check in verdict.acceptance.checks
    )
    table = (
        '<div class="scroll"><table><thead><tr><th>expectation</th><th>measured</th><th></th>'
        f"</tr></thead><tbody>{checks}</tbody></table></div>"
    )
    return (
        f'<section id="verdict"><h2>Verdict</h2><p>{escape(verdict.question)}</p>'
        f'<div class="cards">{cards}</div><p>{escape(rest.strip())}</p>'
        f"{table if checks else ''}</section>"
    )


def _card(family: FamilyVerdict) -> str:
    head, _, rest = family.text.partition(". ")
    kind = "card observed" if family.degradation == "observed" else "card"
    head = escape(head.rstrip("."))
    return f'<div class="{kind}"><strong>{head}.</strong><p>{escape(rest)}</p></div>'


def _curves(sweep: Sweep, split: str) -> str:
    """Interactive curves; beside training, this split's are shown at first."""
    runs = [*sweep.runs, *sweep.unfinished]
    there = {metric for run in runs for _, metric in run.curves}
    if not there & payload.METRICS.keys():
        return ""
    metrics = "".join(
        f'<option value="{metric}">{escape(label)}</option>'
        for metric, label in payload.METRICS.items()
        if metric in there
    )
    ticks = (
        *(("show-train", "training (dashed)", True), ("show-val", "val (dotted)", split == "val")),
        *(("show-test", "test (solid)", split == "test"), ("show-mean", "mean and band", True)),
        *(("show-seeds", "individual seeds", False), ("log", "logarithmic", False)),
    )
    boxes = "".join(
        f'<label><input type="checkbox" id="{name}"{" checked" * on}>{label}</label>'
        for name, label, on in ticks
    )
    families = {run.family for run in runs}
    panels = "".join(
        f'<div class="plot" id="curves-{family}"></div>'
        for family in figures.TITLES
        if family in families
    )
    bands = groups.band_names(sweep.groups, "bands")
    return (
        '<section id="curves"><h2>Curves</h2><noscript><p>The curves need JavaScript; '
        "the same figures are in figures/.</p></noscript>"
        f'<div class="controls"><label>show <select id="metric">{metrics}</select></label>{boxes}'
        '<label>smoothing <input type="range" id="smoothing" min="0" max="30" value="0">'
        '<output id="smoothing-value"></output></label>'
        '<button type="button" id="all">all</button><button type="button" id="none">none</button>'
        f'<div class="groups" id="groups"></div></div><div class="panels">{panels}</div>'
        f'<p class="quiet">{escape(bands)}. Long curves are thinned to about {payload.POINTS} '
        "points; ends, peaks and gaps stay. Diverged and unfinished runs are dash-dotted and never "
        "averaged.</p></section>"
    )


def _depths(sweep: Sweep) -> str:
    if not any(group.n for group in sweep.groups):
        return ""
    return (
        '<section><h2>Final error</h2><div class="plot" id="depths"></div>'
        f'<p class="quiet">{escape(groups.band_names(sweep.groups, "bars"))}. Training error: mean '
        "over the last tenth of the steps.</p></section>"
    )


def _pictures(paths: Sequence[pathlib.Path]) -> str:
    images = []
    for path in paths:
        data = base64.b64encode(path.read_bytes()).decode()
        alt = escape(path.stem.replace("_", " "))
        images.append(f'<img class="picture" alt="{alt}" src="data:image/svg+xml;base64,{data}">')
    if not images:
        return ""
    return f'<section id="pictures"><h2>Figures</h2>{"".join(images)}</section>'


def _table(table: Table, links: Sequence[str] = ()) -> str:
    def kind(i: int) -> str:
        if i in table.numeric:
            return ' class="number"'
        return ' class="long"' if table.columns[i] == "recipe differences" else ""

    head = "".join(f"<th{kind(i)}>{escape(name)}</th>" for i, name in enumerate(table.columns))
    rows = []
    for number, row in enumerate(table.rows):
        cells = [f"<td{kind(i)}>{escape(text)}</td>" for i, text in enumerate(row)]
        if links:
            cells[0] = f'<td><a href="{escape(links[number])}">{escape(row[0])}</a></td>'
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<section id="table-{table.name}"><h2>{escape(table.title)}</h2><div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="quiet">{escape(table.caption)}</p></section>'
    )


def _run_links(runs: Sequence[Run], folder: pathlib.Path) -> list[str]:
    return _links([run.folder for run in runs], folder)


def _links(folders: Sequence[pathlib.Path], folder: pathlib.Path) -> list[str]:
    """Addresses of runs' folders relative to the report; odd bytes in names stay themselves."""
    paths = (os.path.relpath(one.resolve(), folder.resolve()) for one in folders)
    return [f"./{urllib.parse.quote(os.fsencode(path))}/" for path in paths]


def _left_out(sweep: Sweep, folder: pathlib.Path) -> str:
    rows = [
        f"<tr><td>{escape(item.name)}</td><td>excluded</td><td>{escape(item.reason)}</td></tr>"
        for item in sweep.excluded
    ]
    for run, link in zip(sweep.unfinished, _run_links(sweep.unfinished, folder), strict=True):
        step, reason = run.status.get("step", 0), run.status.get("reason", "")
        told = f"step {step} of {run.steps}" + (f"; {reason}" if reason else "")
        rows.append(
            f'<tr><td><a href="{escape(link)}">{escape(run.name)}</a></td>'
            f"<td>{escape(run.state)}</td><td>{escape(told)}</td></tr>"
        )
    if not rows:
        return ""
    return (
        '<section id="left-out"><h2>Left out of all means</h2><div class="scroll"><table><thead>'
        "<tr><th>folder</th><th>why</th><th>reason</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _details(sweep: Sweep) -> str:
    parts = ["<section><h2>Configs and provenance</h2>"]
    for group in sweep.groups:
        parts.append(_fold(f"config of {group.label} (but for the seed)", group.config))
    for run in [*sweep.runs, *sweep.unfinished]:
        parts.append(_fold(f"provenance and status of {run.name}", [run.provenance, run.status]))
    return "".join(parts) + "</section>"


def _fold(summary: str, value: object) -> str:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
