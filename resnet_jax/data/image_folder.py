"""A data set of one's own, as ImageNet is laid out: train/CLASS/IMAGE and val/CLASS/IMAGE."""

import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from resnet_jax.config import DataConfig
from resnet_jax.data import selection
from resnet_jax.data.sources import Files
from resnet_jax.data.streamed import StreamedDataset, StreamedSplit
from resnet_jax.errors import InputError

LOG = logging.getLogger(__name__)

LAYOUT = "lay it out as train/CLASS/IMAGE and val/CLASS/IMAGE"
SUFFIXES = frozenset((".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"))


def image_folder(config: DataConfig) -> StreamedDataset:
    """Lists the images of `data.data_dir`; none is read.

    Classes are the folders' names, sorted; below each, images are found at any depth, in the order
    of their names. An image's id is its path below `data_dir`.

    Returns:
        The published splits, `val` (empty so far) aside: what lies in val/ is `test`.

    Raises:
        InputError: if the layout is another, the two halves differ in their classes, or a class has
            no image.
    """
    root = pathlib.Path(config.data_dir).expanduser()
    halves = {half: _classes(root, half) for half in ("train", "val")}
    classes = halves["train"]
    for name in sorted(set(classes) ^ set(halves["val"])):
        there, missing = ("train", "val") if name in classes else ("val", "train")
        raise InputError(
            f"config.data.data_dir={config.data_dir!r}: class {name!r} is in {there} "
            f"({len(halves[there])} classes) but not in {missing} ({len(halves[missing])}); both "
            "must have the same"
        )
    selection.check_classes(config, classes)
    chosen = config.classes or tuple(classes)
    if len(chosen) < 2:
        raise InputError(
            f"config.data.data_dir={config.data_dir!r} has one class, {classes[0]!r}; there must "
            "be two or more"
        )
    digest = hashlib.sha256()
    splits = {half: _split(root, half, chosen, digest) for half in halves}
    return StreamedDataset(
        name=config.name,
        class_names=chosen,
        train=splits["train"],
        val=splits["train"].take(np.arange(0)),
        test=splits["val"],
        image_size=config.image_size,
        listing=digest.hexdigest(),
        original=False,
    )


def _classes(root: pathlib.Path, half: str) -> list[str]:
    """The names of the folders in one half, sorted."""
    folder = root / half
    if not folder.is_dir():
        what = f"it has no {half} folder" if root.is_dir() else "there is no such folder"
        raise InputError(f"config.data.data_dir={str(root)!r}: {what}; {LAYOUT}")
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise InputError(
            f"config.data.data_dir={str(root)!r}: {folder} has no folder of a class; {LAYOUT}"
        )
    return names


def _split(
    root: pathlib.Path, half: str, classes: tuple[str, ...], digest: "hashlib._Hash"
) -> StreamedSplit:
    """One half, its names, sizes and labels added to the digest."""
    paths: list[bytes] = []
    labels: list[int] = []
    others = 0
    for label, name in enumerate(classes):
        before = len(paths)
        for entry in _files(root / half / name):
            if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
                others += 1
                continue
            paths.append(_encoded(root, entry.path))
            labels.append(label)
            digest.update(b"%s\0%d\0%d\n" % (paths[-1], entry.stat().st_size, label))
        if len(paths) == before:
            raise InputError(
                f"config.data.data_dir={str(root)!r}: {half}/{name} holds no image "
                f"({', '.join(sorted(SUFFIXES))}); remove that class from both halves, or fill it"
            )
    if others:
        LOG.info("%s: %d files that are no images by their names are left out", root / half, others)
    source = Files(root, np.array(paths), np.array(labels, np.int32))
    return StreamedSplit(source, np.arange(len(paths)))


def _files(folder: pathlib.Path | str) -> Iterator["os.DirEntry[str]"]:
    """All files below a folder in the order of their names, but for hidden ones."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry.path)
        else:
            yield entry


def _encoded(root: pathlib.Path, path: str) -> bytes:
    try:
        return pathlib.PurePath(path).relative_to(root).as_posix().encode()
    except UnicodeEncodeError:
        raise InputError(f"image {path!r} has a name that is not UTF-8; give it another") from None
