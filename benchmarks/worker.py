"""Processes that measure: started with one line for what went wrong, and prepared like runs."""

import os
import subprocess
import sys
from collections.abc import Mapping

from resnet_jax import environment
from resnet_jax.config import RunConfig


def prepare(config: RunConfig) -> None:
    """Gives this process the environment of a run; before JAX is imported and work is done.

    The process may be replaced by itself, as `python -m resnet_jax.main` is.

    Raises:
        RuntimeError: if JAX is imported already, which would leave the settings without effect.
    """
    if "jax" in sys.modules:
        raise RuntimeError("JAX was imported before the environment of a run was prepared")
    environment.keep_memory()
    environment.prepare(config)


def output(module: str, *flags: str, variables: Mapping[str, str] | None = None) -> str:
    """Runs a module as a process of its own, and gives what it prints.

    Args:
        module: as in `python -m MODULE`.
        flags: its command line.
        variables: of its environment, beside this process's.

    Raises:
        SystemExit: if it fails, with one line: its flags, its exit code and the last line that it
            wrote, if there is one (a process that the kernel ends for its memory writes none).
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *flags],
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        command = " ".join([module, *flags])
        raise SystemExit(": ".join([f"error: {command} ended with code {done.returncode}", *last]))
    return done.stdout
