import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.config import DataConfig
from resnet_jax.data import augment
from resnet_jax.data.augment import Normalization, crop_and_flip, normalize, training_images
from resnet_jax.data.datasets import Split


def distinct_image(size=6, channels=3):
    """No two pixels are alike, and none is zero, so that every crop can be recognised."""
    return np.arange(1, size * size * channels + 1, dtype=np.float32).reshape(size, size, channels)


def all_crops(image, padding):
    """Every possible crop by its offset, as NumPy makes it."""
    size = image.shape[0]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return {
        (row, column): padded[row : row + size, column : column + size]
        for row in range(2 * padding + 1)
        for column in range(2 * padding + 1)
    }


def augmented(image, count, **options):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: crop_and_flip(key, image, **options))(keys))


def recognise(results, candidates):
    """How often each candidate came out; fails on anything that is no candidate."""
    names = {np.ascontiguousarray(value).tobytes(): name for name, value in candidates.items()}
    counts = dict.fromkeys(candidates, 0)
    for result in results:
        counts[names[np.ascontiguousarray(result).tobytes()]] += 1
    return counts


def test_a_crop_is_a_slice_of_the_padded_image_and_every_offset_is_equally_likely():
    image, count = distinct_image(), 4_050
    counts = recognise(augmented(image, count, padding=1, flip=False), all_crops(image, 1))
    # 9 offsets, 450 each; 5 standard deviations are 5 * sqrt(450 * 8 / 9) = 100.
    assert len(counts) == 9
    assert all(abs(n - 450) < 100 for n in counts.values())


def test_the_papers_padding_of_4_reaches_all_81_offsets():
    image = distinct_image(size=9, channels=1)
    counts = recognise(augmented(image, 2_000, padding=4, flip=False), all_crops(image, 4))
    assert len(counts) == 81
    assert min(counts.values()) > 0


def test_every_other_image_is_mirrored_left_to_right():
    image = distinct_image()
    both = {"as it was": image, "mirrored": image[:, ::-1]}
    counts = recognise(augmented(image, 1_000, padding=0, flip=True), both)
    # 500 +- 5 * sqrt(250)
    assert 420 < counts["mirrored"] < 580


def test_crop_and_flip_are_drawn_independently():
    image = distinct_image()
    candidates = {}
    for offset, crop in all_crops(image, 1).items():
        candidates[offset, False] = crop
        candidates[offset, True] = crop[:, ::-1]
    counts = recognise(augmented(image, 3_600, padding=1, flip=True), candidates)
    # 18 outcomes, 200 each; 5 standard deviations are 5 * sqrt(200 * 17 / 18) = 69.
    assert all(abs(n - 200) < 69 for n in counts.values())


def test_without_padding_and_flip_an_image_stays_as_it_is():
    image = distinct_image()
    np.testing.assert_array_equal(augmented(image, 5, padding=0, flip=False), [image] * 5)


CONFIG = DataConfig(crop_padding=4, flip=True)
IMAGES = np.random.RandomState(0).randint(0, 256, (8, 32, 32, 3)).astype(np.uint8)
ZERO, ONE = np.zeros(3, np.float32), np.ones(3, np.float32)


def batch(examples, images=None, *, config=CONFIG, seed=0, mean=ZERO, std=ONE):
    examples = jnp.asarray(examples, jnp.int32)
    images = IMAGES[examples] if images is None else images
    key = jax.random.key(seed)
    return np.asarray(training_images(config, key, jnp.asarray(images), examples, mean, std))


def test_each_image_of_a_batch_is_cropped_for_itself():
    same = np.broadcast_to(IMAGES[0], (64, 32, 32, 3))
    results = batch(np.arange(64), same)
    # 162 outcomes: 64 draws hold some 52 different ones.
    assert len({result.tobytes() for result in results}) > 30


