"""How long the devices had nothing to do because the next images were not there."""

import concurrent.futures
import time
from collections.abc import Generator
from typing import Any

import jax


class DataWait:
    """Takes batches from an iterator, and the time that devices stood idle for them.

    A batch is asked for while the call before it computes, so only what of the wait lies after that
    call's end is lost. A thread looks out for that end.

    Args:
        batches: what is taken from.
        watched: whether time is taken; images in memory are always there.
    """

    def __init__(self, batches: Generator[Any], *, watched: bool):
        self._batches, self._watched = batches, watched
        self._watch = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="data-wait")
        self._idle_from: concurrent.futures.Future[float] | None = None
        self._idle = 0.0
        self._since = time.monotonic()

    def next(self) -> Any:
        """The next batch."""
        asked = time.monotonic()
        batch = next(self._batches)
        came = time.monotonic()
        if self._idle_from is None:  # the first one, which nothing could have prepared
            return batch
        if self._idle_from.done():
            self._idle += max(came - max(asked, self._idle_from.result()), 0.0)
        return batch

    def computing(self, result: jax.Array) -> None:
        """A call has begun that ends with this result; it is not donated before the next one."""
        if self._watched:
            self._idle_from = self._watch.submit(_finished, result)

    def share(self) -> float:
        """The share of the time since it was last asked for, or since the first batch."""
        now = time.monotonic()
        idle, elapsed = self._idle, now - self._since
        self._idle, self._since = 0.0, now
        return idle / max(elapsed, 1e-9)

    def close(self) -> None:
        """Ends what makes the batches, and the thread."""
        self._batches.close()
        self._watch.shutdown()


def _finished(result: jax.Array) -> float:
    jax.block_until_ready(result)
    return time.monotonic()
