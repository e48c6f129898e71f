import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import run_folder
from resnet_jax.analysis import recorders, signals
from resnet_jax.analysis.trained import Trained
from resnet_jax.config import ModelConfig, OptimizerConfig
from resnet_jax.models import registry
from resnet_jax.train import loop, optimizer
from tests.digits_run import digits_run

RANDOM = np.random.RandomState(0)
IMAGES = jnp.asarray(RANDOM.normal(size=(8, 8, 8, 3)), jnp.float32)
LABELS = jnp.asarray(RANDOM.randint(0, 4, 8))
KINDS = [{}, {"residual": False}, {"activation_order": "full_preactivation", "shortcut": "B"}]


def net(**model):
    return registry.build(ModelConfig(**{"depth": 14, **model}), channels=3, num_classes=4)


def sgd(rate=0.1, **more):
    how = {"learning_rate": rate, "milestones": (), "warmup": "none", **more}
    return optimizer.build(OptimizerConfig(**how), 100)


def record(model, images, labels, *, tx):
    found = registry.functional(model)
    state = (found.params, found.stats, tx.init(found.params))
    return signals.recorder(model, tx)(*state, images, labels)


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
    gradients = recorders.taken_out(jax.grad(noted)(own), params)
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
    rows = record(model, IMAGES, LABELS, tx=sgd())["layers"]
    row = next(row for row in rows if row["layer"] == "stage 2, block 1, layer 2")
    assert row["response"] == pytest.approx(np.sqrt((scale**2).mean() + bias.var()), rel=1e-3)


def test_a_fresh_batch_norms_response_is_one():
    rows = record(net(), IMAGES, LABELS, tx=sgd())["layers"]
    np.testing.assert_allclose([row["response"] for row in rows], 1, rtol=1e-3)


def test_units_that_relu_leaves_at_zero_for_every_image_are_dead():
    model = net(residual=False)
    norm = model.stages[0][1].norms[0]
    shift = np.where(np.arange(16) < 4, -100.0, 100.0)
    norm.bias[...] = jnp.float32(shift)
    rows = record(model, IMAGES, LABELS, tx=sgd())["layers"]
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
    rows = {r["layer"]: r for r in record(model, IMAGES, LABELS, tx=tx)["layers"]}
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
    rows = record(net(**kind), IMAGES, LABELS, tx=sgd())["layers"]
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


def test_a_net_with_dropout_is_measured_as_it_trains():
    model = net(shortcut_transform="dropout", shortcut_dropout=0.5)
    first, again = (record(model, IMAGES, LABELS, tx=sgd()) for _ in range(2))
    assert run_folder.without_nan(first) == run_folder.without_nan(again)
    assert first["loss"] != record(net(), IMAGES, LABELS, tx=sgd())["loss"]


def test_without_normalisation_the_signal_of_a_residual_net_doubles_block_by_block():
    # Identity shortcuts, H = x + F(ReLU(x)), He's initialisation: each branch adds as much variance
    # as its input has (Zhang et al. 2019, arXiv 1901.09321, Sec. 2), plain nets keep theirs.
    images = jnp.asarray(RANDOM.normal(size=(8, 16, 16, 3)), jnp.float32)
    growth = {}
    for residual in (True, False):
        model = net(
            depth=32,
            width=2.0,
            residual=residual,
            activation_order="full_preactivation",
            batch_norm="frozen",
        )
        rows = record(model, images, LABELS, tx=sgd())["layers"]
        at = {row["layer"]: row["activation"] ** 2 for row in rows}
        growth[residual] = (at["stage 1, block 5, layer 1"] / at["stage 1, block 2, layer 1"]) ** (
            1 / 3
        )
    assert growth[True] == pytest.approx(2, rel=0.25)
    assert growth[False] == pytest.approx(1, rel=0.25)


def short_run(*, train=None, log=None):
    return digits_run(
        train={"checkpoint_interval": 5, **(train or {})},
        log={"interval": 1, "signals_interval": 10, **(log or {})},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "r8"
    loop.train(short_run(), workdir)
    return workdir


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("recorded") / "r8"
    loop.train(short_run(), workdir, recorder=signals.Recorder)
    return workdir


def moments(workdir):
    return json.loads((workdir / "analysis" / "signals.json").read_text())["moments"]


def test_a_run_records_its_signals_at_the_start_and_after_each_interval(recorded):
    assert [moment["step"] for moment in moments(recorded)] == [0, 10, 20]


def test_what_a_run_records_is_what_the_command_measures_of_it(run, recorded):
    first, _, last = moments(recorded)
    report = signals.measure(Trained.load(run), images=signals.IMAGES, initial=True)
    for own, theirs in zip((first, last), report["moments"], strict=True):
        assert own["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        for a, b in zip(own["layers"], theirs["layers"], strict=True):
            assert a["gradient"] == pytest.approx(b["gradient"], rel=1e-3)
            assert a["update"] == pytest.approx(b["update"], rel=1e-3)


def test_recording_leaves_training_as_it_is(run, recorded):
    ours, theirs = (run_folder.read_records(f / run_folder.METRICS) for f in (run, recorded))
    assert [r["loss"] for r in ours] == [r["loss"] for r in theirs]
    assert not (run / "analysis").exists()


@pytest.mark.parametrize(
    ("log", "train"),
    [
        ({"signals_interval": 0}, {}),
        ({"signals_interval": 3}, {}),
        ({"signals_interval": 1}, {"recompute_blocks": True}),
        ({"signals_interval": 1}, {"block_loop": "always"}),
    ],
    ids=["not asked for", "a shorter run", "recomputed", "a loop"],
)
def test_nothing_is_recorded_where_that_is_not_wanted_or_could_take_too_much(log, train, tmp_path):
    config = short_run(log=log, train={"steps": 2, "eval_interval": 2, **train})

    def never(*_):
        raise AssertionError("a recorder was made")

    status = loop.train(config, tmp_path / "run", recorder=never)
    assert status["state"] == run_folder.COMPLETED
    assert not (tmp_path / "run" / run_folder.ANALYSIS).exists()


def test_a_run_that_goes_on_records_what_is_missing_and_each_moment_once(tmp_path, recorded):
    workdir = tmp_path / "run"
    steps = iter(range(100))
    stopped = loop.train(
        short_run(), workdir, should_stop=lambda: next(steps) > 12, recorder=signals.Recorder
    )
    assert 10 < stopped["step"] < 20
    # As if it had been killed after the checkpoint of step 10 and before that moment was written,
    # and as if a moment had been written of steps that will be made again.
    path = workdir / "analysis" / "signals.json"
    report = json.loads(path.read_text())
    assert [moment["step"] for moment in report["moments"]] == [0, 10]
    report["moments"].append(report["moments"][-1] | {"step": 20, "loss": -1.0})
    path.write_text(json.dumps(report))
    loop.train(short_run(), workdir, recorder=signals.Recorder)
    assert moments(workdir) == moments(recorded)


def test_moments_of_other_images_are_not_mixed_with_a_runs_own(recorded, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(recorded, workdir)
    trained = Trained.load(workdir)
    about = trained.about("train", signals.IMAGES)
    assert len(signals._kept(workdir, about)) == 3
    assert signals._kept(workdir, trained.about("train", 64)) == []


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
