"""Proof that frozen parts stay as they are: a digest of all their values, before and after."""

from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.models.partial import digest
from resnet_jax.models.registry import count_parameters
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState, Weights


class FrozenParts:
    """The parts of a run's net that are not trained.

    Args:
        experiment: the run's parts; its state is that before the first step.
        state: that this attempt begins with, on the devices.

    Raises:
        InputError: if an earlier attempt began with other values.

    Attributes:
        report: what `status.json` says of them; nothing, if all parts are trained. `frozen`, with
            the number of their parameters and, before the first step and after the last, the
            SHA-256 of these and of their running statistics.
    """

    def __init__(self, experiment: Experiment, state: TrainState):
        self._experiment = experiment
        self.report: dict[str, dict[str, Any]] = {}
        if experiment.net.cut.freezes:
            weights = experiment.state.evaluated
            _, params = experiment.net.cut.divide(weights.params)
            before = self._digest(weights)
            if self._digest(experiment.to_save(state).evaluated) != before:
                raise InputError(
                    f"config.model.weights={experiment.config.model.weights!r} has other values "
                    "than when this run was begun; give back those, or choose another --workdir"
                )
            self.report["frozen"] = {
                "parameters": count_parameters(params),
                "sha256_before": before,
            }

    def require_unchanged(self, state: TrainState) -> None:
        """Looks at them after the last step.

        Args:
            state: on the devices.

        Raises:
            RuntimeError: if they are not, to the bit, what they were.
        """
        for told in self.report.values():
            after = self._digest(self._experiment.to_save(state).evaluated)
            told["sha256_after"] = after
            if after != told["sha256_before"]:
                raise RuntimeError("frozen parts have changed while the others were trained")

    def _digest(self, weights: Weights) -> str:
        return digest(self._experiment.net.cut.divide(tree)[1] for tree in weights)
