import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.utils.class_weight

from resnet_jax.config import DataConfig, OptimizerConfig, ParallelConfig, SyntheticConfig, validate
from resnet_jax.data import balancing, datasets, selection
from resnet_jax.data.pipeline import Resident
from resnet_jax.data.split import Split
from resnet_jax.errors import InputError
from resnet_jax.parallel import DeviceMap
from resnet_jax.train import optimizer, step
from resnet_jax.train.setup import Experiment
from resnet_jax.train.state import TrainState

WHOLE = datasets.load(DataConfig(name="digits"))


def digits(**fields):
    return datasets.load(DataConfig(name="digits", **fields))


def refusal(**fields):
    with pytest.raises(InputError) as caught:
        digits(**fields)
    message = str(caught.value)
    assert "\n" not in message
    return message


def sizes(split):
    return np.bincount(split.labels).tolist()


def published(dataset):
    """The published training set's examples: train and val together."""
    labels = np.concatenate([dataset.train.labels, dataset.val.labels])
    return np.bincount(labels).tolist()


def by_id(*splits):
    return {
        name: (image, label)
        for split in splits
        for name, image, label in zip(split.ids, split.images, split.labels, strict=True)
    }


# scikit-learn's digits hold 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180 of 0 to 9.


def test_a_subset_holds_every_example_of_its_classes_and_none_of_another():
    seven_and_two = digits(classes=("7", "2"))
    assert seven_and_two.class_names == ("7", "2")
    assert seven_and_two.num_classes == 2
    whole = by_id(*WHOLE.splits.values())
    chosen = by_id(*seven_and_two.splits.values())
    assert len(chosen) == 179 + 177
    for name, (image, label) in chosen.items():
        np.testing.assert_array_equal(image, whole[name][0])
        assert (7, 2)[label] == whole[name][1]
    assert set(seven_and_two.test.ids) < set(WHOLE.test.ids)
    assert seven_and_two.train.labels.dtype == np.int32


def test_labels_follow_the_order_in_which_classes_are_given():
    forth, back = digits(classes=("3", "8", "5")), digits(classes=("5", "8", "3"))
    np.testing.assert_array_equal(forth.test.ids, back.test.ids)
    np.testing.assert_array_equal(forth.test.labels, 2 - back.test.labels)
    assert forth.describe() != back.describe()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("airplane", "automobil"), "'automobil', which is no class of cifar.*'automobile'?"),
        (("cat", "Cat"), "'Cat', which is no class of cifar.*did you mean 'cat'?"),
        (("frog", "zzz"), "it has 'airplane', 'automobile', 'cat', 'frog'$"),
    ],
)
def test_a_class_that_does_not_exist_is_answered_with_the_nearest_or_all(classes, message):
    with pytest.raises(InputError, match=message):
        selection.check_classes(
            DataConfig(name="cifar10", classes=classes), ("airplane", "automobile", "cat", "frog")
        )


def test_loading_refuses_a_class_that_does_not_exist():
    assert "'ten', which is no class of digits" in refusal(classes=("1", "ten"))


@pytest.mark.parametrize(
    ("fields", "positive"),
    [
        ({}, None),
        ({"classes": ("1", "2", "3")}, None),
        ({"classes": ("4", "9")}, 1),
        ({"classes": ("4", "9"), "positive_class": "9"}, 1),
        ({"classes": ("4", "9"), "positive_class": "4"}, 0),
    ],
)
def test_of_two_classes_the_second_is_positive_unless_another_is_named(fields, positive):
    assert digits(**fields).positive == positive


def test_a_positive_class_is_refused_where_it_has_no_effect_or_does_not_exist():
    assert "has no effect with 10 classes" in refusal(positive_class="1")
    message = refusal(classes=("4", "9"), positive_class="1")
    assert "config.data.positive_class must be one of '4', '9'; got '1'" in message


def test_a_data_set_that_has_two_classes_has_a_positive_one():
    two = datasets.load(DataConfig(name="synthetic", synthetic=SyntheticConfig(classes=2)))
    assert two.positive == 1


