"""Batches made ahead of need by Grain: by processes of their own, or by threads of this one.

Which batch comes when is decided by its number alone (`batches`), so Grain's iterator is started at
a batch and needs no state to be kept.

Processes are spawned, not forked: a copy of a process with JAX's threads may hang. They leave
requests to stop to the process that they work for, and end with it, however it ends.
"""

import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import grain
from absl import flags

from resnet_jax.stopping import REQUESTS, held_back

LOG = logging.getLogger(__name__)

# Batches that each process, or thread, is ahead.
AHEAD = 1
# Per process: one in its hands, one in its queue, one taken out of it.
BATCHES_IN_FLIGHT = 2 + AHEAD
SHARED_MEMORY = "/dev/shm"


class Batches(Protocol):
    """Batches by number; sent to other processes, so light."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, batch: int) -> dict[str, Any]:
        """One of them; the same whoever asks."""


class _Timed:
    """The same batches, each with the `seconds` that it took to make."""

    def __init__(self, batches: Batches):
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> dict[str, Any]:
        start = time.perf_counter()
        made = self._batches[batch]
        return made | {"seconds": time.perf_counter() - start}


class Loader:
    """An iterator over all batches in order, each with the `seconds` that it took to make.

    Args:
        batches: what is made.
        workers: processes that make them; 0 for threads of this one, for which decoding images lets
            Python go on.
        threads: how many, if there are no processes.
        batch_bytes: about the size of a batch, to see whether shared memory is large enough.

    Raises:
        InputError: while iterating, if the data cannot be read.
        RuntimeError: while iterating, if a process has died.
    """

    def __init__(self, batches: Batches, *, workers: int, threads: int = 1, batch_bytes: int = 0):
        self._workers = workers
        # 0: each process makes its batches one by one; Grain keeps `AHEAD` of them.
        threads = 0 if workers else threads
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * (1 + AHEAD))
        data = grain.MapDataset.source(_Timed(batches)).to_iter_dataset(read)
        if workers:
            if not flags.FLAGS.is_parsed():
                # Grain reads its own flags, in programs too that have none.
                flags.FLAGS.mark_as_parsed()
            data = grain.experimental.WithOptionsIterDataset(
                data,
                grain.experimental.DatasetOptions(min_shm_size=_shared_from(workers, batch_bytes)),
            )
            data = data.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD),
                worker_init_fn=_begin_work,
            )
        self._iterator: Any = iter(data)
        self._begun = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._begun:
            return self._next()
        self._begun = True
        # Processes are started now, by threads that are; neither answers requests to stop.
        with held_back():
            return self._next()

    def _next(self) -> dict[str, Any]:
        try:
            batch: dict[str, Any] = next(self._iterator)
            return batch
        except RuntimeError as error:
            died = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if died is None:
                raise
            raise RuntimeError(_of_death(int(died[1]), self._workers)) from error

    def close(self) -> None:
        """Ends processes and threads; harmless if they have ended."""
        if self._iterator is None:
            return
        self._iterator.close()
        self._iterator = None
        if self._workers:
            # The exception that ended each of Grain's threads refers to its last batch, which would
            # stay in shared memory until somebody cleans up.
            gc.collect()


def _begin_work(index: int, count: int) -> None:
    """What a process does before its first batch."""
    del index, count
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
    # Libraries that decode images warn of what is odd in them; what matters is counted.
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it does; SIGKILL leaves no time to tell."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _shared_from(workers: int, batch_bytes: int) -> int:
    """The size in bytes from which arrays go through shared memory instead of a pipe."""
    needed = workers * BATCHES_IN_FLIGHT * batch_bytes
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # systems other than Linux keep it elsewhere
        return 2**16
    if free >= needed:
        return 2**16
    # Writing into what is full would end a process by a bus error.
    LOG.info(
        "%s has %d MB free, and %d workers may need %d MB: images take pipes, which is slower",
        SHARED_MEMORY, free // 2**20, workers, needed // 2**20,
    )  # fmt: skip
    return 2**62


def _of_death(exit_code: int, workers: int) -> str:
    how, hint = f"with exit code {exit_code}", ""
    if exit_code < 0:
        number = signal.Signals(-exit_code)
        how = f"by {number.name}"
        if number == signal.SIGKILL:
            hint = ", as the system ends processes when memory is short"
        if number == signal.SIGBUS:
            hint = f", as when {SHARED_MEMORY} is full"
    return (
        f"one of {workers} processes that decode images ended {how}{hint}; the same command goes "
        "on from the last checkpoint, and fewer config.data.workers need less memory"
    )
