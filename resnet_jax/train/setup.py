"""From a config to what a run works with: data on the devices, a net, its state, its programs."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Generator
from typing import Any, cast

import jax
import numpy as np

from resnet_jax import run_folder
from resnet_jax.config import (
    EvaluationConfig,
    RunConfig,
    resolve_block_loop,
    resolve_steps_per_call,
)
from resnet_jax.data import augment, balancing, datasets, streamed
from resnet_jax.data.augment import Normalization
from resnet_jax.data.feed import Feed
from resnet_jax.data.order import TrainingOrder
from resnet_jax.data.pipeline import Resident
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.stream import Streamed
from resnet_jax.errors import InputError
from resnet_jax.models import registry
from resnet_jax.models.repeated import Repetition, with_loops, without_loops
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import features, optimizer
from resnet_jax.train.initial import initial_state
from resnet_jax.train.state import TrainState
from resnet_jax.train.step import training_program

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run's parts, ready to be used.

    Attributes:
        config: of the run.
        devices: that it is mapped over.
        dataset: what identifies it.
        preprocessing: what the net expects of an image, and its classes.
        positive: label of the class that binary data ask for; None if there is none.
        leaked: ids of test images with a duplicate in train or val, by the configured audit; None
            without one.
        feed: what the programs are fed with.
        arrays: the feed's, the seed and, if the loss is weighted, the classes' weights; copied to
            every device.
        net: as pure functions.
        apply: what the programs map their inputs with: the net, or, where there are cached
            features, its head.
        state: before the first step, on the host, as checkpoints have it.
        loops: whether the program has blocks that are alike as a loop.
        steps_per_call: steps in one call of `train_program`.
        train_program: (state, arrays, batch) -> (state,).
    """

    config: RunConfig
    devices: DeviceMap
    dataset: dict[str, Any]
    preprocessing: Preprocessing
    positive: int | None
    leaked: frozenset[str] | None
    feed: Feed
    arrays: dict[str, jax.Array]
    net: registry.Functional
    apply: registry.Apply
    state: TrainState
    loops: bool
    steps_per_call: int
    train_program: Callable[..., Any]

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what comes to the net."""
        return augment.seen_shape(self.config.data, self.preprocessing.image_shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The data set's, in label order."""
        return self.preprocessing.class_names

    def placed(self, state: TrainState) -> TrainState:
        """A state on the devices, laid out for the program."""
        return cast(TrainState, self.devices.replicate(with_loops(state) if self.loops else state))

    def to_save(self, state: TrainState) -> TrainState:
        """One copy of what is on the devices, laid out as checkpoints are."""
        one = self.devices.single_copy(state)
        return cast(TrainState, without_loops(jax.device_get(one)) if self.loops else one)

    def judged(self, state: TrainState, val_error: float) -> TrainState:
        """The state on the devices after an evaluation; see `optimizer.after_evaluation`."""
        if self.config.optimizer.schedule != "plateau":
            return state
        one = self.devices.single_copy(state.opt_state)
        after = optimizer.after_evaluation(self.config.optimizer, one, val_error)
        return dataclasses.replace(state, opt_state=self.devices.replicate(after))

    def batches(
        self, first: int, end: int | None = None, per_call: int | None = None
    ) -> Generator[Any]:
        """What `train_program` takes, call by call, from step `first` up to `end`, the run's.

        Images are on the devices when they are given: while one call computes, the next one's are
        on their way.

        Args:
            first: the step to begin with.
            end: the step to end before; the run's last one is before None.
            per_call: steps in a call; `steps_per_call` if None.
        """
        train = self.config.train
        order = TrainingOrder(self.feed.sizes["train"], train.batch_size, train.seed)
        made = self.feed.training(order, first, end or train.steps, per_call or self.steps_per_call)
        with contextlib.closing(made):
            for batch in made:
                yield self.devices.on_their_way(batch, 1)

    @classmethod
    def prepare(cls, config: RunConfig) -> "Experiment":
        """Loads the data, builds the net and declares the programs; nothing is compiled yet.

        Raises:
            InputError: if the data, the weights file or the number of devices does not fit.
        """
        devices = DeviceMap(config.parallel)
        devices.check_batch(config.train.batch_size)
        dataset: datasets.Dataset | streamed.StreamedDataset
        feed: Feed
        hosts = devices.hosts
        host = hosts.index, hosts.count
        if hosts.count > 1 and config.transfer.cached_features:
            raise InputError(
                "config.transfer.cached_features=True is for one host, and "
                f"{hosts.count} processes train together; a head is small: train it on one"
            )
        if config.data.is_streamed:
            dataset = hosts.leader_first(lambda: streamed.load(config.data))
            feed = Streamed(dataset, config.data, host=host)
        else:
            dataset = hosts.leader_first(lambda: datasets.load(config.data))
            feed = Resident.of(dataset, config.data, host=host)
        if config.data.normalization == "imagenet" and dataset.image_shape[-1] != 3:
            raise InputError(
                "config.data.normalization='imagenet' needs 3 channels, but the images of "
                f"{dataset.name} have {dataset.image_shape[-1]}; use 'pixel_mean' or 'channel'"
            )
        if config.train.batch_size > len(dataset.train):
            raise InputError(
                f"config.train.batch_size={config.train.batch_size} is larger than the training "
                f"split of {dataset.name} ({len(dataset.train)} images); use a smaller batch"
            )
        check_costs(config.evaluation, dataset.num_classes)
        described = dataset.describe()
        leaked = leaked_ids(config.evaluation.audit, described)
        loops = resolve_block_loop(config, accelerator=devices.is_accelerator)
        net, tx, state = initial_state(
            config,
            channels=dataset.image_shape[-1],
            num_classes=dataset.num_classes,
            start=config.model.weights,
            repetition=Repetition(loops, config.train.recompute_blocks),
        )
        LOG.info(_describe(config, dataset))
        apply = net.apply
        if config.transfer.cached_features:
            laid_out = with_loops(state) if loops else state
            feed, apply = features.cached(config, devices, feed, net, laid_out, described), net.head
        # Arguments, not constants, so that all seeds share one program.
        more: dict[str, Any] = {"seed": np.uint32(config.train.seed)}
        if config.train.class_weights == "balanced":
            more["class_weights"] = balancing.class_weights(dataset.train, dataset.class_names)
        return cls(
            config=config,
            devices=devices,
            dataset=described,
            preprocessing=Preprocessing(
                Normalization(feed.arrays["mean"], feed.arrays["std"]),
                dataset.image_shape,
                dataset.class_names,
                config.data.is_streamed,
            ),
            positive=dataset.positive,
            leaked=leaked,
            feed=feed,
            arrays=devices.replicate({**feed.arrays, **more}),
            net=net,
            apply=apply,
            state=state,
            loops=loops,
            steps_per_call=resolve_steps_per_call(config, accelerator=devices.is_accelerator),
            train_program=devices.compile(
                training_program(config, apply, tx, net.cut),
                inputs=(None, None, 1),
                outputs=(None,),
                donate=(0,),
            ),
        )


