import math

import numpy as np
import pytest

from resnet_jax.data import crops
from resnet_jax.data.decode import Box


def drawn(draw, width, height, size=224, count=4_000):
    random = np.random.RandomState(0)
    return np.array([draw(random, width, height, size) for _ in range(count)])


def test_he2015_crops_224_pixels_after_bringing_the_shorter_side_to_256_to_480():
    boxes = drawn(crops.he2015, 500, 375)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    # The shorter side of 375 is brought to s, so a crop takes 224 * 375 / s of its pixels.
    shorter = 224 * 375 / heights
    assert shorter.min() == pytest.approx(256) and shorter.max() == pytest.approx(480)
    # Evenly over 225 whole numbers: mean 368, standard deviation sqrt((225^2 - 1) / 12) = 64.95.
    assert shorter.mean() == pytest.approx(368, abs=4 * 64.95 / math.sqrt(4_000))
    assert shorter.std() == pytest.approx(64.95, rel=0.03)
    assert set(np.rint(shorter)) == set(range(256, 481))
    # Bringing both sides to whole pixels changes the aspect ratio by half a pixel at most.
    np.testing.assert_allclose(widths / heights, 1, atol=0.5 / 256)


@pytest.mark.parametrize("draw", [crops.he2015, crops.inception])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (30, 900), (1, 1), (224, 9)])
def test_crops_lie_in_the_image_and_reach_all_its_edges(draw, width, height):
    boxes = drawn(draw, width, height, count=2_000)
    left, upper, right, lower = boxes.T
    assert left.min() >= 0 and upper.min() >= 0
    assert right.max() <= width + 1e-9 and lower.max() <= height + 1e-9
    assert (right > left).all() and (lower > upper).all()
    if min(width, height) > 100:
        assert left.min() < 5 and upper.min() < 5
        assert right.max() > width - 5 and lower.max() > height - 5


def test_inception_draws_8_to_100_percent_of_the_area_at_ratios_of_3_to_4_to_4_to_3():
    boxes = drawn(crops.inception, 1_000, 1_000)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = widths * heights / 1e6, widths / heights
    assert 0.079 < area.min() < 0.09 and 0.9 < area.max() <= 1
    assert 0.745 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.34
    # The logarithm is even, so 1:1 is the median; and areas, where every ratio fits, are too.
    assert np.median(ratio) == pytest.approx(1, abs=0.015)
    small = area[area < 0.7]
    assert np.median(small) == pytest.approx((0.08 + 0.7) / 2, abs=0.015)


def test_inception_falls_back_to_the_largest_part_around_the_centre():
    # No part of a ratio up to 4:3 has 8 % of 1 : 100; the largest is 10 wide and 13.3 high.
    boxes = drawn(crops.inception, 10, 1_000, count=20)
    expected = [0, 500 - 20 / 3, 10, 500 + 20 / 3]
    np.testing.assert_allclose(boxes, np.broadcast_to(expected, boxes.shape), rtol=1e-9)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        # Already 256 high: 224 pixels around the centre.
        (256, 256, (16, 16, 240, 240)),
        (400, 256, (88, 16, 312, 240)),
        (256, 384, (16, 80, 240, 304)),
        # Twice as large: the same part.
        (512, 512, (32, 32, 480, 480)),
    ],
)
def test_the_centre_crop_is_224_of_256_pixels(width, height, expected):
    assert crops.center(width, height, 224) == pytest.approx(expected)


def test_the_centre_crop_keeps_its_share_at_other_sizes():
    # 64 pixels of 73, as 224 of 256.
    left, upper, right, lower = crops.center(730, 730, 64)
    assert (right - left, lower - upper) == pytest.approx((640, 640))
    assert (left, upper) == pytest.approx((40, 40))


def test_ten_crops_are_the_corners_and_the_centre_of_the_centre_square_of_256_pixels():
    # Krizhevsky et al. 2012, Secs. 2 and 4.1. A wide image: its own corners are not looked at.
    found = crops.five(456, 256, 224)
    assert found == [
        Box(100, 0, 324, 224),
        Box(132, 0, 356, 224),
        Box(100, 32, 324, 256),
        Box(132, 32, 356, 256),
        Box(116, 16, 340, 240),
    ]


def test_multi_scale_testing_sees_the_five_scales_of_the_paper_mirrored_too():
    views = crops.views("multi_scale", 224)
    assert [view.shorter for view in views] == [224, 256, 384, 480, 640]
    assert all(view.mirrored and view.size == view.shorter for view in views)
    # All of the centre square is seen.
    assert views[2].boxes(600, 300) == [pytest.approx((150, 0, 450, 300))]


def test_other_evaluations_are_one_pass():
    (center,) = crops.views("center", 224)
    assert not center.mirrored and center.boxes(256, 256) == [(16, 16, 240, 240)]
    (ten,) = crops.views("ten", 224)
    assert ten.mirrored and len(ten.boxes(300, 300)) == 5
