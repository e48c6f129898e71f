import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import ParallelConfig, validate
from resnet_jax.data.order import TrainingOrder
from resnet_jax.errors import InputError
from resnet_jax.parallel import AXIS, DeviceMap
from resnet_jax.train.evaluator import Evaluator
from resnet_jax.train.setup import Experiment

pytestmark = pytest.mark.usefixtures("optimized")

WAYS = {
    "1 device": {"devices": 1},
    "8 devices, shard_map": {"devices": 8},
    "8 devices, pmap": {"devices": 8, "mapping": "pmap"},
}


def run(parallel, *, steps, dtype, batch_norm="synced", per_call=1, evaluated=False):
    """The state after some steps, their losses, and what evaluation says of test, if wanted."""
    config = validate(
        {
            "model": {"depth": 8, "dtype": dtype, "batch_norm": batch_norm},
            "data": {
                "name": "synthetic",
                "synthetic": {"image_size": 16, "examples": 200},
                "crop_padding": 2,
            },
            "optimizer": {"schedule": "constant"},
            "train": {"batch_size": 32, "eval_batch_size": 24, "steps": 12},
            "parallel": parallel,
            "log": {"interval": per_call},
        }
    )
    experiment = Experiment.prepare(config)
    order = TrainingOrder(experiment.feed.sizes["train"], 32, seed=0)
    state = experiment.devices.replicate(experiment.state)
    losses = []
    for first in range(0, steps, per_call):
        (state,) = experiment.train_program(
            state, experiment.arrays, order.batches(first, per_call)
        )
        losses.append(experiment.devices.single_copy(state).window.compute()["loss"])
    values = Evaluator(experiment).measure(state, "test")[0] if evaluated else None
    return jax.device_get(experiment.devices.single_copy(state)), losses, values


def assert_close(got, want, tolerance):
    def check(path, a, b):
        a, b = np.asarray(a, float), np.asarray(b, float)
        scale = np.linalg.norm(b) or 1
        assert np.linalg.norm(a - b) <= tolerance * scale, jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check, got, want)


def test_one_device_and_eight_by_shard_map_or_pmap_agree_over_ten_steps(float64):
    (want, want_losses, want_values), *others = (
        run(way, steps=10, dtype="float64", evaluated=True) for way in WAYS.values()
    )
    for got, losses, values in others:
        np.testing.assert_allclose(losses, want_losses, rtol=1e-6)
        assert_close(
            (got.params, got.stats, got.opt_state), (want.params, want.stats, want.opt_state), 1e-6
        )
        assert values == pytest.approx(want_values, rel=1e-6)
    assert want_losses[-1] < want_losses[0]


def test_one_device_and_eight_agree_over_one_step_in_single_precision():
    (want, want_losses, _), *others = (run(way, steps=1, dtype="float32") for way in WAYS.values())
    for got, losses, _ in others:
        np.testing.assert_allclose(losses, want_losses, rtol=1e-6)
        assert_close(got.params, want.params, 1e-5)
        # One device may normalise by the CPU extension, which sums in another order; a mean near
        # zero has the rounding of the larger values that it is the mean of.
        assert_close(got.stats, want.stats, 5e-5)


def test_several_steps_in_one_call_equal_as_many_calls(float64):
    want, want_losses, _ = run({"devices": 1}, steps=6, dtype="float64")
    for parallel in ({"devices": 1}, {"devices": 8}, {"devices": 8, "mapping": "pmap"}):
        got, losses, _ = run(parallel, steps=6, dtype="float64", per_call=3)
        means = np.reshape(want_losses, (2, 3)).mean(1)
        np.testing.assert_allclose(losses, means, rtol=1e-6)
        assert_close(got.params, want.params, 1e-6)


def test_local_batch_norm_normalises_each_devices_share_and_averages_the_running_statistics(
    float64,
):
    synced, _, _ = run({"devices": 2}, steps=1, dtype="float64")
    local, _, _ = run({"devices": 2}, steps=1, dtype="float64", batch_norm="local")
    mean = lambda state: state.stats["stem_norm"]["mean"]  # noqa: E731
    variance = lambda state: state.stats["stem_norm"]["variance"]  # noqa: E731
    # The mean of the halves' means is the whole's; the mean of their variances is less than the
    # whole's, by the spread between the halves.
    np.testing.assert_allclose(mean(local), mean(synced), rtol=1e-9)
    assert not np.allclose(variance(local), variance(synced), rtol=1e-9)
    # On one device there is nothing to differ.
    alone, _, _ = run({"devices": 1}, steps=1, dtype="float64", batch_norm="local")
    whole, _, _ = run({"devices": 1}, steps=1, dtype="float64")
    assert_close(alone.params, whole.params, 1e-12)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_gradients_are_the_mean_over_devices_and_not_their_sum(mapping):
    # f = w * mean(x): the gradient is the mean of x, whatever the number of devices.
    x = jnp.arange(8.0)

    def step(w, x):
        return (jax.lax.pmean(jax.grad(lambda w: (w * x).mean())(w), AXIS),)

    devices = DeviceMap(ParallelConfig(devices=4, mapping=mapping))
    program = devices.compile(step, inputs=(None, 0), outputs=(None,))
    (gradient,) = program(devices.replicate(jnp.float32(1)), x)
    assert float(devices.single_copy(gradient)) == pytest.approx(3.5)


def test_divided_results_come_back_whole_and_in_order():
    x = np.arange(24.0, dtype=np.float32).reshape(3, 8)
    for mapping in ("shard_map", "pmap"):
        devices = DeviceMap(ParallelConfig(devices=4, mapping=mapping))
        program = devices.compile(lambda x: (2 * x,), inputs=(1,), outputs=(1,))
        np.testing.assert_array_equal(program(x)[0], 2 * x)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_batches_of_several_arrays_are_divided_alike_and_may_be_placed_ahead(mapping):
    devices = DeviceMap(ParallelConfig(devices=4, mapping=mapping))
    batch = {"x": np.arange(16.0, dtype=np.float32).reshape(2, 8), "y": np.ones((2, 8), np.float32)}
    program = devices.compile(
        lambda batch: (batch["x"][0] * batch["y"][1],), inputs=(1,), outputs=(0,)
    )
    expected = batch["x"][0] * batch["y"][1]
    np.testing.assert_array_equal(program(batch)[0], expected)
    placed = devices.divide(batch, 1)
    np.testing.assert_array_equal(program(placed)[0], expected)
    if mapping == "shard_map":
        shards = {s.device: np.asarray(s.data) for s in placed["x"].addressable_shards}
        np.testing.assert_array_equal(shards[devices.devices[1]], batch["x"][:, 2:4])


def test_a_batch_that_does_not_divide_is_refused_with_the_next_workable_sizes():
    with pytest.raises(InputError, match="batch_size=100 is not divisible by 8.*use 96 or 104"):
        DeviceMap(ParallelConfig(devices=8)).check_batch(100)
    with pytest.raises(InputError, match="use 8,"):
        DeviceMap(ParallelConfig(devices=8)).check_batch(4)
    DeviceMap(ParallelConfig(devices=8)).check_batch(104)


def test_more_devices_than_there_are_cannot_be_asked_for():
    with pytest.raises(InputError, match="devices=9, but this machine has 8 cpu"):
        DeviceMap(ParallelConfig(devices=9))
