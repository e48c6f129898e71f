"""Prepared TensorFlow Datasets folders, read through `array_record`: as arrays, or streamed."""

import dataclasses
import hashlib
import io
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from resnet_jax.config import DataConfig
from resnet_jax.data.prepare import prepare
from resnet_jax.data.sources import Records
from resnet_jax.data.streamed import StreamedDataset, StreamedSplit
from resnet_jax.errors import InputError, first_line

# Russakovsky et al. 2015 (arXiv 1409.0575), Table 2.
IMAGENET_SIZES = {"train": 1_281_167, "validation": 50_000}


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A data set that lies prepared on disk."""

    name: str
    data_dir: pathlib.Path
    builder: Any

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order."""
        return tuple(self.builder.info.features["label"].names)

    def files(self, split: str) -> list[pathlib.Path]:
        """The split's record files."""
        return [pathlib.Path(path) for path in self.builder.info.splits[split].filepaths]

    def _file_of(self, split: str, record: int) -> pathlib.Path:
        """The file that a record stands in, counted over all files of the split."""
        ends = np.cumsum(self.builder.info.splits[split].shard_lengths)
        files = self.files(split)
        return files[min(int(np.searchsorted(ends, record, side="right")), len(files) - 1)]

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decodes all examples.

        Returns:
            images uint8 [examples, height, width, channels], labels int32 [examples], ids
            str [examples].

        Raises:
            InputError: if a record cannot be read or an image has another shape than the first.
        """
        images: list[np.ndarray] = []
        labels: list[int] = []
        ids: list[str] = []
        try:
            # TFDS's own decoder warns that OpenCV is missing.
            raw = {"image": tfds.decode.SkipDecoding()}
            for row in self.builder.as_data_source(split=split, decoders=raw):
                image = np.asarray(PIL.Image.open(io.BytesIO(row["image"])))
                if images and image.shape != images[0].shape:
                    raise InputError(
                        f"data set {self.name} {split}: image {_text(row['id'])} has shape "
                        f"{image.shape}, the others have {images[0].shape}; prepare it again"
                    )
                images.append(image)
                labels.append(int(row["label"]))
                ids.append(_text(row["id"]))
        except (OSError, IndexError, RuntimeError) as error:
            raise InputError(
                f"data set {self.name} {split}: record {len(images)}, in "
                f"{self._file_of(split, len(images))}, cannot be read ({first_line(error)}); "
                "delete that folder and prepare it again"
            ) from error
        return np.stack(images), np.array(labels, np.int32), np.array(ids)


def prepared(name: str, data_dir: pathlib.Path) -> PreparedDataset:
    """Opens the data set in `data_dir`, preparing it there on first use.

    Raises:
        InputError: if it is not there and cannot be downloaded or prepared.
    """
    builder = _open(name, data_dir) if (data_dir / name).is_dir() else None
    if builder is None or not builder.is_prepared():
        prepare(name, data_dir)
        builder = _open(name, data_dir)
    folder = pathlib.Path(builder.data_dir)
    missing = [f for s in ("train", "test") for f in _record_files(builder, s) if not f.is_file()]
    if missing:
        raise InputError(
            f"data set {name}: {missing[0]} is missing; delete {folder} and prepare it again"
        )
    return PreparedDataset(name, data_dir, builder)


def imagenet2012(config: DataConfig) -> StreamedDataset:
    """Opens TFDS's `imagenet2012` in `data.data_dir`; no image is read.

    Returns:
        The published splits, `val` (empty so far) aside: TFDS's `validation` is `test`.

    Raises:
        InputError: if it is not there, its preparation was not finished, or a file is missing.
    """
    data_dir = pathlib.Path(config.data_dir).expanduser()
    folder = data_dir / config.name
    how = "prepare it as docs/imagenet.md tells, or give config.data.data_dir of another folder"
    unfinished = sorted(folder.glob("*incomplete*"))
    builder = _open(config.name, data_dir) if folder.is_dir() else None
    if builder is None or not builder.is_prepared():
        what = f"{unfinished[0]} was not finished" if unfinished else f"it is not in {folder}"
        raise InputError(f"data set {config.name}: {what}; {how}")
    splits, digest = {}, hashlib.sha256()
    sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
    for name in IMAGENET_SIZES:
        if not sizes.get(name):
            raise InputError(f"data set {config.name}: it has no {name} split; {how}")
        files = _record_files(builder, name)
        for file in files:
            if not file.is_file():
                raise InputError(
                    f"data set {config.name}: {file} is missing; copy it again, or {how}"
                )
            digest.update(f"{file.name}\0{file.stat().st_size}\n".encode())
        counts = builder.info.splits[name].shard_lengths
        source = Records(tuple(zip(map(str, files), counts, strict=True)))
        splits[name] = StreamedSplit(source, np.arange(sizes[name]))
    return StreamedDataset(
        name=config.name,
        class_names=tuple(builder.info.features["label"].names),
        train=splits["train"],
        val=splits["train"].take(np.arange(0)),
        test=splits["validation"],
        image_size=config.image_size,
        listing=digest.hexdigest(),
        original={name: sizes[name] for name in IMAGENET_SIZES} == IMAGENET_SIZES,
    )


def _open(name: str, data_dir: pathlib.Path) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except (OSError, ValueError, RuntimeError, AttributeError, ParseError) as error:
        raise InputError(
            f"data set {name} in {data_dir / name} cannot be opened ({first_line(error)}); "
            "delete that folder and run again"
        ) from error


def _record_files(builder: Any, split: str) -> list[pathlib.Path]:
    return PreparedDataset(builder.name, pathlib.Path(), builder).files(split)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
