"""Prepared TensorFlow Datasets folders, read as arrays through `array_record`."""

import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from resnet_jax.data.prepare import prepare
from resnet_jax.errors import InputError, first_line


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
