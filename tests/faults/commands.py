"""The commands that faults are tried on, as real processes, and what tells two results apart."""

import functools
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from resnet_jax import run_folder
from resnet_jax.config import RunConfig, load_json
from resnet_jax.train import checkpoint
from resnet_jax.train.initial import initial_state
from resnet_jax.train.state import TrainState
from tests.faults import config as short_run

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'tests' / 'faults' / 'config.py'}"
KILLED = -signal.SIGKILL
PATIENCE = 600  # seconds, for anything

# Rows may run side by side; what they share is made by one of them.
TURN = threading.Lock()

Faults = Mapping[str, Mapping[str, str]]


def environment(shared: Path, faults: Faults | None = None, **more: str) -> dict[str, str]:
    """What a process finds: one CPU device, programs compiled by others, and its faults.

    Args:
        shared: the folder that the rows have in common.
        faults: as in `inject/sitecustomize.py`.
        more: variables.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    path = [str(ROOT)]
    if faults:
        path.insert(0, str(ROOT / "tests" / "faults" / "inject"))
        more["FAULTS"] = json.dumps(faults)
    return {
        **inherited,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(path),
        **more,
    }


def start(
    module: str,
    workdir: Path,
    *arguments: str,
    faults: Faults | None = None,
    log: Path | None = None,
    **more: str,
) -> subprocess.Popen[bytes]:
    """Starts a command in the background.

    Args:
        module: of the command.
        workdir: for its flag.
        arguments: its other flags.
        faults: as in `inject/sitecustomize.py`.
        log: where its words go; None for `log_of(workdir)`.
        more: variables of its environment.
    """
    command = [sys.executable, "-m", module, f"--workdir={workdir}", *arguments]
    with (log or log_of(workdir)).open("ab") as words_to:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(shared_by(workdir), faults, **more),
            stdin=subprocess.DEVNULL,
            stdout=words_to,
            stderr=words_to,
        )


def train(
    workdir: Path,
    *arguments: str,
    faults: Faults | None = None,
    log: Path | None = None,
    **more: str,
) -> subprocess.Popen[bytes]:
    """Starts the short run, or goes on with it."""
    return start("resnet_jax.main", workdir, CONFIG, *arguments, faults=faults, log=log, **more)


def sweep(
    workdir: Path, *arguments: str, faults: Faults | None = None, **more: str
) -> subprocess.Popen[bytes]:
    """Starts a sweep of short runs, or goes on with it."""
    return start(
        "experiments.degradation",
        workdir,
        CONFIG,
        "--depths=8",
        *arguments,
        faults=faults,
        **more,
    )


def end(process: subprocess.Popen[bytes]) -> int:
    """Waits for a process; its exit code."""
    try:
        return process.wait(timeout=PATIENCE)
    finally:
        process.kill()


def wait_until(
    true: Callable[[], bool], process: subprocess.Popen[bytes], *, every: float = 0.02
) -> bool:
    """Waits for something that a process brings about; False if that ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if true():
            return True
        if process.poll() is not None:
            return true()
        time.sleep(every)
    raise TimeoutError("nothing happened")


def shared_by(workdir: Path) -> Path:
    """The folder that all rows have in common."""
    return next(folder for folder in workdir.parents if (folder / "compiled").is_dir())


def log_of(workdir: Path) -> Path:
    """Where the words of a command go that works in `workdir`: never beside it, on a full disk."""
    shared = shared_by(workdir)
    return shared / "compiled" / f"{'_'.join(workdir.relative_to(shared).parts)}.log"


def words(workdir: Path) -> str:
    """What the commands said that worked in `workdir`."""
    return log_of(workdir).read_text(errors="replace")


def status(workdir: Path) -> dict:
    """The run's own account."""
    return run_folder.read_json(workdir / run_folder.STATUS) or {}


def attempts(workdir: Path) -> int:
    """How often a run was begun or gone on with."""
    return len(run_folder.attempts(workdir))


def records(workdir: Path) -> list[tuple[int, str]]:
    """Which (step, split) stand in the metrics, in order."""
    found = run_folder.read_records(workdir / run_folder.METRICS)
    return [(record["step"], record["split"]) for record in found]


def every_record(steps: int = short_run.STEPS) -> list[tuple[int, str]]:
    """Which (step, split) belong into the metrics of a short run."""
    return [
        (step, split)
        for step in range(1, steps + 1)
        for split in ("train", *(("val", "test") if step % 10 == 0 or step == steps else ()))
    ]


def saved_step(workdir: Path) -> int:
    """The newest intact checkpoint; 0 if there is none. Changes nothing."""
    folder = workdir / run_folder.CHECKPOINTS
    if not folder.is_dir():
        return 0
    checkpoints = checkpoint.Checkpoints(folder, read_only=True)
    step = checkpoints.newest_intact()
    checkpoints.close()
    return step or 0


def leaves(workdir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Every array of a checkpoint (the newest intact one) by its path in the state."""
    like = _state_of(load_json(workdir / run_folder.CONFIG))
    checkpoints = checkpoint.Checkpoints(workdir / run_folder.CHECKPOINTS, read_only=True)
    state = checkpoints.restore(checkpoints.newest_intact() if step is None else step, like=like)
    checkpoints.close()
    found = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


@functools.cache
def _state_of(run: RunConfig) -> TrainState:
    return initial_state(run, channels=3, num_classes=run.data.synthetic.classes)[2]


def fingerprint(workdir: Path) -> dict[str, str]:
    """What a run came to: a hash of each leaf of its last checkpoint, its records, its report."""
    told = {
        name: hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()).hexdigest()
        for name, leaf in leaves(workdir).items()
    }
    for name in (run_folder.METRICS, run_folder.EVALUATION):
        told[name] = hashlib.sha256((workdir / name).read_bytes()).hexdigest()
    return told


def undisturbed(shared: Path) -> Path:
    """The short run without any fault, trained once for all rows."""
    workdir = shared / "undisturbed"
    with TURN:
        if status(workdir).get("state") != run_folder.COMPLETED:
            assert end(train(workdir)) == 0, words(workdir)
    return workdir


def undisturbed_sweep(shared: Path, seeds: str) -> tuple[Path, float]:
    """The residual runs of a sweep without faults, trained once for all rows, and its seconds."""
    workdir = shared / f"undisturbed-{seeds}"
    taken = workdir / "report" / "seconds"
    with TURN:
        if not taken.is_file():
            began = time.monotonic()
            code = end(sweep(workdir, "--families=residual", f"--seeds={seeds}"))
            assert code == 0, words(workdir)
            taken.write_text(str(time.monotonic() - began))
    return workdir, float(taken.read_text())


def fired(log: Path) -> dict[str, float]:
    """When each point that had a fault was passed, by the machine's monotonic clock."""
    lines = log.read_text().splitlines() if log.exists() else []
    return {entry["point"]: entry["time"] for entry in map(json.loads, lines)}
