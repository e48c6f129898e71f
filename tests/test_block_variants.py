"""He et al. 2016 (arXiv 1603.05027): the orders of Fig. 4 and the shortcuts of Fig. 2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnet_jax.config import ModelConfig, validate
from resnet_jax.data.order import TrainingOrder
from resnet_jax.models import registry, torch_names
from resnet_jax.models.blocks import ORDERS, Block
from resnet_jax.models.layers import Numerics
from resnet_jax.models.parts import compose
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import step
from resnet_jax.train.setup import Experiment
from tests.test_models import count, images
from tests.test_parallel import assert_close

FLOAT32 = Numerics(dtype=jnp.float32, axis_name=None, decay=0.9, epsilon=1e-5)
ANNEALED = {"shortcut_transform": "annealed_scaling", "shortcut_scale": 0.0}


def make_block(in_width=4, width=4, stride=1, *, position=1, **fields):
    config = ModelConfig(**fields)
    return Block(
        config, in_width, width, stride, position=position, numerics=FLOAT32, rngs=nnx.Rngs(0)
    )


def relu(x):
    return np.maximum(x, 0)


class Hand:
    """The same block in NumPy, on single pixels: a convolution then is its kernel's centre."""

    def __init__(self, block, seed=0):
        random = np.random.RandomState(seed)
        self.kernels, self.norms = [], []
        for conv in block.convs:
            conv.kernel[...] = jnp.asarray(random.normal(size=conv.kernel.shape), jnp.float32)
            side = conv.kernel.shape[0] // 2
            self.kernels.append(np.asarray(conv.kernel[...])[side, side])
        for norm in block.norms:
            values = [random.normal(size=norm.scale.shape) for _ in range(3)]
            values.append(random.uniform(0.5, 2, norm.scale.shape))
            names = (norm.scale, norm.bias, norm.mean, norm.variance)
            for variable, value in zip(names, values, strict=True):
                variable[...] = jnp.asarray(value, jnp.float32)
            self.norms.append(values)

    def bn(self, i, x):
        scale, bias, mean, variance = self.norms[i]
        return scale * (x - mean) / np.sqrt(variance + 1e-5) + bias

    def conv(self, i, x):
        return x @ self.kernels[i]

    def output(self, order, x, h):
        """H of a basic block, each order written out as Fig. 4 draws it; h is 0 in a plain net."""
        bn, conv = self.bn, self.conv
        if order == "original":  # 4a
            return relu(bn(1, conv(1, relu(bn(0, conv(0, x))))) + h)
        if order == "bn_after_addition":  # 4b
            return relu(bn(1, conv(1, relu(bn(0, conv(0, x)))) + h))
        if order == "relu_before_addition":  # 4c
            return relu(bn(1, conv(1, relu(bn(0, conv(0, x)))))) + h
        if order == "relu_only_preactivation":  # 4d
            return bn(1, conv(1, relu(bn(0, conv(0, relu(x)))))) + h
        assert order == "full_preactivation"  # 4e
        return conv(1, relu(bn(1, conv(0, relu(bn(0, x)))))) + h


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_block_computes_what_figure_4_draws(order, residual):
    block = make_block(activation_order=order, residual=residual)
    hand, x = Hand(block), images(5, 1, 1, 4)
    want = hand.output(order, np.asarray(x, float), np.asarray(x, float) if residual else 0)
    np.testing.assert_allclose(block(x, train=False), want, rtol=1e-4, atol=1e-5)


def test_a_bottleneck_whose_relu_is_before_the_addition_never_lowers_its_input():
    block = make_block(8, 8, block="bottleneck", activation_order="relu_before_addition")
    Hand(block)
    x = images(5, 4, 4, 8)
    rise = np.asarray(block(x, train=False) - x)
    assert rise.min() > -1e-5 and rise.max() > 0.1


@pytest.mark.parametrize(
    ("order", "stem_does"), [("relu_only_preactivation", relu), ("full_preactivation", None)]
)
def test_the_first_preactivated_block_leaves_its_activation_to_the_stem(order, stem_does):
    block = make_block(activation_order=order, position=0)
    hand, x = Hand(block), np.asarray(relu(images(5, 1, 1, 4)), float)  # as the stem leaves it
    if order == "full_preactivation":
        want = hand.conv(1, relu(hand.bn(0, hand.conv(0, x)))) + x
    else:
        want = hand.output(order, x, x)
    np.testing.assert_allclose(block(jnp.float32(x), train=False), want, rtol=1e-4, atol=1e-5)


