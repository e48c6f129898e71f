"""What a search is told: base config, space, sampler, pruner, as plain data from a file."""

import dataclasses
import importlib.util
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from resnet_jax.config import RunConfig, field_names, unknown_field, validate
from resnet_jax.errors import InputError, first_line

NEEDED = ("base", "space")
DEFAULTS: dict[str, Any] = {
    "changes": {},
    "sampler": {"name": "TPE"},
    "pruner": {"name": "None"},
    "evaluations": 1,
    "seed": 0,
    "trials": 40,
}
KINDS = ("uniform", "log_uniform", "int", "log_int", "categorical")
# They say which images val has: errors on other images cannot be compared.
OF_THE_DATA = (
    *("data.name", "data.data_dir", "data.classes", "data.class_ratios"),
    *("data.val_fraction", "data.split_seed", "data.train_on"),
)


@dataclasses.dataclass(frozen=True)
class Range:
    """What one field may be.

    Attributes:
        kind: one of `KINDS`.
        values: low and high end, both included, and of 'int' perhaps a step; or the choices.
    """

    kind: str
    values: tuple[Any, ...]

    @property
    def is_log(self) -> bool:
        """Whether it is drawn, and best looked at, on a logarithmic scale."""
        return self.kind.startswith("log_")

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that have to be valid: the ends, or every choice."""
        return self.values if self.kind == "categorical" else self.values[:2]

    @property
    def step(self) -> int:
        """Between two whole numbers."""
        return int(self.values[2]) if len(self.values) == 3 else 1

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        if self.kind == "categorical":
            return value in self.values
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low, high = self.values[:2]
        on_grid = not self.kind.endswith("int") or (value - low) % self.step == 0
        return bool(low <= value <= high and on_grid)

    def words(self) -> str:
        """It in a few words."""
        if self.kind == "categorical":
            return f"one of {', '.join(map(repr, self.values))}"
        low, high = self.values[:2]
        by = f" in steps of {self.step}" if self.step > 1 else ""
        return f"{low:g} to {high:g}{by}{' (log)' if self.is_log else ''}"


@dataclasses.dataclass(frozen=True)
class Named:
    """One of Optuna's samplers or pruners.

    Attributes:
        name: of its class, without 'Sampler' or 'Pruner'.
        options: of its constructor.
    """

    name: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """A search, as its file says it.

    Attributes:
        base: path of the config file that all trials share.
        changes: dotted fields that the base is changed in first. What of them is searched is the
            first trial's value, the rest is that of all trials.
        space: what is searched, by dotted field.
        sampler: proposes values.
        pruner: gives up trials that do badly.
        evaluations: over how many of the last ones val's error is averaged.
        seed: of the sampler; the runs' own is `train.seed` of the base.
        trials: how many in all.
    """

    base: str
    changes: Mapping[str, Any]
    space: Mapping[str, Range]
    sampler: Named
    pruner: Named
    evaluations: int
    seed: int
    trials: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as the file has it; without the number of trials, which may grow."""
        plan: dict[str, Any] = {
            "base": self.base,
            "changes": dict(self.changes),
            "space": {name: {one.kind: one.values} for name, one in self.space.items()},
            "sampler": {"name": self.sampler.name, **self.sampler.options},
            "pruner": {"name": self.pruner.name, **self.pruner.options},
            "evaluations": self.evaluations,
            "seed": self.seed,
        }
        return dict(json.loads(json.dumps(plan)))


