import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import ModelConfig, OptimizerConfig, ParallelConfig
from resnet_jax.models import registry, torch_names, torch_weights
from resnet_jax.parallel import AXIS, DeviceMap
from resnet_jax.train import optimizer, step
from resnet_jax.train.state import TrainState
from tests import nets

torch = pytest.importorskip("torch")
torch_reference = pytest.importorskip("tests.torch_reference")


def batches(steps, size, side):
    random = np.random.RandomState(0)
    for _ in range(steps):
        yield random.normal(size=(size, 3, side, side)), random.randint(0, 10, size)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
def test_ten_sgd_steps_in_double_precision_equal_pytorchs(residual, float64):
    # In float32 not even PyTorch agrees with its own float64 run: the start of training is chaotic.
    theirs = torch_reference.CifarNet(20, residual)
    config = ModelConfig(depth=20, residual=residual, dtype="float64")
    compared = compare_steps(theirs, config, "akamaster", list(batches(10, 32, 16)))
    assert compared == 19 + 4 * 19 + 2  # convolutions, four arrays of each norm, the head


def test_sgd_steps_of_an_imagenet_net_equal_pytorchs(float64):
    # Through a max-pool, whose gradient goes to one pixel of nine.
    theirs = torch_reference.ImageNetNet(18, first_width=4, classes=10)
    config = nets.resnet(18, shortcut="B", width=1 / 16, dtype="float64")
    compared = compare_steps(theirs, config, "torchvision", list(batches(2, 4, 32)))
    layers = 1 + 16 + 3  # the stem's, the blocks', the projections'
    assert compared == 5 * layers + 2


def compare_steps(theirs, config, naming, batches):
    """Makes the same steps with both nets, and compares losses and all arrays.

    Returns:
        How many arrays.
    """
    recipe = dict(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    theirs = torch_reference.initialise(theirs, seed=0).double()
    model = nets.build(config, num_classes=10, axis_name=AXIS)
    arrays = {name: tensor.numpy().copy() for name, tensor in theirs.state_dict().items()}
    assert torch_weights.assign(model, arrays) == ([], [])

    losses = torch_reference.sgd_steps(theirs, batches, **recipe)

    net = registry.functional(model)
    tx = optimizer.build(OptimizerConfig(schedule="constant", **recipe), len(batches))
    state = TrainState.create(net.params, net.stats, tx.init(net.params))

    def one_step(state, images, labels):
        return (step.train_step(state, images, labels, apply=net.apply, tx=tx),)

    program = DeviceMap(ParallelConfig(devices=1)).compile(
        one_step, inputs=(None, 0, 0), outputs=(None,)
    )
    for (x, y), loss in zip(batches, losses, strict=True):
        (state,) = program(state, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(y))
        ours = state.window.compute()["loss"]
        assert ours == pytest.approx(loss, rel=1e-6)

    registry.update(model, state.params, state.stats)
    expected = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    compared = 0
    for target in torch_names.targets(model, naming):
        want = expected[target.name]
        difference = np.linalg.norm(target.to_torch() - want) / np.linalg.norm(want)
        assert difference < 1e-6, f"{target.name} differs by {difference:.1e}"
        assert np.linalg.norm(want - arrays[target.name]) > 0
        compared += 1
    return compared
