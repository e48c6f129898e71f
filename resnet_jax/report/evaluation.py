"""What a page shows of one run's `evaluation.json` and `mistakes.npz`."""

import base64
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from resnet_jax import run_folder

PIXELS = 96
LEVELS = ("good", "warning", "bad")


def view(told: Mapping[str, Any]) -> dict[str, Any]:
    """Findings, splits and operating points of an evaluation as the script draws them.

    Evaluations of earlier versions have less in them; what is not there is not shown.
    """
    splits = {
        str(name): _split(split)
        for name, split in told["splits"].items()
        if split.get("per_class") and split.get("confusion_matrix")
    }
    return {
        "step": told.get("step"),
        "findings": lines(told),
        "splits": splits,
        "points": [_points(item) for item in told.get("operating_points") or []],
    }


def lines(told: Mapping[str, Any]) -> list[list[str]]:
    """Level, subject and text of each finding."""
    return [
        [
            item["level"] if item["level"] in LEVELS else "bad",
            str(item["subject"]),
            str(item["text"]),
        ]
        for item in told.get("findings") or []
    ]


def summary(split: Mapping[str, Any]) -> list[list[str]]:
    """Rows of name, value, 95 % interval and remark."""
    rows: list[list[str]] = []

    def add(name: str, value: Any, form: str = ".3f", interval: Any = None, note: str = "") -> None:
        if name in missing and not isinstance(value, (int, float)):
            note = missing[name]
        elif not isinstance(value, (int, float)):
            return
        shown = format(value, form) if isinstance(value, (int, float)) else "undefined"
        rows.append([name, shown, _interval(interval, form), note])

    missing = split.get("undefined") or {}
    base, averages = split.get("baseline") or {}, split.get("averages") or {}
    ranking = (split.get("ranking") or {}).get("macro") or {}
    calibration = split.get("calibration") or {}
    clean = split.get("deduplicated") or {}
    add("error %", split.get("error"), ".2f", split.get("error_interval"))
    add("top-5 error %", split.get("top5_error"), ".2f")
    if base:
        add("accuracy", split.get("accuracy"))
        add(
            "majority class", base.get("accuracy"), note=f"accuracy of always {base.get('class')!r}"
        )
    add("balanced accuracy", split.get("balanced_accuracy"), note="mean recall of the classes")
    add("MCC", split.get("mcc"), note="Matthews' correlation, -1 to 1")
    for kind, values in averages.items():
        for name in ("precision", "recall", "f1"):
            add(f"{kind} {name.replace('f1', 'F1')}", values.get(name))
    one = (split.get("ranking") or {}).get("per_class") or []
    single = one[0] if len(one) == 1 else {}
    mean = "" if single else "mean over classes, each against the rest"
    for name, key in (("ROC area", "roc_auc"), ("average precision", "average_precision")):
        add(name, ranking.get(key), interval=single.get(f"{key}_interval"), note=mean)
    add("loss (nats)", split.get("loss"))
    add("ECE", calibration.get("ece"), note="expected calibration error")
    add("Brier score", calibration.get("brier"))
    removed = clean.get("removed")
    note = f"{removed} images with a duplicate in train or val left out"
    add("error % without leaks", clean.get("error"), ".2f", clean.get("error_interval"), note)
    return rows


def album(folder: pathlib.Path, told: Mapping[str, Any] | None) -> tuple[list[dict[str, str]], str]:
    """The mistakes of a run as small PNG pictures, with what is wrong about each.

    Args:
        folder: the run's.
        told: its evaluation, for the names of the classes.

    Returns:
        src, id, true and said (class and probability) of each; and why there are none, if there
        should be.
    """
    path = folder / run_folder.MISTAKES
    if not path.is_file() or not told:
        return [], ""
    try:
        names = [str(row.get("class")) for row in told["splits"]["test"]["per_class"]]
        with path.open("rb") as file, np.load(file) as arrays:
            kept = {name: arrays[name] for name in arrays.files}
        pictures = [
            {
                "src": _png(kept["images"][i]),
                "id": str(kept["ids"][i]),
                "true": f"{names[kept['labels'][i]]} ({kept['probability_true'][i]:.1%})",
                "said": f"{names[kept['predicted'][i]]} ({kept['probability_predicted'][i]:.1%})",
            }
            for i in range(len(kept["ids"]))
        ]
    except Exception as error:  # NumPy, zipfile, zlib and Pillow raise many kinds
        return [], f"{run_folder.MISTAKES} is damaged: {type(error).__name__}: {error}"
    return pictures, "" if pictures else "No test image is classified wrongly."


def _split(split: Mapping[str, Any]) -> dict[str, Any]:
    ranking = (split.get("ranking") or {}).get("per_class") or []
    areas = {str(row["class"]): row for row in ranking}
    classes = [str(item.get("class")) for item in split["per_class"]]
    return {
        "classes": classes,
        "rows": [
            [
                *(_with(item, name) for name in ("precision", "recall", "f1")),
                *(_with(areas.get(name, {}), key) for key in ("roc_auc", "average_precision")),
                str(item.get("support", "")),
            ]
            for name, item in zip(classes, split["per_class"], strict=True)
        ],
        "matrix": split["confusion_matrix"],
        "summary": summary(split),
        "undefined": [f"{k}: {v}" for k, v in (split.get("undefined") or {}).items()],
        "curves": [
            {"name": str(row["class"]), "roc": row["roc"], "pr": row["precision_recall"]}
            for row in ranking
            if "roc" in row
        ],
        "bins": (split.get("calibration") or {}).get("bins") or [],
    }


def _with(item: Mapping[str, Any], name: str) -> list[str]:
    """A value and its interval; a dash where the evaluation says nothing of it."""
    if name not in item:
        return ["-", ""]
    value = item[name]
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return [f"{value:.3f}" if known else "undefined", _interval(item.get(f"{name}_interval"))]


def _interval(bounds: Sequence[float | None] | None, form: str = ".3f") -> str:
    if not bounds or None in bounds:
        return ""
    low, high = bounds
    return f"{low:{form}} to {high:{form}}"


def _points(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "class": str(item["class"]),
        "costs": [item["false_negative_cost"], item["false_positive_cost"]],
        "rows": [
            {
                "name": str(row["name"]),
                "threshold": row.get("threshold"),
                "reason": str(row.get("reason", "")),
                **{split: _counted(row[split]) for split in ("val", "test") if split in row},
            }
            for row in item["rows"]
        ],
    }


def _counted(found: Mapping[str, Any]) -> list[Any]:
    shares = (found["precision"], found["recall"], found["f1"], found["cost"])
    rounded = [None if x is None else float(f"{x:.6g}") for x in shares]
    return [*(found[name] for name in ("tp", "fp", "fn", "tn")), *rounded]


def _png(image: np.ndarray) -> str:
    """A data address of an image [height, width, channels], enlarged without blurring."""
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    picture = PIL.Image.fromarray(pixels)
    times = max(1, PIXELS // max(picture.size))
    picture = picture.resize(
        (picture.width * times, picture.height * times), PIL.Image.Resampling.NEAREST
    )
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
