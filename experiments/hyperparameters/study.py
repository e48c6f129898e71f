"""A search's memory: an Optuna study in a database, which any number of workers share.

Trials have the numbers 0, 1, ... and a search of N trials has those below N: whatever workers do at
once, none can add one too many. A trial waits, runs, and is finished; one whose worker is gone
waits again, under its number and with its values, so that its folder is gone on with.
"""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.trial import TrialState

from experiments.hyperparameters import database, engines, findings, identity
from experiments.hyperparameters.findings import OUTCOME, REASON, SECONDS
from experiments.hyperparameters.space import Range, SearchPlan
from resnet_jax.config import RunConfig
from resnet_jax.errors import InputError, first_line

# How often a worker shows that it is alive, as a share of the time after which it counts as dead.
BEATS = 6
# How long the first worker may take to write the first trial.
SET_UP_SECONDS = 20.0
# What is kept with a trial while it runs.
WORKER, BEAT, PRUNING = "worker", "beat", "pruning"


class Claim:
    """A trial that this worker has taken.

    Attributes:
        number: of the trial.
        parameters: values by dotted field.
        reported: steps whose errors the pruner knows.
        pruning: why it is given up; "" if it is not.
    """

    def __init__(self, trial: optuna.Trial, parameters: dict[str, Any]):
        self.trial, self.parameters = trial, parameters
        stored = trial.study.get_trials(deepcopy=False)[trial.number]
        self.number = trial.number
        self.reported = set(stored.intermediate_values)
        self.pruning = str(stored.user_attrs.get(PRUNING, ""))
        self.taken = time.monotonic()


