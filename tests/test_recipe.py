"""What recipes add to plain descent: smoothing, averages, plateaus, statistics measured anew."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax import run_folder
from resnet_jax.config import ParallelConfig
from resnet_jax.data import datasets
from resnet_jax.data.order import TrainingOrder
from resnet_jax.data.pipeline import Resident
from resnet_jax.errors import InputError
from resnet_jax.models import registry
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import evaluation, loop
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.evaluator import Evaluator
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import AveragedState, TrainState
from resnet_jax.train.step import classified, train_step
from tests.digits_run import digits_run

LOGITS = np.random.RandomState(0).normal(0, 3, (7, 5)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 0, 2], np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_losses_are_torchs(smoothing):
    torch = pytest.importorskip("torch")
    _, _, descended = classified(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0, smoothing)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(LOGITS),
        torch.from_numpy(LABELS).long(),
        label_smoothing=smoothing,
        reduction="none",
    )
    np.testing.assert_allclose(descended, expected.numpy(), rtol=1e-5)


def test_the_loss_that_is_logged_is_not_smoothed():
    plain = classified(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    smooth = classified(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0, 0.3)
    np.testing.assert_array_equal(smooth[1], plain[1])
    assert not np.allclose(smooth[2], plain[2])


def test_auxiliary_heads_are_smoothed_like_the_net_s_own():
    both = jnp.stack([jnp.asarray(LOGITS), jnp.asarray(LOGITS[::-1])], 1)
    _, _, together = classified(both, jnp.asarray(LABELS), 0.5, 0.1)
    own, other = (classified(both[:, i], jnp.asarray(LABELS), 0.0, 0.1)[2] for i in (0, 1))
    np.testing.assert_allclose(together, own + 0.5 * other, rtol=1e-6)


def linear(params, stats, x, train, *, keys=None, progress=None):
    """A net of one matrix whose only statistic counts the passes."""
    return x @ params["kernel"], {"mean": stats["mean"] + 1}


def one_step(state, tx, **more):
    devices = DeviceMap(ParallelConfig(devices=1))
    program = devices.compile(
        lambda s: (
            train_step(s, jnp.ones((4, 2)), jnp.zeros(4, jnp.int32), apply=linear, tx=tx, **more),
        ),
        inputs=(None,),
        outputs=(None,),
    )
    return jax.device_get(program(devices.replicate(jax.device_get(state)))[0])


def descent():
    """Gradient descent at a rate of 1, as a transformation that takes more arguments."""
    return optax.with_extra_args_support(optax.sgd(1.0))


def test_an_average_follows_weights_and_statistics_by_its_formula():
    tx = descent()
    params = {"kernel": jnp.zeros((2, 3))}
    state = AveragedState.create(params, {"mean": jnp.zeros(())}, tx.init(params))
    expected, mean = np.zeros((2, 3)), 0.0
    for made in range(40):
        state = one_step(state, tx, average_decay=0.7)
        keep = min(0.7, (1 + made) / (10 + made))
        expected = keep * expected + (1 - keep) * state.params["kernel"]
        mean = keep * mean + (1 - keep) * (made + 1)
        np.testing.assert_allclose(state.average.params["kernel"], expected, rtol=1e-4, atol=1e-6)
        assert float(state.average.stats["mean"]) == pytest.approx(mean, rel=1e-5)
    assert state.evaluated is state.average


def test_an_average_freezes_with_the_weights_when_a_run_diverges():
    tx = descent()
    params = {"kernel": jnp.zeros((2, 3))}
    state = one_step(AveragedState.create(params, {"mean": jnp.zeros(())}, tx.init(params)), tx)
    before = state.average
    broken = state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
    after = one_step(broken, tx, average_decay=0.9)
    assert after.first_nonfinite_step == 2
    jax.tree.map(np.testing.assert_array_equal, after.average, before)


def test_a_state_without_an_average_evaluates_its_weights():
    params = {"kernel": jnp.ones((2, 3))}
    state = TrainState.create(params, {"mean": jnp.zeros(())}, descent().init(params))
    assert state.evaluated.params is state.params and state.evaluated.stats is state.stats


RECIPE = {
    "train": {"steps": 12, "eval_interval": 2, "checkpoint_interval": 4, "average_decay": 0.9},
    "optimizer": {"schedule": "plateau", "plateau_patience": 1, "plateau_improvement": 3.0},
    "log": {"interval": 1},
}


def records(folder, split):
    lines = (folder / run_folder.METRICS).read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe") / "whole"
    loop.train(digits_run(**RECIPE), folder)
    return folder


def test_a_run_lowers_its_rate_after_evaluations_that_brought_nothing(whole):
    val = {record["step"]: record["error"] for record in records(whole, "val")}
    best, rate, expected = np.inf, 0.05, {}
    for step in range(1, 13):
        expected[step] = rate
        if step in val:
            if val[step] < best - 3.0:
                best = val[step]
            else:
                rate *= 0.1
    assert rate < 0.05
    logged = {record["step"]: record["learning_rate"] for record in records(whole, "train")}
    assert logged == pytest.approx(expected, rel=1e-5)


def test_plateaus_and_averages_survive_an_interruption_bit_for_bit(tmp_path, whole):
    status = {"state": run_folder.STOPPED}
    attempts = 0
    while status["state"] == run_folder.STOPPED:
        answers = iter([False] * 5)
        status = loop.train(
            digits_run(**RECIPE), tmp_path, should_stop=lambda a=answers: next(a, 1)
        )
        attempts += 1
    assert attempts > 2
    for name in (run_folder.METRICS, run_folder.EVALUATION):
        assert (tmp_path / name).read_text() == (whole / name).read_text()


def test_it_is_the_average_that_is_evaluated(whole):
    config = digits_run(**RECIPE)
    experiment = Experiment.prepare(config)
    checkpoints = Checkpoints(whole / run_folder.CHECKPOINTS, read_only=True)
    state = checkpoints.restore(12, like=experiment.state)
    errors = {}
    for name, weights in (("average", state.average), ("last", (state.params, state.stats))):
        plain = TrainState.create(*weights, optax.identity().init(weights[0]))
        measured, _ = Evaluator(experiment).measure(experiment.placed(plain), "test")
        errors[name] = measured["loss"]
    assert records(whole, "test")[-1]["loss"] == pytest.approx(errors["average"])
    assert errors["average"] != pytest.approx(errors["last"], rel=1e-3)
    assert evaluation.evaluate(whole)["splits"]["test"]["loss"] == pytest.approx(errors["average"])


def test_another_evaluation_interval_is_another_run_where_the_rate_follows_it(whole):
    changed = {**RECIPE, "train": {**RECIPE["train"], "eval_interval": 3}}
    with pytest.raises(InputError, match="train.eval_interval: 2 -> 3"):
        loop.train(digits_run(**changed), whole)


ANEW = {
    "model": {"depth": 8},
    "train": {"steps": 6, "eval_interval": 3, "reestimation_batches": 3},
}


def batches_own_statistics(config, params):
    """The mean over batches 6, 7 and 8 of what a net without memory keeps of each."""
    dataset = datasets.load(config.data)
    resident = Resident.of(dataset, config.data)
    order = TrainingOrder(len(dataset.train), config.train.batch_size, config.train.seed)
    forgetful = dataclasses.replace(config.model, batch_norm_decay=0.0)
    kept = []
    for step in (6, 7, 8):
        net = registry.build(forgetful, channels=1, num_classes=10)
        registry.update(net, params, registry.functional(net).stats)
        images = resident.arrays["images"][order.batch(step)].astype(np.float32) / 255
        net(jnp.asarray(images - resident.arrays["mean"]), train=True)
        kept.append(registry.functional(net).stats)
    return jax.tree.map(lambda *values: np.mean(values, 0), *kept)


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_statistics_measured_anew_are_the_mean_of_the_next_batches_own(tmp_path, average_decay):
    config = digits_run(**{**ANEW, "train": {**ANEW["train"], "average_decay": average_decay}})
    loop.train(config, tmp_path)
    experiment = Experiment.prepare(config)
    checkpoints = Checkpoints(tmp_path / run_folder.CHECKPOINTS, read_only=True)
    state = checkpoints.restore(6, like=experiment.state)
    expected = batches_own_statistics(config, jax.tree.map(jnp.asarray, state.evaluated.params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
        state.evaluated.stats,
        expected,
    )
    # The error that was written is that of the new statistics.
    measured, _ = Evaluator(experiment).measure(experiment.placed(state), "test")
    assert records(tmp_path, "test")[-1]["loss"] == pytest.approx(measured["loss"])


def test_statistics_measured_anew_are_the_same_after_an_interruption(tmp_path):
    config = digits_run(**ANEW)
    loop.train(config, tmp_path / "whole")
    # Questions: before step 1, between the six calls, at the evaluation after step 3 (2 splits of
    # one batch), then within the new measurement.
    answers = iter([False] * 9)
    status = loop.train(config, tmp_path / "parts", should_stop=lambda: next(answers, True))
    assert (status["state"], status["step"]) == (run_folder.STOPPED, 6)
    assert not [record for record in records(tmp_path / "parts", "test") if record["step"] == 6]
    loop.train(config, tmp_path / "parts")
    for name in (run_folder.METRICS, run_folder.EVALUATION):
        parts, whole = (tmp_path / folder / name for folder in ("parts", "whole"))
        assert parts.read_text() == whole.read_text()


def test_the_scale_of_annealed_shortcuts_is_no_batch_s_statistic(tmp_path):
    annealed = {"shortcut_transform": "annealed_scaling", "shortcut_scale_end": 0.5}
    config = digits_run(**{**ANEW, "model": {**ANEW["model"], **annealed}})
    loop.train(config, tmp_path)
    checkpoints = Checkpoints(tmp_path / run_folder.CHECKPOINTS, read_only=True)
    state = checkpoints.restore(6, like=Experiment.prepare(config).state)
    assert float(state.stats["shortcut_scale"]) == 0.5
