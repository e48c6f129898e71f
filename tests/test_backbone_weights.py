"""MobileNetV3 and Swin Transformers against PyTorch, and files told by what they look like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from resnet_jax.config import ModelConfig
from resnet_jax.errors import InputError
from resnet_jax.models import registry, torch_names, torch_weights
from resnet_jax.models.recognise import UNKNOWN, recognise
from resnet_jax.models.torch_names_mobilenet_v3 import EPSILON
from tests import nets
from tests.nets import build, mobilenet_v3, swin
from tests.test_imagenet_weights import arrays_of, images, installed, resnet, vgg

torch = pytest.importorskip("torch")
torch_backbones = pytest.importorskip("tests.torch_backbones")
torch_reference = pytest.importorskip("tests.torch_reference")

CLASSES = 7


def large(**fields):
    return mobilenet_v3("large", **{"batch_norm_epsilon": 1e-3, **fields})


def small(**fields):
    return mobilenet_v3("small", **{"batch_norm_epsilon": 1e-3, **fields})


def their_mobilenet(variant, **how):
    return torch_backbones.MobileNetV3(variant, **{"classes": CLASSES, **how})


def their_swin(variant, **how):
    return torch_backbones.Swin(variant, **{"classes": CLASSES, **how})


def awakened(net):
    """Random weights, statistics, biases and positions, none of them that of a new net."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1 and parameter.shape[0] != 169:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(torch.randn(parameter.shape) * 0.3 + (parameter.ndim == 1))
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return net


def apart(found, want):
    """The largest difference, relative to the largest value."""
    want = want.detach().numpy()
    if want.ndim == 4:
        want = want.transpose(0, 2, 3, 1)
    assert found.shape == want.shape
    return np.abs(np.asarray(found) - want).max() / np.abs(want).max()


def forward(model, x):
    """What each part gives, in one compiled program."""
    graphdef, state = nnx.split(model)

    def run(state, x):
        found = []
        for part in nnx.merge(graphdef, state, copy=True).parts():
            x = part.run(x)
            found.append(x)
        return found

    return jax.jit(run)(state, jnp.asarray(x, model.numerics.dtype))


PARITY = {
    "MobileNetV3-Large": (large, lambda: their_mobilenet("large", width=1 / 4), 1 / 4, (33, 70)),
    "MobileNetV3-Small": (small, lambda: their_mobilenet("small", width=1 / 4), 1 / 4, (64, 64)),
    # Maps of 18x29 pixels, 9x15, 5x8 and 3x4: odd ones to be merged, and windows beyond the edge.
    "Swin-T, odd": (
        lambda **fields: swin("tiny", **fields),
        lambda: their_swin("tiny", width=1 / 12, heads=1),
        *(1 / 12, (75, 118)),
    ),
    # And of 56x28, 28x14, 14x7 and 7x4, with shifts along both axes, one and none.
    "Swin-T, even": (
        lambda **fields: swin("tiny", **fields),
        lambda: their_swin("tiny", width=1 / 12, heads=1),
        *(1 / 12, (224, 112)),
    ),
}


@pytest.mark.parametrize("name", PARITY)
def test_every_stage_and_the_logits_are_pytorchs(name, float64):
    config, theirs, width, image = PARITY[name]
    theirs = awakened(theirs()).double().eval()
    model = build(config(width=width, dtype="float64"))
    assert torch_weights.assign(model, arrays_of(theirs), strict=True) == ([], [])
    x = np.random.RandomState(0).normal(size=(2, *image, 3))
    found = forward(model, x)
    with torch.no_grad():
        given = torch.tensor(x.transpose(0, 3, 1, 2))
        maps, logits = theirs.maps(given), theirs(given)
    assert len(maps) == len(model.stages) + 2
    for ours, want in zip(found, maps, strict=False):
        assert apart(ours, want) < 1e-9
    assert apart(found[-1], logits) < 1e-9


