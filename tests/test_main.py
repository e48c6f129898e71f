import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from absl import flags

from resnet_jax import command as cli
from resnet_jax import main, run_folder
from resnet_jax.config import RunConfig, load_json, to_json, validate
from resnet_jax.train import loop
from tests import helpers

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIGITS = f"--config={ROOT}/configs/digits.py"
CIFAR = f"--config={ROOT}/configs/cifar_resnet20.py"
OFFLINE = "http://127.0.0.1:9"  # the port of `discard`: nothing listens
# A net and a run that take seconds.
SHORT = (
    "--config.model.depth=8",
    "--config.train.steps=4",
    "--config.train.batch_size=16",
    "--config.train.eval_interval=2",
    "--config.train.checkpoint_interval=2",
    "--config.log.interval=2",
    "--config.parallel.devices=1",
)


@dataclasses.dataclass
class Outcome:
    code: int
    out: str
    err: str


def subprocess_command(*arguments, module="resnet_jax.main", **environment):
    """The command as a user gives it, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def forget_flags():
    """What a new process would not know: flags that were given, and the last config file."""
    for name in list(flags.FLAGS):
        if name.startswith("config."):
            delattr(flags.FLAGS, name)
    for name in ("config", "workdir", "mode", "checkpoint"):
        flags.FLAGS[name].unparse()
    flags.FLAGS.unparse_flags()
    sys.modules.pop("config_config", None)


@pytest.fixture
def command(monkeypatch, capfd):
    """The same command in this process, which has JAX and eight devices already."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        capfd.readouterr()
        code = 0
        try:
            # Optax and clu mix whole numbers with floating ones.
            with jax.numpy_dtype_promotion("standard"):
                cli.run(main.main)
        except SystemExit as leave:
            code = leave.code or 0
        finally:
            told = capfd.readouterr()
            forget_flags()  # which absl may log
        return Outcome(code, *told)

    return run


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def assert_refused(outcome, *fragments):
    """Exit code 2 and one line that says what to mend."""
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in outcome.err + outcome.out
    assert outcome.out == ""
    for fragment in fragments:
        assert str(fragment) in line


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (
            [DIGITS, "--config.optimizer.lerning_rate=1"],
            ["config.optimizer.lerning_rate is not a field", "config.optimizer.learning_rate?"],
        ),
        (
            [DIGITS, "--config.model.depth=57"],
            ["config.model.depth", "6n + 2", "got 57", "56 and 62"],
        ),
    ],
)
def test_a_user_sees_one_line_and_exit_code_2(tmp_path, arguments, fragments):
    workdir = tmp_path / "run"
    outcome = subprocess_command(*arguments, f"--workdir={workdir}")
    assert_refused(outcome, *fragments)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([DIGITS, "--config.model.depht=20"], ["config.model.depht", "config.model.depth?"]),
        ([DIGITS, "--config.train.depth=20"], ["config.train.depth", "config.model.depth?"]),
        ([DIGITS, "--config.model.depth=deep"], ["model.depth", "deep"]),
        ([DIGITS, "--config.model.depth=9"], ["6n + 2", "got 9", "8 and 14"]),
        (
            [DIGITS, "--config.model.block=bottleneck", "--config.model.depth=44"],
            ["9n + 2", "got 44", "38 and 47"],
        ),
        ([DIGITS, "--config.model.shortcut=D"], ["config.model.shortcut", "'D'", "'A', 'B', 'C'"]),
        ([DIGITS, "--config.train.batch_size=0"], ["config.train.batch_size", "at least 1"]),
        ([DIGITS, "--config.parallel.devices=9"], ["config.parallel.devices=9", "8 cpu"]),
        # conftest.py gives eight devices.
        (
            [DIGITS, "--config.train.batch_size=100"],
            ["config.train.batch_size=100", "8 devices", "96 or 104"],
        ),
        (
            [DIGITS, "--config.train.batch_size=1296"],
            ["config.train.batch_size=1296", "larger than the training split", "1294 images"],
        ),
        (
            [DIGITS, "--config.data.normalization=imagenet"],
            ["config.data.normalization", "3 channels", "have 1"],
        ),
        (
            [DIGITS, "--config.data.classes=('0','11')"],
            ["config.data.classes", "'11'", "no class of digits", "did you mean '1'?"],
        ),
        ([DIGITS, "--config.data.classes=(0,1)"], ["config.data.classes", "tuple of strings"]),
        ([DIGITS, "--config.data.classes=('0','1'"], ["('0','1'"]),
        ([DIGITS, "--config.data.class_ratios=(9,1)"], ["class_ratios", "10 classes", "got 2"]),
        (["--config=no/such/config.py"], ["no/such/config.py"]),
        ([], ["--config is missing"]),
        ([DIGITS, "--batch_size=8"], ["batch_size"]),
        ([DIGITS, "--mode=test"], ["mode", "train", "evaluate"]),
        ([DIGITS, "depth=20"], ["depth=20", "--name=value"]),
    ],
)
def test_bad_input_is_refused_with_one_line_before_anything_is_written(
    command, tmp_path, arguments, fragments
):
    outcome = command(*arguments, f"--workdir={tmp_path / 'run'}")
    assert_refused(outcome, *fragments)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("def get_config(:\n", "config.py"),
        ("import no_such_package\n", "no_such_package"),
        ("VALUE = 3\n", "get_config"),
    ],
)
def test_a_config_file_that_is_no_config_file_is_refused(command, tmp_path, text, fragment):
    path = tmp_path / "config.py"
    path.write_text(text)
    assert_refused(command(f"--config={path}", f"--workdir={tmp_path / 'run'}"), fragment)
    assert not (tmp_path / "run").exists()


