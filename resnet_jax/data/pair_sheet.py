"""A picture sheet of pairs of images, to be judged by eye."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from resnet_jax.data.datasets import Dataset
from resnet_jax.data.leakage import Example, Pair

MOST = 60  # pairs on a sheet
COLUMNS, SIDE, MARGIN = 4, 128, 12  # pairs in a row; pixels of an image's side, between pairs
FONT, LINE = 12, 15  # pixels: of letters, from line to line


def draw(dataset: Dataset, pairs: Sequence[Pair]) -> PIL.Image.Image:
    """The first `MOST` pairs side by side, with ids, classes, similarity and kind.

    Args:
        dataset: whose images the pairs name.
        pairs: at least one.
    """
    shown = pairs[:MOST]
    rows = -(-len(shown) // COLUMNS)
    cell = (2 * SIDE + 2 + MARGIN, SIDE + 3 * LINE + MARGIN)
    size = (MARGIN + COLUMNS * cell[0], LINE + 2 * MARGIN + rows * cell[1])
    sheet = PIL.Image.new("RGB", size, "white")
    pen = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(FONT)
    hidden = f"; {len(pairs) - len(shown)} more are not shown" if len(pairs) > len(shown) else ""
    title = f"{dataset.name}: {len(shown)} pairs of images that may show one picture{hidden}"
    pen.text((MARGIN, MARGIN), title, "black", font)
    for number, pair in enumerate(shown):
        row, column = divmod(number, COLUMNS)
        left, top = MARGIN + column * cell[0], LINE + 2 * MARGIN + row * cell[1]
        for place, example in enumerate((pair.first, pair.second)):
            sheet.paste(_picture(dataset, example), (left + place * (SIDE + 2), top))
            text = f"{example.id}: {example.label}"
            pen.text((left, top + SIDE + place * LINE), _fitted(text, font), "black", font)
        text = f"{pair.splits[0]} / {pair.splits[1]}: {pair.kind}, {pair.similarity:.3f}"
        differ = pair.first.label != pair.second.label
        colour = "firebrick" if differ else "dimgray"
        text += ", labels differ" if differ else ""
        pen.text((left, top + SIDE + 2 * LINE), text, colour, font)
    return sheet


def _picture(dataset: Dataset, example: Example) -> PIL.Image.Image:
    """One image with its pixels visible; of 3 channels in colour, of others the mean."""
    image = dataset.splits[example.split].images[example.index]
    if image.shape[-1] != 3:
        image = image.mean(-1).astype(np.uint8)
    nearest = PIL.Image.Resampling.NEAREST
    return PIL.Image.fromarray(image).convert("RGB").resize((SIDE, SIDE), nearest)


def _fitted(text: str, font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont) -> str:
    """The text, cut in its middle to the width of a pair."""
    cut = text
    for kept in range(len(text) // 2, 0, -1):
        if font.getlength(cut) <= 2 * SIDE:
            break
        cut = f"{text[:kept]}...{text[-kept:]}"
    return cut
