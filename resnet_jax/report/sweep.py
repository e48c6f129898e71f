"""Sorts the run folders of a sweep: what is averaged, what is only listed, what is left out."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import groups as grouping
from resnet_jax.report import records
from resnet_jax.report.groups import Group
from resnet_jax.report.records import Run

UNFINISHED = (run_folder.QUEUED, run_folder.RUNNING, run_folder.STOPPED, run_folder.FAILED)
Key = tuple[str, ...]
# What is compared on the same images: the size that they are brought to, which belongs to the net,
# and what the paper leaves open.
TRAIN_ON = "data.train_on"
COMPARED = ("data.resize", "data.crop_fill", TRAIN_ON)


@dataclasses.dataclass(frozen=True)
class Excluded:
    """A folder that is left out of everything but this list."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """The run folders below one folder, or a single run's.

    Attributes:
        root: the folder.
        groups: plain before residual, by depth.
        unfinished: runs that are queued, running, stopped or failed: listed, never averaged.
        excluded: folders that cannot be used, each with the reason.
        commit: of all averaged runs; None if they ran outside git.
        dataset: its name and fingerprint, as far as the runs tell.
        hardware: every processor or accelerator that averaged runs used.
    """

    root: pathlib.Path
    groups: tuple[Group, ...]
    unfinished: tuple[Run, ...]
    excluded: tuple[Excluded, ...]
    commit: str | None
    dataset: Mapping[str, Any]
    hardware: tuple[str, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All completed and diverged runs."""
        return tuple(run for group in self.groups for run in group.runs + group.diverged)


def load(root: pathlib.Path) -> Sweep:
    """Reads a sweep's folder, or a single run's.

    Args:
        root: a folder of folders named `<label>-seed<k>`; hidden ones are not looked at.

    Raises:
        InputError: if the folder is not there or has no runs.
    """
    folders = _folders(root)
    runs, excluded = [], []
    for folder in folders:
        try:
            run = records.load(folder)
            problem = _problem(run)
        except InputError as error:
            problem = _shorten(str(error), folder)
        if problem:
            excluded.append(Excluded(records.printable(folder.resolve().name), problem))
        else:
            runs.append(run)
    unfinished = tuple(run for run in runs if run.state in UNFINISHED)
    finished = [run for run in runs if run.state not in UNFINISHED]
    for run in [run for run in finished if len(_commits(run)) > 1]:
        finished = _without(finished, {run.name: _say_commit(_commits(run), ())}, excluded)
    finished = _of_one_kind(finished, _commits, _say_commit, excluded)
    finished = _of_one_kind(finished, _dataset, _say_dataset, excluded)
    finished = _of_one_division(finished, excluded)
    groups = _groups(finished, excluded)
    kept = [run for group in groups for run in group.runs + group.diverged]
    return Sweep(
        root=root,
        groups=groups,
        unfinished=unfinished,
        excluded=tuple(sorted(excluded, key=lambda item: item.name)),
        commit=grouping.commit_of(kept[0]) if kept else None,
        dataset=grouping.dataset_of(kept or unfinished),
        hardware=tuple(sorted({name for run in kept for name in grouping.hardware_of(run)})),
    )


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give a run's folder, or one that holds runs")
    if (root / run_folder.CONFIG).is_file():
        return [root]
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    folders = [folder for folder in folders if not _is_report(folder)]
    files = (run_folder.CONFIG, run_folder.STATUS, run_folder.METRICS)
    if not any((folder / name).exists() for folder in folders for name in files):
        raise InputError(f"{root} holds no runs; give a run's folder, or one that holds runs")
    return folders


def _is_report(folder: pathlib.Path) -> bool:
    if (folder / run_folder.CONFIG).exists():
        return False
    return folder.name == "report" or (folder / "report.html").exists()


def _shorten(reason: str, folder: pathlib.Path) -> str:
    """Without the folder's path, which stands before every reason anyway."""
    reason = reason.replace(f"{folder}/", "").removeprefix(f"{folder} ")
    if not any(folder.iterdir()):
        reason = "is empty"
    return records.printable(reason)


def _problem(run: Run) -> str:
    """Why a readable run cannot be used; "" if it can."""
    match = grouping.NAME.fullmatch(run.name)
    if match and int(match["seed"]) != run.seed:
        return f"its name says seed {int(match['seed'])}, its config {run.seed}"
    if run.torn and run.state != run_folder.RUNNING:
        return f"the last line of {run_folder.METRICS} is torn"
    if run.state != run_folder.COMPLETED:
        return ""
    steps, _ = run.curve("train", "error")
    if not len(steps) or steps[-1] != run.steps:
        last = int(steps[-1]) if len(steps) else 0
        return f"completed, but {run_folder.METRICS} ends at step {last} of {run.steps}"
    if run.evaluation is None:
        return f"completed, but has no {run_folder.EVALUATION}"
    return ""


