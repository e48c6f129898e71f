"""Whole runs on images that are streamed."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from resnet_jax import run_folder
from resnet_jax.config import ParallelConfig, load_json, to_json, validate
from resnet_jax.data import augment, streamed
from resnet_jax.data.decode import StoredImage
from resnet_jax.data.order import TrainingOrder
from resnet_jax.errors import InputError
from resnet_jax.train import evaluation, loop, prediction
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.data_wait import DataWait
from resnet_jax.train.evaluator import Evaluator
from resnet_jax.train.setup import Experiment

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 60


def config(folder, *, workers=0, devices=1, data=(), evaluation=(), **train):
    return validate(
        {
            "model": {"depth": 8, "width": 0.5},
            "data": {
                "name": "image_folder",
                "data_dir": str(folder),
                "normalization": "imagenet",
                "image_size": 16,
                "workers": workers,
                "max_unreadable": 0.1,
                **dict(data),
            },
            "optimizer": {"learning_rate": 0.1, "milestones": (45,)},
            "train": {
                # 72 images: epochs and batches do not end together.
                "batch_size": 20,
                "steps": STEPS,
                "eval_interval": 30,
                "checkpoint_interval": 30,
                "eval_batch_size": 20,
                **train,
            },
            "parallel": {"devices": devices},
            "evaluation": {"bootstrap_samples": 0, **dict(evaluation)},
            "log": {"interval": 15, "tensorboard": False, "progress": False},
        }
    )


def final_state(workdir, like):
    checkpoints = Checkpoints(workdir / run_folder.CHECKPOINTS, read_only=True)
    return checkpoints.restore(checkpoints.last_step, like=Experiment.prepare(like).state)


def assert_same_run(parts, whole, like):
    jax.tree.map(np.testing.assert_array_equal, final_state(parts, like), final_state(whole, like))
    for name in (run_folder.METRICS, run_folder.EVALUATION):
        assert (parts / name).read_text() == (whole / name).read_text()
    ours, theirs = (np.load(folder / run_folder.PREDICTIONS) for folder in (parts, whole))
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def stop_after(questions):
    answers = iter([False] * (questions - 1))
    return lambda: next(answers, True)


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    """A run on one device, without processes."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    loop.train(config(shapes), folder)
    return folder


def test_a_net_learns_from_streamed_images(whole, shapes):
    status = run_folder.read_json(whole / run_folder.STATUS)
    assert status["state"] == "completed" and status["data"]["images_per_second"] > 0
    assert 0 <= status["data"]["wait"] <= 1 and "unreadable" not in status
    report = run_folder.read_json(whole / run_folder.EVALUATION)
    # Of four classes one is right by chance: 75 % wrong. 60 steps take it far below.
    assert report["splits"]["test"]["error"] < 55
    predictions = np.load(whole / run_folder.PREDICTIONS)
    dataset = streamed.load(config(shapes).data)
    stored = [dataset.test.read(example) for example in range(32)]
    assert predictions["test_ids"].tolist() == [one.id for one in stored]
    assert predictions["test_labels"].tolist() == [one.label for one in stored]
    assert len(predictions["val_ids"]) == 8


def test_a_run_that_is_stopped_within_an_epoch_goes_on_as_if_it_had_not_been(
    shapes, tmp_path, whole
):
    # With other numbers of processes too: which makes a batch is nothing to the batch.
    status = loop.train(config(shapes, workers=2), tmp_path, should_stop=stop_after(21))
    assert status["state"] == "stopped" and 0 < status["step"] < 30
    assert status["step"] * 20 % 72
    status = loop.train(config(shapes), tmp_path, should_stop=stop_after(25))
    assert status["state"] == "stopped" and status["step"] < STEPS
    assert loop.train(config(shapes, workers=1), tmp_path)["state"] == "completed"
    assert_same_run(tmp_path, whole, config(shapes))


