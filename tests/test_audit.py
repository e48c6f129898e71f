import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import sklearn.datasets

from resnet_jax.config import DataConfig, SyntheticConfig
from resnet_jax.data import audit, datasets, duplicates, leakage, pair_sheet, tfds_source
from resnet_jax.data.datasets import Dataset, Split
from resnet_jax.data.pipeline import Resident
from resnet_jax.errors import InputError
from tests import helpers

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIFTS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def smooth_images(count, *, shape=(32, 32, 3), seed=0):
    """Distinct pictures of blobs of many sizes, uint8 [count, *shape]."""
    noise = np.random.RandomState(seed).normal(size=(count, *shape))
    layers = [scipy.ndimage.gaussian_filter(noise, (0, s, s, 0)) for s in (0.7, 1.5, 3, 6)]
    images = sum(layer / layer.std() for layer in layers)
    return np.clip(128 + 25 * images, 0, 255).astype(np.uint8)


def shifted(images, shift):
    """Moved by (rows, columns) of at most one pixel; black comes in at the edge."""
    (dy, dx), (height, width) = shift, images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return padded[:, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]


def flipped(images):
    return images[:, :, ::-1]


def jpeg(images, quality):
    copies = []
    for image in images:
        file = io.BytesIO()
        picture = PIL.Image.fromarray(np.ascontiguousarray(image.squeeze()))
        picture.save(file, "jpeg", quality=quality)
        copies.append(np.asarray(PIL.Image.open(file)).reshape(image.shape))
    return np.stack(copies)


def brighter(images):
    return np.clip(0.9 * images + 15, 0, 255).astype(np.uint8)


COPIES = {
    "flip": (flipped, "flip"),
    **{f"shift {s}": (lambda x, s=s: shifted(x, s), "shift") for s in SHIFTS},
    "JPEG 75": (lambda x: jpeg(x, 75), "near"),
    "JPEG 50": (lambda x: jpeg(x, 50), "near"),
    "brightness": (brighter, "near"),
    "flip, shift": (lambda x: shifted(flipped(x), (1, -1)), "flip"),
    "shift, JPEG 50": (lambda x: jpeg(shifted(x, (0, 1)), 50), "shift"),
    "all": (lambda x: jpeg(shifted(flipped(brighter(x)), (-1, 0)), 75), "flip"),
}


def recall(images, copies):
    """The share of images that are paired with their own copy, and the kinds of those pairs."""
    pairs = duplicates.near_pairs(np.concatenate([images, copies]))
    own = pairs.second == pairs.first + len(images)
    return own.sum() / len(images), set(pairs.kind[own].tolist())


def test_equal_images_are_those_with_the_same_pixels():
    a, b, c = smooth_images(3)
    almost = c.copy()
    almost[31, 31, 2] ^= 1
    images = np.stack([a, b, a, c, b, almost])
    assert duplicates.first_equal(images).tolist() == [0, 1, 0, 3, 1, 5]


@pytest.mark.parametrize("name", COPIES)
def test_a_changed_copy_is_found_and_its_kind_named(name):
    change, kind = COPIES[name]
    images = smooth_images(150)
    share, kinds = recall(images, change(images))
    assert share >= 0.95
    assert kind in kinds


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32, 1), (24, 40, 3), (16, 16, 3), (8, 8, 1)])
def test_images_of_any_small_size_are_searched(shape):
    images = smooth_images(150, shape=shape)
    copies = np.concatenate([flipped(images[:75]), shifted(images[75:], (1, 1))])
    share, kinds = recall(images, copies)
    assert share >= 0.95
    assert kinds == {"flip", "shift"}


def test_every_pair_is_told_once_and_the_most_similar_first():
    images = smooth_images(40)
    copies = jpeg(images, 75)
    pairs = duplicates.near_pairs(np.concatenate([images, copies]))
    assert (pairs.first < pairs.second).all()
    assert len(set(zip(pairs.first, pairs.second, strict=True))) == len(pairs) == 40
    assert (np.diff(pairs.similarity) <= 0).all()
    # Correlation by NumPy, of pixels: the similarity never claims more.
    for a, b, value in zip(pairs.first, pairs.second, pairs.similarity, strict=True):
        both = np.concatenate([images, copies])[[a, b]].mean(-1).reshape(2, -1)
        assert 0.8 <= value <= np.corrcoef(both)[0, 1] + 1e-3


@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 16, 1)])
def test_distinct_images_are_not_flagged(shape):
    assert len(duplicates.near_pairs(smooth_images(1000, shape=shape))) == 0


