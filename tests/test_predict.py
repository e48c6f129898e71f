import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import scipy.special

from resnet_jax import predict, run_folder
from resnet_jax.config import DataConfig, validate
from resnet_jax.data import datasets
from resnet_jax.data.augment import Normalization
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import InputError
from resnet_jax.train import evaluation, loop, prediction

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIGITS = datasets.load(DataConfig(name="digits"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a few steps on digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = validate(
        {
            "model": {"depth": 8},
            "data": {"name": "digits", "crop_padding": 0, "flip": False},
            "optimizer": {"learning_rate": 0.01},
            "train": {"steps": 6, "batch_size": 32, "eval_interval": 2, "checkpoint_interval": 2},
            "parallel": {"devices": 1},
            "log": {"interval": 2, "tensorboard": False, "progress": False},
        }
    )
    loop.train(config, folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """The first test digits as files of 8x8 pixels."""
    paths = []
    for name, image in zip(DIGITS.test.ids[:20], DIGITS.test.images, strict=False):
        paths.append(tmp_path / f"{name}.png")
        PIL.Image.fromarray(image[..., 0]).save(paths[-1])
    return paths


def refusal(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit, match="^2$"):
        sys.exit(predict.main([str(argument) for argument in arguments]))
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def as_json(capsys, *arguments):
    capsys.readouterr()
    assert predict.main([str(argument) for argument in (*arguments, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def own_probabilities(workdir):
    """By example id, from what the run wrote at its end."""
    predictions = np.load(workdir / run_folder.PREDICTIONS)
    probabilities = scipy.special.softmax(predictions["test_logits"].astype(float), axis=1)
    return dict(zip(predictions["test_ids"].tolist(), probabilities, strict=True))


def test_files_of_test_images_get_the_probabilities_of_the_runs_own_evaluation(
    workdir, pictures, capsys
):
    result = as_json(capsys, f"--workdir={workdir}", "--top=10", *pictures)
    expected = own_probabilities(workdir)
    assert result["step"] == 6
    assert [row["image"] for row in result["images"]] == [str(path) for path in pictures]
    for path, row in zip(pictures, result["images"], strict=True):
        found = {place["class"]: place["probability"] for place in row["classes"]}
        np.testing.assert_allclose(
            [found[str(digit)] for digit in range(10)], expected[path.stem], atol=1e-5
        )
        values = [place["probability"] for place in row["classes"]]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-9)


def test_more_classes_than_there_are_means_all_and_fewer_the_most_probable(
    workdir, pictures, capsys
):
    every, some = (
        as_json(capsys, f"--workdir={workdir}", f"--top={top}", pictures[0])["images"][0]
        for top in (99, 3)
    )
    assert len(every["classes"]) == 10
    assert some["classes"] == every["classes"][:3]


def test_the_net_is_compiled_once_for_any_number_of_images(workdir, pictures, monkeypatch):
    shapes = set()
    original = prediction.prediction_program

    def counted(data, apply):
        program = original(data, apply)

        def traced(params, stats, images, mean, std):
            shapes.add(images.shape)
            return program(params, stats, images, mean, std)

        return traced

    monkeypatch.setattr(prediction, "prediction_program", counted)
    for count in (1, 20):
        assert len(prediction.predict(workdir, pictures[:count])["images"]) == count
    assert shapes == {(prediction.BATCH, 8, 8, 1)}


def test_neither_the_data_set_nor_a_file_of_weights_is_needed(
    workdir, pictures, tmp_path, monkeypatch
):
    folder = shutil.copytree(workdir, tmp_path / "run")
    stored = json.loads((folder / run_folder.CONFIG).read_text())
    stored["model"]["weights"] = "gone.safetensors"
    stored["data"].update(name="cifar10", data_dir=str(tmp_path / "gone"))
    stored["parallel"]["devices"] = 4096
    (folder / run_folder.CONFIG).write_text(json.dumps(stored))

    def forbidden(config):
        raise AssertionError("the data set was loaded")

    monkeypatch.setattr(datasets, "load", forbidden)
    moved = prediction.predict(folder, pictures[:2])["images"]
    assert moved == prediction.predict(workdir, pictures[:2])["images"]


def test_the_best_checkpoint_is_used_when_asked_for(workdir, pictures, capsys):
    records = run_folder.read_records(workdir / run_folder.METRICS)
    errors = {row["step"]: row["error"] for row in records if row["split"] == "val"}
    best = as_json(capsys, f"--workdir={workdir}", "--checkpoint=best", pictures[0])
    assert errors[best["step"]] == min(errors.values())


def test_the_command_prints_lines_in_a_pipe_and_leaves_the_run_alone(workdir, tmp_path):
    rgba = np.random.RandomState(0).randint(0, 256, (51, 37, 4)).astype(np.uint8)
    PIL.Image.fromarray(rgba, "RGBA").save(tmp_path / "any.png")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-m", "resnet_jax.predict", f"--workdir={workdir}", tmp_path / "any.png"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 5
    assert {row[0] for row in rows} == {str(tmp_path / "any.png")}
    assert {row[1] for row in rows} < set("0123456789")
    assert 0 < sum(float(row[2]) for row in rows) <= 1
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_on_a_terminal_there_is_a_table(workdir, pictures, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert predict.main([f"--workdir={workdir}", str(pictures[0])]) == 0
    out = capsys.readouterr().out
    assert "probability" in out and "┃" in out and "\t" not in out


def test_the_run_folder_tells_what_the_net_expects(workdir):
    stored = Preprocessing.load(workdir / run_folder.PREPROCESSING)
    assert stored.class_names == tuple("0123456789")
    assert stored.image_shape == (8, 8, 1)
    expected = DIGITS.train.images.mean(0, dtype=np.float64) / 255
    np.testing.assert_allclose(stored.normalization.mean, expected, atol=1e-6)
    assert not list(workdir.glob("*.tmp"))


def test_an_older_run_folder_is_mended_by_evaluating_it_again(workdir, pictures, tmp_path, capsys):
    folder = shutil.copytree(workdir, tmp_path / "run")
    path = folder / run_folder.PREPROCESSING
    path.unlink()
    line = refusal(capsys, f"--workdir={folder}", pictures[0])
    assert str(path) in line
    assert f"python -m resnet_jax.main --mode=evaluate --workdir={folder}" in line
    evaluation.evaluate(folder)
    assert path.read_bytes() == (workdir / run_folder.PREPROCESSING).read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_a_damaged_preprocessing_file_is_named(tmp_path, content):
    path = tmp_path / run_folder.PREPROCESSING
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} is damaged"):
        Preprocessing.load(path)


def test_images_that_cannot_be_read_are_named_in_one_line(workdir, pictures, tmp_path, capsys):
    whole = pictures[0].read_bytes()
    files = {
        "text.png": b"not an image",
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in (*files, "missing.png", "."):
        line = refusal(capsys, f"--workdir={workdir}", pictures[0], tmp_path / name)
        assert f"image {tmp_path / name}" in line


def test_what_was_never_trained_or_asked_wrongly_is_told_in_one_line(workdir, tmp_path, capsys):
    picture = tmp_path / "a.png"
    assert "config.json" in refusal(capsys, f"--workdir={tmp_path}", picture)
    shutil.copy(workdir / run_folder.CONFIG, tmp_path)
    assert "no checkpoints yet" in refusal(capsys, f"--workdir={tmp_path}", picture)
    assert "images" in refusal(capsys, f"--workdir={workdir}")
    assert "--workdir" in refusal(capsys, picture)
    assert "--top must be at least 1, got 0" in refusal(
        capsys, f"--workdir={workdir}", "--top=0", picture
    )
    assert "worst" in refusal(capsys, f"--workdir={workdir}", "--checkpoint=worst", picture)


def expecting(height, width, channels):
    identity = Normalization(np.zeros(channels, np.float32), np.ones(channels, np.float32))
    return Preprocessing(identity, (height, width, channels), ("a", "b"))


def saved(path, array, mode=None, **options):
    PIL.Image.fromarray(np.asarray(array), mode).save(path, **options)
    return path


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    path = saved(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(expecting(8, 8, 3).image(path), pixels)


def test_an_image_is_cut_around_its_centre(tmp_path):
    # 12 rows of 4: the 4 in the middle are left.
    pixels = np.repeat(np.arange(12, dtype=np.uint8)[:, None] * 20, 4, axis=1)
    path = saved(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(expecting(4, 4, 1).image(path)[..., 0], pixels[4:8])


def test_making_an_image_smaller_averages_its_pixels(tmp_path):
    # Every other pixel of a chequerboard would be all black or all white.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = expecting(8, 8, 1).image(saved(tmp_path / "a.png", board))
    assert np.abs(small.astype(int) - 127.5).max() < 3


def test_an_image_is_turned_as_its_exif_data_say(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (8, 8)).astype(np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = saved(tmp_path / "a.png", pixels, exif=exif)
    np.testing.assert_array_equal(expecting(8, 8, 1).image(path)[..., 0], np.rot90(pixels, -1))


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (200, 100, 0, 255)
    pixels[2] = (0, 0, 0, 51)  # a fifth of black, four fifths of white
    image = expecting(4, 4, 3).image(saved(tmp_path / "a.png", pixels))
    assert image[:, 0].tolist() == [[200, 100, 0]] * 2 + [[204] * 3, [255] * 3]


def test_colour_becomes_grey_by_its_luma_and_grey_becomes_colour(tmp_path):
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B.
    path = saved(tmp_path / "a.png", np.full((4, 4, 3), (100, 200, 50), np.uint8))
    assert np.unique(expecting(4, 4, 1).image(path)).tolist() == [153]
    path = saved(tmp_path / "b.png", np.full((4, 4), 77, np.uint8))
    assert np.unique(expecting(4, 4, 3).image(path)).tolist() == [77]


def test_sixteen_bits_become_eight_and_no_brighter(tmp_path):
    deep = np.array([[0, 257, 32_896, 65_535]] * 4, np.uint16)
    for name in ("a.png", "a.tiff"):
        image = expecting(4, 4, 1).image(saved(tmp_path / name, deep))
        assert image[0, :, 0].tolist() == [0, 1, 128, 255]


def test_numbers_without_an_agreed_range_are_refused(tmp_path):
    path = saved(tmp_path / "a.tiff", np.full((4, 4), 0.5, np.float32))
    with pytest.raises(InputError, match="a.tiff cannot be read: mode 'F' has no agreed range"):
        expecting(4, 4, 1).image(path)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_common_mode_and_format_is_read(tmp_path, mode, channels):
    colours = np.random.RandomState(0).randint(0, 256, (51, 37, 3)).astype(np.uint8)
    suffix = {"CMYK": "jpg", "YCbCr": "jpg", "P": "gif"}.get(mode, "png")
    path = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(colours).convert(mode).save(path)
    image = expecting(32, 32, channels).image(path)
    assert image.shape == (32, 32, channels) and image.dtype == np.uint8


def test_a_net_for_other_than_one_or_three_channels_cannot_read_files(tmp_path):
    with pytest.raises(InputError, match="have 2 channels"):
        expecting(4, 4, 2).image(tmp_path / "a.png")