def check_costs(settings: EvaluationConfig, classes: int) -> None:
    """Costs are one number for all classes, or one for each.

    Raises:
        InputError: if they are another number of numbers.
    """
    for name in ("false_negative_cost", "false_positive_cost"):
        given = getattr(settings, name)
        if len(given) not in (1, classes):
            raise InputError(
                f"config.evaluation.{name} has {len(given)} numbers; give one for all classes, or "
                f"{classes}, one for each"
            )


def leaked_ids(path: str, dataset: dict[str, Any]) -> frozenset[str] | None:
    """Test ids with a duplicate in train or val, from the audit at `path`; None if it is "".

    Raises:
        InputError: if there is no audit, or it is of other images.
    """
    if not path:
        return None
    audit = run_folder.read_json(pathlib.Path(path).expanduser())
    field = f"config.evaluation.audit={path!r}"
    how = "make one with python -m resnet_jax.data.audit"
    try:
        audited, ids = audit["dataset"]["sha256"], frozenset(map(str, audit["test_duplicates"]))
    except (TypeError, KeyError):
        raise InputError(f"{field} is not an audit; {how}") from None
    if audited != dataset["sha256"]:
        raise InputError(f"{field} is of other images or splits than {dataset['name']}; {how}")
    return ids


def _describe(config: RunConfig, dataset: datasets.Dataset | streamed.StreamedDataset) -> str:
    model = config.model
    kind = "residual" if model.residual else "plain"
    net = model.net if model.variant else f"{kind} net of depth {model.depth}"
    sizes = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    return f"{net} on {dataset.name} ({sizes})"
