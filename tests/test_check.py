"""Nets wired wrongly on purpose, each of which the check before training has to name."""

import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnet_jax import command, main
from resnet_jax.analysis import check, expected, skips
from resnet_jax.config import ModelConfig, validate
from resnet_jax.errors import InputError, WiringError
from resnet_jax.models import registry, resnet
from resnet_jax.models.blocks import ORDERS, Block, Order
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.parts import Part
from resnet_jax.models.repeated import through
from resnet_jax.models.shortcuts import (
    Addition,
    IdentityShortcut,
    ProjectionShortcut,
    ZeroPadShortcut,
)
from resnet_jax.train import loop
from resnet_jax.train.setup import Experiment
from tests.test_main import DIGITS, ROOT, SHORT, contents

PREACTIVATED = {"activation_order": "full_preactivation"}


@pytest.fixture(autouse=True)
def weights_that_are_quickly_drawn():
    """Which weights they are is of no matter, and threefry takes seconds to compile."""
    with jax.default_prng_impl("rbg"):
        yield


def net(**fields):
    """Two blocks a stage: the first may change the shape, the second never does."""
    config = ModelConfig(depth=14, **fields)
    return config, registry.build(config, channels=3, num_classes=10)


def checked(config, model=None, image=(32, 32, 3), num_classes=10):
    return dict(skips.check(config, image=image, num_classes=num_classes, model=model))


def failure(config, model):
    with pytest.raises(WiringError) as caught:
        checked(config, model)
    (line,) = str(caught.value).splitlines()
    assert "expected" in line and "found" in line
    return line


class Scaled(IdentityShortcut):
    def __call__(self, x, *, train):
        return 0.9 * x


class Rectified(IdentityShortcut):
    def __call__(self, x, *, train):
        return nnx.relu(x)


class Detached(IdentityShortcut):
    def __call__(self, x, *, train):
        return jax.lax.stop_gradient(x)


class Normed(IdentityShortcut):
    def __init__(self, width, numerics):
        self.norm = BatchNorm(width, numerics)

    def __call__(self, x, *, train):
        return self.norm(x, train=train)


class OddPixels(ZeroPadShortcut):
    def __call__(self, x, *, train):
        return super().__call__(jnp.roll(x, -1, (1, 2)), train=train)


class Unstrided(ZeroPadShortcut):
    def __call__(self, x, *, train):
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), self.channels))


class BranchTwice(Addition):
    def __call__(self, branch, shortcut, x, keys, shortcut_scale):
        return branch + branch + shortcut


class ShortcutTwice(Addition):
    def __call__(self, branch, shortcut, x, keys, shortcut_scale):
        return branch + shortcut + shortcut


class Largest(Addition):
    def __call__(self, branch, shortcut, x, keys, shortcut_scale):
        return jnp.maximum(branch, shortcut)


class Halves(Addition):
    def __call__(self, branch, shortcut, x, keys, shortcut_scale):
        half = branch.shape[-1] // 2
        return jnp.concatenate([branch[..., :half], shortcut[..., half:]], -1)


class Concatenated(Addition):
    def __call__(self, branch, shortcut, x, keys, shortcut_scale):
        return jnp.concatenate([branch, shortcut], -1)


def shortcut_is(make):
    return lambda block: setattr(block, "shortcut", make(block))


def added_by(kind):
    def edit(block):
        block.addition, block.norm_adds = kind(), False

    return edit


def ordered(order):
    def edit(block):
        block.order, block.norm_adds = order, False

    return edit


def given_a_shortcut(block):
    block.shortcut, block.addition = nnx.data(IdentityShortcut()), nnx.data(Addition())
    block.norm_adds = True


def numerics(block):
    return block.norms[0].numerics


def projection(block):
    width = block.convs[-1].out_features
    return ProjectionShortcut(
        width, width, 1, numerics(block), normalized=True, rngs=nnx.Rngs(params=0)
    )


