"""Works off a search's trials: each an ordinary run, beside any number of other workers."""

import math
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import ml_collections

from experiments import run, slots
from experiments.grid import FAMILY_LABELS, Row
from experiments.hyperparameters import findings, objective
from experiments.hyperparameters.space import SearchPlan, resolve
from experiments.hyperparameters.study import Claim, Study
from experiments.plan import PlannedRun, enqueue, plan
from resnet_jax import files, run_folder
from resnet_jax.terminal import CONSOLE

# Between looks at what other workers have left.
LOOK_SECONDS = 1.0
WRITING = ".search.lock"


def folder_name(number: int) -> str:
    """Of a trial's run."""
    return f"trial-{number:03}"


class Search(run.Sweep):
    """Works off the trials of a study, each in a process of its own.

    Args:
        study: gives trials and takes results.
        base: the config that all trials share.
        search: what is searched, and how.
        workdir: the trials' folders lie in it; all workers have the same.
        executor: begins runs where there is room.
        retries: how often a failed run is tried again.
        title: for the table.
        hang_after: seconds without a sign of life after which a run's process is killed.
        until: as in `run.Sweep`.
    """

    def __init__(
        self,
        study: Study,
        base: ml_collections.ConfigDict,
        search: SearchPlan,
        workdir: pathlib.Path,
        executor: slots.Executor,
        *,
        retries: int,
        title: str,
        hang_after: float = run.HANG_AFTER,
        until: float = math.inf,
    ):
        self.begun: list[PlannedRun] = []
        super().__init__(
            *(self.begun, executor),
            retries=retries,
            title=title,
            hang_after=hang_after,
            until=until,
        )
        self.study, self.base, self.search, self.workdir = study, base, search, workdir
        self.name = title
        self.claims: dict[str, Claim] = {}
        self.given_up: set[int] = set()
        self._sizes: dict[str, int] = {}
        self._left, self._looked = 0, float("-inf")

    def work(self) -> int:
        """Works until no trial is left, its own or another worker's; returns the exit code."""
        try:
            return super().work()
        finally:
            # Their runs save and end; whoever takes a trial next waits for that.
            for claim in self.claims.values():
                self.study.release(claim.number)
            self.claims.clear()
            write(self.workdir, self.study, self.search, self.base)

    def _has_more(self) -> bool:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._left = self.study.left(but=self.given_up)
        return self._left > 0

    def _has_succeeded(self) -> bool:
        return self.study.left() == 0

    def _begin(self) -> None:
        self.study.beat()
        for name in self.running:
            self._follow(name)
        while self._free > len(self.waiting) and self._may_begin:
            claim = self.study.claim(but=self.given_up)
            if claim is None:
                break
            self._take(claim)
        super()._begin()

    @property
    def _free(self) -> int:
        return self.executor.width - len(self.running)

    def _take(self, claim: Claim) -> None:
        """Makes a trial a run; settles it at once if a worker was killed before it could."""
        name = folder_name(claim.number)
        self.claims[name] = claim
        row = Row(name, {**self.search.changes, **claim.parameters})
        (planned,) = plan(self.base, [row], self.workdir)
        if all(known.name != name for known in self.begun):
            self.begun.append(planned)
        if planned.is_finished or claim.pruning:
            self._settle(name, planned)
            return
        enqueue(planned)
        self.waiting.append(planned)

    def _follow(self, name: str) -> None:
        """Tells the pruner what a run has measured on val, and ends the run if it says so."""
        job, claim = self.running[name], self.claims[name]
        path = job.run.folder / run_folder.METRICS
        size = path.stat().st_size if path.is_file() else 0
        if claim.pruning or size == self._sizes.get(name):
            return
        self._sizes[name] = size
        steps = job.run.config.train.steps
        for step, error in objective.val_errors(job.run.folder).items():
            # At the last step there is nothing left to save.
            if self.study.report(claim.number, step, error) and step < steps:
                reason = f"pruned by {self.search.pruner.name} at step {step}"
                self.study.give_up(claim.number, f"{reason}, val error {error:.2f} %")
                job.process.send_signal(signal.SIGINT)
                return

    def _collect(self) -> None:
        runs = {name: job.run for name, job in self.running.items()}
        super()._collect()
        for name, planned in runs.items():
            if name in self.running or name not in self.claims:
                continue
            if self.claims[name].pruning and planned in self.waiting:
                self.waiting.remove(
                    planned
                )  # it did not end by itself, and need not be tried again
            if planned not in self.waiting:
                self._settle(name, planned)

    def _settle(self, name: str, planned: PlannedRun) -> None:
        """Tells the study what has become of a trial."""
        claim, status = self.claims.pop(name), planned.status
        steps, number = planned.config.train.steps, claim.number
        # What came after the last look: others are compared with it at each evaluation.
        for step, error in objective.val_errors(planned.folder).items():
            self.study.report(number, step, error)
        if status["state"] == run_folder.COMPLETED:
            error = objective.final(
                planned.folder, steps=steps, evaluations=self.search.evaluations
            )
            self.study.complete(number, error, run_folder.COMPLETED)
            told = f"val error {error:.2f} %"
        elif status["state"] == run_folder.DIVERGED:
            self.study.complete(number, objective.DIVERGED, run_folder.DIVERGED)
            told = f"diverged, counted as {objective.DIVERGED:g} %"
        elif claim.pruning:
            run_folder.write_json(
                planned.folder / run_folder.STATUS, {**status, "reason": claim.pruning}
            )
            self.study.prune(number)
            told = claim.pruning
        else:
            failed = status["state"] == run_folder.FAILED
            reason = str(status.get("reason", "")) if failed else ""
            self.study.release(number, reason)
            if failed:
                self.given_up.add(number)
            told = f"failed: {reason}" if failed else "stopped, to be gone on with"
        CONSOLE.print(f"{name}: {told}", highlight=False, markup=False)
        self._looked = float("-inf")
        self.board.title = f"{self.name} ({self.study.words()})"
        write(self.workdir, self.study, self.search, self.base)


def write(
    workdir: pathlib.Path, study: Study, search: SearchPlan, base: ml_collections.ConfigDict
) -> None:
    """Writes `search.json`, from which the report is drawn.

    Args:
        workdir: the search's folder.
        study: with the trials.
        search: what is searched.
        base: the config that all trials share.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with files.one_at_a_time(workdir / WRITING):  # several workers may end at once
        trials: list[dict[str, Any]] = study.trials()
        for trial in trials:
            trial["folder"] = folder_name(trial["number"])
        content = {
            **search.as_dict(),
            "net": _net(base, search),
            "trials_wanted": study.wanted,
            "optuna": findings.version(),
            "best": findings.best(trials),
            "trials": trials,
            "importances": study.importances(),
        }
        run_folder.write_json(workdir / run_folder.SEARCH, content)


def _net(base: ml_collections.ConfigDict, search: SearchPlan) -> str:
    """The net that all trials train, or that of the base if they are of several."""
    model = resolve(base, search.changes).model
    return f"{FAMILY_LABELS['residual' if model.residual else 'plain']}-{model.depth}"


def report(workdir: pathlib.Path) -> None:
    """Writes a folder's report, one worker after the other, in a process of its own."""
    with files.one_at_a_time(workdir / WRITING):
        subprocess.run([sys.executable, "-m", "resnet_jax.report", str(workdir)], check=True)
