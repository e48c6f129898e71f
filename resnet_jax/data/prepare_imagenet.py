"""ImageNet as a TensorFlow Datasets folder, prepared without TensorFlow.

    python -m resnet_jax.data.prepare --name=imagenet2012 --data_dir=DIR

reads ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from DIR/downloads/manual, where TFDS
looks for them too: they may not be downloaded without an account at image-net.org. Names, version,
features, labels and order of records are TFDS's; its own builder reads archives by `tf.io.gfile`.
"""

import io
import logging
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as published

from resnet_jax.errors import InputError, first_line

LOG = logging.getLogger(__name__)

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}
VALIDATION_LABELS = "datasets/imagenet2012/validation_labels.txt"


class Imagenet2012(published.Builder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS `imagenet2012`."""

    name = "imagenet2012"
    # Where its description lies; else it would be looked for beside this file.
    pkg_dir_path = published.Builder.pkg_dir_path

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        train, validation = (
            pathlib.Path(dl_manager.manual_dir, name) for name in ARCHIVES.values()
        )
        return {"train": _training_images(train), "validation": _validation_images(validation)}


def prepare(data_dir: pathlib.Path) -> None:
    """Prepares the data set, showing progress; hours, and 150 GB beside the archives.

    Raises:
        InputError: if an archive is missing or cannot be read, or the folder cannot be written.
    """
    manual_dir = data_dir / "downloads" / "manual"
    for name in ARCHIVES.values():
        if not (manual_dir / name).is_file():
            raise InputError(
                f"data set imagenet2012: {manual_dir / name} is not there; register at "
                "https://image-net.org/download-images and put the archive there, or train on "
                "folders of images (config.data.name='image_folder')"
            )
    LOG.info("preparing imagenet2012 in %s", data_dir)
    builder = Imagenet2012(data_dir=data_dir, file_format="array_record")
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir, try_download_gcs=False
            )
        )
    except (OSError, EOFError, tarfile.TarError, KeyError) as error:
        raise InputError(
            f"data set imagenet2012: preparing it in {data_dir} failed ({first_line(error)}); see "
            "whether the archives are whole and the disk has room"
        ) from error


def _training_images(archive: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """An archive of archives, one a class."""
    with tarfile.open(archive, "r|") as classes:
        for member in classes:
            content = classes.extractfile(member)
            assert content is not None  # it is a plain file
            with tarfile.open(fileobj=io.BytesIO(content.read())) as images:
                for image in images:
                    yield _example(images, image, pathlib.PurePath(member.name).stem)


def _validation_images(archive: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One archive; labels are listed in the order of the images' names."""
    listed = tfds.core.tfds_path(VALIDATION_LABELS).read_text().strip().splitlines()
    with tarfile.open(archive) as images:
        members = images.getmembers()
        labels = dict(zip(sorted(member.name for member in members), listed, strict=False))
        for member in members:
            yield _example(images, member, labels[member.name])


def _example(
    archive: tarfile.TarFile, member: tarfile.TarInfo, label: str
) -> tuple[str, dict[str, Any]]:
    content = archive.extractfile(member)
    assert content is not None  # it is a plain file
    image = content.read()
    # As TFDS does from version 3.0.0 on, so that whoever reads the folder can decode all of it.
    if member.name in (*published.CMYK_IMAGES, *published.PNG_IMAGES):
        image = _rgb_jpeg(image)
    return member.name, {"file_name": member.name, "image": io.BytesIO(image), "label": label}


def _rgb_jpeg(content: bytes) -> bytes:
    jpeg = io.BytesIO()
    with PIL.Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").save(jpeg, "jpeg", quality=100, subsampling=0)
    return jpeg.getvalue()
