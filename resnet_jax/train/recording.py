"""Whoever looks at a run's state while it trains; training itself knows no analyses."""

import pathlib
from collections.abc import Callable
from typing import Protocol

from resnet_jax.config import records_signals
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState


class Recorder(Protocol):
    """Looks at a run's state now and then, and writes what it sees."""

    def is_due(self, step: int) -> bool:
        """Whether it wants to see the state after this step."""

    def record(self, step: int, state: TrainState) -> None:
        """Looks at it; the state is as checkpoints have it."""


# Of a run's parts, its folder and the step at which this attempt begins.
MakeRecorder = Callable[[Experiment, pathlib.Path, int], Recorder]


def wanted(
    make: MakeRecorder | None, experiment: Experiment, workdir: pathlib.Path, start: int
) -> Recorder | None:
    """A recorder, if there is one and `log.signals_interval` asks for it."""
    if make is None or experiment.loops or not records_signals(experiment.config):
        return None
    return make(experiment, workdir, start)
