"""Runs of ImageNet's nets on small images, and what can be asked of them afterwards."""

import json

import numpy as np
import pytest

from resnet_jax import run_folder
from resnet_jax.analysis import lesion, signals
from resnet_jax.analysis.trained import Trained
from resnet_jax.errors import InputError
from resnet_jax.train import loop
from tests.digits_run import digits_run


def trained_run(workdir, model, **data):
    config = digits_run(
        model={"width": 1 / 16, **model},
        data=data,
        train={"steps": 4, "eval_interval": 4, "batch_size": 16, "check": False},
        log={"signals_interval": 2},
    )
    assert loop.train(config, workdir, recorder=signals.Recorder)["state"] == "completed"
    return config


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "resnet18"
    trained_run(workdir, {"family": "imagenet_resnet", "depth": 18, "residual": True})
    return workdir


def test_a_run_of_an_imagenet_net_is_looked_at_layer_by_layer(resnet):
    found = json.loads((resnet / run_folder.ANALYSIS / signals.RESULT).read_text())
    assert [moment["step"] for moment in found["moments"]] == [0, 2, 4]
    names = [row["layer"] for row in found["moments"][0]["layers"]]
    # The stem's and two in each of two blocks in each of four stages.
    assert len(names) == 1 + 16 and names[-1] == "stage 4, block 2, layer 2"


def test_an_imagenet_net_is_taken_apart_block_by_block_down_to_its_stem(resnet):
    trained = Trained.load(resnet)
    params, stats, error = trained.gated("test", 50)
    rows = lesion.truncated(error, params, stats)
    assert [row["blocks_per_stage"] for row in rows] == [2, 1]
    # The max-pool stands between what is measured and the first block.
    params, gradient = trained.gradient_at_stem()
    assert np.isfinite(gradient(params)) and gradient(params) > 0


@pytest.mark.parametrize(
    "model",
    [
        {"family": "mobilenet_v3", "variant": "small"},
        {"family": "swin", "variant": "tiny", "batch_norm": "none", "width": 1 / 12},
    ],
    ids=lambda model: model["family"],
)
def test_a_net_with_variants_is_trained_and_not_taken_apart(tmp_path, model):
    # Of digits, of 8x8 pixels; the test's own run has another depth.
    trained_run(tmp_path / "net", {"depth": 20, "residual": True, **model})
    assert not (tmp_path / "net" / run_folder.ANALYSIS / signals.RESULT).exists()
    with pytest.raises(InputError, match="has no blocks to be checked or taken apart"):
        Trained.load(tmp_path / "net")


def test_a_vgg_net_is_trained_with_dropout_and_not_taken_apart(tmp_path):
    model = {"family": "vgg", "depth": 11, "residual": False}
    synthetic = {"examples": 60, "image_size": 32}
    trained_run(tmp_path / "vgg", model, name="synthetic", synthetic=synthetic)
    assert not (tmp_path / "vgg" / run_folder.ANALYSIS / signals.RESULT).exists()
    with pytest.raises(InputError, match="'vgg' has no blocks to be checked or taken apart"):
        Trained.load(tmp_path / "vgg")
