"""`make demo`: ResNet-20 and its plain twin on scikit-learn's digits, then a table and a figure.

python -m experiments.demo [--workdir=runs/demo]
"""

import pathlib
import subprocess
import sys

import rich.console
import rich.table
from absl import app, flags

from resnet_jax.report import figures, records

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Where the runs and the figure go.")


def main(argv: list[str]) -> None:
    """Trains both nets, or goes on with them, and shows what came out."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    folders = [workdir / name for name in ("plain20", "resnet20")]
    for folder in folders:
        command = [
            *(sys.executable, "-m", "resnet_jax.main", "--config=configs/digits.py"),
            f"--workdir={folder}",
            f"--config.model.residual={folder.name == 'resnet20'}",
        ]
        print("$", " ".join(["python", *command[1:]]), flush=True)
        # Each run's own tables would repeat what is shown below.
        status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        if status:
            sys.exit(status)
    runs = [records.load(folder) for folder in folders]
    rich.console.Console().print(_table(runs))
    picture = workdir / "curves.png"
    figures.save(figures.training_curves(runs), picture)
    print(f"curves: {picture}")


def _table(runs: list[records.Run]) -> rich.table.Table:
    table = rich.table.Table(title="digits, one seed, 400 steps of 128 images")
    for heading in ("net", "parameters", "training error %", "val error %", "test error %"):
        table.add_column(heading, justify="left" if heading == "net" else "right")
    for run in runs:
        assert run.evaluation is not None, f"{run.folder} has not been evaluated"
        splits = run.evaluation["splits"]
        table.add_row(
            run.net,
            f"{run.status['parameters']:,}",
            f"{run.status['train_error']:.2f}",
            f"{splits['val']['error']:.2f}",
            f"{splits['test']['error']:.2f}",
        )
    return table


if __name__ == "__main__":
    app.run(main)