def test_on_four_devices_too(shapes, tmp_path):
    like = config(shapes, devices=4, steps=10, eval_interval=10)
    loop.train(like, tmp_path / "whole")
    status = loop.train(like, tmp_path / "parts", should_stop=stop_after(6))
    assert status["state"] == "stopped" and 0 < status["step"] < 10
    loop.train(like, tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole", like)


def test_four_devices_and_two_steps_in_one_call_compute_what_one_device_does(shapes):
    def after_four_steps(per_call, **parallel):
        run = config(shapes, steps=4)
        run = dataclasses.replace(
            run,
            parallel=ParallelConfig(**parallel),
            train=dataclasses.replace(run.train, steps_per_call=per_call),
            model=dataclasses.replace(run.model, dtype="float64"),
        )
        experiment = Experiment.prepare(run)
        state = experiment.placed(experiment.state)
        for batch in experiment.batches(0):
            (state,) = experiment.train_program(state, experiment.arrays, batch)
        return jax.device_get(experiment.devices.single_copy(state.params))

    with jax.enable_x64(True):
        want = after_four_steps(1, devices=1)
        got = after_four_steps(2, devices=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)


def test_damaged_images_are_counted_named_and_left_out_of_the_report(shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    dataset = streamed.load(config(folder).data)
    # One that the first four steps see, and the fifth does not.
    order = TrainingOrder(72, 20, seed=0)
    first = next(e for e in order.batch(3).tolist() if e not in order.batch(4))
    trained, tested = dataset.train.read(first).id, dataset.test.read(7).id
    (folder / trained).write_bytes(b"")
    (folder / tested).write_bytes(b"no image")
    run, workdir = config(folder, steps=5, eval_interval=5), tmp_path / "run"
    assert loop.train(run, workdir, should_stop=stop_after(6))["step"] == 4
    found = run_folder.read_json(workdir / run_folder.UNREADABLE)
    assert found == {"train": {trained: "it is empty"}}
    status = loop.train(run, workdir)
    assert status["unreadable"] == {"train": 1, "test": 1}
    found = run_folder.read_json(workdir / run_folder.UNREADABLE)
    assert found["train"] == {trained: "it is empty"}
    assert list(found["test"]) == [tested]
    report = run_folder.read_json(workdir / run_folder.EVALUATION)["splits"]["test"]
    assert (report["examples"], report["unreadable"]) == (31, 1)
    kept = np.load(workdir / run_folder.PREDICTIONS)["test_ids"].tolist()
    assert kept == [i for i in (dataset.test.read(e).id for e in range(32)) if i != tested]
    # Pictures of mistakes stand beside their own names, behind the gap too.
    mistakes = np.load(workdir / run_folder.MISTAKES)
    for image, name in zip(mistakes["images"], mistakes["ids"], strict=True):
        stored = StoredImage((folder / name).read_bytes())
        view = streamed.crops.center(stored.width, stored.height, 16)
        np.testing.assert_array_equal(image, stored.crops([view], 16)[0])


def test_too_many_damaged_images_fail_the_run_in_one_line(shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    for path in sorted((folder / "train" / "red_square").iterdir())[:8]:
        path.write_bytes(b"")
    run = config(folder, data={"max_unreadable": 0.02})
    with pytest.raises(InputError, match="2 of 72 train images are damaged"):
        loop.train(run, tmp_path / "run")
    status = run_folder.read_json(tmp_path / "run" / run_folder.STATUS)
    assert status["state"] == "failed" and "max_unreadable=0.02" in status["reason"]
    assert len(run_folder.read_json(tmp_path / "run" / run_folder.UNREADABLE)["train"]) == 2


def test_a_run_does_not_go_on_with_other_images(shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    loop.train(config(folder), tmp_path / "run", should_stop=stop_after(4))
    extra = folder / "train" / "red_square" / "more.jpg"
    shutil.copy(folder / "train" / "red_square" / "0000.jpg", extra)
    with pytest.raises(InputError, match="begun on other images or labels .image_folder"):
        loop.train(config(folder), tmp_path / "run")


def softmax_of(model, images):
    """Probabilities by the net's own pure function: uint8 images in, no code of the evaluator's."""
    apply, state = model
    x = (images.astype(np.float32) / 255 - augment.IMAGENET_MEAN) / augment.IMAGENET_STD
    logits, _ = apply(state.params, state.stats, jnp.asarray(x, jnp.float32), False)
    return scipy.special.softmax(np.asarray(logits, np.float64), -1)


@pytest.mark.parametrize("crops", ["ten", "multi_scale"])
def test_reports_by_several_crops_average_their_probabilities(whole, shapes, tmp_path, crops):
    workdir = shutil.copytree(whole, tmp_path / "run")
    run = config(shapes, evaluation={"crops": crops})
    report = evaluation.evaluate(workdir, config=run)
    experiment = Experiment.prepare(run)
    model = experiment.apply, final_state(workdir, run)
    dataset = streamed.load(run.data)
    predictions = np.load(workdir / run_folder.PREDICTIONS)
    for example in (0, 13, 31):
        stored = dataset.test.read(example)
        image = StoredImage(stored.content)
        seen = []
        for view in streamed.crops.views(crops, 16):
            boxes = view.boxes(image.width, image.height)
            pixels = StoredImage(stored.content).crops(boxes, view.size)
            seen.append(softmax_of(model, np.concatenate([pixels, pixels[:, :, ::-1]])))
        mean = np.concatenate(seen).mean(0)
        assert sum(map(len, seen)) == 10  # ten crops; or five scales, each mirrored too
        np.testing.assert_allclose(np.exp(predictions["test_logits"][example]), mean, rtol=1e-4)
    assert report["settings"]["crops"] == crops
    center = np.load(whole / run_folder.PREDICTIONS)
    np.testing.assert_array_equal(predictions["test_ids"], center["test_ids"])
    assert not np.allclose(predictions["test_logits"], center["test_logits"])


def test_a_run_reports_by_the_crops_of_its_config_and_watches_itself_by_the_centre(
    shapes, tmp_path, whole
):
    run = config(shapes, evaluation={"crops": "ten"}, steps=4, eval_interval=4)
    loop.train(run, tmp_path / "run")
    again = shutil.copytree(tmp_path / "run", tmp_path / "again")
    evaluation.evaluate(again)
    for name in (run_folder.EVALUATION,):
        assert (again / name).read_text() == (tmp_path / "run" / name).read_text()
    ours, theirs = (np.load(d / run_folder.PREDICTIONS) for d in (tmp_path / "run", again))
    np.testing.assert_array_equal(ours["test_logits"], theirs["test_logits"])
    # Logs of probabilities add up to one.
    np.testing.assert_allclose(np.exp(ours["test_logits"]).sum(-1), 1, rtol=1e-5)
    records = run_folder.read_records(tmp_path / "run" / run_folder.METRICS)
    (test,) = [record for record in records if record["split"] == "test"]
    values, _ = Evaluator(Experiment.prepare(run)).measure(
        jax.device_put(final_state(tmp_path / "run", run)), "test"
    )
    assert values["loss"] == pytest.approx(test["loss"], rel=1e-6)


def test_predictions_of_a_test_image_by_its_file_are_those_of_the_report(whole, shapes):
    stored = np.load(whole / run_folder.PREDICTIONS)
    wanted = [0, 9, 20]
    files = [shapes / stored["test_ids"][i] for i in wanted]
    answer = prediction.predict(whole, files, top=4)
    names = answer["images"][0]["classes"]
    assert len(names) == 4
    probabilities = scipy.special.softmax(stored["test_logits"].astype(np.float64), -1)
    for row, i in zip(answer["images"], wanted, strict=True):
        told = {place["class"]: place["probability"] for place in row["classes"]}
        expected = dict(zip(sorted(told), probabilities[i], strict=True))
        assert told == pytest.approx(expected, rel=1e-4)


def test_the_config_of_a_streamed_run_survives_its_file_and_old_ones_lack_its_fields(tmp_path):
    run = config("somewhere")
    (tmp_path / "config.json").write_text(to_json(run))
    assert load_json(tmp_path / "config.json") == run


COMMAND = [sys.executable, "-m", "resnet_jax.main"]
CONFIG = """
from resnet_jax.config import default_config
def get_config():
    config = default_config()
    config.update({fields})
    return config
"""


def test_ctrl_c_reaches_all_processes_and_the_run_alone_answers(shapes, tmp_path):
    run = dataclasses.asdict(config(shapes, workers=2, steps=30_000, eval_interval=30_000))
    run["train"]["checkpoint_interval"] = 30_000
    run["train"]["check"] = False
    run["log"] |= {"interval": 5, "progress": True, "signals_interval": 0}
    (tmp_path / "shapes.py").write_text(CONFIG.replace("{fields}", repr(run)))
    process = subprocess.Popen(
        [*COMMAND, f"--config={tmp_path / 'shapes.py'}", f"--workdir={tmp_path / 'run'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if " step " in line:
            break
    assert process.poll() is None, lines
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopped on request, with a checkpoint" in out
    (told,) = [line for line in err.splitlines() if " img/s" not in line]
    assert told == "stopping at the next step; again to stop at once"
    deadline = time.monotonic() + 10
    while True:  # nobody of the session is left
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_time_is_lost_only_while_devices_have_nothing_to_do(shapes):
    class Result:
        """A call to the devices that takes a while."""

        def __init__(self, seconds):
            self.until = time.monotonic() + seconds

        def block_until_ready(self):
            time.sleep(max(self.until - time.monotonic(), 0))
            return self

    class Parts:
        """As much of an experiment as is looked at; a batch takes some seconds to make."""

        def __init__(self, seconds, name="image_folder"):
            self.config = validate({"data": {"name": name, "normalization": "imagenet"}})
            self.feed, self.seconds = mock.Mock(made_per_second=900.0), seconds

        def batches(self, first):
            for _ in range(first, 6):
                time.sleep(self.seconds)
                yield "batch"

    def share(making, computing):
        wait = DataWait(Parts(making), 1)
        result = None
        for _ in range(5):
            assert wait.next() == "batch"
            if result:
                result.block_until_ready()
            result = Result(computing)
            wait.computing(result)
        assert wait.told().startswith("  (data: up to 900 img/s; ")
        wait.close()
        assert wait.report["data"]["images_per_second"] == 900
        return wait.report["data"]["wait"]

    # Batches take 60 ms and the devices 30: of each 60 they wait 30; the first does not count.
    assert share(0.06, 0.03) == pytest.approx(4 * 0.03 / (5 * 0.06), abs=0.12)
    assert share(0.005, 0.06) < 0.08
    unwatched = DataWait(Parts(0, name="cifar10"), 1)
    unwatched.next()
    unwatched.computing(Result(1))
    assert unwatched.told() == "" and unwatched.report == {}
    unwatched.close()
