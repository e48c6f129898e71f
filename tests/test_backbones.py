"""MobileNetV3 and Swin Transformers: what they cost, are made of, and make of images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnet_jax.analysis import complexity as costs
from resnet_jax.analysis import expected
from resnet_jax.errors import InputError
from resnet_jax.models import complexity, registry
from resnet_jax.models.layers import LayerNorm, Numerics
from resnet_jax.models.mobilenet_v3 import ROWS, MobileNetV3, divisible
from resnet_jax.models.parts import HEAD, POOLING, compose
from resnet_jax.models.repeated import Repetition
from resnet_jax.models.swin import STOCHASTIC_DEPTH, Merging, Swin
from resnet_jax.models.windows import relative_positions, shift_mask, window_attention
from tests.nets import build, mobilenet_v3, swin
from tests.test_imagenet_nets import cost, drawn

SMALL = {
    "MobileNetV3-Large": mobilenet_v3("large", width=1 / 4),
    "MobileNetV3-Small": mobilenet_v3("small", width=1 / 4),
    "Swin-T": swin("tiny", width=1 / 12),
}


def images(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).normal(size=shape), jnp.float32)


def of_values(net, run):
    """`run(net, x)` as a function of the net's values and x, which can be traced."""
    graphdef, state = nnx.split(net)
    return functools.partial(lambda s, x: run(nnx.merge(graphdef, s, copy=True), x), state)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


