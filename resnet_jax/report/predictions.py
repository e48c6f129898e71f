"""Reads what nets predicted: one run's file, checked, and several runs' example by example."""

import dataclasses
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import records, sweep
from resnet_jax.report.records import Run, printable

# The kinds of NumPy dtypes that each array of a split may have: floats, whole numbers, text.
ARRAYS = {"logits": "f", "labels": "iu", "ids": "U"}
SPLITS = ("val", "test")
# What reading a damaged archive raises, beside InputError.
DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, SyntaxError, MemoryError),
    *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """What one net says of one split.

    Attributes:
        logits: float [examples, classes], finite.
        labels: int [examples].
        ids: str [examples], each once.
    """

    logits: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What one net says of val and test.

    Attributes:
        name: what it is called beside others.
        path: of the file.
        step: that the net was at; None if neither `evaluation.json` nor the file's name tells.
        run: that it belongs to; None for a file that lies in no run's folder.
        splits: by name; val only where the run has one.
    """

    name: str
    path: pathlib.Path
    step: int | None
    run: Run | None
    splits: Mapping[str, Scores]


@dataclasses.dataclass(frozen=True, eq=False)
class Aligned:
    """What several nets say of the same examples.

    Attributes:
        labels: int [examples].
        logits: float [nets, examples, classes].
    """

    labels: np.ndarray
    logits: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The class of each net for each example: int [nets, examples]."""
        classes: np.ndarray = self.logits.argmax(-1)
        return classes

    @property
    def wrong(self) -> np.ndarray:
        """Whether it is the wrong one: bool [nets, examples]."""
        mistakes: np.ndarray = self.predicted != self.labels
        return mistakes


def read_run(run: Run) -> Predictions:
    """The predictions of a run whose records are read already; else as `read`."""
    path = run.folder / run_folder.PREDICTIONS
    step = (run.evaluation or {}).get("step")
    return Predictions(run.name, path, step, run, _read_file(path))


def read(path: pathlib.Path) -> Predictions:
    """Reads the predictions of one net.

    Args:
        path: a run's folder, or a file `predictions*.npz`.

    Raises:
        InputError: naming the file, if it is absent or damaged.
    """
    if path.is_dir():
        return read_run(records.load(path))
    splits = _read_file(path)
    folder = path.absolute().parent
    run = records.load(folder) if (folder / run_folder.CONFIG).is_file() else None
    if run and path.name == run_folder.PREDICTIONS:
        return dataclasses.replace(read_run(run), path=path)
    match = re.fullmatch(run_folder.predictions_of(r"(\d{1,18})"), path.name)
    name = printable(f"{folder.name}/{path.name.removesuffix('.npz')}")
    return Predictions(name, path, int(match[1]) if match else None, run, splits)


def gather(paths: Sequence[pathlib.Path]) -> tuple[list[Predictions], list[str]]:
    """The predictions that a command line names, in its order, and sentences on what is left out.

    Args:
        paths: runs' folders, prediction files, and sweeps' folders, which stand for all their
            completed runs, plain before residual, by depth and seed.

    Raises:
        InputError: if one cannot be read or is there twice, or a sweep has no completed runs.
    """
    nets: list[Predictions] = []
    told = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} is not there; give a folder of a run or of many, or a file")
        if not path.is_dir() or (path / run_folder.CONFIG).is_file():
            nets.append(read(path))
            continue
        found = sweep.load(path)
        runs = [run for group in found.groups for run in group.runs]
        if not runs:
            raise InputError(f"{path} holds no completed runs; give runs' folders")
        nets += [read_run(run) for run in runs]
        others = [run.name for run in found.runs + found.unfinished if run not in runs]
        others += [item.name for item in found.excluded]
        if others:
            told.append(f"Left out, as the report on {path} tells: {', '.join(sorted(others))}.")
    return distinct(nets), told


def distinct(nets: Sequence[Predictions]) -> list[Predictions]:
    """The nets with names of their own: by their paths, where two would be called the same.

    Raises:
        InputError: if a file is there twice.
    """
    files = [net.path.resolve() for net in nets]
    names = [net.name for net in nets]
    for net, file in zip(nets, files, strict=True):
        if files.count(file) > 1:
            raise InputError(f"{net.path} is given twice; give every net once")
    return [
        dataclasses.replace(net, name=printable(str(net.path)))
        if names.count(net.name) > 1
        else net
        for net in nets
    ]


