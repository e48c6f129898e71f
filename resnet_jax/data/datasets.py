"""Data sets as named splits of uint8 images held in memory."""

import dataclasses
import hashlib
import logging
import pathlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn.datasets

from resnet_jax.config import DataConfig, SyntheticConfig
from resnet_jax.data import balancing, kept, selection
from resnet_jax.data.split import Split, split_indices
from resnet_jax.errors import InputError

if TYPE_CHECKING:
    from resnet_jax.data.tfds_source import PreparedDataset

LOG = logging.getLogger(__name__)

# Examples of each class (Krizhevsky 2009, Sec. 3.1); folders of another size are somebody's own.
PUBLISHED_CLASS_SIZES = {
    "cifar10 train": 5_000,
    "cifar10 test": 1_000,
    "cifar100 train": 500,
    "cifar100 test": 100,
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits that share one image shape and one list of classes.

    Attributes:
        name: as in `config.data.name`.
        class_names: in label order.
        train: what the net is fitted to.
        val: held out of the published training set; all choices are made on it. May be empty.
        test: the published test set; measured, never chosen on.
        positive: the label that counts as positive; None unless there are two classes.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    positive: int | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """All three by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """What tells two data sets of one name apart.

        Returns:
            The name, the number of classes, the examples of each split, a SHA-256 of all images
            and labels, and whether these are the published files (by the ids that TFDS gives
            them) or a copy.
        """
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split in self.splits.values():
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels).data)
        copied = self.name.startswith("cifar") and not re.fullmatch(r"test_\d{5}", self.test.ids[0])
        return {
            "name": self.name,
            "classes": self.num_classes,
            "examples": {name: len(split) for name, split in self.splits.items()},
            "sha256": digest.hexdigest(),
            "original": not copied,
        }


def load(config: DataConfig) -> Dataset:
    """Loads the configured data set, selects from it, divides it, and resamples `train`.

    Raises:
        InputError: if it is missing and cannot be fetched, does not hold what it should, or is one
            whose images are streamed.
    """
    if config.is_streamed:
        raise InputError(
            f"config.data.name={config.name!r} streams its images, and this needs them all in "
            "memory; use a data set that fits"
        )
    if config.name == "digits":
        class_names, train, test = _digits()
    elif config.name == "synthetic":
        class_names, train, test = _synthetic(config.synthetic)
    else:
        class_names, train, test = _from_tfds(config)
    for name, split in (("train", train), ("test", test)):
        _check(f"{config.name} {name}", split, len(class_names))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"data set {config.name}: training images are {train.images.shape[1:]}, test images "
            f"{test.images.shape[1:]}; all must have one shape"
        )
    selection.check_classes(config, class_names)
    if config.classes:
        train, test = (
            selection.of_classes(split, class_names, config.classes) for split in (train, test)
        )
        class_names = config.classes
    if config.class_ratios:
        train, test = (
            selection.with_ratios(f"{config.name} {name}", split, class_names, config)
            for name, split in (("train", train), ("test", test))
        )
    positive = selection.positive_label(config, class_names)
    kept, held_out = np.arange(len(train)), np.arange(0)
    if config.train_on == "train":
        kept, held_out = split_indices(len(train), config.val_fraction, config.split_seed)
    train, val = train.take(kept), train.take(held_out)
    if config.classes or config.class_ratios or config.resampling != "none":
        for name, split in (("train", train), ("test", test)):
            selection.require_every_class(f"{config.name} {name}", split, class_names)
    train = balancing.resample(train, class_names, config)
    return Dataset(config.name, class_names, train, val, test, positive)


def _check(name: str, split: Split, num_classes: int) -> None:
    if len(split) == 0:
        raise InputError(f"data set {name}: it has no examples")
    if split.images.ndim != 4 or split.images.dtype != np.uint8:
        raise InputError(
            f"data set {name}: images must be uint8 [examples, height, width, channels], got "
            f"{split.images.dtype} {list(split.images.shape)}"
        )
    bad = np.flatnonzero((split.labels < 0) | (split.labels >= num_classes))
    if bad.size:
        raise InputError(
            f"data set {name}: label {split.labels[bad[0]]} of example {split.ids[bad[0]]} is not "
            f"in 0..{num_classes - 1} ({bad.size} such labels); prepare the data set again"
        )
    names, counts = np.unique(split.ids, return_counts=True)
    if len(names) < len(split):
        raise InputError(
            f"data set {name}: example {names[np.argmax(counts)]} stands there {np.max(counts)} "
            "times; prepare the data set again"
        )
    published = PUBLISHED_CLASS_SIZES.get(name)
    sizes = split.class_sizes(num_classes)
    if published and len(split) == published * num_classes and np.ptp(sizes):
        raise InputError(
            f"data set {name}: its classes have {sizes.min()} to {sizes.max()} examples, while "
            f"{published} of each were published; prepare the data set again"
        )


def _digits() -> tuple[tuple[str, ...], Split, Split]:
    """scikit-learn's 1,797 handwritten digits, 8x8, 16 grey levels; every fifth is for testing."""
    bunch = sklearn.datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    ids = np.array([f"digits_{i:04d}" for i in range(len(images))])
    whole = Split(images, bunch.target.astype(np.int32), ids)
    train, test = split_indices(len(whole), 0.2, seed=0)
    return tuple("0123456789"), whole.take(train), whole.take(test)


def _synthetic(config: SyntheticConfig) -> tuple[tuple[str, ...], Split, Split]:
    """A fixed random pattern for each class, plus noise: learnable, never downloaded."""
    random = np.random.RandomState(0)
    shape = (config.image_size, config.image_size, config.channels)
    patterns = random.uniform(64, 192, (config.classes, *shape))
    labels = np.arange(config.examples, dtype=np.int32) % config.classes
    images = patterns[labels] + random.normal(0, 32, (config.examples, *shape))
    ids = np.array([f"synthetic_{i:05d}" for i in range(config.examples)])
    whole = Split(np.clip(images, 0, 255).astype(np.uint8), labels, ids)
    train, test = split_indices(config.examples, 0.2, seed=0)
    names = tuple(f"class {i}" for i in range(config.classes))
    return names, whole.take(train), whole.take(test)


def _from_tfds(config: DataConfig) -> tuple[tuple[str, ...], Split, Split]:
    # Imported here because it costs a second, which the embedded data sets need not pay.
    from resnet_jax.data import tfds_source

    source = tfds_source.prepared(config.name, pathlib.Path(config.data_dir).expanduser())
    train, test = (_decoded(source, name) for name in ("train", "test"))
    return source.class_names, train, test


def _decoded(source: "PreparedDataset", split: str) -> Split:
    """One split as arrays, from a cache beside the data set: decoding 50,000 PNGs takes 8 s."""
    state = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in source.files(split)]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    cache = source.data_dir / "decoded" / f"{source.name}-{split}-{digest}.npz"
    arrays = kept.read(cache, "decoding the data set again")
    if arrays is None:
        arrays = vars(Split(*source.read(split)))
        kept.keep(cache, arrays)
    return Split(**arrays)
