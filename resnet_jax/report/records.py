"""Reads run folders: one run's files, checked, with its metrics as arrays."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import evaluation

# Fields of config.json that a report cannot do without, with their types.
REQUIRED = {
    "model.depth": int,
    "model.residual": bool,
    "data.name": str,
    "optimizer.learning_rate": (int, float),
    "train.steps": int,
    "train.batch_size": int,
    "train.seed": int,
}
STATES = (
    *(run_folder.QUEUED, run_folder.RUNNING, run_folder.STOPPED),
    *(run_folder.COMPLETED, run_folder.DIVERGED, run_folder.FAILED),
)
Curve = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What one run's folder holds.

    Attributes:
        folder: where it lies.
        config: the resolved configuration.
        status: state, step, verdict.
        provenance: of each attempt.
        curves: by (split, metric): steps int [records], values float [records], NaN where a value
            was not finite. Errors are in percent.
        evaluation: the final report, or None if there is none yet.
        torn: whether the last line of the metrics is unfinished.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    status: dict[str, Any]
    provenance: dict[str, Any]
    curves: Mapping[tuple[str, str], Curve]
    evaluation: dict[str, Any] | None
    torn: bool = False

    @property
    def name(self) -> str:
        """The folder's own name, fit to be printed."""
        return printable(self.folder.resolve().name)

    @property
    def net(self) -> str:
        """The net's name as the papers write it: plain-20, VGG-16, MobileNetV3-Large, Swin-T."""
        model = self.config["model"]
        family, variant = model.get("family"), model.get("variant", "")
        if family == "mobilenet_v3":
            return f"MobileNetV3-{variant.capitalize()}"
        if family == "swin":
            return f"Swin-{variant[:1].upper()}"
        kind = "VGG" if family == "vgg" else "ResNet" if model["residual"] else "plain"
        return f"{kind}-{self.depth}"

    @property
    def family(self) -> str:
        """'plain' or 'residual'."""
        return "residual" if self.config["model"]["residual"] else "plain"

    @property
    def depth(self) -> int:
        """The number of layers with weights, as the papers count them."""
        return int(self.config["model"]["depth"])

    @property
    def seed(self) -> int:
        """Of initial weights, order and augmentation."""
        return int(self.config["train"]["seed"])

    @property
    def steps(self) -> int:
        """The configured number of iterations."""
        return int(self.config["train"]["steps"])

    @property
    def state(self) -> str:
        """One of `run_folder`'s states."""
        return str(self.status["state"])

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Provenance of each attempt."""
        return list(self.provenance["attempts"])

    def curve(self, split: str, field: str) -> Curve:
        """Steps and values of one metric; NaN where a value was not finite, empty if not there."""
        return self.curves.get((split, field), (np.zeros(0, int), np.zeros(0)))

    @property
    def final_train_error(self) -> float:
        """Mean training error (percent) over the last tenth of the steps; NaN without records.

        Each record is itself the mean over the steps since the record before it.
        """
        steps, errors = self.curve("train", "error")
        if not len(errors):
            return math.nan
        last_tenth = steps > 0.9 * self.steps
        return float(errors[last_tenth].mean()) if last_tenth.any() else float(errors[-1])

    def final_error(self, split: str) -> float:
        """Error (percent) on `split` after the last step, never after a chosen one; NaN if unknown.

        `evaluation.json` counts if it is of the last step; `--checkpoint=best` may have replaced
        it, and then the metrics' own record of the last step does.
        """
        if self.evaluation and self.evaluation.get("step") == self.steps:
            value = self.evaluation["splits"].get(split, {}).get("error")
            if value is not None:
                return float(value)
        steps, errors = self.curve(split, "error")
        return float(errors[-1]) if len(steps) and steps[-1] == self.steps else math.nan

    @property
    def error_without_leaks(self) -> float:
        """Final test error (percent) on the images that an audit found no duplicate of; or NaN."""
        if not self.evaluation or self.evaluation.get("step") != self.steps:
            return math.nan
        value = field(self.evaluation, "splits.test.deduplicated.error")
        return float(value) if isinstance(value, (int, float)) else math.nan


def printable(text: str) -> str:
    """Text with what UTF-8 cannot hold (bytes of odd file names) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def field(config: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """A field of a nested configuration by its dotted path, or `default` if it is not there."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as {'model.depth': 20, ...}; lists become tuples."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def load(folder: pathlib.Path) -> Run:
    """Reads one run.

    Raises:
        InputError: if the folder is not a run's, or a file in it is damaged.
    """
    try:
        config = run_folder.read_json(folder / run_folder.CONFIG)
        if config is None:
            raise InputError(f"{folder} has no {run_folder.CONFIG}, so it is not a run's folder")
        curves, torn = _read_metrics(folder / run_folder.METRICS)
        status = run_folder.read_json(folder / run_folder.STATUS)
        provenance = run_folder.read_json(folder / run_folder.PROVENANCE)
        run = Run(
            folder=folder,
            config=config,
            status={"state": run_folder.QUEUED} if status is None else status,
            provenance={"attempts": []} if provenance is None else provenance,
            curves=curves,
            evaluation=run_folder.read_json(folder / run_folder.EVALUATION),
            torn=torn,
        )
        _check(run)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    return run


def find(root: pathlib.Path) -> list[pathlib.Path]:
    """All run folders at or below `root`, sorted by name."""
    return sorted(path.parent for path in root.rglob(run_folder.CONFIG))


def _check(run: Run) -> None:
    """Refuses files that are JSON, but not what a run writes."""
    for path, kind in REQUIRED.items():
        value = field(run.config, path)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):  # type: ignore[arg-type]
            raise InputError(f"{run_folder.CONFIG} is damaged: {path} is {value!r}")
    if not isinstance(run.status, dict) or run.status.get("state") not in STATES:
        raise InputError(f"{run_folder.STATUS} is damaged: it has no known state")
    attempts = run.provenance.get("attempts") if isinstance(run.provenance, dict) else None
    if not isinstance(attempts, list) or not all(isinstance(item, dict) for item in attempts):
        raise InputError(f"{run_folder.PROVENANCE} is damaged: it has no attempts")
    if run.evaluation is not None:
        splits = field(run.evaluation, "splits") if isinstance(run.evaluation, dict) else None
        if not isinstance(splits, dict) or not all(map(_is_report, splits.values())):
            raise InputError(f"{run_folder.EVALUATION} is damaged: a split has no error")
        try:
            evaluation.view(run.evaluation)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{run_folder.EVALUATION} is damaged: {error!r}") from error


def _is_report(split: Any) -> bool:
    if not isinstance(split, dict) or not isinstance(split.get("error"), (int, float)):
        return False
    matrix, classes = split.get("confusion_matrix", []), split.get("per_class", [])
    return (
        isinstance(matrix, list)
        and all(isinstance(row, list) and len(row) == len(matrix) for row in matrix)
        and all(isinstance(count, int) for row in matrix for count in row)
        and isinstance(classes, list)
        and all(isinstance(item, dict) for item in classes)
        and len(classes) in (0, len(matrix))
    )


def _read_metrics(path: pathlib.Path) -> tuple[dict[tuple[str, str], Curve], bool]:
    """The metrics by (split, metric), and whether the last line is unfinished."""
    if not path.is_file():
        return {}, False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        torn = size > 0 and file.read(1) != b"\n"
        file.seek(0)
        complete, _, _ = file.read().rpartition(b"\n")
    try:  # One call for all lines is several times faster than one a line.
        rows = json.loads(b"[" + complete.replace(b"\n", b",") + b"]") if complete else []
    except ValueError:
        rows = run_folder.read_records(path)  # names the damaged line
        raise InputError(f"{path} is damaged") from None
    return _columns(rows), torn


def _columns(rows: list[Any]) -> dict[tuple[str, str], Curve]:
    splits: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows, 1):
        try:
            splits.setdefault(row["split"], []).append(row)
        except (TypeError, KeyError):
            raise InputError(
                f"{run_folder.METRICS}, line {number} is damaged: not a record"
            ) from None
    curves = {}
    for split, records in splits.items():
        steps = np.array([record.get("step", -1) for record in records])
        if steps.dtype.kind != "i" or (steps < 0).any() or (np.diff(steps) <= 0).any():
            raise InputError(
                f"{run_folder.METRICS} is damaged: the steps of split {split!r} do not increase"
            )
        names = dict.fromkeys(name for record in records for name in record)
        for name in names.keys() - {"step", "split", "nonfinite"}:
            rows_with = [record for record in records if name in record]
            values = np.array([record[name] for record in rows_with], float)  # None becomes NaN
            there = steps if len(rows_with) == len(records) else _steps(rows_with)
            curves[split, name] = (there, np.where(np.isfinite(values), values, np.nan))
    return curves


def _steps(records: list[dict[str, Any]]) -> np.ndarray:
    return np.array([record["step"] for record in records])
