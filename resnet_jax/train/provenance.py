"""Where a number comes from: commit, command, versions, hardware."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import jax

from resnet_jax import environment, run_folder
from resnet_jax.native import library

# The environment variable that says which commit a source tree without git is of.
COMMIT = "RESNET_JAX_COMMIT"
# What Linux calls sets of vector instructions of x86-64, the widest first.
VECTORS = (("avx512_bf16", "AVX-512 BF16"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


def describe(devices: list[jax.Device], dataset: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the results needs to know about this attempt.

    Args:
        devices: that the run uses.
        dataset: as `data.datasets.Dataset.describe` gives it.
    """
    return {
        "started": run_folder.now(),
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        **circumstances(),
        "dataset": dataset,
        "devices": [device.device_kind for device in devices],
        "hosts": len({device.process_index for device in devices}),
        "environment": {
            name: os.environ[name] for name in environment.NUMERICS if name in os.environ
        },
        "native": library.describe(),
    }


def circumstances(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """What any measurement depends on: commit, hardware, versions of Python and some packages."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "hardware": {
            "processor": processor(),
            "usable_cores": len(affinity(0)) if affinity else os.cpu_count(),
            "system": platform.platform(),
        },
    }


def commit() -> str | None:
    """The commit of this source tree, with '+changes' if files differ from it.

    Outside git what `COMMIT` says, which container images set; None without.
    """
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT) or None


def processor(told: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> str:
    """The processor's name, with its widest vectors where Linux tells of them.

    Clouds give one name to processors that differ in speed by two, and in the last digits.
    """
    try:
        lines = [line.split(":", 1) for line in told.read_text().splitlines() if ":" in line]
    except OSError:
        lines = []
    fields = {name.strip(): value.strip() for name, value in lines}
    name = fields.get("model name") or platform.processor() or platform.machine()
    can = fields.get("flags", "").split()
    return name + next((f" with {widest}" for flag, widest in VECTORS if flag in can), "")


def accelerators() -> list[str]:
    """The names of NVIDIA GPUs, without starting JAX, which would take their memory."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.strip().splitlines()
