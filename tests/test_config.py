import ast
import dataclasses
import json
import pathlib
import re
import typing

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from resnet_jax.config import (
    DataConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    SyntheticConfig,
    TrainConfig,
    TransferConfig,
    check,
    default_config,
    differences,
    field_names,
    load_json,
    records_signals,
    resolve_block_loop,
    resolve_steps_per_call,
    stage_sizes,
    swin_heads,
    to_json,
    validate,
)
from resnet_jax.errors import InputError

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "resnet_jax"


def refusal(**groups):
    with pytest.raises(InputError) as caught:
        validate(groups)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_default_config_is_valid_and_every_field_stands_in_it():
    assert validate(default_config()) == RunConfig()
    assert validate({}) == RunConfig()


def test_given_fields_are_taken_and_the_others_keep_their_defaults():
    run = validate({"model": {"depth": 56}, "data": {"synthetic": {"classes": 3}}})
    assert (run.model.depth, run.data.synthetic.classes) == (56, 3)
    assert run.model == dataclasses.replace(ModelConfig(), depth=56)
    assert run.train == TrainConfig()


def test_a_config_dict_and_a_plain_mapping_give_the_same_run():
    tree = {"optimizer": {"milestones": (5, 9)}, "model": {"residual": False}}
    assert validate(ml_collections.ConfigDict(tree)) == validate(tree)


def test_a_validated_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        validate({}).model.depth = 56


