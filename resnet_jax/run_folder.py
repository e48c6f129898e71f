"""A run's folder: the contract between training, which writes it, and reporting, which reads it.

    config.json       the resolved configuration
    provenance.json   commit, command, versions, devices and start time of every attempt
    parameters.txt    every parameter's shape, mean and deviation before the first step
    status.json       state, reason, step; rewritten while the run goes on
    metrics.jsonl     one record a line: step, split, loss, error, ...
    preprocessing.npz what the net expects of an image: mean, std, image_shape, class_names
    evaluation.json   the final report on val and test
    predictions.npz   logits and labels of val and test, by example id; those of each kept
                      checkpoint stand in predictions-STEP.npz, if they were asked for
    mistakes.npz      the test images that it is surest and wrong about
    unreadable.json   damaged images, by split and id, and what is wrong with them; only if any
    checkpoints/      Orbax
    tensorboard/      event files
    tracking.json     what the run is called by trackers, and the last step of each split that they
                      were sent; only with `log.mlflow` or `log.wandb`
    wandb/            what Weights & Biases writes, a folder an attempt
    analysis/         what `resnet_jax.analysis` found, a JSON file each
    .lock             held by the process that trains
    .heartbeat        touched while it gets on

Neither JAX nor NumPy is imported here. Whole files are replaced atomically; records are appended.
"""

import contextlib
import datetime
import fcntl
import json
import math
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.files import replacing

CONFIG = "config.json"
PARAMETERS = "parameters.txt"
PROVENANCE = "provenance.json"
STATUS = "status.json"
METRICS = "metrics.jsonl"
PREPROCESSING = "preprocessing.npz"
EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.npz"
MISTAKES = "mistakes.npz"
UNREADABLE = "unreadable.json"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
TRACKING = "tracking.json"
WANDB = "wandb"
ANALYSIS = "analysis"
INFERENCE = "inference.json"
# In the folder of a sweep: what a search over fields has tried; which nets were tuned, and by what.
SEARCH = "search.json"
TUNED = "tuned.json"
LOCK = ".lock"
IN_USE = "is in use by"
HEARTBEAT = ".heartbeat"
BEAT_SECONDS = 1.0

# The states of status.json. Only `running` may still change by itself.
QUEUED, RUNNING, STOPPED = "queued", "running", "stopped"
COMPLETED, DIVERGED, FAILED = "completed", "diverged", "failed"
# Nothing is left to do; divergence is a result too.
FINISHED = (COMPLETED, DIVERGED)


def predictions_of(step: int | str) -> str:
    """The file with the predictions of the checkpoint of one step."""
    return f"predictions-{step}.npz"


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def without_nan(value: Any) -> Any:
    """The same nested value with non-finite numbers as None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: pathlib.Path, text: str, *, durable: bool = True) -> None:
    """Replaces a file in one step, so that a reader sees the old or the new one.

    Args:
        path: the file.
        text: all of it.
        durable: as in `files.replacing`.
    """
    with replacing(path, durable=durable) as file:
        file.write(text.encode())


def write_json(path: pathlib.Path, value: Any, *, durable: bool = True) -> None:
    """Replaces a JSON file in one step, as `write_text`; non-finite numbers become null."""
    text = json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n"
    write_text(path, text, durable=durable)


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; None if it is not there.

    Raises:
        InputError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; is this a run's folder?") from error


def attempts(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """What is known of each attempt at a run, the oldest first, as in `provenance.json`."""
    return list((read_json(workdir / PROVENANCE) or {"attempts": []})["attempts"])


def require_own(workdir: pathlib.Path) -> None:
    """Refuses a folder that holds something other than a run, before anything is written.

    Raises:
        InputError: if `workdir` is a file, cannot be read or written, or holds foreign files.
    """
    advice = "choose another --workdir"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir={workdir} is a file, not a folder; {advice}")
    parent = next(path for path in [workdir, *workdir.absolute().parents] if path.exists())
    if not os.access(parent, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(f"--workdir={workdir} cannot be read and written; {advice}")
    if not workdir.is_dir() or (workdir / CONFIG).is_file():
        return
    names = (path.name for path in workdir.iterdir() if path.suffix != ".tmp")
    foreign = sorted(name for name in names if name != LOCK)
    if foreign:
        raise InputError(
            f"--workdir={workdir} holds {foreign[0]!r} but no {CONFIG}, so it is not a run's "
            f"folder; {advice}"
        )


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a folder; the kernel lets go if this one is killed.

    Raises:
        InputError: naming the owner, if another process has it.
    """
    file = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        name = os.read(file, 200).decode()
        os.close(file)
        raise InputError(
            f"--workdir={workdir} {IN_USE} {name}; wait until it ends, or choose another"
        ) from error
    try:
        os.ftruncate(file, 0)
        os.pwrite(
            file, f"process {os.getpid()} on {socket.gethostname()} since {now()}".encode(), 0
        )
        yield
    finally:
        os.close(file)


def owner(workdir: pathlib.Path) -> str | None:
    """The process that trains in a folder, or None."""
    try:
        with locked(workdir):
            return None
    except FileNotFoundError:
        return None
    except InputError as error:
        return str(error)


def beat(workdir: pathlib.Path) -> None:
    """Shows that the run gets on; called every `BEAT_SECONDS` or a little later."""
    (workdir / HEARTBEAT).touch()


def last_beat(workdir: pathlib.Path) -> int:
    """When the run last showed that it gets on, in nanoseconds by its own clock; 0 if never."""
    try:
        return (workdir / HEARTBEAT).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """The complete records of a metrics file, in order; an unfinished last line is left out.

    Raises:
        InputError: naming the line, if a complete one is damaged.
    """
    if not path.is_file():
        return []
    complete = path.read_bytes().rpartition(b"\n")[0]
    records = []
    for number, line in enumerate(complete.split(b"\n") if complete else [], 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}, line {number} is damaged: {error}") from error
    return records
