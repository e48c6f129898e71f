"""What a grid is: named runs, each a few changes to one base config."""

from collections.abc import Callable, Sequence
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


# What the nets of a depth share.
Recipe = Callable[[int], dict[str, Any]]

# In labels: the names that the papers give the two kinds of net.
FAMILY_LABELS = {"plain": "plain", "residual": "ResNet"}


def he_2015(depth: int) -> dict[str, Any]:
    """The net of a depth, and its start (He et al. 2015, Sec. 4.2), for plain and residual alike.

    0.1 is too large to start depth 110; there the first steps are made at a tenth of it.
    """
    return {"model.depth": depth, "optimizer.warmup": "until_error" if depth >= 110 else "none"}


def of_depth(depth: int) -> dict[str, Any]:
    """The net of a depth, and nothing else that would differ from the base config."""
    return {"model.depth": depth}


def he_2016(depth: int) -> dict[str, Any]:
    """The net of a depth, and the start of all CIFAR runs of He et al. 2016 (appendix).

    400 iterations at 0.01. Depths 164 and 1001 are made of bottlenecks, whose shortcuts project
    where the shape changes; all others of basic blocks with option A, as in He et al. 2015.
    """
    bottlenecks = depth in (164, 1001)
    return {
        "model.depth": depth,
        "model.block": "bottleneck" if bottlenecks else "basic",
        "model.shortcut": "B" if bottlenecks else "A",
        "optimizer.warmup": "constant",
        "optimizer.warmup_steps": 400,
        "optimizer.warmup_learning_rate": 0.01,
    }


def seeded(label: str, seeds: Sequence[int], overrides: dict[str, Any]) -> list[Row]:
    """A row for each seed."""
    return [Row(f"{label}-seed{seed}", {**overrides, "train.seed": seed}) for seed in seeds]


def nets(
    recipe: Recipe, *, depths: Sequence[int], families: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What each net changes, by its label; as `twins`, without seeds."""
    return {
        f"{FAMILY_LABELS[family]}-{depth}": {
            **recipe(depth),
            "model.residual": family == "residual",
        }
        for depth in depths
        for family in families
    }


def twins(
    recipe: Recipe, *, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]
) -> list[Row]:
    """Every family at every depth with every seed; twins differ in `model.residual` alone.

    Args:
        recipe: all that a depth's nets share.
        depths: of the nets.
        families: 'plain', 'residual' or both.
        seeds: one run each.
    """
    found = nets(recipe, depths=depths, families=families).items()
    return [row for label, net in found for row in seeded(label, seeds, net)]


def variants(
    cases: dict[str, dict[str, Any]],
    *,
    depths: Sequence[int],
    families: Sequence[str],
    seeds: Sequence[int],
) -> list[Row]:
    """Nets of He et al. 2016 that differ in their cases alone.

    Args:
        cases: label and changes of each.
        depths: of the nets.
        families: 'residual' gives all cases; 'plain' adds the plain net of each depth.
        seeds: one run each.
    """
    rows = []
    for depth in depths:
        if "plain" in families:
            rows += seeded(f"plain-{depth}", seeds, {**he_2016(depth), "model.residual": False})
        if "residual" in families:
            for label, changes in cases.items():
                net = {**he_2016(depth), "model.residual": True, **changes}
                rows += seeded(f"{label}-{depth}", seeds, net)
    return rows
