"""Optuna's samplers and pruners by name, with their options checked before anything is written."""

import importlib.util
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from experiments.hyperparameters.space import Named, Range
from resnet_jax.errors import InputError, first_line

# Not to be had from data alone, or for something else than one error of one run.
_OTHERS = {"Base", "BaseGA", "PartialFixed", "NSGAIII", "Nop", "Patient", "Wilcoxon"}
# Given by the search itself, deprecated, or no plain data.
_NO_OPTIONS = {
    *("seed", "search_space", "independent_sampler", "gamma", "weights", "constraints_func"),
    *("mutation", "crossover", "source_trials", "child_generation_strategy"),
    *("elite_population_selection_strategy", "after_trial_strategy", "warn_independent_sampling"),
    *("warn_asynchronous_seeding", "consider_prior", "consider_magic_clip", "consider_endpoints"),
}
_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"int": int, "float": (int, float), "bool": bool, "str": str, "None": type(None)},
    "dict[str, Any]": dict,
}
# Packages that some samplers need and Optuna does not bring.
_PACKAGES = {"CmaEs": "cmaes", "GP": "torch"}
# Points of one sequence or grid: all workers have to draw from the same.
_ONE_SEQUENCE = ("QMC", "Grid")


def _named(module: Any, kind: str) -> dict[str, Any]:
    names = {name.removesuffix(kind): name for name in module.__all__ if name.endswith(kind)}
    return {short: getattr(module, name) for short, name in names.items() if short not in _OTHERS}


SAMPLERS = _named(optuna.samplers, "Sampler")
PRUNERS = {**_named(optuna.pruners, "Pruner"), "None": optuna.pruners.NopPruner}


def sampler(
    named: Named, space: Mapping[str, Range], seed: int, number: int
) -> optuna.samplers.BaseSampler:
    """The sampler of one trial.

    Its seed is the search's with the trial's number: a trial's draw does not depend on which worker
    makes it, and two workers do not draw the same.

    Args:
        named: which, with its options.
        space: that is searched.
        seed: of the search.
        number: of the trial.

    Raises:
        InputError: if there is no such sampler or option, or it needs what is not there.
    """
    if named.name in _PACKAGES and importlib.util.find_spec(_PACKAGES[named.name]) is None:
        package = _PACKAGES[named.name]
        raise InputError(f"sampler {named.name} needs the package {package}: pip install {package}")
    given: dict[str, Any] = {"seed": seed}
    if named.name == "Grid":
        given["search_space"] = {field: _points(field, one) for field, one in space.items()}
    elif named.name not in _ONE_SEQUENCE:
        given["seed"] = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    made: optuna.samplers.BaseSampler = _build("sampler", named, SAMPLERS, given)
    return made


def pruner(named: Named) -> optuna.pruners.BasePruner:
    """A pruner.

    Raises:
        InputError: if there is no such pruner or option.
    """
    made: optuna.pruners.BasePruner = _build("pruner", named, PRUNERS, {})
    return made


def grid_points(space: Mapping[str, Range]) -> int:
    """How many points the grid of a space has."""
    return math.prod(len(_points(field, one)) for field, one in space.items())


def _points(field: str, one: Range) -> list[Any]:
    """All values of a range, as they are stored."""
    if one.kind == "categorical":
        return [stored(value) for value in one.values]
    if one.kind == "int":
        return list(range(one.values[0], one.values[1] + 1, one.step))
    raise InputError(
        f"sampler Grid needs values that can be listed, but space {field} is {one.kind}; use "
        "categorical or int, or another sampler"
    )


def stored(value: Any) -> Any:
    """A choice as Optuna's databases can hold it: tuples as text."""
    return repr(value) if isinstance(value, tuple) else value


def _build(what: str, named: Named, known: Mapping[str, Any], given: dict[str, Any]) -> Any:
    if named.name not in known:
        raise InputError(
            f"{what} must be one of {', '.join(sorted(known))}, got {named.name!r}; see the "
            f"{what}s of https://optuna.readthedocs.io"
        )
    parameters = inspect.signature(known[named.name]).parameters
    options = {name: one for name, one in parameters.items() if name not in _NO_OPTIONS}
    for name, value in named.options.items():
        if name not in options:
            has = ", ".join(options) or "none"
            raise InputError(f"{what} {named.name} has no option {name!r}; its options are {has}")
        kinds = str(options[name].annotation).split(" | ")
        if not any(_is(value, kind) for kind in kinds):
            raise InputError(
                f"{what} {named.name}: {name} must be {' or '.join(kinds)}, got {value!r}"
            )
    for name, one in options.items():
        if one.default is inspect.Parameter.empty and name not in named.options:
            raise InputError(f"{what} {named.name} needs the option {name!r}")
    try:
        with warnings.catch_warnings():
            # What Optuna calls experimental may change between its versions, which are recorded.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return known[named.name](**dict(named.options), **given)
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise InputError(f"{what} {named.name} refuses its options: {first_line(error)}") from error


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, _KINDS[kind]) if kind in _KINDS else True
