"""From a mapping to a `RunConfig`, or to one line that says which field is wrong and how."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any, cast

import ml_collections

from resnet_jax.config import families, tracking, transfer
from resnet_jax.config.effects import require_default
from resnet_jax.config.net import TRANSFORM_FIELDS, ModelConfig
from resnet_jax.config.resolve import intervals
from resnet_jax.config.schema import (
    STREAMED,
    DataConfig,
    RunConfig,
)
from resnet_jax.errors import InputError


def validate(config: ml_collections.ConfigDict | Mapping[str, Any]) -> RunConfig:
    """Checks every field and the relations between fields.

    Args:
        config: nested mapping; missing fields take their defaults.

    Returns:
        The frozen configuration of the run.

    Raises:
        InputError: on the first field that is unknown, of the wrong type or out of range.
    """
    tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    run = cast(RunConfig, _build(RunConfig, tree, ""))
    _check_relations(run)
    return run


def _build(cls: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        name = f"config.{prefix}".rstrip(".")
        raise InputError(f"{name} must be a group of fields, got {tree!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in tree:
        if name not in fields:
            raise InputError(unknown_field(f"{prefix}{name}"))
    values = {}
    for name in tree:
        path = f"{prefix}{name}"
        if dataclasses.is_dataclass(hints[name]):
            values[name] = _build(cast(type, hints[name]), tree[name], f"{path}.")
        else:
            values[name] = _checked(path, tree[name], hints[name], fields[name].metadata)
    return cls(**values)


def field_names(cls: type = RunConfig, prefix: str = "") -> list[str]:
    """The dotted names of all fields: 'model.depth', 'data.synthetic.examples', ..."""
    names = []
    for name, hint in typing.get_type_hints(cls).items():
        nested = dataclasses.is_dataclass(hint)
        names += field_names(cast(type, hint), f"{prefix}{name}.") if nested else [prefix + name]
    return names


def unknown_field(path: str) -> str:
    """The message for a field that does not exist, with the nearest one that does."""
    names = field_names()
    leaves = [name for name in names if name.rsplit(".")[-1] == path.rsplit(".")[-1]]
    near = leaves or difflib.get_close_matches(path, names, n=1, cutoff=0.5)
    groups = sorted({name.split(".")[0] for name in names})
    hint = f"did you mean config.{near[0]}?" if near else f"the groups are {', '.join(groups)}"
    return f"config.{path} is not a field; {hint}"


def _checked(path: str, value: Any, hint: Any, limits: Mapping[str, Any]) -> Any:
    typed = _typed(value, hint)
    if typed is None:
        raise InputError(f"config.{path} must be {_type_name(hint)}, got {value!r}")
    if isinstance(typed, tuple):
        for item in typed:
            _check_limits(f"every item of config.{path}", item, limits)
    else:
        _check_limits(f"config.{path}", typed, limits)
    return typed


def _typed(value: Any, hint: Any) -> Any:
    """The value in its field's type, or None (which no field allows) if it is of another."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            return None
        items = tuple(_typed(item, typing.get_args(hint)[0]) for item in value)
        return None if None in items else items
    if isinstance(value, bool) and hint is not bool:
        return None
    if hint is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, hint) else None


