import dataclasses
import hashlib
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from resnet_jax.config import DataConfig, SyntheticConfig
from resnet_jax.data import datasets, prepare, tfds_source
from resnet_jax.errors import InputError
from tests import helpers

OFFLINE = "http://127.0.0.1:9"  # the port of `discard`: nothing listens


@pytest.mark.parametrize(
    ("count", "fraction", "train", "val"),
    [
        # He et al. 2015, Sec. 4.2: 45k/5k.
        (50_000, 0.1, 45_000, 5_000),
        (10, 0.25, 8, 2),
        (10, 0.0, 10, 0),
        (1_797, 0.2, 1_438, 359),
        (7, 0.9, 1, 6),
    ],
)
def test_a_split_holds_every_example_once(count, fraction, train, val):
    kept, held_out = datasets.split_indices(count, fraction, 0)
    assert (len(kept), len(held_out)) == (train, val)
    assert sorted([*kept, *held_out]) == list(range(count))


def test_the_split_of_cifar_never_changes():
    # NumPy freezes RandomState's stream (NEP 19). Other values here would mean that val errors of
    # old and new runs are measured on different images.
    kept, held_out = datasets.split_indices(50_000, 0.1, 0)
    assert held_out[:8].tolist() == [14, 22, 24, 28, 64, 76, 84, 91]
    assert held_out[-3:].tolist() == [49_993, 49_995, 49_998]
    digest = hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest()
    assert digest == "7580bdab922dd44949b89bd23b51092367b5e9cce34f9b3d89181ffc99c6000b"
    assert kept[:4].tolist() == [0, 1, 2, 3]


def test_the_seed_chooses_the_split():
    assert datasets.split_indices(10, 0.3, 0)[1].tolist() == [2, 4, 8]
    assert datasets.split_indices(10, 0.3, 1)[1].tolist() == [2, 6, 9]


