import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.analysis import deepen
from resnet_jax.config import ModelConfig
from resnet_jax.errors import InputError
from resnet_jax.models import registry, torch_weights
from resnet_jax.train import evaluation, loop
from tests.digits_run import digits_run
from tests.test_main import assert_refused, subprocess_command

RANDOM = np.random.RandomState(0)
IMAGES = jnp.asarray(RANDOM.normal(size=(16, 8, 8, 3)), jnp.float32)
LABELS = jnp.asarray(RANDOM.randint(0, 4, 16))
KINDS = [
    {"residual": False},
    {"residual": False, "activation_order": "bn_after_addition"},
    {"shortcut": "A"},
    {"shortcut": "C"},
    {"activation_order": "bn_after_addition"},
    {"activation_order": "relu_only_preactivation"},
    {"activation_order": "full_preactivation", "shortcut": "B"},
    {"batch_norm": "frozen", "residual": False},
]


def net(depth, **model):
    return registry.build(ModelConfig(depth=depth, **model), channels=3, num_classes=4, seed=1)


def trained_a_little(**model):
    """A net whose scales, shifts and running statistics are those of no fresh one."""
    found = net(8, **model)
    values = registry.functional(found)

    def moved(path, leaf):
        by = RANDOM.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        shift = 0.1 if "bias" in jax.tree_util.keystr(path) or "mean" in str(path) else 0.0
        return leaf * by + np.float32(shift) * by

    registry.update(
        found, *(jax.tree_util.tree_map_with_path(moved, t) for t in (values.params, values.stats))
    )
    return found


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_net_with_blocks_that_pass_their_input_on_has_the_same_logits(kind):
    model, deeper = trained_a_little(**kind), net(20, **kind)
    deepen.deepened(model, deeper, IMAGES)
    before, after, apart = deepen.compare(model, deeper, IMAGES)
    assert apart == np.abs(before - after).max()
    assert apart <= 1e-4 * np.abs(before).max()
    assert np.ptp(before) > 0.1  # and are not the same because they are nothing


@pytest.mark.parametrize("kind", KINDS[:-1], ids=str)
def test_blocks_that_pass_their_input_on_can_learn(kind):
    model, deeper = trained_a_little(**kind), net(14, **kind)
    deepen.deepened(model, deeper, IMAGES)
    found = registry.functional(deeper)

    def loss(params):
        logits, _ = found.apply(params, found.stats, IMAGES, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    gradient = jax.jit(jax.grad(loss))(found.params)
    for stage in gradient["stages"].values():
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(stage[1])) > 1e-6


def test_weights_that_are_written_are_read_back_as_they_were(tmp_path):
    model, other = trained_a_little(shortcut="B"), net(8, shortcut="B")
    torch_weights.write(model, tmp_path / "net.safetensors")
    torch_weights.load_into(other, tmp_path / "net.safetensors")
    ours, theirs = map(registry.functional, (model, other))
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    jax.tree.map(np.testing.assert_array_equal, ours.stats, theirs.stats)


def test_published_weights_that_are_written_are_the_published_ones(shared, tmp_path):
    (path,) = (shared / "weights").glob("*.safetensors")
    model = registry.build(
        ModelConfig(depth=20, zero_padding="both"), channels=3, num_classes=10, seed=0
    )
    published = torch_weights.read(path)
    torch_weights.assign(model, published, strict=True)
    torch_weights.write(model, tmp_path / "net.safetensors")
    written = torch_weights.read(tmp_path / "net.safetensors")
    kept = {n: a for n, a in published.items() if not n.endswith("num_batches_tracked")}
    assert written.keys() == kept.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(written[name], array)


@pytest.mark.parametrize(
    ("model", "depth", "fragments"),
    [
        ({}, 20, ["--depth=20", "20", "26"]),
        ({"depth": 29, "block": "bottleneck"}, 11, ["--depth=11", "38"]),
        ({"residual": False, "activation_order": "full_preactivation"}, 26, ["'original'"]),
        ({"residual": False, "depth": 29, "block": "bottleneck"}, 38, ["basic"]),
        (
            {"shortcut_transform": "constant_scaling", "shortcut_scale": 0.5},
            26,
            ["constant_scaling", "'identity'"],
        ),
        ({"activation_order": "relu_before_addition"}, 26, ["gradient"]),
    ],
)
def test_what_cannot_be_deepened_is_refused(model, depth, fragments):
    with pytest.raises(InputError) as refused:
        deepen.require_possible(ModelConfig(**{"depth": 20, **model}), depth)
    for fragment in fragments:
        assert fragment in str(refused.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "plain8"
    config = digits_run(model={"residual": False}, train={"steps": 30, "eval_interval": 30})
    loop.train(config, workdir)
    return workdir, config


def deepen_command(*flags):
    return subprocess_command(*flags, module="resnet_jax.analysis.deepen")


def test_a_deepened_nets_weights_start_a_run_that_has_the_shallower_ones_error(run, tmp_path):
    workdir, config = run
    path = tmp_path / "deeper.safetensors"
    done = deepen_command(f"--workdir={workdir}", "--depth=14", f"--out={path}")
    assert done.code == 0, done.err
    assert "depth 8 -> 14" in done.out and str(path) in done.out
    model = dataclasses.replace(config.model, depth=14, weights=str(path))
    report = evaluation.evaluate_weights(dataclasses.replace(config, model=model))
    shallower = json.loads((workdir / "evaluation.json").read_text())
    assert report["splits"]["test"]["error"] == shallower["splits"]["test"]["error"]
    assert report["splits"]["test"]["loss"] == pytest.approx(
        shallower["splits"]["test"]["loss"], rel=1e-4
    )


def test_bad_flags_are_one_line_and_nothing_is_written(run, tmp_path):
    workdir, _ = run
    for flags, fragment in (
        ([f"--workdir={workdir}"], "--depth is missing"),
        ([f"--workdir={workdir}", "--depth=14", f"--out={tmp_path}/net.pth"], "--out="),
        ([f"--workdir={workdir}", "--depth=15"], "6n + 2"),
        ([f"--workdir={tmp_path}", "--depth=14"], str(tmp_path)),
    ):
        assert_refused(deepen_command(*flags), fragment)
    assert not list(tmp_path.iterdir())
