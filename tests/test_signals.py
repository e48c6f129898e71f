import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.analysis import recorders, signals
from resnet_jax.analysis.trained import Trained
from resnet_jax.config import ModelConfig, OptimizerConfig, validate
from resnet_jax.models import registry
from resnet_jax.train import loop, optimizer

RANDOM = np.random.RandomState(0)
IMAGES = jnp.asarray(RANDOM.normal(size=(8, 8, 8, 3)), jnp.float32)
LABELS = jnp.asarray(RANDOM.randint(0, 4, 8))
KINDS = [{}, {"residual": False}, {"activation_order": "full_preactivation", "shortcut": "B"}]


def net(**model):
    return registry.build(ModelConfig(**{"depth": 14, **model}), channels=3, num_classes=4)


def sgd(rate=0.1, **more):
    how = {"learning_rate": rate, "milestones": (), "warmup": "none", **more}
    return optimizer.build(OptimizerConfig(**how), 100)


def loss_of(model):
    found = registry.functional(model)

    def loss(params):
        logits, _ = found.apply(params, found.stats, IMAGES, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    return loss, found.params


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_recorders_change_neither_the_loss_nor_its_gradients(kind):
    model = net(**kind)
    loss, params = loss_of(model)
    noted, own = loss_of(recorders.recorded(model))
    np.testing.assert_allclose(noted(own), loss(params), rtol=1e-5)
    gradients = signals._as_in(params, jax.grad(noted)(own))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        gradients,
        jax.grad(loss)(params),
    )


def test_a_batch_norms_response_is_that_of_its_scales_and_shifts():
    # BN makes each channel's mean its bias and its deviation its scale; so over all channels the
    # variance is the mean of the squared scales plus the variance of the biases.
    model = net()
    norm = model.stages[1][0].norms[1]
    scale, bias = RANDOM.uniform(0.5, 2, 32), RANDOM.normal(size=32)
    norm.scale[...], norm.bias[...] = jnp.float32(scale), jnp.float32(bias)
    rows = signals.record(model, IMAGES, LABELS, tx=sgd())["layers"]
    row = next(row for row in rows if row["layer"] == "stage 2, block 1, layer 2")
    assert row["response"] == pytest.approx(np.sqrt((scale**2).mean() + bias.var()), rel=1e-3)


def test_a_fresh_batch_norms_response_is_one():
    rows = signals.record(net(), IMAGES, LABELS, tx=sgd())["layers"]
    np.testing.assert_allclose([row["response"] for row in rows], 1, rtol=1e-3)


def test_units_that_relu_leaves_at_zero_for_every_image_are_dead():
    model = net(residual=False)
    norm = model.stages[0][1].norms[0]
    shift = np.where(np.arange(16) < 4, -100.0, 100.0)
    norm.bias[...] = jnp.float32(shift)
    rows = signals.record(model, IMAGES, LABELS, tx=sgd())["layers"]
    row = next(row for row in rows if row["layer"] == "stage 1, block 2, layer 1")
    assert row["dead"] == pytest.approx(0.25)
    assert rows[0]["dead"] < 0.25


def test_the_gradient_at_an_activation_is_that_of_one_images_loss():
    # Three units in a row: w3 w2 w1 x. The tap notes the gradient where it stands.
    x, tap = jnp.asarray([1.0, 2.0, 3.0]), jnp.zeros(())

    def loss(tap):
        return (5.0 * recorders.tapped(2.0 * x, tap)).sum()

    assert jax.grad(loss)(tap) == pytest.approx(5.0)


def test_norms_of_gradient_weight_and_update_are_those_of_the_training_step():
    model, tx = net(), sgd(0.1, weight_decay=0.01, momentum=0.9)
    loss, params = loss_of(model)
    rows = {r["layer"]: r for r in signals.record(model, IMAGES, LABELS, tx=tx)["layers"]}
    gradient = jax.grad(loss)(params)["stages"][2][1]["convs"][0]["kernel"]
    weight = params["stages"][2][1]["convs"][0]["kernel"]
    row = rows["stage 3, block 2, layer 1"]
    assert row["gradient"] == pytest.approx(np.linalg.norm(gradient), rel=1e-3)
    assert row["weight"] == pytest.approx(np.linalg.norm(weight), rel=1e-5)
    # The first step of SGD with weight decay, momentum still zero.
    step = 0.1 * np.linalg.norm(gradient + 0.01 * weight)
    assert row["update"] == pytest.approx(step, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_convolution_of_the_main_path_has_a_row_in_order(kind):
    rows = signals.record(net(**kind), IMAGES, LABELS, tx=sgd())["layers"]
    names = [row["layer"] for row in rows]
    pre = "activation_order" in kind
    expected = ["stem"] + [
        f"stage {s}, block {b}, layer {i}"
        for s in (1, 2, 3)
        for b in (1, 2)
        for i in (1, 2)
        if not (pre and (s, b, i) == (1, 1, 1))  # its BN is the stem's
    ]
    assert names == expected
    for row in rows:
        # In the original order a plain block's last ReLU is not its batch norm's.
        is_noted = kind != {"residual": False} or not row["layer"].endswith("layer 2")
        assert np.isfinite(row["dead"]) == is_noted
        assert all(np.isfinite(row[key]) for key in row if key not in ("layer", "dead"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "r8"
    config = validate(
        {
            "model": {"depth": 8},
            "data": {"name": "digits", "crop_padding": 0, "flip": False},
            "train": {"steps": 20, "batch_size": 32, "eval_interval": 20},
            "optimizer": {"learning_rate": 0.05, "milestones": (), "warmup": "none"},
            "log": {"tensorboard": False, "interval": 1, "progress": False},
            "parallel": {"devices": 1},
        }
    )
    loop.train(config, workdir)
    return workdir


def test_a_run_is_measured_before_its_first_step_and_at_its_last(run):
    trained = Trained.load(run)
    report = signals.measure(trained, images=64, initial=True)
    first, last = report["moments"]
    assert (first["step"], last["step"]) == (0, 20)
    assert first["loss"] > last["loss"] and report["examples"] == 64
    np.testing.assert_allclose([row["response"] for row in first["layers"]], 1, rtol=1e-3)
    json.dumps(report)
    (only,) = signals.measure(trained, images=64, initial=False)["moments"]
    assert only == last


def test_the_first_nets_weights_are_those_the_run_was_begun_with(run):
    trained = Trained.load(run)
    initial = registry.functional(trained.built()).params
    now = trained.experiment.state.params["stem_conv"]["kernel"]
    assert not np.array_equal(initial["stem_conv"]["kernel"], now)
    fresh = registry.functional(
        registry.build(trained.config.model, channels=1, num_classes=10, seed=0)
    ).params
    np.testing.assert_array_equal(initial["stem_conv"]["kernel"], fresh["stem_conv"]["kernel"])
