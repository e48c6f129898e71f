"""Where runs are placed on this machine: one on each accelerator, or on each processor core."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from experiments.plan import PlannedRun
from resnet_jax import environment, run_folder, stopping
from resnet_jax.config import RunConfig
from resnet_jax.errors import InputError

LOG = "log.txt"
# What a process's `poll` gives when it is gone with the node that it was on; no exit code is this.
LOST = -1000
# Of a GPU's memory, for all runs on it: JAX takes three quarters for each unless it is told.
GPU_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Slot:
    """Room for one run at a time.

    Attributes:
        name: for people.
        cores: processors that its process is pinned to; empty leaves it alone.
        environment: variables that pick its accelerator.
    """

    name: str
    cores: tuple[int, ...]
    environment: dict[str, str]


class Process(Protocol):
    """A run's process, here or elsewhere; `subprocess.Popen` is one."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs, `LOST` with its node."""

    def send_signal(self, number: int, /) -> None:
        """Sends it a signal."""

    def kill(self) -> None:
        """Ends it at once."""


@dataclasses.dataclass
class Job:
    """A run's process.

    Attributes:
        run: that it works on.
        slot: that it occupies.
        process: as it was started.
        hung: whether it was killed for not showing a sign of life.
        waits: whether it has still to be begun, elsewhere.
    """

    run: PlannedRun
    slot: Slot
    process: Process
    hung: bool = False
    waits: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._before = run_folder.last_beat(self.run.folder)
        self._seen = self._before, time.monotonic()

    @property
    def has_worked(self) -> bool:
        """Whether it has made a step."""
        return run_folder.last_beat(self.run.folder) != self._before

    def seconds_without_a_beat(self) -> float:
        """How long the run has not got on, by this process's clock; the system's may jump."""
        beat, now = run_folder.last_beat(self.run.folder), time.monotonic()
        if beat != self._seen[0] or self.waits():
            self._seen = beat, now
        return now - self._seen[1]


class Executor(Protocol):
    """Begins runs where there is room for them."""

    @property
    def width(self) -> int:
        """How many runs there is room for at a time, at present."""

    def has_room(self) -> bool:
        """Whether another one can be begun."""

    def start(self, run: PlannedRun) -> Job:
        """Begins a run, or goes on with it."""

    def release(self, job: Job) -> None:
        """Takes back the place of a job that has ended."""

    def tend(self) -> None:
        """Lets go of what has had no use for a while; called again and again."""

    def close(self) -> None:
        """Lets go of everything; no job runs any more."""


class Local:
    """Runs as processes of this machine.

    Args:
        places: each holds one at a time.
    """

    def __init__(self, places: Sequence[Slot]):
        self.width, self._free = len(places), list(places)

    def has_room(self) -> bool:
        """As `Executor`."""
        return bool(self._free)

    def start(self, run: PlannedRun) -> Job:
        """As `Executor`."""
        slot = self._free.pop(0)
        return Job(run, slot, start(run.folder, slot, run.config))

    def release(self, job: Job) -> None:
        """As `Executor`."""
        self._free.append(job.slot)

    def tend(self) -> None:
        """As `Executor`."""

    def close(self) -> None:
        """As `Executor`."""


def gpu_environment(share: float) -> dict[str, str]:
    """What a run's process needs so that others have room on its GPU: 0 < share <= 1 is its own."""
    if share >= 1:
        return {}
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{GPU_SHARE * share:.3f}"}


def available(jobs: int) -> list[Slot]:
    """The places of this machine.

    Args:
        jobs: how many runs at a time; 0 takes one an accelerator, or one a core.

    Raises:
        InputError: if there is less room than `jobs`.
    """
    platform, count = _devices()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if platform == "gpu":
        jobs = jobs or count
        shared = gpu_environment(1 / -(-jobs // count))
        return [
            Slot(f"gpu {i % count}", (), {"CUDA_VISIBLE_DEVICES": str(i % count), **shared})
            for i in range(jobs)
        ]
    if platform != "cpu":
        return [Slot(f"all {count} {platform} devices", (), {})]
    # Measured: two processes pinned to a core each train 1.6 times as many images as one on both.
    jobs = jobs or len(cores) or 1
    if cores and jobs > len(cores):
        raise InputError(f"--jobs={jobs} is more than the {len(cores)} cores this process may use")
    shares = [tuple(cores[i::jobs]) for i in range(jobs)]
    return [Slot(f"cores {','.join(map(str, share))}", share, {}) for share in shares]


def _devices() -> tuple[str, int]:
    """Asks JAX in a process of its own: here it would take the accelerators' memory for good."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"JAX finds no device: {done.stderr.strip().splitlines()[-1]}")
    platform, count = done.stdout.split()
    return platform, int(count)


def placement(slot: Slot, config: RunConfig) -> dict[str, Any]:
    """How `subprocess` puts a process there that trains a run of this config."""
    wanted = environment.of_run(config, on_cpu=bool(slot.cores))
    return {
        "env": {**os.environ, **wanted, **slot.environment},
        # A group of its own: Ctrl-C reaches the runner alone, which then asks each run to stop.
        "start_new_session": True,
        "preexec_fn": _settle(slot.cores),
    }


def start(folder: pathlib.Path, slot: Slot, config: RunConfig) -> subprocess.Popen[bytes]:
    """Starts (or goes on with) the run in `folder`; its words go to log.txt."""
    command = [sys.executable, "-m", "resnet_jax.main", f"--workdir={folder}"]
    with (folder / LOG).open("ab") as log, stopping.held_back():
        log.write(f"--- {run_folder.now()} on {slot.name}\n".encode())
        log.flush()
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **placement(slot, config)
        )


def _settle(cores: tuple[int, ...]) -> Callable[[], None]:
    def settle() -> None:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        # If the runner is killed, its runs save and end instead of going on unattended.
        stopping.end_with_parent()

    return settle


def last_words(folder: pathlib.Path) -> str:
    """The last line that a run wrote, usually its error."""
    try:
        lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1] if lines else "an empty log"
