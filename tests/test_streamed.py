"""Streamed data sets: what is in them, and what of it a batch holds."""

import dataclasses
import logging
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from resnet_jax.config import DataConfig, validate
from resnet_jax.data import datasets, streamed, synthetic_folder
from resnet_jax.data.batches import EvaluationBatches, TrainingBatches
from resnet_jax.data.crops import View
from resnet_jax.data.order import TrainingOrder
from resnet_jax.data.split import split_indices
from resnet_jax.data.stream import Streamed
from resnet_jax.errors import InputError
from tests.helpers import prepare_imagenet2012

SIZE = 24


def config(folder, **fields):
    fields = {"name": "image_folder", "image_size": SIZE, "normalization": "imagenet"} | fields
    return DataConfig(data_dir=str(folder), workers=0, **fields)


@pytest.fixture
def folder(shapes, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(shapes, tmp_path / "shapes")


def files(folder, half):
    return sorted((folder / half).rglob("*.jpg"))


def training(dataset, *, batch_size=16, seed=0, augmentation="he2015", first=0, steps=50, **more):
    order = TrainingOrder(len(dataset.train), batch_size, seed)
    return TrainingBatches(dataset.train, order, augmentation, SIZE, first, steps, **more)


def ids(split, examples=None):
    examples = range(len(split)) if examples is None else examples
    return [split.read(int(example)).id for example in examples]


# What is in a data set.


def test_the_folders_train_is_divided_and_its_val_is_the_test_set(shapes):
    dataset = streamed.load(config(shapes, val_fraction=0.25))
    assert dataset.class_names == ("blue_bars", "blue_square", "red_bars", "red_square")
    assert [len(split) for split in dataset.splits.values()] == [60, 20, 32]
    assert dataset.image_shape == (SIZE, SIZE, 3)
    published = [str(path.relative_to(shapes)) for path in files(shapes, "train")]
    kept, held_out = split_indices(80, 0.25, 0)
    assert ids(dataset.train) == [published[i] for i in kept]
    assert ids(dataset.val) == [published[i] for i in held_out]
    assert ids(dataset.test) == [str(path.relative_to(shapes)) for path in files(shapes, "val")]
    for split in dataset.splits.values():
        for example in range(len(split)):
            stored = split.read(example)
            assert stored.id.split("/")[1] == dataset.class_names[stored.label]
            assert stored.content == (shapes / stored.id).read_bytes()


def test_all_published_training_images_are_trained_on_if_asked_for(shapes):
    dataset = streamed.load(config(shapes, train_on="train+val"))
    assert (len(dataset.train), len(dataset.val)) == (80, 0)


def test_classes_are_selected_and_labelled_in_the_order_they_are_named(shapes):
    chosen = ("red_square", "blue_square")
    dataset = streamed.load(config(shapes, classes=chosen, positive_class="red_square"))
    assert dataset.class_names == chosen and dataset.positive == 0
    for split in dataset.splits.values():
        for example in range(len(split)):
            stored = split.read(example)
            assert stored.id.split("/")[1] == chosen[stored.label]
    assert dataset.test.class_sizes(2).tolist() == [8, 8]


def test_images_lie_at_any_depth_and_other_files_are_passed_over(folder, caplog):
    deep = folder / "train" / "red_square" / "images" / "more"
    deep.mkdir(parents=True)
    shutil.copy(files(folder, "train")[0], deep / "x.JPEG")
    (folder / "train" / "red_square" / "boxes.txt").write_text("1 2 3")
    (folder / "train" / ".DS_Store").write_bytes(b"")
    (folder / "train" / "red_square" / ".hidden.jpg").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        dataset = streamed.load(config(folder, train_on="train+val"))
    assert len(dataset.train) == 81
    assert "train/red_square/images/more/x.JPEG" in ids(dataset.train)
    assert "1 files that are no images" in caplog.text


def test_the_hash_tells_other_names_sizes_classes_and_divisions_apart(folder):
    before = streamed.load(config(folder)).describe()
    assert before == streamed.load(config(folder)).describe()
    moved = folder.rename(folder.with_name("elsewhere"))
    assert streamed.load(config(moved)).describe() == before
    assert before["examples"] == {"train": 72, "val": 8, "test": 32}
    hashes = {before["sha256"]}
    hashes.add(streamed.load(config(moved, split_seed=1)).describe()["sha256"])
    hashes.add(
        streamed.load(config(moved, classes=("red_square", "blue_square"))).describe()["sha256"]
    )
    first = files(moved, "val")[0]
    first.write_bytes(first.read_bytes() + b"\0")
    hashes.add(streamed.load(config(moved)).describe()["sha256"])
    first.rename(first.with_name("other.jpg"))
    hashes.add(streamed.load(config(moved)).describe()["sha256"])
    assert len(hashes) == 5


def test_a_data_set_that_streams_is_refused_where_images_must_lie_in_memory(shapes):
    with pytest.raises(InputError, match="'image_folder' streams its images.*use a data set"):
        datasets.load(config(shapes))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: remove(d), "there is no such folder; lay it out as train/CLASS/IMAGE"),
        (lambda d: remove(d / "val"), "it has no val folder; lay it out"),
        (lambda d: remove(d / "train"), "it has no train folder; lay it out"),
        (lambda d: [remove(p) for p in (d / "train").iterdir()], "no folder of a class"),
        (
            lambda d: remove(d / "val" / "red_square"),
            r"class 'red_square' is in train \(4 classes\) but not in val \(3\)",
        ),
        (
            lambda d: (d / "val" / "green").mkdir(),
            r"class 'green' is in val \(5 classes\) but not in train \(4\)",
        ),
        (
            lambda d: [p.unlink() for p in (d / "val" / "red_square").iterdir()],
            "val/red_square holds no image .*remove that class from both halves, or fill it",
        ),
        (
            lambda d: [remove(d / h / c) for h in ("train", "val") for c in ONE_LEFT],
            "has one class, 'red_bars'; there must be two or more",
        ),
    ],
)
def test_a_folder_that_is_not_laid_out_as_it_should_be_is_refused(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        streamed.load(config(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


ONE_LEFT = ("blue_square", "blue_bars", "red_square")


def test_a_class_that_is_not_there_is_refused_with_the_nearest(shapes):
    with pytest.raises(InputError, match="'red_squares'.*did you mean 'red_square'"):
        streamed.load(config(shapes, classes=("red_squares", "blue_square")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resampling": "over"}, "resampling='over' has no effect with config.data.name='image_f"),
        ({"crop_padding": 2}, "crop_padding=2 has no effect"),
        ({"class_ratios": (1, 2)}, "class_ratios=.* has no effect"),
        ({"normalization": "pixel_mean"}, "'pixel_mean' needs statistics of images in memory"),
        ({"augmentation": "none"}, "neither mirrors nor colours; set config.data.flip=False"),
        ({"name": "imagenet2012", "classes": ("a", "b")}, "needs all labels before the first step"),
        ({"name": "cifar10", "image_size": 64}, "image_size=64 has no effect.*leave it at 224"),
        ({"name": "cifar10", "workers": 2}, "workers=2 has no effect"),
    ],
)
def test_fields_that_would_have_no_effect_are_refused(fields, message):
    base = {"name": "image_folder", "normalization": "imagenet"}
    with pytest.raises(InputError, match=message):
        validate({"data": base | fields})


def test_several_crops_and_balanced_classes_need_data_that_have_them():
    with pytest.raises(InputError, match="evaluation.crops='ten' needs streamed images"):
        validate({"evaluation": {"crops": "ten"}})
    with pytest.raises(InputError, match="train.class_weights='balanced' needs all labels"):
        validate(
            {
                "data": {"name": "imagenet2012", "normalization": "imagenet"},
                "train": {"class_weights": "balanced"},
            }
        )


# TFDS.


@pytest.fixture(scope="module")
def imagenet(shapes, tmp_path_factory):
    """The shapes as a prepared TFDS folder."""
    contents = {
        split: [
            (f"{path.parent.name}_{path.name}", path.read_bytes(), SYNSETS[path.parent.name])
            for path in files(shapes, half)
        ]
        for split, half in (("train", "train"), ("validation", "val"))
    }
    folder = tmp_path_factory.mktemp("tfds")
    return prepare_imagenet2012(folder, contents)


# ILSVRC 2012's first classes are the tench, the goldfish, the great white and the tiger shark.
SYNSETS = {
    "red_bars": "n01440764",
    "blue_square": "n01443537",
    "red_square": "n01484850",
    "blue_bars": "n01491361",
}


def test_a_prepared_tfds_folder_is_read_without_decoding_and_labelled_in_its_own_order(
    imagenet, shapes
):
    dataset = streamed.load(config(imagenet, name="imagenet2012", val_fraction=0.25))
    assert len(dataset.class_names) == 1_000
    assert dataset.class_names[:4] == tuple(SYNSETS.values())
    assert [len(split) for split in dataset.splits.values()] == [60, 20, 32]
    assert not dataset.describe()["original"]
    for split, half in (("train", "train"), ("val", "train"), ("test", "val")):
        for example in range(0, len(dataset.splits[split]), 7):
            stored = dataset.splits[split].read(example)
            label, _, name = stored.id.rpartition("_")
            assert dataset.class_names[stored.label] == SYNSETS[label]
            assert stored.content == (shapes / half / label / name).read_bytes()
    assert len({*ids(dataset.train), *ids(dataset.val)}) == 80


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: remove(d), "it is not in .*prepare it as docs/imagenet.md tells"),
        # So TFDS calls a folder that it writes into, now and in older versions.
        (lambda d: (d / "5.1.0").rename(d / "incomplete.X7_5.1.0"), "X7_5.1.0 was not finished"),
        (lambda d: (d / "5.1.0").rename(d / "5.1.0.incompleteX7"), "incompleteX7 was not finished"),
        (
            lambda d: next((d / "5.1.0").glob("*train*array_record*")).unlink(),
            "array_record.* is missing; copy it again",
        ),
    ],
)
def test_a_tfds_folder_that_is_missing_or_unfinished_is_refused(
    imagenet, tmp_path, change, message
):
    copy = shutil.copytree(imagenet, tmp_path / "tfds")
    change(copy / "imagenet2012")
    with pytest.raises(InputError, match=message) as caught:
        streamed.load(config(copy, name="imagenet2012"))
    assert "\n" not in str(caught.value)


