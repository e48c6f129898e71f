"""Which sinks a run's config asks for, and whether they can be had."""

import dataclasses
import importlib.util
import pathlib
from typing import Any

from resnet_jax import run_folder
from resnet_jax.config import LogConfig, RunConfig
from resnet_jax.config.tracking import SQLITE
from resnet_jax.errors import InputError
from resnet_jax.metrics.background import InBackground, Ledger
from resnet_jax.metrics.sinks import MLflow, TensorBoard, WeightsAndBiases, logged_in
from resnet_jax.metrics.telling import Sink, TrackedRun

_INSTALL = "pip install -r requirements-tracking.txt (the extra 'tracking')"


def require_ready(log: LogConfig) -> None:
    """Refuses trackers that are not installed, or that nobody is logged in to.

    Raises:
        InputError: before a run has written anything, if it is asked before.
    """
    if log.mlflow:
        _require_installed("mlflow", log.mlflow, "mlflow")
        if log.mlflow.startswith(SQLITE):
            _require_installed("mlflow", log.mlflow, "sqlalchemy", "alembic")
    if log.wandb:
        _require_installed("wandb", log.wandb, "wandb")
    if log.wandb == "online" and not logged_in():
        raise InputError(
            "config.log.wandb='online' needs an API key: run `wandb login` or set WANDB_API_KEY, "
            "or use 'offline'"
        )


def _require_installed(name: str, value: str, *packages: str) -> None:
    for package in packages:
        found = importlib.util.find_spec(package)
        # A folder of that name, which W&B itself makes, looks like a package without a file.
        if found is None or found.origin is None:
            raise InputError(
                f"config.log.{name}={value!r} needs {package}, which is not installed: {_INSTALL}, "
                "or leave it at ''"
            )


def sinks_of(config: RunConfig, workdir: pathlib.Path, *, leads: bool = True) -> list[Sink]:
    """The sinks of one attempt at a run, in the order in which they are told.

    Args:
        config: of the run.
        workdir: the run's folder; its provenance says which commit this is.
        leads: whether this process speaks for the run; the others tell no tracker.
    """
    log, sinks = config.log, list[Sink]()
    if log.tensorboard:
        sinks.append(TensorBoard(workdir))
    if leads and (log.mlflow or log.wandb):
        run, ledger = _described(config, workdir), Ledger(workdir)
        if log.mlflow:
            sinks.append(InBackground(MLflow(run, log.mlflow, log.project), ledger))
        if log.wandb:
            sinks.append(InBackground(WeightsAndBiases(run, log.wandb, log.project), ledger))
    return sinks


def _described(config: RunConfig, workdir: pathlib.Path) -> TrackedRun:
    folder = workdir.absolute()
    attempts = run_folder.attempts(workdir)
    commit = attempts[-1]["commit"] if attempts else None
    return TrackedRun(
        folder=folder,
        name=folder.name,
        group=folder.parent.name,
        params=_flat(dataclasses.asdict(config)),
        tags={"folder": str(folder)} | ({"commit": commit} if commit else {}),
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
