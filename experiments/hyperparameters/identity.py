"""Whether a study that is there is of this very search."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from experiments.hyperparameters.space import SearchPlan
from resnet_jax.config import RunConfig, differences, validate


def of(plan: SearchPlan, config: RunConfig) -> dict[str, Any]:
    """What is kept of a search to know it again, as plain data.

    Args:
        plan: of the search.
        config: of its base.
    """
    told = {"plan": plan.as_dict(), "config": dataclasses.asdict(config)}
    return dict(json.loads(json.dumps(told)))


def changes(before: Mapping[str, Any], plan: SearchPlan, config: RunConfig) -> list[str]:
    """In what a search differs from one that is kept, a line each.

    Args:
        before: as `of` made it.
        plan: of the search.
        config: of its base.
    """
    lines = _differences(before["plan"], plan.as_dict())
    base = validate(before["config"])
    lines += [f"base {line}" for line in differences(base, config)]
    intervals = base.train.eval_interval, config.train.eval_interval
    # When val is looked at decides what the pruner knows and what a mean is taken over.
    if intervals[0] != intervals[1] and base.optimizer.schedule != "plateau":
        lines.append(f"base train.eval_interval: {intervals[0]} -> {intervals[1]}")
    return lines


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two nested values differ, as 'space.model.depth.int: [20, 56] -> [20, 110]'."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{path.lstrip('.')}: {old!r} -> {new!r}"]
    return [
        line
        for key in dict.fromkeys((*old, *new))
        for line in _differences(old.get(key), new.get(key), f"{path}.{key}")
    ]
