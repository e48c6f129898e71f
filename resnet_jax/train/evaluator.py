"""Evaluation of a whole split by one compiled program, each example exactly once."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from resnet_jax.data import crops
from resnet_jax.data.stream import Streamed
from resnet_jax.hosts import Hosts
from resnet_jax.metrics import accumulate
from resnet_jax.train.inference import crop_program, evaluation_program
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState


class Seen(NamedTuple):
    """One padded batch as a net has seen it.

    Attributes:
        logits: float [batch, classes], on the devices.
        mask: bool [share], False for filling and for images that cannot be read; this and what
            follows is the host's share of the batch.
        labels: int32 [share].
        ids: str [share].
    """

    logits: Any
    mask: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


class Evaluator:
    """Measures splits of an experiment's data.

    Args:
        experiment: data, devices and net.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.batch_size = experiment.devices.round_up(experiment.config.train.eval_batch_size)
        self.program = experiment.devices.compile(
            evaluation_program(experiment.config.data, experiment.apply),
            inputs=(None, None, None, 0, 0),
            outputs=(None, 0),
        )

    def measure(
        self, state: TrainState, split: str, *, between: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, float], list[Seen]]:
        """Evaluates a split; streamed images by their centre crops.

        Args:
            state: replicated over the devices.
            split: 'train', 'val' or 'test'.
            between: called between two batches; what it raises ends the evaluation.

        Returns:
            Loss and error (percent) over the split, and what was seen of each padded batch, whose
            logits are still on the devices.
        """
        parts: list[Any] = []
        seen: list[Seen] = []
        with contextlib.closing(self.experiment.feed.evaluation(split, self.batch_size)) as batches:
            for batch in batches:
                part, logits = self.program(
                    *state.evaluated,
                    self.experiment.arrays,
                    self.experiment.devices.on_their_way(batch.inputs, 0),
                    self.experiment.devices.on_their_way(batch.mask, 0),
                )
                parts.append(self.experiment.devices.single_copy(part))
                seen.append(Seen(logits, batch.mask, batch.labels, batch.ids))
                # One batch is always under way, and what `between` asks is not answered too late.
                jax.block_until_ready([part.logits for part in seen[-2:-1]])
                between()
        return accumulate.merge(parts), seen

    def predictions(self, seen: list[Seen]) -> dict[str, np.ndarray]:
        """What `measure` saw, on all hosts, without filling and damaged images.

        Returns:
            `logits` [examples, classes], `labels` and `ids`; `places`: where in the split each
            example stands.
        """
        devices = self.experiment.devices
        shares = [Seen(devices.share(part.logits), *part[1:]) for part in seen]
        batches = shares if devices.hosts.count == 1 else _of_all(devices.hosts, shares)
        found = {
            name: np.concatenate([getattr(batch, name)[batch.mask] for batch in batches])
            for name in ("logits", "labels", "ids")
        }
        return found | {"places": np.flatnonzero(np.concatenate([b.mask for b in batches]))}

    def all_predictions(
        self, state: TrainState, *, between: Callable[[], None] = lambda: None
    ) -> dict[str, dict[str, np.ndarray]]:
        """The predictions of val and test, as far as they are not empty, by the configured crops.

        Args:
            state: replicated over the devices.
            between: as in `measure`.
        """
        return {
            split: self.predictions(self.measure(state, split, between=between)[1])
            if self.sees_center
            else self._by_crops(state, split, between)
            for split in ("val", "test")
            if self.experiment.feed.sizes[split]
        }

    @property
    def sees_center(self) -> bool:
        """Whether the report is on the same crops as the evaluations of a run on its way."""
        return self.experiment.config.evaluation.crops == "center"

    def _by_crops(
        self, state: TrainState, split: str, between: Callable[[], None]
    ) -> dict[str, np.ndarray]:
        """Predictions by several crops: as logits stand the logarithms of the mean probabilities.

        Reference: Krizhevsky et al. 2012, Sec. 4.1, averages "the predictions made by the
        network's softmax layer".
        """
        experiment = self.experiment
        feed, config = experiment.feed, experiment.config
        assert isinstance(feed, Streamed)  # the config is refused for others
        program = experiment.devices.compile(
            crop_program(config.data, experiment.apply),
            inputs=(None, None, 0, None, None, None),
            outputs=(0,),
        )
        mean, std = experiment.arrays["mean"], experiment.arrays["std"]
        flags = [experiment.devices.replicate(np.bool_(value)) for value in (False, True)]
        summed: np.ndarray | float = 0.0
        count = 0
        for view in crops.views(config.evaluation.crops, config.data.image_size):
            seen = []
            # Crops of one image are classified one after another, and larger ones take more memory:
            # fewer images at once keep that of the centre crops.
            larger = (view.size / config.data.image_size) ** 2
            size = experiment.devices.round_up(max(round(self.batch_size / larger), 1))
            with contextlib.closing(feed.crops(split, size, view)) as batches:
                for batch in batches:
                    assert isinstance(batch.inputs, dict)
                    total: Any = 0.0
                    for images in batch.inputs["images"]:
                        placed = experiment.devices.divide(images, 0)
                        for mirrored in flags[: 1 + view.mirrored]:
                            (probabilities,) = program(
                                *state.evaluated, placed, mean, std, mirrored
                            )
                            total = total + np.float64(experiment.devices.share(probabilities))
                    seen.append(Seen(total, batch.mask, batch.labels, batch.ids))
                    between()
            found = self.predictions(seen)
            summed = summed + found["logits"]
            count += len(batch.inputs["images"]) * (1 + view.mirrored)
        smallest = np.finfo(np.float32).tiny
        found["logits"] = np.log(np.maximum(summed / count, smallest)).astype(np.float32)
        return found


def _of_all(hosts: Hosts, shares: list[Seen]) -> list[Seen]:
    """Whole batches, of every host's shares of them."""
    logits = hosts.stacked(np.stack([share.logits for share in shares]))
    others = hosts.every([[np.asarray(x).tolist() for x in share[1:]] for share in shares])
    return [
        Seen(np.concatenate(logits[:, i]), *(np.concatenate(x) for x in zip(*batch, strict=True)))
        for i, batch in enumerate(zip(*others, strict=True))
    ]