def of_sizes(*counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    labels = np.random.RandomState(0).permutation(labels)
    images = np.random.RandomState(1).randint(0, 256, (len(labels), 2, 2, 1)).astype(np.uint8)
    return Split(images, labels, np.array([f"x{i}" for i in range(len(labels))]))


@pytest.mark.parametrize(
    ("counts", "ratios", "kept"),
    [
        ((100, 100), (9, 1), [100, 11]),  # 100 / 9 = 11.1
        ((100, 100), (1, 9), [11, 100]),
        ((100, 50), (1, 1), [50, 50]),
        ((100, 50), (4, 1), [100, 25]),
        ((90, 30), (4, 1), [90, 22]),  # 22.5, to even
        ((100, 50), (2, 1), [100, 50]),
        ((100, 50), (0.2, 0.1), [100, 50]),
        ((60, 90, 70), (1, 0.5, 0.25), [60, 30, 15]),
    ],
)
def test_ratios_are_reached_with_as_few_examples_removed_as_possible(counts, ratios, kept):
    names = "abc"[: len(counts)]
    before = of_sizes(*counts)
    after = selection.with_ratios("t", before, names, DataConfig(class_ratios=ratios))
    assert sizes(after) == kept
    # What is left is as it was, in its old order.
    numbers = [int(name[1:]) for name in after.ids]
    assert numbers == sorted(set(numbers))
    np.testing.assert_array_equal(after.images, before.images[numbers])
    np.testing.assert_array_equal(after.labels, before.labels[numbers])


def test_ratios_hold_for_the_published_training_set_and_the_test_set_each():
    dataset = digits(classes=("0", "1"), class_ratios=(9, 1))
    (zeros, ones), (test_zeros, test_ones) = published(dataset), sizes(dataset.test)
    full = digits(classes=("0", "1"))
    # All zeros stay; of the ones a ninth of that.
    assert (zeros, test_zeros) == (published(full)[0], sizes(full.test)[0])
    assert (ones, test_ones) == (round(zeros / 9), round(test_zeros / 9))
    assert len(dataset.val) == round(0.1 * (zeros + ones))


def test_what_ratios_remove_is_always_the_same_and_grows_with_them():
    nine = digits(class_ratios=(9, *[1] * 9))
    again = digits(class_ratios=(9, *[1] * 9), split_seed=5)
    np.testing.assert_array_equal(nine.test.ids, again.test.ids)
    assert {*nine.train.ids, *nine.val.ids} == {*again.train.ids, *again.val.ids}
    three = digits(class_ratios=(3, *[1] * 9))
    assert set(nine.test.ids) < set(three.test.ids) < set(WHOLE.test.ids)


def test_the_draw_never_changes():
    # NumPy freezes RandomState's stream (NEP 19). Other values here would mean that old and new
    # runs of one configuration are on different images.
    split = selection.with_ratios("t", of_sizes(10, 10), "ab", DataConfig(class_ratios=(10, 3)))
    minority = [name for name, label in zip(split.ids, split.labels, strict=True) if label]
    assert minority == ["x0", "x7", "x19"]
    added = balancing.resample(of_sizes(4, 2), "ab", DataConfig(resampling="mixup"))
    assert added.ids[6:].tolist() == ["x5+x0", "x0+x5"]
    assert added.images[6:].ravel().tolist() == [254, 101, 146, 212, 210, 128, 145, 184]


def test_ratios_are_refused_if_they_do_not_fit_the_classes_or_empty_one():
    message = refusal(class_ratios=(9, 1))
    assert "one number for each of the 10 classes" in message and "got 2: (9, 1)" in message
    message = refusal(classes=("0", "1"), class_ratios=(1000, 1))
    assert "leaves class '1' without an example in digits train" in message
    # 1,438 training digits, 359 to test: what is enough there may be too little here.
    message = refusal(classes=("0", "1"), class_ratios=(100, 1))
    assert "leaves class '1' without an example in digits test" in message


def test_a_class_that_the_division_leaves_out_of_train_is_named():
    # Three ones are left beside 151 zeros; nine tenths of all are held out, those three among them.
    message = refusal(classes=("0", "1"), class_ratios=(50, 1), val_fraction=0.9, split_seed=1)
    assert "class '1' has no example in digits train (15 images)" in message


IMBALANCED = dict(classes=("0", "1", "2"), class_ratios=(9, 3, 1))


@pytest.mark.parametrize("kind", ["over", "under", "mixup"])
def test_resampling_makes_the_classes_of_train_equally_large_and_leaves_val_and_test(kind):
    before = digits(**IMBALANCED)
    after = digits(**IMBALANCED, resampling=kind)
    count = {"over": max, "mixup": max, "under": min}[kind](sizes(before.train))
    assert sizes(after.train) == [count] * 3
    assert len(set(after.train.ids)) == 3 * count
    for name in ("val", "test"):
        np.testing.assert_array_equal(after.splits[name].ids, before.splits[name].ids)
        np.testing.assert_array_equal(after.splits[name].images, before.splits[name].images)
    assert after.train.images.dtype == np.uint8 and after.train.labels.dtype == np.int32


def test_oversampling_repeats_training_images_evenly_under_numbered_ids():
    before = digits(**IMBALANCED).train
    after = digits(**IMBALANCED, resampling="over").train
    np.testing.assert_array_equal(after.ids[: len(before)], before.ids)
    originals = by_id(before)
    times = collections.defaultdict(list)
    for name, (image, label) in by_id(after).items():
        original, _, number = name.partition("#")
        np.testing.assert_array_equal(image, originals[original][0])
        assert label == originals[original][1]
        times[label, original].append(int(number or 1))
    for numbers in times.values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
    for label in range(3):
        repeats = [len(numbers) for (of, _), numbers in times.items() if of == label]
        assert max(repeats) - min(repeats) <= 1


def test_undersampling_keeps_some_training_images_in_their_order():
    before = digits(**IMBALANCED).train
    after = digits(**IMBALANCED, resampling="under").train
    places = [before.ids.tolist().index(name) for name in after.ids]
    assert places == sorted(places)
    np.testing.assert_array_equal(after.images, before.images[places])


def test_mixtures_lie_between_two_different_training_images_of_their_class():
    before = digits(**IMBALANCED).train
    after = digits(**IMBALANCED, resampling="mixup").train
    originals = by_id(before)
    mixtures = [row for row in by_id(after).items() if row[0] not in originals]
    assert len(mixtures) == len(after) - len(before) > 100
    shares = []
    for name, (image, label) in mixtures:
        first, second = (originals[i] for i in re.sub("#.*", "", name).split("+"))
        assert first[1] == second[1] == label
        assert not np.array_equal(first[0], second[0])
        a, b = first[0].astype(float), second[0].astype(float)
        # The share that explains the image best explains it up to rounding.
        share = np.clip(((image - b) * (a - b)).sum() / ((a - b) ** 2).sum(), 0, 1)
        np.testing.assert_allclose(image, share * a + (1 - share) * b, rtol=0, atol=1)
        shares.append(share)
    # Beta(0.2, 0.2) has mean 1/2 and variance 1 / (4 (2 * 0.2 + 1)) = 0.179.
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert np.var(shares) == pytest.approx(0.179, abs=0.03)


def test_alpha_moves_mixtures_away_from_their_images():
    train = of_sizes(400, 2)
    for alpha in (0.2, 5.0):
        config = DataConfig(resampling="mixup", mixup_alpha=alpha)
        added = balancing.resample(train, "ab", config).images[402:].astype(float)
        a, b = train.images[train.labels == 1].astype(float)
        shares = ((added - b) * (a - b)).sum((1, 2, 3)) / ((a - b) ** 2).sum()
        assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)
    # Two images have two ordered pairs; all others are numbered.
    assert len(set(balancing.resample(train, "ab", config).ids)) == 800