def _without(runs: list[Run], reasons: Mapping[str, str], excluded: list[Excluded]) -> list[Run]:
    excluded += [Excluded(name, reason) for name, reason in reasons.items()]
    return [run for run in runs if run.name not in reasons]


def _of_one_kind(
    runs: list[Run],
    key_of: Callable[[Run], Key],
    say: Callable[[Key, Key], str],
    excluded: list[Excluded],
) -> list[Run]:
    """The runs of the majority's kind; of several equally frequent ones, the first by name."""
    keys = {run.name: key_of(run) for run in runs}
    if not keys:
        return runs
    majority = collections.Counter(keys.values()).most_common(1)[0][0]
    others = {name: say(key, majority) for name, key in keys.items() if key != majority}
    return _without(runs, others, excluded)


def _commits(run: Run) -> Key:
    return tuple(dict.fromkeys(str(a.get("commit") or "unknown") for a in run.attempts))


def _say_commit(key: Key, majority: Key) -> str:
    if len(key) > 1:
        return f"its attempts are of different commits: {', '.join(map(short, key))}"
    mine, theirs = (", ".join(map(short, k)) or "no provenance" for k in (key, majority))
    return f"another commit: {mine}, the other runs are of {theirs}"


def _dataset(run: Run) -> Key:
    options = {
        k: v
        for k, v in grouping.effective(run.config).items()
        if k.startswith("data.") and k not in COMPARED
    }
    images = []
    for attempt in run.attempts:
        told = _described(attempt)
        sizes = told.get("examples")
        total = sum(sizes.values()) if isinstance(sizes, dict) else None
        images.append(str({k: told.get(k) for k in ("name", "original")} | {"examples": total}))
    text = ", ".join(f"{key.removeprefix('data.')}={value}" for key, value in options.items())
    return (text, *dict.fromkeys(images))


def _described(attempt: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an attempt says of its data set."""
    told = attempt.get("dataset")
    return told if isinstance(told, dict) else {}


def _fingerprint(run: Run) -> Key:
    return tuple(dict.fromkeys(str(_described(a).get("sha256")) for a in run.attempts))


def _of_one_division(runs: list[Run], excluded: list[Excluded]) -> list[Run]:
    """The runs whose images have the fingerprint of most that divide them in the same way.

    A fingerprint is of train, val and test one after the other, so the same images that are
    divided otherwise have another one.
    """
    divisions: dict[Any, list[Run]] = {}
    for run in runs:
        divisions.setdefault(grouping.effective(run.config).get(TRAIN_ON), []).append(run)
    for part in divisions.values():
        same = _of_one_kind(part, _fingerprint, _say_print, excluded)
        runs = [run for run in runs if run not in part or run in same]
    return runs


def _say_print(key: Key, majority: Key) -> str:
    if len(key) > 1:
        return "another data set: its attempts saw different ones"
    mine, theirs = (", ".join(text[:12] for text in k) for k in (key, majority))
    return f"another data set: fingerprint {mine}, the other runs have {theirs}"


def _say_dataset(key: Key, majority: Key) -> str:
    mine, theirs = (key[0].split(", "), majority[0].split(", "))
    changed = [text for text in mine if text not in theirs]
    if changed:
        return f"another data set or other options: {', '.join(changed)}"
    if len(key) > 2:
        return "another data set: its attempts saw different ones"
    return f"another data set: {key[1:]}, the other runs have {majority[1:]}"


def short(commit: str | None) -> str:
    """A commit as it is printed: 12 digits, and whether files differed from it."""
    if not commit:
        return "unknown"
    return commit[:12] + ("+changes" if commit.endswith("+changes") else "")


def _groups(runs: Sequence[Run], excluded: list[Excluded]) -> tuple[Group, ...]:
    """Groups by label; in each, runs whose config or seed does not fit are excluded."""
    labels: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, run.name)):
        labels.setdefault(grouping.label_of(run), []).append(run)
    groups = []
    for label, members in labels.items():
        members = _of_one_config(members, excluded)
        done = [run for run in members if run.state == run_folder.COMPLETED]
        groups.append(Group(label, tuple(done), tuple(run for run in members if run not in done)))
    return tuple(sorted(groups, key=lambda g: (g.family, g.depth, g.label)))


def _of_one_config(members: list[Run], excluded: list[Excluded]) -> list[Run]:
    configs = [str(sorted(grouping.effective(run.config).items())) for run in members]
    majority = collections.Counter(configs).most_common(1)[0][0]
    model = members[configs.index(majority)]
    reasons: dict[str, str] = {}
    seeds: dict[int, str] = {}
    for run, config in zip(members, configs, strict=True):
        if config != majority:
            changed = "; ".join(grouping.differences(run.config, model.config))
            reasons[run.name] = f"its config differs from {model.name}'s: {changed}"
        elif run.seed in seeds:
            reasons[run.name] = f"the same seed as {seeds[run.seed]}"
        else:
            seeds[run.seed] = run.name
    return _without(members, reasons, excluded)
