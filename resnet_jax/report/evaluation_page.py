"""The page's sections on whether the trained nets are good classifiers."""

from collections.abc import Sequence

from resnet_jax.report import evaluation
from resnet_jax.report.markup import escape
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep

# Pictures of mistakes are in the page for so many runs at most; the others have their own reports.
MOST_ALBUMS = 12
HEADINGS = ("precision", "recall", "F1", "ROC area", "avg. precision", "images")
PLOTS = {
    "confusion": "Confusion: rows are true classes; colour is the share of the true class.",
    "roc": "ROC curve, each class against the rest.",
    "precision-recall": "Precision over recall, each class against the rest.",
    "reliability": "Reliability: share that is right over stated probability; bars below: images.",
}


def findings(sweep: Sweep) -> str:
    """What is good and what is not: in full for one run, as a table for several."""
    judged = _judged(sweep)
    if not judged:
        return ""
    if len(judged) == 1:
        body = full(judged[0][1])
    else:
        rows = "".join(_row(run, lines) for run, lines in judged)
        body = f'<div class="scroll"><table id="findings"><tbody>{rows}</tbody></table></div>'
    return (
        f'<section id="judgement"><h2>Is it a good classifier?</h2>{body}<p class="quiet">One run '
        "a line, on val and test of that run; the limits are in its config under evaluation."
        "</p></section>"
    )


def _judged(sweep: Sweep) -> list[tuple[Run, list[list[str]]]]:
    return [
        (run, lines)
        for run in [*sweep.runs, *sweep.unfinished]
        if run.evaluation and (lines := evaluation.lines(run.evaluation))
    ]


def full(lines: Sequence[Sequence[str]]) -> str:
    """Each finding on a line of its own."""
    items = "".join(
        f'<li class="{level}"><strong>{escape(subject)}.</strong> {escape(text)}</li>'
        for level, subject, text in lines
    )
    return f'<ul class="findings">{items}</ul>'


def details(sweep: Sweep) -> str:
    """The frame that the script fills for the chosen run."""
    if not any(run.evaluation for run in [*sweep.runs, *sweep.unfinished]):
        return ""
    heads = "".join(f'<th class="number">{name}</th>' for name in HEADINGS)
    measures = (
        '<tr><th>measure</th><th class="number">value</th><th>95 % interval</th><th></th></tr>'
    )
    own = '<ul class="findings" id="run-findings"></ul>' if len(_judged(sweep)) > 1 else ""
    plots = "".join(
        f'<figure><div class="plot" id="{name}"></div><figcaption class="quiet">{text}'
        "</figcaption></figure>"
        for name, text in PLOTS.items()
    )
    return (
        '<section id="evaluation"><h2>One run in detail</h2><div class="controls"><label>run '
        '<select id="class-run"></select></label><label><input type="checkbox" id="as-rates">'
        f"confusion in percent</label></div>{own}"
        f'<div class="panels tables"><div class="scroll"><table id="summary"><thead>{measures}'
        "</thead><tbody></tbody>"
        '</table><p class="quiet" id="undefined"></p></div><div class="scroll"><table id="classes">'
        f"<thead><tr><th>class</th>{heads}</tr></thead><tbody></tbody></table></div></div>"
        f'<div class="panels">{plots}</div>{_points()}'
        '<p class="quiet">One run, so n = 1. Intervals are over the images of the split (Wilson '
        "for rates, bootstrap for areas), not over seeds.</p></section>"
    )


def albums(sweep: Sweep) -> str:
    """The test images that each run is surest and wrong about."""
    runs = [*sweep.runs, *sweep.unfinished]
    if len(runs) > MOST_ALBUMS:
        return ""
    parts = [_album(run, is_open=len(runs) == 1) for run in runs]
    if not any(parts):
        return ""
    return f'<section id="mistakes"><h2>Worst mistakes on test</h2>{"".join(parts)}</section>'


def _row(run: Run, lines: Sequence[Sequence[str]]) -> str:
    cells = "".join(
        f'<td class="{level}" title="{escape(text)}">{escape(subject)}</td>'
        for level, subject, text in lines
    )
    return f"<tr><th>{escape(run.name)}</th>{cells}</tr>"


def _points() -> str:
    heads = "".join(
        f'<th class="number">{name}</th>'
        for name in ("TP", "FP", "FN", "TN", "precision", "recall", "F1", "cost")
    )
    return (
        '<div id="operating-points"><h3>Operating points</h3><div class="controls"><label>class '
        '<select id="point-class"></select></label><label>counted on <select id="point-split">'
        '<option value="test">test</option><option value="val">val</option></select></label></div>'
        '<p class="quiet" id="point-words"></p><div class="scroll"><table id="points"><thead><tr>'
        f'<th>threshold</th><th class="number">at least</th>{heads}</tr></thead><tbody></tbody>'
        "</table></div></div>"
    )


def _album(run: Run, *, is_open: bool) -> str:
    pictures, note = evaluation.album(run.folder, run.evaluation)
    if not pictures and not note:
        return ""
    figures = "".join(
        f'<figure><img src="{item["src"]}" alt="{escape(item["id"])}"><figcaption>'
        f"<b>{escape(item['true'])}</b><br>said {escape(item['said'])}<br>"
        f'<span class="quiet">{escape(item["id"])}</span></figcaption></figure>'
        for item in pictures
    )
    note = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return (
        f"<details{' open' * is_open}><summary>{escape(run.name)}: true class, and what was said, "
        f'with their probabilities</summary>{note}<div class="album">{figures}</div></details>'
    )