def test_pictures_that_agree_only_in_the_large_are_two_pictures():
    scene = scipy.ndimage.gaussian_filter(smooth_images(40).astype(float), (0, 4, 4, 0))
    scene = 128 + 50 * (scene - 128) / scene.std()
    details = smooth_images(80, seed=1).astype(float) - 128
    details -= scipy.ndimage.gaussian_filter(details, (0, 2, 2, 0))
    one, other = scene + details[:40] / 3, scene + details[40:] / 3
    both = np.clip(np.concatenate([one, other]), 0, 255).astype(np.uint8)
    alike = np.corrcoef(both[[0, 40]].mean(-1).reshape(2, -1))[0, 1]
    assert alike > 0.9  # so that the pixels alone would not tell
    assert len(duplicates.near_pairs(both)) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 70])
def test_images_of_one_grey_level_have_exact_duplicates_only(count):
    images = (
        np.full((count, 8, 8, 1), 1, np.uint8)
        * np.arange(count, dtype=np.uint8)[:, None, None, None]
    )
    assert len(duplicates.near_pairs(images)) == 0


def test_the_negative_of_a_picture_is_another_picture():
    images = smooth_images(30)
    assert recall(images, 255 - images) == (0, set())


@pytest.fixture(scope="module")
def digits():
    bunch = sklearn.datasets.load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]


@pytest.mark.parametrize("name", ["flip", "shift (0, 1)", "shift (-1, -1)", "JPEG 75"])
def test_copies_of_digits_are_found(digits, name):
    chosen = np.random.RandomState(0).permutation(len(digits))[:150]
    copies = COPIES[name][0](digits[chosen])
    # A symmetric digit is its own mirror image, which is an exact duplicate.
    changed = (copies != digits[chosen]).any((1, 2, 3))
    pairs = duplicates.near_pairs(np.concatenate([digits, copies[changed]]))
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    planted = [(int(i), len(digits) + n) for n, i in enumerate(chosen[changed])]
    assert sum(pair in found for pair in planted) >= 0.95 * len(planted)


def test_at_most_one_in_a_hundred_digits_is_flagged_though_hands_are_alike(digits):
    pairs = duplicates.near_pairs(digits)
    assert len({*pairs.first, *pairs.second}) <= 0.01 * len(digits)


def test_copies_among_5000_images_of_cifar10_are_found_and_others_left_alone(cifar10_dir):
    images = tfds_source.prepared("cifar10", cifar10_dir).read("test")[0][:5000].copy()
    random = np.random.RandomState(0)
    # Half of them upside down: a pair across the halves cannot be a true near duplicate.
    images[2500:] = images[2500:, ::-1].copy()
    groups = random.permutation(5000)[: 2 * 40 * len(COPIES)].reshape(len(COPIES), 2, 40)
    planted = {}
    for (name, (change, _)), (sources, places) in zip(COPIES.items(), groups, strict=True):
        images[places] = change(images[sources])
        planted[name] = {
            (min(a, b), max(a, b)) for a, b in zip(sources.tolist(), places.tolist(), strict=True)
        }
    pairs = duplicates.near_pairs(images)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    for name, expected in planted.items():
        assert len(found & expected) >= 0.95 * len(expected), name
    others = found - set().union(*planted.values())
    across = {i for pair in others if (pair[0] < 2500) != (pair[1] < 2500) for i in pair}
    touched = set(groups.ravel().tolist())
    assert len(across - touched) <= 0.01 * 5000


def made_dataset(*, changes=()):
    """30 train, 10 val and 10 test images, all distinct, then `changes(images, labels, ids)`."""
    images, labels = smooth_images(50), np.arange(50, dtype=np.int32) % 5
    ids = [f"img_{i:03d}" for i in range(50)]
    for change in changes:
        change(images, labels, ids)
    names = np.array(ids)
    train, val, test = (
        Split(images[a:b].copy(), labels[a:b].copy(), names[a:b])
        for a, b in ((0, 30), (30, 40), (40, 50))
    )
    return Dataset("made", tuple("abcde"), train, val, test)


def found_by_name(dataset, config=None):
    found = leakage.check(dataset, config or DataConfig())
    return found, {f.name: (f.count, f.leak) for f in found.findings if f.count}


def copied(source, place, *, change=None, label=None):
    def make(images, labels, ids):
        images[place] = images[source] if change is None else change(images[[source]])[0]
        labels[place] = labels[source] if label is None else label

    return make


def test_distinct_splits_have_no_finding():
    found, names = found_by_name(made_dataset())
    assert names == {} and not found.leaks
    assert found.pairs == () and found.test_duplicates == ()


