"""The comparison of backbones, and transfer between classes of one data set."""

import json
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from configs import transfer as base
from experiments import held_out_classes, transfer
from resnet_jax import run_folder
from resnet_jax.analysis import inference
from resnet_jax.config import default_config, differences, validate
from resnet_jax.errors import InputError
from resnet_jax.models import published_weights
from resnet_jax.train import loop
from tests.digits_run import digits_run
from tests.helpers import prepare_cifar10, random_images


def configs(rows, config=None):
    runs = {}
    for row in rows:
        changed = ml_collections.ConfigDict((config or base.get_config()).to_dict())
        changed.update_from_flattened_dict(row.overrides)
        runs[row.name] = validate(changed)
    return runs


def rows(**changes):
    given = {
        **{"backbones": transfer.BACKBONES, "sizes": transfer.SIZES, "seeds": (0, 1)},
        **{"weights": {}, **changes},
    }
    return transfer.rows(**given)


@pytest.mark.parametrize("name", base.BACKBONES)
def test_every_backbone_can_be_chosen_behind_the_configs_name_and_in_the_grid(name):
    alone = validate(base.get_config(name))
    (in_grid,) = configs(rows(backbones=(name,), sizes=(224,), seeds=(0,))).values()
    assert differences(alone, in_grid) == []
    assert alone.transfer.trained_from == "head" and alone.transfer.cached_features


def test_the_protocol_is_ten_epochs_of_adamw_at_1e_4_on_batches_of_32():
    run = validate(base.get_config())
    assert run.optimizer.name == "adamw" and run.optimizer.learning_rate == 1e-4
    assert run.optimizer.schedule == "constant" and run.train.batch_size == 32
    # 10,000 images of two classes, a tenth of them held out.
    assert run.train.steps == 10 * 9_000 // 32
    assert run.data.classes == ("airplane", "automobile")


def test_all_backbones_share_everything_but_the_net_and_sizes_the_size_alone():
    runs = configs(rows(seeds=(0,)))
    assert len(runs) == 15
    first = runs["resnet50-32px-seed0"]
    for name, run in runs.items():
        changed = {line.split(":")[0] for line in differences(first, run)}
        assert all(field.startswith("model.") or field == "data.resize" for field in changed), name
    swins = [run for name, run in runs.items() if name.startswith("swin")]
    for run in swins[1:]:
        assert {line.split(":")[0] for line in differences(swins[0], run)} == {"data.resize"}


def test_given_weights_get_a_new_head_and_share_their_features():
    found = configs(
        rows(sizes=(32,), seeds=(0,), weights={"swin_tiny": "s.safetensors"}, features_dir="f")
    )
    swin, resnet = found["swin_tiny-32px-seed0"], found["resnet50-32px-seed0"]
    assert swin.model.weights == "s.safetensors" and swin.transfer.new_head
    assert resnet.model.weights == "" and not resnet.transfer.new_head
    assert swin.transfer.features_dir == "f"


def test_published_weights_are_those_of_the_same_net():
    found = transfer.read_weights("published", list(base.BACKBONES))
    for name, weights in found.items():
        assert published_weights.PUBLISHED[weights].model == base.BACKBONES[name]
        assert weights.endswith("V1")
    assert found["swin_tiny"] == "torchvision/swin_t.IMAGENET1K_V1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet50", "--weights='resnet50' must be 'random', 'published', or BACKBONE=FILE"),
        ("resnet50=", "must be 'random'"),
        ("vgg16=x", "names 'vgg16', which is not among --backbones="),
    ],
)
def test_weights_that_cannot_be_read_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        rows(weights=transfer.read_weights(text, transfer.BACKBONES))


def test_backbones_that_there_are_not_are_refused_with_all_there_are():
    with pytest.raises(InputError, match="'resnet51' is no backbone; use one of resnet18, "):
        rows(backbones=("resnet51",))
    with pytest.raises(InputError, match="'resnet51' is no backbone"):
        base.get_config("resnet51")


def test_sizes_that_nets_cannot_see_are_refused():
    with pytest.raises(InputError, match="--sizes must be 8 pixels or more, got 0"):
        rows(sizes=(32, 0))


# Classes that are held out.


def arms(seeds=(0,)):
    config = default_config()
    config.data.name = "cifar10"
    return configs(held_out_classes.arms(seeds, "before/backbone-seed{seed}"), config)


