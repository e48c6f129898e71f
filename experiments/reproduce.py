"""The papers' CIFAR-10 tables and figures, run by run, in as many pieces as it takes.

    python -m experiments.reproduce --table=he2015_table6
    python -m experiments.reproduce --table=he2015_fig6 --minutes=9               # and again
    python -m experiments.reproduce --table=he2015_fig6 --iterations=4000 --width=0.5 --depths=20,56

Runs are begun in the order of what they tell: every net with the first seed before any with the
second, depths 20, 56 and 110 before those between, each plain net after its residual twin. After
`--minutes` all save and end with exit code 75, and the same command goes on. A run's folder is all
that this takes, and at the papers' widths no file in it has more than 16 MB, so it can be carried
to wherever an accelerator is. Runs that shall be compared are of one commit: train in a clone or
worktree of their own.

`--iterations` below the papers' 64,000 scales the learning rate's drops with it and nothing else
(warm-ups stay as long as they are), `--width` the channels of all layers. Such runs have a folder,
and later a table's rows, for themselves.

`python -m experiments.reproduced FOLDER` keeps what is finished (docs/reproduction.md).
"""

import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments import ambiguities, command_line, degradation, preactivation, shortcut_variants
from experiments.grid import Row, Rows
from resnet_jax import command
from resnet_jax.report import recipes

ITERATIONS: int = recipes.CIFAR["train.steps"]
MILESTONES: tuple[int, ...] = recipes.CIFAR["optimizer.milestones"]
# Of a run: records of training, few enough to be kept, looks at the signals, the last of them after
# the last step, and at most so many evaluations and checkpoints.
RECORDS, MOMENTS, EVALUATIONS = 400, 16, 64
LEAST_EVAL_INTERVAL, LEAST_CHECKPOINT_INTERVAL = 250, 100


class Table(NamedTuple):
    """What a table or figure is measured with.

    Attributes:
        folder: of its runs; tables that share runs share it.
        rows: of its grid.
        depths: in the order in which they are begun.
        families: the same.
    """

    folder: str
    rows: Rows
    depths: tuple[int, ...]
    families: tuple[str, ...] = ("residual", "plain")


HE_2015 = ("he2015", degradation.GRID.rows)
TABLES = {
    "he2015_table6": Table(*HE_2015, (20, 56, 110, 32, 44), ("residual",)),
    "he2015_fig6": Table(*HE_2015, (20, 56, 110, 32, 44)),
    "he2015_fig7": Table(*HE_2015, (20, 56, 110)),
    "he2016_table1": Table("he2016_table1", shortcut_variants.rows, (110,), ("residual",)),
    "he2016_table2": Table("he2016_table2", preactivation.rows, (110, 164), ("residual",)),
    "ambiguities": Table("ambiguities", ambiguities.rows, (20,), ("residual",)),
}


def recipe(iterations: int, width: float) -> dict[str, Any]:
    """The papers' schedule, brought to a number of iterations, and how often a run is looked at."""
    return {
        "model.width": width,
        "train.steps": iterations,
        "optimizer.milestones": tuple(m * iterations // ITERATIONS for m in MILESTONES),
        "train.eval_interval": max(iterations // EVALUATIONS, LEAST_EVAL_INTERVAL),
        "train.checkpoint_interval": max(iterations // EVALUATIONS, LEAST_CHECKPOINT_INTERVAL),
        "train.keep_checkpoints": 1,
        "log.interval": max(iterations // RECORDS, 1),
        "log.signals_interval": max(iterations // MOMENTS, 1),
    }


def rows(
    table: Table, *, depths: Sequence[int], iterations: int, width: float, seeds: Sequence[int]
) -> Iterator[Row]:
    """A table's runs, in the order in which they are begun."""
    for seed, depth in itertools.product(seeds, depths):
        for name, overrides in table.rows(depths=[depth], families=table.families, seeds=[seed]):
            yield Row(name, {**overrides, **recipe(iterations, width)})


# The names of sweeps' folders.
FOLDER = re.compile(
    rf"(?P<folder>{'|'.join({table.folder: None for table in TABLES.values()})})"
    r"(_(?P<iterations>\d+)_iterations)?(_width_(?P<width>\d+(\.\d+)?))?"
)


def folder_name(table: Table, iterations: int, width: float) -> str:
    """Where its runs lie, below the sweep's folder."""
    length = f"_{iterations}_iterations" if iterations != ITERATIONS else ""
    return table.folder + length + (f"_width_{width:g}" if width != 1 else "")


def rows_below(name: str, depths: Sequence[int], seeds: Sequence[int]) -> list[Row] | None:
    """The runs that belong into a sweep's folder, of all tables that share it.

    Args:
        name: of the folder.
        depths: of the nets.
        seeds: one run each.

    Returns:
        None if no sweep's folder is called so.
    """
    match = FOLDER.fullmatch(name)
    if match is None:
        return None
    made = {
        row.name: row
        for table in TABLES.values()
        if table.folder == match["folder"]
        for row in rows(
            table,
            depths=depths,
            iterations=int(match["iterations"] or ITERATIONS),
            width=float(match["width"] or 1),
            seeds=seeds,
        )
    }
    return list(made.values())


def main() -> None:
    """The command line."""
    sweep = command_line.SweepCommand(
        "reproduce", "configs/cifar_resnet20.py", (0, 1, 2), in_order=True
    )
    name = flags.DEFINE_enum("table", None, sorted(TABLES), "What to reproduce.", required=True)
    iterations = flags.DEFINE_integer(
        "iterations", ITERATIONS, "Of each run; the papers' schedule is scaled to it.", 4, 10**7
    )
    width = flags.DEFINE_float("width", 1.0, "Of all layers, as a factor.", 0.0625, 8.0)
    depths = flags.DEFINE_list("depths", [], "Of the nets; the table's if not given.")

    def work(argv: list[str]) -> None:
        del argv
        table = TABLES[name.value]
        wanted = list(
            rows(
                table,
                depths=command_line.numbers("depths", depths.value) or table.depths,
                iterations=iterations.value,
                width=width.value,
                seeds=sweep.seeds,
            )
        )
        sweep.require_effects(wanted)
        sys.exit(sweep.work_below(wanted, folder_name(table, iterations.value, width.value)))

    command.run(work)


if __name__ == "__main__":
    main()