def test_a_relu_only_block_that_changes_shape_activates_before_the_paths_split():
    block = make_block(4, 8, 2, activation_order="relu_only_preactivation")
    hand, x = Hand(block), images(5, 1, 1, 4)
    carried = np.pad(relu(np.asarray(x, float)), ((0, 0), (0, 0), (0, 0), (0, 4)))
    want = hand.output("relu_only_preactivation", np.asarray(x, float), carried)
    np.testing.assert_allclose(block(x, train=False), want, rtol=1e-4, atol=1e-5)


def test_a_projection_ends_in_bn_where_the_branch_does():
    normalized = {
        order: make_block(4, 8, 2, activation_order=order, shortcut="B").shortcut.norm is not None
        for order in ORDERS
    }
    assert normalized == {
        "original": True,
        "bn_after_addition": False,
        "relu_before_addition": True,
        "relu_only_preactivation": True,
        "full_preactivation": False,
    }


@pytest.mark.parametrize("order", ["relu_only_preactivation", "full_preactivation"])
def test_the_last_addition_of_a_preactivated_net_is_activated_as_a_next_block_would(order):
    net = registry.build(ModelConfig(depth=8, activation_order=order), channels=3, num_classes=10)
    last, seen = net.stages[-1][-1], {}
    net.stages[-1][-1] = lambda x, **more: seen.setdefault("x", last(x, **more))
    features = compose(net.parts()[:-2], images(4, 8, 8, 3))
    want = np.asarray(seen["x"]) / (np.sqrt(1 + 1e-5) if order == "full_preactivation" else 1)
    assert want.min() < 0
    np.testing.assert_allclose(features, relu(want), rtol=1e-6)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_all_orders_make_the_same_plain_net(block):
    # He 2016, Sec. 4.1: without additions "it does not matter whether we think of them as post- or
    # pre-activations".
    outputs = {}
    for order in ORDERS:
        config = ModelConfig(depth=20, block=block, activation_order=order, residual=False)
        net = registry.functional(registry.build(config, channels=3, num_classes=10))
        outputs[order], _ = net.apply(net.params, net.stats, images(4, 16, 16, 3), True)
    for order in ORDERS:
        np.testing.assert_array_equal(outputs[order], outputs["original"])


# Widths of the norms before ResNet-164's convolutions, less those after them: the first block of
# each stage reads 16, 64, 128 where it writes 64, 128, 256 channels; the stem does the very first
# one's 16; the last activation adds 256.
BEFORE_LESS_AFTER = (16 - 64) + (64 - 128) + (128 - 256) - 16 + 256


@pytest.mark.parametrize("order", ORDERS)
def test_orders_have_the_same_components(order):
    # Basic blocks: the norms' widths add up to the same wherever they stand.
    assert count(depth=110, activation_order=order) == 1_727_962
    # Bottlenecks: 1,703,258 is He 2016's net, with its norms before and none on projections.
    expected = 1_703_258
    if order != "full_preactivation":
        expected -= 2 * BEFORE_LESS_AFTER
        if order != "bn_after_addition":
            expected += 2 * (64 + 128 + 256)
    assert count(depth=164, block="bottleneck", shortcut="B", activation_order=order) == expected


def joined(x, **fields):
    """A block that does nothing after the addition, and its F(x) by hand."""
    block = make_block(activation_order="relu_before_addition", **fields)
    hand = Hand(block)
    branch = hand.output("relu_before_addition", np.asarray(x, float), 0)
    return block, branch


@pytest.mark.parametrize(("s", "b"), [(0.5, 1.0), (0.5, 0.5), (0.0, 0.5), (0.0, 1.0), (1.0, 1.0)])
def test_constant_scaling_scales_both_paths(s, b):
    x = images(5, 1, 1, 4)
    block, branch = joined(
        x, shortcut_transform="constant_scaling", shortcut_scale=s, branch_scale=b
    )
    want = b * branch + s * np.asarray(x)
    np.testing.assert_allclose(block(x, train=False), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("transform", "on_branch"), [("exclusive_gating", True), ("shortcut_only_gating", False)]
)
def test_gates_open_by_a_sigmoid_of_a_1x1_convolution(transform, on_branch):
    x = images(5, 1, 1, 4)
    block, branch = joined(x, shortcut_transform=transform, gate_bias=-1.5)
    gate_conv = block.addition.gate
    np.testing.assert_array_equal(gate_conv.bias[...], -1.5)
    score = np.asarray(x, float) @ np.asarray(gate_conv.kernel[0, 0], float) - 1.5
    gate = 1 / (1 + np.exp(-score))
    want = (gate if on_branch else 1) * branch + (1 - gate) * np.asarray(x)
    np.testing.assert_allclose(block(x, train=False), want, rtol=1e-4, atol=1e-5)


