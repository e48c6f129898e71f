"""Fields that would have no effect, which would stand in the run's record all the same."""

import dataclasses
from typing import Any

from resnet_jax.errors import InputError


def require_default(group: Any, prefix: str, name: str, reason: str) -> None:
    """Refuses a field that has no effect.

    Args:
        group: that it belongs to, for example a `ModelConfig`.
        prefix: the group's name, for example "model".
        name: of the field.
        reason: what makes it have none, after "with".

    Raises:
        InputError: if it is not at its default.
    """
    (field,) = [field for field in dataclasses.fields(group) if field.name == name]
    value = getattr(group, name)
    if value != field.default:
        raise InputError(
            f"config.{prefix}.{name}={_told(value)} has no effect with {reason}; leave it at "
            f"{_told(field.default)}"
        )


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