def read(path: pathlib.Path) -> SearchPlan:
    """Reads a search's file, whose `get_search()` returns plain data; it is executed, as configs.

    Raises:
        InputError: if it cannot be read, or does not say what a search has to.
    """
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InputError(f"--search={path} must be a Python file, as configs/search_plain56.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        given = module.get_search()
    except (OSError, SyntaxError, ImportError, AttributeError, NameError, TypeError) as error:
        raise InputError(f"--search={path} cannot be read: {first_line(error)}") from error
    return parse(given, str(path))


def parse(given: Any, name: str) -> SearchPlan:
    """Makes a plan of plain data.

    Args:
        given: as `get_search()` of a search's file returns it.
        name: of the file, for messages.

    Raises:
        InputError: naming the first thing that is missing, unknown or of another kind.
    """
    given = _mapping(given, f"get_search() of {name}")
    known = (*NEEDED, *DEFAULTS)
    for key in given:
        if key not in known:
            raise InputError(f"{name} has {key!r}; a search has {', '.join(known)}")
    for key in NEEDED:
        if not given.get(key):
            raise InputError(f"{name} has no {key!r}; see configs/search_plain56.py")
    whole = {**DEFAULTS, **given}
    for key, least in (("evaluations", 1), ("seed", 0), ("trials", 1)):
        value = whole[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{key} of {name} must be a whole number from {least}, got {value!r}")
    space = {field: _range(field, one) for field, one in _mapping(given["space"], "space").items()}
    changes = _mapping(whole["changes"], "changes")
    for field in (*space, *changes):
        if field not in field_names():
            raise InputError(unknown_field(str(field)))
    for field in space:
        if field in OF_THE_DATA:
            raise InputError(
                f"space has {field}, which says what val's error is measured on; set it in the base"
            )
    return SearchPlan(
        base=str(given["base"]),
        changes=changes,
        space=space,
        sampler=_named(whole["sampler"], "sampler"),
        pruner=_named(whole["pruner"], "pruner"),
        **{key: whole[key] for key in ("evaluations", "seed", "trials")},
    )


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a dict, got {value!r}")
    return dict(value)


def _named(value: Any, what: str) -> Named:
    value = _mapping(value, what)
    name = value.pop("name", None)
    if not isinstance(name, str):
        raise InputError(f"{what} must have a name, for example {DEFAULTS[what]}, got {value!r}")
    return Named(name, value)


def _range(field: str, value: Any) -> Range:
    where = f"space {field}"
    form = f"one of {', '.join(KINDS)} with its values, as {{'log_uniform': (0.01, 1)}}"
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InputError(f"{where} must be {form}; got {value!r}")
    ((kind, given),) = value.items()
    if kind not in KINDS or not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"{where} must be {form}; got {value!r}")
    values = tuple(tuple(item) if isinstance(item, list) else item for item in given)
    if kind == "categorical":
        if len(values) < 2 or any(item in values[:i] for i, item in enumerate(values)):
            raise InputError(f"{where} must have two or more choices, each once, got {given!r}")
        return Range(kind, values)
    _check_numbers(where, kind, values)
    return Range(kind, values)


def _check_numbers(where: str, kind: str, values: tuple[Any, ...]) -> None:
    wanted: Any = int if kind.endswith("int") else (int, float)
    if len(values) not in ((2, 3) if kind == "int" else (2,)) or not all(
        isinstance(item, wanted) and not isinstance(item, bool) and math.isfinite(item)
        for item in values
    ):
        numbers = "whole numbers" if wanted is int else "numbers"
        step = ", perhaps with a step" if kind == "int" else ""
        raise InputError(f"{where}: {kind} must be two {numbers}{step}, got {values!r}")
    if not values[0] < values[1]:
        raise InputError(f"{where}: the low end must be below the high one, got {values!r}")
    if kind.startswith("log_") and values[0] <= 0:
        raise InputError(f"{where}: {kind} must begin above 0, got {values[0]:g}; use uniform")
    if len(values) == 3 and (values[2] < 1 or (values[1] - values[0]) % values[2]):
        raise InputError(f"{where}: a step of {values[2]} does not lead from {values[0]} to "
                         f"{values[1]}; use a divisor of {values[1] - values[0]}")  # fmt: skip


def check(plan: SearchPlan, base: ml_collections.ConfigDict) -> dict[str, Any]:
    """Holds a plan against its base; returns the base's own values of what is searched.

    Each end of each range is tried on the base, so that a space with values that no run can have
    is refused before anything is written.

    Args:
        plan: of the search.
        base: the config that all trials share, `changes` not yet made.

    Raises:
        InputError: naming the field, if the base's own value is not in the space, a value of the
            space is not valid, or no images are held out for val.
    """
    own = resolve(base, plan.changes)
    if own.data.train_on != "train" or not own.data.val_fraction:
        raise InputError(
            f"a search minimises the error on val, which is empty with config.data.train_on="
            f"{own.data.train_on!r} and config.data.val_fraction={own.data.val_fraction:g}; hold "
            "images out"
        )
    values = {field: value_of(own, field) for field in plan.space}
    for field, one in plan.space.items():
        for end in one.ends:
            try:
                resolve(base, {**plan.changes, field: end})
            except InputError as error:
                raise InputError(f"space {field}: {error}") from error
        if not one.holds(values[field]):
            raise InputError(
                f"space {field} is {one.words()}, which leaves out the base's own "
                f"{values[field]!r}, the first trial; widen it, or set it in changes"
            )
    return values


def resolve(base: ml_collections.ConfigDict, overrides: Mapping[str, Any]) -> RunConfig:
    """The base with some fields changed.

    Args:
        base: is left as it is.
        overrides: values by dotted field.

    Raises:
        InputError: if a field does not exist or a value is not allowed.
    """
    return validate(changed(base, overrides))


def changed(
    base: ml_collections.ConfigDict, overrides: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """As `resolve`, as a mapping that is not yet validated."""
    config = ml_collections.ConfigDict(base.to_dict())
    try:
        config.update_from_flattened_dict(dict(overrides))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(" ".join(str(error).split())) from error
    return config


def value_of(config: RunConfig, field: str) -> Any:
    """A field's value by its dotted name."""
    value: Any = config
    for part in field.split("."):
        value = getattr(value, part)
    return value