def test_a_gate_follows_its_block_where_that_changes_the_shape():
    block = make_block(4, 8, 2, shortcut_transform="exclusive_gating")
    assert block.addition.gate.kernel.shape == (1, 1, 4, 8)
    assert block(images(2, 6, 6, 4), train=False).shape == (2, 3, 3, 8)


@pytest.mark.parametrize("transform", ["exclusive_gating", "shortcut_only_gating"])
def test_a_gate_adds_a_1x1_convolution_with_bias_to_every_block(transform):
    # ResNet-110: 18 blocks a stage, the first of two and three widens.
    gates = sum(17 * (w * w + w) + (old * w + w) for old, w in ((16, 16), (16, 32), (32, 64)))
    assert count(depth=110, shortcut_transform=transform) == 1_727_962 + gates


@pytest.mark.parametrize("transform", ["constant_scaling", "annealed_scaling", "dropout"])
def test_the_other_transforms_add_no_parameters(transform):
    assert count(depth=20, shortcut_transform=transform) == 269_722


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def dropped(x, image_keys, *, rate=0.5, position=1, train=True):
    """The output where F is zero: dropout of x alone."""
    block = make_block(
        x.shape[-1],
        x.shape[-1],
        position=position,
        activation_order="full_preactivation",
        shortcut_transform="dropout",
        shortcut_dropout=rate,
    )
    for conv in block.convs:
        conv.kernel[...] = jnp.zeros_like(conv.kernel[...])
    return np.asarray(block(x, train=train, keys=image_keys))


def test_dropout_keeps_a_share_of_the_shortcut_and_its_expectation():
    x = jnp.ones((50, 8, 8, 16))
    for rate in (0.5, 0.2):
        y = dropped(x, keys(50), rate=rate)
        np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
        # 51,200 draws: a standard error of at most 0.005 in units of x.
        assert np.mean(y) == pytest.approx(1, abs=0.02)
        assert np.mean(y == 0) == pytest.approx(rate, abs=0.01)


def test_dropout_is_off_in_evaluation():
    x = images(3, 4, 4, 8)
    np.testing.assert_array_equal(dropped(x, None, train=False), x)
    config = ModelConfig(depth=8, shortcut_transform="dropout")
    net = registry.functional(registry.build(config, channels=3, num_classes=10))
    same = registry.functional(registry.build(ModelConfig(depth=8), channels=3, num_classes=10))
    x = images(2, 8, 8, 3)
    for given in (None, keys(2)):
        logits, _ = net.apply(net.params, net.stats, x, False, keys=given)
        np.testing.assert_array_equal(logits, same.apply(same.params, same.stats, x, False)[0])


def test_each_image_and_each_block_has_a_mask_of_its_own_that_depends_on_its_key_alone():
    x = jnp.ones((4, 8, 8, 16))
    y = dropped(x, keys(4))
    assert len({image.tobytes() for image in y}) == 4
    assert not np.array_equal(y, dropped(x, keys(4), position=2))
    np.testing.assert_array_equal(y, dropped(x, keys(4)))
    np.testing.assert_array_equal(y[2:3], dropped(x[2:3], keys(4)[2:3]))


def test_dropout_keys_are_those_of_the_step_and_the_example_but_not_of_the_augmentation():
    key, examples = jax.random.key(3), jnp.array([7, 5, 11])
    got = jax.random.key_data(step.dropout_keys(key, examples))
    alone = jax.random.key_data(step.dropout_keys(key, examples[1:2]))
    np.testing.assert_array_equal(got[1:2], alone)
    other_step = jax.random.key_data(step.dropout_keys(jax.random.key(4), examples))
    augmentation = jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, examples))
    for others in (other_step, augmentation):
        assert not (got == others).all(-1).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"shortcut_transform": "dropout"}, "a key for each image"), (ANNEALED, "progress")],
)
def test_training_without_what_the_net_needs_fails(fields, message):
    net = registry.build(ModelConfig(depth=8, **fields), channels=3, num_classes=10)
    with pytest.raises(ValueError, match=message):
        net(images(2, 8, 8, 3), train=True)


