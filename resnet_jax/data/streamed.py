"""Data sets whose images stay on disk: what is in their splits, known without reading an image."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data import crops, decode, selection
from resnet_jax.data.sources import Files, Source, Stored
from resnet_jax.data.split import split_indices
from resnet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class StreamedSplit:
    """Examples in a fixed order, on disk. Light to send to other processes.

    Attributes:
        source: where they are read from.
        records: int64 [examples], their numbers there.
    """

    source: Source
    records: np.ndarray

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: np.ndarray) -> "StreamedSplit":
        """The examples at `indices`, in that order."""
        return StreamedSplit(self.source, self.records[indices])

    def first(self, count: int) -> "StreamedSplit":
        """The first examples; all, if there are fewer."""
        return StreamedSplit(self.source, self.records[:count])

    def read(self, example: int) -> Stored:
        """One example; raises as `Source.read`."""
        return self.source.read(int(self.records[example]))

    def class_sizes(self, num_classes: int) -> np.ndarray:
        """How many examples each class has, int [classes]; of image files alone."""
        assert isinstance(self.source, Files)  # other labels are not known before they are read
        return np.bincount(self.source.labels[self.records], minlength=num_classes)


@dataclasses.dataclass(frozen=True)
class StreamedDataset:
    """Three splits of images on disk, as `datasets.Dataset` has them of images in memory.

    Attributes:
        name: as in `config.data.name`.
        class_names: in label order.
        train: what the net is fitted to.
        val: held out of the published training set; all choices are made on it. May be empty.
        test: the published validation set; measured, never chosen on.
        image_size: height and width of what the net sees.
        listing: SHA-256 of the published splits' listing: names, sizes and labels.
        original: whether these are the published files, as far as their numbers tell.
        positive: the label that counts as positive; None unless there are two classes.
    """

    name: str
    class_names: tuple[str, ...]
    train: StreamedSplit
    val: StreamedSplit
    test: StreamedSplit
    image_size: int
    listing: str
    original: bool
    positive: int | None = None

    @property
    def splits(self) -> dict[str, StreamedSplit]:
        """All three by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what the net sees."""
        return self.image_size, self.image_size, 3

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """What tells two data sets of one name apart, as `Dataset.describe`.

        The SHA-256 is of names, sizes and labels, and of which of them each split has: reading
        140 GB at each start would take longer than many runs. A file whose bytes change while its
        length stays is not noticed.
        """
        digest = hashlib.sha256(repr((self.class_names, self.listing)).encode())
        for split in self.splits.values():
            digest.update(np.ascontiguousarray(split.records).data)
        return {
            "name": self.name,
            "classes": self.num_classes,
            "examples": {name: len(split) for name, split in self.splits.items()},
            "sha256": digest.hexdigest(),
            "original": self.original,
        }


def load(config: DataConfig) -> StreamedDataset:
    """Lists the configured data set, selects classes, and divides train and val.

    Raises:
        InputError: if it is missing, unfinished, or not laid out as it should be.
    """
    # Imported here because TFDS costs a second, which folders of images need not pay.
    if config.name == "imagenet2012":
        from resnet_jax.data.tfds_source import imagenet2012

        found = imagenet2012(config)
    else:
        from resnet_jax.data.image_folder import image_folder

        found = image_folder(config)
    kept, held_out = np.arange(len(found.train)), np.arange(0)
    if config.train_on == "train":
        kept, held_out = split_indices(len(found.train), config.val_fraction, config.split_seed)
    train, val = found.train.take(kept), found.train.take(held_out)
    if config.classes:
        for name, split in (("train", train), ("test", found.test)):
            selection.require_every_class(f"{config.name} {name}", split, found.class_names)
    positive = selection.positive_label(config, found.class_names)
    return dataclasses.replace(found, train=train, val=val, positive=positive)


def first_images(
    split: StreamedSplit, examples: np.ndarray, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The centre crops of some examples, read at once: few of them, for looking at a net.

    Args:
        split: that they are of.
        examples: int [examples], their places in it.
        image_size: height and width of the crops.

    Returns:
        uint8 [examples, image_size, image_size, 3] and labels int32 [examples].

    Raises:
        InputError: if one of them is damaged.
    """
    images = np.empty((len(examples), image_size, image_size, 3), np.uint8)
    labels = np.empty(len(examples), np.int32)
    for row, example in enumerate(examples.tolist()):
        stored = split.read(example)
        try:
            image = decode.StoredImage(stored.content)
            box = crops.center(image.width, image.height, image_size)
            images[row] = image.crops([box], image_size)[0]
        except decode.Unreadable as error:
            raise InputError(
                f"image {stored.id} is damaged ({error}); mend or remove it"
            ) from error
        labels[row] = stored.label
    return images, labels