@pytest.mark.parametrize(
    ("tree", "given", "nearest"),
    [
        ({"optimizer": {"lerning_rate": 0.1}}, "optimizer.lerning_rate", "optimizer.learning_rate"),
        ({"model": {"depht": 20}}, "model.depht", "model.depth"),
        ({"train": {"learning_rate": 0.1}}, "train.learning_rate", "optimizer.learning_rate"),
        ({"batch_size": 64}, "batch_size", "train.batch_size"),
        ({"data": {"synthetic": {"class": 3}}}, "data.synthetic.class", "data.synthetic.classes"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest_one(tree, given, nearest):
    message = refusal(**tree)
    assert f"config.{given} is not a field" in message
    assert f"did you mean config.{nearest}?" in message


def test_an_unknown_field_that_resembles_none_is_answered_with_the_groups():
    message = refusal(zzzzzzzz=1)
    assert "config.zzzzzzzz is not a field" in message
    for group in ("model", "data", "optimizer", "train", "parallel", "log"):
        assert group in message


@pytest.mark.parametrize(
    ("group", "field", "value", "kind"),
    [
        ("model", "depth", "20", "a whole number"),
        ("model", "depth", 20.0, "a whole number"),
        ("model", "depth", True, "a whole number"),
        ("model", "depth", None, "a whole number"),
        ("model", "residual", 1, "True or False"),
        ("model", "residual", "False", "True or False"),
        ("model", "width", "wide", "a number"),
        ("model", "width", True, "a number"),
        ("data", "data_dir", 3, "a string"),
        ("optimizer", "milestones", 32_000, "a tuple of whole numbers"),
        ("optimizer", "milestones", "12", "a tuple of whole numbers"),
        ("optimizer", "milestones", (1.5, 2), "a tuple of whole numbers"),
        ("optimizer", "milestones", (True, 2), "a tuple of whole numbers"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_field_and_value(group, field, value, kind):
    message = refusal(**{group: {field: value}})
    assert f"config.{group}.{field} must be {kind}" in message
    assert repr(value) in message


@pytest.mark.parametrize("tree", [{"model": 3}, {"data": {"synthetic": "small"}}])
def test_a_value_where_a_group_of_fields_belongs_is_refused(tree):
    assert "must be a group of fields" in refusal(**tree)


@pytest.mark.parametrize(
    ("hint", "value", "taken"),
    [
        (tuple[str, ...], ["cat", "dog"], ("cat", "dog")),
        (tuple[float, ...], (9, 0.5), (9.0, 0.5)),
        (tuple[int, ...], [], ()),
    ],
)
def test_a_tuple_is_taken_with_items_of_its_type(hint, value, taken):
    got = check._typed(value, hint)
    assert got == taken and [type(item) for item in got] == [type(item) for item in taken]


@pytest.mark.parametrize(
    ("hint", "value", "kind"),
    [
        (tuple[str, ...], (1, "cat"), "a tuple of strings"),
        (tuple[str, ...], "cat", "a tuple of strings"),
        (tuple[float, ...], ("9", 1), "a tuple of numbers"),
        (tuple[float, ...], (True, 1), "a tuple of numbers"),
        (tuple[float, ...], 9.0, "a tuple of numbers"),
    ],
)
def test_a_tuple_with_items_of_another_type_is_refused(hint, value, kind):
    limits = {"allowed": (), "min": None, "max": None}
    with pytest.raises(InputError, match=f"config.group.field must be {kind}, got ") as caught:
        check._checked("group.field", value, hint, limits)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "field", "taken"),
    [
        (["--config.data.classes=('cat','dog')"], "classes", ("cat", "dog")),
        (["--config.data.classes=cat", "--config.data.classes=dog"], "classes", ("cat", "dog")),
        (["--config.data.classes=()"], "classes", ()),
        (["--config.data.class_ratios=(9,0.5)"], "class_ratios", (9.0, 0.5)),
        (["--config.data.class_ratios=[9, 1]"], "class_ratios", (9.0, 1.0)),
    ],
)
def test_an_empty_tuple_can_be_overridden_on_the_command_line(arguments, field, taken):
    values, argv = flags.FlagValues(), ["main.py", *arguments]
    config_flags.DEFINE_config_dict("config", default_config(), flag_values=values, sys_argv=argv)
    values(argv)
    assert getattr(validate(values.config).data, field) == taken


@pytest.mark.parametrize("classes", [("cat",), ("cat,dog",), ("cat", "dog", "cat")])
def test_classes_must_be_two_or_more_and_different(classes):
    message = refusal(data={"classes": classes})
    assert "config.data.classes must name two or more classes, each once" in message
    assert str(classes) in message


@pytest.mark.parametrize("ratio", [0, -1, float("inf"), float("nan")])
def test_a_ratio_of_classes_must_be_positive_and_finite(ratio):
    message = refusal(data={"class_ratios": (9, ratio)})
    assert f"config.data.class_ratios must be a number above 0, got {ratio:g}" in message


@pytest.mark.parametrize("resampling", ["none", "over", "under"])
def test_an_alpha_without_mixtures_is_refused(resampling):
    message = refusal(data={"mixup_alpha": 0.4, "resampling": resampling})
    assert "config.data.mixup_alpha=0.4 has no effect" in message and repr(resampling) in message
    assert validate({"data": {"mixup_alpha": 0.4, "resampling": "mixup"}}).data.mixup_alpha == 0.4


@pytest.mark.parametrize("resampling", ["over", "under", "mixup"])
def test_class_weights_after_resampling_are_refused_for_they_are_all_one(resampling):
    message = refusal(data={"resampling": resampling}, train={"class_weights": "balanced"})
    assert "config.train.class_weights='balanced' has no effect" in message
    assert validate({"train": {"class_weights": "balanced"}}).data.resampling == "none"


def test_every_item_of_a_tuple_must_keep_the_limits():
    limits = {"allowed": ("cat", "dog"), "min": None, "max": None}
    with pytest.raises(InputError, match="every item of config.group.field must be one of 'cat'"):
        check._checked("group.field", ("cat", "cow"), tuple[str, ...], limits)
    limits = {"allowed": (), "min": 0, "max": 1}
    with pytest.raises(InputError, match="every item of config.group.field must be at most 1, got"):
        check._checked("group.field", (0.5, 2), tuple[float, ...], limits)


def test_a_whole_number_is_taken_where_a_number_belongs():
    width = validate({"model": {"width": 2}}).model.width
    assert width == 2.0 and isinstance(width, float)


@pytest.mark.parametrize(
    ("group", "field", "value", "limit"),
    [
        ("model", "depth", 7, "at least 8"),
        ("model", "width", 0, "at least 0.0625"),
        ("model", "batch_norm_decay", 1.5, "at most 1"),
        ("data", "val_fraction", -0.1, "at least 0"),
        ("data", "val_fraction", 0.95, "at most 0.9"),
        ("data", "crop_padding", -1, "at least 0"),
        ("optimizer", "learning_rate", -0.1, "at least 0"),
        ("optimizer", "learning_rate", float("nan"), "at least 0"),
        ("optimizer", "momentum", 1.1, "at most 1"),
        ("optimizer", "warmup_error", 101.0, "at most 100"),
        ("train", "steps", 0, "at least 1"),
        ("train", "batch_size", 0, "at least 1"),
        ("train", "seed", -1, "at least 0"),
        ("train", "seed", 2**31, "at most 2.14748e+09"),
        ("parallel", "devices", -1, "at least 0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_limit(group, field, value, limit):
    message = refusal(**{group: {field: value}})
    assert f"config.{group}.{field} must be {limit}" in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("group", "field", "choices"),
    [
        ("model", "shortcut", ("A", "B", "C")),
        (
            "model",
            "activation_order",
            (
                "original",
                "bn_after_addition",
                "relu_before_addition",
                "relu_only_preactivation",
                "full_preactivation",
            ),
        ),
        ("data", "name", ("digits", "cifar10", "cifar100", "synthetic")),
        ("optimizer", "schedule", ("step", "cosine", "constant")),
        ("parallel", "mapping", ("shard_map", "pmap")),
    ],
)
def test_a_choice_that_does_not_exist_is_answered_with_those_that_do(group, field, choices):
    message = refusal(**{group: {field: "other"}})
    assert f"config.{group}.{field} must be one of" in message
    assert "'other'" in message
    for choice in choices:
        assert repr(choice) in message
        assert getattr(getattr(validate({group: {field: choice}}), group), field) == choice


@pytest.mark.parametrize(
    ("block", "depth", "formula", "nearest"),
    [
        ("basic", 57, "6n + 2", (56, 62)),
        ("basic", 9, "6n + 2", (8, 14)),
        ("basic", 1001, "6n + 2", (998, 1004)),
        ("bottleneck", 8, "9n + 2", (11, 20)),
        ("bottleneck", 165, "9n + 2", (164, 173)),
        ("bottleneck", 1202, "9n + 2", (1199, 1208)),
    ],
)
def test_a_depth_that_no_whole_number_of_blocks_gives_is_answered_with_the_nearest(
    block, depth, formula, nearest
):
    message = refusal(model={"block": block, "depth": depth})
    assert f"config.model.depth must be {formula}" in message
    assert f"got {depth}" in message
    assert f"the nearest are {nearest[0]} and {nearest[1]}" in message
    for depth in nearest:
        assert validate({"model": {"block": block, "depth": depth}}).model.depth == depth


@pytest.mark.parametrize(
    ("depth", "block", "n"),
    [
        # He et al. 2015, Table 6 and He et al. 2016, Sec. 5.
        (20, "basic", 3),
        (32, "basic", 5),
        (44, "basic", 7),
        (56, "basic", 9),
        (110, "basic", 18),
        (1202, "basic", 200),
        (164, "bottleneck", 18),
        (1001, "bottleneck", 111),
    ],
)
def test_the_papers_depths_have_the_papers_blocks_in_each_stage(depth, block, n):
    assert stage_sizes(ModelConfig(depth=depth, block=block)) == (n, n, n)


IMAGENET = {"family": "imagenet_resnet"}
VGG = {"family": "vgg", "residual": False, "depth": 16}


@pytest.mark.parametrize(
    ("depth", "block", "sizes"),
    [
        # He et al. 2015, Table 1; 200 is He et al. 2016's.
        (18, "basic", (2, 2, 2, 2)),
        (34, "basic", (3, 4, 6, 3)),
        (50, "bottleneck", (3, 4, 6, 3)),
        (101, "bottleneck", (3, 4, 23, 3)),
        (152, "bottleneck", (3, 8, 36, 3)),
        (200, "bottleneck", (3, 24, 36, 3)),
    ],
)
def test_the_papers_imagenet_nets_have_the_papers_stages(depth, block, sizes):
    model = validate({"model": {**IMAGENET, "depth": depth, "block": block}}).model
    assert stage_sizes(model) == sizes
    # Two or three convolutions a block, the stem's and the head: that is what "depth" counts.
    assert sum(sizes) * {"basic": 2, "bottleneck": 3}[block] + 2 == depth
    other = {"basic": "bottleneck", "bottleneck": "basic"}[block]
    message = refusal(model={**IMAGENET, "depth": depth, "block": other})
    assert f"config.model.block='{other}' does not go with config.model.depth={depth}" in message
    assert f"use '{block}'" in message


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_a_vgg_nets_depth_counts_its_convolutions_and_three_layers_more(depth):
    # Simonyan and Zisserman 2015, Table 1.
    assert sum(stage_sizes(validate({"model": {**VGG, "depth": depth}}).model)) + 3 == depth


@pytest.mark.parametrize(
    ("model", "allowed", "nearest"),
    [
        ({**IMAGENET, "depth": 19}, "18, 34, 50, 101, 152, 200", 18),
        ({**IMAGENET, "depth": 20}, "18, 34, 50, 101, 152, 200", 18),
        ({**IMAGENET, "depth": 110, "block": "bottleneck"}, "18, 34, 50, 101, 152, 200", 101),
        ({**VGG, "depth": 18}, "11, 13, 16, 19", 19),
        ({**VGG, "depth": 12}, "11, 13, 16, 19", 11),
    ],
)
def test_a_depth_that_a_family_does_not_have_is_answered_with_the_nearest(model, allowed, nearest):
    message = refusal(model=model)
    assert f"config.model.depth must be one of {allowed} with" in message
    assert message.endswith(f"got {model['depth']}; the nearest is {nearest}")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"stem": "3x3"}, "stem='3x3' has no effect.*'cifar_resnet'; leave it at ''"),
        ({"batch_norm": "none"}, "'none' is for config.model.family='vgg' or 'swin'; use 'frozen'"),
        ({**VGG, "residual": True}, "a VGG net has no shortcuts; use False"),
        ({**VGG, "shortcut": "B"}, "shortcut='B' has no effect.*'vgg'; leave it at 'A'"),
        ({**VGG, "block": "bottleneck"}, "block='bottleneck' has no effect"),
        ({**VGG, "activation_order": "full_preactivation"}, "activation_order='full.* no effect"),
        ({**VGG, "zero_padding": "both"}, "zero_padding='both' has no effect"),
        ({**VGG, "bottleneck_stride": "3x3"}, "bottleneck_stride='3x3' has no effect"),
        ({**VGG, "stem": "3x3"}, "stem='3x3' has no effect"),
        ({**VGG, "auxiliary_weight": 0.3}, "auxiliary_weight=0.3 has no effect"),
        ({**VGG, "shortcut_transform": "dropout"}, "has no effect without shortcuts"),
        ({**VGG, "shortcut_scale": 0.5}, "shortcut_scale=0.5 has no effect"),
        (
            {**VGG, "batch_norm": "none", "batch_norm_decay": 0.99},
            "batch_norm_decay=0.99 has no effect with config.model.batch_norm='none'.*at 0.9",
        ),
        (
            {**VGG, "batch_norm": "none", "batch_norm_epsilon": 1e-3},
            "batch_norm_epsilon=0.001 has no effect",
        ),
    ],
)
def test_a_field_that_a_family_does_not_read_is_refused(model, message):
    assert re.search(message, refusal(model=model))


@pytest.mark.parametrize("train", [{"block_loop": "always"}, {"recompute_blocks": True}], ids=str)
def test_what_is_done_to_blocks_is_refused_of_a_net_that_has_none(train):
    ((name, value),) = train.items()
    message = refusal(model=VGG, train=train)
    assert f"config.train.{name}={value!r} has no effect with config.model.family='vgg'" in message


MOBILENET = {"family": "mobilenet_v3", "variant": "large"}
SWIN = {"family": "swin", "variant": "tiny", "batch_norm": "none"}


@pytest.mark.parametrize("model", [VGG, MOBILENET, SWIN], ids=lambda model: model["family"])
def test_a_net_without_blocks_is_not_looked_at_while_it_trains(model):
    assert records_signals(validate({})) and not records_signals(validate({"model": model}))
    assert not resolve_block_loop(validate({"model": model}), accelerator=True)


@pytest.mark.parametrize(
    ("family", "variants"),
    [("mobilenet_v3", ("large", "small")), ("swin", ("tiny", "small", "base"))],
)
def test_a_family_without_depths_asks_for_one_of_its_variants(family, variants):
    batch_norm = "none" if family == "swin" else "synced"
    model = {"family": family, "batch_norm": batch_norm}
    for variant in ("", "large", "small", "tiny", "base"):
        if variant in variants:
            assert validate({"model": {**model, "variant": variant}}).model.variant == variant
            continue
        message = refusal(model={**model, "variant": variant})
        choices = ", ".join(map(repr, variants))
        assert message == (
            f"config.model.variant must be one of {choices} with config.model.family={family!r}, "
            f"got {variant!r}"
        )
    assert "config.model.variant must be one of '', 'large'" in refusal(model={"variant": "huge"})


@pytest.mark.parametrize("model", [{}, {**IMAGENET, "depth": 18}, VGG], ids=str)
def test_a_family_with_depths_has_no_variants(model):
    message = refusal(model={**model, "variant": "small"})
    assert re.search("variant='small' has no effect.*; leave it at ''$", message)


def test_the_papers_variants_have_the_papers_blocks_in_each_stage():
    # Howard et al. 2019, Tables 1 and 2, have 15 and 11 rows "bneck".
    assert stage_sizes(ModelConfig(**MOBILENET)) == (1, 2, 3, 6, 3)
    assert stage_sizes(ModelConfig(**{**MOBILENET, "variant": "small"})) == (1, 2, 5, 3)
    # Liu et al. 2021, Sec. 3.3.
    assert stage_sizes(ModelConfig(**SWIN)) == (2, 2, 6, 2)
    for variant in ("small", "base"):
        assert stage_sizes(ModelConfig(**{**SWIN, "variant": variant})) == (2, 2, 18, 2)


UNREAD = {
    "depth": 50,
    "block": "bottleneck",
    "activation_order": "full_preactivation",
    "shortcut": "B",
    "shortcut_transform": "dropout",
    "zero_padding": "both",
    "bottleneck_stride": "3x3",
    "stem": "3x3",
    "auxiliary_weight": 0.3,
}


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("model", [MOBILENET, SWIN], ids=lambda model: model["family"])
def test_what_is_said_of_resnets_alone_is_refused_of_nets_with_variants(model, name):
    message = refusal(model={**model, name: UNREAD[name]})
    assert message.startswith(f"config.model.{name}=") and "has no effect with" in message
    assert f"config.model.family='{model['family']}'; leave it at" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": {**MOBILENET, "residual": False}},
            "residual=False, but MobileNetV3-Large has shortcuts in any case; use True with",
        ),
        (
            {"model": {**SWIN, "residual": False}},
            "residual=False, but Swin-T has shortcuts in any case; use True with",
        ),
        ({"model": {**SWIN, "shortcut_scale": 0.5}}, "shortcut_scale=0.5 has no effect"),
        (
            {"model": {**SWIN, "batch_norm": "synced"}},
            "batch_norm='synced', but Swin-T has layer norm instead; use 'none' with",
        ),
        ({"model": {**SWIN, "batch_norm_decay": 0.99}}, "batch_norm_decay=0.99 has no effect"),
        ({"model": {**SWIN, "batch_norm_epsilon": 1e-3}}, "batch_norm_epsilon=0.001 has no effect"),
        (
            {"model": {**MOBILENET, "batch_norm": "none"}},
            "'none' is for config.model.family='vgg' or 'swin'; use 'frozen'",
        ),
        (
            {"model": {**SWIN, "width": 0.5}},
            "width=0.5 gives 48 channels in the first stage of Swin-T; use a width that gives a "
            "multiple of 32, or a whole number below it",
        ),
        ({"model": {**SWIN, "width": 0.1}}, "width=0.1 gives 9.6 channels"),
        (
            {"model": SWIN, "train": {"block_loop": "always"}},
            "config.train.block_loop='always' has no effect with config.model.family='swin'",
        ),
        (
            {"model": MOBILENET, "train": {"block_loop": "always"}},
            "block_loop='always' has no effect with config.model.family='mobilenet_v3'",
        ),
        (
            {"model": SWIN, "train": {"reestimation_batches": 5}},
            "reestimation_batches=5 has no effect with config.model.batch_norm='none'",
        ),
    ],
    ids=str,
)
def test_what_a_net_with_variants_cannot_be_is_refused_in_one_line(fields, message):
    found = refusal(**fields)
    assert message in found and "\n" not in found