@pytest.mark.parametrize("variant", ["large", "small"])
def test_statistics_of_a_batch_in_training_are_pytorchs(variant, float64):
    theirs = awakened(their_mobilenet(variant, width=1 / 8)).double()
    config = mobilenet_v3(variant, width=1 / 8, batch_norm_epsilon=1e-3, dtype="float64")
    model = build(config)
    torch_weights.assign(model, arrays_of(theirs), strict=True)
    x, net = images(33, count=3), registry.functional(model)
    keys = jax.random.split(jax.random.key(0), 3)
    _, stats = jax.jit(lambda p, s, x: net.apply(p, s, x, True, keys=keys))(
        net.params, net.stats, jnp.asarray(x)
    )
    registry.update(model, net.params, stats)
    theirs.train()(torch.tensor(x.transpose(0, 3, 1, 2)))
    after = arrays_of(theirs)
    for target in torch_names.targets(model, "torchvision"):
        if "running" in target.name:
            want = after[target.name]
            assert np.abs(target.to_torch() - want).max() < 1e-9 * np.abs(want).max(), target.name


FULL = {
    "MobileNetV3-Large": (large(), lambda: their_mobilenet("large", classes=1000)),
    "Swin-T": (swin("tiny"), lambda: their_swin("tiny", classes=1000)),
    "ResNet-50": (resnet(50, width=1), lambda: torch_reference.ImageNetNet(50)),
}


@pytest.mark.parametrize("name", FULL)
def test_at_full_size_an_image_of_224_pixels_has_pytorchs_logits(name):
    config, theirs = FULL[name]
    theirs = awakened(theirs()).eval()
    shapes = nnx.eval_shape(lambda: registry.build(config, channels=3, num_classes=1000))
    graphdef, state = nnx.split(shapes)
    model = nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))
    torch_weights.assign(model, arrays_of(theirs), strict=True)
    x = images(224, count=1).astype(np.float32)
    with torch.no_grad():
        want = theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
    assert 0 < apart(forward(model, x)[-1], want) < 1e-4


ALL = {
    "MobileNetV3-Large": (large(), "mobilenet_v3_large", "mobilenetv3_large_100"),
    "MobileNetV3-Small": (small(), "mobilenet_v3_small", "mobilenetv3_small_100"),
    "Swin-T": (swin("tiny"), "swin_t", "swin_tiny_patch4_window7_224"),
    "Swin-S": (swin("small"), "swin_s", "swin_small_patch4_window7_224"),
    "Swin-B": (swin("base"), "swin_b", "swin_base_patch4_window7_224"),
}


def full_sized(config, classes=1000):
    return nnx.eval_shape(lambda: registry.build(config, channels=3, num_classes=classes))


def shapes_of(state_dict):
    return {
        name: tuple(array.shape)
        for name, array in state_dict.items()
        if not name.endswith(torch_names.NO_WEIGHTS)
    }


def targets_of(model, naming):
    return {target.name: target.shape for target in torch_names.targets(model, naming)}


@pytest.mark.parametrize("name", ALL)
def test_every_array_of_a_published_net_has_its_name_and_shape(name):
    config = ALL[name][0]
    kind = their_swin if config.family == "swin" else their_mobilenet
    with torch.device("meta"):
        theirs = kind(config.variant, classes=1000)
    assert targets_of(full_sized(config), "torchvision") == shapes_of(theirs.state_dict())


@pytest.mark.parametrize("name", ALL)
def test_names_and_shapes_are_torchvisions_and_timms_where_these_are_installed(name):
    config, torchvisions, timms = ALL[name]
    models, timm = installed("torchvision.models"), installed("timm")
    with torch.device("meta"):
        theirs = {
            "torchvision": getattr(models, torchvisions)().state_dict(),
            "timm": timm.create_model(timms).state_dict(),
        }
    for naming, state_dict in theirs.items():
        assert targets_of(full_sized(config), naming) == shapes_of(state_dict)
        shapes = {n: tuple(t.shape) for n, t in state_dict.items()}
        assert recognise(shapes) == f"{name} ({naming}'s names)"


