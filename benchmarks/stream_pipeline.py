"""What decoding images while a net trains costs: images/s of each part, and by workers.

    python -m benchmarks.stream_pipeline [--images=400] [--workers=0,1,2] [--rounds=3]
    python -m benchmarks.stream_pipeline --data_dir=DIR    # of a folder laid out as ImageNet

Without a folder it draws its own: JPEGs of 500x375 pixels, about ImageNet's mean, whose spectrum
falls as that of photographs does, so that they take as many bytes and as long to decode. Parts run
on one core, one image after another; pipelines are `data.loader.Loader` with that many processes,
0 for a thread of the process itself, and tell what a training step can consume at most. Images lie
in the system's cache: a disk that is slower shows as a lower rate.
"""

import contextlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image
from absl import app, flags

from benchmarks import record
from resnet_jax.config import DataConfig
from resnet_jax.data import crops, streamed
from resnet_jax.data.batches import TrainingBatches
from resnet_jax.data.decode import StoredImage
from resnet_jax.data.loader import Loader
from resnet_jax.data.order import TrainingOrder

_DATA_DIR = flags.DEFINE_string("data_dir", "", "A folder of images; '' draws some.")
_IMAGES = flags.DEFINE_integer("images", 400, "Drawn, if none are given.", lower_bound=8)
_SIZE = flags.DEFINE_integer("size", 224, "Of the crops, in pixels.", lower_bound=8)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 20, "In each measurement.", lower_bound=1)
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Numbers of processes.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")


def photograph(random: np.random.RandomState, width: int, height: int) -> PIL.Image.Image:
    """Noise whose amplitude falls with frequency f as f^-1.2, in three channels."""
    spectrum = np.fft.rfft2(random.standard_normal((height, width, 3)), axes=(0, 1))
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    spectrum /= (np.hypot(down, across) + 1 / max(width, height))[..., None] ** 1.2
    pixels = np.fft.irfft2(spectrum, (height, width), axes=(0, 1))
    pixels = 120 + 50 * (pixels - pixels.mean()) / pixels.std()
    return PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@contextlib.contextmanager
def folder() -> Iterator[pathlib.Path]:
    """The given folder, or one of drawn images for as long as it is needed."""
    if _DATA_DIR.value:
        yield pathlib.Path(_DATA_DIR.value)
        return
    random = np.random.RandomState(0)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for half, count in (("train", _IMAGES.value), ("val", 2)):
            for number in range(count):
                place = root / half / "ab"[number % 2]
                place.mkdir(parents=True, exist_ok=True)
                photograph(random, 500, 375).save(place / f"{number}.jpg", quality=90)
        yield root


def parts(dataset: streamed.StreamedDataset) -> dict[str, Callable[[], int]]:
    """What is done to one image after another, on one core: functions that tell for how many."""
    contents = [dataset.train.read(i).content for i in range(min(len(dataset.train), 100))]
    size = dataset.image_size

    def decoded() -> int:
        for content in contents:
            image = StoredImage(content)
            # One pixel of the whole: everything is decoded, and nothing is resized.
            image.crops([crops.Box(0, 0, 1, 1)], 1)
        return len(contents)

    def cropped(draw: crops.Draw) -> Callable[[], int]:
        def work() -> int:
            random = np.random.RandomState(0)
            for content in contents:
                image = StoredImage(content)
                image.crops([draw(random, image.width, image.height, size)], size)
            return len(contents)

        return work

    def center(_: np.random.RandomState, width: int, height: int, size: int) -> crops.Box:
        return crops.center(width, height, size)

    return {
        "decode": decoded,
        "decode, centre crop": cropped(center),
        "decode, crop as he2015": cropped(crops.he2015),
        "decode, crop as inception": cropped(crops.inception),
    }


def pipeline(dataset: streamed.StreamedDataset, workers: int) -> tuple[float, float]:
    """Images/s of a loader in full swing, and the seconds until its first batch."""
    size, batch_size = dataset.image_size, _BATCH.value
    # What was made ahead while the clock stood still is left out.
    ahead = 3 * max(workers, 1)
    order = TrainingOrder(len(dataset.train), batch_size, 0)
    steps = ahead + _BATCHES.value
    batches = TrainingBatches(dataset.train, order, "he2015", size, 0, steps)
    start = time.perf_counter()
    loader = Loader(batches, workers=workers, batch_bytes=batch_size * size * size * 3)
    with contextlib.closing(loader):
        next(loader)
        first = time.perf_counter() - start
        for _ in range(ahead - 1):
            next(loader)
        start = time.perf_counter()
        for _ in range(_BATCHES.value):
            np.array(next(loader)["images"])
        return _BATCHES.value * batch_size / (time.perf_counter() - start), first


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    rates: dict[str, list[float]] = {}
    started: dict[str, float] = {}
    with folder() as root:
        config = DataConfig(
            name="image_folder", data_dir=str(root), val_fraction=0, image_size=_SIZE.value
        )
        dataset = streamed.load(config)
        work = parts(dataset)
        for _ in range(_ROUNDS.value):
            for name, part in work.items():
                start = time.perf_counter()
                images = part()
                rates.setdefault(name, []).append(images / (time.perf_counter() - start))
            for workers in map(int, _WORKERS.value):
                name = f"pipeline, {workers} processes" if workers else "pipeline, a thread"
                rate, first = pipeline(dataset, workers)
                rates.setdefault(name, []).append(rate)
                started[name] = first
    rows: list[dict[str, Any]] = [
        {"part": name, "images_per_second": values, "seconds_to_first_batch": started.get(name)}
        for name, values in rates.items()
    ]
    settings = {"size": _SIZE.value, "batch_size": _BATCH.value, "drawn": not _DATA_DIR.value}
    report = {**record.about("flax"), **settings, "parts": rows}
    table = record.markdown(
        f"Decoding images for crops of {_SIZE.value} pixels, median of {_ROUNDS.value}.",
        report,
        {"part": "s", "images/s": ",.0f", "lowest": ",.0f", "highest": ",.0f"}
        | {"s to first batch": "s"},
        [
            [
                row["part"],
                statistics.median(row["images_per_second"]),
                min(row["images_per_second"]),
                max(row["images_per_second"]),
                f"{row['seconds_to_first_batch']:.1f}" if row["seconds_to_first_batch"] else "",
            ]
            for row in rows
        ],
    )
    record.write(_OUT.value, "stream_pipeline", report, table)


if __name__ == "__main__":
    app.run(main)
