"""Which parts of an image of any size a net sees: at random in training, fixed in evaluation.

All sizes are published for nets of 224 pixels; for other sizes they go with it. Boxes are parts of
the stored image. Resizing a part is the same as resizing the whole and cutting it out, for a
fraction of the work.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from resnet_jax.data.decode import Box

# Of images that end at 224 pixels: what the shorter side is brought to before the centre crop is
# taken (Krizhevsky et al. 2012, Sec. 2), the range of He 2015, Sec. 3.4, and its scales in testing.
PUBLISHED_SIZE = 224
CENTER = 256
SCALES = (256, 480)
TEST_SCALES = (224, 256, 384, 480, 640)
# Szegedy et al. 2015 (arXiv 1409.4842), Sec. 6.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)

# Of a random stream, width, height and the final size.
Draw = Callable[[np.random.RandomState, int, int, int], Box]


def scaled(pixels: int, size: int) -> int:
    """A published number of pixels for images that end at `size` instead of 224."""
    return round(pixels * size / PUBLISHED_SIZE)


def he2015(random: np.random.RandomState, width: int, height: int, size: int) -> Box:
    """A random crop of `size` after the shorter side was brought to 256 to 480, evenly.

    Reference: He et al. 2015 (arXiv 1512.03385), Sec. 3.4, after Simonyan & Zisserman 2015.
    """
    low, high = (scaled(scale, size) for scale in SCALES)
    shorter = random.randint(low, high + 1)
    across, down = _resized(width, height, shorter)
    left, upper = random.randint(across - size + 1), random.randint(down - size + 1)
    return _box_of(width, height, across, down, left, upper, size)


def inception(random: np.random.RandomState, width: int, height: int, size: int) -> Box:
    """A random part: 8 to 100 % of the area, evenly; aspect ratio 3:4 to 4:3, its logarithm evenly.

    Ten draws are tried for one that fits into the image; then it is the largest part around the
    centre with such a ratio. Published code differs in both; this is torchvision's.

    Reference: Szegedy et al. 2015 (arXiv 1409.4842), Sec. 6.
    """
    del size
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, upper = random.randint(width - across + 1), random.randint(height - down + 1)
            return Box(left, upper, left + across, upper + down)
    largest = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])
    x, y = (width - largest[0]) / 2, (height - largest[1]) / 2
    return Box(x, y, x + largest[0], y + largest[1])


def center(width: int, height: int, size: int) -> Box:
    """The centre crop of `size` after the shorter side was brought to 256/224 of it."""
    return center_of(width, height, scaled(CENTER, size), size)


def center_of(width: int, height: int, shorter: int, size: int) -> Box:
    """The centre crop of `size` after the shorter side was brought to `shorter`."""
    across, down = _resized(width, height, shorter)
    left, upper = (across - size) // 2, (down - size) // 2
    return _box_of(width, height, across, down, left, upper, size)


def five(width: int, height: int, size: int) -> list[Box]:
    """The corners and the centre of the centre square, whose side is 256/224 of `size`.

    With their mirror images these are the ten crops.

    Reference: Krizhevsky et al. 2012, Secs. 2 (the centre square of 256 pixels) and 4.1.
    """
    side = scaled(CENTER, size)
    across, down = _resized(width, height, side)
    left, upper, rest = (across - side) // 2, (down - side) // 2, side - size
    places = [(0, 0), (rest, 0), (0, rest), (rest, rest), (rest // 2, rest // 2)]
    return [_box_of(width, height, across, down, left + x, upper + y, size) for x, y in places]


@dataclasses.dataclass(frozen=True)
class View:
    """What one pass over a split sees of each image.

    Attributes:
        shorter: what the shorter side is brought to.
        size: of the crops, height and width.
        corners: whether the corners are seen beside the centre.
        mirrored: whether all crops are seen from left to right too.
    """

    shorter: int
    size: int
    corners: bool = False
    mirrored: bool = False

    @property
    def crops(self) -> int:
        """How many crops of each image, mirror images apart."""
        return 5 if self.corners else 1

    def boxes(self, width: int, height: int) -> list[Box]:
        """The crops of an image of this size."""
        if self.corners:
            return five(width, height, self.size)
        return [center_of(width, height, self.shorter, self.size)]


def views(kind: str, size: int) -> list[View]:
    """What an evaluation averages over.

    Args:
        kind: 'center', 'ten' or 'multi_scale'.
        size: that the net was trained at.

    Reference: He et al. 2015 (arXiv 1512.03385), Sec. 3.4: ten crops, and "the fully-convolutional
    form" at shorter sides of 224, 256, 384, 480 and 640. Here that is the centre square, so that
    images of all aspect ratios share one program.
    """
    if kind == "ten":
        return [View(scaled(CENTER, size), size, corners=True, mirrored=True)]
    if kind == "multi_scale":
        sides = [scaled(scale, size) for scale in TEST_SCALES]
        return [View(side, side, mirrored=True) for side in sides]
    return [View(scaled(CENTER, size), size)]


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height once the shorter side is brought to `shorter`."""
    ratio = shorter / min(width, height)
    return max(round(width * ratio), shorter), max(round(height * ratio), shorter)


def _box_of(
    width: int, height: int, across: int, down: int, left: int, upper: int, size: int
) -> Box:
    """A crop of the image resized to across x down, as a part of the stored one."""
    x, y = width / across, height / down
    return Box(left * x, upper * y, (left + size) * x, (upper + size) * y)
