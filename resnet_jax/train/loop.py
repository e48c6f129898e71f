"""One run from start to end: the order of operations, and nothing that computes."""

import contextlib
import logging
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from resnet_jax import run_folder
from resnet_jax.config import RunConfig, to_json
from resnet_jax.hosts import Hosts
from resnet_jax.metrics import tracking
from resnet_jax.metrics.writer import MetricsWriter
from resnet_jax.models import registry
from resnet_jax.train import optimizer, provenance, recording
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.damage import DamageList
from resnet_jax.train.data_wait import DataWait
from resnet_jax.train.earlier import logged_error, require_same, require_same_data, restored
from resnet_jax.train.evaluator import Evaluator
from resnet_jax.train.final import final_report
from resnet_jax.train.frozen import FrozenParts
from resnet_jax.train.progress import TrainingProgress
from resnet_jax.train.reestimation import reestimated
from resnet_jax.train.setup import Experiment

LOG = logging.getLogger(__name__)

# A running run says how far it is no more often than this: rewriting a file is not free.
STATUS_SECONDS = 1.0
# Why a run is `stopped`.
WITH_CHECKPOINT = "stopped on request, with a checkpoint"
BEFORE_IT_BEGAN = "stopped on request, before its first step"


def train(
    config: RunConfig,
    workdir: pathlib.Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    examine: Callable[[Experiment, Callable[[], bool]], None] | None = None,
    recorder: recording.MakeRecorder | None = None,
) -> dict[str, Any]:
    """Trains the configured net, or goes on where an earlier attempt in `workdir` stopped.

    Args:
        config: of the run.
        workdir: the run's folder; made if it is not there.
        should_stop: asked between any two calls to the devices; once true, the run saves and
            returns.
        examine: looks at the run's parts, and at whether it should stop, before anything is
            written; what it raises ends the run.
        recorder: looks at the state while the run trains, if `log.signals_interval` asks for it.

    Returns:
        The last status, as in `status.json`: state is `completed`, `diverged` or `stopped`.

    Raises:
        InputError: for bad input, before anything is written.
    """
    run_folder.require_own(workdir)
    require_same(config, workdir)
    hosts = Hosts()
    agreed = hosts.agreed(should_stop)
    status = hosts.lead(lambda: run_folder.read_json(workdir / run_folder.STATUS)) or {}
    if status.get("state") in run_folder.FINISHED:
        LOG.info("%s is already %s; nothing to do", workdir, status["state"])
        return status
    hosts.lead(lambda: tracking.require_ready(config.log))
    experiment = Experiment.prepare(config)
    require_same_data(experiment.dataset, workdir)
    if examine is not None and not agreed():
        examine(experiment, agreed)
    if agreed():
        return {"step": 0, "steps": config.train.steps, **status} | {
            "state": run_folder.STOPPED,
            "reason": BEFORE_IT_BEGAN,
        }
    with contextlib.ExitStack() as stack:
        hosts.lead(lambda: workdir.mkdir(parents=True, exist_ok=True))
        hosts.lead(lambda: stack.enter_context(run_folder.locked(workdir)))
        records = stack.enter_context(hosts.records(workdir))
        return Attempt(experiment, workdir, agreed, recorder, records=records).finish()


class StopAsked(Exception):
    """The run was asked to save and end."""


