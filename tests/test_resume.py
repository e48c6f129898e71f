import dataclasses
import errno
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from resnet_jax import run_folder
from resnet_jax.config import ParallelConfig, validate
from resnet_jax.data import datasets
from resnet_jax.errors import InputError
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import earlier, evaluation, loop, manifest
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.setup import Experiment

pytestmark = pytest.mark.usefixtures("optimized")

ROOT = pathlib.Path(__file__).resolve().parents[1]


def config(**train):
    # 147 training images in batches of 32: epochs and batches do not end together.
    return validate(
        {
            "model": {"depth": 8},
            "data": {"name": "synthetic", "synthetic": {"image_size": 8, "examples": 204}},
            "optimizer": {"warmup": "until_error", "schedule": "step", "milestones": (9,)},
            "train": {
                "batch_size": 32,
                "steps": 14,
                "eval_interval": 3,
                "checkpoint_interval": 4,
                "eval_batch_size": 25,
                **train,
            },
            "parallel": {"devices": 1},
            "log": {"interval": 2, "tensorboard": False, "progress": False},
        }
    )


def final_state(workdir, run=None):
    checkpoints = Checkpoints(workdir / run_folder.CHECKPOINTS, read_only=True)
    return checkpoints.restore(
        checkpoints.last_step, like=Experiment.prepare(run or config()).state
    )


def stop_after(questions):
    """Answers True from the given question on."""
    answers = iter([False] * (questions - 1))
    return lambda: next(answers, True)


def fail_at(monkeypatch, step):
    original = loop.Attempt._look_and_save

    def look_and_save(self, at, last):
        if at == step:
            raise OSError("the machine went away")
        original(self, at, last)

    monkeypatch.setattr(loop.Attempt, "_look_and_save", look_and_save)


def assert_same_run(parts, whole):
    jax.tree.map(np.testing.assert_array_equal, final_state(parts), final_state(whole))
    for name in (run_folder.METRICS, run_folder.EVALUATION):
        assert (parts / name).read_text() == (whole / name).read_text()
    scores = [np.load(folder / run_folder.PREDICTIONS)["test_logits"] for folder in (parts, whole)]
    np.testing.assert_array_equal(*scores)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    loop.train(config(), folder)
    return folder


def test_a_run_that_failed_twice_is_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, whole):
    # Between checkpoints 4 and 8, and where 8 would be saved.
    for step in (6, 8):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="went away"):
            fail_at(patch, step)
            loop.train(config(), tmp_path)
        status = run_folder.read_json(tmp_path / run_folder.STATUS)
        assert (status["state"], status["step"]) == ("failed", 4)
        assert "the machine went away" in status["reason"]
    assert loop.train(config(), tmp_path)["state"] == "completed"
    assert_same_run(tmp_path, whole)
    attempts = run_folder.read_json(tmp_path / run_folder.PROVENANCE)["attempts"]
    assert len(attempts) == 3


def test_a_run_that_only_lacks_its_report_is_the_uninterrupted_one(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="went away"):
        patch.setattr(loop, "final_report", lambda *_: (_ for _ in ()).throw(OSError("went away")))
        loop.train(config(), tmp_path)
    assert not (tmp_path / run_folder.EVALUATION).exists()
    status = loop.train(config(), tmp_path)
    assert_same_run(tmp_path, whole)
    before = run_folder.read_json(whole / run_folder.STATUS)
    for name in ("state", "verdict", "train_error", "step"):
        assert status[name] == before[name]


def test_a_run_that_is_stopped_again_and_again_is_the_uninterrupted_one(tmp_path, whole):
    # Steps and evaluation batches ask in turn: some attempts end within an evaluation.
    status, steps, cut_off = {"state": "stopped"}, [], 0
    while status["state"] == "stopped":
        status = loop.train(config(), tmp_path, should_stop=stop_after(6))
        steps.append(status["step"])
        assert (tmp_path / run_folder.CHECKPOINTS / str(steps[-1])).is_dir()
        looked = not math.isnan(earlier.logged_error(tmp_path, steps[-1], "test"))
        cut_off += not looked and (steps[-1] % 3 == 0 or steps[-1] == 14)
    assert status["state"] == "completed"
    assert steps == sorted(steps) and len(steps) > 3 and cut_off
    assert_same_run(tmp_path, whole)
    both = [Checkpoints(f / run_folder.CHECKPOINTS, read_only=True) for f in (tmp_path, whole)]
    assert both[0].best_step == both[1].best_step


def test_a_run_that_is_asked_to_stop_before_it_begins_has_done_nothing_and_goes_on(tmp_path, whole):
    status = loop.train(config(), tmp_path, should_stop=lambda: True)
    assert (status["state"], status["step"]) == ("stopped", 0)
    assert not list((tmp_path / run_folder.CHECKPOINTS).glob("[0-9]*"))
    assert loop.train(config(), tmp_path)["state"] == "completed"
    assert_same_run(tmp_path, whole)


def test_a_save_that_failed_in_the_background_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    original = Checkpoints.check

    def check(self):  # not before the save is over, so that the test does not depend on its speed
        while self._manager.is_saving_in_progress():
            time.sleep(0.01)
        original(self)

    monkeypatch.setattr(Checkpoints, "check", check)
    with pytest.raises(OSError, match="No space left"):
        loop.train(config(checkpoint_interval=4), tmp_path)
    status = run_folder.read_json(tmp_path / run_folder.STATUS)
    assert status["state"] == "failed" and "No space left" in status["reason"]
    assert math.isnan(earlier.logged_error(tmp_path, 6, "train"))


