import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.config import OptimizerConfig
from resnet_jax.train import optimizer

# A rate that neither decays nor warms up, without momentum and weight decay: w = w - lr * g.
BARE = OptimizerConfig(schedule="constant", momentum=0.0, weight_decay=0.0)


@pytest.fixture(autouse=True)
def lenient_promotion():
    """Optax mixes whole numbers with floating ones, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def start(config, params, steps=64_000):
    tx = optimizer.build(config, steps)
    return tx, jax.tree.map(jnp.asarray, params), tx.init(jax.tree.map(jnp.asarray, params))


def run(config, params, gradients, errors=None, steps=64_000):
    """Parameters and logged rate after each update; `gradients` has one tree for each."""
    tx, params, state = start(config, params, steps)
    seen, rates = [], []
    for i, gradient in enumerate(gradients):
        error = jnp.asarray(100.0 if errors is None else errors[i])
        gradient = jax.tree.map(jnp.asarray, gradient)
        updates, state = tx.update(gradient, state, params, train_error=error)
        params = optax.apply_updates(params, updates)
        seen.append(jax.tree.map(np.asarray, params))
        rates.append(float(optimizer.learning_rate(state)))
    return seen, rates


def rates_of(config, errors, steps=64_000):
    """The rates that were applied, measured on the weights: with g = 1 each update is the rate."""
    config = dataclasses.replace(config, momentum=0.0, weight_decay=0.0)
    ones = [np.ones(1, np.float32)] * len(errors)
    seen, rates = run(config, np.zeros(1, np.float32), ones, errors, steps)
    applied = -np.diff([0.0, *(float(w[0]) for w in seen)])
    assert applied == pytest.approx(rates, rel=1e-4)
    return rates


def rate_at(config, update):
    """The rate of the update with this number, counted from 0."""
    tx = optimizer.scale_by_learning_rate(config, 64_000)
    state = tx.init(jnp.zeros(1))._replace(updates=jnp.asarray(update, jnp.int32))
    _, state = tx.update(jnp.ones(1), state, train_error=jnp.asarray(0.0))
    return float(state.learning_rate)


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        (0, 0.1),
        (31_999, 0.1),
        (32_000, 0.01),
        (47_999, 0.01),
        (48_000, 0.001),
        (63_999, 0.001),
    ],
)
def test_the_papers_rate_is_divided_by_ten_after_exactly_32k_and_48k_updates(update, rate):
    assert rate_at(OptimizerConfig(), update) == pytest.approx(rate, rel=1e-6)
    assert float(optimizer.schedule(OptimizerConfig(), 64_000)(update)) == pytest.approx(
        rate, rel=1e-6
    )


def test_the_decay_factor_and_milestones_are_those_of_the_config():
    config = OptimizerConfig(learning_rate=0.8, milestones=(2, 3), decay_factor=0.5)
    assert rates_of(config, [100.0] * 5) == pytest.approx([0.8, 0.8, 0.4, 0.2, 0.2])


def test_the_cosine_starts_at_the_rate_and_ends_at_zero():
    config = OptimizerConfig(schedule="cosine", learning_rate=0.2)
    rate = optimizer.schedule(config, steps=100)
    expected = [0.1 * (1 + np.cos(np.pi * step / 100)) for step in (0, 25, 50, 75, 100)]
    assert [float(rate(step)) for step in (0, 25, 50, 75, 100)] == pytest.approx(expected, abs=1e-7)
    assert float(rate(100)) == pytest.approx(0.0, abs=1e-7)


def test_a_constant_rate_ignores_milestones():
    config = OptimizerConfig(schedule="constant", milestones=(1, 2))
    assert rates_of(config, [100.0] * 4) == pytest.approx([0.1] * 4)


def test_without_warm_up_the_first_update_has_the_full_rate():
    assert rate_at(OptimizerConfig(warmup="none", warmup_steps=400), 0) == pytest.approx(0.1)


def test_a_constant_warm_up_lasts_exactly_its_steps_and_then_jumps_to_the_full_rate():
    config = OptimizerConfig(warmup="constant", warmup_steps=3)
    rates = rates_of(config, [100.0] * 6)
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.1, 0.1, 0.1])


def test_a_linear_warm_up_climbs_evenly_to_the_full_rate():
    config = OptimizerConfig(warmup="linear", warmup_steps=4, warmup_learning_rate=0.02)
    rates = rates_of(config, [100.0] * 6)
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])


def test_a_warm_up_does_not_shift_the_milestones():
    config = OptimizerConfig(warmup="constant", warmup_steps=2, milestones=(3,))
    assert rates_of(config, [0.0] * 5) == pytest.approx([0.01, 0.01, 0.1, 0.01, 0.01])


def test_the_warm_up_ends_at_the_update_whose_running_error_falls_below_80_percent():
    # The running error starts at 100; with batches at 10 % it is 10 + 90 * 0.95^k after k of them:
    # 83.3 at k = 4, 79.6 at k = 5.
    assert 10 + 90 * 0.95**4 > 80 > 10 + 90 * 0.95**5
    rates = rates_of(OptimizerConfig(warmup="until_error"), [10.0] * 8)
    assert rates == pytest.approx([0.01] * 4 + [0.1] * 4)


def test_after_the_warm_up_the_rate_is_the_full_one_until_32k():
    config = OptimizerConfig(warmup="until_error")
    tx = optimizer.scale_by_learning_rate(config, 64_000)
    state = tx.init(jnp.zeros(1))._replace(
        updates=jnp.asarray(391, jnp.int32), running_error=jnp.asarray(79.0)
    )
    rates = []
    for update in (391, 31_999, 32_000, 48_000):
        state = state._replace(updates=jnp.asarray(update, jnp.int32))
        _, state = tx.update(jnp.ones(1), state, train_error=jnp.asarray(50.0))
        rates.append(float(state.learning_rate))
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001], rel=1e-6)


def test_the_warm_up_never_comes_back_when_the_error_rises_again():
    errors = [10.0] * 5 + [100.0] * 60
    # 60 batches at 100 % bring the running error to 100 - 20.4 * 0.95^60 = 99.06.
    rates = rates_of(OptimizerConfig(warmup="until_error"), errors)
    assert rates == pytest.approx([0.01] * 4 + [0.1] * 61)


def test_one_lucky_batch_does_not_end_the_warm_up():
    # 0.95 * 100 + 0.05 * 0 = 95
    assert rates_of(OptimizerConfig(warmup="until_error"), [0.0, 95.0]) == pytest.approx([0.01] * 2)


def test_a_net_that_does_not_learn_stays_in_the_warm_up_whatever_its_steps():
    config = OptimizerConfig(warmup="until_error", warmup_steps=2)
    assert rates_of(config, [90.0] * 50) == pytest.approx([0.01] * 50)


def test_the_error_that_ends_the_warm_up_is_that_of_the_config():
    config = OptimizerConfig(warmup="until_error", warmup_error=96.0)
    # 100 * 0.95 = 95 < 96
    assert rates_of(config, [0.0] * 2) == pytest.approx([0.1] * 2)


def test_two_updates_by_hand_with_coupled_decay_and_a_rate_that_changes_between_them():
    config = OptimizerConfig(
        learning_rate=0.1, momentum=0.9, weight_decay=0.01, milestones=(1,), decay_factor=0.1
    )
    seen, rates = run(config, np.float32([1.0]), [np.float32([0.5]), np.float32([-0.2])])
    assert rates == pytest.approx([0.1, 0.01])
    # v1 = 0.1 * (0.5 + 0.01 * 1) = 0.051,  w1 = 1 - 0.051 = 0.949
    assert seen[0] == pytest.approx(0.949, rel=1e-6)
    # v2 = 0.9 * 0.051 + 0.01 * (-0.2 + 0.01 * 0.949) = 0.0459 - 0.0019051 = 0.0439949
    # w2 = 0.949 - 0.0439949 = 0.9050051
    # (PyTorch's form, lr * (m * v + g), would give 0.9463151.)
    assert seen[1] == pytest.approx(0.9050051, rel=1e-6)


def test_two_nesterov_updates_by_hand():
    config = OptimizerConfig(
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.01,
        milestones=(1,),
        decay_factor=0.1,
        nesterov=True,
    )
    seen, _ = run(config, np.float32([1.0]), [np.float32([0.5]), np.float32([-0.2])])
    # v1 = 0.051,  w1 = 1 - (0.051 + 0.9 * 0.051) = 0.9031
    assert seen[0] == pytest.approx(0.9031, rel=1e-6)
    # x2 = 0.01 * (-0.2 + 0.01 * 0.9031) = -0.00190969,  v2 = 0.9 * 0.051 + x2 = 0.04399031
    # w2 = 0.9031 - (x2 + 0.9 * v2) = 0.9031 - 0.037681589 = 0.865418411
    assert seen[1] == pytest.approx(0.865418411, rel=1e-6)


def test_the_decay_reaches_every_parameter_as_in_the_paper():
    params = {"kernel": np.ones((2, 2), np.float32), "scale": np.ones(2, np.float32)}
    config = dataclasses.replace(BARE, weight_decay=0.5)
    seen, _ = run(config, params, [jax.tree.map(np.zeros_like, params)])
    # 1 - 0.1 * 0.5 * 1
    np.testing.assert_allclose(seen[0]["kernel"], 0.95, rtol=1e-6)
    np.testing.assert_allclose(seen[0]["scale"], 0.95, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_batch_norm_and_biases_can_be_exempted_from_the_decay(name):
    params = {
        "head": {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)},
        "norm": {"scale": np.ones(2, np.float32), "bias": np.ones(2, np.float32)},
        "conv": {"kernel": np.ones((3, 3, 1, 2), np.float32)},
    }
    config = dataclasses.replace(BARE, name=name, weight_decay=0.5, decay_batch_norm=False)
    (after,), _ = run(config, params, [jax.tree.map(np.zeros_like, params)])
    np.testing.assert_allclose(after["head"]["kernel"], 0.95, rtol=1e-6)
    np.testing.assert_allclose(after["conv"]["kernel"], 0.95, rtol=1e-6)
    for exempted in (after["head"]["bias"], after["norm"]["scale"], after["norm"]["bias"]):
        np.testing.assert_array_equal(exempted, 1.0)


def test_adamw_is_that_of_optax_at_the_scheduled_rate():
    config = OptimizerConfig(
        name="adamw", learning_rate=1e-2, weight_decay=0.1, milestones=(3,), decay_factor=0.5
    )
    random = np.random.RandomState(0)
    params = random.normal(size=(4, 3)).astype(np.float32)
    gradients = [random.normal(size=(4, 3)).astype(np.float32) for _ in range(6)]
    seen, rates = run(config, params, gradients)
    expected_rates = [1e-2, 1e-2, 1e-2, 5e-3, 5e-3, 5e-3]
    assert rates == pytest.approx(expected_rates)

    reference = optax.adamw(lambda count: jnp.asarray(expected_rates)[count], weight_decay=0.1)
    weights = jnp.asarray(params)
    state = reference.init(weights)
    for gradient, ours in zip(gradients, seen, strict=True):
        updates, state = reference.update(jnp.asarray(gradient), state, weights)
        weights = optax.apply_updates(weights, updates)
        np.testing.assert_allclose(ours, weights, rtol=1e-5, atol=1e-7)


def test_the_logged_rate_is_the_applied_one_through_warm_up_and_milestones():
    # `rates_of` compares the rate in the optimizer's state with what the weights moved by.
    config = OptimizerConfig(
        warmup="linear", warmup_steps=3, warmup_learning_rate=0.01, milestones=(5, 7)
    )
    rates = rates_of(config, [100.0] * 9)
    assert rates == pytest.approx([0.01, 0.04, 0.07, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_updates_keep_the_type_of_the_parameters():
    params = {"half": np.ones(2, jnp.bfloat16), "single": np.ones(2, np.float32)}
    seen, _ = run(OptimizerConfig(), params, [jax.tree.map(np.ones_like, params)])
    assert seen[0]["half"].dtype == jnp.bfloat16
    assert seen[0]["single"].dtype == np.float32


def test_the_same_code_runs_compiled():
    config = OptimizerConfig(warmup="until_error", weight_decay=0.01)
    tx, params, state = start(config, np.float32([1.0, -2.0]))
    gradient, error = jnp.float32([0.5, 0.25]), jnp.asarray(60.0)
    plain, plain_state = tx.update(gradient, state, params, train_error=error)
    compiled, compiled_state = jax.jit(tx.update)(gradient, state, params, train_error=error)
    np.testing.assert_allclose(compiled, plain, rtol=1e-6)
    assert float(optimizer.learning_rate(compiled_state)) == pytest.approx(0.01)
    assert float(optimizer.learning_rate(plain_state)) == pytest.approx(0.01)


def plateau_scales(config, errors):
    """The plateau's scale after each evaluation, by the optimizer's own state."""
    _, _, state = start(config, {"kernel": np.ones(2, np.float32)})
    scales = []
    for error in errors:
        state = optimizer.after_evaluation(config, state, error)
        scales.append(float(optax.tree.get(state, "plateau_scale")))
    return scales


@pytest.mark.parametrize("patience", [1, 2, 4])
@pytest.mark.parametrize("improvement", [0.0, 0.5])
def test_a_plateau_lowers_the_rate_when_torchs_scheduler_does(patience, improvement):
    torch = pytest.importorskip("torch")
    errors = 40 + 30 * np.exp(-np.arange(40) / 5) + np.random.RandomState(0).normal(0, 1, 40)
    config = OptimizerConfig(
        schedule="plateau", plateau_patience=patience, plateau_improvement=improvement
    )
    theirs = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        # It lowers the rate at the first bad epoch after its patience, ours at the last within.
        theirs,
        factor=0.1,
        patience=patience - 1,
        threshold=improvement,
        threshold_mode="abs",
        eps=0,
    )
    expected = []
    for error in errors:
        scheduler.step(error)
        expected.append(theirs.param_groups[0]["lr"])
    assert min(expected) < 1
    assert plateau_scales(config, errors) == pytest.approx(expected, rel=1e-5)


def test_the_rate_that_is_logged_is_the_rate_after_a_plateau():
    config = dataclasses.replace(BARE, schedule="plateau", plateau_patience=1, learning_rate=0.5)
    tx, params, state = start(config, np.zeros(1, np.float32))
    for error, expected in ((30.0, 0.5), (30.0, 0.05), (10.0, 0.05)):
        state = optimizer.after_evaluation(config, state, error)
        updates, state = tx.update(jnp.ones(1), state, params, train_error=jnp.asarray(20.0))
        assert float(updates[0]) == pytest.approx(-expected)
        assert float(optimizer.learning_rate(state)) == pytest.approx(expected)


def test_other_schedules_pay_no_heed_to_evaluations():
    _, _, state = start(OptimizerConfig(), {"kernel": np.ones(2, np.float32)})
    after = optimizer.after_evaluation(OptimizerConfig(), state, 90.0)
    jax.tree.map(np.testing.assert_array_equal, after, state)
