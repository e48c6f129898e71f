"""What of val or test could have reached training: checks of a loaded data set, by name."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data import duplicates
from resnet_jax.data.datasets import Dataset
from resnet_jax.data.pipeline import Resident

EXAMPLES = 3  # named with a finding


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check and what it found.

    Attributes:
        name: of the check.
        leak: whether it concerns more than one split, so that measured errors are at stake;
            duplicates within a split only weigh an image more than once.
        count: of cases; 0 is the good outcome.
        examples: ids of the first few.
    """

    name: str
    leak: bool
    count: int
    examples: tuple[str, ...]

    @classmethod
    def of(cls, name: str, cases: list[str], *, leak: bool = True) -> "Finding":
        """From the ids of all cases."""
        return cls(name, leak, len(cases), tuple(cases[:EXAMPLES]))


@dataclasses.dataclass(frozen=True)
class Example:
    """One image of a data set, and where it stands in its split."""

    id: str
    split: str
    label: str
    index: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images of one picture; `first` in the earlier one of train, val and test."""

    first: Example
    second: Example
    similarity: float
    kind: str

    @property
    def splits(self) -> tuple[str, str]:
        """Of the first and of the second."""
        return self.first.split, self.second.split


@dataclasses.dataclass(frozen=True)
class Leakage:
    """What the checks say.

    Attributes:
        findings: of every check, those that found nothing too.
        pairs: duplicates, those across splits first, then by similarity.
        test_duplicates: sorted ids of the test images with a duplicate in train or val.
    """

    findings: tuple[Finding, ...]
    pairs: tuple[Pair, ...]
    test_duplicates: tuple[str, ...]

    @property
    def leaks(self) -> bool:
        """Whether any finding concerns more than one split."""
        return any(finding.count and finding.leak for finding in self.findings)


def check(dataset: Dataset, config: DataConfig) -> Leakage:
    """Makes all checks.

    Args:
        dataset: as loaded by `config`.
        config: names the normalisation that is checked.
    """
    pairs, test_duplicates = duplicate_pairs(dataset)
    findings = [*_duplicate_findings(dataset, pairs), *id_findings(dataset)]
    findings.append(normalization_finding(dataset, config))
    return Leakage(tuple(findings), tuple(pairs), test_duplicates)


def origins(example_id: str) -> set[str]:
    """Ids of the images that an over-sampled one was made from; of any other, its own.

    `ID#2` is a copy of ID, `ID_A+ID_B` a mixture of two.
    """
    return {re.sub(r"#\d+$", "", part) for part in example_id.split("+")}


def duplicate_pairs(dataset: Dataset) -> tuple[list[Pair], tuple[str, ...]]:
    """Pairs of one picture, and the ids of test images that have one in train or val.

    Of equal images in one split, the first stands for all of them in pairs with other images.
    What over-sampling made in train of one image is no pair.
    """
    images = np.concatenate([split.images for split in dataset.splits.values()])
    examples = _examples(dataset)
    roots = duplicates.first_equal(images)
    distinct, sizes = np.unique(roots, return_counts=True)
    near = duplicates.near_pairs(images[distinct])
    ends = [distinct[near.first], distinct[near.second]]
    wanted = np.isin(roots, np.concatenate([distinct[sizes > 1], *ends]))
    groups: dict[int, dict[str, list[Example]]] = {}
    for position in np.flatnonzero(wanted):
        splits = groups.setdefault(int(roots[position]), {})
        splits.setdefault(examples[position].split, []).append(examples[position])

    pairs, in_test = [], set()
    for group in groups.values():
        pairs += [Pair(a, b, 1.0, duplicates.EXACT) for a, b in _equal_examples(group)]
        in_test |= _test_ids(group, group)
    for root_a, root_b, similarity, kind in zip(*ends, near.similarity, near.kind, strict=True):
        a, b = groups[int(root_a)], groups[int(root_b)]
        for one, other in itertools.product(a.values(), b.values()):
            first, second = sorted((one[0], other[0]), key=lambda e: _rank(e.split))
            pairs.append(Pair(first, second, round(float(similarity), 4), str(kind)))
        in_test |= _test_ids(a, b) | _test_ids(b, a)
    pairs = [pair for pair in pairs if not _over_sampled(pair)]
    return sorted(pairs, key=_gravity), tuple(sorted(in_test))


def id_findings(dataset: Dataset) -> Iterator[Finding]:
    """Checks that ids name one image each, and that over-sampling kept to train."""
    ids = {name: [str(i) for i in split.ids] for name, split in dataset.splits.items()}
    for name, values in ids.items():
        seen: set[str] = set()
        twice = [i for i in values if i in seen or seen.add(i)]  # type: ignore[func-returns-value]
        yield Finding.of(f"ids used twice within {name}", twice)
    for one, other in itertools.combinations(ids, 2):
        both = sorted(set(ids[one]) & set(ids[other]))
        yield Finding.of(f"ids in both {one} and {other}", both)
    made = [i for i in ids["train"] if origins(i) != {i}]
    for name in ("val", "test"):
        held_out = set[str]().union(*map(origins, ids[name]))
        copies = [i for i in made if origins(i) & held_out]
        yield Finding.of(f"over-sampled images in train that were made from {name}", copies)
        wrong = [i for i in ids[name] if origins(i) != {i}]
        yield Finding.of(f"over-sampled images in {name}", wrong)


def normalization_finding(dataset: Dataset, config: DataConfig) -> Finding:
    """Checks that other images in val and test leave the normalisation as it is."""

    def statistics(of: Dataset) -> tuple[np.ndarray, np.ndarray]:
        arrays = Resident.of(of, config).arrays
        return arrays["mean"], arrays["std"]

    # Brighter and of half the contrast: both statistics would move.
    val, test = (
        dataclasses.replace(split, images=255 - split.images // 2)
        for split in (dataset.val, dataset.test)
    )
    changed = dataclasses.replace(dataset, val=val, test=test)
    before, after = statistics(dataset), statistics(changed)
    same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    cases = [] if same else [f"config.data.normalization={config.normalization!r}"]
    return Finding.of("normalisation depends on val or test", cases)


def _examples(dataset: Dataset) -> list[Example]:
    return [
        Example(str(example_id), name, dataset.class_names[label], index)
        for name, split in dataset.splits.items()
        for index, (example_id, label) in enumerate(zip(split.ids, split.labels, strict=True))
    ]


def _equal_examples(group: dict[str, list[Example]]) -> Iterator[tuple[Example, Example]]:
    """The first of each split with its equals in the same split and in the later ones."""
    for one, other in itertools.combinations_with_replacement(group, 2):
        for example in group[other]:
            if example is not group[one][0]:
                yield group[one][0], example


def _test_ids(group: dict[str, list[Example]], alike: dict[str, list[Example]]) -> set[str]:
    """Ids of a group's test images, if what they are alike to occurs in train or val."""
    return {e.id for e in group.get("test", [])} if {"train", "val"} & set(alike) else set()


