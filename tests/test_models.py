import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnet_jax.analysis.expected import PARAMETERS, PREACTIVATION_PARAMETERS
from resnet_jax.config import ModelConfig
from resnet_jax.errors import InputError
from resnet_jax.models import registry, shortcuts
from resnet_jax.models.blocks import Block
from resnet_jax.models.layers import BatchNorm, Numerics
from resnet_jax.models.parts import compose

FLOAT32 = Numerics(dtype=jnp.float32, axis_name=None, decay=0.9, epsilon=1e-5)


def build(channels=3, num_classes=10, **fields):
    return registry.build(ModelConfig(**fields), channels=channels, num_classes=num_classes)


def count(channels=3, num_classes=10, **fields):
    return registry.count_parameters(
        registry.functional(build(channels, num_classes, **fields)).params
    )


@pytest.mark.parametrize("depth", PARAMETERS)
@pytest.mark.parametrize("option", "ABC")
def test_a_resnet_has_exactly_the_papers_parameters(depth, option):
    assert count(depth=depth, shortcut=option) == PARAMETERS[depth]["ABC".index(option)]


@pytest.mark.parametrize("depth", PARAMETERS)
def test_a_plain_net_has_exactly_the_parameters_of_its_option_a_twin(depth):
    assert count(depth=depth, residual=False) == PARAMETERS[depth][0]


@pytest.mark.parametrize(("depth", "expected"), PREACTIVATION_PARAMETERS.items())
def test_a_preactivation_bottleneck_net_has_exactly_its_parameters(depth, expected):
    net = dict(block="bottleneck", activation_order="full_preactivation", shortcut="B")
    assert count(depth=depth, **net) == expected


def test_preactivation_110_moves_norms_without_adding_more_than_the_last():
    # BN of each unit normalises its input instead of its output: 16 instead of 32 channels in the
    # first unit of stage two, 32 instead of 64 in stage three's, and 64 more after the last unit.
    expected = 1_727_962 + 2 * (64 - 16 - 16 - 32)
    assert count(depth=110, activation_order="full_preactivation") == expected


def test_the_width_factor_multiplies_every_stage():
    net = build(depth=8, width=0.5)
    widths = [stage[0].convs[0].kernel.shape[-1] for stage in net.stages]
    assert widths == [8, 16, 32]


@pytest.mark.parametrize("image", [(8, 8, 1), (32, 32, 3), (33, 17, 4), (64, 64, 3)])
@pytest.mark.parametrize("order", ["original", "full_preactivation"])
def test_images_of_any_size_and_channels_are_classified_into_any_number_of_classes(image, order):
    net = build(image[-1], 7, depth=8, activation_order=order)
    logits = net(jnp.ones((2, *image)), train=False)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32


@pytest.mark.parametrize("option", "ABC")
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("order", ["original", "full_preactivation"])
@pytest.mark.parametrize("residual", [True, False])
def test_each_stage_halves_the_feature_map(option, block, order, residual):
    depth = {"basic": 8, "bottleneck": 11}[block]
    net = build(
        depth=depth, shortcut=option, block=block, activation_order=order, residual=residual
    )
    expansion = {"basic": 1, "bottleneck": 4}[block]
    features = compose(net.parts()[:-2], jnp.ones((1, 32, 32, 3)))
    assert features.shape == (1, 8, 8, 64 * expansion)


def zero_branch(block):
    for conv in block.convs:
        conv.kernel[...] = jnp.zeros_like(conv.kernel[...])
    return block


def make_block(in_width, width, stride, *, position=1, **fields):
    config = ModelConfig(**fields)
    return Block(
        config, in_width, width, stride, position=position, numerics=FLOAT32, rngs=nnx.Rngs(0)
    )


