"""Undecoded images on disk, by number. Light to import and to send to other processes."""

import dataclasses
import pathlib
from typing import Any, NamedTuple, Protocol

import numpy as np

from resnet_jax.errors import InputError, first_line


class Stored(NamedTuple):
    """One example as it lies on disk.

    Attributes:
        content: the bytes of an image file.
        label: in 0..classes-1.
        id: a stable name.
    """

    content: bytes
    label: int
    id: str


class Source(Protocol):
    """Where examples are read from, in any order."""

    def read(self, record: int) -> Stored:
        """One example.

        Raises:
            InputError: if the disk does not give it: that is no damaged image, and reading the
                next one instead would hide a data set that is going away.
        """


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files below a folder.

    Attributes:
        root: the folder.
        paths: bytes [files], below it, in UTF-8: a fourth of the memory of str, of which each
            process has a copy.
        labels: int32 [files].
    """

    root: pathlib.Path
    paths: np.ndarray
    labels: np.ndarray

    def id(self, record: int) -> str:
        """The path below the folder."""
        return str(bytes(self.paths[record]).decode())

    def read(self, record: int) -> Stored:
        """As `Source`."""
        name = self.id(record)
        try:
            content = (self.root / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"image {self.root / name} cannot be read ({error.strerror}); it was there when "
                "the run began: see that the folder stays as it is, and start again"
            ) from error
        return Stored(content, int(self.labels[record]), name)


@dataclasses.dataclass
class Records:
    """`tf.train.Example` records with `image`, `label` and `file_name`, in `array_record` files.

    Attributes:
        shards: file and number of records of each.
    """

    shards: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        self._reader: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the files itself.
        return {"shards": self.shards, "_reader": None}

    def read(self, record: int) -> Stored:
        """As `Source`."""
        # Imported here because they cost a second, which other data sets need not pay.
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        from tensorflow_datasets.proto import tf_example_pb2

        if self._reader is None:
            # With the number of records, so that not every file is opened to count them.
            self._reader = ArrayRecordDataSource([f"{file}[0:{n}]" for file, n in self.shards])
        try:
            example = tf_example_pb2.Example.FromString(self._reader[record])
            fields = example.features.feature
            return Stored(
                fields["image"].bytes_list.value[0],
                int(fields["label"].int64_list.value[0]),
                fields["file_name"].bytes_list.value[0].decode(),
            )
        # Protobuf, array_record and its C++ raise kinds of their own.
        except Exception as error:
            raise InputError(
                f"record {record}, in {self._shard_of(record)}, cannot be read "
                f"({first_line(error)}); prepare the data set again"
            ) from error

    def _shard_of(self, record: int) -> str:
        ends = np.cumsum([count for _, count in self.shards])
        return self.shards[min(int(np.searchsorted(ends, record, "right")), len(ends) - 1)][0]
