import io

import numpy as np
import PIL.Image
import pytest

from resnet_jax.data.decode import Box, StoredImage, Unreadable

RED, GREY = (200, 40, 30), 120


def encoded(image, kind="jpeg", **more):
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


def smooth(width, height, seed=0, blots=8):
    """Random blots: like a photograph, what is near is alike."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (3 * blots // 4, blots, 3)).astype(np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)


def whole(content, size=16):
    image = StoredImage(content)
    return image.crops([Box(0, 0, image.width, image.height)], size)[0]


@pytest.mark.parametrize(
    ("image", "kind", "color"),
    [
        (PIL.Image.new("RGB", (40, 30), RED), "png", RED),
        (PIL.Image.new("L", (40, 30), GREY), "jpeg", (GREY,) * 3),
        (PIL.Image.new("RGB", (40, 30), RED).convert("CMYK"), "jpeg", RED),
        (PIL.Image.new("RGB", (40, 30), RED).convert("P"), "gif", RED),
        # Half transparent: halfway between the colour and white.
        (PIL.Image.new("RGBA", (40, 30), (*RED, 128)), "png", (227, 147, 142)),
        (PIL.Image.new("LA", (40, 30), (GREY, 0)), "png", (255, 255, 255)),
        (PIL.Image.fromarray(np.full((30, 40), 257 * GREY, np.uint16)), "png", (GREY,) * 3),
        (PIL.Image.new("1", (40, 30), 1), "png", (255, 255, 255)),
    ],
    ids=["RGB", "grey", "CMYK", "palette", "transparent", "grey and clear", "16 bits", "1 bit"],
)
def test_images_of_all_modes_become_colour_of_8_bits(image, kind, color):
    pixels = whole(encoded(image, kind))
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    # JPEG, and the way to CMYK and back, cost a few values; a palette of a GIF more.
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(color, (16, 16, 3)), atol=12)


def test_exif_orientation_is_not_applied():
    image = smooth(48, 32)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = StoredImage(encoded(image, exif=exif))
    assert (turned.width, turned.height) == (48, 32)
    np.testing.assert_array_equal(whole(encoded(image, exif=exif)), whole(encoded(image)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"no image at all, but some text", "no image that Pillow can read"),
        (encoded(smooth(64, 48))[:900], "truncated"),
        (encoded(smooth(64, 48), "png")[:900], "."),
        (encoded(smooth(64, 48))[:12], "."),
    ],
    ids=["empty", "text", "half a JPEG", "half a PNG", "a head"],
)
def test_what_is_no_whole_image_is_unreadable_and_says_why(content, why):
    with pytest.raises(Unreadable, match=why) as caught:
        whole(content)
    assert "\n" not in str(caught.value) and str(caught.value)


@pytest.mark.parametrize("box", [(0, 0, 60, 60), (13, 5, 73, 65), (40, 10, 100, 70)])
def test_a_part_is_what_resizing_the_whole_image_and_cutting_gives(box):
    # Reduced by 3 in both directions: the part is 20 pixels of the reduced image.
    image = smooth(120, 90)
    left, upper = box[0] // 3 * 3, box[1] // 3 * 3
    reduced = image.resize((40, 30), PIL.Image.Resampling.BILINEAR)
    expected = reduced.crop((left // 3, upper // 3, left // 3 + 20, upper // 3 + 20))
    stored = StoredImage(encoded(image, "png"))
    (got,) = stored.crops([Box(left, upper, left + 60, upper + 60)], 20)
    np.testing.assert_allclose(got.astype(int), np.asarray(expected).astype(int), atol=1)


def test_resizing_averages_what_it_leaves_out():
    # Lines of single pixels, black and white: without antialiasing one of them would be left.
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::2] = 255
    pixels = whole(encoded(PIL.Image.fromarray(lines), "png"), 8)
    np.testing.assert_allclose(pixels.astype(int), 127, atol=12)


@pytest.mark.parametrize(("width", "blots"), [(800, 8), (400, 32), (280, 32)])
def test_a_jpeg_decoded_to_fewer_pixels_looks_the_same(width, blots):
    content = encoded(smooth(width, 3 * width // 4, blots=blots), quality=95)
    with PIL.Image.open(io.BytesIO(content)) as image:
        full = np.asarray(image.resize((64, 64), PIL.Image.Resampling.BILINEAR)).astype(int)
    change = np.abs(whole(content, 64).astype(int) - full)
    assert change.mean() < 1 and change.max() < 12


def test_crops_do_not_depend_on_those_taken_before():
    content = encoded(smooth(800, 600, blots=32))
    box = [Box(0, 0, 600, 600)]
    stored = StoredImage(content)
    first = stored.crops(box, 16)  # decoded to an eighth
    np.testing.assert_array_equal(stored.crops(box, 256), StoredImage(content).crops(box, 256))
    np.testing.assert_array_equal(stored.crops(box, 16), first)


def test_boxes_mean_the_same_place_in_a_jpeg_decoded_to_fewer_pixels():
    # Left half dark, right half bright: the border must stay where it is.
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[:, 400:] = 240
    stored = StoredImage(encoded(PIL.Image.fromarray(pixels), quality=95))
    left, right, across = stored.crops(
        [Box(0, 0, 400, 400), Box(400, 0, 800, 400), Box(300, 100, 500, 300)], 50
    )
    assert left[:, :48].max() < 12 and right[:, 2:].min() > 228
    assert across[:, :24].max() < 20 and across[:, 26:].min() > 220