FORMULA = r"is not that of ReLU\(F \+ x\)"
MISTAKES = {
    # name: (config, which block of stage 2, what is done to it, what the line says)
    "the ReLU is before the addition": (*({}, 2, ordered(Order(end=("BN", "ReLU"))), FORMULA),),
    "one ReLU more before the addition": (
        *({}, 2, ordered(Order(end=("BN", "ReLU"), after=("ReLU",))), FORMULA),
    ),
    "no shortcut": ({}, 2, shortcut_is(lambda b: None), FORMULA),
    "a shortcut of 0.9": ({}, 2, shortcut_is(lambda b: Scaled()), FORMULA),
    "a projection where the identity belongs": ({}, 2, shortcut_is(projection), FORMULA),
    "BN on the identity": (*({}, 2, shortcut_is(lambda b: Normed(32, numerics(b))), FORMULA),),
    "a ReLU on the shortcut": (
        *(PREACTIVATED, 2, shortcut_is(lambda b: Rectified()), r"is not that of F \+ x"),
    ),
    "a ReLU on the shortcut of a block that ends in one": (
        *({}, 2, shortcut_is(lambda b: Rectified()), FORMULA),
    ),
    "the shortcut starts behind the activation": (
        *(PREACTIVATED, 2, lambda b: setattr(b, "activates_both", True), r"of F \+ x"),
    ),
    "the shortcut starts before the activation": (
        *(PREACTIVATED, 1, lambda b: setattr(b, "activates_both", False)),
        r"of F \+ ReLU\(BN\(x\)\) at every 2nd pixel",
    ),
    "a detached shortcut": (
        *({}, 2, shortcut_is(lambda b: Detached()), "its gradient in training"),
    ),
    "the branch added twice": ({}, 2, added_by(BranchTwice), FORMULA),
    "the shortcut added twice": ({}, 2, added_by(ShortcutTwice), FORMULA),
    "the larger of both": ({}, 2, added_by(Largest), FORMULA),
    "half of each": ({}, 2, added_by(Halves), FORMULA),
    "both side by side": ({}, 2, added_by(Concatenated), "expected the shape 4x4x32"),
    "odd pixels": (
        *({}, 1, shortcut_is(lambda b: OddPixels(16, 32, 2, "end")), "at every 2nd pixel"),
    ),
    "no stride on the shortcut": (
        *({}, 1, shortcut_is(lambda b: Unstrided(16, 32, 2, "end")), "cannot be called"),
    ),
    "zeros on both sides": (
        *({}, 1, shortcut_is(lambda b: ZeroPadShortcut(16, 32, 2, "both")), "zeros for new"),
    ),
    "zeros on one side": (
        *({"zero_padding": "both"}, 1),
        *(shortcut_is(lambda b: ZeroPadShortcut(16, 32, 2, "end")), "zeros for new"),
    ),
    "zeros where a projection belongs": (
        *({"shortcut": "B"}, 1),
        *(shortcut_is(lambda b: ZeroPadShortcut(16, 32, 2, "end")), "expected a projection"),
    ),
    "a shortcut in a plain net": (
        *({"residual": False}, 2, given_a_shortcut, r"is not that of ReLU\(F\)"),
    ),
    "parameters that nothing needs": (
        *({}, 1, lambda b: setattr(b, "unused", nnx.Param(jnp.ones(7))), "found 13,959"),
    ),
    "a gate that is turned around": (
        *({"shortcut_transform": "exclusive_gating"}, 2),
        *(lambda b: setattr(b.addition, "exclusive", False), r"ReLU\(g F \+ \(1 - g\) x\)"),
    ),
    "another scale": (
        *({"shortcut_transform": "constant_scaling", "shortcut_scale": 0.5}, 2),
        *(lambda b: setattr(b.addition, "shortcut_scale", 0.6), r"ReLU\(1 F \+ 0.5 x\)"),
    ),
    "dropout masks of another block": (
        *({"shortcut_transform": "dropout"}, 2),
        *(lambda b: setattr(b.addition, "position", 1), "position 3, found those of 1"),
    ),
    "another dropout rate": (
        *({"shortcut_transform": "dropout"}, 2),
        *(lambda b: setattr(b.addition, "rate", 0.4), r"ReLU\(F \+ dropout\(x\)\)"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_block_wired_wrongly_is_named(mistake):
    fields, number, edit, said = MISTAKES[mistake]
    config, model = net(**fields)
    edit(model.stages[1][number - 1])
    line = failure(config, model)
    assert line.startswith(f"stage 2, block {number}: ") and re.search(said, line), line


def reads_the_stem(blocks, x, **more):
    """The first stage's second block is given what its first was."""
    return through(blocks, stem.setdefault("x", x) if x.shape[-1] == 16 else x, **more)


def adds_the_stem(blocks, x, **more):
    """A path around the whole first stage."""
    y = through(blocks, x, **more)
    first = stem.setdefault("x", x)
    return y + first if first.shape == y.shape and y is not first else y


def uses_the_first_blocks_weights(blocks, x, **more):
    for _ in blocks:
        x = through(blocks[:1], x, **more)
    return x


def leaves_out_a_block(blocks, x, **more):
    return x if blocks[0].convs[0].out_features == 64 and len(stem) else through(blocks, x, **more)


def detaches_between_blocks(blocks, x, **more):
    return jax.lax.stop_gradient(through(blocks, x, **more))


stem = {}


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (reads_the_stem, "stage 1, block 2: expected to read stage 1, block 1 alone, found it"),
        (adds_the_stem, "stage 1, block 2: expected to read stage 1, block 1 alone, found it"),
        (detaches_between_blocks, "stage 1, block 2: expected to read stage 1, block 1 alone"),
    ],
)
def test_a_program_that_joins_blocks_otherwise_is_told_by_the_first_of_them(
    mistake, said, monkeypatch
):
    config, model = net()
    stem.clear()
    monkeypatch.setattr(resnet, "through", lambda *a, **k: mistake(*a, **k))
    assert failure(config, model).startswith(said)


def test_a_block_that_is_called_twice_and_one_that_is_not_are_told(monkeypatch):
    config = ModelConfig(depth=20)
    model = registry.build(config, channels=3, num_classes=10)
    monkeypatch.setattr(resnet, "through", uses_the_first_blocks_weights)
    assert failure(config, model) == ("stage 1, block 2: expected to be called once, found 2 calls")


class InEvaluation(Addition):
    """Right in training, wrong in the program that is read and run in evaluation."""

    def __call__(self, branch, shortcut, x, keys, shortcut_scale):
        return branch + (shortcut if keys is not None else 0.9 * shortcut)


def test_what_only_the_traced_program_does_wrong_is_told_too():
    config, model = net()
    added_by(InEvaluation)(model.stages[1][1])
    assert failure(config, model).startswith(
        "stage 2, block 2: its output in the traced program with a constant F " + "is not that of"
    )


class TwiceInEvaluation(Addition):
    def __call__(self, branch, shortcut, x, keys, shortcut_scale):
        half = branch + shortcut if keys is not None else branch / 2 + (branch / 2 + shortcut)
        return half


def test_a_block_with_an_addition_too_many_is_told_though_it_computes_the_same():
    config, model = net()
    added_by(TwiceInEvaluation)(model.stages[0][1])
    assert failure(config, model) == ("stage 1, block 2: expected 1 addition of two paths, found 2")


def test_a_mistake_in_all_blocks_is_told_by_the_first():
    config, model = net()
    for stage in model.stages:
        for block in stage:
            added_by(BranchTwice)(block)
    assert failure(config, model).startswith("stage 1, block 1: ")


CORRECT = [
    *(
        {"activation_order": order, "shortcut": option}
        for order, option in zip(ORDERS, "ABCAB", strict=True)
    ),
    {"residual": False},
    {"shortcut": "C", "width": 0.5},
    {"shortcut_transform": "constant_scaling", "shortcut_scale": 0.5, "dtype": "bfloat16"},
    {"shortcut_transform": "constant_scaling", "shortcut_scale": 0.0},
    {"shortcut_transform": "annealed_scaling", "shortcut_scale": 0.0, **PREACTIVATED},
    {"shortcut_transform": "exclusive_gating", "shortcut": "B"},
    {"shortcut_transform": "shortcut_only_gating", **PREACTIVATED},
    {"shortcut_transform": "dropout", "zero_padding": "both"},
    {"shortcut": "B", "batch_norm": "frozen"},
    {"block": "basic", "auxiliary_weight": 0.3, "residual": False},
]


@pytest.mark.parametrize("fields", CORRECT, ids=str)
def test_nets_as_configured_pass(fields):
    found = checked(ModelConfig(depth=8, **fields))
    plain = not fields.get("residual", True) or fields.get("shortcut_scale") == 0.0
    if fields.get("shortcut_transform") == "annealed_scaling":
        plain = False
    assert found["additions"] == ("0, as in a plain net" if plain else "3, one a block")
    gradient = found["gradient at the stem, branches detached"]
    assert (gradient == "exactly 0") == plain


@pytest.mark.parametrize(("depth", "want"), [(164, 1_703_258), (1001, 10_327_706)])
def test_the_expected_parameters_of_a_preactivated_net_are_the_published_ones(depth, want):
    # He 2016, Table 4: 1.7M and 10.2M; the exact numbers follow from its Sec. 5 and appendix.
    config = ModelConfig(depth=depth, block="bottleneck", shortcut="B", **PREACTIVATED)
    blocks = expected.places(config)
    within = sum(
        expected.plain_parameters(config, p) + expected.more_parameters(config, p) for p in blocks
    )
    assert within + expected.parameters_outside_blocks(config, 3, 10) == want


def test_the_stages_of_a_bottleneck_net_are_four_times_as_wide():
    found = checked(ModelConfig(depth=11, block="bottleneck", shortcut="B", **PREACTIVATED))
    assert found["stages"] == "32x32x64, 16x16x128, 8x8x256"
    assert found["additions"] == "3, one a block"


SMALL = {"family": "imagenet_resnet", "width": 1 / 16}


def imagenet(**fields):
    config = ModelConfig(**{**SMALL, "depth": 18, **fields})
    return config, registry.build(config, channels=3, num_classes=10)


@pytest.mark.parametrize(
    ("fields", "stages"),
    [
        ({"residual": False, "stem": "3x3"}, "64x64x4, 32x32x8, 16x16x16, 8x8x32"),
        (
            {"depth": 50, "block": "bottleneck", "shortcut": "B", "bottleneck_stride": "3x3"}
            | {"auxiliary_weight": 0.3, **PREACTIVATED},
            "16x16x16, 8x8x32, 4x4x64, 2x2x128",
        ),
    ],
    ids=str,
)
def test_imagenet_nets_as_configured_pass(fields, stages):
    config, model = imagenet(**fields)
    found = checked(config, model, image=(64, 64, 3))
    assert found["stages"] == stages
    blocks = 16 if config.depth == 50 else 8
    plain = not config.residual
    assert found["additions"] == ("0, as in a plain net" if plain else f"{blocks}, one a block")
    assert (found["gradient at the stem, branches detached"] == "exactly 0") == plain


def edit_block(stage, number, edit):
    return lambda model: edit(model.stages[stage - 1][number - 1])


def halves_the_first_stage(model):
    model.stages[0][0].convs[0].strides = 2
    model.stages[0][0].shortcut = ZeroPadShortcut(4, 4, 2, "end")


IMAGENET_MISTAKES = {
    "a shortcut of 0.9 in the last stage": (
        *({}, edit_block(4, 2, shortcut_is(lambda b: Scaled()))),
        rf"stage 4, block 2: .*{FORMULA}",
    ),
    "zeros where a projection belongs": (
        {"shortcut": "B"},
        edit_block(3, 1, shortcut_is(lambda b: ZeroPadShortcut(8, 16, 2, "end"))),
        "stage 3, block 1: expected a projection",
    ),
    "a projection where the stem's width is kept": (
        *({"shortcut": "B"}, edit_block(1, 1, shortcut_is(projection))),
        rf"stage 1, block 1: .*{FORMULA}",
    ),
    "a first block that is activated again": (
        *(PREACTIVATED, edit_block(1, 1, lambda b: setattr(b, "stem_activated", False))),
        "stage 1, block 1: ",
    ),
    "a stem without its max-pool": (
        *({}, lambda model: setattr(model, "stem_pooled", False)),
        "stage 1, block 1: expected a feature map of 16x16x4, found 32x32x4",
    ),
    "a first stage that halves": (
        *({}, halves_the_first_stage),
        "stage 1, block 1: .*expected the shape 16x16x4, found 8x8x4",
    ),
    # By hand: 596 in the stem, 608, 2,080, 8,192 and 32,512 in the stages, 330 in the head.
    "a stem of 3x3 pixels": (
        {},
        lambda model: setattr(model, "stem_conv", imagenet(stem="3x3")[1].stem_conv),
        "the net: expected 44,318 parameters, found 43,838",
    ),
    "a block too many": (
        *({}, lambda model: model.stages[2].append(model.stages[2][1])),
        r"stages 1 to 4: expected \[2, 2, 2, 2\] blocks in them, found \[2, 2, 3, 2\]",
    ),
}


@pytest.mark.parametrize("mistake", IMAGENET_MISTAKES)
def test_a_mistake_in_an_imagenet_net_is_named(mistake):
    fields, edit, said = IMAGENET_MISTAKES[mistake]
    config, model = imagenet(**fields)
    edit(model)
    with pytest.raises(WiringError) as caught:
        checked(config, model, image=(64, 64, 3))
    (line,) = str(caught.value).splitlines()
    assert re.match(said, line), line


def test_a_net_without_blocks_is_not_checked_and_says_why(caplog):
    model = {"family": "vgg", "depth": 11, "residual": False, "width": 1 / 16}
    config = validate({"model": model, "data": {"name": "digits"}})
    with pytest.raises(InputError, match="'vgg' has no blocks to be checked or taken apart"):
        check.of_config(config)
    seen = {"seen_shape": (32, 32, 3), "class_names": ("a", "b")}
    experiment = types.SimpleNamespace(config=config, **seen)
    with caplog.at_level("INFO", "resnet_jax"):
        check.before_training(experiment, lambda: False)
    assert caplog.messages == ["skips are not checked: a VGG net has none"]
    experiment.seen_shape = (8, 8, 1)
    with pytest.raises(InputError, match="images of 8x8 pixels are too small"):
        check.before_training(experiment, lambda: False)
    caplog.clear()
    experiment.config = validate({"model": {"family": "mobilenet_v3", "variant": "small"}})
    with caplog.at_level("INFO", "resnet_jax"):
        check.before_training(experiment, lambda: False)
    assert caplog.messages == [
        "skips are not checked: those of MobileNetV3-Small are of another kind"
    ]


def test_a_path_around_all_blocks_is_told_though_each_reads_the_right_one(monkeypatch):
    config, model = net()
    parts = resnet.ResNet.parts
    around = Part("around", lambda y: y + jnp.sin(y))
    monkeypatch.setattr(
        *(resnet.ResNet, "parts"),
        lambda self, **more: [*parts(self, **more)[:-2], around, *parts(self, **more)[-2:]],
    )
    assert failure(config, model) == (
        "outside of the blocks: expected no addition of two paths, found 1"
    )


def test_option_a_has_the_parameters_of_the_plain_twin_and_its_identities_pass_all_gradient():
    residual, plain = checked(ModelConfig()), checked(ModelConfig(residual=False))
    assert residual["parameters"] == "269,722, as the plain twin, as published"
    assert plain["parameters"] == residual["parameters"]
    assert residual["Jacobians that are the identity where F is 0"] == "7, exactly"
    assert residual["stages"] == "32x32x16, 16x16x32, 8x8x64"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "synthetic"])
