"""Requests to stop. Light to import, so that a command listens before its heavy imports."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator

REQUESTS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether SIGINT or SIGTERM has asked this process to save and end; a second one ends at once.

    Handlers only note the request, because a save from inside one could meet another under way.
    Whoever does the work asks between two pieces of it.
    """

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Whether the process was asked to stop."""
        return self._asked

    def listen(self) -> None:
        """Notes requests from now on."""
        for number in REQUESTS:
            signal.signal(number, self._ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)

    def end_at_once(self) -> None:
        """From now on there is nothing to save: the first request ends the process.

        Raises:
            KeyboardInterrupt: if there has been one already.
        """
        if self._asked:
            raise KeyboardInterrupt
        for number in REQUESTS:
            signal.signal(number, signal.default_int_handler)

    def _ask(self, number: int, frame: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # Not by sys.stderr, which the signal may have come to while it was being written to.
        os.write(2, b"stopping at the next step; again to stop at once\n")


def end_with_parent() -> None:
    """Has the kernel ask this process to stop when the one that began it ends; Linux alone."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Requests wait; in processes that are started meanwhile, until they `listen`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
