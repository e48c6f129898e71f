"""A small set of JPEGs in the layout of ImageNet, drawn at random: learnable, never downloaded.

    python -m resnet_jax.data.synthetic_folder --out=DIR [--train=60] [--val=20] [--seed=0]

A picture shows one shape, of random size, place, turn and brightness, before a random background;
the class is shape and colour together, so that neither is enough alone. Pictures are of all sizes
and aspect ratios, some are grey, CMYK or turned by EXIF data, as ImageNet's are.
"""

import io
import math
import pathlib

import numpy as np
import PIL.Image
import PIL.ImageDraw
from absl import flags

from resnet_jax import command
from resnet_jax.errors import InputError
from resnet_jax.files import replacing

# What each shape is made of: left and right edges of upright bars, of a square from -1 to 1.
SHAPES = {"bars": ((-1, -0.6), (-0.2, 0.2), (0.6, 1)), "square": ((-1, 1),)}
COLORS = {"blue": (60, 90, 220), "red": (220, 70, 60)}
CLASSES = tuple(f"{color}_{shape}" for color in COLORS for shape in SHAPES)
SIDES = (48, 144)
# Each so many pictures one is stored as CMYK, as grey, or with EXIF orientation.
ODD = 16


def write(out: pathlib.Path, *, train: int = 60, val: int = 20, seed: int = 0) -> None:
    """Writes train/CLASS/*.jpg and val/CLASS/*.jpg; always the same for one seed.

    Args:
        out: a folder that is not there yet, or empty.
        train: pictures of each class in train/.
        val: the same in val/.
        seed: of the pictures.

    Raises:
        InputError: if the folder holds something, or cannot be written.
    """
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out={out} is not empty; choose another folder")
    try:
        for half, count in (("train", train), ("val", val)):
            for name in CLASSES:
                folder = out / half / name
                folder.mkdir(parents=True)
                for number in range(count):
                    # RandomState's stream is frozen by NumPy's policy (NEP 19).
                    place = (half == "val", CLASSES.index(name), number)
                    random = np.random.RandomState([seed, *map(int, place)])
                    with replacing(folder / f"{number:04d}.jpg", durable=False) as file:
                        file.write(_jpeg(picture(random, name), number))
    except OSError as error:
        raise InputError(
            f"--out={out} cannot be written ({error.strerror}); choose another folder"
        ) from error


def picture(random: np.random.RandomState, name: str) -> PIL.Image.Image:
    """One picture of a class, in colour."""
    color, shape = name.split("_")
    width, height = random.randint(SIDES[0], SIDES[1] + 1, 2)
    coarse = random.randint(60, 200, (4, 4, 3)).astype(np.uint8)
    image = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
    radius = random.uniform(0.25, 0.45) * min(width, height)
    x = random.uniform(radius, width - radius)
    y = random.uniform(radius, height - radius)
    turn, light = random.uniform(0, 2 * math.pi), random.uniform(0.7, 1.15)
    across = radius / math.sqrt(2) * np.array([math.cos(turn), math.sin(turn)])
    down = np.array([-across[1], across[0]])
    fill = tuple(min(int(light * value), 255) for value in COLORS[color])
    for left, right in SHAPES[shape]:
        corners = [(left, -1), (right, -1), (right, 1), (left, 1)]
        places = [tuple((x, y) + a * across + b * down) for a, b in corners]
        PIL.ImageDraw.Draw(image).polygon(places, fill=fill)
    return image


def _jpeg(image: PIL.Image.Image, number: int) -> bytes:
    content = io.BytesIO()
    mode = {ODD - 3: "CMYK", ODD - 2: "L"}.get(number % ODD, "RGB")
    exif = PIL.Image.Exif()
    if number % ODD == ODD - 1:
        exif[0x0112] = 6  # orientation: a viewer turns it by a quarter
    image.convert(mode).save(content, "jpeg", quality=90, exif=exif)
    return content.getvalue()


def main(argv: list[str]) -> None:
    """Writes what the flags ask for."""
    del argv
    if _OUT.value is None:
        raise InputError("--out is missing, for example --out=shapes")
    out = pathlib.Path(_OUT.value)
    write(out, train=_TRAIN.value, val=_VAL.value, seed=_SEED.value)
    print(f"{out}: {len(CLASSES)} classes, {_TRAIN.value} and {_VAL.value} pictures of each")


if __name__ == "__main__":
    _OUT = flags.DEFINE_string("out", None, "Folder to write into.")
    _TRAIN = flags.DEFINE_integer("train", 60, "Pictures of each class in train/.", lower_bound=1)
    _VAL = flags.DEFINE_integer("val", 20, "Pictures of each class in val/.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of the pictures.", lower_bound=0)
    command.run(main)