def test_heads_of_a_swin_transformer_are_32_wide_and_one_of_less():
    def heads(variant, width):
        return swin_heads(ModelConfig(**{**SWIN, "variant": variant, "width": width}))

    assert heads("tiny", 1.0) == (96, 3) and heads("base", 1.0) == (128, 4)
    assert heads("tiny", 1 / 3) == (32, 1) and heads("small", 2.0) == (192, 6)
    assert heads("tiny", 1 / 4) == (24, 1) and heads("base", 1 / 16) == (8, 1)


def test_blocks_of_nets_with_variants_may_be_computed_again():
    for model in (MOBILENET, SWIN):
        assert validate({"model": model, "train": {"recompute_blocks": True}})


def test_nets_are_called_what_the_papers_call_them():
    variants = {"large": "MobileNetV3-Large", "tiny": "Swin-T", "small": "Swin-S", "base": "Swin-B"}
    for model in (MOBILENET, *({**SWIN, "variant": v} for v in ("tiny", "small", "base"))):
        assert ModelConfig(**model).net == variants[model["variant"]]
    assert ModelConfig(**{**MOBILENET, "variant": "small"}).net == "MobileNetV3-Small"
    assert ModelConfig(**VGG).net == "VGG-16" and ModelConfig().net == "ResNet-20"
    assert ModelConfig(residual=False).net == "plain-20"


