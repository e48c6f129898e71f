"""The figure of one image's way through a net: what `resnet_jax.analysis.trace` found."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnet_jax.report import style
from resnet_jax.report.analyses import note

# Both grow evenly in lightness, so that they can be read without colour.
MAP_COLOURS, CAM_COLOURS = "cividis", "inferno"
# Of the class activation map over the image.
OPACITY = 0.65
CHANNELS = 16
# Of one feature map in the picture of a part, in pixels of its own; and between two of them.
SIDE, GAP = 64, 4


class Picture(NamedTuple):
    """What is drawn.

    Attributes:
        report: of the trace: image, step, parts, classes.
        image: uint8 [height, width, channels], as the net got it but not normalised.
        maps: by part, its feature map [height, width, channels].
        activation: the class activation map of the first class, [height, width].
    """

    report: dict[str, Any]
    image: np.ndarray
    maps: Mapping[str, np.ndarray]
    activation: np.ndarray


def draw(picture: Picture) -> Figure:
    """The image, its most probable classes, what speaks for the first, and feature maps.

    Reference: Zhou et al. 2016 (arXiv 1512.04150) for the class activation map.
    """
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # type: ignore[union-attr, call-arg]
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    above, below = halves
    image, activation, classes = above.subplots(1, 3, width_ratios=(1, 1.25, 1.2))
    _image(image, picture)
    _activation(activation, picture)
    _classes(classes, picture.report["classes"])
    panels = below.subplots(1, len(picture.maps), squeeze=False)[0]
    for axes, (name, maps) in zip(panels, picture.maps.items(), strict=True):
        _maps(axes, name, maps)
    net = picture.report["net"]
    words = f"{net['family']} net of depth {net['depth']}, {net['activation_order']} order"
    told = note([picture.report], words.replace("_", " "), "step {step:,}", "image {image}")
    figure.supxlabel(told, x=0.01, ha="left", fontsize=7, color="0.35")
    return figure


def _image(axes: Axes, picture: Picture) -> None:
    height, width, channels = picture.image.shape
    axes.imshow(_as_shown(picture.image), cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"input, {height}x{width}x{channels}", fontsize=10)
    _bare(axes)


def _activation(axes: Axes, picture: Picture) -> None:
    height, width = picture.image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    # The image in grey below it: colours are the map's alone.
    axes.imshow(picture.image.mean(-1), cmap="gray", vmin=0, vmax=255, extent=extent)
    shown = axes.imshow(
        picture.activation,
        cmap=CAM_COLOURS,
        extent=extent,
        interpolation="bilinear",
        alpha=OPACITY,
    )
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.9)
    bar.set_label("share in the logit (mean over pixels)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.ax.collections[-1].set_alpha(1)
    first = style.plain_text(picture.report["classes"][0]["class"], 20)
    rows, columns = picture.activation.shape
    axes.set_title(f"class activation map of {first}, {rows}x{columns}", fontsize=10)
    _bare(axes)


def _classes(axes: Axes, classes: list[dict[str, Any]]) -> None:
    shares = [100 * row["probability"] for row in classes]
    places = range(len(classes))
    axes.barh(places, shares, color=[style.COLOURS[0], *[style.COLOURS[5]] * (len(shares) - 1)])
    for place, share in zip(places, shares, strict=True):
        axes.text(share + 1.5, place, f"{share:.1f}", va="center", fontsize=8)
    axes.set_yticks(places, [style.plain_text(row["class"], 24) for row in classes])
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xticks(range(0, 101, 25))
    style.clean(axes, ylabel="")
    axes.set_xlabel("probability (%)")
    axes.set_title(f"the {len(classes)} most probable classes", fontsize=10)


def _maps(axes: Axes, name: str, maps: np.ndarray) -> None:
    chosen = strongest(maps)
    shown = maps[..., chosen]
    axes.imshow(mosaic(shown), cmap=MAP_COLOURS, vmin=shown.min(), vmax=shown.max())
    height, width, channels = maps.shape
    axes.set_title(
        f"{name}, {height}x{width}x{channels}\n{len(chosen)} channels, "
        f"{shown.min():.3g} (dark) to {shown.max():.3g}",
        fontsize=9,
    )
    _bare(axes)


def strongest(maps: np.ndarray) -> np.ndarray:
    """The channels with the largest mean square, the largest first, at most `CHANNELS`.

    Args:
        maps: [height, width, channels].
    """
    energy = np.square(maps.astype(float)).mean((0, 1))
    return np.argsort(-energy, kind="stable")[:CHANNELS]


def mosaic(maps: np.ndarray) -> np.ndarray:
    """Feature maps side by side in a square, row by row; what lies between them is NaN.

    Args:
        maps: [height, width, channels].

    Returns:
        [rows, columns], each map enlarged by whole pixels.
    """
    height, width, count = maps.shape
    times = max(1, SIDE // max(height, width))
    height, width = height * times, width * times
    columns = int(np.ceil(np.sqrt(count)))
    lines = -(-count // columns)
    found = np.full((lines * (height + GAP) - GAP, columns * (width + GAP) - GAP), np.nan)
    for index in range(count):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        tile = maps[..., index].repeat(times, 0).repeat(times, 1)
        found[top : top + height, left : left + width] = tile
    return found


def _as_shown(image: np.ndarray) -> np.ndarray:
    return image if image.shape[-1] == 3 else image[..., 0]


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