# Parameters and billions of multiply-adds at 224x224, as torchvision 0.28 states them.
TORCHVISION = {
    "MobileNetV3-Large": (mobilenet_v3("large"), 5_483_032, 0.217),
    "MobileNetV3-Small": (mobilenet_v3("small"), 2_542_856, 0.057),
    "Swin-T": (swin("tiny"), 28_288_354, 4.491),
    "Swin-S": (swin("small"), 49_606_258, 8.741),
    "Swin-B": (swin("base"), 87_768_224, 15.431),
}
# Howard et al. 2019, Table 3: millions; Liu et al. 2021, Table 1: billions.
PAPERS = {
    "MobileNetV3-Large": 0.219,
    "MobileNetV3-Small": 0.056,
    "Swin-T": 4.5,
    "Swin-S": 8.7,
    "Swin-B": 15.4,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_net_costs_what_torchvisions_and_the_papers_do(name):
    config, parameters, billions = TORCHVISION[name]
    found, count = cost(config)
    assert (found, round(count / 1e9, 3)) == (parameters, billions)
    assert count / 1e9 == pytest.approx(PAPERS[name], rel=0.02)
    # Liu et al. round 28.3 million up, to 29.
    printed = expected.printed_parameters(config, 3, 1000).removesuffix("M")
    assert float(printed) == pytest.approx(parameters / 1e6, rel=0.03)
    assert config.net == name == costs.name(config)


def test_the_command_lists_the_nets_with_variants_among_the_published_ones():
    names = [costs.name(config) for config in costs.family("imagenet")]
    assert names[-5:] == list(TORCHVISION)
    assert costs.name(SMALL["Swin-T"]) == "Swin-T, width 0.0833333"
    half = dataclasses.replace(SMALL["MobileNetV3-Small"], batch_norm="frozen", width=0.5)
    assert costs.name(half) == "MobileNetV3-Small, without BN, width 0.5"


PARTS = {
    "MobileNetV3-Large": {
        "stem": (32, 24, 8),
        "stage 1": (32, 24, 8),
        "stage 2": (16, 12, 8),
        "stage 3": (8, 6, 16),
        "stage 4": (4, 3, 32),
        "stage 5": (2, 2, 40),
        "final convolution": (2, 2, 240),
        "global average pooling": (240,),
        "hidden layer 1": (320,),
        "head": (7,),
    },
    "MobileNetV3-Small": {
        "stem": (32, 24, 8),
        "stage 1": (16, 12, 8),
        "stage 2": (8, 6, 8),
        "stage 3": (4, 3, 16),
        "stage 4": (2, 2, 24),
        "final convolution": (2, 2, 144),
        "global average pooling": (144,),
        "hidden layer 1": (256,),
        "head": (7,),
    },
    "Swin-T": {
        "stem": (16, 12, 8),
        "stage 1": (16, 12, 8),
        "stage 2": (8, 6, 16),
        "stage 3": (4, 3, 32),
        "stage 4": (2, 2, 64),
        "final norm": (2, 2, 64),
        "global average pooling": (64,),
        "head": (7,),
    },
}


@pytest.mark.parametrize("name", SMALL)
def test_the_parts_of_a_net_are_its_forward_pass(name):
    net = build(SMALL[name])
    found = complexity.of_parts(net, (64, 48, 3))
    assert {part.name: part.shape for part in found} == PARTS[name]
    shape, keys = (2, 64, 48, 3), keys_of(2)

    def program(run):
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        return str(jax.make_jaxpr(of_values(net, run))(image))

    whole = program(lambda net, x: net(x, train=False))
    assert program(lambda net, x: compose(net.parts(), x)) == whole
    assert program(lambda net, x: compose(net.parts(blocks=True), x)) == whole
    trained = program(lambda net, x: net(x, train=True, keys=keys))
    assert program(lambda net, x: compose(net.parts(train=True, keys=keys), x)) == trained
    assert trained != whole
    # Keys are of no matter in evaluation.
    assert program(lambda net, x: net(x, train=False, keys=keys)) == whole
    names = [part.name for part in net.parts(blocks=True)]
    assert f"stage 3, block {len(net.stages[2])}" in names
    assert len(names) == len(PARTS[name]) + sum(len(stage) - 1 for stage in net.stages)
    # What comes to the head is one vector an image.
    assert names[-1] == HEAD and POOLING in names and len(found[-2].shape) == 1


@pytest.mark.parametrize("name", SMALL)
def test_a_parameters_place_says_which_part_it_belongs_to(name):
    net = build(SMALL[name])
    belong = {part: 0 for part in PARTS[name]}
    finals = "final norm" if name == "Swin-T" else "final convolution"
    for path, leaf in nnx.to_flat_state(nnx.state(net, nnx.Param)):
        first, second = path[0], path[1]
        part = {"stages": "stage", "hidden": "hidden layer", "head": HEAD}.get(first)
        if part in ("stage", "hidden layer"):
            part = f"{part} {second + 1}"
        elif part is None:
            part = "stem" if first.startswith("stem") else finals
            assert first.startswith(("stem_", "final_"))
        belong[part] += leaf[...].size
    found = {c.name: c.parameters for c in complexity.of_parts(net, (64, 48, 3))}
    assert found == belong


@pytest.mark.parametrize("name", SMALL)
def test_training_needs_a_key_for_each_image(name):
    net = build(SMALL[name])
    with pytest.raises(ValueError, match="a key for each image"):
        net(images(1, 32, 32, 3), train=True)
    with pytest.raises(ValueError, match="a key for each image"):
        net.parts(train=True)


@pytest.mark.parametrize("name", SMALL)
def test_blocks_are_no_loop_but_may_be_computed_again(name):
    config = SMALL[name]
    with pytest.raises(ValueError, match="are not alike"):
        registry.build(config, channels=3, num_classes=7, repetition=Repetition(loop=True))
    model, keys, found = build(config), keys_of(2), []
    width = complexity.of_parts(model, (32, 32, 3))[len(model.stages) - 1].shape[-1]
    x = images(2, 4, 4, width)
    for recompute in (False, True):
        model.repetition = Repetition(recompute=recompute)

        def total(net, x):
            last = net.parts(train=True, keys=keys)[len(net.stages)]
            return (last.run(x) ** 2).sum()

        gradient = jax.grad(of_values(model, total))
        found.append(jax.jit(gradient)(x))
        assert ("remat" in str(jax.make_jaxpr(gradient)(x))) == recompute
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4 * np.abs(found[0]).max())
    model.repetition = Repetition()
    kept = complexity.activation_bytes(model, (32, 32, 3), batch=4)
    assert complexity.activation_bytes(model, (32, 32, 3), batch=4, recompute=True) < kept / 2


@pytest.mark.parametrize("name", SMALL)
def test_images_of_any_size_and_number_of_channels_are_classified(name):
    net = build(SMALL[name], channels=1)
    for shape in ((33, 49, 1), (4, 7, 1), (8, 8, 1)):
        image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        logits = jax.eval_shape(of_values(net, lambda net, x: net(x, train=False)), image)
        assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_in_bfloat16_parameters_statistics_and_logits_are_in_float32(name):
    net = registry.functional(build(dataclasses.replace(SMALL[name], dtype="bfloat16")))
    x, keys = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), keys_of(2)

    def trained(params, stats, x):
        return net.apply(params, stats, x, True, keys=keys)

    logits, stats = jax.eval_shape(trained, net.params, net.stats, x)
    assert {x.dtype for x in jax.tree.leaves((net.params, stats, logits))} == {jnp.dtype("float32")}
    inner = str(jax.make_jaxpr(trained)(net.params, net.stats, x))
    assert "bf16[2,16,16,8]" in inner or "bf16[2,8,8,8]" in inner