def test_a_class_of_one_image_can_be_repeated_but_not_mixed():
    train = of_sizes(5, 1)
    assert sizes(balancing.resample(train, "ab", DataConfig(resampling="over"))) == [5, 5]
    with pytest.raises(InputError, match="needs two examples of each class, but 'b' has one"):
        balancing.resample(train, "ab", DataConfig(resampling="mixup"))


@pytest.mark.parametrize("kind", ["over", "under", "mixup"])
def test_resampling_is_always_alike_for_one_seed(kind):
    first, second, other = (
        balancing.resample(of_sizes(30, 10), "ab", DataConfig(resampling=kind, split_seed=seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.ids, second.ids)
    assert first.ids.tolist() != other.ids.tolist()


def test_selected_and_resampled_data_sets_can_be_told_apart():
    variants = [
        {},
        {"classes": ("0", "1")},
        {"classes": ("1", "0")},
        {"classes": ("0", "1"), "class_ratios": (9, 1)},
        *(
            {"classes": ("0", "1"), "class_ratios": (9, 1), "resampling": kind}
            for kind in ("over", "under", "mixup")
        ),
    ]
    assert len({digits(**fields).describe()["sha256"] for fields in variants}) == len(variants)


def test_statistics_are_those_of_the_resampled_training_split():
    config = DataConfig(name="digits", **IMBALANCED, resampling="over")
    dataset = datasets.load(config)
    mean = Resident.of(dataset, config).arrays["mean"]
    per_class = [dataset.train.images[dataset.train.labels == c].mean(0) / 255 for c in range(3)]
    np.testing.assert_allclose(mean, np.mean(per_class, 0), atol=1e-6)


def test_class_weights_are_scikit_learns_balanced_ones():
    train = digits(**IMBALANCED).train
    weights = balancing.class_weights(train, "012")
    expected = sklearn.utils.class_weight.compute_class_weight(
        "balanced", classes=np.arange(3), y=train.labels
    )
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    # By hand: 8 of one class and 2 of another, 10 / (2 * 8) and 10 / (2 * 2).
    assert balancing.class_weights(of_sizes(8, 2), "ab").tolist() == [0.625, 2.5]


def test_class_weights_need_an_example_of_every_class():
    with pytest.raises(InputError, match="'c' has none in train"):
        balancing.class_weights(of_sizes(3, 3), "abc")


def run_config(class_weights="balanced", **parallel):
    return validate(
        {
            "model": {"depth": 8},
            "data": {
                "name": "digits",
                "classes": ("0", "1"),
                "class_ratios": (9, 1),
                "crop_padding": 0,
            },
            "train": {
                "batch_size": 16,
                "steps": 2,
                "class_weights": class_weights,
                "eval_interval": 2,
            },
            "parallel": parallel,
            "log": {"interval": 1, "tensorboard": False, "progress": False},
        }
    )


def linear_step(parallel, x, y, weights, params):
    """One step of a linear net in double precision: its new parameters and what it logs."""
    tx = optimizer.build(
        OptimizerConfig(schedule="constant", learning_rate=0.1, momentum=0, weight_decay=0), 1
    )

    def apply(params, stats, x, train, *, keys=None, progress=None):
        return x.reshape(len(x), -1) @ params["w"] + params["b"], stats

    def one_step(state, x, y, weights):
        new = step.train_step(state, x, y, apply=apply, tx=tx, class_weights=weights)
        return (new,)

    devices = DeviceMap(ParallelConfig(**parallel))
    program = devices.compile(one_step, inputs=(None, 0, 0, None), outputs=(None,))
    state = devices.replicate(jax.device_get(TrainState.create(params, {}, tx.init(params))))
    weights = None if weights is None else devices.replicate(weights)
    (state,) = program(state, x, y, weights)
    state = devices.single_copy(state)
    return jax.device_get(state.params), state.window.compute()


WAYS = [{"devices": 1}, {"devices": 8}, {"devices": 8, "mapping": "pmap"}]


@pytest.mark.parametrize("parallel", WAYS, ids=str)
def test_a_weighted_step_is_pytorchs_on_one_device_and_on_eight(parallel, float64):
    torch = pytest.importorskip("torch")
    random = np.random.RandomState(0)
    x, w, b = random.normal(size=(16, 2, 2, 1)), random.normal(size=(4, 3)), random.normal(size=3)
    # Rare classes lie on one device alone: a mean of the devices' weighted means would differ.
    y = np.array([0] * 13 + [1, 2, 2])
    weights = np.array([0.5, 4.0, 2.0])
    theirs = [torch.tensor(value, requires_grad=True) for value in (w, b)]
    logits = torch.tensor(x.reshape(16, 4)) @ theirs[0] + theirs[1]
    torch.nn.CrossEntropyLoss(weight=torch.tensor(weights))(logits, torch.tensor(y)).backward()

    params = {"w": jnp.asarray(w), "b": jnp.asarray(b)}
    new, logged = linear_step(parallel, x, y, weights, params)
    for name, before in zip("wb", theirs, strict=True):
        expected = before.detach().numpy() - 0.1 * before.grad.numpy()
        np.testing.assert_allclose(new[name], expected, rtol=1e-12)
    # What is logged counts every example alike.
    plain = torch.nn.functional.cross_entropy(logits, torch.tensor(y)).item()
    assert logged["loss"] == pytest.approx(plain, rel=1e-6)
    norm = np.sqrt(sum((value.grad.numpy() ** 2).sum() for value in theirs))
    assert logged["gradient_norm"] == pytest.approx(norm, rel=1e-6)


def test_equal_weights_change_nothing(float64):
    random = np.random.RandomState(0)
    x, y = random.normal(size=(16, 2, 2, 1)), random.randint(0, 3, 16)
    params = {"w": jnp.asarray(random.normal(size=(4, 3))), "b": jnp.zeros(3)}
    weighted, _ = linear_step(WAYS[1], x, y, np.full(3, 7.0), params)
    plain, _ = linear_step(WAYS[1], x, y, None, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), weighted, plain)


def test_a_run_takes_the_weights_of_its_training_split_and_logs_unweighted_numbers():
    logged = {}
    for kind in ("none", "balanced"):
        experiment = Experiment.prepare(run_config(kind, devices=8))
        state = experiment.devices.replicate(experiment.state)
        labels = experiment.feed.arrays["labels"][: experiment.feed.sizes["train"]]
        # The rare class comes last; half of the batch is of it.
        examples = np.argsort(labels, kind="stable")[None, -24:-8].astype(np.int32)
        (state,) = experiment.train_program(state, experiment.arrays, examples)
        logged[kind] = state.window.compute()
        assert ("class_weights" in experiment.arrays) == (kind == "balanced")
    sizes = np.bincount(labels)
    weights = experiment.arrays["class_weights"]
    np.testing.assert_allclose(weights, sizes.sum() / (2 * sizes), rtol=1e-6)
    assert logged["none"]["loss"] == logged["balanced"]["loss"]
    assert logged["none"]["error"] == logged["balanced"]["error"]
    assert logged["none"]["gradient_norm"] != logged["balanced"]["gradient_norm"]
