"""ResNets and VGG nets against PyTorch, weights carried over in both directions."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from resnet_jax.config import ModelConfig
from resnet_jax.errors import InputError
from resnet_jax.models import registry, torch_names, torch_weights
from tests import nets
from tests.nets import build

torch = pytest.importorskip("torch")
torch_reference = pytest.importorskip("tests.torch_reference")

CLASSES, WIDTH = 7, 1 / 8


def resnet(depth, *, v15=True, **fields):
    stride = "3x3" if v15 else "1x1"
    fields = {"width": WIDTH, "shortcut": "B", "bottleneck_stride": stride, **fields}
    return nets.resnet(depth, **fields)


def vgg(depth, **fields):
    return nets.vgg(depth, **{"width": WIDTH, **fields})


def awakened(net, seed=0):
    """Random weights, and running statistics and biases that are not those of a new net."""
    torch_reference.initialise(net, seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=(2 / module.in_features) ** 0.5)
    return net


def arrays_of(net):
    return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}


def images(side, count=2, seed=0):
    return np.random.RandomState(seed).normal(size=(count, side, side, 3))


def to_theirs(x, like):
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=next(like.parameters()).dtype)


def compare(theirs, model, *, side, naming="torchvision"):
    """Evaluation, then what training with one batch makes of the running statistics.

    Returns:
        The largest difference of logits relative to the largest logit, and of a running statistic
        relative to the largest of its layer.
    """
    assert torch_weights.assign(model, arrays_of(theirs)) == ([], [])
    x = images(side)
    # Operation by operation: nets of one width then share what is compiled, however deep they are.
    ours, keys = jnp.asarray(x, model.numerics.dtype), jax.random.split(jax.random.key(0), len(x))
    logits = np.asarray(model(ours, train=False))
    model(ours, train=True, keys=keys)
    with torch.no_grad():
        want = theirs.eval()(to_theirs(x, theirs)).numpy()
        theirs.train()(to_theirs(x, theirs))
    logit = np.abs(logits - want).max() / np.abs(want).max()
    after, apart = arrays_of(theirs), [0.0]
    for target in torch_names.targets(model, naming):
        if "running" in target.name:
            found, wanted = target.to_torch(), after[target.name]
            apart.append(np.abs(found - wanted).max() / np.abs(wanted).max())
    return logit, max(apart)


NETS = {
    **{f"ResNet-{depth}": (depth, {}) for depth in (18, 34, 50, 101, 152)},
    "ResNet-50 of v1": (50, {"v15": False}),
}


@pytest.mark.parametrize("name", NETS)
def test_a_resnet_computes_what_pytorchs_does(name, float64):
    depth, how = NETS[name]
    theirs = torch_reference.ImageNetNet(depth, first_width=8, classes=CLASSES, **how).double()
    model = build(resnet(depth, dtype="float64", **how))
    # In double precision, in which nothing but a mistake is more than 1e-9.
    logit, statistic = compare(awakened(theirs), model, side=64)
    assert logit < 1e-9 and statistic < 1e-9


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("depth", "side"), [(11, 33), (13, 33), (16, 72), (19, 72)])
def test_a_vgg_net_computes_what_pytorchs_does(depth, side, normalized, float64):
    theirs = torch_reference.VGGNet(
        depth, normalized=normalized, first_width=8, classes=CLASSES
    ).double()
    model = build(vgg(depth, normalized=normalized, dtype="float64"))
    logit, statistic = compare(awakened(theirs), model, side=side)
    assert logit < 1e-9 and statistic < 1e-9


def test_in_single_precision_logits_agree_to_one_in_ten_thousand():
    theirs = torch_reference.ImageNetNet(34, first_width=8, classes=CLASSES)
    logit, _ = compare(awakened(theirs), build(resnet(34)), side=64)
    assert 0 < logit < 1e-4


def test_pixels_before_the_hidden_layers_are_in_pytorchs_order_of_axes(float64):
    # At 224 pixels nothing is averaged, so that each of 7x7 pixels has weights of its own.
    theirs = torch_reference.VGGNet(11, normalized=False, first_width=4, classes=CLASSES).double()
    model = build(vgg(11, width=1 / 16, dtype="float64"))
    logit, _ = compare(awakened(theirs), model, side=224)
    assert logit < 1e-9


FULL = {
    **{f"ResNet-{d}": (torch_reference.ImageNetNet, d, {}) for d in (18, 34, 50, 101, 152)},
    **{f"VGG-{d}": (torch_reference.VGGNet, d, {"normalized": False}) for d in (11, 13, 16, 19)},
    **{f"VGG-{d} BN": (torch_reference.VGGNet, d, {"normalized": True}) for d in (11, 13, 16, 19)},
}


def full_sized(kind, depth, how):
    """Our net of the published size, with shapes instead of weights."""
    if kind is torch_reference.ImageNetNet:
        config = resnet(depth, width=1)
    else:
        config = vgg(depth, width=1, **how)
    return nnx.eval_shape(lambda: registry.build(config, channels=3, num_classes=1000))


@pytest.mark.parametrize("name", FULL)
def test_every_array_of_a_published_net_has_its_name_and_shape(name):
    kind, depth, how = FULL[name]
    with torch.device("meta"):
        theirs = kind(depth, **how).state_dict()
    wanted = {n: tuple(t.shape) for n, t in theirs.items() if "num_batches" not in n}
    model = full_sized(kind, depth, how)
    assert {t.name: t.shape for t in torch_names.targets(model, "torchvision")} == wanted


def installed(name):
    """A package, or the test is skipped."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # of a build that is not for this PyTorch
        pytest.skip(f"{name} is not at hand: {error}")


