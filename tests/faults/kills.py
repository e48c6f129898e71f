"""Processes that are killed, or asked to end."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from resnet_jax import command, run_folder
from resnet_jax.train.checkpoint import DRAFT
from tests.faults import commands
from tests.faults.config import INTERVAL, LAST_OF_EPOCH, MID_EPOCH, STEPS
from tests.faults.outcome import Outcome, Tally

# Each place comes twice in the long version: the state must be right after the second resumption
# as well as after the first.
PLACES = {
    "after the first step": "step 1",
    "mid-epoch": f"step {MID_EPOCH}",
    "before the last step of an epoch": f"step {LAST_OF_EPOCH - 1}",
    "before the first step of the next": f"step {LAST_OF_EPOCH}",
    "inside a save": f"commit {3 * INTERVAL}",
    "after the last step": f"save {STEPS}",
}


def at_random_moments(rounds: int, folder: Path) -> Outcome:
    """Row 1."""
    tally, dice, most_repeated = Tally(), random.Random(1), 0
    runs, to_first_step = [folder / "run0"], 0.0
    for number in range(rounds):
        if commands.status(runs[-1]).get("state") == run_folder.COMPLETED:
            runs.append(folder / f"run{number}")
        workdir = runs[-1]
        with tally.case(f"kill {number}"):
            process = commands.train(workdir)
            # Half of the kills come in the steps, half of them at any moment of a process's life.
            if number % 2 == 0:
                began, before = time.monotonic(), len(commands.records(workdir))
                commands.wait_until(
                    lambda w=workdir, b=before: len(commands.records(w)) > b, process
                )
                to_first_step = time.monotonic() - began
                time.sleep(dice.uniform(0, 0.2 * to_first_step))
            else:
                time.sleep(dice.uniform(0, 1.5 * to_first_step))
            process.kill()
            assert commands.end(process) in (0, commands.KILLED)
            most_repeated = max(most_repeated, _repeated_steps(workdir))
    code = commands.end(commands.train(runs[-1]))
    assert code == 0, commands.words(runs[-1])
    same = _are_like_the_undisturbed_run(runs, folder.parent)
    for case in tally.cases:
        case.identical = same
    return tally.outcome(
        1,
        "kill -9 at a random moment",
        f"same result, every record once; at most {INTERVAL} steps (the checkpoint interval) are "
        "repeated, beyond those made during a save",
        note=f"{len(runs)} run(s); at most {most_repeated} steps repeated",
    )


def _are_like_the_undisturbed_run(runs: list[Path], shared: Path) -> bool:
    whole = commands.fingerprint(commands.undisturbed(shared))
    return all(
        commands.fingerprint(run) == whole and commands.records(run) == commands.every_record()
        for run in runs
    )


def _repeated_steps(workdir: Path) -> int:
    """How many steps a resumption repeats; refuses more than promised.

    A save goes on in the background while steps are made: if a kill destroys it, the steps since
    the save before are repeated, which are at most an interval more; the next save waits for it.
    """
    made = max((step for step, _ in commands.records(workdir)), default=0)
    under_way = list((workdir / run_folder.CHECKPOINTS).glob(f"*{DRAFT}*"))
    repeated = made - commands.saved_step(workdir)
    allowed = 2 * INTERVAL if under_way or made <= 2 * INTERVAL else INTERVAL
    assert repeated <= allowed, f"{repeated} steps would be repeated after step {made}"
    return repeated


def at_scripted_places(rounds: int, folder: Path) -> Outcome:
    """Row 2."""
    tally, workdir = Tally(), folder / "run"
    times = 2 if rounds >= 2 * len(PLACES) else 1
    for what, place in PLACES.items():
        for number in range(times):
            with tally.case(f"{what}, kill {number + 1}"):
                faults = {"*": {place: "kill"}}
                log = folder / "fired.jsonl"
                log.unlink(missing_ok=True)
                process = commands.train(workdir, faults=faults, FAULTS_LOG=str(log))
                code = commands.end(process)
                assert code == commands.KILLED, f"ended with {code}, not killed at {place}"
                assert list(commands.fired(log)) == [place]
    assert commands.end(commands.train(workdir)) == 0, commands.words(workdir)
    same = _are_like_the_undisturbed_run([workdir], folder.parent)
    for case in tally.cases:
        case.identical = same
    return tally.outcome(
        2,
        "kill -9 at six chosen places, one after another in one run",
        "same result, every record once",
        note=f"each place {times} time(s)",
    )


def asked_to_end(rounds: int, folder: Path) -> Outcome:
    """Row 9."""
    tally, slowest = Tally(), 0.0
    for number in range(max(1, rounds // 6)):
        workdir = folder / f"run{number}"
        # The phases of one run, in the order of its life; steps that are certain to be saved.
        for what, point, action, least in (
            ("import", "import", "terminate", 0),
            ("first compilation", "step 0", "terminate 0.3", 0),
            ("step", f"step {MID_EPOCH}", "terminate", MID_EPOCH),
            ("evaluation", "evaluate 1", "terminate", 10),
            ("save", "commit 16", "terminate", 16),
        ):
            with tally.case(what) as case:
                log = folder / f"{number}-{point}.jsonl"
                fresh = {"JAX_COMPILATION_CACHE_DIR": str(folder / f"empty{number}-{point}")}
                process = commands.train(
                    workdir,
                    faults={"*": {point: action}},
                    FAULTS_LOG=str(log),
                    **(fresh if point == "step 0" else {}),
                )
                code = commands.end(process)
                taken = time.monotonic() - commands.fired(log)[point]
                assert code == command.INTERRUPTED, f"exit code {code}"
                slowest = max(slowest, taken)
                saved = commands.saved_step(workdir)
                case.lost = max(0, least - saved)
                assert least <= saved <= STEPS
        assert commands.end(commands.train(workdir)) == 0, commands.words(workdir)
        same = _are_like_the_undisturbed_run([workdir], folder.parent)
        for case in tally.cases[-5:]:
            case.identical = same
        with tally.case("between two runs of a sweep") as case:
            case.identical = _between_runs(folder / f"sweep{number}")
    return tally.outcome(
        9,
        "SIGTERM in six phases",
        "exit code 75, every step made is saved, same result",
        note=f"slowest end after {slowest:.1f} s",
    )


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """What is started meanwhile has one core: a sweep then trains one run after the other.

    Not `--jobs=1`, which gives a run all cores: XLA:CPU cuts its sums by the number of threads, so
    the last bits are those of runs with as many cores.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _between_runs(workdir: Path) -> bool:
    """Ends a runner when the first of its two runs is over; whether both end like undisturbed."""
    arguments = ("--families=residual", "--seeds=1,2")
    with _on_one_core():
        process = commands.sweep(workdir, *arguments)
    first = workdir / "ResNet-8-seed1"

    def is_over() -> bool:
        done = commands.status(first).get("state") == run_folder.COMPLETED
        return done and run_folder.owner(first) is None

    assert commands.wait_until(is_over, process), commands.words(workdir)
    process.send_signal(signal.SIGTERM)
    code = commands.end(process)
    assert code == command.INTERRUPTED, f"exit code {code}"
    with _on_one_core():
        process = commands.sweep(workdir, *arguments)
    assert commands.end(process) == 0, commands.words(workdir)
    assert commands.attempts(first) == 1
    whole, _ = commands.undisturbed_sweep(workdir.parent.parent, "1,2")
    return all(
        commands.fingerprint(workdir / run.name) == commands.fingerprint(run)
        for run in whole.glob("*-seed*")
    )
