"""The ResNets and VGG nets for ImageNet: what they cost, and what they make of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnet_jax.analysis import expected
from resnet_jax.errors import InputError
from resnet_jax.models import complexity, registry
from resnet_jax.models.layers import Numerics, dropout, fully_connected, max_pool
from resnet_jax.models.repeated import Repetition
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.vgg import average_pool
from tests.nets import build, resnet, vgg

# torchvision's own figures: parameters and billions of multiply-adds at 224x224. Its bottlenecks
# stride in the 3x3 convolution, and its shortcuts are of option B.
TORCHVISION = {
    18: (11_689_512, 1.814),
    34: (21_797_672, 3.664),
    50: (25_557_032, 4.089),
    101: (44_549_160, 7.801),
    152: (60_192_808, 11.514),
}
TORCHVISION_VGG = {
    (11, False): (132_863_336, 7.609),
    (13, False): (133_047_848, 11.308),
    (16, False): (138_357_544, 15.470),
    (19, False): (143_667_240, 19.632),
    (11, True): (132_868_840, 7.609),
    (13, True): (133_053_736, 11.308),
    (16, True): (138_365_992, 15.470),
    (19, True): (143_678_248, 19.632),
}
# Simonyan and Zisserman 2015, Table 2: millions of parameters.
PAPER_VGG = {11: 133, 13: 133, 16: 138, 19: 144}


def cost(config, *, num_classes=1000, image=(224, 224, 3)):
    """(parameters, multiply-adds), without drawing weights."""
    apply = []

    def values():
        model = registry.build(config, channels=3, num_classes=num_classes)
        net = registry.functional(model)
        apply.append(net.apply)
        return net.params, net.stats

    params, stats = jax.eval_shape(values)
    count = complexity.multiply_adds(apply[0], params, stats, (1, *image))
    return registry.count_parameters(params), count


def drawn(config):
    """With the initial weights of a run, but from another stream, for threefry compiles slowly."""
    with jax.default_prng_impl("rbg"):
        return registry.build(config, channels=3, num_classes=7)


@pytest.mark.parametrize("depth", TORCHVISION)
def test_a_resnet_costs_what_torchvisions_does(depth):
    parameters, count = cost(resnet(depth, shortcut="B", bottleneck_stride="3x3"))
    assert (parameters, round(count / 1e9, 3)) == TORCHVISION[depth]


@pytest.mark.parametrize(("depth", "normalized"), TORCHVISION_VGG)
def test_a_vgg_net_costs_what_torchvisions_does(depth, normalized):
    parameters, count = cost(vgg(depth, normalized=normalized))
    assert (parameters, round(count / 1e9, 3)) == TORCHVISION_VGG[depth, normalized]
    if not normalized:
        assert round(parameters / 1e6) == PAPER_VGG[depth]


@pytest.mark.parametrize(("depth", "printed"), expected.IMAGENET_MULTIPLY_ADDS.items())
def test_a_resnet_of_2015_makes_the_papers_multiply_adds(depth, printed):
    # Table 1 has two digits, and some of them cut: 3.858 is printed as 3.8.
    _, count = cost(resnet(depth, shortcut="A" if depth < 50 else "B"))
    assert 0 <= count / 1e9 - printed < 0.06 or round(count / 1e9, 1) == printed


def test_vgg_19_makes_the_multiply_adds_that_he_2015_counts():
    # Sec. 3.3: the 34-layer net's 3.6 billion are "only 18% of VGG-19 (19.6 billion FLOPs)".
    _, count = cost(vgg(19))
    assert round(count / 1e9, 1) == 19.6
    _, of_34 = cost(resnet(34))
    assert int(100 * of_34 / count) == 18


@pytest.mark.parametrize("depth", [18, 34])
def test_a_plain_net_has_the_parameters_of_its_option_a_twin(depth):
    twin = expected.IMAGENET_PARAMETERS[depth]["A"]
    assert cost(resnet(depth, residual=False)) == cost(resnet(depth, shortcut="A"))
    assert cost(resnet(depth))[0] == twin


def test_option_c_and_the_preactivated_nets_have_the_parameters_of_their_descriptions():
    assert cost(resnet(34, shortcut="C"))[0] == expected.IMAGENET_PARAMETERS[34]["C"]
    # BN of each unit but the first normalises its input; 64 channels of the first unit's input are
    # the stem's. What timm has: 25,549,352.
    v2 = resnet(50, shortcut="B", activation_order="full_preactivation")
    assert cost(v2)[0] == 25_549_352
    # He 2016's ResNet-200; of the original order timm has 64,673,832.
    assert cost(resnet(200, shortcut="B"))[0] == 64_673_832


@pytest.mark.parametrize(("stem", "sides"), [("", (16, 8, 4, 2)), ("3x3", (64, 32, 16, 8))])
@pytest.mark.parametrize("depth", [18, 50])
def test_four_stages_halve_what_the_stem_leaves(stem, sides, depth):
    net = build(resnet(depth, stem=stem, width=1 / 16))
    shapes = [cost.shape for cost in complexity.of_parts(net, (64, 64, 3))]
    expansion = 4 if depth == 50 else 1
    widths = [4 * expansion, 8 * expansion, 16 * expansion, 32 * expansion]
    assert shapes[0] == (sides[0], sides[0], 4)
    assert shapes[1:5] == [(s, s, w) for s, w in zip(sides, widths, strict=True)]
    assert shapes[5:] == [(32 * expansion,), (7,)]


def test_the_stem_sees_what_a_7x7_convolution_and_a_3x3_pooling_do():
    # 7 + (3 - 1) * 2 pixels; and the whole image, 32 times reduced, at the end of ResNet-50 (427 in
    # a net that strides in its 3x3 convolutions, by the usual recursion).
    net = build(resnet(50, width=1 / 16, shortcut="B", bottleneck_stride="3x3"))
    costs = {cost.name: cost for cost in complexity.of_parts(net, (512, 512, 3))}
    assert costs["stem"].receptive_field == (11, 11)
    assert costs["stage 1"].receptive_field == (35, 35)
    assert costs["stage 2"].receptive_field == (91, 91)
    assert costs["stage 3"].receptive_field == (267, 267)
    assert costs["stage 4"].receptive_field == (427, 427)


def test_max_pooling_pads_with_what_is_never_the_largest():
    x = -1 - np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    # Windows of rows and columns -1 to 1 and 1 to 3: each one's first value is its largest.
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1)[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_pooling_to_seven_averages_as_the_definition_says():
    x = np.random.RandomState(0).normal(size=(2, 10, 3, 4)).astype(np.float32)
    pooled = np.asarray(average_pool(jnp.asarray(x), 7))
    for i in range(7):
        for j in range(7):
            rows = slice(int(np.floor(i * 10 / 7)), int(np.ceil((i + 1) * 10 / 7)))
            columns = slice(int(np.floor(j * 3 / 7)), int(np.ceil((j + 1) * 3 / 7)))
            np.testing.assert_allclose(
                pooled[:, i, j], x[:, rows, columns].mean((1, 2)), rtol=1e-5, atol=1e-6
            )
    same = jnp.asarray(x[:, :7, :, :].repeat(3, 2)[:, :, :7])
    assert average_pool(same, 7) is same


@pytest.mark.parametrize("order", ["original", "full_preactivation"])
@pytest.mark.parametrize("image", [(33, 49, 1), (64, 64, 3)])
def test_a_resnet_classifies_images_of_any_size(order, image):
    net = build(resnet(18, width=1 / 16, activation_order=order), channels=image[-1])
    logits = net(jnp.ones((2, *image)), train=False)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32


def test_the_first_preactivated_block_leaves_its_activation_to_the_stem():
    net = build(resnet(18, width=1 / 16, activation_order="full_preactivation"))
    norms = [len(block.norms) for stage in net.stages for block in stage]
    assert norms == [1, 2, 2, 2, 2, 2, 2, 2]
    # What is pooled has passed BN and ReLU, so that nothing is negative.
    x = jnp.asarray(np.random.RandomState(0).normal(size=(2, 64, 64, 3)), jnp.float32)
    assert net.parts()[0].run(x).min() >= 0
    assert [part.name for part in net.parts()][-3] == "final activation"


def test_auxiliary_heads_stand_after_every_stage_but_the_last():
    net = build(resnet(18, width=1 / 16, auxiliary_weight=0.3))
    assert [head.in_features for head in net.auxiliary_heads] == [4, 8, 16]
    assert net(jnp.ones((2, 64, 64, 3)), train=True).shape == (2, 4, 7)


def test_convolutions_start_with_hes_deviation_and_norms_with_the_identity():
    net = drawn(resnet(18, width=0.25))
    kernel = net.stem_conv.kernel[...]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (49 * 16)), rtol=0.05)
    block = net.stages[3][1]
    last = block.convs[-1].kernel[...]
    fan_out = last.shape[0] * last.shape[1] * last.shape[3]
    np.testing.assert_allclose(np.std(last), np.sqrt(2 / fan_out), rtol=0.03)
    # Not zero, as some start the last one with: a plain block would give nothing.
    np.testing.assert_array_equal(block.norms[-1].scale[...], 1)


def test_hidden_layers_of_a_vgg_net_keep_the_size_of_what_they_are_given():
    numerics = Numerics(dtype=jnp.float32, axis_name=None, decay=0.9, epsilon=1e-5)
    with jax.default_prng_impl("rbg"):
        layer = fully_connected(7 * 7 * 64, 512, numerics, nnx.Rngs(0))
    random = np.random.RandomState(0)
    x = jnp.asarray(np.maximum(random.normal(size=(64, 7 * 7 * 64)), 0), jnp.float32)
    y = nnx.relu(layer(x))
    # He et al. 2015 (arXiv 1502.01852), eq. 9: the mean square stays.
    np.testing.assert_allclose(jnp.square(y).mean(), jnp.square(x).mean(), rtol=0.1)
    np.testing.assert_array_equal(layer.bias[...], 0)


def test_a_vgg_nets_parts_are_its_forward_pass():
    net = build(vgg(13, normalized=True, width=1 / 16))
    x = jnp.asarray(np.random.RandomState(0).normal(size=(2, 64, 48, 3)), jnp.float32)
    y, shapes = x, {}
    for part in net.parts():
        y = part.run(y)
        shapes[part.name] = y.shape[1:]
    np.testing.assert_array_equal(y, net(x, train=False))
    assert shapes == {
        "stage 1": (32, 24, 4),
        "stage 2": (16, 12, 8),
        "stage 3": (8, 6, 16),
        "stage 4": (4, 3, 32),
        "stage 5": (2, 1, 32),
        "pooling to 7x7": (7, 7, 32),
        "hidden layer 1": (256,),
        "hidden layer 2": (256,),
        "head": (7,),
    }


def test_a_vgg_net_drops_half_of_its_hidden_units_for_each_image_by_its_own_key():
    net = build(vgg(11, width=1 / 16))
    x = jnp.asarray(np.random.RandomState(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    both = net(jnp.tile(x, (3, 1, 1, 1)), train=True, keys=keys[jnp.array([0, 1, 0])])
    np.testing.assert_array_equal(both[0], both[2])
    assert np.abs(both[0] - both[1]).max() > 1e-3
    np.testing.assert_array_equal(net(x, train=False), net(x, train=False, keys=keys[:1]))
    with pytest.raises(ValueError, match="a key for each image"):
        net(x, train=True)


def test_the_two_hidden_layers_of_a_vgg_net_drop_units_of_their_own():
    net = build(vgg(11, width=1 / 16))
    first, second = net.hidden
    first.kernel[...], first.bias[...] = jnp.zeros((1568, 256)), jnp.ones(256)
    second.kernel[...] = jnp.eye(256)
    net.head.kernel[...] = jnp.ones((256, 7))
    keys = jax.random.split(jax.random.key(0), 32)
    logits = np.asarray(net(jnp.ones((32, 32, 32, 3)), train=True, keys=keys))
    # A quarter of 256 units is left, each doubled twice; were the masks the same, half of them.
    assert abs(logits.mean() - 256) < 15
    np.testing.assert_array_equal(logits % 4, 0)
    np.testing.assert_array_equal(net(jnp.ones((1, 32, 32, 3)), train=False), 256)


def test_dropout_keeps_half_of_the_values_and_doubles_them():
    keys = jax.random.split(jax.random.key(0), 4)
    y = np.asarray(dropout(jnp.ones((4, 5_000)), 0.5, keys, 0))
    assert set(np.unique(y)) == {0, 2}
    # 10,000 of 20,000 are expected, with a deviation of 71.
    assert abs((y > 0).sum() - 10_000) < 350
    assert (y != np.asarray(dropout(jnp.ones((4, 5_000)), 0.5, keys, 1))).mean() > 0.4


@pytest.mark.parametrize("image", [(31, 64), (64, 16)])
def test_images_of_which_a_vgg_net_leaves_nothing_are_refused(image):
    net = build(vgg(11, width=1 / 16))
    with pytest.raises(InputError, match=f"images of {image[0]}x{image[1]} .* 32x32 or more"):
        net(jnp.ones((1, *image, 3)), train=False)


def test_batch_norm_of_a_vgg_net_is_where_the_config_has_it_and_biases_are_everywhere():
    for normalized in (False, True):
        net = build(vgg(11, normalized=normalized, width=1 / 16))
        layers = [layer for stage in net.stages for layer in stage]
        assert [layer.norm is not None for layer in layers] == [normalized] * 8
        assert all(layer.conv.bias is not None for layer in layers)


def test_a_vgg_net_in_bfloat16_keeps_its_parameters_and_logits_in_float32():
    net = registry.functional(build(vgg(11, normalized=True, width=1 / 16, dtype="bfloat16")))
    keys = jax.random.split(jax.random.key(0), 2)
    logits, stats = net.apply(net.params, net.stats, jnp.ones((2, 32, 32, 3)), True, keys=keys)
    assert {x.dtype for x in jax.tree.leaves((net.params, stats, logits))} == {jnp.dtype("float32")}


def test_a_net_of_stages_of_several_lengths_computes_the_same_with_loops():
    config = resnet(34, width=1 / 16, shortcut="B")
    x = jnp.asarray(np.random.RandomState(0).normal(size=(2, 64, 64, 3)), jnp.float32)
    found = []
    for repetition in (Repetition(), Repetition(loop=True)):
        model = build(config)
        model.repetition = repetition
        net = registry.functional(model)
        found.append(jax.jit(lambda p, s, x, net=net: net.apply(p, s, x, False)[0]))
        found[-1] = found[-1](net.params, net.stats, x)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_a_vgg_net_is_not_repeated():
    with pytest.raises(ValueError, match="no blocks to repeat"):
        registry.build(vgg(11), channels=3, num_classes=7, repetition=Repetition(loop=True))


def test_all_families_are_built_as_what_they_are():
    assert isinstance(build(resnet(18, width=1 / 16)), ResNet)
    with pytest.raises(InputError, match="'vgg' has no blocks to be checked or taken apart"):
        registry.of_blocks(build(vgg(11, width=1 / 16)))