# As timm 1.0 has them.
TIMM = {
    "MobileNetV3-Large": (
        266,
        {
            "conv_stem.weight": (16, 3, 3, 3),
            "bn1.running_var": (16,),
            "blocks.0.0.conv_dw.weight": (16, 1, 3, 3),
            "blocks.0.0.conv_pw.weight": (16, 16, 1, 1),
            "blocks.0.0.bn2.weight": (16,),
            "blocks.1.0.conv_pw.weight": (64, 16, 1, 1),
            "blocks.1.0.conv_dw.weight": (64, 1, 3, 3),
            "blocks.1.0.conv_pwl.weight": (24, 64, 1, 1),
            "blocks.1.0.bn3.bias": (24,),
            "blocks.2.0.se.conv_reduce.weight": (24, 72, 1, 1),
            "blocks.2.2.se.conv_expand.bias": (120,),
            "blocks.3.3.conv_dw.weight": (184, 1, 3, 3),
            "blocks.4.0.conv_pw.weight": (480, 80, 1, 1),
            "blocks.4.1.conv_pwl.weight": (112, 672, 1, 1),
            "blocks.5.0.conv_dw.weight": (672, 1, 5, 5),
            "blocks.5.2.conv_pwl.weight": (160, 960, 1, 1),
            "blocks.6.0.conv.weight": (960, 160, 1, 1),
            "blocks.6.0.bn1.running_mean": (960,),
            "conv_head.weight": (1280, 960, 1, 1),
            "conv_head.bias": (1280,),
            "classifier.weight": (1000, 1280),
        },
    ),
    "MobileNetV3-Small": (
        210,
        {
            "blocks.0.0.se.conv_reduce.weight": (8, 16, 1, 1),
            "blocks.1.1.conv_pw.weight": (88, 24, 1, 1),
            "blocks.2.2.conv_pwl.weight": (40, 240, 1, 1),
            "blocks.3.1.conv_pwl.weight": (48, 144, 1, 1),
            "blocks.4.2.bn2.running_mean": (576,),
            "blocks.5.0.conv.weight": (576, 96, 1, 1),
            "conv_head.weight": (1024, 576, 1, 1),
        },
    ),
    "Swin-T": (
        173,
        {
            "patch_embed.proj.weight": (96, 3, 4, 4),
            "patch_embed.norm.bias": (96,),
            "layers.0.blocks.1.attn.relative_position_bias_table": (169, 3),
            "layers.0.blocks.1.attn.qkv.weight": (288, 96),
            "layers.1.downsample.norm.weight": (384,),
            "layers.1.downsample.reduction.weight": (192, 384),
            "layers.2.blocks.5.mlp.fc1.weight": (1536, 384),
            "layers.3.blocks.1.mlp.fc2.bias": (768,),
            "norm.weight": (768,),
            "head.fc.weight": (1000, 768),
        },
    ),
}


@pytest.mark.parametrize("name", TIMM)
def test_timms_names_are_those_of_its_nets(name):
    count, some = TIMM[name]
    found = targets_of(full_sized(ALL[name][0]), "timm")
    assert len(found) == count and some.items() <= found.items()


def test_the_two_namings_of_a_mobilenet_name_the_same_arrays():
    # timm's stages are of one width each: its third and fourth are our fourth, of one resolution.
    model = full_sized(large())
    theirs, timms = (
        {target.name: target.variable for target in torch_names.targets(model, naming)}
        for naming in ("torchvision", "timm")
    )
    pairs = {
        "features.1.block.1.0.weight": "blocks.0.0.conv_pw.weight",
        "features.9.block.1.0.weight": "blocks.3.2.conv_dw.weight",
        "features.11.block.2.fc2.weight": "blocks.4.0.se.conv_expand.weight",
        "features.13.block.3.1.running_var": "blocks.5.0.bn3.running_var",
        "features.16.1.bias": "blocks.6.0.bn1.bias",
    }
    for one, other in pairs.items():
        assert theirs[one] is timms[other]
    assert {id(v) for v in theirs.values()} == {id(v) for v in timms.values()}


