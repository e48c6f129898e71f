"""Features that a head is trained on: each image goes through the frozen parts once."""

import contextlib
import hashlib
import logging
import pathlib
import time
from typing import Any

import numpy as np

from resnet_jax.config import RunConfig
from resnet_jax.data.cached import Cached
from resnet_jax.data.feed import Feed
from resnet_jax.errors import first_line
from resnet_jax.files import replacing
from resnet_jax.models import registry
from resnet_jax.models.partial import digest
from resnet_jax.parallel import DeviceMap
from resnet_jax.train.inference import features_program
from resnet_jax.train.state import TrainState
from resnet_jax.train.step import FEATURES

LOG = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")  # in the order in which they lie on the devices
# What a file of features holds of each split.
PARTS = (FEATURES, "labels", "ids", "places")

Arrays = dict[str, np.ndarray]


def cached(
    config: RunConfig,
    devices: DeviceMap,
    feed: Feed,
    net: registry.Functional,
    state: TrainState,
    dataset: dict[str, Any],
) -> Cached:
    """The feed of features of all images, computed, or read from `transfer.features_dir`.

    Images that cannot be read are left out.

    Args:
        config: of the run.
        devices: that compute them.
        feed: of the images.
        net: whose parts before the head are frozen.
        state: before the first step, on the host, laid out for the program.
        dataset: as `Dataset.describe`.

    Raises:
        InputError: as the feed.
    """
    path = None
    if config.transfer.features_dir:
        folder = pathlib.Path(config.transfer.features_dir).expanduser()
        path = folder / f"{_key(config, feed, net, state, dataset)}.npz"
    arrays = _read(path) if path else None
    if arrays is None:
        arrays = _computed(config, devices, feed, net, state)
        if path:
            _keep(path, arrays)
    sizes = {split: len(arrays[f"{split}_labels"]) for split in SPLITS}
    ends = dict(zip(SPLITS, np.cumsum(list(sizes.values())).tolist(), strict=True))

    def joined(part: str) -> np.ndarray:
        return np.concatenate([arrays[f"{split}_{part}"] for split in SPLITS])

    return Cached(
        arrays={
            **{name: feed.arrays[name] for name in ("mean", "std")},
            **{part: joined(part) for part in (FEATURES, "labels")},
        },
        starts={split: ends[split] - sizes[split] for split in SPLITS},
        sizes=sizes,
        ids={split: arrays[f"{split}_ids"] for split in SPLITS},
        unreadable=feed.unreadable,
        source=feed,
        places={split: arrays[f"{split}_places"] for split in SPLITS},
    )


def _computed(
    config: RunConfig, devices: DeviceMap, feed: Feed, net: registry.Functional, state: TrainState
) -> Arrays:
    program = devices.compile(
        features_program(config.data, net.features), inputs=(None, None, None, 0), outputs=(0,)
    )
    on_devices = devices.replicate((state.params, state.stats, dict(feed.arrays)))
    size = devices.round_up(config.train.eval_batch_size)
    begun = time.monotonic()
    found: dict[str, list[Any]] = {}
    for split in SPLITS:
        parts: dict[str, list[Any]] = {part: [] for part in PARTS}
        with contextlib.closing(feed.evaluation(split, size)) as batches:
            for number, batch in enumerate(batches):
                is_streamed = isinstance(batch.inputs, dict)
                inputs = devices.divide(batch.inputs, 0) if is_streamed else batch.inputs
                (features,) = program(*on_devices, inputs)
                kept = np.flatnonzero(batch.mask)
                parts[FEATURES].append(np.asarray(features)[kept])
                parts["labels"].append(batch.labels[kept])
                parts["ids"].append(batch.ids[kept])
                parts["places"].append(number * size + kept)
        found |= {f"{split}_{part}": values for part, values in parts.items()}
    width = found["train_" + FEATURES][0].shape[1:]
    empty = {FEATURES: np.zeros((0, *width), np.float32), "labels": np.zeros(0, np.int32)}
    empty |= {"ids": np.zeros(0, "U1"), "places": np.zeros(0, int)}
    arrays = {
        name: np.concatenate(values) if values else empty[name.split("_")[1]]
        for name, values in found.items()
    }
    images = sum(len(arrays[f"{split}_labels"]) for split in SPLITS)
    seconds = time.monotonic() - begun
    LOG.info("features of %d images computed in %.1f s, compiling included", images, seconds)
    return arrays


def _key(
    config: RunConfig,
    feed: Feed,
    net: registry.Functional,
    state: TrainState,
    dataset: dict[str, Any],
) -> str:
    """A digest of all that features depend on."""
    seen = (
        *(config.model.family, config.model.dtype, config.data.resize, config.data.image_size),
        *(dataset["sha256"], digest(net.cut.divide(tree)[1] for tree in state.evaluated)),
        *(feed.arrays[name].tobytes() for name in ("mean", "std")),
    )
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:32]


def _read(path: pathlib.Path) -> Arrays | None:
    """What `_keep` wrote; None if it is not there, or damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {
                f"{split}_{part}": stored[f"{split}_{part}"] for split in SPLITS for part in PARTS
            }
            if str(stored["sha256"]) == _checksum(arrays):
                LOG.info("features read from %s", path)
                return arrays
        LOG.warning("%s has changed since it was written; computing the features again", path)
    # NumPy, zipfile and zlib raise many kinds, not all of them OSError or ValueError.
    except Exception as error:
        LOG.warning("%s is damaged (%s); computing them again", path, first_line(error))
    return None


def _keep(path: pathlib.Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, sha256=_checksum(arrays), **arrays)  # type: ignore[arg-type]


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