def _over_sampled(pair: Pair) -> bool:
    return pair.splits == ("train", "train") and bool(
        origins(pair.first.id) & origins(pair.second.id)
    )


def _rank(split: str) -> int:
    return ("train", "val", "test").index(split)


def _gravity(pair: Pair) -> tuple[bool, int, float, str, str]:
    """Sorts the worst first: across splits, with test in it, most similar."""
    first, second = pair.splits
    return first == second, -_rank(second), -pair.similarity, pair.first.id, pair.second.id


def _duplicate_findings(dataset: Dataset, pairs: list[Pair]) -> Iterator[Finding]:
    def exact(pair: Pair) -> bool:
        return pair.kind == duplicates.EXACT

    kinds: tuple[tuple[str, Callable[[Pair], bool]], ...] = (
        ("exact duplicates", exact),
        ("near duplicates", lambda pair: not exact(pair)),
    )
    for splits in itertools.combinations_with_replacement(dataset.splits, 2):
        one, other = splits
        place = f"within {one}" if one == other else f"in {one} and {other}"
        for kind, belongs in kinds:
            cases = [pair for pair in pairs if pair.splits == splits and belongs(pair)]
            conflicts = [pair for pair in cases if pair.first.label != pair.second.label]
            for name, chosen in ((place, cases), (f"{place}, labels differ", conflicts)):
                ids = [f"{pair.first.id} = {pair.second.id}" for pair in chosen]
                yield Finding.of(f"{kind} {name}", ids, leak=one != other)
