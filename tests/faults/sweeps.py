"""Sweeps in which runs fail, and sweeps whose runner is killed."""

import random
import shutil
import time
from pathlib import Path

from experiments.slots import LOG
from resnet_jax import run_folder
from tests.faults import commands
from tests.faults.outcome import Outcome, Tally

# What one run each meets after its third step, and what its status must say of it.
FAULTS = {
    "plain-8-seed0": ("fail", "a fault on purpose"),
    "plain-8-seed1": ("exhaust", "out of memory"),
    "plain-8-seed2": ("kill", "signal 9"),
    "ResNet-8-seed0": ("hang", "no sign of life"),
}
# Longer than any start of a process takes on a busy machine.
HANG_AFTER = 75


def runs_that_fail(rounds: int, folder: Path) -> Outcome:
    """Row 5."""
    tally = Tally()
    # Twelve runs, of which eight are well; fewer in the short version, and no second try.
    seeds, retries = (range(6), 1) if rounds >= 8 else (range(3), 0)
    listed = ",".join(map(str, seeds))
    if rounds >= 8:
        clean = folder / "clean"
        assert commands.end(commands.sweep(clean, f"--seeds={listed}")) == 0, commands.words(clean)
    else:
        clean, _ = commands.undisturbed_sweep(folder.parent, "1,2")
    for number in range(max(1, rounds // 8)):
        workdir = folder / f"sweep{number}"
        faults = {name: {"step 3": action} for name, (action, _) in FAULTS.items()}
        code = commands.end(
            commands.sweep(
                workdir,
                f"--seeds={listed}",
                f"--retries={retries}",
                f"--hang_after={HANG_AFTER}",
                faults=faults,
            )
        )
        names = {path.name for path in clean.glob("*-seed*")} | set(FAULTS)
        for name in sorted(names):
            run = workdir / name
            with tally.case(name) as case:
                assert code == 1, f"exit code {code}: {commands.words(workdir)[-300:]}"
                if name in FAULTS:
                    _check_failed(run, FAULTS[name][1], tries=1 + retries)
                else:
                    state = commands.status(run)["state"]
                    case.lost = int(state != run_folder.COMPLETED)
                    assert state == run_folder.COMPLETED, state
                    case.identical = commands.fingerprint(run) == commands.fingerprint(clean / name)
        shutil.rmtree(workdir, ignore_errors=True)
    return tally.outcome(
        5,
        "an exception, a full memory, a kill -9 and a hang, each in one run of a sweep",
        "these fail with their reason, the others end bit-identical to a sweep without faults",
        note=f"sweeps of {2 * len(seeds)} runs",
    )


def _check_failed(run: Path, reason: str, *, tries: int) -> None:
    status = commands.status(run)
    assert status["state"] == run_folder.FAILED, status["state"]
    assert reason in status["reason"], f"the reason is {status['reason']!r}"
    begun = _begun(run)
    assert begun == tries, f"tried {begun} times"


def _begun(run: Path) -> int:
    """How often a runner started a process for a run."""
    log = run / LOG
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return sum(line.startswith("--- ") for line in lines)


def killed_runner(rounds: int, folder: Path) -> Outcome:
    """Row 6."""
    tally, dice, workdir = Tally(), random.Random(6), folder / "sweep"
    seeds = "1,2" if rounds < 10 else "0,1,2,3,4,5"
    arguments = ("--families=residual", f"--seeds={seeds}")
    whole, undisturbed = commands.undisturbed_sweep(folder.parent, seeds)
    spent = 0.0
    over: dict[str, int] = {}
    for number in range(min(rounds, 10)):
        with tally.case(f"kill {number}") as case:
            began = time.monotonic()
            process = commands.sweep(workdir, *arguments)
            if number % 2 == 0:  # so that there is something that could be repeated
                commands.wait_until(lambda: len(_completed(workdir)) > len(over), process)
            else:
                time.sleep(dice.uniform(0.2, 0.8) * undisturbed)
            process.kill()
            commands.end(process)
            spent += time.monotonic() - began
            case.lost = sum(not (workdir / name).is_dir() for name in over)
            for name, attempts in over.items():
                assert commands.attempts(workdir / name) == attempts, f"{name} was repeated"
            for run in _completed(workdir):
                over.setdefault(run.name, commands.attempts(run))
    began = time.monotonic()
    code = commands.end(commands.sweep(workdir, *arguments))
    spent += time.monotonic() - began
    names = sorted(run.name for run in whole.glob("*-seed*"))
    same = code == 0 and all(
        commands.fingerprint(workdir / name) == commands.fingerprint(whole / name) for name in names
    )
    repeated = sum(commands.attempts(workdir / name) != over[name] for name in over)
    for case in tally.cases:
        case.identical = same and not repeated
    return tally.outcome(
        6,
        "kill -9 of the runner at a random moment, or when a run is just over",
        "nothing lost, no finished run repeated, results bit-identical",
        note=f"{len(names)} runs; {spent:.0f} s against {undisturbed:.0f} s undisturbed, starts of "
        f"{len(tally.cases)} more runners included",
    )


def _completed(workdir: Path) -> list[Path]:
    return [
        run
        for run in workdir.glob("*-seed*")
        if commands.status(run).get("state") == run_folder.COMPLETED
    ]


def all_fail(rounds: int, folder: Path) -> Outcome:
    """Row 7."""
    tally = Tally()
    for number in range(max(1, rounds // 10)):
        workdir = folder / f"sweep{number}"
        with tally.case(f"sweep {number}"):
            seeds = ",".join(map(str, range(25)))
            process = commands.sweep(
                workdir,
                f"--seeds={seeds}",
                "--jobs=1",
                "--retries=0",
                faults={"*": {"import": "fail"}},
            )
            code = commands.end(process)
            begun = sum(_begun(run) for run in workdir.glob("*-seed*"))
            assert begun == 3, f"{begun} processes were started"
            assert code == 1, f"exit code {code}"
            assert "Traceback" not in commands.words(workdir)
    return tally.outcome(
        7,
        "a sweep of 50 runs of which each fails before its first step",
        "stops after three processes, exit code 1, one line",
    )
