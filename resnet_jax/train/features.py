"""Features that a head is trained on: each image goes through the frozen parts once."""

import contextlib
import hashlib
import logging
import pathlib
import time
from typing import Any

import numpy as np

from resnet_jax.config import RunConfig
from resnet_jax.data import kept
from resnet_jax.data.cached import Cached
from resnet_jax.data.feed import Feed
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
    arrays = kept.read(path, "computing the features again") if path else None
    if arrays is not None:
        LOG.info("features read from %s", path)
    else:
        arrays = _computed(config, devices, feed, net, state)
        if path:
            kept.keep(path, arrays)
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
) -> kept.Arrays:
    program = devices.compile(
        features_program(config.data, net.features), inputs=(None, None, None, 0), outputs=(0,)
    )
    on_devices = devices.replicate((state.params, state.stats, dict(feed.arrays)))
    size = devices.round_up(config.train.eval_batch_size)
    begun = time.monotonic()
    found: dict[str, dict[str, list[Any]]] = {}
    for split in SPLITS:
        parts: dict[str, list[Any]] = {part: [] for part in PARTS}
        with contextlib.closing(feed.evaluation(split, size)) as batches:
            for number, batch in enumerate(batches):
                (features,) = program(*on_devices, devices.on_their_way(batch.inputs, 0))
                readable = np.flatnonzero(batch.mask)
                parts[FEATURES].append(np.asarray(features)[readable])
                parts["labels"].append(batch.labels[readable])
                parts["ids"].append(batch.ids[readable])
                parts["places"].append(number * size + readable)
        found[split] = parts
    # Of a split without images, nothing of the training images.
    arrays = {
        f"{split}_{part}": np.concatenate([found["train"][part][0][:0], *values])
        for split, parts in found.items()
        for part, values in parts.items()
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
