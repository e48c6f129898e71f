"""Configurations as files and as differences between two."""

import dataclasses
import json
import pathlib
from typing import Any

import ml_collections

from resnet_jax.config.check import validate
from resnet_jax.config.schema import RunConfig
from resnet_jax.errors import InputError


def default_config() -> ml_collections.ConfigDict:
    """Every field at its default, as the mutable `ConfigDict` that config files start from."""
    return ml_collections.ConfigDict(dataclasses.asdict(RunConfig()))


def to_json(run: RunConfig) -> str:
    """The resolved configuration as it stands in a run's `config.json`."""
    return json.dumps(dataclasses.asdict(run), indent=2) + "\n"


def load_json(path: pathlib.Path) -> RunConfig:
    """Reads a run's `config.json`; data only, nothing in it is executed.

    Raises:
        InputError: if the file is missing, not JSON, or not a configuration.
    """
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; is this a run's folder?") from error
    try:
        return validate(tree)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def differences(old: RunConfig, new: RunConfig, *, operational: bool = False) -> list[str]:
    """The fields in which two runs differ, as 'model.depth: 20 -> 56' lines.

    Args:
        old: the configuration before.
        new: the configuration after.
        operational: also compare the fields that may change when a run is resumed.
    """
    lines = _differences(old, new, "", operational)
    intervals = [run.train.eval_interval for run in (old, new)]
    if not operational and "plateau" in (old.optimizer.schedule, new.optimizer.schedule):
        # There the rate depends on when val is looked at.
        if intervals[0] != intervals[1]:
            lines.append(f"train.eval_interval: {intervals[0]} -> {intervals[1]}")
    return lines


def _differences(old: Any, new: Any, prefix: str, operational: bool) -> list[str]:
    lines = []
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        path = prefix + field.name
        if dataclasses.is_dataclass(before):
            lines += _differences(before, after, f"{path}.", operational)
        elif before != after and (operational or not field.metadata["operational"]):
            lines.append(f"{path}: {before!r} -> {after!r}")
    return lines