def test_an_image_is_augmented_alike_wherever_it_stands_in_the_batch():
    straight = batch([0, 1, 2, 3, 4, 5, 6, 7])
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    np.testing.assert_array_equal(batch(order), straight[order])
    # As if eight devices had one image each.
    single = np.concatenate([batch([example]) for example in range(8)])
    np.testing.assert_array_equal(single, straight)


def test_an_image_is_augmented_anew_in_every_step():
    results = {batch([3], seed=seed).tobytes() for seed in range(20)}
    assert len(results) > 10


def test_the_same_key_gives_the_same_batch():
    np.testing.assert_array_equal(batch([1, 2], seed=5), batch([1, 2], seed=5))


def test_an_augmented_batch_holds_crops_of_its_normalised_images():
    mean = np.full((32, 32, 3), 0.5, np.float32)
    results = batch([2, 6], mean=mean, std=np.full((32, 32, 3), 0.25, np.float32))
    for result, example in zip(results, (2, 6), strict=True):
        normal = (IMAGES[example] / 255 - 0.5) / 0.25
        crops = [c for crop in all_crops(normal, 4).values() for c in (crop, crop[:, ::-1])]
        assert min(np.abs(crop - result).max() for crop in crops) < 1e-5


@pytest.mark.parametrize(("fill", "border"), [("mean", 0.0), ("black", -2.0)])
def test_padding_is_the_mean_image_or_black(fill, border):
    # White is (1 - 0.5) / 0.25 = 2, the mean 0, black (0 - 0.5) / 0.25 = -2.
    white = np.full((50, 6, 6, 3), 255, np.uint8)
    half, quarter = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
    config = DataConfig(crop_padding=2, crop_fill=fill)
    results = batch(np.arange(50), white, config=config, mean=half, std=quarter)
    assert set(np.unique(results)) == {np.float32(border), np.float32(2.0)}
    # A padding of 2 never reaches the middle.
    assert (results[:, 2:4, 2:4] == 2).all()


def test_padding_with_the_mean_of_each_pixel_is_zero_everywhere():
    mean = np.random.RandomState(1).uniform(size=(6, 6, 3)).astype(np.float32)
    image = np.full((30, 6, 6, 3), 255, np.uint8)
    config = DataConfig(crop_padding=6, crop_fill="mean", flip=False)
    results = batch(np.arange(30), image, config=config, mean=mean, std=np.ones_like(mean))
    normal = all_crops((1 - mean).astype(np.float32), 6)
    for result in results:
        assert min(np.abs(crop - result).max() for crop in normal.values()) < 1e-6


def split(images):
    count = len(images)
    return Split(images, np.zeros(count, np.int32), np.array([str(i) for i in range(count)]))


def normalized(kind, images):
    statistics = Normalization.fit(kind, split(images))
    return np.asarray(normalize(jnp.asarray(images), statistics.mean, statistics.std))


@pytest.mark.parametrize(
    ("channel", "black", "white"),
    [
        # (0 - mean) / std and (1 - mean) / std with ImageNet's constants.
        (0, -0.485 / 0.229, 0.515 / 0.229),
        (1, -0.456 / 0.224, 0.544 / 0.224),
        (2, -0.406 / 0.225, 0.594 / 0.225),
    ],
)
def test_imagenets_constants_map_black_and_white_to_their_published_values(channel, black, white):
    images = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    result = normalized("imagenet", images)[..., channel]
    np.testing.assert_allclose(result[0], black, rtol=1e-6)
    np.testing.assert_allclose(result[1], white, rtol=1e-6)


def test_channel_statistics_bring_the_training_split_to_mean_0_and_deviation_1():
    images = IMAGES // np.uint8([1, 2, 5])
    result = normalized("channel", images).astype(np.float64)
    np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std((0, 1, 2)), 1, atol=1e-5)
    # One scale for all pixels of a channel, not one for each.
    assert Normalization.fit("channel", split(images)).std.shape == (3,)