def test_duplicates_are_told_by_kind_splits_and_labels():
    changes = [
        copied(0, 41),  # train and test
        copied(1, 42, label=4),  # train and test, another label (1 has label 1)
        copied(2, 31, change=flipped),  # train and val
        copied(33, 43, change=lambda x: jpeg(x, 50), label=0),  # val and test (33 has label 3)
        copied(5, 6),  # within train
        copied(45, 46, change=lambda x: shifted(x, (0, 1))),  # within test
    ]
    found, names = found_by_name(made_dataset(changes=changes))
    assert names == {
        "exact duplicates in train and test": (2, True),
        "exact duplicates in train and test, labels differ": (1, True),
        "near duplicates in train and val": (1, True),
        "near duplicates in val and test": (1, True),
        "near duplicates in val and test, labels differ": (1, True),
        "exact duplicates within train": (1, False),
        "near duplicates within test": (1, False),
    }
    assert found.leaks
    # Duplicates within test are not what a net could have learnt.
    assert found.test_duplicates == ("img_041", "img_042", "img_043")
    described = [(p.first.id, p.second.id, p.splits, p.kind) for p in found.pairs]
    assert described[:2] == [
        ("img_000", "img_041", ("train", "test"), "exact"),
        ("img_001", "img_042", ("train", "test"), "exact"),
    ]
    assert ("img_002", "img_031", ("train", "val"), "flip") in described
    assert described[-2:] == [
        ("img_045", "img_046", ("test", "test"), "shift"),
        ("img_005", "img_006", ("train", "train"), "exact"),
    ]
    assert found.pairs[0].similarity == 1.0


def test_duplicates_within_a_split_are_notes():
    found, names = found_by_name(made_dataset(changes=[copied(5, 6, label=3), copied(30, 31)]))
    assert names == {
        "exact duplicates within train": (1, False),
        "exact duplicates within train, labels differ": (1, False),
        "exact duplicates within val": (1, False),
    }
    assert not found.leaks


def test_all_test_images_of_a_group_are_listed_when_one_of_it_is_in_train():
    near = copied(40, 3, change=lambda x: jpeg(x, 75))
    found, _ = found_by_name(made_dataset(changes=[copied(40, 44), near]))
    assert found.test_duplicates == ("img_040", "img_044")


def renamed(place, name):
    def make(images, labels, ids):
        ids[place] = name

    return make


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        (7, "img_008", "ids used twice within train"),
        (41, "img_008", "ids in both train and test"),
        (31, "img_008", "ids in both train and val"),
        (41, "img_031", "ids in both val and test"),
        (7, "img_041#2", "over-sampled images in train that were made from test"),
        (7, "img_008+img_031", "over-sampled images in train that were made from val"),
        (7, "img_041#3+img_008", "over-sampled images in train that were made from test"),
        (31, "img_008#2", "over-sampled images in val"),
        (41, "img_042+img_043", "over-sampled images in test"),
    ],
)
def test_ids_that_reach_over_splits_are_found(place, name, expected):
    found, names = found_by_name(made_dataset(changes=[renamed(place, name)]))
    assert names[expected] == (1, True)
    assert found.leaks
    finding = next(f for f in found.findings if f.name == expected)
    assert finding.examples == (name,)


def test_copies_that_over_sampling_makes_within_train_are_no_finding():
    changes = [copied(5, 6), renamed(6, "img_005#2"), copied(5, 7), renamed(7, "img_005#3")]
    changes += [copied(8, 9, change=brighter), renamed(9, "img_008+img_010")]
    found, names = found_by_name(made_dataset(changes=changes))
    assert names == {} and found.pairs == ()


def test_a_test_image_that_equals_an_over_sampled_one_is_found():
    changes = [copied(5, 6), renamed(6, "img_005#2"), copied(5, 41)]
    found, names = found_by_name(made_dataset(changes=changes))
    assert names == {"exact duplicates in train and test": (1, True)}
    assert found.test_duplicates == ("img_041",)


@pytest.mark.parametrize("kind", ["pixel_mean", "channel", "imagenet", "none"])
def test_no_normalisation_depends_on_val_or_test(kind):
    finding = leakage.normalization_finding(made_dataset(), DataConfig(normalization=kind))
    assert finding.count == 0


@pytest.mark.parametrize("leaking", ["val", "test"])
@pytest.mark.parametrize("kind", ["pixel_mean", "channel"])
def test_a_normalisation_fitted_to_val_or_test_too_is_found(monkeypatch, kind, leaking):
    honest = Resident.of

    def fitted_to_more(dataset, config):
        images = np.concatenate([dataset.train.images, dataset.splits[leaking].images])
        more = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, images=images))
        return dataclasses.replace(honest(dataset, config), arrays=honest(more, config).arrays)

    monkeypatch.setattr(leakage.Resident, "of", fitted_to_more)
    found, names = found_by_name(made_dataset(), DataConfig(normalization=kind))
    assert names == {"normalisation depends on val or test": (1, True)}
    assert found.leaks