def test_other_images_than_those_the_run_was_begun_on_are_refused(tmp_path, monkeypatch):
    loop.train(config(steps=4), tmp_path, should_stop=stop_after(3))
    load = datasets.load

    def changed(settings):
        dataset = load(settings)
        dataset.train.images[0, 0, 0, 0] ^= 1
        return dataset

    monkeypatch.setattr(datasets, "load", changed)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="begun on other images or labels .synthetic with SHA-256"):
        loop.train(config(steps=4), tmp_path)
    with pytest.raises(InputError, match="begun on other images or labels"):
        evaluation.evaluate(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_killed_process_goes_on_where_its_last_checkpoint_was(tmp_path):
    command = [
        sys.executable, "-m", "resnet_jax.main", f"--config={ROOT / 'configs' / 'digits.py'}",
        f"--workdir={tmp_path / 'run'}", "--config.model.depth=8", "--config.train.steps=4000",
        "--config.train.checkpoint_interval=20", "--config.log.interval=20",
        "--config.train.eval_interval=4000", "--config.parallel.devices=1",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while len(list((tmp_path / "run" / "checkpoints").glob("[0-9]*0"))) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    saved = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).last_step
    killed = run_folder.read_json(tmp_path / "run" / "status.json")
    assert killed["state"] == "running" and saved % 20 == 0 and saved > 0
    stored = run_folder.read_json(tmp_path / "run" / "config.json")
    run = validate(stored)
    experiment = Experiment.prepare(run)
    attempt = loop.Attempt(experiment, tmp_path / "run")
    assert attempt.start == saved
    attempt.writer.close(), attempt.checkpoints.close(), attempt.progress.close()
    records = run_folder.read_records(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if r["split"] == "train"] == list(range(20, saved + 1, 20))


@pytest.mark.parametrize("mapping", ["single", "shard_map", "pmap"])
def test_the_step_and_the_evaluation_are_compiled_once_in_a_whole_run(
    tmp_path, monkeypatch, mapping
):
    traced = []
    compile_program = DeviceMap.compile

    def counting(self, function, **axes):
        def counted(*arguments):
            traced.append(function.__qualname__.split(".")[0])
            return function(*arguments)

        return compile_program(self, counted, **axes)

    monkeypatch.setattr(DeviceMap, "compile", counting)
    run = config()
    if mapping != "single":
        run = dataclasses.replace(run, parallel=ParallelConfig(mapping=mapping, devices=2))
    loop.train(run, tmp_path / "run")
    assert sorted(traced) == ["evaluation_program", "training_program"]


def test_the_last_checkpoints_and_the_best_on_val_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step, error in ((1, 50.0), (2, 10.0), (3, 30.0), (4, None), (5, 20.0)):
        checkpoints.save(step, {"x": np.full(3, step)}, error)
    checkpoints.wait()
    assert checkpoints.last_step == 5 and checkpoints.best_step == 2
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [2, 4, 5]
    restored = checkpoints.restore(2, like={"x": np.zeros(3, int)})
    np.testing.assert_array_equal(restored["x"], 2)
    checkpoints.close()


def test_a_completed_run_is_not_trained_again(tmp_path, monkeypatch):
    first = loop.train(config(steps=2), tmp_path / "run")
    monkeypatch.setattr(Experiment, "prepare", lambda *_: pytest.fail("it was prepared again"))
    assert loop.train(config(steps=2), tmp_path / "run") == first


def test_another_config_is_refused_with_the_difference_but_operational_fields_may_change(tmp_path):
    loop.train(config(steps=2), tmp_path / "run")
    with pytest.raises(InputError, match=r"train\.seed: 0 -> 1"):
        loop.train(config(steps=2, seed=1), tmp_path / "run")
    assert loop.train(config(steps=2, eval_interval=7), tmp_path / "run")["state"] == "completed"


def test_a_run_that_diverges_says_at_which_step_and_keeps_its_last_finite_values(tmp_path):
    run = validate(
        {
            "model": {"depth": 8},
            "data": {"name": "synthetic", "synthetic": {"image_size": 8, "examples": 204}},
            "optimizer": {"learning_rate": 1e30, "milestones": []},
            "train": {"batch_size": 32, "steps": 8},
            "parallel": {"devices": 1},
            "log": {"interval": 4, "tensorboard": False, "progress": False},
        }
    )
    status = loop.train(run, tmp_path / "run")
    assert status["state"] == "diverged" and 1 <= status["step"] <= 4
    assert f"step {status['step']}" in status["reason"]
    (record,) = run_folder.read_records(tmp_path / "run" / run_folder.METRICS)
    assert record["nonfinite"] and record["gradient_norm"] is None
    assert not (tmp_path / "run" / run_folder.EVALUATION).exists()


def test_a_run_that_stays_finite_but_learns_nothing_is_completed_and_not_converged(tmp_path):
    run = config(steps=2, not_converged_error=0.0)
    status = loop.train(run, tmp_path / "run")
    assert (status["state"], status["verdict"]) == ("completed", "not_converged")