def test_the_pixel_mean_is_subtracted_at_every_place_and_nothing_is_scaled():
    result = normalized("pixel_mean", IMAGES).astype(np.float64)
    np.testing.assert_allclose(result.mean(0), 0, atol=1e-6)
    difference = IMAGES[1].astype(np.float64) - IMAGES[0]
    np.testing.assert_allclose(result[1] - result[0], difference / 255, atol=1e-6)


def test_no_normalisation_leaves_pixels_between_0_and_1():
    np.testing.assert_allclose(normalized("none", IMAGES), IMAGES / 255, atol=1e-7)


def test_a_channel_that_never_changes_does_not_become_infinite():
    images = np.full((4, 2, 2, 1), 7, np.uint8)
    np.testing.assert_allclose(normalized("channel", images), 0, atol=1e-4)


def test_the_result_is_single_precision_for_every_kind():
    for kind in ("pixel_mean", "channel", "imagenet", "none"):
        assert normalized(kind, IMAGES).dtype == np.float32
    assert batch([0]).dtype == np.float32


def shifts(count, deviation=0.1):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: augment.color_shift(key, deviation))(keys))


def test_colours_are_shifted_along_the_principal_components_of_imagenets_colours():
    # Krizhevsky et al. 2012, Sec. 4.1: the shift is sum_i p_i a_i l_i with a_i from N(0, 0.1), so
    # its covariance is 0.01 P diag(l^2) P^T; numbers as in fb.resnet.torch.
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    expected = 0.01 * vectors @ np.diag(np.square([0.2175, 0.0188, 0.0045])) @ vectors.T
    found = shifts(40_000)
    np.testing.assert_allclose(np.cov(found.T), expected, rtol=0.04)
    np.testing.assert_allclose(found.mean(0), 0, atol=4 * np.sqrt(expected[0, 0] / 40_000))
    # Columns are unit vectors at right angles, and the first one is brightness: all of one sign.
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)
    np.testing.assert_allclose(shifts(10, deviation=0.3), 3 * shifts(10), rtol=1e-5)


STREAMED = DataConfig(name="image_folder", normalization="imagenet", image_size=8)


def seen(config, images, key=0):
    mean, std = (np.array(v, np.float32) for v in (augment.IMAGENET_MEAN, augment.IMAGENET_STD))
    examples = np.arange(len(images), dtype=np.int32)
    out = augment.training_images(
        config, jax.random.key(key), jnp.asarray(images), jnp.asarray(examples), mean, std
    )
    plain = (images.astype(np.float32) / 255 - mean) / std
    return np.asarray(out), plain


def test_streamed_images_come_cropped_and_are_mirrored_by_halves():
    images = np.random.RandomState(0).randint(0, 256, (400, 8, 8, 3)).astype(np.uint8)
    out, plain = seen(dataclasses.replace(STREAMED, color_deviation=0.0), images)
    kept = np.isclose(out, plain, atol=1e-5).all((1, 2, 3))
    mirrored = np.isclose(out, plain[:, :, ::-1], atol=1e-5).all((1, 2, 3))
    assert (kept ^ mirrored).all() and 150 < mirrored.sum() < 250


def test_each_streamed_image_has_one_colour_shift_for_all_its_pixels():
    images = np.random.RandomState(0).randint(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    config = dataclasses.replace(STREAMED, flip=False)
    out, plain = seen(config, images)
    change = (out - plain) * np.array(augment.IMAGENET_STD)
    np.testing.assert_allclose(change, np.broadcast_to(change[:, :1, :1], change.shape), atol=1e-5)
    assert len(np.unique(change[:, 0, 0, 0].round(5))) > 45
    # Another step has other keys; the same step the same.
    np.testing.assert_array_equal(seen(config, images)[0], out)
    assert (seen(config, images, key=1)[0] != out).any()


def test_without_augmentation_streamed_images_are_normalised_alone():
    images = np.random.RandomState(0).randint(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    config = dataclasses.replace(STREAMED, augmentation="none", flip=False, color_deviation=0.0)
    np.testing.assert_allclose(*seen(config, images), atol=1e-6)
