"""Files that are there whole or not at all, and where those lie that can be had again."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


def cache() -> pathlib.Path:
    """The folder for what can be compiled or fetched again: ~/.cache/resnet_jax, by XDG's rules."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return pathlib.Path(home).expanduser() / "resnet_jax"


@contextlib.contextmanager
def one_at_a_time(path: pathlib.Path) -> Iterator[None]:
    """Around what one process at a time may do; the others wait. Ends with a process that dies.

    Args:
        path: a file for nothing else.
    """
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes its place in one step, and only if nothing went wrong.

    Args:
        path: where it will stand.
        durable: wait until it is on the disk; not worth it for what is soon replaced again.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
