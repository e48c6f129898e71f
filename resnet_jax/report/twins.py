"""The report's table of twins: a residual net and its plain one on the same test images."""

from collections.abc import Iterator, Sequence
from typing import Any

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import compare, groups, predictions, tables
from resnet_jax.report.records import Run
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tables import Table, number

# Fields of a net that say something of its shortcuts only. Without shortcuts all orders of
# activation are one net.
OF_SHORTCUTS = (
    *("model.residual", "model.shortcut", "model.zero_padding", "model.activation_order"),
    *("model.branch_scale", "model.gate_bias"),
)
COLUMNS = (
    *("plain", "residual", "seed", "n", "test images", "plain: test error %"),
    *("residual: test error %", "residual - plain", "95 % interval"),
    *("only plain wrong", "only residual wrong", "p", "Holm p"),
)


def table(sweep: Sweep) -> Table | None:
    """Residual against plain nets that differ in nothing but shortcuts, seed by seed.

    Returns:
        None if there are no such runs, or none of them has predictions. Predictions that cannot
        be used are named below the table, with the reason.
    """
    return paired(sweep, list(_pairs(sweep)), "twins", "Twins on the same test images", COLUMNS)


def paired(
    sweep: Sweep,
    pairs: Sequence[tuple[Run, Run]],
    name: str,
    title: str,
    columns: tuple[str, ...],
) -> Table | None:
    """A table of pairs of runs, each on the same test images, corrected for their number.

    Args:
        sweep: that they are of.
        pairs: of one seed each; the difference is of the second to the first.
        name: of the table.
        title: of the table.
        columns: as `COLUMNS`, with what the two sides are called.

    Returns:
        None if no run has predictions. Predictions that cannot be used are named below the table,
        with the reason.
    """
    if not any((run.folder / run_folder.PREDICTIONS).exists() for pair in pairs for run in pair):
        return None
    compared = []
    unusable: dict[str, str] = {}
    for pair in pairs:  # two files at a time: those of all runs can be more than fits in memory
        nets = []
        for run in pair:
            try:
                nets.append(predictions.of_the_last_step(run))
            except InputError as error:
                unusable[run.name] = str(error).replace(f"{run.folder}/", "")
        try:
            if len(nets) == 2:
                compared.append((pair, compare.compare(nets)[0].pair))
        except InputError as error:
            unusable[" and ".join(run.name for run in pair)] = str(error)
    corrected = compare.holm([found.p for _, found in compared])
    rows = [
        (
            *(groups.label_of(first), groups.label_of(second), str(first.seed), "1"),
            *(str(found.examples), *map(number, found.errors), *compare.cells(found, holm_p)),
        )
        for ((first, second), found), holm_p in zip(compared, corrected, strict=True)
    ]
    notes = ["One seed a row, so n = 1.", compare.METHOD, compare.FIXED]
    notes += [f"Left out: {name} ({reason})." for name, reason in unusable.items()]
    return Table(
        name=name,
        title=title,
        columns=columns,
        rows=tuple(rows),
        numeric=frozenset(range(2, len(columns))),
        facts=tables.facts(sweep),
        notes=tuple(notes),
    )


def _pairs(sweep: Sweep) -> Iterator[tuple[Run, Run]]:
    """Completed plain and residual runs of one seed that differ in nothing but shortcuts."""
    for plain in sweep.groups:
        for residual in sweep.groups:
            if (plain.family, residual.family) != ("plain", "residual"):
                continue
            if _beside_shortcuts(plain.config) == _beside_shortcuts(residual.config):
                yield from plain.seed_by_seed(residual)


def _beside_shortcuts(config: dict[str, Any]) -> dict[str, Any]:
    options = groups.effective(config).items()
    # `model.shortcut` is also how the fields of its transforms begin.
    return {key: value for key, value in options if not key.startswith(OF_SHORTCUTS)}
