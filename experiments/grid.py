"""What a grid is: named runs, each a few changes to one base config."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Row(NamedTuple):
    """One run of a grid.

    Attributes:
        name: of its folder, `<label>-seed<seed>`; runs with one label differ in the seed alone.
        overrides: dotted config fields and their values.
    """

    name: str
    overrides: dict[str, Any]


class Rows(Protocol):
    """Builds a grid's rows."""

    def __call__(
        self, *, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]
    ) -> list[Row]:
        """One row for each run."""


class Grid(NamedTuple):
    """A grid and its defaults.

    Attributes:
        name: of the sweep's folder.
        base: path of the config file that all runs share.
        rows: builds the rows.
        depths: of the nets.
        families: 'plain', 'residual' or both.
        seeds: one run each.
    """

    name: str
    base: str
    rows: Rows
    depths: tuple[int, ...] = (20, 56, 110)
    families: tuple[str, ...] = ("plain", "residual")
    seeds: tuple[int, ...] = (0, 1, 2)
