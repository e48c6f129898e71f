"""How many planted copies the audit's search finds, what it flags wrongly, and what it costs.

    python -m benchmarks.audit_recall --data_dir=DIR [--planted=500]

Three searches. Recall: in all 60,000 images of CIFAR-10, some are replaced by changed copies of
others; a copy counts as found if it is paired with its own source. False alarms on real images:
CIFAR-10 has true near duplicates, so every other image is turned upside down, and a pair of one
that is with one that is not can only be false (but for pictures alike from above and below). False
alarms on synthetic images: random smooth ones, all distinct. Prints shares in percent, seconds of
the clock and of all cores together, and the peak of memory.
"""

import io
import pathlib
import resource
import time
from collections.abc import Callable

import numpy as np
import PIL.Image
from absl import app
from absl import flags as absl_flags

from resnet_jax.config import DataConfig
from resnet_jax.data import datasets, duplicates

_DATA_DIR = absl_flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "With CIFAR-10.")
_PLANTED = absl_flags.DEFINE_integer("planted", 500, "Copies of each kind.", lower_bound=1)
_SYNTHETIC = absl_flags.DEFINE_integer("synthetic", 20_000, "Distinct images.", lower_bound=2)

Change = Callable[[np.ndarray, np.random.RandomState], np.ndarray]


def flipped(image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Left and right exchanged."""
    del random
    return image[:, ::-1]


def shifted(image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Moved by one pixel in one of eight directions, the edge repeated."""
    choices = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
    row, column = choices[random.randint(8)]
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[row : row + height, column : column + width]


def brighter(image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A tenth less contrast and 15 grey levels more."""
    del random
    return np.clip(0.9 * image + 15, 0, 255).astype(np.uint8)


def jpeg(quality: int) -> Change:
    """Through JPEG once more."""

    def change(image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        del random
        file = io.BytesIO()
        PIL.Image.fromarray(np.ascontiguousarray(image)).save(file, "jpeg", quality=quality)
        return np.asarray(PIL.Image.open(file))

    return change


KINDS: dict[str, tuple[Change, ...]] = {
    "exact": (),
    "flip": (flipped,),
    "shift": (shifted,),
    "JPEG 75": (jpeg(75),),
    "JPEG 50": (jpeg(50),),
    "flip, shift": (flipped, shifted),
    "shift, JPEG 50": (shifted, jpeg(50)),
    "flip, shift, JPEG 75": (flipped, shifted, jpeg(75)),
    "brighter, flip, JPEG 75": (brighter, flipped, jpeg(75)),
}


def found_pairs(images: np.ndarray) -> set[tuple[int, int]]:
    """All pairs of positions that the search finds, exact ones too, the lower first."""
    start, cpu_start = time.perf_counter(), time.process_time()
    roots = duplicates.first_equal(images)
    distinct = np.unique(roots)
    near = duplicates.near_pairs(images[distinct])
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"  {len(images)} images: {wall:.0f} s, {cpu:.0f} s of cores, peak {peak:.2f} GB")
    equal = np.flatnonzero(roots != np.arange(len(images)))
    return {
        *zip(distinct[near.first].tolist(), distinct[near.second].tolist(), strict=True),
        *zip(roots[equal].tolist(), equal.tolist(), strict=True),
    }


def plant(images: np.ndarray, count: int) -> dict[str, list[tuple[int, int]]]:
    """Replaces `count` images by copies, for each kind.

    Returns:
        Positions of each source and its copy, the lower first, by kind; no image is in two.
    """
    random = np.random.RandomState(0)
    places = random.permutation(len(images))[: 2 * count * len(KINDS)]
    planted = {}
    for (kind, changes), group in zip(KINDS.items(), np.split(places, len(KINDS)), strict=True):
        planted[kind] = [(min(pair), max(pair)) for pair in group.reshape(-1, 2).tolist()]
        for source, copy in planted[kind]:
            image = images[source]
            for change in changes:
                image = change(image, random)
            images[copy] = image
    return planted


def smooth_images(count: int) -> np.ndarray:
    """Random images whose spectrum falls with frequency like a photograph's, uint8 32x32x3."""
    random = np.random.RandomState(0)
    rows, columns = np.fft.fftfreq(32)[:, None, None], np.fft.rfftfreq(32)[:, None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / 32)
    images = np.empty((count, 32, 32, 3), np.uint8)
    for block in np.array_split(np.arange(count), -(-count // 1000)):
        waves = np.fft.rfft2(random.normal(size=(len(block), 32, 32, 3)), axes=(1, 2))
        fields = np.fft.irfft2(waves * amplitude, s=(32, 32), axes=(1, 2))
        fields *= 50 / fields.std(axis=(1, 2, 3), keepdims=True)
        images[block] = np.clip(128 + fields, 0, 255)
    return images


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    folder = str(pathlib.Path(_DATA_DIR.value).expanduser())
    dataset = datasets.load(DataConfig(name="cifar10", data_dir=folder))
    images = np.concatenate([split.images for split in dataset.splits.values()])
    del dataset

    print("copies planted in CIFAR-10")
    upright = images.copy()
    planted = plant(upright, _PLANTED.value)
    found = found_pairs(upright)
    for kind, pairs in planted.items():
        recall = 100 * len(found & set(pairs)) / len(pairs)
        print(f"  {kind:<24}{recall:6.1f} % of {len(pairs)} found")
    copies = {pair for pairs in planted.values() for pair in pairs}
    flagged = {position for pair in found - copies for position in pair}
    print(f"  other images flagged    {100 * len(flagged) / len(upright):6.2f} %, mostly rightly")
    del upright

    print("every other image upside down")
    images[1::2] = images[1::2, ::-1].copy()
    wrong = {p for pair in found_pairs(images) for p in pair if (pair[0] + pair[1]) % 2}
    print(f"  flagged falsely         {100 * len(wrong) / len(images):6.3f} %")

    print("synthetic smooth images")
    wrong = {p for pair in found_pairs(smooth_images(_SYNTHETIC.value)) for p in pair}
    print(f"  flagged falsely         {100 * len(wrong) / _SYNTHETIC.value:6.3f} %")


if __name__ == "__main__":
    app.run(main)
