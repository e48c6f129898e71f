import importlib
import pathlib
import pkgutil

import pytest

import configs
from resnet_jax.config import RunConfig, differences, validate
from resnet_jax.errors import InputError
from resnet_jax.train import optimizer

MODULES = sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def module(name):
    return importlib.import_module(f"configs.{name}")


NAMED = [name for name in MODULES if hasattr(module(name), "get_config")]
PLAIN = {f"cifar_plain{depth}": f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110)}
# He et al. 2015, Table 6, and He et al. 2016, Tables 2 to 4:
# depth, residual, block, activation order, shortcut.
PUBLISHED = {
    **{
        f"cifar_resnet{depth}": (depth, True, "basic", "original", "A")
        for depth in (20, 32, 44, 56, 110, 1202)
    },
    **{
        f"cifar_plain{depth}": (depth, False, "basic", "original", "A")
        for depth in (20, 32, 44, 56, 110)
    },
    "cifar_preresnet110": (110, True, "basic", "full_preactivation", "A"),
    "cifar_preresnet164": (164, True, "bottleneck", "full_preactivation", "B"),
    "cifar_preresnet1001": (1001, True, "bottleneck", "full_preactivation", "B"),
}


def changed(old, new):
    """The fields in which two runs differ."""
    return {line.split(":")[0] for line in differences(old, new, operational=True)}


def load(name):
    return validate(module(name).get_config())


@pytest.mark.parametrize("name", NAMED)
def test_every_config_is_valid(name):
    assert isinstance(load(name), RunConfig)


@pytest.mark.parametrize("name", NAMED)
def test_every_config_tells_the_command_that_runs_it(name):
    command = f"python -m resnet_jax.main --config=configs/{name}.py"
    assert command in module(name).__doc__


@pytest.mark.parametrize("name", NAMED)
def test_every_call_gives_a_config_of_its_own(name):
    changed = module(name).get_config()
    changed.model.depth = 8
    assert load(name).model.depth != 8


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_net_has_a_named_config(name):
    model = load(name).model
    given = (model.depth, model.residual, model.block, model.activation_order, model.shortcut)
    assert given == PUBLISHED[name]
    assert model.weights == "" and model.width == 1.0
    assert pathlib.Path(module(name).__file__).name == f"{name}.py"


# Simonyan and Zisserman 2015; He et al. 2015, Table 1: depth, residual, block, shortcut.
IMAGENET = {
    **{f"imagenet_resnet{depth}": (depth, True, "basic", "B") for depth in (18, 34)},
    **{f"imagenet_resnet{depth}": (depth, True, "bottleneck", "B") for depth in (50, 101, 152)},
    **{f"imagenet_plain{depth}": (depth, False, "basic", "A") for depth in (18, 34)},
}


@pytest.mark.parametrize("name", IMAGENET)
def test_every_imagenet_net_has_a_named_config_of_90_epochs(name):
    # Goyal et al. 2017 (arXiv 1706.02677), Sec. 5.1: drops at 30, 60 and 80 of 90 epochs; no decay
    # of BN's parameters; stride in the 3x3 convolution.
    run = load(name)
    given = (run.model.depth, run.model.residual, run.model.block, run.model.shortcut)
    assert given == IMAGENET[name]
    assert run.model.family == "imagenet_resnet" and run.data.name == "imagenet2012"
    assert (run.model.bottleneck_stride == "3x3") == (run.model.block == "bottleneck")
    shares = [milestone / run.train.steps for milestone in run.optimizer.milestones]
    assert shares == pytest.approx([30 / 90, 60 / 90, 80 / 90])
    # To 0.1 %: an epoch is counted as 5,000 steps.
    assert run.train.steps * run.train.batch_size == pytest.approx(90 * 1_281_167, rel=1e-3)
    assert not run.optimizer.decay_batch_norm and run.optimizer.weight_decay == 1e-4
    assert run.data.train_on == "train+val"


