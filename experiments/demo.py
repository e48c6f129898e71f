"""`make demo`: the degradation grid on scikit-learn's digits, three seeds, minutes on a CPU.

    python -m experiments.demo --workdir=runs/demo

The config's learning rate is low enough to start every depth at, so none has a warm-up and all
eighteen runs share one recipe to the letter.
"""

from collections.abc import Sequence

from experiments import degradation, run
from experiments.grid import Row


def rows(*, depths: Sequence[int], families: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """The degradation grid's rows without its warm-ups."""
    return [
        row._replace(overrides={**row.overrides, "optimizer.warmup": "none"})
        for row in degradation.rows(depths=depths, families=families, seeds=seeds)
    ]


GRID = degradation.GRID._replace(name="demo", base="configs/digits.py", rows=rows, seeds=(0, 1, 2))

if __name__ == "__main__":
    run.launch(GRID)