@pytest.mark.parametrize("name", FULL)
def test_names_and_shapes_are_torchvisions_and_timms_where_these_are_installed(name):
    kind, depth, how = FULL[name]
    is_vgg = kind is torch_reference.VGGNet
    called = name.lower().replace("-", "").replace(" ", "_")
    models, timm = installed("torchvision.models"), installed("timm")
    with torch.device("meta"):
        theirs = getattr(models, called)().state_dict()
        timms = timm.create_model(called).state_dict()
    model = full_sized(kind, depth, how)
    for found, naming in ((theirs, "torchvision"), (timms, "timm" if is_vgg else "torchvision")):
        wanted = {n: tuple(t.shape) for n, t in found.items() if "num_batches" not in n}
        assert {t.name: t.shape for t in torch_names.targets(model, naming)} == wanted


SMALL = {
    "ResNet-18": (
        resnet(18),
        lambda: torch_reference.ImageNetNet(18, first_width=8, classes=CLASSES),
    ),
    "VGG-11 BN": (
        vgg(11, normalized=True),
        lambda: torch_reference.VGGNet(11, normalized=True, first_width=8, classes=CLASSES),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_what_is_written_pytorch_loads_strictly_and_computes_the_same(name, tmp_path):
    config, theirs = SMALL[name]
    model, theirs = build(config), theirs()
    torch_weights.write(model, tmp_path / "net.safetensors")
    arrays = torch_weights.read(tmp_path / "net.safetensors")
    theirs.load_state_dict({n: torch.tensor(v) for n, v in arrays.items()}, strict=True)
    x = images(64)
    with torch.no_grad():
        want = theirs.eval()(to_theirs(x, theirs)).numpy()
    np.testing.assert_allclose(model(jnp.float32(x), train=False), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_pytorchs_goes_in_and_comes_out_bit_for_bit(name, suffix, tmp_path):
    config, theirs = SMALL[name]
    state_dict = awakened(theirs()).state_dict()
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(state_dict, path)
    else:
        safetensors.numpy.save_file({n: t.numpy() for n, t in state_dict.items()}, path)
    model = build(config)
    torch_weights.load_into(model, path)
    torch_weights.write(model, tmp_path / "again.safetensors")
    again = torch_weights.read(tmp_path / "again.safetensors")
    counters = {n for n in state_dict if n.endswith("num_batches_tracked")}
    assert counters and again.keys() == state_dict.keys() - counters
    for array_name, array in again.items():
        np.testing.assert_array_equal(array, state_dict[array_name].numpy())


def test_timms_vgg_has_its_hidden_layers_as_convolutions(tmp_path):
    config, theirs = SMALL["VGG-11 BN"]
    state_dict = arrays_of(awakened(theirs()))
    model = build(config)
    torch_weights.assign(model, state_dict, strict=True)
    torch_weights.write(model, tmp_path / "timm.safetensors", naming="timm")
    written = torch_weights.read(tmp_path / "timm.safetensors")
    # As timm's ConvMlp computes them: kernels of 7x7 pixels and of one.
    maps = torch.tensor(np.random.RandomState(0).normal(size=(2, 64, 7, 7)), dtype=torch.float32)
    y = maps
    for layer in ("fc1", "fc2"):
        weight, bias = (
            torch.tensor(written[f"pre_logits.{layer}.{n}"]) for n in ("weight", "bias")
        )
        y = torch.relu(torch.nn.functional.conv2d(y, weight, bias))
    y = y.flatten(1) @ torch.tensor(written["head.fc.weight"]).T
    reference = theirs()
    reference.load_state_dict({n: torch.tensor(v) for n, v in state_dict.items()})
    with torch.no_grad():
        want = reference.eval().classifier(maps.flatten(1)) - reference.classifier[6].bias
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    # And back.
    other = build(config)
    torch_weights.load_into(other, tmp_path / "timm.safetensors")
    for a, b in zip(*(torch_names.targets(m, "timm") for m in (model, other)), strict=True):
        np.testing.assert_array_equal(a.variable[...], b.variable[...])


def test_cifar_nets_are_read_under_torchvisions_names_too():
    config = ModelConfig(depth=8, shortcut="B")
    model, other = build(config), build(config)
    arrays = {t.name: t.to_torch() + 1 for t in torch_names.targets(model, "torchvision")}
    assert "layer2.0.downsample.0.weight" in arrays and "fc.weight" in arrays
    assert torch_weights.assign(other, arrays, strict=True) == ([], [])
    np.testing.assert_array_equal(other.head.bias[...], 1)


@pytest.mark.parametrize(
    ("of", "into", "message"),
    [
        # Eight blocks more, of two convolutions and two norms of four arrays each.
        ("ResNet-18", resnet(34), "80 missing names.*0 extra.*check config.model.family"),
        ("ResNet-18", resnet(18, width=1 / 4), "conv1.weight has shape \\(8, 3, 7, 7\\)"),
        ("ResNet-18", vgg(11, normalized=True), "missing names \\(features.0.weight"),
        ("VGG-11 BN", resnet(18), "missing names \\(conv1.weight"),
        ("VGG-11 BN", vgg(11), "missing.*batch_norm"),
        ("VGG-11 BN", vgg(13, normalized=True), "missing names"),
    ],
)
def test_weights_of_another_net_are_refused_in_one_line_and_change_nothing(
    of, into, message, tmp_path
):
    _, theirs = SMALL[of]
    safetensors.numpy.save_file(arrays_of(theirs()), tmp_path / "net.safetensors")
    model = build(into)
    before = jax.device_get(registry.functional(model)[-2:])
    with pytest.raises(InputError, match=f"another net.*{message}") as caught:
        torch_weights.load_into(model, tmp_path / "net.safetensors")
    assert len(str(caught.value).splitlines()) == 1
    jax.tree.map(np.testing.assert_array_equal, before, registry.functional(model)[-2:])


def test_a_head_of_another_number_of_classes_is_refused_by_name():
    config, theirs = SMALL["ResNet-18"]
    with pytest.raises(InputError, match=r"fc.weight has shape \(7, 64\) where \(3, 64\) belongs"):
        torch_weights.assign(build(config, num_classes=3), arrays_of(theirs()), strict=True)


def test_names_that_a_net_does_not_have_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="naming='timm' is none of a ResNet; use one of"):
        torch_weights.write(build(resnet(18)), path, naming="timm")
    assert not path.exists()