class Study:
    """What workers do with a search's trials.

    Args:
        url: of the database, as SQLAlchemy writes them.
        name: of the search in it.
        plan: what is searched, and how.
        config: of the base, resolved: a study belongs to one.
        first: values of the first trial.
        wanted: trials in all.
        dead_after: seconds without a sign of life after which a worker counts as dead.

    Raises:
        InputError: if the database cannot be used, there is no such sampler or pruner, or the
            study is of another search.
    """

    def __init__(
        self,
        url: str,
        name: str,
        plan: SearchPlan,
        config: RunConfig,
        first: Mapping[str, Any],
        *,
        wanted: int,
        dead_after: float,
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.wanted, self.dead_after = plan, wanted, dead_after
        self.first = dict(first)
        engines.sampler(plan.sampler, plan.space, plan.seed, 0)
        pruner = engines.pruner(plan.pruner)
        if plan.sampler.name == "Grid" and wanted > 1 + engines.grid_points(plan.space):
            points = engines.grid_points(plan.space)
            raise InputError(
                f"--trials={wanted} is more than the grid's {points} points and the base's own "
                f"values; use --trials={points + 1} at most"
            )
        self.worker = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        self.claims: dict[int, Claim] = {}
        self._beats, self._last_beat = 0, 0.0
        self._seen: dict[int, tuple[Any, float]] = {}
        try:
            self._storage = database.connect(url)
            self._study, is_new = database.create(name, self._storage, pruner)
            self._set_up(config, is_new=is_new)
        except (
            *(sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError),
            *(ImportError, OSError, RuntimeError),
        ) as error:
            kind = url.split(":")[0]  # all of it may hold a password
            raise InputError(
                f"--storage={kind}:... cannot be used: {first_line(error)}; give an address as "
                "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
            ) from error

    def _set_up(self, config: RunConfig, *, is_new: bool) -> None:
        """Makes the first trial, which has the base's own values, or finds that it is there."""
        if is_new:
            self._study.set_user_attr("search", identity.of(self.plan, config))
            self._study.enqueue_trial({k: engines.stored(v) for k, v in self.first.items()})
            return
        until = time.monotonic() + SET_UP_SECONDS
        while not self._trials() and time.monotonic() < until:  # another worker is about to
            time.sleep(0.1)
        before = self._study.user_attrs.get("search")
        if before is None or not self._trials():  # it was killed
            self._set_up(config, is_new=True)
            return
        changed = identity.changes(before, self.plan, config)
        if changed:
            raise InputError(
                f"the study {self._study.study_name!r} is of another search "
                f"({'; '.join(changed[:3])}); use another --workdir, or leave space, base and the "
                "rest as they were"
            )

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def claim(self, *, but: Collection[int] = ()) -> Claim | None:
        """Takes a trial that waits, or a new one; None if there is none left to take.

        Args:
            but: numbers of trials that are not wanted.
        """
        while True:
            trials = self._trials()
            for trial in trials[: self.wanted]:
                if trial.state == TrialState.WAITING and trial.number not in but:
                    claimed = self._claim(trial.number)
                    if claimed is not None:
                        return claimed
            if len(trials) >= self.wanted:
                return None
            self._study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING))

    def _claim(self, number: int) -> Claim | None:
        trial_id = self._id(number)
        # The database lets one of several workers change it from waiting to running.
        if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return None
        self._storage.set_trial_user_attr(trial_id, WORKER, self.worker)
        plan = self.plan
        self._study.sampler = engines.sampler(plan.sampler, plan.space, plan.seed, number)
        trial = optuna.Trial(self._study, trial_id)
        values = {field: _suggest(trial, field, one) for field, one in plan.space.items()}
        self.claims[number] = Claim(trial, values)
        return self.claims[number]

    def beat(self) -> None:
        """Shows that this worker is alive; to be called often, acts now and then."""
        if time.monotonic() - self._last_beat < self.dead_after / BEATS:
            return
        self._last_beat = time.monotonic()
        self._beats += 1
        for claim in self.claims.values():
            self._note(claim.number, BEAT, self._beats)
        self._free_lost()

    def _free_lost(self) -> None:
        """Puts trials back whose workers are gone."""
        for trial in self._trials()[: self.wanted]:
            if trial.state != TrialState.RUNNING or trial.number in self.claims:
                self._seen.pop(trial.number, None)
                continue
            owner = trial.user_attrs.get(WORKER, "")
            sign = owner, trial.user_attrs.get(BEAT), trial.datetime_start
            # By this machine's clock alone: those of two need not agree.
            if self._seen.get(trial.number, (None, 0.0))[0] != sign:
                self._seen[trial.number] = sign, time.monotonic()
            quiet = time.monotonic() - self._seen[trial.number][1]
            if _has_ended(owner) or quiet > self.dead_after:
                self._free(trial.number, owner)

    def _free(self, number: int, owner: str) -> None:
        """Lets a trial wait again, if it is still this worker's that has or had it.

        Should two workers do so at once and a third take it in between, two claim it: its folder's
        lock lets one of them train, and the database lets the first to finish it count.
        """
        trial_id = self._id(number)
        now = self._storage.get_trial(trial_id)
        if now.state == TrialState.RUNNING and now.user_attrs.get(WORKER, "") == owner:
            # Before it waits: whoever takes it next must not be taken for the one that is gone.
            self._storage.set_trial_user_attr(trial_id, WORKER, "")
            self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def report(self, number: int, step: int, error: float) -> bool:
        """Tells the pruner val's error at a step; whether the trial should be given up.

        Args:
            number: of the trial.
            step: of training.
            error: in percent.
        """
        claim = self.claims[number]
        if step in claim.reported:
            return False
        claim.reported.add(step)
        try:
            claim.trial.report(error, step)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False  # by another worker
        return bool(claim.trial.should_prune())

    def give_up(self, number: int, reason: str) -> None:
        """Notes why a trial is ended early, before its run is stopped."""
        self.claims[number].pruning = reason
        self._note(number, PRUNING, reason)

    def complete(self, number: int, error: float, outcome: str) -> bool:
        """Ends a trial with a result, unless another worker has; tells whether it counted.

        Args:
            number: of the trial.
            error: on val, in percent.
            outcome: 'completed' or 'diverged'.
        """
        self._note(number, OUTCOME, outcome)
        return self._finish(number, TrialState.COMPLETE, [error])

    def prune(self, number: int) -> bool:
        """Ends a trial that was given up; its value is the last error that was reported."""
        stored = self._trials()[number].intermediate_values
        values = [stored[max(stored)]] if stored else None
        self._note(number, REASON, self.claims[number].pruning)
        return self._finish(number, TrialState.PRUNED, values)

    def _finish(self, number: int, state: TrialState, values: list[float] | None) -> bool:
        self._count_seconds(number)
        try:
            self._storage.set_trial_state_values(self._id(number), state, values)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        finally:
            del self.claims[number]
        return True

    def release(self, number: int, reason: str = "") -> None:
        """Puts a trial back, to be gone on with by whoever takes it next.

        Args:
            number: of the trial.
            reason: why, if its run has failed.
        """
        self._count_seconds(number)
        self._note(number, REASON, reason)
        del self.claims[number]
        self._free(number, self.worker)

    def _note(self, number: int, key: str, value: Any) -> None:
        """Keeps something with a trial, unless another worker has finished it in between."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.claims[number].trial.set_user_attr(key, value)

    def _count_seconds(self, number: int) -> None:
        claim = self.claims[number]
        before = claim.trial.user_attrs.get(SECONDS, 0.0)
        seconds = before + time.monotonic() - claim.taken
        self._note(number, SECONDS, round(seconds, 1))

    def left(self, *, but: Collection[int] = ()) -> int:
        """How many trials are not finished.

        Args:
            but: numbers that do not count.
        """
        finished = {trial.number for trial in self._trials() if trial.state.is_finished()}
        return sum(n not in finished and n not in but for n in range(self.wanted))

    def words(self) -> str:
        """How far it is."""
        done = [trial for trial in self._trials()[: self.wanted] if trial.state.is_finished()]
        errors = [t.value for t in done if t.state == TrialState.COMPLETE and t.value is not None]
        best = f", lowest val error {min(errors):.2f} %" if errors else ""
        return f"{len(done)} of {self.wanted} trials done{best}"

    def trials(self) -> list[dict[str, Any]]:
        """All trials that were begun, as they stand in `search.json`."""
        begun = [trial for trial in self._trials()[: self.wanted] if trial.params]
        return [findings.record(trial, self.plan.space) for trial in begun]

    def importances(self) -> dict[str, Any]:
        """As `findings.importances`."""
        return findings.importances(self._study)


def _suggest(trial: optuna.Trial, field: str, one: Range) -> Any:
    """A value of the range; if the trial has one already, that."""
    if one.kind == "categorical":
        choices = {engines.stored(value): value for value in one.values}
        return choices[trial.suggest_categorical(field, list(choices))]
    low, high = one.values[:2]
    if one.kind.endswith("int"):
        return trial.suggest_int(field, low, high, step=one.step, log=one.is_log)
    return trial.suggest_float(field, low, high, log=one.is_log)


def _has_ended(owner: str) -> bool:
    """Whether a worker was a process of this machine that is not there any more."""
    host, _, rest = owner.partition(" ")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(rest.split(" ")[0]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
