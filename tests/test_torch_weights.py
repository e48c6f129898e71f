import numpy as np
import pytest
import safetensors.numpy

from resnet_jax.config import ModelConfig, validate
from resnet_jax.data import augment, datasets
from resnet_jax.errors import InputError
from resnet_jax.models import registry, torch_names, torch_weights
from resnet_jax.train.evaluator import Evaluator
from resnet_jax.train.setup import Experiment


def resnet20(**fields):
    return registry.build(ModelConfig(depth=20, **fields), channels=3, num_classes=10)


def published(shared):
    return shared / "weights" / "resnet20_cifar10.safetensors"


def test_published_weights_give_the_published_logits(shared):
    model = resnet20(zero_padding="both")
    torch_weights.load_into(model, published(shared))
    expected = np.load(shared / "weights" / "resnet20_cifar10_expected.npz")
    statistics = augment.Normalization.fit(
        "imagenet", datasets.Split(expected["images"], expected["labels"], expected["ids"])
    )
    x = augment.normalize(expected["images"], statistics.mean, statistics.std)
    logits = model(x, train=False)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)


def test_published_weights_predict_what_was_published_on_all_test_images(shared, cifar10_dir):
    config = validate(
        {
            "model": {"zero_padding": "both", "weights": str(published(shared))},
            "data": {"data_dir": str(cifar10_dir), "normalization": "imagenet"},
            "parallel": {"devices": 1},
        }
    )
    experiment = Experiment.prepare(config)
    evaluator = Evaluator(experiment)
    state = experiment.devices.replicate(experiment.state)
    values, seen = evaluator.measure(state, "test")
    predictions = evaluator.predictions(seen)
    expected = np.load(shared / "weights" / "resnet20_cifar10_expected.npz")
    # The stored predictions are in the archive's order, which is that of the sorted names.
    order = np.argsort(predictions["ids"])
    np.testing.assert_array_equal(
        predictions["logits"][order].argmax(-1), expected["predictions_all_test"]
    )
    assert values["error"] == pytest.approx(18.97, abs=1e-4)


def state_dict(model):
    """A state dict of the net's shapes in PyTorch's layout."""
    random = np.random.RandomState(0)
    arrays = {}
    for target in torch_names.targets(model, torch_names.namings(model)[0]):
        arrays[target.name] = random.normal(size=target.shape).astype(np.float32)
    return arrays


def test_missing_and_extra_names_come_back_as_two_lists():
    model = resnet20()
    arrays = state_dict(model)
    del arrays["layer2.0.bn1.weight"]
    arrays["fc.weight"] = np.zeros(3, np.float32)
    arrays["bn1.num_batches_tracked"] = np.zeros((), np.int64)  # has no place and needs none
    report = torch_weights.assign(model, arrays)
    assert report == (["layer2.0.bn1.weight"], ["fc.weight"])


@pytest.mark.parametrize("option", "ABC")
def test_every_array_of_a_net_has_a_name_in_pytorch(option):
    model = resnet20(shortcut=option)
    names = state_dict(model)
    net = registry.functional(model)
    assert sum(x.size for x in names.values()) == sum(
        registry.count_parameters(tree) for tree in (net.params, net.stats)
    )
    assert torch_weights.assign(model, names) == ([], [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"depth": 32}, "missing names"), ({"depth": 20, "width": 2.0}, "has shape")],
)
def test_weights_of_another_net_are_refused_and_change_nothing(tmp_path, fields, message):
    path = tmp_path / "resnet20.safetensors"
    safetensors.numpy.save_file(state_dict(resnet20()), path)
    other = registry.build(ModelConfig(**fields), channels=3, num_classes=10)
    before = np.array(other.stem_conv.kernel[...])
    with pytest.raises(InputError, match=f"another net.*{message}"):
        torch_weights.load_into(other, path)
    np.testing.assert_array_equal(other.stem_conv.kernel[...], before)


def test_a_pth_file_with_a_wrapped_state_dict_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = state_dict(resnet20())
    wrapped = {"state_dict": {f"module.{k}": torch.tensor(v) for k, v in arrays.items()}}
    torch.save(wrapped, tmp_path / "net.pth")
    read = torch_weights.read(tmp_path / "net.pth")
    assert read.keys() == arrays.keys()
    np.testing.assert_array_equal(read["linear.weight"], arrays["linear.weight"])


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pth_file_that_would_run_code_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    canary = tmp_path / "canary"
    torch.save({"state_dict": Malicious(canary)}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="not a plain state dict"):
        torch_weights.read(tmp_path / "net.pth")
    assert not canary.exists()


def test_files_that_are_no_weights_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="absent.safetensors does not exist"):
        torch_weights.read(tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(InputError, match="cut.safetensors is damaged"):
        torch_weights.read(tmp_path / "cut.safetensors")
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="net.onnx is of an unknown kind"):
        torch_weights.read(tmp_path / "net.onnx")


def test_a_pytorch_in_which_weights_could_run_code_is_refused(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    assert list(torch_weights.read(tmp_path / "weights.pth")) == ["conv1.weight"]
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(InputError, match=r"PyTorch 2.9.1\+cpu, .* install 2.10 or newer"):
        torch_weights.read(tmp_path / "weights.pth")
