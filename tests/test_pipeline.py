import dataclasses

import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import datasets
from resnet_jax.data.datasets import Dataset, Split
from resnet_jax.data.order import TrainingOrder
from resnet_jax.data.pipeline import Resident


def split(count, *, seed=0, first=0):
    images = np.random.RandomState(seed).randint(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    labels = np.arange(count, dtype=np.int32) % 3
    return Split(images, labels, np.array([f"{i}" for i in range(first, first + count)]))


DATASET = Dataset("test", ("a", "b", "c"), split(10), split(3, seed=1), split(7, seed=2))


def resident(dataset=DATASET, **fields):
    return Resident.of(dataset, DataConfig(**fields))


def test_all_splits_lie_behind_one_another():
    layout = resident()
    assert layout.sizes == {"train": 10, "val": 3, "test": 7}
    assert layout.starts == {"train": 0, "val": 10, "test": 13}
    for name, expected in DATASET.splits.items():
        part = slice(layout.starts[name], layout.starts[name] + layout.sizes[name])
        np.testing.assert_array_equal(layout.arrays["images"][part], expected.images)
        np.testing.assert_array_equal(layout.arrays["labels"][part], expected.labels)


def test_an_empty_val_split_takes_no_place():
    layout = resident(dataclasses.replace(DATASET, val=DATASET.val.take(np.arange(0))))
    assert layout.sizes == {"train": 10, "val": 0, "test": 7}
    assert layout.starts["test"] == 10
    assert list(layout.padded_batches("val", 4)) == []


@pytest.mark.parametrize("kind", ["pixel_mean", "channel"])
def test_statistics_are_those_of_the_training_split_alone(kind):
    before = resident(normalization=kind).arrays
    others = dataclasses.replace(DATASET, val=split(3, seed=8), test=split(7, seed=9))
    after = resident(others, normalization=kind).arrays
    np.testing.assert_array_equal(after["mean"], before["mean"])
    np.testing.assert_array_equal(after["std"], before["std"])
    changed = resident(dataclasses.replace(DATASET, train=split(10, seed=7)), normalization=kind)
    assert not np.array_equal(changed.arrays["mean"], before["mean"])


def test_statistics_of_digits_are_those_of_the_1294_training_images():
    config = DataConfig(name="digits")
    dataset = datasets.load(config)
    expected = dataset.train.images.astype(np.float64).mean(0) / 255
    assert len(dataset.train) == 1_294
    np.testing.assert_allclose(Resident.of(dataset, config).arrays["mean"], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 10, 64])
def test_evaluation_sees_each_example_once_and_in_order(name, batch_size):
    layout = resident()
    batches = list(layout.padded_batches(name, batch_size))
    seen = np.concatenate([examples[mask] for examples, mask in batches])
    start, size = layout.starts[name], layout.sizes[name]
    assert seen.tolist() == list(range(start, start + size))
    for examples, mask in batches:
        assert examples.shape == mask.shape == (batch_size,)
        assert examples.dtype == np.int32 and mask.dtype == bool


def test_a_ragged_last_batch_is_filled_up_with_masked_examples_of_its_own_split():
    layout = resident()
    batches = list(layout.padded_batches("val", 2))
    assert [examples.tolist() for examples, _ in batches] == [[10, 11], [12, 12]]
    assert [mask.tolist() for _, mask in batches] == [[True, True], [True, False]]


def test_training_sees_each_example_once_an_epoch():
    order = TrainingOrder(10, 5, seed=0)
    for epoch in range(4):
        assert sorted(order.batches(2 * epoch, 2).ravel()) == list(range(10))


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (10, 3), (7, 5), (10, 10), (4, 10)])
def test_batches_that_straddle_epochs_drop_and_repeat_nothing(count, batch_size):
    order = TrainingOrder(count, batch_size, seed=0)
    stream = order.batches(0, 3 * count).ravel()
    epochs = stream.reshape(-1, count)
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    # Not one permutation over and over.
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2


def test_a_batch_is_the_same_however_it_is_reached():
    whole = TrainingOrder(10, 4, seed=3).batches(0, 20)
    order = TrainingOrder(10, 4, seed=3)
    for step in [19, 0, 7, 7, 2, 18, 3]:
        np.testing.assert_array_equal(order.batch(step), whole[step])
        np.testing.assert_array_equal(TrainingOrder(10, 4, seed=3).batch(step), whole[step])
    np.testing.assert_array_equal(TrainingOrder(10, 4, seed=3).batches(5, 4), whole[5:9])


def test_the_order_never_changes():
    # NumPy freezes RandomState's stream (NEP 19). Other values here would mean that a run cannot
    # be repeated, nor gone on with, by a newer version.
    assert TrainingOrder(10, 4, seed=0).batches(0, 3).tolist() == [
        [3, 7, 6, 4],
        [1, 0, 2, 8],
        [5, 9, 9, 4],
    ]


def test_the_seed_chooses_the_order():
    orders = {tuple(TrainingOrder(50, 50, seed).batch(0).tolist()) for seed in range(5)}
    assert len(orders) == 5


def test_seed_and_epoch_are_not_added_up():
    # With seed + epoch, the second epoch of one run would be the first of the next.
    second = TrainingOrder(50, 50, seed=0).batch(1)
    first = TrainingOrder(50, 50, seed=1).batch(0)
    assert second.tolist() != first.tolist()


def test_indices_are_what_the_compiled_step_takes():
    batches = TrainingOrder(10, 4, seed=0).batches(3, 2)
    assert batches.shape == (2, 4) and batches.dtype == np.int32


@pytest.mark.parametrize("step", [0, 63_999, 64_000, 10_000_000])
def test_steps_far_into_a_run_cost_no_replay_and_stay_in_range(step):
    batch = TrainingOrder(45_000, 128, seed=2**31 - 1).batch(step)
    assert batch.min() >= 0 and batch.max() < 45_000
    assert len(set(batch.tolist())) >= 127  # two epochs may share an example at most by chance
