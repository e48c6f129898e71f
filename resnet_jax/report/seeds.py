"""The report's table of ensembles: the seeds of each label, averaged."""

from resnet_jax.errors import InputError
from resnet_jax.report import averaging, predictions, tables
from resnet_jax.report.sweep import Sweep
from resnet_jax.report.tables import Table, number

COLUMNS = (
    *("label", "n", "members: mean test error %", "together: test error %", "95 % interval"),
    *("together - mean", "disagreement %"),
)
NOTES = (
    "Together: the class with the highest mean softmax over the seeds.",
    "Interval: Wilson's, over the test images, for these nets.",
    "Disagreement: images that two seeds put into different classes, mean over pairs.",
)


def table(sweep: Sweep) -> Table | None:
    """What the seeds of each label predict together, against each alone.

    Returns:
        None if no label has two seeds with predictions. Labels whose predictions cannot be used are
        named below the table, with the reason.
    """
    rows, notes = [], list(NOTES)
    for group in sweep.groups:
        try:
            nets = [predictions.of_the_last_step(run) for run in group.runs]
            if len(nets) < 2:
                continue
            found = averaging.combine(nets)
        except InputError as error:
            reason = str(error)
            for run in group.runs:
                reason = reason.replace(f"{run.folder}/", f"{run.name}: ")
            notes.append(f"Left out: {group.label} ({reason}).")
            continue
        mean = sum(member.error for member in found.members) / len(nets)
        together = found.together
        rows.append(
            (
                *(group.label, str(len(nets)), number(mean), number(together.error)),
                f"{together.low:.2f} to {together.high:.2f}",
                f"{together.error - mean:+.2f}",
                number(100 * found.mean_disagreement),
            )
        )
    if not rows:
        return None
    return Table(
        name="seeds",
        title="Seeds together",
        columns=COLUMNS,
        rows=tuple(rows),
        numeric=frozenset(range(1, len(COLUMNS))),
        facts=tables.facts(sweep),
        notes=tuple(notes),
    )
