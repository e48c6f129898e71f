"""What earlier attempts at a run have left: what may go on with it, and from where."""

import logging
import math
import pathlib
from typing import Any

from resnet_jax import run_folder
from resnet_jax.config import RunConfig, differences, load_json
from resnet_jax.errors import InputError
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState

LOG = logging.getLogger(__name__)


def require_same(config: RunConfig, workdir: pathlib.Path) -> None:
    """Refuses a config that differs from the folder's run in more than operational fields.

    Raises:
        InputError: with the differences.
    """
    path = workdir / run_folder.CONFIG
    if path.is_file():
        changed = differences(load_json(path), config)
        if changed:
            raise InputError(
                f"--workdir={workdir} holds a run with another config ({'; '.join(changed)}); "
                "choose another --workdir, or give the same config to go on with it"
            )


def require_same_data(dataset: dict[str, Any], workdir: pathlib.Path) -> None:
    """Refuses images or labels other than those that earlier attempts in the folder had.

    Raises:
        InputError: with both data sets' names and hashes.
    """
    for before in (attempt["dataset"] for attempt in run_folder.attempts(workdir)):
        if before["sha256"] != dataset["sha256"]:
            names = [f"{d['name']} with SHA-256 {d['sha256'][:12]}" for d in (before, dataset)]
            raise InputError(
                f"--workdir={workdir} was begun on other images or labels ({' -> '.join(names)}); "
                "give config.data.data_dir of the data set it was begun on, or another --workdir"
            )


def restored(
    experiment: Experiment, checkpoints: Checkpoints, step: int | None
) -> tuple[TrainState, int]:
    """The experiment's state on its devices: of a checkpoint, or the initial one if step is None.

    Raises:
        InputError: if the checkpoint cannot be read.
    """
    state = experiment.state
    if step is not None:
        state = checkpoints.restore(step, like=state)
        LOG.info("restored step %d", step)
    return experiment.placed(state), step or 0


def logged_error(workdir: pathlib.Path, step: int, split: str) -> float:
    """The error (percent) of a split that was logged at a step; NaN if none was."""
    records = run_folder.read_records(workdir / run_folder.METRICS)
    errors = [r["error"] for r in records if (r["split"], r["step"]) == (split, step)]
    return math.nan if not errors or errors[-1] is None else float(errors[-1])