def run(model, *, devices=1, steps=4, dtype="float32", per_call=1, mapping="shard_map"):
    """Trains a small net and gives the states before the first and after each call."""
    config = validate(
        {
            "model": {"depth": 8, "dtype": dtype, "width": 0.25, **model},
            "data": {
                "name": "synthetic",
                "synthetic": {"image_size": 8, "examples": 100},
                "crop_padding": 1,
            },
            "optimizer": {"schedule": "constant"},
            "train": {"batch_size": 16, "steps": steps},
            "parallel": {"devices": devices, "mapping": mapping},
            "log": {"interval": per_call},
        }
    )
    experiment = Experiment.prepare(config)
    order = TrainingOrder(experiment.feed.sizes["train"], 16, seed=0)
    state, states = experiment.devices.replicate(experiment.state), [experiment.state]
    for first in range(0, steps, per_call):
        batches = order.batches(first, per_call)
        (state,) = experiment.train_program(state, experiment.arrays, batches)
        states.append(jax.device_get(experiment.devices.single_copy(state)))
    return states


DROPOUT = {"shortcut_transform": "dropout"}


def test_strength_0_is_the_plain_net_and_1_the_residual_net_bit_for_bit():
    plain, *between, residual = (
        run({"shortcut_transform": "constant_scaling", "shortcut_scale": s})[-1]
        for s in (0, 0.5, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, run({"residual": False})[-1])
    jax.tree.map(np.testing.assert_array_equal, residual, run({})[-1])
    losses = {float(state.window.metrics.loss.total) for state in (plain, *between, residual)}
    assert len(losses) == 3


def test_strength_0_has_no_projections_either():
    scaled_away = {"shortcut_transform": "constant_scaling", "shortcut_scale": 0.0}
    assert count(depth=20, shortcut="C", **scaled_away) == 269_722


@pytest.mark.parametrize(
    ("start", "end", "per_call"), [(0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 0.0, 3), (0.25, 0.5, 3)]
)
def test_an_annealed_strength_moves_evenly_from_start_to_end_in_one_compilation(
    start, end, per_call, monkeypatch
):
    traced = []
    compile_program = DeviceMap.compile

    def counting(self, function, **axes):
        def counted(*arguments):
            traced.append(function)
            return function(*arguments)

        return compile_program(self, counted, **axes)

    monkeypatch.setattr(DeviceMap, "compile", counting)
    annealed = {**ANNEALED, "shortcut_scale": start, "shortcut_scale_end": end}
    initial, *got = (
        float(state.stats["shortcut_scale"]) for state in run(annealed, steps=6, per_call=per_call)
    )
    assert initial == start
    planned = np.linspace(start, end, 6)[per_call - 1 :: per_call]
    np.testing.assert_allclose(got, planned, rtol=1e-6)
    assert got[-1] == end
    assert len(traced) == 1


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_an_annealed_net_is_the_fixed_one_of_its_present_strength_also_in_evaluation(progress):
    def net(**fields):
        config = ModelConfig(depth=8, width=0.25, **fields)
        return registry.functional(registry.build(config, channels=3, num_classes=10))

    x = images(4, 8, 8, 3)
    fixed = net(shortcut_transform="constant_scaling", shortcut_scale=progress)
    want, want_stats = fixed.apply(fixed.params, fixed.stats, x, True)
    moving = net(**ANNEALED)
    got, stats = moving.apply(moving.params, moving.stats, x, True, progress=jnp.float32(progress))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    later, kept = moving.apply(moving.params, stats, x, False)
    np.testing.assert_allclose(
        later, fixed.apply(fixed.params, want_stats, x, False)[0], rtol=1e-6, atol=1e-6
    )
    assert stats["shortcut_scale"] == kept["shortcut_scale"] == progress


@pytest.mark.parametrize("model", [DROPOUT, ANNEALED], ids=["dropout", "annealed"])
def test_variants_do_not_depend_on_the_number_of_devices(model, float64):
    want = run(model, dtype="float64")[-1]
    for mapping in ("shard_map", "pmap"):
        got = run(model, dtype="float64", devices=8, mapping=mapping)[-1]
        assert_close((got.params, got.stats), (want.params, want.stats), 1e-6)


def test_the_same_seed_and_step_drop_the_same_values_however_steps_are_called(float64):
    once, again, together = (
        run(DROPOUT, dtype="float64", per_call=per_call)[-1] for per_call in (1, 1, 4)
    )
    jax.tree.map(np.testing.assert_array_equal, once, again)
    assert_close(together.params, once.params, 1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_every_array_of_a_gated_net_of_any_order_has_a_name_in_pytorchs_manner(order):
    gated = {"shortcut_transform": "exclusive_gating", "shortcut": "B"}
    config = ModelConfig(depth=14, activation_order=order, **gated)
    model = registry.build(config, channels=3, num_classes=10)
    net, targets = registry.functional(model), list(torch_names.targets(model, "akamaster"))
    sizes = [registry.count_parameters(tree) for tree in (net.params, net.stats)]
    assert sum(target.variable.size for target in targets) == sum(sizes)
    assert len({target.name for target in targets}) == len(targets)