def test_merging_starts_a_stage_in_timms_layout_and_ends_one_in_its_authors():
    model = full_sized(swin("tiny"))
    timm, microsoft = (targets_of(model, naming) for naming in ("timm", "microsoft"))
    assert timm["layers.1.downsample.reduction.weight"] == (192, 384)
    assert microsoft["layers.0.downsample.reduction.weight"] == (192, 384)
    assert "layers.0.downsample.norm.weight" not in timm
    assert "layers.3.downsample.norm.weight" not in microsoft
    assert microsoft["head.weight"] == (1000, 768) and "head.fc.weight" not in microsoft
    assert set(timm) - {n for n in timm if "downsample" in n or "head" in n} < set(microsoft)


ROUND = {
    "MobileNetV3-Large": ("torchvision", large(width=1 / 8)),
    "MobileNetV3-Small of timm": ("timm", mobilenet_v3("small", width=1 / 8)),
    "Swin-T": ("torchvision", swin("tiny", width=1 / 12)),
    "Swin-T of timm": ("timm", swin("tiny", width=1 / 12)),
    "Swin-T of its authors": ("microsoft", swin("tiny", width=1 / 12)),
}


def filled(model):
    """The net with values that are all different."""
    for i, target in enumerate(torch_names.targets(model, torch_names.namings(model)[0])):
        size = target.variable[...].size
        values = np.random.RandomState(i).normal(size=size).reshape(target.variable.shape)
        target.variable[...] = jnp.asarray(values, jnp.float32)
    return model


@pytest.mark.parametrize("name", ROUND)
def test_what_is_written_is_read_bit_for_bit_whatever_it_is_called(name, tmp_path):
    naming, config = ROUND[name]
    model, other = filled(build(config)), build(config)
    path = tmp_path / "net.safetensors"
    torch_weights.write(model, path, naming=naming)
    arrays = torch_weights.read(path)
    # What files of theirs have beside weights.
    arrays["layers.0.blocks.1.attn_mask"] = np.zeros((64, 49, 49))
    arrays["features.1.0.attn.relative_position_index"] = np.zeros(2401, np.int64)
    arrays["bn1.num_batches_tracked"] = np.int64(5)
    assert torch_weights.assign(other, arrays, strict=True) == ([], [])
    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.device_get(registry.functional(m)[-2:]) for m in (model, other)),
    )
    assert naming in recognise({n: a.shape for n, a in arrays.items()})


@pytest.mark.parametrize("name", ["MobileNetV3-Small", "Swin-T, odd"])
def test_pytorch_loads_strictly_what_is_written(name, tmp_path):
    config, theirs, width, _ = PARITY[name]
    model, theirs = filled(build(config(width=width))), theirs()
    torch_weights.write(model, tmp_path / "net.safetensors", naming="torchvision")
    arrays = torch_weights.read(tmp_path / "net.safetensors")
    theirs.load_state_dict({n: torch.tensor(v) for n, v in arrays.items()}, strict=False)
    for n, tensor in theirs.state_dict().items():
        assert n.endswith("num_batches_tracked") or (tensor.numpy() == arrays[n]).all()


def test_authors_files_have_their_weights_under_model(tmp_path):
    theirs = awakened(their_swin("tiny", width=1 / 12, heads=1))
    torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "net.pth")
    torch_weights.load_into(build(swin("tiny", width=1 / 12)), tmp_path / "net.pth")
    torch.save({"model": 3, "epoch": 3}, tmp_path / "no.pth")
    with pytest.raises(InputError, match="is not a state dict of tensors"):
        torch_weights.read(tmp_path / "no.pth")