def test_all_are_built_as_what_they_are():
    net = build(SMALL["Swin-T"])
    assert isinstance(net, Swin) and isinstance(build(SMALL["MobileNetV3-Small"]), MobileNetV3)
    with pytest.raises(InputError, match="'swin' has no blocks to be checked or taken apart"):
        registry.of_blocks(net)
    with pytest.raises(InputError, match="'mobilenet_v3' has no blocks to be checked"):
        registry.of_blocks(build(SMALL["MobileNetV3-Small"]))


@pytest.mark.parametrize("name", SMALL)
def test_kernels_alone_are_decayed_where_norms_and_biases_are_not(name):
    # `train.optimizer` tells them by name.
    params = registry.functional(build(SMALL[name])).params
    others = {"bias", "scale"} | ({"position_bias"} if name == "Swin-T" else set())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        called = path[-1].key
        assert called in ("kernel", *others)
        assert (called == "kernel") == (leaf.ndim > 1 and called != "position_bias")


def test_a_mobilenets_receptive_field_is_that_of_its_convolutions_until_it_squeezes():
    net = build(SMALL["MobileNetV3-Large"])
    found = {part.name: part for part in complexity.of_parts(net, (512, 512, 3))}
    # 3; 3 + 2 * 2; then 3x3 with stride 2 on jumps of 2, and 3x3 on jumps of 4.
    fields = [found[name].receptive_field for name in ("stem", "stage 1", "stage 2")]
    assert fields == [(3, 3), (7, 7), (19, 19)]
    assert not found["stage 2"].sees_all and found["stage 3"].sees_all


def seen_from(net, part_names, row, column, side):
    """The extent (rows, columns) of image pixels that move one pixel of a part's output."""
    parts = [part for part in net.parts() if part.name in part_names]

    def value(x):
        return (compose(parts, x)[0, row, column] * jnp.arange(1.0, 9.0)).sum()

    gradient = np.abs(jax.grad(value)(images(1, side, side, 3))).sum((0, 3))
    return [int(np.ptp(np.flatnonzero(gradient.sum(axis)))) + 1 for axis in (1, 0)]


def test_a_swin_transformers_receptive_field_bounds_what_a_pixel_sees():
    net = build(SMALL["Swin-T"])
    for stage in net.stages:
        for block in stage:
            table = block.attention.position_bias
            table[...] = jnp.asarray(np.random.RandomState(0).normal(size=table.shape), jnp.float32)
    side, names = 120, ("stem", "stage 1")
    found = {part.name: part for part in complexity.of_parts(net, (side, side, 3))}
    assert found["stem"].receptive_field == (4, 4)
    # Six pixels of four to either side in each of two blocks, whatever a pixel's place in windows.
    assert found["stage 1"].receptive_field == (100, 100) and not found["stage 1"].sees_all
    extents = [seen_from(net, names, i, i, side) for i in (0, 6, 7, 10, 15, 29)]
    # Windows of 7, moved by 3: a pixel within sees two of them, 13 or 14 pixels of the map.
    assert max(extents)[0] == 4 * 14 and all(max(extent) <= 100 for extent in extents)
    assert all(isinstance(size, int) for part in found.values() for size in part.receptive_field)


def test_one_window_that_has_the_whole_map_sees_the_whole_image():
    net = build(SMALL["Swin-T"])
    small = {part.name: part for part in complexity.of_parts(net, (28, 224, 3))}
    assert small["stage 1"].receptive_field == (28, 100)
    assert small["stage 4"].receptive_field == (28, 224) and small["stage 4"].sees_all