class Attempt:
    """One attempt at a run. Its methods appear in the order in which they are called.

    Args:
        experiment: the run's parts.
        workdir: the run's folder: new, or of an earlier attempt to go on with.
        should_stop: as in `train`; the same on all hosts.
        recorder: as in `train`.
        records: where this host writes all but checkpoints; the run's folder if None.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: pathlib.Path,
        should_stop: Callable[[], bool] = lambda: False,
        recorder: recording.MakeRecorder | None = None,
        *,
        records: pathlib.Path | None = None,
    ):
        self.should_stop = should_stop
        self.experiment, self.config = experiment, experiment.config
        self.checkpoints = Checkpoints(
            workdir / run_folder.CHECKPOINTS, keep=self.config.train.keep_checkpoints
        )
        workdir = records or workdir
        self.workdir = workdir
        self.evaluator = Evaluator(experiment)
        self.state, self.start = restored(
            experiment, self.checkpoints, self.checkpoints.newest_intact()
        )
        self._describe()
        self.frozen = FrozenParts(experiment, self.state)
        self.damage = DamageList(experiment.feed, workdir, experiment.devices.hosts)
        self.batches = DataWait(experiment, self.start)
        sinks = tracking.sinks_of(self.config, workdir, leads=experiment.devices.hosts.leads)
        self.writer = MetricsWriter(workdir, after_step=self.start, sinks=sinks)
        self.progress = TrainingProgress(
            steps=self.config.train.steps,
            start=self.start,
            batch_size=self.config.train.batch_size,
            show=self.config.log.progress and experiment.devices.hosts.leads,
        )
        # An attempt that only has the report left to do has no step of its own to measure.
        self.train_error = logged_error(workdir, self.start, "train")
        self.recorder = recording.wanted(recorder, experiment, workdir, self.start)
        self.predictions: dict[str, dict[str, np.ndarray]] = {}
        self.last_told = -math.inf
        self.last_beat = -math.inf

    def _describe(self) -> None:
        run_folder.write_text(self.workdir / run_folder.CONFIG, to_json(self.config))
        overview = parameter_overview.get_parameter_overview(self.experiment.state.params)
        run_folder.write_text(self.workdir / run_folder.PARAMETERS, overview + "\n")
        self.experiment.preprocessing.save(self.workdir / run_folder.PREPROCESSING)
        this = provenance.describe(self.experiment.devices.devices, self.experiment.dataset)
        attempts = [*run_folder.attempts(self.workdir), this]
        run_folder.write_json(self.workdir / run_folder.PROVENANCE, {"attempts": attempts})

    def finish(self) -> dict[str, Any]:
        """Runs all remaining steps and the final evaluation; tells the outcome."""
        try:
            state, step = self._all_steps()
            self.checkpoints.wait()
            if state == run_folder.DIVERGED:
                return self._status(
                    state,
                    step,
                    reason=f"loss, gradient or statistics were not finite at step {step}",
                )
            if state == run_folder.STOPPED:
                reason = WITH_CHECKPOINT if step else BEFORE_IT_BEGAN
                return self._status(state, step, reason=reason)
            return self._final_report()
        except StopAsked:
            # From the report, which the next attempt makes again.
            return self._status(run_folder.STOPPED, self.config.train.steps, reason=WITH_CHECKPOINT)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            self._status(run_folder.FAILED, self.checkpoints.last_step or 0, reason=reason)
            raise
        finally:
            self.batches.close()
            self.progress.close()
            self.writer.close()
            self.checkpoints.close()

    def _all_steps(self) -> tuple[str, int]:
        """Trains to the end, or until something ends it; tells what, and at which step."""
        train, per_call = self.config.train, self.experiment.steps_per_call
        self._status(run_folder.RUNNING, self.start)
        step = self.start
        try:
            self._look_if_cut_off()
            self._record_signals(step)
            for first in range(self.start, train.steps, per_call):
                batch = self.batches.next()
                # The host prepares one call ahead, never more: a request to stop is about now.
                jax.block_until_ready(self.state.step)
                self._between_calls(worked=first > self.start)
                (self.state,) = self.experiment.train_program(
                    self.state, self.experiment.arrays, batch
                )
                self.batches.computing(self.state.step)
                step = first + per_call
                last = step == train.steps
                if step % self.config.log.interval == 0 or last:
                    diverged_at = self._log(step)
                    if diverged_at >= 0:
                        return run_folder.DIVERGED, diverged_at
                self._look_and_save(step, last)
                self._record_signals(step)
        except StopAsked:
            self._save(step, None, last=True)
            return run_folder.STOPPED, step
        return run_folder.COMPLETED, train.steps

    def _between_calls(self, *, worked: bool = True) -> None:
        """Shows that the run gets on, and looks for what has to be acted on at once.

        Args:
            worked: whether there is a call behind it.

        Raises:
            StopAsked: if the run is to end.
            OSError: if a save in the background has failed.
        """
        self.damage.keep()
        if worked and time.monotonic() - self.last_beat > run_folder.BEAT_SECONDS:
            self.last_beat = time.monotonic()
            run_folder.beat(self.workdir)
        self.checkpoints.check()
        if self.should_stop():
            raise StopAsked

    def _log(self, step: int) -> int:
        """Writes the means since the last line; tells where the run diverged, or -1."""
        state = self.experiment.devices.single_copy(self.state)
        values = state.window.compute()
        # By way of its shortest text: 0.1, and not the 0.10000000149 that float32 makes of it.
        values["learning_rate"] = float(str(optimizer.learning_rate(state.opt_state)))
        self.train_error = values["error"]
        self.writer.write(step, "train", values)
        self.progress.update(step, values, self.batches.told())
        if time.monotonic() - self.last_told > STATUS_SECONDS:
            self._status(run_folder.RUNNING, step)
        return int(state.first_nonfinite_step)

    def _look_and_save(self, step: int, last: bool) -> None:
        train = self.config.train
        evaluate = last or step % train.eval_interval == 0
        save = last or step % train.checkpoint_interval == 0
        if not (evaluate or save):
            return
        val_error = self._evaluate(step, last) if evaluate else None
        if save:
            self._save(step, val_error, last=last)

    def _record_signals(self, step: int) -> None:
        if self.recorder is not None and self.recorder.is_due(step):
            with self.progress.paused():
                self.recorder.record(step, self.experiment.to_save(self.state))

    def _look_if_cut_off(self) -> None:
        """Makes up for the evaluation in which an earlier attempt was stopped, and saved."""
        train, step = self.config.train, self.start
        last = step == train.steps
        if step == 0 or not (last or step % train.eval_interval == 0):
            return
        if not math.isnan(logged_error(self.workdir, step, "test")):
            return
        val_error = self._evaluate(step, last)
        if last or step % train.checkpoint_interval == 0:
            # It was saved without its error, and would never count as the best.
            state = self.experiment.to_save(self.state)
            self.checkpoints.replace(step, state, val_error)

    def _save(self, step: int, val_error: float | None, *, last: bool) -> None:
        if step and self.checkpoints.last_step != step:
            state = self.experiment.to_save(self.state)
            self.checkpoints.save(step, state, val_error, last=last)

    def _evaluate(self, step: int, last: bool) -> float | None:
        """Logs val and test; only val's error is returned, for nothing may be chosen on test."""
        measured = {}
        jax.block_until_ready(self.state.step)
        with self.progress.paused():
            if last and self.config.train.reestimation_batches:
                self.state = reestimated(self.experiment, self.state, between=self._between_calls)
            for split in ("val", "test"):
                if self.experiment.feed.sizes[split]:
                    values, seen = self.evaluator.measure(
                        self.state, split, between=self._between_calls
                    )
                    if last and self.evaluator.sees_center:  # for the final report
                        self.predictions[split] = self.evaluator.predictions(seen)
                    measured[split] = values
        self.damage.gather()
        # Both or none: an evaluation that was cut off is made again.
        for split, values in measured.items():
            self.writer.write(step, split, values)
        if "val" not in measured:
            return None
        self.state = self.experiment.judged(self.state, measured["val"]["error"])
        return measured["val"]["error"]

    def _final_report(self) -> dict[str, Any]:
        steps = self.config.train.steps
        # An attempt that ended after the last checkpoint and before this has left no predictions.
        predictions = self.predictions or self.evaluator.all_predictions(
            self.state, between=self._between_calls
        )
        self.frozen.require_unchanged(self.state)
        self.damage.gather()
        final_report(self.experiment, predictions, self.workdir, steps, self.train_error)
        limit = self.config.train.not_converged_error
        verdict = "converged" if self.train_error <= limit else "not_converged"
        return self._status(run_folder.COMPLETED, steps, verdict=verdict)

    def _status(self, state: str, step: int, **more: Any) -> dict[str, Any]:
        status = {
            "state": state,
            "step": step,
            "steps": self.config.train.steps,
            "parameters": registry.count_parameters(self.experiment.state.params),
            "train_error": self.train_error,
            "images_per_second": self.progress.images_per_second,
            **(self.frozen.report | self.batches.report | self.damage.report()),
            "updated": run_folder.now(),
            **more,
        }
        self.last_told = time.monotonic()
        path = self.workdir / run_folder.STATUS
        run_folder.write_json(path, status, durable=state != run_folder.RUNNING)
        return status