def test_digits_are_divided_into_1294_144_and_359():
    # 1,797 digits, a fifth of them for testing, a tenth of the rest held out.
    dataset = datasets.load(DataConfig(name="digits"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 1_294,
        "val": 144,
        "test": 359,
    }
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.num_classes == 10


def test_digits_are_those_of_scikit_learn():
    dataset = datasets.load(DataConfig(name="digits"))
    bunch = sklearn.datasets.load_digits()
    seen = []
    for split in dataset.splits.values():
        indices = [int(name.removeprefix("digits_")) for name in split.ids]
        seen += indices
        np.testing.assert_array_equal(split.labels, bunch.target[indices])
        # 16 grey levels are spread over 0..255.
        np.testing.assert_allclose(
            split.images[..., 0], bunch.images[indices] * 255 / 16, rtol=0, atol=0.5
        )
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    assert sorted(seen) == list(range(1_797))


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_loading_twice_gives_the_same_examples(name):
    first, second = (datasets.load(DataConfig(name=name)) for _ in range(2))
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(first.splits[split].images, second.splits[split].images)
        np.testing.assert_array_equal(first.splits[split].labels, second.splits[split].labels)
        np.testing.assert_array_equal(first.splits[split].ids, second.splits[split].ids)


def test_the_split_seed_moves_images_between_train_and_val_but_not_to_test():
    first, second = (datasets.load(DataConfig(name="digits", split_seed=seed)) for seed in (0, 1))
    assert set(first.val.ids) != set(second.val.ids)
    assert set(first.test.ids) == set(second.test.ids)
    assert {*first.train.ids, *first.val.ids} == {*second.train.ids, *second.val.ids}


def test_training_on_train_and_val_leaves_val_empty_and_test_as_it_was():
    parted = datasets.load(DataConfig(name="digits"))
    joined = datasets.load(DataConfig(name="digits", train_on="train+val"))
    assert (len(joined.train), len(joined.val), len(joined.test)) == (1_438, 0, 359)
    assert set(joined.train.ids) == {*parted.train.ids, *parted.val.ids}
    np.testing.assert_array_equal(joined.test.ids, parted.test.ids)


def test_a_synthetic_data_set_has_the_size_that_was_asked_for():
    config = SyntheticConfig(examples=50, image_size=12, channels=2, classes=4)
    dataset = datasets.load(DataConfig(name="synthetic", synthetic=config))
    assert dataset.image_shape == (12, 12, 2)
    assert dataset.num_classes == 4
    # 50 examples, a fifth for testing, a tenth of the other 40 held out.
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (36, 4, 10)
    assert set(dataset.train.labels.tolist()) == {0, 1, 2, 3}


def test_synthetic_classes_can_be_told_apart():
    dataset = datasets.load(DataConfig(name="synthetic"))
    train, test = dataset.train, dataset.test
    means = np.stack([train.images[train.labels == c].mean(0) for c in range(10)])
    distances = ((test.images[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == test.labels).mean() > 0.99


IMAGES = {"train": helpers.random_images(20), "test": helpers.random_images(10, seed=1)}
LABELS = {"train": np.arange(20) % 10, "test": np.arange(10)}


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory):
    return helpers.prepare_cifar10(tmp_path_factory.mktemp("tfds"), IMAGES, LABELS)


@pytest.fixture
def folder(prepared_folder, tmp_path):
    """A copy of a prepared folder that a test may damage."""
    return shutil.copytree(prepared_folder, tmp_path / "tfds")


def load(folder, **fields):
    return datasets.load(DataConfig(name="cifar10", data_dir=str(folder), **fields))


def number(name):
    return int(str(name).split("_")[1])


def assert_images_and_labels_as_written(dataset):
    for name in ("train", "val", "test"):
        split = dataset.splits[name]
        source = "test" if name == "test" else "train"
        indices = [number(i) for i in split.ids]
        np.testing.assert_array_equal(split.images, IMAGES[source][indices])
        np.testing.assert_array_equal(split.labels, LABELS[source][indices])


def test_a_prepared_folder_reads_back_what_was_written(folder):
    dataset = load(folder)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (18, 2, 10)
    assert_images_and_labels_as_written(dataset)
    assert sorted(number(i) for i in dataset.test.ids) == list(range(10))


def test_decoded_images_are_kept_and_used_the_next_time(folder, monkeypatch):
    first = load(folder)
    assert len(list((folder / "decoded").iterdir())) == 2

    def forbidden(self, split):
        raise AssertionError(f"{split} was decoded again")

    monkeypatch.setattr(tfds_source.PreparedDataset, "read", forbidden)
    second = load(folder)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.train.ids, second.train.ids)
    assert_images_and_labels_as_written(second)


def emptied(content):
    return b""


def cut_in_half(content):
    return content[: len(content) // 2]


def overwritten(content):
    return b"not an archive of arrays"


def flipped_in_a_few_bytes(content):
    # A sixth of the way lies inside an image; the second half of a record file is filling.
    at = len(content) // 6
    return content[:at] + bytes(255 - byte for byte in content[at : at + 64]) + content[at + 64 :]


def narrowed(content):
    # The bytes that are then read have no checksum of their own.
    return content.replace(b"32, 32, 3)", b"32, 22, 3)", 1)


DAMAGES = [emptied, cut_in_half, overwritten, flipped_in_a_few_bytes]


@pytest.mark.parametrize("damage", [*DAMAGES, narrowed])
def test_damaged_decoded_images_are_decoded_again(folder, damage):
    load(folder)
    for path in (folder / "decoded").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    assert_images_and_labels_as_written(load(folder))
    assert_images_and_labels_as_written(load(folder))


def test_decoded_images_of_an_older_preparation_are_not_used(folder):
    load(folder)
    inverted = {name: 255 - images for name, images in IMAGES.items()}
    for path in sorted((folder / "cifar10").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    helpers.prepare_cifar10(folder, inverted, LABELS)
    dataset = load(folder)
    indices = [number(i) for i in dataset.test.ids]
    np.testing.assert_array_equal(dataset.test.images, inverted["test"][indices])


def test_a_folder_that_takes_no_decoded_images_can_still_be_read(folder):
    (folder / "decoded").write_text("a file where the cache's folder would be")
    assert_images_and_labels_as_written(load(folder))


def record_files(folder, split):
    return sorted(folder.glob(f"cifar10/3.0.2/*{split}*array_record*"))


def test_a_missing_record_file_is_named(folder):
    (path,) = record_files(folder, "test")
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        load(folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_file_is_refused_with_what_to_do(folder, damage):
    (path,) = record_files(folder, "train")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="prepare it again") as caught:
        load(folder)
    assert "cifar10 train" in str(caught.value)
    assert path.name in str(caught.value)


def test_a_damaged_record_is_told_with_its_file_and_byte(folder):
    (path,) = record_files(folder, "train")
    data = bytearray(path.read_bytes())
    data[len(data) // 100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=rf"record \d+, in .*{path.name}.* at byte \d+"):
        load(folder)


def test_a_split_that_is_shorter_than_its_metadata_say_is_refused(folder):
    path = folder / "cifar10" / "3.0.2" / "dataset_info.json"
    path.write_text(path.read_text().replace('"20"', '"21"'))
    with pytest.raises(InputError, match="record 20, in .*train.* cannot be read"):
        load(folder)


def test_an_example_that_stands_there_twice_is_named(folder, monkeypatch):
    read = tfds_source.PreparedDataset.read

    def repeating(self, split):
        images, labels, ids = read(self, split)
        ids[3] = ids[7]
        return images, labels, ids

    monkeypatch.setattr(tfds_source.PreparedDataset, "read", repeating)
    with pytest.raises(InputError, match="example train_0.* stands there 2 times"):
        load(folder)


def test_a_full_data_set_has_as_many_examples_of_each_class_as_were_published(folder, monkeypatch):
    monkeypatch.setitem(datasets.PUBLISHED_CLASS_SIZES, "cifar10 train", 2)
    load(folder)
    read = tfds_source.PreparedDataset.read

    def mislabelled(self, split):
        images, labels, ids = read(self, split)
        labels[0] = (labels[0] + 1) % 10
        return images, labels, ids

    monkeypatch.setattr(tfds_source.PreparedDataset, "read", mislabelled)
    shutil.rmtree(folder / "decoded")
    with pytest.raises(InputError, match="classes have 1 to 3 examples, while 2 of each"):
        load(folder)


@pytest.mark.parametrize("damage", [emptied, cut_in_half, overwritten])
def test_damaged_metadata_is_refused_with_what_to_do(folder, damage):
    path = folder / "cifar10" / "3.0.2" / "dataset_info.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="delete that folder") as caught:
        load(folder)
    assert str(folder / "cifar10") in str(caught.value)


@pytest.mark.parametrize("label", [10, 11])
def test_a_label_outside_the_classes_is_named(tmp_path, label):
    labels = {**LABELS, "train": np.where(np.arange(20) == 7, label, LABELS["train"])}
    helpers.prepare_cifar10(tmp_path, IMAGES, labels, num_classes=12)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert f"label {label} of example train_00007 is not in 0..9 (1 such labels)" in message


def test_images_of_two_shapes_are_refused_by_name(tmp_path):
    images = {**IMAGES, "train": [*IMAGES["train"][:19], IMAGES["train"][19, :28]]}
    helpers.prepare_cifar10(tmp_path, images, LABELS, shape=(None, None, 3))
    with pytest.raises(InputError, match=r"image train_00019 has shape \(28, 32, 3\)"):
        load(tmp_path)


def test_test_images_of_another_shape_than_the_training_images_are_refused(tmp_path):
    images = {**IMAGES, "test": IMAGES["test"][:, :28]}
    helpers.prepare_cifar10(tmp_path, images, LABELS, shape=(None, None, 3))
    with pytest.raises(InputError, match=r"\(32, 32, 3\), test images \(28, 32, 3\)"):
        load(tmp_path)


def test_images_without_channels_are_refused(tmp_path):
    grey = {name: images[..., 0] for name, images in IMAGES.items()}
    helpers.prepare_cifar10(tmp_path, grey, LABELS, shape=(None, None, 1))
    with pytest.raises(InputError, match="height, width, channels"):
        load(tmp_path)


ARCHIVE = "cifar-10-binary.tar.gz"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server that has a small archive, and a builder that fetches it from there."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    archive = folder / ARCHIVE
    helpers.cifar10_archive(
        archive, IMAGES["train"], LABELS["train"], IMAGES["test"], LABELS["test"]
    )
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    with helpers.Server(folder) as server:
        url = f"{server.url}/{ARCHIVE}"
        size = tfds.core.utils.Size(archive.stat().st_size)
        registered = tfds.core.download.checksums.UrlInfo(size, checksum, ARCHIVE)

        class LocalCifar10(prepare.Cifar10, skip_registration=True):
            name = "cifar10"
            url_infos = {url: registered}

            @property
            def _cifar_info(self):
                return super()._cifar_info._replace(url=url)

        monkeypatch.setitem(prepare.BUILDERS, "cifar10", LocalCifar10)
        yield server


@pytest.fixture
def manual(tmp_path):
    """Where an archive that was fetched by hand belongs."""
    folder = tmp_path / "tfds" / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder


def test_a_missing_data_set_is_downloaded_and_prepared_once(tmp_path, served):
    dataset = load(tmp_path / "tfds")
    assert_images_and_labels_as_written(dataset)
    assert dataset.class_names == tuple(helpers.CLASSES)
    assert sorted(dataset.test.ids)[:2] == ["test_00000", "test_00001"]
    assert [method for method, _ in served.requests] == ["HEAD", "GET"]
    assert_images_and_labels_as_written(load(tmp_path / "tfds"))
    assert len(served.requests) == 2


def test_an_archive_put_beside_the_data_set_needs_no_network(tmp_path, served, manual):
    (tmp_path / "served" / ARCHIVE).rename(manual / ARCHIVE)
    assert_images_and_labels_as_written(load(tmp_path / "tfds"))
    assert served.requests == []


def test_what_was_prepared_here_is_read_by_tfds_itself(tmp_path, served):
    load(tmp_path / "tfds")
    builder = tfds.builder("cifar10", data_dir=tmp_path / "tfds", file_format="array_record")
    assert builder.info.splits["train"].num_examples == 20
    assert builder.info.features["label"].names == helpers.CLASSES
    raw = {"image": tfds.decode.SkipDecoding()}
    rows = list(builder.as_data_source(split="test", decoders=raw))
    assert sorted(int(row["label"]) for row in rows) == list(range(10))


@pytest.mark.parametrize("damage", [cut_in_half, overwritten, flipped_in_a_few_bytes])
def test_a_damaged_download_is_refused(tmp_path, served, damage):
    archive = tmp_path / "served" / ARCHIVE
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(InputError, match="data set cifar10"):
        load(tmp_path / "tfds")
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_another_archive_put_beside_the_data_set_is_refused_by_its_checksum(tmp_path, manual, name):
    archive = manual / ARCHIVE.replace("cifar-10-", f"cifar-{name.removeprefix('cifar')}-")
    helpers.cifar10_archive(
        archive, IMAGES["train"], LABELS["train"], IMAGES["test"], LABELS["test"]
    )
    with pytest.raises(InputError, match=f"data set {name}"):
        datasets.load(DataConfig(name=name, data_dir=str(tmp_path / "tfds")))
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_missing_data_set_without_a_network_is_refused_with_the_ways_to_get_it(
    tmp_path, monkeypatch, name
):
    monkeypatch.setenv("https_proxy", OFFLINE)
    folder = tmp_path / "tfds"
    with pytest.raises(InputError) as caught:
        datasets.load(DataConfig(name=name, data_dir=str(folder)))
    message = str(caught.value)
    assert str(folder / name) in message
    assert f"python -m resnet_jax.data.prepare --name={name} --data_dir=" in message
    assert str(folder / "downloads" / "manual") in message
    assert not folder.exists()


def test_what_an_earlier_attempt_left_behind_does_not_hide_that_data_are_missing(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("https_proxy", OFFLINE)
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "python -m resnet_jax.data.prepare --name=cifar10" in message
    # Deleting the empty folder would not help.
    assert "delete" not in message


def test_cifar100_has_its_fine_classes_as_labels(tmp_path):
    builder = prepare.Cifar100(data_dir=tmp_path, file_format="array_record")
    # A record is the coarse label, the fine label, and 3 planes of 32x32.
    record = np.uint8([13, 77, *[1] * 1024, *[2] * 1024, *[3] * 1024])
    ((_, row),) = builder._generate_examples("train_", [record.tobytes()])
    assert (row["coarse_label"], row["label"], row["id"]) == (13, 77, "train_00000")
    image = np.asarray(PIL.Image.open(row["image"]))
    np.testing.assert_array_equal(image, np.broadcast_to(np.uint8([1, 2, 3]), (32, 32, 3)))


def test_reading_a_data_set_never_imports_tensorflow(prepared_folder):
    code = (
        "import sys\n"
        "from resnet_jax.config import DataConfig\n"
        "from resnet_jax.data import datasets\n"
        f"dataset = datasets.load(DataConfig(data_dir={str(prepared_folder)!r}))\n"
        "assert len(dataset.test) == 10\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_data_set_is_known_by_its_contents_and_not_by_its_name():
    digits = datasets.load(DataConfig(name="digits"))
    assert digits.describe() == datasets.load(DataConfig(name="digits")).describe()
    changed = digits.test.images.copy()
    changed[0, 0, 0] ^= 1
    other = dataclasses.replace(digits, test=dataclasses.replace(digits.test, images=changed))
    assert other.describe()["sha256"] != digits.describe()["sha256"]
    assert digits.describe()["examples"] == {"train": 1294, "val": 144, "test": 359}
    assert digits.describe()["original"]


def test_cifar10_whose_ids_are_not_tfds_own_is_called_a_copy():
    digits = datasets.load(DataConfig(name="digits"))
    for first_id, original in (("test_00000", True), ("test_frog_0037", False)):
        ids = np.array([first_id, *digits.test.ids[1:]])
        test = dataclasses.replace(digits.test, ids=ids)
        named = dataclasses.replace(digits, name="cifar10", test=test)
        assert named.describe()["original"] is original