@pytest.mark.parametrize("naming", EPSILON)
def test_an_epsilon_that_is_not_that_of_a_files_net_is_refused(naming, tmp_path):
    path = tmp_path / "net.safetensors"
    right, wrong = EPSILON[naming], 3e-3 - EPSILON[naming]
    model = build(mobilenet_v3("small", width=1 / 8, batch_norm_epsilon=right))
    # The names that the net can be written under with the epsilon it has come first.
    assert torch_names.namings(model)[0] == naming
    torch_weights.write(model, path)
    other = build(mobilenet_v3("small", width=1 / 8, batch_norm_epsilon=wrong))
    before = jax.device_get(registry.functional(other)[-2:])
    message = f"epsilon={wrong:g} is not that of .* {naming}'s names .*; use {right:g}$"
    with pytest.raises(InputError, match=message):
        torch_weights.load_into(other, path)
    with pytest.raises(InputError, match=message):
        torch_weights.write(other, tmp_path / "other.safetensors", naming=naming)
    assert not (tmp_path / "other.safetensors").exists()
    jax.tree.map(np.testing.assert_array_equal, before, registry.functional(other)[-2:])


CIFAR = {d: ModelConfig(depth=d, shortcut="B") for d in (20, 56)}
LOOKS = {
    **{f"ResNet-{d}": (resnet(d, width=1), "torchvision") for d in (18, 34, 50, 101, 152)},
    "ResNet-50, pre-activated": (
        resnet(50, width=1, activation_order="full_preactivation"),
        "torchvision",
    ),
    "ResNet-50, width 0.5": (resnet(50, width=0.5), "torchvision"),
    **{f"VGG-{d}": (vgg(d, width=1), "torchvision") for d in (11, 16)},
    **{f"VGG-{d} with BN": (vgg(d, normalized=True, width=1), "timm") for d in (13, 19)},
    "a CIFAR ResNet of depth 20": (CIFAR[20], "torchvision"),
    "a CIFAR ResNet of depth 56": (CIFAR[56], "akamaster"),
    "a CIFAR ResNet of depth 29": (ModelConfig(depth=29, block="bottleneck"), "akamaster"),
    "MobileNetV3-Large": (large(), "torchvision"),
    "MobileNetV3-Small": (small(), "timm"),
    "MobileNetV3-Large, another width": (large(width=2), "timm"),
    "Swin-T": (swin("tiny"), "torchvision"),
    "Swin-S": (swin("small"), "timm"),
    "Swin-B": (swin("base"), "microsoft"),
    "Swin-S, width 2": (swin("small", width=2), "timm"),
}


@pytest.mark.parametrize("classes", [1000, 37])
@pytest.mark.parametrize("name", LOOKS)
def test_a_file_is_told_by_its_names_and_shapes(name, classes):
    config, naming = LOOKS[name]
    shapes = targets_of(full_sized(config, classes), naming)
    assert recognise(shapes) == f"{name} ({naming}'s names)"
    # Nor does a head matter that is not there, or more of one.
    head = [n for n in shapes if shapes[n][0] == classes]
    assert len(head) == 2
    rest = {n: shape for n, shape in shapes.items() if n not in head}
    assert recognise(rest).startswith(name)


def renamed(config, naming="torchvision", **changes):
    shapes = targets_of(full_sized(config), naming)
    return {**shapes, **changes}


def test_nets_that_are_none_of_ours_are_not_taken_for_them():
    assert recognise({}) == UNKNOWN == recognise({"weight": (3, 3)})
    bottleneck = resnet(50, width=1)
    for changes in (
        {"layer1.0.se.fc1.weight": (16, 64, 1, 1)},  # SE-ResNet
        {"layer1.0.conv2.weight": (128, 4, 3, 3)},  # ResNeXt
        {"layer1.0.conv2.weight": (128, 128, 3, 3)},  # Wide ResNet
        {"layer4.3.conv1.weight": (512, 2048, 1, 1)},  # of a depth that no net has
    ):
        assert recognise(renamed(bottleneck, **changes)) == UNKNOWN
    second = {"features.1.0.attn.logit_scale": (3, 1, 1)}
    assert recognise(renamed(swin("tiny"), **second)) == UNKNOWN
    windows = {"features.1.0.attn.relative_position_bias_table": (529, 3)}
    assert recognise(renamed(swin("tiny"), **windows)) == UNKNOWN
    shapes = renamed(large(), "timm")
    del shapes["conv_head.bias"]  # EfficientNets have a BN instead
    assert recognise(shapes) == UNKNOWN


