"""Batches made by other processes: the same, and nobody is left behind."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import loader, streamed
from resnet_jax.data.batches import TrainingBatches
from resnet_jax.data.loader import Loader
from resnet_jax.data.order import TrainingOrder
from resnet_jax.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path("/dev/shm")


def batches(shapes, steps):
    config = DataConfig(name="image_folder", data_dir=str(shapes), image_size=32)
    dataset = streamed.load(config)
    # 32 * 32 * 32 * 3 bytes are enough to go through shared memory.
    order = TrainingOrder(len(dataset.train), 32, seed=0)
    return TrainingBatches(dataset.train, order, "he2015", 32, 4, steps)


class Asked:
    """Tells of the process that makes it, or does what a test wants of it."""

    def __init__(self, kind, count=6):
        self.kind, self.count = kind, count

    def __len__(self):
        return self.count

    def __getitem__(self, batch):
        if self.kind == "describe":
            from jax._src import xla_bridge

            return {
                "process": os.getpid(),
                "devices": len(xla_bridge._backends),
                "tensorflow": "tensorflow" in sys.modules,
                "ignored": all(
                    signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGINT, signal.SIGTERM)
                ),
            }
        if batch == 3 and self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if batch == 3 and self.kind == "bad input":
            raise InputError("image x cannot be read; mend it")
        return {"batch": np.int32(batch)}


def left_in_shared_memory():
    return {path.name for path in SHARED.glob("psm_*")} if SHARED.is_dir() else set()


def assert_nothing_is_left_beside(before):
    """Grain frees memory in a thread of its own, and other tests may be using some."""
    end = time.monotonic() + 60
    while left_in_shared_memory() - before:
        assert time.monotonic() < end, left_in_shared_memory() - before
        time.sleep(0.1)


def test_batches_are_the_same_by_no_one_or_two_processes_and_by_threads(shapes):
    made = batches(shapes, 7)
    expected = [made[i] for i in range(7)]
    before = left_in_shared_memory()
    for workers, threads in ((0, 1), (0, 3), (2, 1)):
        found = Loader(made, workers=workers, threads=threads, batch_bytes=32 * 32 * 32 * 3)
        got = list(found)
        assert len(got) == 7
        for one, other in zip(got, expected, strict=True):
            assert one.pop("seconds") > 0
            assert set(one) == set(other)
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])
        del got, one
        found.close()
    assert multiprocessing.active_children() == []
    assert_nothing_is_left_beside(before)


def test_processes_start_no_device_and_leave_requests_to_stop_to_the_run():
    with_two = Loader(Asked("describe"), workers=2)
    told = list(with_two)
    with_two.close()
    assert len({row["process"] for row in told} - {os.getpid()}) == 2
    assert all(row["devices"] == 0 and not row["tensorflow"] and row["ignored"] for row in told)


def test_requests_to_stop_are_answered_by_the_main_process_after_a_loader_began():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    found = Loader(Asked("count"), workers=1)
    next(found)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    found.close()


def test_a_process_that_dies_is_told_of_and_the_others_end():
    found = Loader(Asked("die"), workers=2)
    start = time.monotonic()
    with pytest.raises(
        RuntimeError, match="one of 2 processes that decode images ended by SIGKILL"
    ):
        list(found)
    found.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_is_told_in_the_same_line_by_whoever_meets_it(workers):
    found = Loader(Asked("bad input"), workers=workers)
    got = [next(found)["batch"] for _ in range(3)]
    assert got == [0, 1, 2]
    with pytest.raises(InputError) as caught:
        next(found)
    found.close()
    assert str(caught.value) == "image x cannot be read; mend it"


def test_a_loader_that_is_closed_early_leaves_nothing_behind(shapes):
    before = left_in_shared_memory()
    found = Loader(batches(shapes, 100), workers=1, batch_bytes=32 * 32 * 32 * 3)
    first = np.array(next(found)["images"])
    found.close()
    found.close()
    assert first.shape == (32, 32, 32, 3)
    assert multiprocessing.active_children() == []
    assert_nothing_is_left_beside(before)


def test_images_take_pipes_where_shared_memory_is_short(monkeypatch, caplog):
    caplog.set_level("INFO")
    free = loader.shutil.disk_usage("/")._replace(free=64 * 2**20)
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: free)
    # 224 * 224 * 3 * 256 bytes are 37 MB: three of them for each of eight processes are more.
    assert loader._shared_from(8, 224 * 224 * 3 * 256) > 2**40
    assert "64 MB free" in caplog.text
    assert loader._shared_from(1, 2**20) == 2**16


SLEEPER = """
import os, time
from resnet_jax.data.loader import Loader
from tests.test_loader import Asked
if __name__ == "__main__":
    loader = Loader(Asked("describe", 10**6), workers=2)
    processes = {next(loader)["process"] for _ in range(2)}
    print(*processes, flush=True)
    time.sleep(60)
"""


def test_processes_end_when_the_one_they_work_for_is_killed(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "sleeper.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    workers = [int(number) for number in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process):
    """Whether it is there and no zombie, which whoever adopted it has yet to collect."""
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