def test_a_width_that_gives_a_fraction_of_a_filter_is_refused():
    assert validate({"model": {**IMAGENET, "depth": 18, "width": 65 / 64}}).model.width == 65 / 64
    assert "multiple of 1/64" in refusal(model={**IMAGENET, "depth": 18, "width": 1.01})
    message = refusal(model={"width": 1.03})
    assert "config.model.width=1.03" in message and "16.48 filters" in message
    assert validate({"model": {"width": 0.0625}}).model.width == 0.0625


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shortcut_scale": 0.5}, "shortcut_scale=0.5 has no effect.*'constant_scaling' or"),
        ({"branch_scale": 0.5, "shortcut_transform": "dropout"}, "branch_scale=0.5 has no effect"),
        ({"gate_bias": 0.0, "shortcut_transform": "dropout"}, "gate_bias=0 has no.*leave it at -6"),
        ({"shortcut_dropout": 0.1}, "shortcut_dropout=0.1 has no effect.*'identity'"),
        (
            {"shortcut_scale_end": 0.0, "shortcut_transform": "constant_scaling"},
            "shortcut_scale_end=0 has no effect.*use 'annealed_scaling'",
        ),
        ({"shortcut_transform": "annealed_scaling"}, "shortcut_scale_end=1 is where"),
        ({"shortcut_transform": "dropout", "residual": False}, "has no effect without shortcuts"),
    ],
)
def test_a_field_of_the_shortcut_that_would_have_no_effect_is_refused(fields, message):
    assert re.search(message, refusal(model=fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"shortcut_transform": "constant_scaling", "shortcut_scale": 0.5, "branch_scale": 0.5},
        {"shortcut_transform": "annealed_scaling", "shortcut_scale": 0},
        {"shortcut_transform": "annealed_scaling", "shortcut_scale_end": 0.5, "branch_scale": 2},
        {"shortcut_transform": "exclusive_gating", "gate_bias": 0},
        {"shortcut_transform": "shortcut_only_gating", "gate_bias": -7.0},
        {"shortcut_transform": "dropout", "shortcut_dropout": 0.1},
    ],
)
def test_each_transform_of_the_shortcut_takes_its_own_fields(fields):
    model = validate({"model": fields}).model
    assert {name: getattr(model, name) for name in fields} == fields