def test_a_config_file_that_returns_an_unknown_field_is_refused(command, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "import ml_collections\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'model': {'layers': 20, 'depht': 20}})\n"
    )
    outcome = command(f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert_refused(outcome, "is not a field")
    assert not (tmp_path / "run").exists()


def test_a_config_file_that_fails_is_told_by_its_last_line_without_a_traceback(command, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from configs import cifar\n"
        "def get_config():\n"
        "    config = cifar.recipe(depth=20)\n"
        "    config.model.depth = 'deep'\n"
        "    return config\n"
    )
    outcome = command(f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert_refused(outcome, "depth")
    assert not (tmp_path / "run").exists()


def test_missing_data_without_a_network_is_told_with_the_folder_and_the_command(
    command, tmp_path, monkeypatch
):
    monkeypatch.setenv("https_proxy", OFFLINE)
    folder = tmp_path / "tfds"
    folder.mkdir()
    outcome = command(CIFAR, f"--config.data.data_dir={folder}", f"--workdir={tmp_path / 'run'}")
    assert_refused(
        outcome,
        folder / "cifar10",
        "python -m resnet_jax.data.prepare --name=cifar10",
        folder / "downloads" / "manual",
    )
    assert contents(tmp_path) == {"tfds": None}


IMAGES = {"train": helpers.random_images(20), "test": helpers.random_images(10, seed=1)}
LABELS = {"train": np.arange(20) % 10, "test": np.arange(10)}


def cifar_arguments(tmp_path):
    return (
        CIFAR,
        "--config.train.batch_size=16",
        f"--config.data.data_dir={tmp_path / 'tfds'}",
        f"--workdir={tmp_path / 'run'}",
    )


def test_labels_outside_the_classes_of_a_prepared_data_set_are_named(command, tmp_path):
    labels = {**LABELS, "test": np.arange(10) + 2}
    helpers.prepare_cifar10(tmp_path / "tfds", IMAGES, labels, num_classes=12)
    outcome = command(*cifar_arguments(tmp_path))
    assert_refused(outcome, "data set cifar10 test", "0..9", "2 such labels")
    assert not (tmp_path / "run").exists()


def test_images_of_the_wrong_shape_in_a_prepared_data_set_are_named(command, tmp_path):
    images = {**IMAGES, "train": [*IMAGES["train"][:19], IMAGES["train"][19, :28]]}
    helpers.prepare_cifar10(tmp_path / "tfds", images, LABELS, shape=(None, None, 3))
    outcome = command(*cifar_arguments(tmp_path))
    assert_refused(outcome, "data set cifar10 train", "train_00019", "(28, 32, 3)", "(32, 32, 3)")
    assert not (tmp_path / "run").exists()


def refuse_workdir(command, tmp_path, workdir, *fragments):
    before = contents(tmp_path)
    assert_refused(command(DIGITS, *SHORT, f"--workdir={workdir}"), *fragments)
    assert contents(tmp_path) == before


def test_a_workdir_that_is_a_file_is_refused(command, tmp_path):
    workdir = tmp_path / "run"
    workdir.write_text("notes")
    refuse_workdir(command, tmp_path, workdir, workdir, "is a file", "another --workdir")


def test_a_workdir_below_a_file_is_refused(command, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    workdir = tmp_path / "notes.txt" / "run"
    refuse_workdir(command, tmp_path, workdir, workdir, "another --workdir")


def test_a_folder_with_other_peoples_files_is_refused(command, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "thesis.tex").write_text("chapter 1")
    refuse_workdir(command, tmp_path, workdir, workdir, "'thesis.tex'", "another --workdir")


@pytest.mark.parametrize("text", ["garbage", "", "[1, 2]", '{"model": {"depht": 20}}'])
def test_a_workdir_whose_config_cannot_be_read_is_refused(command, tmp_path, text):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(text)
    refuse_workdir(command, tmp_path, workdir, workdir)


def test_a_workdir_of_a_run_with_another_config_is_refused_with_the_differences(command, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(to_json(validate({"data": {"name": "digits"}})))
    refuse_workdir(
        command, tmp_path, workdir, "model.depth: 20 -> 8", "train.batch_size: 128 -> 16", workdir
    )


def refuse_weights(command, tmp_path, path, *fragments):
    before = contents(tmp_path)
    outcome = command(
        DIGITS, *SHORT, f"--config.model.weights={path}", f"--workdir={tmp_path / 'run'}"
    )
    assert_refused(outcome, *fragments)
    assert contents(tmp_path) == before


def write_weights(path):
    """The first and the last names of a deeper net."""
    tensors = {
        "conv1.weight": np.zeros((16, 3, 3, 3), np.float32),
        "layer3.2.conv2.weight": np.zeros((64, 64, 3, 3), np.float32),
    }
    safetensors.numpy.save_file(tensors, path)


def test_a_missing_weights_file_is_named(command, tmp_path):
    path = tmp_path / "net.safetensors"
    refuse_weights(command, tmp_path, path, path, "does not exist", "config.model.weights")


def test_a_truncated_weights_file_is_named(command, tmp_path):
    path = tmp_path / "net.safetensors"
    write_weights(path)
    path.write_bytes(path.read_bytes()[:1_000])
    refuse_weights(command, tmp_path, path, path, "is damaged")


def test_a_weights_file_of_another_kind_is_named(command, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"weights")
    refuse_weights(command, tmp_path, path, path, "unknown kind", ".safetensors")


def test_a_weights_file_of_another_net_is_refused(command, tmp_path):
    path = tmp_path / "net.safetensors"
    write_weights(path)
    refuse_weights(
        command,
        tmp_path,
        path,
        "another net",
        "layer3.2.conv2.weight",
        "config.model.family, depth",
    )


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda workdir: None, "config.json"),
        (lambda workdir: workdir.mkdir(), "config.json"),
        (lambda workdir: (workdir.mkdir(), write_config(workdir)), "no checkpoints yet"),
    ],
)
def test_what_was_never_trained_cannot_be_evaluated(command, tmp_path, make, fragment):
    workdir = tmp_path / "run"
    make(workdir)
    before = contents(tmp_path)
    assert_refused(command("--mode=evaluate", f"--workdir={workdir}"), workdir, fragment)
    assert contents(tmp_path) == before


def write_config(workdir):
    (workdir / "config.json").write_text(to_json(RunConfig()))


def test_evaluation_needs_a_run_or_weights(command, tmp_path):
    assert_refused(command("--mode=evaluate"), "--workdir", "model.weights")
    assert_refused(command("--mode=evaluate", DIGITS), "--workdir", "model.weights")


def test_evaluation_with_a_config_that_does_not_exist_names_it(command):
    assert_refused(command("--mode=evaluate", "--config=no/such/config.py"), "no/such/config.py")


def test_evaluation_checks_the_config_like_training(command, tmp_path):
    path = tmp_path / "config.py"
    path.write_text("def get_config():\n    return {'modle': {'weights': 'net.safetensors'}}\n")
    assert_refused(command("--mode=evaluate", f"--config={path}"), "modle", "config.model")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was trained by the command a user gives, and what the command said."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    return workdir, subprocess_command(DIGITS, *SHORT, f"--workdir={workdir}")


def test_training_ends_with_exit_code_0_and_a_folder_that_holds_everything(trained):
    workdir, outcome = trained
    assert outcome.code == 0, outcome.err
    assert f"{workdir}: completed" in outcome.out and "step 4 of 4" in outcome.out
    status = run_folder.read_json(workdir / "status.json")
    assert (status["state"], status["step"], status["steps"]) == ("completed", 4, 4)
    assert status["verdict"] in ("converged", "not_converged")
    assert load_json(workdir / "config.json").model.depth == 8
    records = run_folder.read_records(workdir / "metrics.jsonl")
    assert [(record["step"], record["split"]) for record in records] == [
        (step, split) for step in (2, 4) for split in ("train", "val", "test")
    ]
    for name in ("provenance.json", "parameters.txt", "evaluation.json", "predictions.npz"):
        assert (workdir / name).stat().st_size > 0
    assert not list(workdir.rglob("*.tmp"))
    (attempt,) = run_folder.read_json(workdir / "provenance.json")["attempts"]
    assert attempt["command"][1] == DIGITS
    assert isinstance(attempt["native"]["used"], bool)


def test_the_evaluation_is_that_of_the_predictions(trained):
    workdir, _ = trained
    splits = run_folder.read_json(workdir / "evaluation.json")["splits"]
    predictions = np.load(workdir / "predictions.npz")
    assert (splits["val"]["examples"], splits["test"]["examples"]) == (144, 359)
    for name, report in splits.items():
        wrong = predictions[f"{name}_logits"].argmax(1) != predictions[f"{name}_labels"]
        assert report["error"] == pytest.approx(100 * wrong.mean())
        assert len(set(predictions[f"{name}_ids"])) == report["examples"]
    last = [r for r in run_folder.read_records(workdir / "metrics.jsonl") if r["step"] == 4]
    logged = {record["split"]: record["error"] for record in last}
    assert logged["test"] == pytest.approx(splits["test"]["error"], abs=1e-4)
    assert logged["val"] == pytest.approx(splits["val"]["error"], abs=1e-4)


def test_a_completed_run_is_not_trained_again(trained, command):
    workdir, first = trained
    before = contents(workdir)
    outcome = command(DIGITS, *SHORT, f"--workdir={workdir}")
    assert outcome.code == 0
    assert "already completed" in outcome.err
    assert outcome.out == first.out
    assert contents(workdir) == before


def test_a_completed_run_is_not_mixed_with_another_config(trained, command):
    workdir, _ = trained
    before = contents(workdir)
    outcome = command(DIGITS, *SHORT, "--config.train.seed=1", f"--workdir={workdir}")
    assert_refused(outcome, "train.seed: 0 -> 1", workdir)
    assert contents(workdir) == before


def test_evaluating_a_run_prints_and_writes_the_errors_of_its_training(trained, command):
    workdir, first = trained
    before = run_folder.read_json(workdir / "evaluation.json")
    (workdir / "evaluation.json").unlink()
    outcome = command("--mode=evaluate", f"--workdir={workdir}")
    assert outcome.code == 0
    # All of what training printed but its first line, which tells how it ended.
    assert outcome.out.splitlines() == first.out.splitlines()[1:]
    for split in ("val", "test"):
        after = run_folder.read_json(workdir / "evaluation.json")["splits"][split]
        assert after["confusion_matrix"] == before["splits"][split]["confusion_matrix"]
        assert after["error"] == before["splits"][split]["error"]
        assert f"{after['error']:.2f}" in outcome.out


def test_every_kept_checkpoint_can_be_evaluated(trained, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    before = {
        name: (workdir / name).read_bytes() for name in ("evaluation.json", "predictions.npz")
    }
    outcome = command("--mode=evaluate", "--checkpoint=all", f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    files = sorted(path.name for path in workdir.glob("predictions*"))
    assert files == ["predictions-2.npz", "predictions-4.npz", "predictions.npz"]
    for name, content in before.items():
        assert (workdir / name).read_bytes() == content  # both are still the last step's
    assert (workdir / "predictions-4.npz").read_bytes() == before["predictions.npz"]
    # The errors that training itself logged after each step.
    for record in run_folder.read_records(workdir / "metrics.jsonl"):
        split = record["split"]
        if split != "train":
            with np.load(workdir / f"predictions-{record['step']}.npz") as kept:
                wrong = kept[f"{split}_logits"].argmax(1) != kept[f"{split}_labels"]
            assert record["error"] == pytest.approx(100 * wrong.mean(), abs=1e-4)


def test_a_run_that_diverges_has_exit_code_3_and_tells_the_step(command, tmp_path):
    workdir = tmp_path / "run"
    arguments = (DIGITS, *SHORT, "--config.optimizer.learning_rate=1e30", f"--workdir={workdir}")
    outcome = command(*arguments)
    assert outcome.code == 3
    status = run_folder.read_json(workdir / "status.json")
    assert status["state"] == "diverged"
    # The first update, of size 1e30, is finite; the loss after it is not.
    assert status["step"] == 2
    assert status["reason"] == "loss, gradient or statistics were not finite at step 2"
    assert f"{workdir}: diverged at step 2 of 4" in outcome.out
    assert "Traceback" not in outcome.err
    text = (workdir / "metrics.jsonl").read_text()
    assert json.loads(text.splitlines()[-1])["nonfinite"] is True
    assert not (workdir / "evaluation.json").exists()

    again = command(*arguments)
    assert again.code == 3
    assert "already diverged" in again.err
    assert (workdir / "metrics.jsonl").read_text() == text


def test_an_interrupted_run_has_exit_code_75_and_tells_how_to_go_on(command, tmp_path, monkeypatch):
    def interrupted(config, workdir, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", interrupted)
    outcome = command(DIGITS, f"--workdir={tmp_path / 'run'}")
    assert outcome.code == 75
    assert outcome.err.splitlines() == [
        "stopped at once; the same command goes on from the last checkpoint"
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_75_and_the_workdir_alone_goes_on(command, tmp_path, number):
    run = [
        "--config.train.steps=2000",
        "--config.train.eval_interval=2000",
        *SHORT[:1],
        *SHORT[2:3],
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_jax.main", DIGITS, f"--workdir={tmp_path}", *run],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "step 20 " in line:
            process.send_signal(number)
            break
    err = process.communicate()[1]
    assert process.returncode == 75, err
    assert "stopping at the next step" in err
    status = run_folder.read_json(tmp_path / run_folder.STATUS)
    assert status["state"] == "stopped" and 20 <= status["step"] < 2000
    assert (tmp_path / run_folder.CHECKPOINTS / str(status["step"])).is_dir()

    # The stored config is enough to go on; here to a step that was not to be reached.
    stored = json.loads((tmp_path / run_folder.CONFIG).read_text())
    stored["train"]["steps"] = status["step"] + 1
    (tmp_path / run_folder.CONFIG).write_text(json.dumps(stored))
    with_devices = command(f"--workdir={tmp_path}")
    assert with_devices.code == 0
    assert run_folder.read_json(tmp_path / run_folder.STATUS)["state"] == "completed"


def test_a_workdir_alone_must_hold_a_run(command, tmp_path):
    assert_refused(command(f"--workdir={tmp_path}"), "--config is missing", str(tmp_path))


def test_without_a_workdir_the_run_is_named_after_its_config(command, monkeypatch):
    seen = []
    status = {"state": "completed", "step": 1, "steps": 1}
    monkeypatch.setattr(
        loop, "train", lambda config, workdir, **more: seen.append(workdir) or status
    )
    assert command(CIFAR).code == 0
    assert seen == [pathlib.Path("runs/cifar_resnet20")]
