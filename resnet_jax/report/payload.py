"""What the HTML report's script draws, as JSON: thinned curves, final errors, confusions."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.report import evaluation, figures, groups
from resnet_jax.report.groups import Group, Split
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.thin import thin

# Points that stay of a curve.
POINTS = 480
SPLITS = ("train", "val", "test")
METRICS = {
    "error": "error (%)",
    "loss": "loss (nats)",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
}
# What would end the script element or break its JSON; JSON reads the escapes as the characters.
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def payload(sweep: Sweep) -> dict[str, Any]:
    """Everything the script needs, with short names for what stands there often."""
    runs = [*sweep.runs, *sweep.unfinished]
    index = {id(run): i for i, run in enumerate(runs)}
    own = [
        (group, [index[id(run)] for run in group.runs + group.diverged]) for group in sweep.groups
    ]
    shown = [_group(group, members) for group, members in own]
    if sweep.unfinished:
        shown += [_unfinished(run, index[id(run)]) for run in sweep.unfinished]
    depths = sorted({item["depth"] for item in shown})
    unique = len({(item["family"], item["depth"]) for item in shown}) == len(shown)
    for i, item in enumerate(shown):
        item["colour"] = depths.index(item["depth"]) if unique else i
    return {
        "metrics": METRICS,
        "families": figures.TITLES,
        "groups": shown,
        "runs": [_run(run) for run in runs],
    }


def embed(value: Any) -> str:
    """JSON that can stand in a script element, whatever names are in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate(ESCAPES)


def _group(group: Group, members: Sequence[int]) -> dict[str, Any]:
    curves = {}
    for split in SPLITS:
        for metric in METRICS:
            curve = group.curve(split, metric)
            if len(curve.steps):
                kept = thin(curve.mean, POINTS)
                points = {"x": curve.steps[kept].tolist(), "y": numbers(curve.mean[kept])}
                if curve.low is not None and curve.high is not None:
                    points |= {"low": numbers(curve.low[kept]), "high": numbers(curve.high[kept])}
                curves[f"{split}/{metric}"] = points
    return {
        "label": group.label,
        "family": group.family,
        "depth": group.depth,
        "n": group.n,
        "diverged": group.n_diverged,
        "band": groups.band_name(group.n),
        "runs": members,
        "curves": curves,
        "final": {split: _final(group, split) for split in ("train", "test")},
    }


def _final(group: Group, split: Split) -> dict[str, Any] | None:
    mean = group.mean(split).mean
    if not math.isfinite(mean):
        return None
    low, high = figures.whiskers(group, split)
    values = numbers(np.array(list(group.final(split).values())))
    return {"mean": _number(mean), "low": _number(low), "high": _number(high), "values": values}


def _unfinished(run: Run, index: int) -> dict[str, Any]:
    return {
        **{"label": f"{run.name} ({run.state})", "family": run.family, "depth": run.depth},
        **{"n": 0, "diverged": 0, "band": "", "runs": [index], "curves": {}, "final": {}},
    }


def _run(run: Run) -> dict[str, Any]:
    curves = {}
    for split in SPLITS:
        for metric in METRICS:
            steps, values = run.curve(split, metric)
            if len(steps):
                kept = thin(values, POINTS)
                curves[f"{split}/{metric}"] = {
                    "x": steps[kept].tolist(),
                    "y": numbers(values[kept]),
                }
    return {
        **{"name": run.name, "seed": run.seed, "state": run.state, "curves": curves},
        "evaluation": evaluation.view(run.evaluation) if run.evaluation else None,
    }


def numbers(values: np.ndarray) -> list[float | None]:
    """Four significant digits, which is finer than a screen; None where there is no number."""
    return [_number(value) for value in values.tolist()]


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(f"{value:.4g}") if abs(value) < 1e4 else round(value)
