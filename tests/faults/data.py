"""Data sets that are damaged, incomplete or doubled."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data import datasets
from resnet_jax.errors import InputError
from tests import helpers
from tests.faults.outcome import Outcome, Tally
from tests.test_checkpoint import flip
from tests.test_datasets import IMAGES, LABELS, record_files

SPLITS = ("train", "test")


def damaged_data(rounds: int, folder: Path) -> Outcome:
    """Row 17."""
    tally, dice = Tally(), random.Random(17)
    whole = folder / "whole"
    helpers.prepare_cifar10(whole, IMAGES, LABELS)
    expected = _load(whole)  # and keeps the decoded images beside it
    refused = 0
    for what, break_it, must_refuse in _damages(rounds, dice):
        copy = folder / "copy"
        shutil.copytree(whole, copy)
        with tally.case(what):
            path = break_it(copy)
            try:
                found = _load(copy)
            except InputError as error:
                refused += 1
                named = path.name in str(error) or "example train_" in str(error)
                assert named, f"neither file nor example is named: {error}"
            else:
                assert not must_refuse, "taken as it is"
                _assert_same(found, expected)
        shutil.rmtree(copy)
    return tally.outcome(
        17,
        "bits flipped and files cut in prepared data and in the decoded copy of them; a file "
        "missing, an example doubled, a split too short",
        "refused before the first step with the file's name, or proven to be the same images",
        note=f"{refused} refused, {len(tally.cases) - refused} read as they were written",
    )


Break = Callable[[Path], Path]


def _damages(rounds: int, dice: random.Random) -> list[tuple[str, Break, bool]]:
    """What, how, and whether it must be refused whatever is in the file."""
    found: list[tuple[str, Break, bool]] = [
        ("a missing record file", _missing, True),
        ("an example that is there twice", _doubled, True),
        ("a split that is too short", _short, True),
    ]
    for number in range(2 * rounds):
        split, share = SPLITS[number % 2], dice.random()
        found.append((f"a bit of {split} at {share:.3f}", _flipped(split, share), False))
        found.append((f"a bit of decoded {split} at {share:.3f}", _rotten(split, share), False))
        if number % 5 == 0:
            found.append((f"{split} cut at {share:.3f}", _cut(split, share), False))
            found.append((f"decoded {split} cut at {share:.3f}", _cut_copy(split, share), False))
    return found


def _record_file(folder: Path, split: str) -> Path:
    """The one record file of a split; the decoded images, which would hide it, are removed."""
    shutil.rmtree(folder / "decoded")
    (path,) = record_files(folder, split)
    return path


def _decoded(folder: Path, split: str) -> Path:
    (path,) = (folder / "decoded").glob(f"cifar10-{split}-*.npz")
    return path


def _flip_at(path: Path, share: float) -> Path:
    flip(path, int(share * 8 * path.stat().st_size))
    return path


def _cut_at(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def _flipped(split: str, share: float) -> Break:
    return lambda folder: _flip_at(_record_file(folder, split), share)


def _cut(split: str, share: float) -> Break:
    return lambda folder: _cut_at(_record_file(folder, split), share)


def _rotten(split: str, share: float) -> Break:
    return lambda folder: _flip_at(_decoded(folder, split), share)


def _cut_copy(split: str, share: float) -> Break:
    return lambda folder: _cut_at(_decoded(folder, split), share)


def _missing(folder: Path) -> Path:
    path = _record_file(folder, "test")
    path.unlink()
    return path


def _doubled(folder: Path) -> Path:
    shutil.rmtree(folder)
    helpers.prepare_cifar10(
        folder, IMAGES, LABELS, name_of=lambda split, i: f"{split}_{max(i, 1):05d}"
    )
    (path,) = record_files(folder, "train")
    return path


def _short(folder: Path) -> Path:
    """Replaces the training records by fewer, as an interrupted copy of a folder would."""
    path, other = _record_file(folder, "train"), folder.with_name("fewer")
    fewer = {**IMAGES, "train": IMAGES["train"][:15]}
    helpers.prepare_cifar10(other, fewer, {**LABELS, "train": LABELS["train"][:15]})
    shutil.copyfile(record_files(other, "train")[0], path)
    shutil.rmtree(other)
    return path


def _load(folder: Path) -> datasets.Dataset:
    return datasets.load(DataConfig(name="cifar10", data_dir=str(folder)))


def _assert_same(found: datasets.Dataset, expected: datasets.Dataset) -> None:
    for name, split in expected.splits.items():
        other = found.splits[name]
        np.testing.assert_array_equal(other.images, split.images)
        np.testing.assert_array_equal(other.labels, split.labels)
        np.testing.assert_array_equal(other.ids, split.ids)
