"""Ensembles of trained nets: the mean of their softmax, from prediction files alone.

    python -m resnet_jax.report.ensemble runs/fig6/ResNet-20-seed0 runs/fig6/ResNet-20-seed1
    python -m resnet_jax.report.ensemble runs/fig6 --out=ensemble.json
    python -m resnet_jax.main --workdir=runs/r56 --mode=evaluate --checkpoint=all
    python -m resnet_jax.report.ensemble runs/r56/predictions-*.npz       # checkpoints of one run

Members are chosen on val; test is measured and never chosen on.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.arguments import Parser
from resnet_jax.report import averaging, predictions, shell
from resnet_jax.report.averaging import Ensemble, Measured
from resnet_jax.report.predictions import Predictions
from resnet_jax.report.tables import NOTHING, Table, number

FIXED = (
    "Intervals: Wilson's, over test images, for the nets as they are; they say nothing of nets of "
    "other seeds."
)
DISAGREEMENT = "Disagreement: share of test images to which two members give different classes."


def as_json(nets: Sequence[Predictions], found: Ensemble) -> dict[str, Any]:
    """Everything as data; numbers that are not there are NaN, with a reason."""
    values = dataclasses.asdict(found)
    alone = "one member has none to differ from" if len(nets) == 1 else ""
    return {
        "notes": [FIXED, DISAGREEMENT],
        "origin": shell.origin(nets),
        **values,
        "members": [
            {"name": net.name, "step": net.step, **member}
            for net, member in zip(nets, values["members"], strict=True)
        ],
        "mean_of_members": _mean_of_members(found),
        "mean_disagreement_reason": alone,
        "selection": {
            **values["selection"],
            "members": [nets[i].name for i in found.selection.members],
        },
    }


def as_table(nets: Sequence[Predictions], found: Ensemble) -> Table:
    """Members, their mean, all together, and the ensemble that val chooses."""
    mean = _mean_of_members(found)
    chosen = found.selection
    rows = [
        *(_row(net.name, member) for net, member in zip(nets, found.members, strict=True)),
        ("mean of members", number(mean["error"]), NOTHING, number(mean["loss"], 4)),
        _row(f"ensemble of all {len(nets)}", found.together),
    ]
    if chosen.test:
        rows.append(_row(f"ensemble of {len(chosen.members)}, chosen on val", chosen.test))
        names = ", ".join(nets[i].name for i in chosen.members)
        told = (
            f"Chosen on val, of {chosen.method}: {names}; val error {number(chosen.val_error)} %, "
            "which is low by choice."
        )
    else:
        told = f"Warning: no members were chosen ({chosen.reason})."
    return Table(
        name="ensemble",
        title=f"Ensemble on {found.together.examples:,} test images",
        columns=("net", "test error %", "95 % interval", "loss"),
        rows=tuple(rows),
        numeric=frozenset((1, 2, 3)),
        facts=shell.origin(nets),
        notes=(*shell.unusual_steps(nets), FIXED, told),
    )


def disagreement_table(nets: Sequence[Predictions], found: Ensemble) -> Table:
    """Pairs of members, and how often they differ."""
    rows = [
        (nets[i].name, nets[j].name, number(found.disagreement[i][j], 4))
        for i, j in itertools.combinations(range(len(nets)), 2)
    ]
    rows.append(("mean of pairs", "", number(found.mean_disagreement, 4)))
    return Table(
        name="disagreement",
        title="Disagreement",
        columns=("a", "b", "share"),
        rows=tuple(rows),
        numeric=frozenset((2,)),
        facts=shell.origin(nets),
        notes=(DISAGREEMENT,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures an ensemble and prints what it found; returns the exit code."""
    parser = Parser(
        prog="python -m resnet_jax.report.ensemble",
        description="The mean of trained nets' softmax on test, from prediction files alone.",
    )
    parser.add_argument(
        "members",
        type=pathlib.Path,
        nargs="+",
        help="runs' folders, prediction files, or a sweep's",
    )
    parser.add_argument("--out", type=pathlib.Path, help="also write FILE.json")
    flags = parser.parse_args(arguments)
    return shell.answer(lambda: _run(flags.members, flags.out))


def _run(paths: Sequence[pathlib.Path], out: pathlib.Path | None) -> None:
    shell.check_out(out, (".json",))
    nets, left_out = predictions.gather(paths)
    found = averaging.combine(nets)
    shell.show([as_table(nets, found), disagreement_table(nets, found)], left_out)
    if out is not None:
        shell.write(out, as_json(nets, found))


def _mean_of_members(found: Ensemble) -> dict[str, float]:
    return {
        "error": float(np.mean([member.error for member in found.members])),
        "loss": float(np.mean([member.loss for member in found.members])),
    }


def _row(name: str, measured: Measured) -> tuple[str, ...]:
    interval = f"{measured.low:.2f} to {measured.high:.2f}"
    return (name, number(measured.error), interval, number(measured.loss, 4))


if __name__ == "__main__":
    sys.exit(main())
