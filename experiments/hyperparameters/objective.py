"""What a search minimises: the error on val, in percent, as a run's own metrics have it."""

import pathlib

from resnet_jax import run_folder
from resnet_jax.errors import InputError

# What a run counts that diverged: worse than any that did not, so that samplers keep away.
DIVERGED = 100.0


def val_errors(folder: pathlib.Path) -> dict[int, float]:
    """Val's error in percent, by step, of every evaluation of a run so far.

    Args:
        folder: of the run.

    Raises:
        InputError: if its metrics are damaged.
    """
    records = run_folder.read_records(folder / run_folder.METRICS)
    return {
        int(record["step"]): float(record["error"])
        for record in records
        if record["split"] == "val" and record["error"] is not None
    }


def final(folder: pathlib.Path, *, steps: int, evaluations: int) -> float:
    """The mean of val's error in percent over the last evaluations of a completed run.

    Args:
        folder: of the run.
        steps: that it has made.
        evaluations: how many; fewer, if it has no more.

    Raises:
        InputError: if val was not measured after the last step.
    """
    errors = val_errors(folder)
    if steps not in errors:
        raise InputError(f"{folder} has no error on val after its last step, {steps}")
    last = [errors[step] for step in sorted(errors)[-evaluations:]]
    return sum(last) / len(last)
