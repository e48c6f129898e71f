"""Small data sets on disk, made by TFDS itself."""

import functools
import http.server
import io
import tarfile
import threading

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet_common

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def random_images(count, *, shape=(32, 32, 3), seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)


def prepare_cifar10(
    data_dir, images, labels, *, shape=(32, 32, 3), num_classes=10, name_of="{}_{:05d}".format
):
    """Writes a prepared TFDS `cifar10` folder.

    Args:
        data_dir: the TFDS folder.
        images: for 'train' and 'test', uint8 arrays [height, width, channels].
        labels: for 'train' and 'test', whole numbers.
        shape: what the folder claims of its images.
        num_classes: what TFDS accepts as a label while writing.
        name_of: an example's id, from its split and its number.
    """

    class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "cifar10"
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(num_classes=num_classes),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in images}

        def _generate_examples(self, split):
            for i, (image, label) in enumerate(zip(images[split], labels[split], strict=True)):
                png = io.BytesIO()
                PIL.Image.fromarray(image).save(png, "png")
                png.seek(0)
                yield i, {"id": name_of(split, i), "image": png, "label": int(label)}

    Cifar10(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


def cifar10_archive(path, train_images, train_labels, test_images, test_labels):
    """Writes an archive in the layout of `cifar-10-binary.tar.gz`, five training files and all."""

    def records(images, labels):
        planes = np.asarray(images).transpose(0, 3, 1, 2).reshape(len(images), -1)
        return np.concatenate([np.uint8(labels)[:, None], planes], axis=1).tobytes()

    parts = zip(np.array_split(train_images, 5), np.array_split(train_labels, 5), strict=True)
    files = {f"data_batch_{i}.bin": records(*part) for i, part in enumerate(parts, 1)}
    files["test_batch.bin"] = records(test_images, test_labels)
    files["batches.meta.txt"] = ("\n".join(CLASSES) + "\n\n").encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


class Server:
    """Serves a folder on the loopback device; `requests` lists what was asked for."""

    def __init__(self, folder):
        self.requests = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format, *args):
                asked.append((self.command, self.path))

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def prepare_imagenet2012(data_dir, files):
    """Writes a prepared TFDS `imagenet2012` folder with the features of the published one.

    Args:
        data_dir: the TFDS folder.
        files: for 'train' and 'validation', (name, bytes of the image file, class) of each image.
    """

    class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "imagenet2012"
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names_file=imagenet_common.label_names_file()),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in files}

        def _generate_examples(self, split):
            for name, content, label in files[split]:
                yield name, {"file_name": name, "image": io.BytesIO(content), "label": label}

    Imagenet2012(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir
