"""Where runs are placed: one on each accelerator, or one on each processor core."""

import ctypes
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from resnet_jax import run_folder
from resnet_jax.errors import InputError

LOG = "log.txt"

# XLA:CPU fuses the chain of residual additions into each weight gradient, so that its cost grows
# with the square of the depth; without fusion depth 56 runs twice as fast, 20 a tenth slower.
FUSION_HURTS_FROM = 44

# XLA:CPU asks for its scratch memory anew at each step, and the kernel's filling it with pages of
# 4 KiB costs as much as the arithmetic: huge pages, and no memory given back between steps. glibc
# passes over what it does not know, other allocators over all of it.
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 2**34,
        "trim_threshold": 2**34,
        "top_pad": 2**28,
    }.items()
)


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
        return [
            Slot(f"gpu {i % count}", (), {"CUDA_VISIBLE_DEVICES": str(i % count)})
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


def placement(slot: Slot, depth: int) -> dict[str, Any]:
    """How `subprocess` puts a process there that trains a net of this depth."""
    return {
        "env": {**_defaults(slot, depth), **os.environ, **slot.environment},
        # A group of its own: Ctrl-C reaches the runner alone, which then asks each run to stop.
        "start_new_session": True,
        "preexec_fn": _settle(slot.cores),
    }


def _defaults(slot: Slot, depth: int) -> dict[str, str]:
    """What helps a run and the user has not decided otherwise."""
    # Runs that differ in the seed alone share one program. Compiled code fits one kind of machine.
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    cache = home / "resnet_jax" / f"compiled-{socket.gethostname()}"
    defaults = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    if slot.cores:
        defaults["GLIBC_TUNABLES"] = KEEP_MEMORY
    if slot.cores and depth >= FUSION_HURTS_FROM:
        defaults["XLA_FLAGS"] = "--xla_disable_hlo_passes=fusion"
    return defaults


def start(folder: pathlib.Path, slot: Slot, depth: int) -> subprocess.Popen[bytes]:
    """Starts (or goes on with) the run whose config lies in `folder`; its words go to log.txt."""
    command = [sys.executable, "-m", "resnet_jax.main", f"--workdir={folder}"]
    with (folder / LOG).open("ab") as log:
        log.write(f"--- {run_folder.now()} on {slot.name}\n".encode())
        log.flush()
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **placement(slot, depth)
        )


def _settle(cores: tuple[int, ...]) -> Callable[[], None]:
    def settle() -> None:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        if sys.platform == "linux":
            # If the runner is killed, its runs save and end instead of going on unattended.
            set_parent_death_signal = 1
            ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)

    return settle


def last_words(folder: pathlib.Path) -> str:
    """The last line that a run wrote, usually its error."""
    try:
        lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return lines[-1] if lines else "an empty log"
