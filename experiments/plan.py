"""What a sweep has to do: its runs, and what earlier starts have left of them.

Nothing is remembered but the run folders themselves, so a sweep can be started again at any time.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import ml_collections

from experiments.grid import Row
from resnet_jax import run_folder
from resnet_jax.config import RunConfig, differences, load_json, to_json, validate
from resnet_jax.errors import InputError

# Runs that were replaced by --force go here; reports leave hidden folders out.
REPLACED = ".replaced"
# Runs' names become folders: nothing that leads elsewhere, or that is hidden.
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,79}")


@dataclasses.dataclass
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        folder: where it lies.
        config: all of it.
        failures: how often its process has failed since the sweep was started.
        losses: how often it was interrupted or lost with its node, which is no fault of its own.
    """

    name: str
    folder: pathlib.Path
    config: RunConfig
    failures: int = 0
    losses: int = 0

    @property
    def status(self) -> dict[str, Any]:
        """What the run says of itself; `queued` if it has not said anything."""
        return run_folder.read_json(self.folder / run_folder.STATUS) or {
            "state": run_folder.QUEUED,
            "step": 0,
            "steps": self.config.train.steps,
        }

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do: it has completed, or diverged, which is a result too."""
        return self.status["state"] in run_folder.FINISHED

    @property
    def work(self) -> int:
        """A rough measure of its cost, comparable within a sweep."""
        pixels = max(self.config.data.resize, 1) ** 2
        images = self.config.train.steps * self.config.train.batch_size
        return images * pixels * self.config.model.depth


def plan(
    base: ml_collections.ConfigDict,
    rows: Sequence[Row],
    workdir: pathlib.Path,
    *,
    force: bool = False,
    in_order: bool = False,
) -> list[PlannedRun]:
    """Makes the runs of a grid; writes nothing unless `force` moves replaced runs aside.

    Args:
        base: what all runs share.
        rows: names and what each run changes.
        workdir: the sweep's folder.
        force: replace runs whose config has changed, keeping the old ones in `.replaced`.
        in_order: leave them in the rows' order.

    Returns:
        The runs, the costliest first, so that none of those is left over at the end; then by seed,
        so that two that share a program do not both compile it.

    Raises:
        InputError: if a row is not valid or there twice, if there is none, or a folder holds a run
            with another config.
    """
    if not rows:
        raise InputError("the grid has no runs; name at least one seed, depth and family")
    for name, times in collections.Counter(row.name for row in rows).items():
        if times > 1:
            raise InputError(f"{name} is there {times} times; name each seed, depth, family once")
    for row in rows:
        if not RUN_NAME.fullmatch(row.name):
            raise InputError(
                f"{row.name!r} cannot be a run's name; use 1 to 80 letters, digits, '.', '_', '=', "
                "'-', beginning with a letter or digit"
            )
    runs = [PlannedRun(row.name, workdir / row.name, _config(base, row)) for row in rows]
    changed = {}
    for run in runs:
        path = run.folder / run_folder.CONFIG
        lines = differences(load_json(path), run.config) if path.is_file() else []
        if lines:
            changed[run.name] = lines
    if changed and not force:
        name, lines = next(iter(changed.items()))
        raise InputError(
            f"--workdir={workdir} holds {len(changed)} run(s) with another config, first {name} "
            f"({'; '.join(lines)}); use --force to replace them, or another --workdir"
        )
    for run in runs:
        if run.name in changed:
            _set_aside(run.folder, workdir / REPLACED)
    return runs if in_order else sorted(runs, key=lambda run: (-run.work, run.config.train.seed))


def _config(base: ml_collections.ConfigDict, row: Row) -> RunConfig:
    config = ml_collections.ConfigDict(base.to_dict())
    try:
        config.update_from_flattened_dict(row.overrides)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{row.name}: {' '.join(str(error).split())}") from error
    try:
        return validate(config)
    except InputError as error:
        raise InputError(f"{row.name}: {error}") from error


def _set_aside(folder: pathlib.Path, shelf: pathlib.Path) -> None:
    shelf.mkdir(exist_ok=True)
    number = 1
    while (shelf / f"{folder.name}-{number}").exists():
        number += 1
    folder.rename(shelf / f"{folder.name}-{number}")


def enqueue(run: PlannedRun) -> None:
    """Writes the run's config, from which its process reads everything, and its first status."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run_folder.write_text(run.folder / run_folder.CONFIG, to_json(run.config))
    if not (run.folder / run_folder.STATUS).is_file():
        run_folder.write_json(run.folder / run_folder.STATUS, run.status)
