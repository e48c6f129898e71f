import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import ModelConfig, OptimizerConfig, ParallelConfig
from resnet_jax.models import registry, torch_names, torch_weights
from resnet_jax.parallel import AXIS, DeviceMap
from resnet_jax.train import optimizer, step
from resnet_jax.train.state import TrainState

pytestmark = pytest.mark.usefixtures("optimized")

torch = pytest.importorskip("torch")
torch_reference = pytest.importorskip("tests.torch_reference")

STEPS, BATCH = 10, 32


def batches():
    random = np.random.RandomState(0)
    for _ in range(STEPS):
        yield random.normal(size=(BATCH, 3, 16, 16)), random.randint(0, 10, BATCH)


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
def test_ten_sgd_steps_in_double_precision_equal_pytorchs(residual, float64):
    # In float32 not even PyTorch agrees with its own float64 run: the start of training is chaotic.
    recipe = dict(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    theirs = torch_reference.initialise(torch_reference.CifarNet(20, residual), seed=0).double()
    model = registry.build(
        ModelConfig(depth=20, residual=residual, dtype="float64"),
        channels=3,
        num_classes=10,
        axis_name=AXIS,
    )
    arrays = {name: tensor.numpy().copy() for name, tensor in theirs.state_dict().items()}
    assert torch_weights.assign(model, arrays) == ([], [])

    losses = torch_reference.sgd_steps(theirs, batches(), **recipe)

    net = registry.functional(model)
    tx = optimizer.build(OptimizerConfig(schedule="constant", **recipe), STEPS)
    state = TrainState.create(net.params, net.stats, tx)

    def one_step(state, images, labels):
        return (step.train_step(state, images, labels, apply=net.apply, tx=tx),)

    program = DeviceMap(ParallelConfig(devices=1)).compile(
        one_step, inputs=(None, 0, 0), outputs=(None,)
    )
    for (x, y), loss in zip(batches(), losses, strict=True):
        (state,) = program(state, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(y))
        ours = state.window.compute()["loss"]
        assert ours == pytest.approx(loss, rel=1e-6)

    registry.update(model, state.params, state.stats)
    expected = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    compared = 0
    for target in torch_names.targets(model, "akamaster"):
        want = expected[target.name]
        difference = np.linalg.norm(target.to_torch() - want) / np.linalg.norm(want)
        assert difference < 1e-6, f"{target.name} differs by {difference:.1e}"
        assert np.linalg.norm(want - arrays[target.name]) > 0
        compared += 1
    assert compared == 19 + 4 * 19 + 2  # convolutions, four arrays of each norm, the head