def test_images_are_known_without_the_data_set(name):
    known = {"cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100)}
    known |= {"digits": ((8, 8, 1), 10), "synthetic": ((32, 32, 3), 10)}
    assert expected.image(validate({"data": {"name": name}}).data) == known[name]


def test_a_check_that_is_asked_to_stop_ends():
    answers = iter([False, False])
    passed = skips.check(
        ModelConfig(), image=(32, 32, 3), num_classes=10, should_stop=lambda: next(answers, True)
    )
    assert [row.name for row in passed] == ["seconds"]


def miswired(self, config, *arguments, **more):
    initialise(self, config, *arguments, **more)
    if more["position"] == 1:
        self.shortcut = Scaled()


initialise = Block.__init__


def test_training_ends_before_anything_is_written_and_the_command_with_code_1(
    tmp_path, monkeypatch, capfd
):
    config = validate(
        {"model": {"depth": 14}, "data": {"name": "digits"}, "parallel": {"devices": 1}}
    )
    monkeypatch.setattr(Block, "__init__", miswired)
    with pytest.raises(WiringError, match="stage 1, block 2: "):
        loop.train(config, tmp_path / "run", examine=check.before_training)
    assert contents(tmp_path) == {}

    def run(arguments):
        raise WiringError("stage 1, block 2: expected x, found y")

    monkeypatch.setattr(sys, "argv", ["main.py"])
    with pytest.raises(SystemExit) as leave:
        command.run(run)
    assert leave.value.code == 1
    assert capfd.readouterr().err == "error: stage 1, block 2: expected x, found y\n"


def test_training_checks_the_net_unless_told_not_to(tmp_path, monkeypatch):
    checked, examined = [], []
    monkeypatch.setattr(skips, "check", lambda model, **more: checked.append(more) or [])
    monkeypatch.setattr(
        loop, "train", lambda *a, examine, **k: examined.append(examine) or {"state": "completed"}
    )
    monkeypatch.setattr(main, "_config_and_workdir", lambda given: (validate({}), tmp_path))
    monkeypatch.setattr(main, "_trains_together", lambda: False)
    monkeypatch.setattr(main, "_MODE", type("Flag", (), {"value": "train"}))
    monkeypatch.setattr(main, "_WORKDIR", type("Flag", (), {"value": None}))
    monkeypatch.setattr(main.terminal, "print_outcome", lambda *a: None)
    main.main(["main.py"])
    (examine,) = examined
    for on in (True, False):
        data = {"name": "digits"}
        config = validate({"data": data, "train": {"check": on}, "parallel": {"devices": 1}})
        examine(Experiment.prepare(config), lambda: False)
    (only,) = checked
    assert only["image"] == (8, 8, 1) and only["num_classes"] == 10


def test_the_command_prints_what_was_found_and_how_long_it_took(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax.analysis.check", DIGITS, SHORT[0]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for words in ("3, one a block", "8x8x16, 4x4x32, 2x2x64", "seconds"):
        assert words in done.stdout


def test_the_command_without_a_net_says_what_to_give():
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax.analysis.check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config is missing")


def test_the_constant_branch_is_what_it_is_said_to_be():
    # By hand: a 3x3 kernel whose only input is a ReLU of BN with scale 0 and bias 1.
    config, model = net(**PREACTIVATED)
    block = model.stages[1][1]
    from resnet_jax.analysis import reference

    constant = np.arange(32, dtype=np.float32)
    values, branch = reference.silenced(
        config, jax.device_get(nnx.to_pure_dict(nnx.state(block))), constant
    )
    ones = np.ones((1, 4, 4, 32), np.float32)
    kernel = values["convs"][1]["kernel"]
    y = jax.lax.conv_general_dilated(
        ones, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_array_equal(y, np.broadcast_to(constant, y.shape))
    np.testing.assert_array_equal(branch, constant)
