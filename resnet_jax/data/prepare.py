"""CIFAR-10 and CIFAR-100 as TensorFlow Datasets folders, prepared without TensorFlow.

    python -m resnet_jax.data.prepare --name=cifar10 --data_dir=DIR
    python -m resnet_jax.data.prepare --name=imagenet2012 --data_dir=DIR    # see prepare_imagenet

TFDS's own CIFAR builders read their archive through `tf.io.gfile`. The subclasses here keep the
names, versions, features, record order and checksums, and read it with `tarfile` instead; what they
write, TFDS itself can read, and the other way round.
"""

import io
import logging
import pathlib
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import requests
import tensorflow_datasets as tfds
from absl import app, flags
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.image_classification import cifar

from resnet_jax.data import prepare_imagenet
from resnet_jax.errors import InputError, first_line

LOG = logging.getLogger(__name__)

# In an archive. CIFAR-100's training records, the largest, take 154 MB.
LARGEST_FILE = 2**28


class _ArchiveReader:
    """Reads CIFAR's binary archive; mixed into TFDS's builders."""

    def _split_generators(self: Any, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        info = self._cifar_info
        splits = (("train", info.train_files), ("test", info.test_files))
        with tarfile.open(dl_manager.download(info.url)) as archive:

            def read(name: str) -> bytes:
                try:
                    member = archive.getmember(info.prefix + name)
                except KeyError as error:
                    raise tarfile.TarError(f"{name} is not in the archive") from error
                if not member.isreg() or member.size > LARGEST_FILE:
                    raise tarfile.TarError(
                        f"{name} is not a plain file of at most {LARGEST_FILE} bytes"
                    )
                content = archive.extractfile(member)
                assert content is not None  # it is a plain file
                return content.read()

            for key, file in zip(info.label_keys, info.label_files, strict=True):
                self.info.features[key].names = read(file).decode().split()
            return {
                split: self._generate_examples(f"{split}_", [read(file) for file in files])
                for split, files in splits
            }

    def _generate_examples(self: Any, prefix: str, blobs: list[bytes]) -> Iterator[Any]:
        keys = self._cifar_info.label_keys
        index = 0
        for blob in blobs:
            # Each record is the label bytes, then 3 planes of 32x32.
            for row in np.frombuffer(blob, np.uint8).reshape(-1, len(keys) + 3072):
                png = io.BytesIO()
                planes = row[len(keys) :].reshape(3, 32, 32)
                PIL.Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(
                    png, "png"
                )
                png.seek(0)
                labels = {key: int(value) for key, value in zip(keys, row, strict=False)}
                yield index, {**labels, "id": f"{prefix}{index:05d}", "image": png}
                index += 1


class Cifar10(_ArchiveReader, cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    """TFDS `cifar10`."""

    name = "cifar10"


class Cifar100(_ArchiveReader, cifar.Cifar100, skip_registration=True):  # type: ignore[call-arg]
    """TFDS `cifar100`."""

    name = "cifar100"


BUILDERS: dict[str, Any] = {"cifar10": Cifar10, "cifar100": Cifar100}


def prepare(name: str, data_dir: pathlib.Path) -> None:
    """Downloads and prepares one data set, showing progress.

    TFDS's registered SHA-256 of the archive is checked. The archive may also lie in
    `data_dir/downloads/manual` under its own name, for machines without a network.

    Raises:
        InputError: if the folder cannot be written, or the archive cannot be had or read.
    """
    manual_dir = data_dir / "downloads" / "manual"
    builder = BUILDERS[name](data_dir=data_dir, file_format="array_record")
    url = builder._cifar_info.url
    archive = manual_dir / url.rsplit("/", 1)[-1]
    if not archive.is_file():
        _require_reachable(name, url, data_dir, archive)
    try:
        manual_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"config.data.data_dir={data_dir} cannot be written ({error.strerror}); choose another"
        ) from error
    LOG.info("preparing %s in %s", name, data_dir)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir, try_download_gcs=False
            )
        )
    except tfds.download.DownloadError as error:
        raise InputError(
            f"data set {name}: download failed ({first_line(error)}); "
            f"{_offline(name, data_dir, archive)}"
        ) from error
    except NonMatchingChecksumError as error:
        raise InputError(
            f"data set {name}: the archive is damaged or another one ({first_line(error)} see "
            f"TFDS's checksums); delete it in {data_dir / 'downloads'} and fetch it again"
        ) from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(
            f"data set {name}: preparing it in {data_dir} failed ({first_line(error)})"
        ) from error


def _require_reachable(name: str, url: str, data_dir: pathlib.Path, archive: pathlib.Path) -> None:
    """TFDS retries an unreachable host for minutes; ask once, briefly, first."""
    try:
        requests.head(url, timeout=10, allow_redirects=True).raise_for_status()
    except requests.RequestException as error:
        raise InputError(
            f"data set {name} is not in {data_dir / name}, and its archive cannot be downloaded "
            f"({type(error).__name__}); {_offline(name, data_dir, archive)}"
        ) from error


def _offline(name: str, data_dir: pathlib.Path, archive: pathlib.Path) -> str:
    return (
        f"put {archive.name} into {archive.parent}, or on a machine with a network run "
        f"`python -m resnet_jax.data.prepare --name={name} --data_dir=DIR` and copy DIR to "
        f"{data_dir}"
    )


def main(argv: list[str]) -> None:
    """Prepares what the flags name."""
    del argv
    data_dir = pathlib.Path(_DATA_DIR.value).expanduser()
    try:
        if _NAME.value == "imagenet2012":
            prepare_imagenet.prepare(data_dir)
        else:
            prepare(_NAME.value, data_dir)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    _NAME = flags.DEFINE_enum("name", "cifar10", [*BUILDERS, "imagenet2012"], "Which data set.")
    _DATA_DIR = flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "Where to prepare it.")
    app.run(main)