def images(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_block_whose_branch_is_zero_is_its_shortcut(block):
    x = images(2, 8, 8, 16)
    original = zero_branch(make_block(16, 16, 1, block=block))
    np.testing.assert_array_equal(original(x, train=False), nnx.relu(x))
    preactivated = make_block(16, 16, 1, block=block, activation_order="full_preactivation")
    np.testing.assert_array_equal(zero_branch(preactivated)(x, train=False), x)


def test_a_plain_block_whose_branch_is_zero_is_zero():
    plain = zero_branch(make_block(16, 16, 1, residual=False))
    np.testing.assert_array_equal(plain(images(2, 8, 8, 16), train=False), 0)


@pytest.mark.parametrize(("side", "old"), [("end", slice(0, 16)), ("both", slice(8, 24))])
def test_option_a_takes_every_second_pixel_and_pads_new_channels_with_zeros(side, old):
    x = images(2, 8, 8, 16)
    y = np.array(zero_branch(make_block(16, 32, 2, zero_padding=side))(x, train=False))
    np.testing.assert_array_equal(y[..., old], np.maximum(x[:, ::2, ::2], 0))
    y[..., old] = 0
    np.testing.assert_array_equal(y, 0)


def test_option_b_projects_only_where_the_shape_changes_and_c_everywhere():
    kinds = {
        option: [
            type(block.shortcut).__name__
            for stage in build(depth=14, shortcut=option).stages
            for block in stage
        ]
        for option in "ABC"
    }
    identity, pad, projection = "IdentityShortcut", "ZeroPadShortcut", "ProjectionShortcut"
    assert kinds["A"] == [identity, identity, pad, identity, pad, identity]
    assert kinds["B"] == [identity, identity, projection, identity, projection, identity]
    assert kinds["C"] == [projection] * 6


def test_a_bottleneck_strides_where_the_config_says():
    for place, strides in (("1x1", [2, 1, 1]), ("3x3", [1, 2, 1])):
        block = make_block(64, 128, 2, block="bottleneck", bottleneck_stride=place)
        assert [conv.strides for conv in block.convs] == strides


def test_the_first_preactivated_unit_leaves_its_activation_to_the_stem():
    net = build(depth=14, activation_order="full_preactivation")
    assert [len(block.norms) for stage in net.stages for block in stage] == [1, 2, 2, 2, 2, 2]
    assert net.final_norm is not None


def test_a_preactivated_unit_that_changes_shape_activates_before_the_paths_split():
    block = zero_branch(make_block(16, 32, 2, activation_order="full_preactivation"))
    x = images(2, 8, 8, 16)
    y = np.asarray(block(x, train=False))
    activated = np.maximum(x / np.sqrt(1 + 1e-5), 0)[:, ::2, ::2]
    np.testing.assert_allclose(y[..., :16], activated, rtol=1e-6)


def test_twins_start_from_the_same_weights():
    plain, residual = (
        registry.functional(build(depth=20, residual=kind)).params for kind in (False, True)
    )
    jax.tree.map(np.testing.assert_array_equal, plain, residual)


def test_convolutions_start_with_hes_deviation_and_norms_with_the_identity():
    params = registry.functional(build(depth=8)).params
    kernel = params["stages"][2][0]["convs"][1]["kernel"]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.02)
    np.testing.assert_array_equal(params["stages"][0][0]["norms"][1]["scale"], 1)


def test_batch_norm_follows_its_formula_and_keeps_the_unbiased_variance():
    x = np.random.RandomState(0).normal(3, 2, (4, 5, 5, 6)).astype(np.float32)
    norm = BatchNorm(6, FLOAT32)
    y = norm(jnp.asarray(x), train=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.variance[...], 0.9 + 0.1 * unbiased, rtol=1e-5)


def test_evaluation_uses_running_statistics_and_leaves_them_alone():
    net = registry.functional(build(depth=8))
    logits, stats = net.apply(net.params, net.stats, images(4, 32, 32, 3), False)
    jax.tree.map(np.testing.assert_array_equal, stats, net.stats)
    alone, _ = net.apply(net.params, net.stats, images(4, 32, 32, 3)[:1], False)
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [8, 20])
def test_frozen_batch_norm_is_scale_and_shift_alone_and_the_same_in_training(depth):
    net = registry.functional(build(depth=depth, batch_norm="frozen"))
    x = images(4, 32, 32, 3)
    logits, stats = net.apply(net.params, net.stats, x, True)
    jax.tree.map(np.testing.assert_array_equal, stats, net.stats)
    np.testing.assert_array_equal(logits, net.apply(net.params, net.stats, x, False)[0])
    assert registry.count_parameters(net.params) == registry.count_parameters(
        registry.functional(build(depth=depth)).params
    )


def test_frozen_batch_norm_normalises_with_the_statistics_that_it_was_given():
    norm = BatchNorm(2, dataclasses.replace(FLOAT32, frozen=True))
    norm.mean[...], norm.variance[...] = jnp.asarray([1.0, 2.0]), jnp.asarray([4.0, 9.0])
    y = norm(jnp.full((3, 1, 1, 2), 5.0), train=True)
    np.testing.assert_allclose(y[0, 0, 0], [2.0, 1.0], rtol=1e-4)  # (5 - 1) / 2, (5 - 2) / 3


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
    net = registry.functional(build(depth=8, dtype="bfloat16"))
    logits, stats = net.apply(net.params, net.stats, images(4, 32, 32, 3), True)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((net.params, stats))} == {jnp.dtype("float32")}
    full = registry.functional(build(depth=8))
    exact, _ = full.apply(net.params, net.stats, images(4, 32, 32, 3), True)
    np.testing.assert_allclose(logits, exact, atol=0.15)


def test_a_net_takes_back_the_values_that_were_split_off():
    model = build(depth=8)
    net = registry.functional(model)
    doubled = jax.tree.map(lambda x: 2 * x, net.params)
    registry.update(model, doubled, net.stats)
    jax.tree.map(np.testing.assert_array_equal, registry.functional(model).params, doubled)


def test_depths_of_no_family_are_refused_with_the_nearest_ones():
    with pytest.raises(InputError, match="got 21; the nearest are 20 and 26"):
        build(depth=21)
    with pytest.raises(InputError, match="9n . 2 with bottleneck blocks, got 44"):
        build(depth=44, block="bottleneck")


def test_an_unknown_shortcut_fails_when_the_net_is_built():
    config = dataclasses.replace(ModelConfig(), shortcut="D")
    with pytest.raises(ValueError, match="'A', 'B' or 'C', got 'D'"):
        shortcuts.shortcut(config, 16, 16, 1, FLOAT32, nnx.Rngs(0), normalized=True)