def test_a_training_set_without_val_is_audited():
    config = DataConfig(
        name="synthetic",
        train_on="train+val",
        synthetic=SyntheticConfig(examples=40, image_size=16, channels=1),
    )
    found, names = found_by_name(datasets.load(config), config)
    assert names == {} and not found.leaks


def test_the_report_holds_what_an_evaluation_needs(tmp_path):
    dataset = made_dataset(changes=[copied(2, 41, change=flipped)])
    found = leakage.check(dataset, DataConfig())
    audit.write(found, dataset, tmp_path / "audit")
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert report["dataset"] == dataset.describe()
    assert report["test_duplicates"] == ["img_041"]
    assert report["leaks"] is True
    (pair,) = report["pairs"]
    assert pair["kind"] == "flip" and 0.99 < pair["similarity"] <= 1
    assert pair["images"] == [
        {"id": "img_002", "split": "train", "label": "c"},
        {"id": "img_041", "split": "test", "label": "c"},
    ]
    assert sorted(p.name for p in (tmp_path / "audit").iterdir()) == ["audit.json", "pairs.png"]


def test_an_older_sheet_does_not_outlive_its_pairs(tmp_path):
    (tmp_path / "pairs.png").write_bytes(b"of an audit before")
    dataset = made_dataset()
    audit.write(leakage.check(dataset, DataConfig()), dataset, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["audit.json"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    dataset = made_dataset()
    with pytest.raises(InputError, match=r"--out=.*file/audit cannot be written"):
        audit.write(leakage.check(dataset, DataConfig()), dataset, tmp_path / "file" / "audit")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_both_images_of_a_pair_and_a_limited_number_of_pairs(monkeypatch, channels):
    monkeypatch.setattr(pair_sheet, "MOST", 6)
    dataset = made_dataset()
    dataset = dataclasses.replace(
        dataset,
        **{
            name: dataclasses.replace(split, images=split.images[..., :channels])
            for name, split in dataset.splits.items()
        },
    )
    ends = [leakage.Example("a" * 80, "train", "a", 3), leakage.Example("b", "test", "b", 4)]
    pair = leakage.Pair(*ends, 0.9, "near")
    sheet = np.asarray(pair_sheet.draw(dataset, [pair]))
    white = np.uint8([255, 255, 255])
    assert (sheet[:, :8] == white).all()
    for example in ends:
        image = dataset.splits[example.split].images[example.index]
        enlarged = np.broadcast_to(np.kron(image, np.ones((4, 4, 1), np.uint8)), (128, 128, 3))
        windows = (sheet[39:167, left : left + 128] for left in range(200))
        assert any(np.array_equal(window, enlarged) for window in windows)
    most = pair_sheet.draw(dataset, [pair] * pair_sheet.MOST)
    more = pair_sheet.draw(dataset, [pair] * (pair_sheet.MOST + 500))
    assert most.size == more.size
    assert not np.array_equal(np.asarray(most), np.asarray(more))  # the title counts the rest


def audit_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "resnet_jax.data.audit", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


SMALL = (
    f"--config={ROOT}/configs/digits.py",
    "--config.data.name=synthetic",
    "--config.data.synthetic.examples=60",
)


def test_the_command_ends_with_0_when_splits_share_nothing(tmp_path):
    done = audit_command(*SMALL, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "35 of 35 checks found nothing" in done.stdout
    assert "no picture sheet" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["audit.json"]


def test_the_command_ends_with_1_when_a_test_image_was_trained_on(tmp_path):
    images = {"train": smooth_images(40), "test": smooth_images(20, seed=1)}
    images["test"][7] = flipped(images["train"])[3]
    labels = {name: np.arange(len(part)) % 10 for name, part in images.items()}
    folder = helpers.prepare_cifar10(tmp_path / "tfds", images, labels)
    done = audit_command(
        f"--config={ROOT}/configs/cifar_resnet20.py",
        f"--config.data.data_dir={folder}",
        f"--out={tmp_path / 'audit'}",
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "1 of 20 test images are in train or val too" in done.stdout
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert report["test_duplicates"] == ["test_00007"]
    with PIL.Image.open(tmp_path / "audit" / "pairs.png") as sheet:
        assert sheet.size[0] > 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing"),
        ((*SMALL, "--config.data.flip_it=1"), "config.data.flip_it is not a field"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    done = audit_command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
