"""Folders that two processes want, and configurations that change under a run."""

import dataclasses
import signal
import time
import typing
from pathlib import Path
from typing import Any

from resnet_jax import command, run_folder
from resnet_jax.config import RunConfig, load_json, to_json
from resnet_jax.errors import InputError
from resnet_jax.train.earlier import require_same
from tests.faults import commands
from tests.faults.outcome import Outcome, Tally

# What may change when a run is gone on with: nothing here changes a weight or a measured error.
# Written down by hand, so that a new field counts as part of the run until it is added.
OPERATIONAL = {
    "data.data_dir",
    "data.workers",
    "data.max_unreadable",
    "transfer.features_dir",
    "train.eval_interval",
    "train.eval_batch_size",
    "train.checkpoint_interval",
    "train.keep_checkpoints",
    "train.steps_per_call",
    "train.block_loop",
    "train.recompute_blocks",
    "train.deterministic",
    "train.check",
    "parallel.mapping",
    "parallel.devices",
    "log.interval",
    "log.signals_interval",
    "log.tensorboard",
    "log.progress",
    "log.mlflow",
    "log.wandb",
    "log.project",
}
# How a trained net is judged, none of which touches the net.
JUDGING = "evaluation."


def changed_config(rounds: int, folder: Path) -> Outcome:
    """Row 11."""
    tally, run = Tally(), RunConfig()
    (folder / run_folder.CONFIG).write_text(to_json(run))
    assert load_json(folder / run_folder.CONFIG) == run
    untagged = []
    for path, field, value in _leaves(run):
        if "operational" not in field.metadata:
            untagged.append(path)
        with tally.case(path):
            other = _with(run, path, _other(value, field.metadata))
            free = _is_free(path)
            try:
                require_same(other, folder)
            except InputError as error:
                assert not free, f"refused: {error}"
                assert f"({path}: {value!r} -> " in str(error), f"told as: {error}"
            else:
                assert free, "accepted"
    with tally.case("every field is tagged"):
        assert not untagged, untagged
    return tally.outcome(
        11,
        "every field of the config changed once, in a folder that holds a run",
        "refused, naming the field, unless it cannot change the result; no field untagged",
        note=f"{len(tally.cases) - 1} fields, {sum(_is_free(p) for p, _, _ in _leaves(run))} free",
    )


def _is_free(path: str) -> bool:
    return path in OPERATIONAL or path.startswith(JUDGING)


def _leaves(group: Any, prefix: str = "") -> list[tuple[str, "dataclasses.Field[Any]", Any]]:
    found = []
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            found += _leaves(value, f"{prefix}{field.name}.")
        else:
            found.append((prefix + field.name, field, value))
    return found


def _other(value: Any, limits: typing.Mapping[str, Any]) -> Any:
    """Another value of the same type."""
    others = [choice for choice in limits.get("allowed", ()) if choice != value]
    if others:
        return others[0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "other"
    if isinstance(value, tuple):
        return (*value, *(value[-1:] or (1,)))
    return type(value)(value + 1)


def _with(group: Any, path: str, value: Any) -> Any:
    """A copy with one field changed; not validated, for fields are compared one by one."""
    name, _, rest = path.partition(".")
    inner = _with(getattr(group, name), rest, value) if rest else value
    return dataclasses.replace(group, **{name: inner})


def many_starts(rounds: int, folder: Path) -> Outcome:
    """Row 12."""
    tally, slowest = Tally(), 0.0
    starts = 20 if rounds >= 10 else 4
    for number in range(max(1, rounds // 10)):
        workdir = folder / f"run{number}"
        # So long that the winner is at work until the last one has been refused.
        long = ("--config.train.steps=100000", "--config.train.eval_interval=100000")
        began = time.monotonic()
        logs = [folder / f"{number}-{i}.log" for i in range(starts)]
        processes = [commands.train(workdir, *long, log=log) for log in logs]
        with tally.case(f"{starts} starts at once") as case:
            while sum(process.poll() is None for process in processes) > 1:
                assert time.monotonic() - began < commands.PATIENCE, "more than one is running"
                time.sleep(0.05)
            slowest = max(slowest, time.monotonic() - began)
            winners = [process for process in processes if process.poll() is None]
            case.lost = 1 - len(winners)
            (winner,) = winners
            owner = f"in use by process {winner.pid} on"
            for process, log in zip(processes, logs, strict=True):
                if process is not winner:
                    assert process.returncode == command.BAD_INPUT, process.returncode
                    said = log.read_text().splitlines()
                    assert owner in said[-1], said[-1]
        with tally.case("kill -9, then another start"):
            made = len(commands.records(workdir))
            commands.wait_until(lambda w=workdir, m=made: len(commands.records(w)) > m + 10, winner)
            winner.kill()
            commands.end(winner)
            after = commands.train(workdir, *long)
            made = max(step for step, _ in commands.records(workdir))
            assert commands.wait_until(
                lambda w=workdir, m=made: max(commands.records(w))[0] > m, after
            ), commands.words(workdir)
            after.send_signal(signal.SIGTERM)
            assert commands.end(after) == command.INTERRUPTED
        for process in processes:
            process.kill()
            process.wait()
    return tally.outcome(
        12,
        f"{starts} processes started at once in one folder; the winner killed with -9",
        "one trains, the others are refused and name it; no lock outlives its owner",
        note=f"the last of {starts} was refused after {slowest:.0f} s",
    )
