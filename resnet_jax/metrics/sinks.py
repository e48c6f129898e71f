"""What shows a run's records besides its folder: TensorBoard, MLflow, Weights & Biases.

Each library is imported by the run that asks for it, and by no other.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from resnet_jax import files, run_folder
from resnet_jax.config.tracking import SQLITE
from resnet_jax.metrics.telling import Entry, Keep, Outcome, Record, TrackedRun, scalars

# MLflow's word for a run's state, and the exit code that W&B judges one by: those of
# `resnet_jax.main`.
STATES = {
    run_folder.COMPLETED: ("FINISHED", 0),
    run_folder.DIVERGED: ("FAILED", 3),
    run_folder.STOPPED: ("KILLED", 75),
    run_folder.FAILED: ("FAILED", 1),
}
# What MLflow takes in one request.
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1_000, 100
LONGEST_PARAM = 6_000


class TensorBoard:
    """Event files, written anew from the records that are kept."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder / run_folder.TENSORBOARD

    def start(self, kept: Sequence[Record]) -> None:
        """Opens the file. The library imports PyTorch, where that is installed: 1.3 s."""
        import tensorboardX

        shutil.rmtree(self._folder, ignore_errors=True)
        self._events = tensorboardX.SummaryWriter(str(self._folder), flush_secs=10)
        for record in kept:
            self.add(record)

    def add(self, record: Record) -> None:
        """Writes the record's values."""
        for name, value in scalars(record):
            self._events.add_scalar(name, value, record["step"])

    def close(self, outcome: Outcome) -> None:
        """Flushes and closes the file."""
        self._events.close()


class MLflow:
    """A run in an MLflow store or on a server, through the client that talks to both."""

    label, key = "MLflow", "mlflow"
    # Set unless the user has set others, before the library is imported: no telemetry, no log
    # lines of its own, and a server that is away is given up in seconds, not in minutes.
    ENVIRONMENT = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "GIT_PYTHON_REFRESH": "quiet",
    }

    def __init__(self, run: TrackedRun, uri: str, project: str):
        self._run, self._uri, self._project = run, uri, project

    def start(self, entry: Entry, keep: Keep) -> dict[str, int]:
        """See `Remote.start`; the tracker itself is asked what it has."""
        for name, value in self.ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        with self._opening():
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            experiment = self._experiment()
        place = {"uri": self._uri, "project": self._project}
        same = {name: entry.get(name) for name in place} == place
        found = self._found(entry["run_id"]) if same and "run_id" in entry else None
        if found is None:
            tags = {**self._run.tags, "group": self._run.group}
            tags["mlflow.source.git.commit"] = self._run.tags.get("commit", "")
            found = self._client.create_run(
                experiment,
                run_name=self._run.name,
                tags={name: value for name, value in tags.items() if value},
            )
            keep({**place, "run_id": found.info.run_id})
        else:
            self._client.update_run(found.info.run_id, status="RUNNING")
        self._id = found.info.run_id
        self._add_params(found.data.params)
        return self._last_steps(found.data.metrics)

    def send(self, records: Sequence[Record]) -> None:
        """Sends records, as many in a request as it takes."""
        self._log([(*pair, r["step"]) for r in records for pair in scalars(r)])

    def close(self, outcome: Outcome) -> None:
        """Sends the summary as metrics at the last step, the state, and MLflow's word for it."""
        self._log([(*pair, outcome.step) for pair in outcome.summary.items()])
        self._client.set_tag(self._id, "state", outcome.state)
        self._client.set_terminated(self._id, status=STATES[outcome.state][0])

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """Around the first use of a store, one process at a time.

        Runs of a sweep that begin together on a new SQLite file would all make its tables, and all
        but one fail.
        """
        if not self._uri.startswith(SQLITE):
            yield
            return
        file = pathlib.Path(self._uri.removeprefix(SQLITE)).absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.one_at_a_time(file.with_name(f"{file.name}.lock")):
            yield

    def _log(self, values: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value, step in values]
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[first : first + METRICS_AT_ONCE])

    def _found(self, run_id: str) -> Any:
        """The run of an earlier attempt; None if it has been deleted there."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return found if found.info.lifecycle_stage == "active" else None

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._project)
        if found is None:
            try:
                return str(self._client.create_experiment(self._project))
            except MlflowException:
                # Another run of the sweep may have made it in between.
                found = self._client.get_experiment_by_name(self._project)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _add_params(self, there: dict[str, str]) -> None:
        """Those that are missing: MLflow's never change, and operational fields may."""
        from mlflow.entities import Param

        missing = [
            Param(name, str(value)[:LONGEST_PARAM])
            for name, value in self._run.params.items()
            if name not in there
        ]
        for first in range(0, len(missing), PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=missing[first : first + PARAMS_AT_ONCE])

    def _last_steps(self, names: Sequence[str]) -> dict[str, int]:
        last: dict[str, int] = {}
        for name in names:
            split = name.split("/")[0]
            steps = [m.step for m in self._client.get_metric_history(self._id, name)]
            last[split] = max([last.get(split, -1), *steps])
        return last


class WeightsAndBiases:
    """A W&B run. Offline it is a file in the run's folder, for `wandb sync`."""

    label, key = "Weights & Biases", "wandb"
    ENVIRONMENT = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    # Seconds to wait for the server when a run begins, and for the last uploads when it ends.
    START_SECONDS, FINISH_SECONDS = 20, 20

    def __init__(self, run: TrackedRun, mode: str, project: str):
        self._run, self._mode, self._project = run, mode, project

    def start(self, entry: Entry, keep: Keep) -> dict[str, int]:
        """See `Remote.start`; what was sent is known from tracking.json alone."""
        os.environ.setdefault("WANDB_CACHE_DIR", str(self._run.folder / run_folder.WANDB / "cache"))
        wandb = wandb_module()
        same = entry.get("project") == self._project and "id" in entry
        kept: Entry = entry if same else {"project": self._project, "id": uuid.uuid4().hex}
        # Before the run is there: resume='allow' begins it, or goes on with it.
        keep(kept)
        self._wandb_run = wandb.init(
            project=self._project,
            id=kept["id"],
            resume="allow",
            name=self._run.name,
            group=self._run.group,
            dir=str(self._run.folder),
            config={**self._run.params, **self._run.tags},
            mode=self._mode,
            allow_val_change=True,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                init_timeout=self.START_SECONDS,
                finish_timeout=self.FINISH_SECONDS,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        # Its own step only counts up, and may be ahead of ours when a run goes on: charts and
        # readers take ours, which is a value of every row.
        self._wandb_run.define_metric("step", hidden=True)
        self._wandb_run.define_metric("*", step_metric="step")
        self._step = self._wandb_run.starting_step
        return dict(kept.get("sent", {}))

    def send(self, records: Sequence[Record]) -> None:
        """Hands records over to W&B's process, which uploads or writes them."""
        for record in records:
            self._step = max(self._step, record["step"])
            row = {**dict(scalars(record)), "step": record["step"]}
            self._wandb_run.log(row, step=self._step)

    def close(self, outcome: Outcome) -> None:
        """Sends the summary and the exit code."""
        self._wandb_run.summary.update({**outcome.summary, "state": outcome.state})
        self._wandb_run.finish(exit_code=STATES[outcome.state][1])


def logged_in() -> bool:
    """Whether W&B has an API key that looks like one. Its server is not asked."""
    wandb = wandb_module()
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.Error:
        return False


def wandb_module() -> Any:
    """The library, set up so that it says nothing on the console and reports nothing home."""
    for name, value in WeightsAndBiases.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import wandb

    return wandb