@pytest.mark.parametrize("milestones", [(48_000, 32_000), (10, 10), (0, 10), (-5,)])
def test_milestones_that_do_not_increase_from_one_are_refused(milestones):
    message = refusal(optimizer={"milestones": milestones})
    assert "config.optimizer.milestones must be positive and increasing" in message
    assert str(milestones) in message


def test_no_milestones_and_a_list_of_them_are_allowed():
    assert validate({"optimizer": {"milestones": ()}}).optimizer.milestones == ()
    assert validate({"optimizer": {"milestones": [3, 7]}}).optimizer.milestones == (3, 7)


@pytest.mark.parametrize(
    ("per_call", "tree", "name", "value"),
    [
        (7, {}, "train.steps", 64_000),
        (16, {}, "train.eval_interval", 1_000),
        (8, {"train": {"checkpoint_interval": 12}}, "train.checkpoint_interval", 12),
        (50, {"log": {"interval": 20}}, "log.interval", 20),
    ],
)
def test_steps_in_one_call_must_divide_every_interval(per_call, tree, name, value):
    tree = {**tree, "train": {**tree.get("train", {}), "steps_per_call": per_call}}
    message = refusal(**tree)
    assert f"config.train.steps_per_call={per_call} does not divide" in message
    assert f"config.{name}={value}" in message