def _check_limits(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    allowed, low, high = limits["allowed"], limits["min"], limits["max"]
    if allowed and value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise InputError(f"{name} must be one of {choices}; got {value!r}")
    if low is not None and not value >= low:
        raise InputError(f"{name} must be at least {low:g}, got {value!r}")
    if high is not None and not value <= high:
        raise InputError(f"{name} must be at most {high:g}, got {value!r}")


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        several = {int: "whole numbers", float: "numbers", str: "strings"}
        return f"a tuple of {several[typing.get_args(hint)[0]]}"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
    return names[hint]


def _check_relations(run: RunConfig) -> None:
    families.check(run)
    _check_shortcut(run.model)
    _check_classes(run.data)
    _check_feed(run)
    if run.train.class_weights != "none" and run.data.resampling != "none":
        raise InputError(
            f"config.train.class_weights={run.train.class_weights!r} has no effect after "
            f"config.data.resampling={run.data.resampling!r}, which leaves all classes equally "
            "large; use 'none' for one of them"
        )
    milestones = run.optimizer.milestones
    if list(milestones) != sorted(set(milestones)) or (milestones and milestones[0] < 1):
        raise InputError(
            f"config.optimizer.milestones must be positive and increasing, got {milestones}"
        )
    _check_recipe(run)
    transfer.check(run)
    tracking.check(run.log)
    if run.train.block_loop == "always" and run.model.has_dropout:
        raise InputError(
            "config.train.block_loop='always' is not possible with "
            "config.model.shortcut_transform='dropout', whose blocks draw masks of their own; use "
            "'auto' or 'never'"
        )
    per_call = run.train.steps_per_call
    for name, value in intervals(run).items():
        if per_call and value % per_call:
            raise InputError(
                f"config.train.steps_per_call={per_call} does not divide config.{name}={value}; "
                "choose a common divisor, or 0 to have one chosen"
            )


def _check_recipe(run: RunConfig) -> None:
    """What the optimizer, its schedule and the evaluated weights rest on."""
    optimizer, data, model = run.optimizer, run.data, run.model
    if optimizer.name != "sgd":
        for name in ("momentum", "nesterov"):
            require_default(
                optimizer, "optimizer", name, f"config.optimizer.name={optimizer.name!r}"
            )
    if optimizer.schedule == "plateau":
        if data.train_on != "train" or not data.val_fraction:
            raise InputError(
                "config.optimizer.schedule='plateau' follows the error on val, which is empty with "
                f"config.data.train_on={data.train_on!r} and config.data.val_fraction="
                f"{data.val_fraction:g}; hold images out, or use 'step'"
            )
    else:
        for name in ("plateau_patience", "plateau_improvement"):
            require_default(
                optimizer, "optimizer", name, f"config.optimizer.schedule={optimizer.schedule!r}"
            )
    if model.batch_norm in ("frozen", "none"):
        reason = f"config.model.batch_norm={model.batch_norm!r}"
        require_default(run.train, "train", "reestimation_batches", reason)
    if run.train.reestimation_batches and model.batch_norm_decay == 1:
        raise InputError(
            f"config.train.reestimation_batches={run.train.reestimation_batches} is not possible "
            "with config.model.batch_norm_decay=1, which takes nothing from a batch; use less"
        )


def _check_classes(data: DataConfig) -> None:
    classes = data.classes
    if len(classes) == 1 or len(set(classes)) < len(classes):
        raise InputError(
            f"config.data.classes must name two or more classes, each once, got {classes}; "
            "for example ('cat','dog'), or () for all"
        )
    for ratio in data.class_ratios:
        if not 0 < ratio < math.inf:
            raise InputError(
                f"every item of config.data.class_ratios must be a number above 0, got {ratio:g}; "
                "to leave out a class use config.data.classes"
            )
    if data.resampling != "mixup":
        require_default(data, "data", "mixup_alpha", f"config.data.resampling={data.resampling!r}")


# What each kind of data set does not read; it stays at its default.
_OF_RESIDENT = ("class_ratios", "resampling", "crop_padding", "crop_fill", "resize")
_OF_STREAMED = ("image_size", "augmentation", "color_deviation", "workers", "max_unreadable")


def _check_feed(run: RunConfig) -> None:
    """Refuses fields of images in memory for streamed ones, and the other way round."""
    data, streamed = run.data, run.data.is_streamed
    kind = "streams its images" if streamed else "holds its images in memory"
    for name in _OF_RESIDENT if streamed else _OF_STREAMED:
        require_default(data, "data", name, f"config.data.name={data.name!r}, which {kind}")
    if not streamed:
        if run.evaluation.crops != "center":
            raise InputError(
                f"config.evaluation.crops={run.evaluation.crops!r} needs streamed images "
                f"({', '.join(STREAMED)}); with config.data.name={data.name!r} use 'center'"
            )
        return
    if data.normalization not in ("imagenet", "none"):
        raise InputError(
            f"config.data.normalization={data.normalization!r} needs statistics of images in "
            f"memory; with config.data.name={data.name!r} use 'imagenet' or 'none'"
        )
    if data.augmentation == "none" and (data.flip or data.color_deviation):
        raise InputError(
            "config.data.augmentation='none' neither mirrors nor colours; set config.data.flip="
            "False and config.data.color_deviation=0 with it, or use another augmentation"
        )
    if data.name == "imagenet2012":
        # Its labels stand in the records, which are only read as they are trained on.
        for field, given, off in (
            ("data.classes", data.classes, ()),
            ("train.class_weights", run.train.class_weights, "none"),
        ):
            if given != off:
                raise InputError(
                    f"config.{field}={given!r} needs all labels before the first step, which "
                    "'imagenet2012' does not have; lay the images out as folders and use "
                    f"config.data.name='image_folder', or leave it at {off!r}"
                )


def _check_shortcut(model: ModelConfig) -> None:
    """Refuses what would have no effect, for it would stand in the run's record all the same."""
    transform = model.shortcut_transform
    if not model.residual and transform != "identity":
        raise InputError(
            f"config.model.shortcut_transform={transform!r} has no effect without shortcuts "
            "(config.model.residual=False); use 'identity'"
        )
    for field in dataclasses.fields(ModelConfig):
        users = [name for name, read in TRANSFORM_FIELDS.items() if field.name in read]
        value = getattr(model, field.name)
        if users and transform not in users and value != field.default:
            raise InputError(
                f"config.model.{field.name}={value:g} has no effect with "
                f"config.model.shortcut_transform={transform!r}; leave it at {field.default:g}, "
                f"or use {' or '.join(map(repr, users))}"
            )
    if transform == "annealed_scaling" and model.shortcut_scale == model.shortcut_scale_end:
        raise InputError(
            f"config.model.shortcut_scale_end={model.shortcut_scale_end:g} is where the annealed "
            "scale already starts (config.model.shortcut_scale); use 'constant_scaling'"
        )
