"""How a field of the configuration states its default and its limits."""

import dataclasses
from typing import Any


def field(
    default: Any,
    *,
    allowed: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    operational: bool = False,
) -> Any:
    """A field with its limits; `operational` ones may change when a run is resumed."""
    limits = {"allowed": allowed, "min": minimum, "max": maximum, "operational": operational}
    return dataclasses.field(default=default, metadata=limits)