def test_a_larger_batch_has_a_rate_in_proportion_a_warm_up_and_as_many_epochs():
    # Goyal et al. 2017, Sec. 2.2: 8,192 images at 3.2, reached in five epochs from 0.1.
    small, large = (validate(module("imagenet_resnet50").get_config(size)) for size in ("", "2048"))
    assert (small.optimizer.learning_rate, small.optimizer.warmup) == (0.1, "none")
    assert large.optimizer.learning_rate == pytest.approx(3.2 * 2048 / 8192)
    assert large.train.steps * 2048 == small.train.steps * 256
    assert large.optimizer.warmup_steps / large.train.steps == pytest.approx(5 / 90)
    peak = optimizer.schedule(large.optimizer, large.train.steps)
    assert float(peak(large.train.steps - 1)) == pytest.approx(0.8 * 1e-3)


@pytest.mark.parametrize("size", ["100", "0", "768", "-256", "a"])
def test_a_batch_that_divides_no_epoch_is_refused(size):
    with pytest.raises(InputError, match=f"256, 512, 1024 or 2048; got {size}"):
        module("imagenet_resnet18").get_config(size)


@pytest.mark.parametrize("depth", [16, 19])
def test_vgg_nets_without_bn_start_at_a_tenth_of_the_rate(depth):
    bare, normalized = (load(f"imagenet_vgg{depth}{kind}") for kind in ("", "_bn"))
    assert changed(bare, normalized) == {"model.batch_norm", "optimizer.learning_rate"}
    assert bare.optimizer.learning_rate == pytest.approx(0.1 * normalized.optimizer.learning_rate)


def test_the_paper_s_imagenet_recipe_is_kept():
    # He et al. 2015, Sec. 3.4 and Table 2.
    run = load("imagenet_he2015_resnet34")
    assert (run.train.batch_size, run.train.steps) == (256, 600_000)
    assert (run.optimizer.learning_rate, run.optimizer.schedule) == (0.1, "plateau")
    assert (run.optimizer.momentum, run.optimizer.weight_decay) == (0.9, 1e-4)
    assert (run.data.augmentation, run.data.image_size) == ("he2015", 224)
    assert (run.model.shortcut, run.evaluation.crops) == ("A", "ten")
    assert changed(run, load("imagenet64_resnet34")) == {"data.image_size"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_nets_follow_the_papers_recipe(name):
    # He et al. 2015, Sec. 4.2.
    run = load(name)
    assert run.optimizer.name == "sgd"
    assert not run.optimizer.nesterov
    assert run.optimizer.learning_rate == 0.1
    assert run.optimizer.momentum == 0.9
    assert run.optimizer.weight_decay == 1e-4
    assert run.optimizer.decay_batch_norm
    assert (run.train.steps, run.train.batch_size) == (64_000, 128)
    assert (run.data.name, run.data.val_fraction, run.data.train_on) == ("cifar10", 0.1, "train")
    assert (run.data.crop_padding, run.data.flip) == (4, True)
    assert run.data.normalization == "pixel_mean"
    rate = optimizer.schedule(run.optimizer, run.train.steps)
    rates = [float(rate(update)) for update in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "warmup"),
    [
        # He et al. 2015, Sec. 4.2: only depth 110 and more needs a smaller rate to start.
        *((f"cifar_resnet{depth}", "none") for depth in (20, 32, 44, 56)),
        *((f"cifar_resnet{depth}", "until_error") for depth in (110, 1202)),
        # He et al. 2016, Sec. 5: 400 iterations at 0.01 for all.
        *((f"cifar_preresnet{depth}", "constant") for depth in (110, 164, 1001)),
    ],
)
def test_deep_nets_start_at_a_tenth_of_the_rate(name, warmup):
    optimizer_config = load(name).optimizer
    assert optimizer_config.warmup == warmup
    if warmup != "none":
        assert optimizer_config.warmup_learning_rate == 0.01
    if warmup == "until_error":
        assert optimizer_config.warmup_error == 80
    if warmup == "constant":
        assert optimizer_config.warmup_steps == 400


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_net_differs_from_its_residual_twin_in_its_shortcuts_alone(name):
    changed = differences(load(PLAIN[name]), load(name), operational=True)
    assert changed == ["model.residual: True -> False"]


def test_digits_are_never_mirrored_and_their_run_is_short():
    run = load("digits")
    assert run.data.name == "digits"
    assert not run.data.flip
    assert run.train.steps <= 1_000