def test_the_chosen_steps_in_one_call_divide_every_interval_and_are_one_on_a_cpu():
    run = validate({"train": {"steps": 400, "eval_interval": 60, "checkpoint_interval": 100}})
    # gcd(400, 60, 100, 100) = 20
    assert resolve_steps_per_call(run, accelerator=True) == 20
    assert resolve_steps_per_call(run, accelerator=False) == 1


def test_given_steps_in_one_call_are_used_on_every_device():
    run = validate({"train": {"steps_per_call": 10}})
    assert resolve_steps_per_call(run, accelerator=True) == 10
    assert resolve_steps_per_call(run, accelerator=False) == 10


def test_a_config_survives_the_way_through_its_file(tmp_path):
    run = validate(
        {
            "model": {"depth": 164, "block": "bottleneck", "width": 0.5, "residual": False},
            "optimizer": {"milestones": (3, 7), "learning_rate": 1e-3, "warmup": "until_error"},
            "data": {
                "synthetic": {"classes": 3},
                "data_dir": "some/where",
                "classes": ("class 2", "class 0"),
                "class_ratios": (9, 1),
            },
            "train": {"seed": 7},
        }
    )
    path = tmp_path / "config.json"
    path.write_text(to_json(run))
    assert load_json(path) == run
    assert json.loads(path.read_text())["optimizer"]["milestones"] == [3, 7]


