"""From the bytes of an image file to pixels. Light to import, for processes that do just that.

EXIF orientation is not applied: the published nets were trained, and are compared, on images as
they are stored (TFDS decodes them so, and so does `torchvision.datasets.ImageFolder`).
"""

import contextlib
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps

from resnet_jax.errors import first_line

# How many times the wanted size a JPEG is decoded to at least, where it is much larger: its inverse
# transform can leave out frequencies, which is faster than computing pixels and averaging them.
# Pillow's `thumbnail` takes 2 as well, as "almost indistinguishable".
DRAFT = 2.0


ORIENTATION = 0x0112


class Unreadable(Exception):
    """An image whose bytes are no picture; its text says why, in one line."""


class Box(NamedTuple):
    """A part of an image, in pixels of the stored image; edges may lie between pixels."""

    left: float
    upper: float
    right: float
    lower: float


class StoredImage:
    """An image file of which only the head is read so far.

    Args:
        content: of the file, in any format that Pillow reads.
        upright: whether to turn it as its EXIF data say.

    Attributes:
        width: in pixels, as are those of boxes.
        height: in pixels.

    Raises:
        Unreadable: if that is no image.
    """

    def __init__(self, content: bytes, *, upright: bool = False):
        if not content:
            raise Unreadable("it is empty")
        self._content, self._upright = content, upright
        with _telling():
            self._opened: PIL.Image.Image | None = PIL.Image.open(io.BytesIO(content))
            self.width, self.height = self._opened.size
            # Orientations from 5 on turn by a quarter, so that the sides change places.
            if upright and self._opened.getexif().get(ORIENTATION, 1) >= 5:
                self.width, self.height = self.height, self.width

    def crops(self, boxes: list[Box], size: int) -> np.ndarray:
        """Parts of the image, resized by bilinear interpolation with antialiasing.

        Args:
            boxes: the parts.
            size: height and width of each result.

        Returns:
            uint8 [boxes, size, size, 3].

        Raises:
            Unreadable: if the image is damaged.
        """
        scale = max(
            max(size / (box.right - box.left), size / (box.lower - box.upper)) for box in boxes
        )
        with _telling():
            image = self._decoded(DRAFT * scale)
        # A draft has fewer pixels than the image that the boxes are of.
        across, down = image.width / self.width, image.height / self.height
        found = np.empty((len(boxes), size, size, 3), np.uint8)
        for crop, box in zip(found, boxes, strict=True):
            left, right = box.left * across, box.right * across
            part = Box(left, box.upper * down, right, box.lower * down)
            crop[...] = resized(image, part, size)
        return found

    def _decoded(self, scale: float) -> PIL.Image.Image:
        """All of it in colour, with at least `scale` times its pixels, each way."""
        # Once decoded to fewer pixels, an image does not get them back.
        image = self._opened or PIL.Image.open(io.BytesIO(self._content))
        self._opened = None
        # Only JPEGs can be decoded to fewer pixels; of other formats this does nothing.
        image.draft(None, (int(scale * image.width), int(scale * image.height)))
        return rgb(PIL.ImageOps.exif_transpose(image) if self._upright else image)


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Whatever decoding raises becomes `Unreadable`."""
    try:
        yield
    except PIL.UnidentifiedImageError:
        raise Unreadable("it is no image that Pillow can read") from None
    # Pillow's decoders raise many kinds, not all of them OSError or ValueError.
    except Exception as error:
        raise Unreadable(first_line(error)) from error


def resized(image: PIL.Image.Image, box: Box, size: int) -> np.ndarray:
    """A part of an image, resized by bilinear interpolation with antialiasing.

    Args:
        image: in colour.
        box: the part.
        size: height and width of the result.

    Returns:
        uint8 [size, size, 3].
    """
    # Rounding may have put an edge beside the image.
    part = (
        max(box.left, 0.0),
        max(box.upper, 0.0),
        min(box.right, image.width),
        min(box.lower, image.height),
    )
    return np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR, part), np.uint8)


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in colour: grey ones with three equal channels, CMYK by Pillow's conversion."""
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    return opaque(image).convert("RGB")


def opaque(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image in 8 bits and without transparency: laid on white, as most viewers show it.

    Raises:
        ValueError: if its values have no agreed range.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        # Pillow would clip these, and has 16-bit images in 32-bit ones at times.
        if image.mode == "F" or values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"mode {image.mode!r} has no agreed range; save it with 8 or 16 bits")
        return PIL.Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image
