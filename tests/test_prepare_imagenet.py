import io
import subprocess
import sys
import tarfile

import PIL.Image
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import prepare_imagenet, streamed
from resnet_jax.errors import InputError

# ILSVRC 2012's first classes; one of its images is CMYK, and one a PNG by another name.
FIRST = ("n01440764", "n01443537")
CMYK, PNG = "n01739381_1309.JPEG", "n02105855_2933.JPEG"


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def archive_of(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, file in files:
            add(archive, name, file)
    return content.getvalue()


def encoded(mode, kind, color):
    content = io.BytesIO()
    PIL.Image.new("RGB", (20, 16), color).convert(mode).save(content, kind)
    return content.getvalue()


@pytest.fixture
def archives(tmp_path):
    """A TFDS folder with the two archives, as they are laid out: one of archives, one of images."""
    classes = {
        FIRST[0]: [(f"{FIRST[0]}_{i}.JPEG", encoded("RGB", "jpeg", (i, 0, 0))) for i in range(3)],
        FIRST[1]: [(f"{FIRST[1]}_7.JPEG", encoded("L", "jpeg", (9, 9, 9)))],
        "n01739381": [(CMYK, encoded("CMYK", "jpeg", (200, 40, 30)))],
        "n02105855": [(PNG, encoded("RGB", "png", (200, 40, 30)))],
    }
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    tars = [(f"{name}.tar", archive_of(files)) for name, files in classes.items()]
    (manual / "ILSVRC2012_img_train.tar").write_bytes(archive_of(tars))
    val = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (3, 1, 2)]
    images = [(name, encoded("RGB", "jpeg", (0, 0, 90))) for name in val]
    (manual / "ILSVRC2012_img_val.tar").write_bytes(archive_of(images))
    return tmp_path


def test_the_archives_become_a_folder_that_is_streamed_without_tensorflow(archives):
    prepare_imagenet.prepare(archives)
    dataset = streamed.load(
        DataConfig(name="imagenet2012", data_dir=str(archives), train_on="train+val")
    )
    assert dataset.num_classes == 1_000
    stored = [dataset.train.read(example) for example in range(6)]
    assert {one.id for one in stored} == {
        *(f"n01440764_{i}.JPEG" for i in range(3)), "n01443537_7.JPEG", CMYK, PNG,
    }  # fmt: skip
    assert all(one.id.startswith(dataset.class_names[one.label]) for one in stored)
    contents = {one.id: one.content for one in stored}
    assert contents["n01440764_2.JPEG"] == encoded("RGB", "jpeg", (2, 0, 0))
    for name in (CMYK, PNG):
        with PIL.Image.open(io.BytesIO(contents[name])) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.getpixel((5, 5)) == pytest.approx((200, 40, 30), abs=4)
    # The published answers to the first three: sea snake, alp, Shetland sheepdog.
    tested = [dataset.test.read(example) for example in range(3)]
    assert {one.id[-6]: dataset.class_names[one.label] for one in tested} == {
        "1": "n01751748", "2": "n09193705", "3": "n02105855",
    }  # fmt: skip
    assert "tensorflow" not in sys.modules


def test_archives_that_are_missing_are_told_of_before_anything_is_written(tmp_path):
    command = [sys.executable, "-m", "resnet_jax.data.prepare", "--name=imagenet2012"]
    done = subprocess.run(
        [*command, f"--data_dir={tmp_path / 'x'}"], capture_output=True, text=True
    )
    assert done.returncode == 2 and not (tmp_path / "x").exists()
    (line,) = done.stderr.splitlines()
    assert "ILSVRC2012_img_train.tar is not there; register at" in line


def test_an_archive_that_is_cut_off_is_refused_and_leaves_no_data_set(archives):
    train = archives / "downloads" / "manual" / "ILSVRC2012_img_train.tar"
    train.write_bytes(train.read_bytes()[:15_000])
    with pytest.raises(InputError, match="preparing it in .* failed .*whether the archives are"):
        prepare_imagenet.prepare(archives)
    with pytest.raises(InputError, match="it is not in|was not finished"):
        streamed.load(DataConfig(name="imagenet2012", data_dir=str(archives)))
