"""Damaged checkpoints, full disks, folders that cannot be written."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from resnet_jax import command, run_folder
from resnet_jax.train import checkpoint, manifest
from tests.faults import commands
from tests.faults.config import INTERVAL, STEPS
from tests.faults.outcome import Outcome, Tally, skipped
from tests.test_checkpoint import contents, files, flip

# Room for a checkpoint or two of the short run, and its other files.
DISK_BYTES = 12_000_000
# What is left of it if only a checkpoint shall not fit.
ROOM_FOR_RECORDS = 300_000


def damaged_checkpoints(rounds: int, folder: Path) -> Outcome:
    """Row 8."""
    tally, dice = Tally(), random.Random(8)
    whole = commands.undisturbed(folder.parent)
    print_of = commands.fingerprint(whole)
    newest, before = commands.saved_step(whole), commands.saved_step(whole) - INTERVAL
    before_leaves = commands.leaves(whole, before)
    step = folder / "one" / run_folder.CHECKPOINTS / str(newest)
    shutil.copytree(whole, folder / "one")
    for what, path, damage in _damages(step, rounds, dice):
        with tally.case(f"{what} {path.relative_to(step)}") as case:
            _break(folder / "one", path, damage)
            found = commands.leaves(folder / "one")
            case.identical = all((found[k] == before_leaves[k]).all() for k in before_leaves)
            checkpoints = checkpoint.Checkpoints(folder / "one" / run_folder.CHECKPOINTS, keep=3)
            taken = checkpoints.newest_intact()
            checkpoints.close()
            assert taken == before, f"step {taken} was taken"
        _mend(whole, folder / "one")
    for number in range(max(1, rounds // 20)):
        with tally.case(f"resumption {number}") as case:
            case.identical = _resumes(whole, folder / f"again{number}", newest, dice)
            assert case.identical
    with tally.case("all checkpoints"):
        _is_refused(whole, folder / "all", dice)
    assert commands.fingerprint(whole) == print_of  # all of it was done to copies
    return tally.outcome(
        8,
        "a flipped bit, or a file cut, emptied or removed, in the newest checkpoint",
        "noticed; the one before is taken, and the run ends bit-identical; if all are damaged, "
        "refused and nothing deleted",
        note=f"{max(1, rounds // 20)} of these by the command, the rest by reading back",
    )


def _damages(step: Path, rounds: int, dice: random.Random):
    """Every file thrice, and four times as many flipped bits as rounds are asked for."""
    paths = files(step)
    for path in paths:
        yield "emptied", path, lambda data: b""
        yield "removed", path, lambda data: None
        yield "cut", path, lambda data: data[: len(data) // 2]
    filled = [path for path in paths if path.stat().st_size]
    sizes = [path.stat().st_size for path in filled]
    for path in [*filled, *dice.choices(filled, sizes, k=4 * rounds)]:
        bit = dice.randrange(8 * path.stat().st_size)
        yield f"bit {bit} of", path, bit


def _break(workdir: Path, path: Path, damage) -> None:
    if isinstance(damage, int):
        flip(path, damage)
        return
    left = damage(path.read_bytes())
    path.unlink() if left is None else path.write_bytes(left)


def _mend(whole: Path, workdir: Path) -> None:
    shutil.rmtree(workdir)
    shutil.copytree(whole, workdir)


def _unfinished(whole: Path, workdir: Path) -> None:
    """A copy of a run as it stood before its report was written."""
    shutil.copytree(whole, workdir)
    status = run_folder.read_json(workdir / run_folder.STATUS)
    run_folder.write_json(workdir / run_folder.STATUS, {**status, "state": run_folder.RUNNING})
    (workdir / run_folder.EVALUATION).unlink()


def _resumes(whole: Path, workdir: Path, newest: int, dice: random.Random) -> bool:
    """Damages the newest checkpoint and goes on by the command; whether it ends as it did."""
    _unfinished(whole, workdir)
    path = max(files(workdir / run_folder.CHECKPOINTS / str(newest)), key=os.path.getsize)
    flip(path, dice.randrange(8 * path.stat().st_size))
    assert commands.end(commands.train(workdir)) == 0, commands.words(workdir)
    assert (workdir / checkpoint.DAMAGED / str(newest)).is_dir()
    assert commands.records(workdir) == commands.every_record()
    return commands.fingerprint(workdir) == commands.fingerprint(whole)


def _is_refused(whole: Path, workdir: Path, dice: random.Random) -> None:
    _unfinished(whole, workdir)
    for step in (workdir / run_folder.CHECKPOINTS).iterdir():
        path = max(files(step), key=os.path.getsize)
        flip(path, dice.randrange(8 * path.stat().st_size))
    before = contents(workdir / run_folder.CHECKPOINTS)
    code = commands.end(commands.train(workdir))
    assert code == command.BAD_INPUT, f"exit code {code}"
    assert "are damaged" in commands.words(workdir)
    assert contents(workdir / run_folder.CHECKPOINTS) == before


def full_disk(rounds: int, folder: Path) -> Outcome:
    """Row 10."""
    fault = "a disk that fills at a random moment, a folder that is read-only"
    promise = (
        "no damaged checkpoint, never exit code 0 without the last one, goes on to the same result "
        "when there is room; read-only is refused within 5 s"
    )
    if not _may_mount(folder):
        return skipped(10, fault, promise, "this process may not mount a file system")
    commands.undisturbed(folder.parent)
    done = subprocess.run(
        [*_IN_NAMESPACE, sys.executable, "-m", __spec__.name, str(rounds), str(folder)],
        cwd=commands.ROOT,
        env=commands.environment(folder.parent),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    tally = Tally()
    for what, survived, identical, why in json.loads(done.stdout.splitlines()[-1]):
        with tally.case(what) as case:
            case.identical = identical
            assert survived, why
    return tally.outcome(10, fault, promise, note=f"a tmpfs of {DISK_BYTES // 10**6} MB")


_IN_NAMESPACE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "-r", "--mount")


def _may_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = [*_IN_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(mount, capture_output=True).returncode == 0


def _rounds_on_a_small_disk(rounds: int, folder: Path) -> None:
    """Runs in a process with mounts of its own; prints what became of each case."""
    disk, dice, told = folder / "disk", random.Random(10), []
    disk.mkdir()
    whole = commands.fingerprint(commands.undisturbed(folder.parent))
    for number in range(rounds):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)], check=True
        )
        # Full, or with room for everything but a checkpoint.
        left, after = (
            (ROOM_FOR_RECORDS, dice.randrange(STEPS // 2, STEPS - INTERVAL))
            if number % 2 == 0
            else (0, dice.randrange(STEPS))
        )
        told.append((f"full disk {number}", *_fills(disk / "run", left, after, whole)))
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], check=True)
    before = _processor_seconds()
    code = commands.end(commands.train(disk / "run"))
    # Of the processor, for the machine may be busy with other things.
    taken = _processor_seconds() - before
    said = commands.words(disk / "run").splitlines()[-1]
    refused = code == command.BAD_INPUT and "cannot be read and written" in said and taken < 5
    told.append(("read-only", refused, None, f"exit code {code} after {taken:.1f} s"))
    print(json.dumps(told))


def _processor_seconds() -> float:
    """What the processes that have ended have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fills(workdir: Path, left: int, after: int, whole: dict[str, str]) -> tuple[bool, bool, str]:
    """Fills the disk up to some bytes after some records; survived, identical, and why not."""
    ballast = workdir.parent / "ballast"
    process = commands.train(workdir)
    commands.wait_until(lambda: len(commands.records(workdir)) > after, process)
    with ballast.open("wb") as file:
        try:
            while shutil.disk_usage(workdir.parent).free > left:
                os.write(file.fileno(), b"\0" * 4096)
        except OSError:
            pass  # the run has taken the last of it
    code = commands.end(process)
    folder = workdir / run_folder.CHECKPOINTS
    bad = [
        f"checkpoint {path.name}: {manifest.damage(path)}"
        for path in folder.glob("*")
        if path.name.isdigit() and manifest.damage(path)
    ]
    ballast.unlink()
    if bad:
        return False, False, bad[0]
    if code == 0 and commands.saved_step(workdir) != STEPS:
        return False, False, "exit code 0 without the last checkpoint"
    again = commands.end(commands.train(workdir))
    if again != 0:
        return False, False, f"exit code {again} when there was room again"
    same = commands.fingerprint(workdir) == whole
    return same, same, f"another result after exit code {code}"


if __name__ == "__main__":
    _rounds_on_a_small_disk(int(sys.argv[1]), Path(sys.argv[2]))