def align(nets: Sequence[Predictions], split: str) -> Aligned:
    """What several nets say of one split, in the first one's order of examples.

    Raises:
        InputError: if a net has no such split; naming both nets, if their examples, labels or
            classes are not the same.
    """
    for net in nets:
        if split not in net.splits:
            raise InputError(f"{net.path} has no predictions for {split}")
    first = nets[0].splits[split]
    logits = []
    for net in nets:
        scores = net.splits[split]
        order = np.argsort(scores.ids)
        differing = np.setxor1d(first.ids, scores.ids)
        if len(differing):
            raise InputError(
                f"{nets[0].name} and {net.name} were not measured on the same {split} examples: "
                f"{printable(str(differing[0]))!r} is in one only; give runs of one data set, "
                "divided alike"
            )
        here = order[np.searchsorted(scores.ids, first.ids, sorter=order)]
        other = np.flatnonzero(scores.labels[here] != first.labels)
        if len(other):
            raise InputError(
                f"{nets[0].name} and {net.name} have different labels for {split} example "
                f"{printable(str(first.ids[other[0]]))!r}; give runs of one data set"
            )
        if scores.logits.shape != first.logits.shape:
            raise InputError(
                f"{nets[0].name} and {net.name} tell {first.logits.shape[1]} and "
                f"{scores.logits.shape[1]} classes apart; give runs of one data set"
            )
        logits.append(scores.logits[here])
    return Aligned(first.labels, np.stack(logits))


def _read_file(path: pathlib.Path) -> dict[str, Scores]:
    if not path.is_file():
        advice = "python -m resnet_jax.main --mode=evaluate --workdir=RUN writes one"
        raise InputError(f"{path} is not there; {advice}")
    try:
        # Opened here: NumPy leaves the file open if it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = {name.rpartition("_")[0] for name in archive.files}
            splits = {
                split: Scores(**{key: archive[f"{split}_{key}"] for key in ARRAYS})
                for split in SPLITS
                if split in names
            }
        problem = next(filter(None, (_problem(*item) for item in splits.items())), "")
    except DAMAGE as error:
        problem = f"it cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
    else:
        problem = problem or ("" if "test" in splits else "it has no test split")
    if problem:
        raise InputError(f"{path} is damaged: {problem}; evaluate the run again")
    return splits


def _problem(split: str, scores: Scores) -> str:
    """Why arrays are not a net's predictions; "" if they are."""
    for key, kinds in ARRAYS.items():
        array = getattr(scores, key)
        if array.dtype.kind not in kinds or array.ndim != (2 if key == "logits" else 1):
            return f"{split}_{key} is {array.dtype} {list(array.shape)}"
    sizes = {key: len(getattr(scores, key)) for key in ARRAYS}
    examples, classes = scores.logits.shape
    if len(set(sizes.values())) > 1 or not examples or not classes:
        return f"the arrays of {split} have shapes that do not go together: {sizes}"
    if not np.isfinite(scores.logits).all():
        return f"{split}_logits has values that are not finite"
    if scores.labels.min() < 0 or scores.labels.max() >= classes:
        return f"{split}_labels has labels outside 0 to {classes - 1}"
    if len(np.unique(scores.ids)) != examples:
        return f"{split}_ids has an id more than once"
    return ""


def of_the_last_step(run: Run) -> Predictions:
    """A run's predictions, if they are those that its final test error was counted from.

    Raises:
        InputError: if they are not, or cannot be read.
    """
    net = read_run(run)
    if net.step != run.steps:
        raise InputError(
            f"its predictions are of step {net.step}, not of the last one, {run.steps}; evaluate "
            "its last checkpoint again"
        )
    error = 100 * float(align([net], "test").wrong.mean())
    if abs(error - run.final_error("test")) > 1e-6:
        raise InputError(
            f"its predictions have a test error of {error:.2f} %, its evaluation "
            f"{run.final_error('test'):.2f} %; evaluate it again"
        )
    return net