@pytest.mark.parametrize("text", ["garbage", "", '{"model": {"depth": 20}', "[1, 2]", "3"])
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError):
        load_json(path)


def test_a_missing_or_binary_config_file_is_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match="config.json"):
        load_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="config.json"):
        load_json(path)


def test_differences_are_told_as_old_and_new_value():
    old = validate({"model": {"depth": 20}})
    new = validate({"model": {"depth": 56}, "data": {"synthetic": {"classes": 3}}})
    assert differences(old, new) == ["model.depth: 20 -> 56", "data.synthetic.classes: 10 -> 3"]
    assert differences(old, old) == []


def test_fields_that_do_not_change_the_result_are_no_difference_unless_asked_for():
    old = RunConfig()
    new = RunConfig(
        data=DataConfig(data_dir="elsewhere"),
        train=TrainConfig(eval_interval=7, checkpoint_interval=9, keep_checkpoints=1, check=False),
        parallel=ParallelConfig(mapping="pmap", devices=2),
        log=LogConfig(interval=3, tensorboard=False, progress=False),
    )
    assert differences(old, new) == []
    assert "parallel.mapping: 'shard_map' -> 'pmap'" in differences(old, new, operational=True)
    assert len(differences(old, new, operational=True)) == 10


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("model", {"weights": "a.safetensors"}),
        ("data", {"split_seed": 1}),
        ("data", {"train_on": "train+val"}),
        ("data", {"classes": ("cat", "dog")}),
        ("data", {"positive_class": "cat"}),
        ("data", {"class_ratios": (9, 1)}),
        ("data", {"resampling": "over"}),
        ("train", {"class_weights": "balanced"}),
        ("optimizer", {"warmup_steps": 1}),
        ("train", {"seed": 1}),
        ("train", {"batch_size": 64}),
        ("train", {"steps": 32_000}),
    ],
)
def test_fields_that_change_the_result_are_a_difference(group, change):
    ((name, _),) = change.items()
    (line,) = differences(RunConfig(), validate({group: change}))
    assert line.startswith(f"{group}.{name}: ")


CLASSES = {
    cls.__name__: cls
    for cls in (
        RunConfig,
        ModelConfig,
        DataConfig,
        SyntheticConfig,
        TransferConfig,
        OptimizerConfig,
        TrainConfig,
        ParallelConfig,
        EvaluationConfig,
        LogConfig,
    )
}


