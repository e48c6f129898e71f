"""What the commands that read predictions share: one line for a mistake, tables, one file."""

import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence

import rich.console
import rich.measure
import rich.table
import rich.text

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.report import groups, tables
from resnet_jax.report.predictions import Predictions
from resnet_jax.report.tables import Table


def answer(work: Callable[[], None]) -> int:
    """Does a command's work; returns the exit code, after one line if the input was bad."""
    try:
        work()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def check_out(path: pathlib.Path | None, endings: Sequence[str]) -> None:
    """Refuses a file to be written by its ending, before any work is done.

    Raises:
        InputError: if it has none of `endings`.
    """
    if path is not None and path.suffix not in endings:
        raise InputError(f"--out={path} must end in {' or '.join(endings)}")


def write(path: pathlib.Path, content: object) -> None:
    """Writes text as it is, anything else as JSON.

    Raises:
        InputError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            run_folder.write_text(path, content)
        else:
            run_folder.write_json(path, content)
    except OSError as error:
        raise InputError(f"--out={path} cannot be written: {error}; choose another") from error


def show(shown: Iterable[Table], notes: Iterable[str] = ()) -> None:
    """Prints tables, what holds for each, and notes; in a pipe tables are as wide as they need."""
    console = rich.console.Console(highlight=False, markup=False)
    for table in shown:
        grid = rich.table.Table(title=rich.text.Text(table.title))
        for number, name in enumerate(table.columns):
            kind = "right" if number in table.numeric else "left"
            grid.add_column(rich.text.Text(name), justify=kind, overflow="fold")  # type: ignore[arg-type]
        for row in table.rows:
            grid.add_row(*map(rich.text.Text, row))
        if not console.is_terminal:
            free = console.options.update(max_width=10_000)
            console.width = rich.measure.Measurement.get(console, free, grid).maximum
        console.print(grid)
        console.print(rich.text.Text(table.caption), soft_wrap=True)
    for note in notes:
        console.print(rich.text.Text(note), soft_wrap=True)


def origin(nets: Sequence[Predictions]) -> dict[str, str]:
    """What a table says of the origin of nets' numbers, as `tables.facts`."""
    runs = [net.run for net in nets if net.run]
    return tables.origin(
        [groups.commit_of(run) for run in runs],
        [groups.dataset_of([run]) for run in runs],
        sorted({name for run in runs for name in groups.hardware_of(run)}),
    )


def unusual_steps(nets: Sequence[Predictions]) -> list[str]:
    """A sentence on the nets that are not what their runs ended with; none if all are."""
    told = [
        f"{net.name} (step {'unknown' if net.step is None else net.step})"
        for net in nets
        if net.run is None or net.step != net.run.steps
    ]
    return [f"Not, or not known to be, of a run's last step: {', '.join(told)}."] if told else []
