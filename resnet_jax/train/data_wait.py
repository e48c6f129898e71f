"""How long the devices had nothing to do because the next images were not there."""

import concurrent.futures
import time
from typing import Any

import jax

from resnet_jax.train.setup import Experiment


class DataWait:
    """Takes a run's batches, and the time that devices stood idle for them.

    A batch is asked for while the call before it computes, so only what of the wait lies after that
    call's end is lost. A thread looks out for that end. Images in memory are always there, so of
    those no time is taken.

    Args:
        experiment: the run's parts.
        first: the step to begin with.

    Attributes:
        report: what `status.json` says of it, as of the last log line: nothing of images in memory;
            of streamed ones `data`, with how many can be made in a second, at most, and the share
            of the time that was lost.
    """

    def __init__(self, experiment: Experiment, first: int):
        self.report: dict[str, dict[str, float]] = {}
        self._feed, self._batches = experiment.feed, experiment.batches(first)
        cached = experiment.config.transfer.cached_features
        self._watched = experiment.config.data.is_streamed and not cached
        self._watch = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="data-wait")
        self._idle_from: concurrent.futures.Future[float] | None = None
        self._idle = 0.0
        self._since = time.monotonic()

    def next(self) -> Any:
        """What the next call takes."""
        asked = time.monotonic()
        batch = next(self._batches)
        came = time.monotonic()
        # Nothing could have prepared the first one.
        if self._idle_from is not None and self._idle_from.done():
            self._idle += max(came - max(asked, self._idle_from.result()), 0.0)
        return batch

    def computing(self, result: jax.Array) -> None:
        """A call has begun that ends with this result; it is not donated before the next one."""
        if self._watched:
            self._idle_from = self._watch.submit(_finished, result)

    def told(self) -> str:
        """A log line's part on it, since the last one; "" of images in memory."""
        if not self._watched:
            return ""
        now = time.monotonic()
        share = self._idle / max(now - self._since, 1e-9)
        self._idle, self._since = 0.0, now
        rate = self._feed.made_per_second
        self.report = {"data": {"images_per_second": rate, "wait": share}}
        return f"  (data: up to {rate:.0f} img/s; {share:.0%} of the time waiting)"

    def close(self) -> None:
        """Ends what makes the batches, and the thread."""
        self._batches.close()
        self._watch.shutdown()


def _finished(result: jax.Array) -> float:
    jax.block_until_ready(result)
    return time.monotonic()