class _Reads(ast.NodeVisitor):
    """Which fields are read from expressions whose type is known from annotations."""

    def __init__(self):
        self.found = set()
        self.types = {}

    def type_of(self, node):
        if isinstance(node, ast.Name):
            return self.types.get(node.id)
        if isinstance(node, ast.Attribute):
            hints = typing.get_type_hints(self.type_of(node.value) or object)
            if node.attr in hints:
                return hints[node.attr] if dataclasses.is_dataclass(hints[node.attr]) else None
            # The only configs that are kept as an attribute are those of whole runs.
            return RunConfig if node.attr == "config" else None
        return None

    def visit_FunctionDef(self, node):
        outer = dict(self.types)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            if isinstance(argument.annotation, ast.Name):
                self.types[argument.arg] = CLASSES.get(argument.annotation.id)
        self.generic_visit(node)
        self.types = outer

    def visit_Assign(self, node):
        self.generic_visit(node)
        (target,) = node.targets
        pairs = [(target, node.value)]
        tuples = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
        if tuples and not any(isinstance(part, ast.Starred) for part in node.value.elts):
            pairs = zip(target.elts, node.value.elts, strict=True)
        for name, value in pairs:
            if isinstance(name, ast.Name):
                self.types[name.id] = self.type_of(value)

    def visit_Attribute(self, node):
        owner = self.type_of(node.value)
        if owner:
            self.found.add((owner, node.attr))
        self.generic_visit(node)


def fields_read(source):
    visitor = _Reads()
    tree = ast.parse(source)
    visitor.visit(tree)
    return visitor.found


def test_every_field_is_read_by_some_code():
    read = set()
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "config" / "check.py":  # checks fields and does nothing with them
            read |= fields_read(path.read_text())
    unread = [
        f"{cls.__name__}.{field.name}"
        for cls in CLASSES.values()
        for field in dataclasses.fields(cls)
        if (cls, field.name) not in read
    ]
    assert unread == []


def test_the_search_for_reads_tells_fields_of_one_name_apart():
    source = (
        "def f(config: DataConfig, other: int):\n"
        "    return config.name, other.depth\n"
        "def g(run: RunConfig):\n"
        "    train, n = run.train, 3\n"
        "    return train.steps\n"
    )
    assert fields_read(source) == {
        (DataConfig, "name"),
        (RunConfig, "train"),
        (TrainConfig, "steps"),
    }


def test_every_class_of_fields_is_covered_by_that_search():
    leaves = sum(
        not dataclasses.is_dataclass(hint)
        for cls in CLASSES.values()
        for hint in typing.get_type_hints(cls).values()
    )
    assert leaves == len(field_names()) == len(set(field_names()))


@pytest.mark.parametrize("data", [{"train_on": "train+val"}, {"val_fraction": 0.0}])
def test_a_plateau_without_a_validation_split_is_refused(data):
    message = refusal(data=data, optimizer={"schedule": "plateau"})
    assert "config.optimizer.schedule='plateau' follows the error on val" in message
    assert "use 'step'" in message


@pytest.mark.parametrize("field", ["plateau_patience", "plateau_improvement"])
def test_what_concerns_plateaus_is_refused_with_other_schedules(field):
    message = refusal(optimizer={field: 7})
    assert f"config.optimizer.{field}=7 has no effect" in message and "'step'" in message
    validate({"optimizer": {field: 7, "schedule": "plateau"}})


@pytest.mark.parametrize("field", ["momentum", "nesterov"])
def test_what_concerns_sgd_is_refused_with_adamw(field):
    message = refusal(optimizer={"name": "adamw", field: True if field == "nesterov" else 0.5})
    assert f"config.optimizer.{field}=" in message
    assert "has no effect with config.optimizer.name='adamw'" in message


def test_statistics_that_stay_as_they_are_are_not_measured_anew():
    message = refusal(model={"batch_norm": "frozen"}, train={"reestimation_batches": 5})
    assert "config.train.reestimation_batches=5 has no effect" in message
    message = refusal(model={"batch_norm_decay": 1.0}, train={"reestimation_batches": 5})
    assert "not possible with config.model.batch_norm_decay=1" in message