def test_no_image_of_a_held_out_class_is_seen_before():
    assert not set(held_out_classes.LEARNED) & set(held_out_classes.HELD_OUT)
    assert len(held_out_classes.LEARNED + held_out_classes.HELD_OUT) == 10
    (run,) = configs(held_out_classes.pretraining((0,)), default_config()).values()
    assert run.data.classes == held_out_classes.LEARNED


def test_all_arms_share_recipe_and_data_and_differ_in_start_and_in_what_is_trained():
    runs = arms()
    first = runs["from_scratch-seed0"]
    allowed = {"model.weights", "model.batch_norm"}
    for run in runs.values():
        changed = {line.split(":")[0] for line in differences(first, run)}
        assert {field for field in changed if not field.startswith("transfer.")} <= allowed
    assert len(set(runs.values())) == 5


def test_the_last_part_is_unfrozen_before_the_run_ends():
    run = arms()["unfrozen-seed0"]
    parts = 5  # head, three stages, stem
    assert (parts - 1) * run.transfer.unfreeze_interval < run.train.steps


def test_both_grids_tell_their_commands():
    for module in (transfer, held_out_classes):
        name = module.__name__.rpartition(".")[2]
        assert f"python -m experiments.{name} --workdir=" in module.__doc__


# Both commands, small.

CONFIG = """
import ml_collections
from resnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.data_dir = {data_dir!r}
    config.data.normalization = "imagenet"
    config.data.crop_padding = 0
    config.data.flip = False
    config.data.classes = ("0", "1")
    config.transfer.trained_from = "head"
    config.transfer.cached_features = True
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "constant"
    config.model.width = 0.25
    config.train.steps = 8
    config.train.batch_size = 16
    config.train.eval_interval = 4
    config.train.checkpoint_interval = 8
    config.train.check = False
    config.log.interval = 4
    config.log.tensorboard = False
    return config
"""


@pytest.fixture(scope="module")
def tiny_cifar10(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    labels = np.arange(200) % 10
    images = {
        split: random_images(200, seed=seed) + labels[:, None, None, None].astype(np.uint8)
        for seed, split in enumerate(("train", "test"))
    }
    return prepare_cifar10(folder, images, {split: labels for split in images})


def call(module, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


@pytest.mark.slow
def test_the_comparison_ends_with_a_complete_page(tiny_cifar10, tmp_path, pytestconfig):
    config = tmp_path / "small.py"
    config.write_text(CONFIG.format(data_dir=str(tiny_cifar10)))
    workdir = tmp_path / "sweep"
    done = call(
        *("transfer", f"--config={config}", f"--workdir={workdir}", "--sizes=32"),
        *("--backbones=resnet18,mobilenet_v3_small", "--seeds=3", "--jobs=1"),
        cwd=pytestconfig.rootpath,
    )
    assert done.returncode == 0, done.stderr
    assert "At 32 pixels" in done.stdout
    page = (workdir / "report" / "report.html").read_text()
    for table in ("transfer", "pairs", "costs"):
        assert f'id="table-{table}"' in page
    for name in ("resnet18", "mobilenet_v3_small"):
        analysis = workdir / f"{name}-32px-seed3" / run_folder.ANALYSIS
        cost = json.loads((analysis / run_folder.INFERENCE).read_text())
        assert cost["input"] == [32, 32, 3] and cost["multiply_adds"] > 0
        status = json.loads((workdir / f"{name}-32px-seed3" / run_folder.STATUS).read_text())
        assert status["frozen"]["sha256_after"] == status["frozen"]["sha256_before"]
    assert len(list((workdir / transfer.FEATURES).iterdir())) == 2


# What a net costs.


def test_costs_are_measured_from_a_runs_folder_without_its_data(tmp_path):
    config = digits_run(data={"classes": tuple("89"), "resize": 16})
    loop.train(config, tmp_path / "run")
    (tmp_path / "run" / run_folder.PREDICTIONS).unlink()
    report = inference.measure(tmp_path / "run", batch=4)
    assert report["input"] == [16, 16, 1]
    assert report["parameters"] == report["trained_parameters"]
    low, high = report["milliseconds_range"]
    assert 0 < low <= report["milliseconds_per_image"] <= high
    # 3x3 convolutions on 16x16, 8x8 and 4x4 pixels, and a head of 64 x 2.
    rows = [(16, 1, 16), (16, 16, 16), (16, 16, 16), (8, 16, 32), (8, 32, 32), (4, 32, 64)]
    rows.append((4, 64, 64))
    want = sum(9 * side**2 * inside * outside for side, inside, outside in rows) + 64 * 2
    assert report["multiply_adds"] == want
