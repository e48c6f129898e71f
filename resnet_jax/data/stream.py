"""Images that are decoded while a net trains, as a run uses them."""

import collections
import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Generator
from typing import Any

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data import crops
from resnet_jax.data.augment import Normalization
from resnet_jax.data.batches import EvaluationBatches, TrainingBatches
from resnet_jax.data.decode import StoredImage, Unreadable
from resnet_jax.data.feed import ALONE, EvaluationBatch, Host, Inputs
from resnet_jax.data.loader import Loader
from resnet_jax.data.order import TrainingOrder
from resnet_jax.data.streamed import StreamedDataset, StreamedSplit, first_images
from resnet_jax.errors import InputError

LOG = logging.getLogger(__name__)

# Threads that decode for an evaluation, while the processes that do so in training rest.
MOST_THREADS = 16
# What they have in hands, in all; as much again waits to be taken.
MOST_BYTES = 2**30
# Batches whose making the rate is the mean of.
RECENT = 16


def resolve_workers(config: DataConfig) -> int:
    """The number of processes: as configured, or all usable cores but the one that trains."""
    if config.workers >= 0:
        return config.workers
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return int(cores - 1)


class Streamed:
    """A feed of images from disk (`feed.Feed`).

    In training a damaged image is replaced by the next readable one of its split, which keeps the
    batch of each step a function of the seed and the files. In evaluation it is left out.

    Args:
        dataset: its listing.
        config: how images are cropped, and by how many processes.
        host: whose share of each batch is loaded.
    """

    def __init__(
        self,
        dataset: StreamedDataset,
        config: DataConfig,
        *,
        host: Host = ALONE,
    ):
        self._splits, self._host = dict(dataset.splits), host
        self._augmentation, self._image_size = config.augmentation, config.image_size
        self._max_unreadable = config.max_unreadable
        self._workers = resolve_workers(config)
        # Images and seconds of the batches made last.
        self._made: collections.deque[tuple[int, float]] = collections.deque(maxlen=RECENT)
        statistics = Normalization.constant(config.normalization, channels=3)
        self.arrays = {"mean": statistics.mean, "std": statistics.std}
        self.sizes = {name: len(split) for name, split in self._splits.items()}
        self.unreadable: dict[str, dict[str, str]] = {name: {} for name in self._splits}

    @property
    def made_per_second(self) -> float:
        """As `feed.Feed`: of all processes together, had nothing kept them from working."""
        if not self._made:
            return math.nan
        images, seconds = np.sum(self._made, axis=0)
        return float(max(self._workers, 1) * images / seconds)

    def training(
        self, order: TrainingOrder, first: int, steps: int, per_call: int
    ) -> Generator[Inputs]:
        """As `feed.Feed`."""
        if first == steps:
            return
        size = self._image_size
        batches = TrainingBatches(
            self._splits["train"],
            order,
            self._augmentation,
            size,
            first,
            steps - first,
            self._host,
        )
        share = order.batch_size // self._host[1]
        loader = Loader(batches, workers=self._workers, batch_bytes=share * size * size * 3)
        with contextlib.closing(loader):
            for _ in range(first, steps, per_call):
                yield _stacked([self._looked_at(next(loader)) for _ in range(per_call)])

    def _looked_at(self, batch: dict[str, Any]) -> dict[str, np.ndarray]:
        """What the program takes of a batch, after its damaged images are told."""
        self._made.append((len(batch["examples"]), batch["seconds"]))
        for example in batch["examples"][batch["examples"] != batch["used"]].tolist():
            self._tell("train", *_damage(self._splits["train"], example))
        # Copies, so that shared memory is free again at once, and none is left when the run ends.
        return {name: np.array(batch[name]) for name in ("images", "labels", "examples")}

    def evaluation(self, split: str, batch_size: int) -> Generator[EvaluationBatch]:
        """As `feed.Feed`: the centre crops."""
        (view,) = crops.views("center", self._image_size)
        for batch in self.crops(split, batch_size, view):
            assert isinstance(batch.inputs, dict)
            inputs = {"images": batch.inputs["images"][0], "labels": batch.labels}
            yield dataclasses.replace(batch, inputs=inputs)

    def crops(self, split: str, batch_size: int, view: crops.View) -> Generator[EvaluationBatch]:
        """As `evaluation`, with all crops of a view: `images` [crops, batch, size, size, 3]."""
        if not self.sizes[split]:
            return
        batches = EvaluationBatches(self._splits[split], view, batch_size, self._host)
        batch_bytes = batch_size // self._host[1] * view.crops * view.size**2 * 3
        most = min(MOST_THREADS, max(MOST_BYTES // batch_bytes, 1))
        threads = min(max(self._workers, 1), most)
        with contextlib.closing(Loader(batches, workers=0, threads=threads)) as loader:
            for batch in loader:
                for name, why in batch["damaged"].items():
                    self._tell(split, name, why)
                yield EvaluationBatch(
                    {"images": batch["images"]},
                    batch["mask"],
                    batch["labels"],
                    np.array(batch["ids"]),
                )

    def images(self, split: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `feed.Feed`; raises InputError if one is damaged."""
        return first_images(self._splits[split], examples, self._image_size)

    def at_most(self, split: str, examples: int) -> "Streamed":
        """As `feed.Feed`."""
        other = object.__new__(Streamed)
        other.__dict__ |= self.__dict__
        other._splits = {**self._splits, split: self._splits[split].first(examples)}
        other.sizes = {name: len(part) for name, part in other._splits.items()}
        return other

    def _tell(self, split: str, name: str, why: str) -> None:
        """Notes a damaged image, once; too many of them end the run."""
        found = self.unreadable[split]
        if name in found:
            return
        found[name] = why
        LOG.warning("image %s is damaged (%s) and %s", name, why, DONE_WITH[split == "train"])
        size, share = self.sizes[split], self._max_unreadable
        # One is no reason to end a run on few images, unless none is allowed.
        if len(found) > max(share * size, share > 0):
            raise InputError(
                f"{len(found)} of {size} {split} images are damaged, the last {name} ({why}), more "
                f"than config.data.max_unreadable={share:g} allows; mend the data set, or allow a "
                "larger share"
            )


DONE_WITH = {True: "replaced by the next one", False: "left out"}


def _damage(split: StreamedSplit, example: int) -> tuple[str, str]:
    """The id of a damaged image and what is wrong with it."""
    stored = split.read(example)
    try:
        StoredImage(stored.content).crops([crops.Box(0, 0, 1, 1)], 1)
    except Unreadable as error:
        return stored.id, str(error)
    return stored.id, "it could not be read before"


def _stacked(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(batches) == 1:  # no copy of what may be many megabytes
        return {name: array[None] for name, array in batches[0].items()}
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
