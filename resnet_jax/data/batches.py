"""Batches of decoded images by number, the same whoever makes them."""

import dataclasses
from typing import Any, cast

import numpy as np

from resnet_jax.data import crops
from resnet_jax.data.decode import StoredImage, Unreadable
from resnet_jax.data.feed import ALONE, Host
from resnet_jax.data.order import TrainingOrder
from resnet_jax.data.sources import Stored
from resnet_jax.data.streamed import StreamedSplit
from resnet_jax.errors import InputError

DRAWS: dict[str, crops.Draw] = {"he2015": crops.he2015, "inception": crops.inception}
# Damaged images one after another before a data set counts as lost.
LONGEST_SEARCH = 100


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """One host's share of each step's images, from a step on.

    Attributes:
        split: that is trained on.
        order: of the examples.
        augmentation: 'he2015', 'inception' or 'none'.
        image_size: of the crops.
        first: step of batch 0.
        steps: how many batches there are.
        host: whose share. The batch is divided into equal parts.
    """

    split: StreamedSplit
    order: TrainingOrder
    augmentation: str
    image_size: int
    first: int
    steps: int
    host: Host = ALONE

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        """The images of one step.

        Returns:
            `examples` int32 [share]: what the order asks for; `used` int32 [share]: what stands
            there, which is the next readable image of the split, in its order, where the one asked
            for is damaged; `images` uint8 [share, size, size, 3] and `labels` int32 [share] of
            these.

        Raises:
            InputError: if images cannot be read, or too many in a row are damaged.
        """
        if not 0 <= batch < self.steps:
            raise IndexError(batch)
        step = self.first + batch
        examples = np.split(self.order.batch(step), self.host[1])[self.host[0]]
        images = np.empty((len(examples), self.image_size, self.image_size, 3), np.uint8)
        labels, used = np.empty_like(examples), np.empty_like(examples)
        # Seeded anew for each image, which is faster than making one.
        random = np.random.RandomState(0)
        for row, example in enumerate(examples.tolist()):
            used[row], labels[row] = self._put(images[row], random, step, example)
        return {"examples": examples, "used": used, "images": images, "labels": labels}

    def _put(
        self, crop: np.ndarray, random: np.random.RandomState, step: int, example: int
    ) -> tuple[int, int]:
        """Puts a crop of the example into `crop`; its place in the split and its label."""
        last = ""
        for further in range(min(LONGEST_SEARCH, len(self.split))):
            place = (example + further) % len(self.split)
            stored = self.split.read(place)
            try:
                # RandomState's stream is frozen by NumPy's policy (NEP 19); the 2 tells it from
                # those of the order and of the division. What is drawn does not depend on the
                # number of processes, devices or hosts.
                random.seed([self.order.seed, 2, step, example])
                crop[...] = self._crop(stored, random)
                return place, stored.label
            except Unreadable as error:
                last = f"{stored.id}: {error}"
        raise InputError(
            f"{further + 1} images in a row, up to {last}, are damaged; see whether the data set is"
        )

    def _crop(self, stored: Stored, random: np.random.RandomState) -> np.ndarray:
        image = StoredImage(stored.content)
        if self.augmentation == "none":
            box = crops.center(image.width, image.height, self.image_size)
        else:
            box = DRAWS[self.augmentation](random, image.width, image.height, self.image_size)
        return cast(np.ndarray, image.crops([box], self.image_size)[0])


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """Every example of a split once, in order, the last batch filled up.

    Attributes:
        split: that is measured.
        view: what is seen of each image.
        batch_size: images in a batch.
        host: whose share of it.
    """

    split: StreamedSplit
    view: crops.View
    batch_size: int
    host: Host = ALONE

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, Any]:
        """One batch.

        Returns:
            `images` uint8 [crops, share, size, size, 3]; `labels` int32 [share]; `mask` bool
            [share], False for filling and for damaged images, which are black; `ids` str [share];
            `damaged`: for each damaged image its id and what is wrong.

        Raises:
            InputError: if images cannot be read.
        """
        if not 0 <= batch < len(self):
            raise IndexError(batch)
        index, count = self.host
        share = self.batch_size // count
        first = batch * self.batch_size + index * share
        labels = np.zeros(share, np.int32)
        mask = np.zeros(share, bool)
        ids: list[str] = []
        damaged: dict[str, str] = {}
        size = self.view.size
        found = np.zeros((self.view.crops, share, size, size, 3), np.uint8)
        for row, place in enumerate(range(first, first + share)):
            if place >= len(self.split):
                ids.append("")
                continue
            stored = self.split.read(place)
            labels[row] = stored.label
            ids.append(stored.id)
            try:
                image = StoredImage(stored.content)
                found[:, row] = image.crops(self.view.boxes(image.width, image.height), size)
                mask[row] = True
            except Unreadable as error:
                damaged[stored.id] = str(error)
        return {"images": found, "labels": labels, "mask": mask, "ids": ids, "damaged": damaged}