@pytest.mark.parametrize(
    ("of", "into", "looks"),
    [
        (lambda: their_mobilenet("small", width=1 / 8), large(width=1 / 8), "MobileNetV3-Small, "),
        (lambda: their_swin("tiny", width=1 / 12), resnet(18), "Swin-T, width 0.0833333 \\("),
        (
            lambda: torch_reference.ImageNetNet(18, first_width=8),
            swin("tiny", width=1 / 12),
            "ResNet-18, width 0.125 \\(torchvision's names\\)",
        ),
        (
            lambda: torch_reference.VGGNet(11, normalized=True, first_width=8),
            small(width=1 / 8),
            "VGG-11 with BN, width 0.125 \\(torchvision's names\\)",
        ),
        (lambda: torch_reference.CifarNet(56), resnet(18), "a CIFAR ResNet of depth 56 \\("),
        (lambda: torch.nn.Linear(3, 3), resnet(18), UNKNOWN),
    ],
    ids=("MobileNetV3", "Swin", "ResNet-18", "VGG-11", "CIFAR ResNet", "one layer"),
)
def test_a_file_of_another_net_is_refused_with_what_it_looks_like(of, into, looks, tmp_path):
    safetensors.numpy.save_file(arrays_of(of()), tmp_path / "net.safetensors")
    with pytest.raises(InputError, match=f"another net \\(by names and shapes: {looks}") as caught:
        torch_weights.load_into(build(into), tmp_path / "net.safetensors")
    assert len(str(caught.value).splitlines()) == 1


HEADS = {
    "ResNet-18": resnet(18),
    "VGG-11": vgg(11, width=1 / 16),
    "MobileNetV3-Small": small(width=1 / 8),
    "Swin-T": swin("tiny", width=1 / 12),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_new_head_stays_as_it_was_drawn_whatever_the_file_has(name):
    config = HEADS[name]
    naming = torch_names.namings(build(config))[0]
    source = filled(build(config, num_classes=11))
    arrays = {t.name: t.to_torch() for t in torch_names.targets(source, naming)}
    heads = [n for n, a in arrays.items() if a.shape[0] == 11]
    assert len(heads) == 2
    without = {n: a for n, a in arrays.items() if n not in heads}
    odd = {**without, heads[0]: np.zeros((2, 3))}
    model = build(config, num_classes=3)
    for given in (arrays, without):
        with pytest.raises(InputError, match=r"another net.*config\.transfer\.new_head=True"):
            torch_weights.assign(model, given, strict=True)
    for given in (arrays, without, odd):
        model = build(config, num_classes=3)
        head = np.asarray(model.head.kernel[...])
        assert torch_weights.assign(model, given, strict=True, new_head=True) == ([], [])
        np.testing.assert_array_equal(model.head.kernel[...], head)
        for target in torch_names.targets(model, naming):
            if target.name not in heads:
                np.testing.assert_array_equal(target.to_torch(), arrays[target.name])
    # All else stays as strict as it was.
    some = next(n for n in without if n not in heads)
    with pytest.raises(InputError, match="1 missing names") as caught:
        torch_weights.assign(
            model,
            {n: a for n, a in arrays.items() if n != some},
            strict=True,
            new_head=True,
        )
    assert "new_head" not in str(caught.value)
    with pytest.raises(InputError, match="1 extra names"):
        torch_weights.assign(model, {**arrays, "more": np.zeros(3)}, strict=True, new_head=True)


def test_a_head_under_other_names_than_its_body_is_passed_over_too():
    config = swin("tiny", width=1 / 12)
    source = filled(build(config))
    arrays = {t.name: t.to_torch() for t in torch_names.targets(source, "timm")}
    arrays["head.weight"] = arrays.pop("head.fc.weight")
    model = nets.build(config)
    assert torch_weights.assign(model, arrays, strict=True, new_head=True) == ([], [])
    with pytest.raises(InputError, match=r"new_head=True"):
        torch_weights.assign(model, arrays, strict=True)