def test_a_damaged_record_file_ends_the_run_and_is_named(imagenet, tmp_path):
    copy = shutil.copytree(imagenet, tmp_path / "tfds")
    (file,) = (copy / "imagenet2012").rglob("*train*array_record*")
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    file.write_bytes(content)
    dataset = streamed.load(config(copy, name="imagenet2012"))
    with pytest.raises(InputError, match=r"record \d+, in .*train.*cannot be read.*prepare"):
        ids(dataset.train)


# Training batches.


def test_each_epoch_sees_each_example_once(shapes):
    dataset = streamed.load(config(shapes))
    batches = training(dataset, batch_size=8)  # 72 images: 9 batches an epoch
    for epoch in range(3):
        seen = np.concatenate([batches[9 * epoch + b]["examples"] for b in range(9)])
        assert sorted(seen) == list(range(72))


def test_a_batch_is_the_same_however_it_is_reached(shapes):
    dataset = streamed.load(config(shapes))
    from_start, from_seven = training(dataset), training(dataset, first=7, steps=43)
    for step in (7, 30, 12, 30):
        a, b = from_start[step], from_seven[step - 7]
        assert set(a) == {"examples", "used", "images", "labels"}
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    with pytest.raises(IndexError):
        from_seven[43]


def test_crops_are_new_in_each_epoch_and_for_each_seed(shapes):
    dataset = streamed.load(config(shapes))

    def image(seed, epoch):
        batches = training(dataset, batch_size=72, seed=seed)
        batch = batches[epoch]
        return batch["images"][batch["examples"].tolist().index(5)]

    images = [image(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(images):
        assert all((one != other).any() for other in images[:i])


def test_each_image_of_a_batch_has_a_crop_of_its_own(folder):
    # All images alike: what tells their crops apart is the draw.
    same = files(folder, "train")[0].read_bytes()
    for path in files(folder, "train"):
        path.write_bytes(same)
    batch = training(streamed.load(config(folder)))[0]["images"]
    assert len({image.tobytes() for image in batch}) == 16


def test_labels_and_images_are_those_of_the_examples(shapes):
    dataset = streamed.load(config(shapes))
    batch = training(dataset, augmentation="none")[3]
    for row, example in enumerate(batch["examples"]):
        expected, label = streamed.first_images(dataset.train, np.array([example]), SIZE)
        np.testing.assert_array_equal(batch["images"][row], expected[0])
        assert batch["labels"][row] == label[0]
    np.testing.assert_array_equal(batch["used"], batch["examples"])


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_shares_join_to_the_whole_batch(shapes, count):
    dataset = streamed.load(config(shapes))
    whole = training(dataset)[5]
    shares = [training(dataset, host=(index, count))[5] for index in range(count)]
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([s[name] for s in shares]), whole[name])
        assert all(len(share[name]) == 16 // count for share in shares)


def test_a_damaged_image_is_replaced_by_the_next_one_of_the_split(folder):
    dataset = streamed.load(config(folder))
    (folder / ids(dataset.train, [10])[0]).write_bytes(b"")
    (folder / ids(dataset.train, [11])[0]).write_bytes(b"no image")
    (folder / ids(dataset.train, [71])[0]).write_bytes(b"\xff\xd8\xff")  # the last: on to the first
    batch = training(dataset, batch_size=72, augmentation="none")[0]
    used = dict(zip(batch["examples"].tolist(), batch["used"].tolist(), strict=True))
    assert used == {example: example for example in range(72)} | {10: 12, 11: 12, 71: 0}
    place = batch["examples"].tolist().index(10)
    expected, label = streamed.first_images(dataset.train, np.array([12]), SIZE)
    np.testing.assert_array_equal(batch["images"][place], expected[0])
    assert batch["labels"][place] == label[0]


def test_a_data_set_of_damaged_images_alone_ends_the_run_and_does_not_search_for_ever(folder):
    dataset = streamed.load(config(folder))
    for path in files(folder, "train"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="72 images in a row, up to train/.*it is empty"):
        training(dataset)[0]


def test_an_image_that_has_gone_ends_the_run_for_it_is_not_damaged(folder):
    dataset = streamed.load(config(folder))
    gone = folder / ids(dataset.train, [3])[0]
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone.name} cannot be read .No such file"):
        training(dataset, batch_size=72)[0]


# Evaluation.


@pytest.mark.parametrize("batch_size", [7, 16, 32, 50])
def test_evaluation_sees_each_example_once_in_order_and_the_filling_is_masked(shapes, batch_size):
    dataset = streamed.load(config(shapes))
    batches = EvaluationBatches(dataset.test, View(27, SIZE), batch_size)
    seen = [batches[i] for i in range(len(batches))]
    assert all(len(batch["mask"]) == len(batch["ids"]) == batch_size for batch in seen)
    assert [i for b in seen for i, real in zip(b["ids"], b["mask"], strict=True) if real] == ids(
        dataset.test
    )
    images = np.concatenate([batch["images"][0][batch["mask"]] for batch in seen])
    expected, labels = streamed.first_images(dataset.test, np.arange(32), SIZE)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(np.concatenate([b["labels"][b["mask"]] for b in seen]), labels)


def test_ten_crops_of_a_square_image_are_its_corners_and_its_centre(tmp_path):
    # 8/7 of 21 pixels are 24: nothing is resized, so pixels stay what they are.
    image = np.random.RandomState(0).randint(0, 256, (24, 24, 3)).astype(np.uint8)
    for half in ("train", "val"):
        for name in "ab":
            (tmp_path / half / name).mkdir(parents=True)
            PIL.Image.fromarray(image).save(tmp_path / half / name / "x.png")
    dataset = streamed.load(config(tmp_path, image_size=21))
    batch = EvaluationBatches(dataset.test, View(24, 21, corners=True), 1)[0]
    expected = [image[:21, :21], image[:21, 3:], image[3:, :21], image[3:, 3:], image[1:22, 1:22]]
    np.testing.assert_array_equal(batch["images"][:, 0], expected)


def test_a_damaged_image_is_left_out_of_an_evaluation_and_told(folder, caplog):
    dataset = streamed.load(config(folder))
    damaged = files(folder, "val")[5]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    feed = Streamed(dataset, config(folder, max_unreadable=0.05))
    batches = list(feed.evaluation("test", 10))
    seen = np.concatenate([batch.ids[batch.mask] for batch in batches])
    name = str(damaged.relative_to(folder))
    assert seen.tolist() == [i for i in ids(dataset.test) if i != name]
    (why,) = feed.unreadable["test"].values()
    assert list(feed.unreadable["test"]) == [name] and "truncated" in why
    assert caplog.text.count(name) == 1
    list(feed.evaluation("test", 10))  # it is not told again
    assert caplog.text.count(name) == 1


def test_more_damaged_images_than_allowed_end_the_run_in_one_line(folder):
    for path in files(folder, "val")[:3]:
        path.write_bytes(b"")
    dataset = streamed.load(config(folder))
    enough = Streamed(dataset, config(folder, max_unreadable=3 / 32))
    assert sum(batch.mask.sum() for batch in enough.evaluation("test", 32)) == 29
    feed = Streamed(dataset, config(folder, max_unreadable=2 / 32))
    message = r"3 of 32 test images are damaged.*\(it is empty\), more than config.data.max_unr"
    with pytest.raises(InputError, match=message):
        list(feed.evaluation("test", 32))


@pytest.mark.parametrize(("share", "ends"), [(0.001, False), (0.0, True)])
def test_one_damaged_image_ends_no_run_unless_none_is_allowed(folder, share, ends):
    files(folder, "val")[0].write_bytes(b"")
    feed = Streamed(streamed.load(config(folder)), config(folder, max_unreadable=share))
    if ends:
        with pytest.raises(InputError, match="1 of 32 test images are damaged"):
            list(feed.evaluation("test", 32))
    else:
        assert sum(batch.mask.sum() for batch in feed.evaluation("test", 32)) == 31


def test_damaged_training_images_are_told_once_with_their_names(folder, caplog):
    dataset = streamed.load(config(folder))
    name = ids(dataset.train, [10])[0]
    (folder / name).write_bytes(b"")
    feed = Streamed(dataset, config(folder, max_unreadable=0.05))
    order = TrainingOrder(72, 24, seed=0)
    batches = list(feed.training(order, 0, 9, 3))
    assert [batch["images"].shape for batch in batches] == [(3, 24, SIZE, SIZE, 3)] * 3
    assert feed.unreadable["train"] == {name: "it is empty"}
    assert caplog.text.count(f"image {name} is damaged (it is empty) and replaced") == 1


def test_a_feed_of_fewer_examples_sees_the_first_ones(shapes):
    dataset = streamed.load(config(shapes))
    feed = Streamed(dataset, config(shapes))
    fewer = feed.at_most("test", 5)
    (batch,) = fewer.evaluation("test", 8)
    assert batch.ids[batch.mask].tolist() == ids(dataset.test)[:5]
    assert fewer.sizes == {"train": 72, "val": 8, "test": 5} and feed.sizes["test"] == 32


def test_mended_images_of_a_folder_are_another_data_set(folder):
    # A run that goes on must not go on with other images.
    before = streamed.load(config(folder))
    path = files(folder, "train")[0]
    path.write_bytes(b"")
    assert streamed.load(config(folder)).describe()["sha256"] != before.describe()["sha256"]


# The synthetic set.


def test_the_synthetic_folder_is_always_the_same_and_has_odd_files(tmp_path, shapes):
    synthetic_folder.write(tmp_path / "again", train=20, val=8)
    for half in ("train", "val"):
        pairs = zip(files(tmp_path / "again", half), files(shapes, half), strict=True)
        assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)
    found = []
    for path in files(shapes, "train"):
        with PIL.Image.open(path) as image:
            found.append((image.mode, image.getexif().get(0x0112), image.size))
    modes, turns, sizes = map(set, zip(*found, strict=True))
    assert modes == {"RGB", "L", "CMYK"} and turns == {None, 6} and len(sizes) > 50


def test_the_synthetic_folder_is_not_written_over_something(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="is not empty; choose another folder"):
        synthetic_folder.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_labels_of_colour_and_shape_need_both(shapes):
    # Each colour comes with each shape, so neither alone tells the class.
    names = {tuple(path.name.split("_")) for path in (shapes / "train").iterdir()}
    assert names == {(c, s) for c in ("blue", "red") for s in ("bars", "square")}


def test_pathlib_and_dataclass_fields_of_a_split_are_light_to_send(shapes):
    dataset = streamed.load(config(shapes))
    source = dataset.train.source
    assert {field.name for field in dataclasses.fields(source)} == {"root", "paths", "labels"}
    assert isinstance(source.root, pathlib.Path) and source.paths.dtype.kind == "S"