def test_widths_are_multiples_of_8_and_not_a_tenth_too_small():
    # By hand, from Howard et al. 2019's published code: 16 * 0.25 = 4 and so on.
    widths = {4: 8, 8: 8, 11: 16, 12: 16, 18: 24, 20: 24, 30: 32, 44: 48, 60: 64, 66.5: 64, 76: 80}
    assert {width: divisible(width) for width in widths} == widths
    squeezed = [divisible(row.expanded // 4) for row in ROWS["large"] if row.squeezed]
    assert squeezed == [24, 32, 32, 120, 168, 168, 240, 240]


def test_squeeze_and_excitation_shortcuts_and_expansions_are_where_the_tables_have_them():
    net = build(mobilenet_v3("small", width=1 / 4))
    blocks = [block for stage in net.stages for block in stage]
    assert [block.squeeze is not None for block in blocks] == [True, False, False] + [True] * 8
    assert blocks[0].expansion is None and all(block.expansion for block in blocks[1:])
    net = build(mobilenet_v3("large", width=1 / 2))
    blocks = [block for stage in net.stages for block in stage]
    shortcuts = [i for i, block in enumerate(blocks) if block.has_shortcut]
    assert shortcuts == [0, 2, 4, 5, 7, 8, 9, 11, 13, 14]


def test_dropout_before_the_head_leaves_four_fifths_of_the_units():
    net = build(SMALL["MobileNetV3-Large"])
    hidden = {part.name: part for part in net.parts(train=True, keys=keys_of(8))}["hidden layer 1"]
    plain = {part.name: part for part in net.parts()}["hidden layer 1"]
    layer = net.hidden[0]
    layer.bias[...] = jnp.full(layer.bias.shape, 3.0)
    x = jnp.zeros((8, layer.in_features))
    np.testing.assert_array_equal(plain.run(x), 3)
    dropped = np.asarray(hidden.run(x))
    np.testing.assert_allclose(np.unique(dropped), [0, 3.75])
    assert abs((dropped > 0).mean() - 0.8) < 0.03


def test_a_mobilenet_starts_as_torchvisions():
    net = drawn(mobilenet_v3("small", width=1 / 2))
    # He-normal by fan out; of a depthwise convolution PyTorch counts all channels.
    last = net.stages[3][2]
    for conv in (last.depthwise.conv, last.projection.conv, last.squeeze.expand):
        side, _, _, out = conv.kernel.shape
        deviation = (2 / (side**2 * out)) ** 0.5
        np.testing.assert_allclose(np.std(conv.kernel[...]), deviation, rtol=0.1)
    for layer in (net.hidden[0], net.head):
        np.testing.assert_allclose(np.std(layer.kernel[...]), 0.01, rtol=0.1)
        np.testing.assert_array_equal(layer.bias[...], 0)
    np.testing.assert_array_equal(last.projection.norm.scale[...], 1)


def test_positions_in_a_window_are_numbered_by_their_differences():
    table = relative_positions()
    assert table.shape == (49, 49) and set(table.ravel()) == set(range(169))
    # From row 2, column 5 to row 6, column 1: differences of -4 and 4.
    assert table[2 * 7 + 5, 6 * 7 + 1] == (-4 + 6) * 13 + (4 + 6)
    np.testing.assert_array_equal(np.diag(table), 84)


def test_pixels_that_the_shift_has_made_neighbours_are_kept_apart():
    mask = shift_mask(14, 7, (3, 0))
    assert mask.shape == (2, 49, 49)
    np.testing.assert_array_equal(mask[0], 0)
    rows = np.arange(49) // 7
    # The last window: four rows of the map's bottom, and three that were carried over.
    apart = (rows[:, None] >= 4) != (rows >= 4)
    np.testing.assert_array_equal(mask[1], np.where(apart, -100, 0))


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (3, 3)])
def test_window_attention_is_that_of_each_window_by_itself(shift):
    random = np.random.RandomState(0)
    heads, channels, (height, width) = 2, 6, (14, 21)
    qkv = random.normal(size=(2, height, width, 3 * channels)).astype(np.float32)
    bias = random.normal(size=(heads, 49, 49)).astype(np.float32)
    found = window_attention(jnp.asarray(qkv), jnp.asarray(bias), shift)
    # A pixel of the moved grid's window, among those of the window that lie in the map.
    for row, column in ((0, 0), (6, 13), (13, 20), (2, 17), (9, 4)):
        top, left = ((i - s) // 7 * 7 + s for i, s in zip((row, column), shift, strict=True))
        place = (row - top) * 7 + column - left
        inside = [
            (r, c, (r - top) * 7 + c - left)
            for r in range(max(top, 0), min(top + 7, height))
            for c in range(max(left, 0), min(left + 7, width))
        ]
        for head in range(heads):
            part = slice(head * 3, head * 3 + 3)
            q, k, v = np.split(qkv[1], 3, -1)
            logits = [
                q[row, column, part] @ k[r, c, part] / 3**0.5 + bias[head, place, other]
                for r, c, other in inside
            ]
            weights = np.exp(logits) / np.exp(logits).sum()
            want = sum(w * v[r, c, part] for w, (r, c, _) in zip(weights, inside, strict=True))
            np.testing.assert_allclose(found[1, row, column, part], want, rtol=1e-4, atol=1e-5)


def test_every_second_block_is_shifted_and_first_ones_merge():
    net = build(swin("tiny", width=1 / 12))
    for number, stage in enumerate(net.stages):
        assert [block.attention.shifted for block in stage] == [False, True] * (len(stage) // 2)
        merging = [block.merging is not None for block in stage]
        assert merging == [number > 0] + [False] * (len(stage) - 1)
    heads = [stage[0].attention.position_bias.shape[1] for stage in net.stages]
    assert heads == [1, 2, 4, 8]
    shapes = nnx.eval_shape(lambda: registry.build(swin("base"), channels=3, num_classes=7))
    heads = [stage[0].attention.position_bias.shape for stage in shapes.stages]
    assert heads == [(169, 4), (169, 8), (169, 16), (169, 32)]


def test_merging_reads_two_by_two_pixels_down_before_right():
    numerics = Numerics(dtype=jnp.float32, axis_name=None, decay=0.9, epsilon=1e-5)
    merging = Merging(1, numerics, nnx.Rngs(0))
    merging.norm = lambda x: x
    merging.reduction = lambda x: x
    x = jnp.arange(6.0).reshape(1, 3, 2, 1)
    np.testing.assert_array_equal(merging(x)[0, :, 0], [[0, 2, 1, 3], [4, 0, 5, 0]])


def test_layer_norm_of_bfloat16_is_computed_in_float32():
    numerics = Numerics(dtype=jnp.bfloat16, axis_name=None, decay=0.9, epsilon=1e-5)
    layer = LayerNorm(64, numerics)
    x = (images(3, 64) + 100).astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    found = layer(x)
    assert found.dtype == jnp.bfloat16 and layer.scale[...].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(found, np.float64), want, rtol=0.005, atol=0.005)


@pytest.mark.parametrize("variant", STOCHASTIC_DEPTH)
def test_branches_are_dropped_at_a_rate_that_grows_evenly_with_depth(variant):
    net = nnx.eval_shape(lambda: registry.build(swin(variant), channels=3, num_classes=7))
    rates = [block.rate for stage in net.stages for block in stage]
    last = {"tiny": 0.2, "small": 0.3, "base": 0.5}[variant]
    assert rates[0] == 0 and rates[-1] == pytest.approx(last)
    np.testing.assert_allclose(np.diff(rates), last / (len(rates) - 1))
    positions = [block.position for stage in net.stages for block in stage]
    assert positions == list(range(len(rates)))


def test_a_dropped_branch_is_dropped_of_the_whole_image_and_others_are_made_larger():
    net = build(SMALL["Swin-T"])
    block = net.stages[3][1]
    block.attention.output.kernel[...] = jnp.zeros_like(block.attention.output.kernel[...])
    block.mlp_hidden.kernel[...] = jnp.zeros_like(block.mlp_hidden.kernel[...])
    attention, mlp = block.attention.output.bias, block.mlp_output.bias
    attention[...], mlp[...] = jnp.full_like(attention[...], 1.0), jnp.full_like(mlp[...], 8.0)
    x = jnp.zeros((400, 2, 2, 64))
    y = np.asarray(block(x, train=True, keys=keys_of(400)))
    assert (y == y[:, :1, :1, :1]).all()
    values, counts = np.unique(y[:, 0, 0, 0], return_counts=True)
    np.testing.assert_allclose(values, [0, 1.25, 10, 11.25])
    # Each branch by itself: 4 %, 16 %, 16 % and 64 % of the images, within three deviations.
    np.testing.assert_allclose(counts / 400, [0.04, 0.16, 0.16, 0.64], atol=0.075)
    np.testing.assert_array_equal(block(x[:1], train=False), 9)
    np.testing.assert_array_equal(block(x[:1], train=False, keys=keys_of(1)), 9)


def test_a_swin_transformer_starts_as_the_published_code():
    net = drawn(swin("tiny", width=1 / 3))
    block = net.stages[2][1]
    drawn_arrays = [block.attention.qkv.kernel, block.attention.position_bias, net.head.kernel]
    for array in (
        *drawn_arrays,
        block.mlp_hidden.kernel,
        net.stages[1][0].merging.reduction.kernel,
    ):
        np.testing.assert_allclose(np.std(array[...]), 0.02, rtol=0.1)
    np.testing.assert_array_equal(block.mlp_hidden.bias[...], 0)
    # PyTorch's default for convolutions: uniform within 1 / sqrt(fan in), biases too.
    for array in (net.stem_conv.kernel[...], net.stem_conv.bias[...]):
        assert np.abs(array).max() <= 48**-0.5
        np.testing.assert_allclose(np.std(array), 48**-0.5 / 3**0.5, rtol=0.2)
