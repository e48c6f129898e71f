import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from resnet_jax import run_folder
from resnet_jax.analysis.trained import Trained
from resnet_jax.config import ModelConfig
from resnet_jax.models import registry
from resnet_jax.train import loop
from resnet_jax.train.step import classified
from tests.digits_run import digits_run

RANDOM = np.random.RandomState(0)
IMAGES = jnp.asarray(RANDOM.normal(size=(6, 8, 8, 3)), jnp.float32)
LABELS = RANDOM.randint(0, 4, 6)
KINDS = [{}, {"residual": False}, {"activation_order": "full_preactivation", "shortcut": "B"}]


def net(**model):
    return registry.functional(
        registry.build(ModelConfig(**{"depth": 8, **model}), channels=3, num_classes=4)
    )


def cross_entropy(logits):
    return -scipy.special.log_softmax(np.float64(logits), -1)[np.arange(6), LABELS]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_net_beside_its_auxiliary_heads_is_the_one_without_them(kind):
    alone, helped = net(**kind), net(auxiliary_weight=0.3, **kind)
    kept = {name: helped.params[name] for name in alone.params}
    jax.tree.map(np.testing.assert_array_equal, kept, alone.params)
    added = helped.params.keys() - alone.params.keys()
    assert added == {"auxiliary_heads"}
    for train in (False, True):
        ours, stats = alone.apply(alone.params, alone.stats, IMAGES, train)
        theirs, their_stats = helped.apply(helped.params, helped.stats, IMAGES, train)
        if train:
            assert theirs.shape == (6, 3, 4)
            theirs = theirs[:, 0]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, stats, their_stats)


def test_auxiliary_heads_read_the_first_two_stages():
    found = net(auxiliary_weight=0.3)
    assert [h["kernel"].shape for h in found.params["auxiliary_heads"].values()] == [
        (16, 4),
        (32, 4),
    ]
    logits, _ = found.apply(found.params, found.stats, IMAGES, True)
    changed = jax.tree.map(lambda leaf: leaf, found.params)
    changed["stages"][1] = jax.tree.map(lambda leaf: leaf + 0.5, changed["stages"][1])
    after, _ = found.apply(changed, found.stats, IMAGES, True)
    moved = np.abs(np.asarray(after - logits)).max((0, 2)) > 1e-3
    assert moved.tolist() == [True, False, True]  # the net's own, stage 1, stage 2


def test_what_is_descended_is_the_heads_loss_and_a_share_of_each_other():
    logits = jnp.asarray(RANDOM.normal(size=(6, 3, 4)), jnp.float32)
    own, losses, descended = classified(logits, jnp.asarray(LABELS), 0.3)
    np.testing.assert_array_equal(own, logits[:, 0])
    first, second, third = (cross_entropy(logits[:, i]) for i in range(3))
    np.testing.assert_allclose(losses, first, rtol=1e-5)
    np.testing.assert_allclose(descended, first + 0.3 * (second + third), rtol=1e-5)


def test_without_auxiliary_heads_the_loss_is_the_nets_own():
    logits = jnp.asarray(RANDOM.normal(size=(6, 4)), jnp.float32)
    own, losses, descended = classified(logits, jnp.asarray(LABELS), 0.3)
    np.testing.assert_array_equal(own, logits)
    np.testing.assert_allclose(losses, cross_entropy(logits), rtol=1e-5)
    np.testing.assert_array_equal(descended, losses)


def test_a_net_is_trained_by_its_auxiliary_heads_too_and_logs_its_own_loss(tmp_path):
    """One step from the same weights: the logged loss is the same, what is learnt is not."""
    losses, kernels = {}, {}
    for weight in (0.0, 0.3):
        config = digits_run(
            model={"residual": False, "auxiliary_weight": weight},
            train={"steps": 1, "eval_interval": 1},
            log={"interval": 1},
            parallel={"devices": 2},
        )
        workdir = tmp_path / str(weight)
        status = loop.train(config, workdir)
        assert status["state"] == run_folder.COMPLETED
        records = run_folder.read_records(workdir / run_folder.METRICS)
        losses[weight] = next(r["loss"] for r in records if r["split"] == "train")
        params = Trained.load(workdir).experiment.state.params
        kernels[weight] = params["stages"][0][0]["convs"][0]["kernel"]
    assert losses[0.0] == pytest.approx(losses[0.3], rel=1e-5)
    assert np.abs(kernels[0.0] - kernels[0.3]).max() > 1e-4
