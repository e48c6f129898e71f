import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import ModelConfig, resolve_block_loop, validate
from resnet_jax.errors import InputError
from resnet_jax.models import registry
from resnet_jax.models.repeated import UNROLLED, Repetition, with_loops, without_loops
from resnet_jax.train import loop
from resnet_jax.train.checkpoint import Checkpoints
from resnet_jax.train.setup import Experiment

pytestmark = pytest.mark.usefixtures("optimized")

IMAGES = np.random.RandomState(0).normal(size=(4, 4, 4, 3))
LOOP, RECOMPUTE, BOTH = Repetition(loop=True), Repetition(recompute=True), Repetition(True, True)
CASES = [
    (LOOP, {"shortcut": "A"}),
    (RECOMPUTE, {"shortcut": "A"}),
    (BOTH, {"residual": False}),
    (BOTH, {"shortcut": "C", "activation_order": "full_preactivation"}),
    (BOTH, {"shortcut_transform": "annealed_scaling", "shortcut_scale_end": 0.5}),
    (RECOMPUTE, {"shortcut_transform": "dropout"}),
]


def net(repetition, depth=20, **fields):
    config = ModelConfig(depth=depth, dtype="float64", **fields)
    return registry.functional(
        registry.build(config, channels=3, num_classes=10, repetition=repetition)
    )


def loss_gradient_and_statistics(net):
    """Laid out without loops."""

    def loss(params):
        keys = jax.random.split(jax.random.key(0), len(IMAGES))
        logits, stats = net.apply(
            params, net.stats, jnp.asarray(IMAGES), True, keys=keys, progress=jnp.float64(0.3)
        )
        return (logits**2).mean(), stats

    (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(net.params)
    return without_loops(jax.device_get((value, stats, gradient)))


@pytest.mark.parametrize(("repetition", "fields"), CASES)
def test_how_blocks_become_a_program_changes_nothing_they_compute(float64, repetition, fields):
    expected = loss_gradient_and_statistics(net(UNROLLED, **fields))
    found = loss_gradient_and_statistics(net(repetition, **fields))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected
    )


def test_a_traced_net_is_the_net_that_is_called_block_by_block(float64):
    fields = {"depth": 20, "shortcut": "B"}
    model = registry.build(ModelConfig(dtype="float64", **fields), channels=3, num_classes=10)
    functional = registry.functional(model)
    logits, stats = jax.jit(functional.apply, static_argnums=3)(
        functional.params, functional.stats, IMAGES, True
    )
    np.testing.assert_allclose(logits, model(IMAGES, train=True), rtol=1e-9)
    after = registry.functional(model).stats
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), stats, after)


def test_values_are_laid_out_for_loops_and_back(float64):
    unrolled, looped = net(UNROLLED, shortcut="B"), net(LOOP, shortcut="B")
    for one, other in ((unrolled.params, looped.params), (unrolled.stats, looped.stats)):
        jax.tree.map(np.testing.assert_array_equal, with_loops(jax.device_get(one)), other)
        jax.tree.map(np.testing.assert_array_equal, without_loops(jax.device_get(other)), one)


def run(block_loop, **train):
    return validate(
        {
            "model": {"depth": 20, "dtype": "float64"},
            "data": {"name": "synthetic", "synthetic": {"image_size": 4, "examples": 40}},
            "train": {"batch_size": 8, "steps": 4, "block_loop": block_loop, **train},
            # Batch norm's parameters keep their values, whatever shape they have.
            "optimizer": {"decay_batch_norm": False, "milestones": ()},
            "log": {"interval": 2, "tensorboard": False, "progress": False},
            "parallel": {"devices": 1},
        }
    )


def saved(workdir, config):
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    return checkpoints.restore(4, like=Experiment.prepare(config).state)


def test_a_run_may_go_on_with_a_loop_and_without_and_its_checkpoints_are_laid_out_alike(
    tmp_path, float64
):
    loop.train(run("never"), tmp_path / "never")
    answers = iter([False, False, False])
    stopped = loop.train(run("always"), tmp_path / "both", should_stop=lambda: next(answers, True))
    assert stopped["state"] == "stopped" and 0 < stopped["step"] < 4
    assert loop.train(run("never"), tmp_path / "both")["state"] == "completed"
    expected, found = (saved(tmp_path / name, run("never")) for name in ("never", "both"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), found, expected
    )


def program_lines(depth):
    experiment = Experiment.prepare(
        dataclasses.replace(
            run("always"), model=dataclasses.replace(run("always").model, depth=depth)
        )
    )
    state = experiment.placed(experiment.state)
    examples = np.zeros((1, 8), np.int32)
    lowered = experiment.train_program.trace(state, experiment.arrays, examples).lower()
    return lowered.as_text().count("\n")


def test_as_a_loop_the_program_has_one_size_at_any_depth_optimizer_included(float64):
    assert program_lines(20) == program_lines(56)


def memory_of(repetition, depth=56):
    functional = net(repetition, depth=depth)
    x = jnp.zeros((16, 16, 16, 3))

    def loss(params):
        return functional.apply(params, functional.stats, x, True)[0].sum()

    compiled = jax.jit(jax.grad(loss)).lower(functional.params).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_recomputing_in_a_loop_needs_a_fraction_of_the_memory(float64):
    assert memory_of(BOTH) < 0.5 * memory_of(LOOP)


def test_blocks_become_a_loop_where_it_pays_or_as_asked_for():
    def loops(depth, accelerator, **train):
        run = validate({"model": {"depth": depth}, "train": train})
        return resolve_block_loop(run, accelerator=accelerator)

    assert loops(1202, True) and loops(164, True)
    assert not loops(110, True) and not loops(1202, False)
    assert loops(20, False, block_loop="always") and not loops(1202, True, block_loop="never")


def test_a_loop_over_blocks_that_draw_masks_of_their_own_is_refused():
    with pytest.raises(InputError, match="block_loop='always' is not possible with"):
        validate({"model": {"shortcut_transform": "dropout"}, "train": {"block_loop": "always"}})
