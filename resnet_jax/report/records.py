"""Reads run folders."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from resnet_jax import run_folder
from resnet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run's folder holds.

    Attributes:
        folder: where it lies.
        config: the resolved configuration.
        status: state, step, verdict.
        provenance: of each attempt.
        records: metrics, one for each step and split that was logged.
        evaluation: the final report, or None if there is none yet.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    status: dict[str, Any]
    provenance: dict[str, Any]
    records: list[dict[str, Any]]
    evaluation: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    @property
    def net(self) -> str:
        """The net's name as the papers write it: plain-20, ResNet-20."""
        model = self.config["model"]
        return f"{'ResNet' if model['residual'] else 'plain'}-{model['depth']}"

    def curve(self, split: str, field: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one metric; NaN where a value was not finite."""
        rows = [r for r in self.records if r["split"] == split and field in r]
        values = [np.nan if row[field] is None else row[field] for row in rows]
        return np.array([row["step"] for row in rows]), np.array(values, float)


def load(folder: pathlib.Path) -> Run:
    """Reads one run.

    Raises:
        InputError: if the folder is not a run's, or a file in it is damaged.
    """
    config = run_folder.read_json(folder / run_folder.CONFIG)
    if config is None:
        raise InputError(f"{folder} has no {run_folder.CONFIG}, so it is not a run's folder")
    return Run(
        folder=folder,
        config=config,
        status=run_folder.read_json(folder / run_folder.STATUS) or {"state": run_folder.QUEUED},
        provenance=run_folder.read_json(folder / run_folder.PROVENANCE) or {"attempts": []},
        records=run_folder.read_records(folder / run_folder.METRICS),
        evaluation=run_folder.read_json(folder / run_folder.EVALUATION),
    )


def find(root: pathlib.Path) -> list[pathlib.Path]:
    """All run folders at or below `root`, sorted by name."""
    return sorted(path.parent for path in root.rglob(run_folder.CONFIG))
