"""Evaluation of a whole split by one compiled program, each example exactly once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from resnet_jax.metrics import accumulate
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState
from resnet_jax.train.step import evaluation_program


class Evaluator:
    """Measures splits of an experiment's data.

    Args:
        experiment: data, devices and net.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.batch_size = experiment.devices.round_up(experiment.config.train.eval_batch_size)
        self.program = experiment.devices.compile(
            evaluation_program(experiment.apply),
            inputs=(None, None, None, 0, 0),
            outputs=(None, 0),
        )

    def measure(
        self, state: TrainState, split: str, *, between: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, float], list[Any]]:
        """Evaluates a split.

        Args:
            state: replicated over the devices.
            split: 'train', 'val' or 'test'.
            between: called between two batches; what it raises ends the evaluation.

        Returns:
            Loss and error (percent) over the split, and the logits of each padded batch, still on
            the devices.
        """
        parts, logits = [], []
        for examples, mask in self.experiment.resident.padded_batches(split, self.batch_size):
            part, scores = self.program(*state.evaluated, self.experiment.arrays, examples, mask)
            parts.append(self.experiment.devices.single_copy(part))
            logits.append(scores)
            # One batch is always under way, and what `between` asks is not answered too late.
            jax.block_until_ready(logits[-2:-1])
            between()
        return accumulate.merge(parts), logits

    def predictions(self, split: str, logits: list[Any]) -> dict[str, np.ndarray]:
        """A split's logits [examples, classes], as `measure` gave them, its labels and its ids."""
        resident = self.experiment.resident
        start, size = resident.starts[split], resident.sizes[split]
        return {
            "logits": np.concatenate([np.asarray(part) for part in logits])[:size],
            "labels": resident.arrays["labels"][start : start + size],
            "ids": self.experiment.ids[split],
        }

    def all_predictions(
        self, state: TrainState, *, between: Callable[[], None] = lambda: None
    ) -> dict[str, dict[str, np.ndarray]]:
        """The `predictions` of val and test, as far as they are not empty; `between` as above."""
        return {
            split: self.predictions(split, self.measure(state, split, between=between)[1])
            for split in ("val", "test")
            if self.experiment.resident.sizes[split]
        }
