"""The way of one image through a trained net: shapes, costs, receptive fields, and what it becomes.

    python -m resnet_jax.analysis.trace --workdir=runs/r56 photo.png [--checkpoint=best] [--blocks]

Prints each part of the net (with --blocks each block too) and the most probable classes, and draws
feature maps and the class activation map (docs/trace.md). Writes RUN/analysis/trace-photo.png and
trace-photo.json, or FILE.png and FILE.json with --out=FILE.png. The data set is not needed; images
are read as `python -m resnet_jax.predict` reads them.

Exit codes: 0, 2 for bad input.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
import scipy.special
from absl import flags
from flax import nnx

from resnet_jax import command, run_folder, terminal
from resnet_jax.analysis.trained import described, given
from resnet_jax.config import DataConfig
from resnet_jax.data import augment
from resnet_jax.errors import InputError
from resnet_jax.models import complexity, registry
from resnet_jax.models.parts import POOLING
from resnet_jax.models.resnet import ResNet
from resnet_jax.report import style, traces
from resnet_jax.train import provenance
from resnet_jax.train.prediction import Request

TOP = 5
ENDINGS = (".png", ".pdf", ".svg")
COLUMNS = (
    *("part", "output", "parameters", "multiply-adds"),
    *("receptive field", "mean", "deviation"),
)


@dataclasses.dataclass(frozen=True)
class Trace:
    """One image's way.

    Attributes:
        report: what the JSON file holds.
        picture: what the figure shows.
        logits: float [classes].
    """

    report: dict[str, Any]
    picture: traces.Picture
    logits: np.ndarray


def trace(
    workdir: pathlib.Path, image: pathlib.Path, *, which: str = "last", blocks: bool = False
) -> Trace:
    """Takes an image file through a run's net, in evaluation mode.

    Args:
        workdir: the run's folder.
        image: a file, see `Preprocessing.image`.
        which: 'last' checkpoint, or 'best' on val.
        blocks: also tell of each block.

    Raises:
        InputError: as `prediction.Request`, or if the net makes of the image what is not finite.
    """
    request = Request.read(workdir, [image], which)
    _, state = request.restored()
    preprocessing, names = request.preprocessing, request.preprocessing.class_names
    built = registry.build(
        request.config.model, channels=preprocessing.image_shape[-1], num_classes=len(names)
    )
    # Class activation maps are of nets that end in global average pooling and one layer.
    model = registry.of_blocks(built)
    registry.update(model, *jax.tree.map(jnp.asarray, tuple(state.evaluated)))
    data = request.config.data
    values = outputs(model, data, request.pixels, preprocessing.normalization, blocks=blocks)
    logits = values[-1].astype(float)
    if not np.isfinite(logits).all():
        raise InputError(
            f"--workdir={workdir}: step {request.step} makes of {image} what is not finite; the "
            "run has diverged, take another run, or --checkpoint=best"
        )
    shape = augment.seen_shape(data, preprocessing.image_shape)
    costs = complexity.of_parts(model, shape, blocks=blocks)
    probabilities = scipy.special.softmax(logits)
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    features = values[[cost.name for cost in costs].index(POOLING)]  # what goes into it
    report = {
        "image": image.name,
        "step": request.step,
        "net": described(request.config.model),
        "dataset": request.config.data.name,
        "parts": rows(values, costs),
        "classes": [{"class": names[i], "probability": float(probabilities[i])} for i in order],
        **provenance.circumstances(),
    }
    picture = traces.Picture(
        report,
        request.pixels[0],
        {_stage(c.name): v for c, v in zip(costs, values[1:], strict=True) if v.ndim == 3},
        class_activation_map(model, features, int(order[0])),
    )
    return Trace(report, picture, logits)


def outputs(
    model: ResNet,
    data: DataConfig,
    pixels: np.ndarray,
    statistics: augment.Normalization,
    *,
    blocks: bool,
) -> list[np.ndarray]:
    """What the net makes of one image, part by part, in one compiled program.

    Args:
        model: the net.
        data: of the run, for the size that the net sees.
        pixels: uint8 [1, height, width, channels].
        statistics: that its images are normalised with.
        blocks: as in `ResNet.parts`.

    Returns:
        The normalised image and the output of each part, without the batch; the last one is the
        logits. Float32, or float64 if the net is.
    """
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    kind = model.numerics.param_dtype

    @jax.jit
    def run(params: Any, stats: Any, images: Any, mean: Any, std: Any) -> list[jax.Array]:
        net = nnx.merge(graphdef, params, stats, copy=True)
        found = [augment.evaluation_images(data, images, mean, std)]
        for part in net.parts(blocks=blocks):
            found.append(part.run(found[-1]))
        return [value[0].astype(kind) for value in found]

    return list(jax.device_get(run(params, stats, pixels, statistics.mean, statistics.std)))


def class_activation_map(model: ResNet, features: np.ndarray, label: int) -> np.ndarray:
    """How much each pixel of the last feature map adds to a class's logit.

    The mean over the pixels is the logit without the head's bias.

    Args:
        model: the net; global average pooling and a head of one layer end it.
        features: what is pooled, [height, width, channels].
        label: of the class.

    Returns:
        [height, width].

    Reference: Zhou et al. 2016 (arXiv 1512.04150), eq. 2.
    """
    kernel = np.asarray(model.head.kernel[...], float)
    found: np.ndarray = features.astype(float) @ kernel[:, label]
    return found


def rows(
    values: Sequence[np.ndarray], costs: Sequence[complexity.PartCost]
) -> list[dict[str, Any]]:
    """One row a part, the image first; where there are blocks, each stage stands before its own.

    Args:
        values: as `outputs` gives them.
        costs: of the same parts.
    """
    size = values[0].shape
    found = [_row(complexity.PartCost("input", size, 0, 0, (1, 1), False), values[0])]
    parts = zip(costs, values[1:], strict=True)
    for stage, members in itertools.groupby(parts, lambda part: _stage(part[0].name)):
        own = list(members)
        last, value = own[-1]
        if last.name != stage:
            found.append(
                _row(
                    last._replace(
                        name=stage,
                        parameters=sum(cost.parameters for cost, _ in own),
                        multiply_adds=sum(cost.multiply_adds for cost, _ in own),
                    ),
                    value,
                )
            )
        found += [_row(cost, value) for cost, value in own]
    return found


def _row(cost: complexity.PartCost, value: np.ndarray) -> dict[str, Any]:
    wide = value.astype(float)
    return {**cost._asdict(), "mean": float(wide.mean()), "deviation": float(wide.std())}


def _stage(name: str) -> str:
    return name.split(",")[0]


def show(report: dict[str, Any]) -> None:
    """Prints parts and classes: tables, or lines with tabs in a pipe."""
    table = rich.table.Table(title=f"{report['image']}, step {report['step']:,}")
    for heading in COLUMNS:
        table.add_column(heading, justify="left" if heading == "part" else "right")
    console = rich.console.Console()
    lines = [_cells(row) for row in report["parts"]]
    for cells in lines:
        table.add_row(*cells)
    if console.is_terminal:
        console.print(table)
    else:
        print(*("\t".join(cells) for cells in (COLUMNS, *lines)), sep="\n")
    terminal.print_predictions([{"image": report["image"], "classes": report["classes"]}])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        "x".join(map(str, row["shape"])),
        f"{row['parameters']:,}",
        f"{row['multiply_adds']:,}",
        "whole image" if row["sees_all"] else "x".join(map(str, row["receptive_field"])),
        f"{row['mean']:.3g}",
        f"{row['deviation']:.3g}",
    )


def write(found: Trace, figure: pathlib.Path) -> None:
    """Writes the figure, and the report beside it under the same name as JSON."""
    try:
        style.save(traces.draw(found.picture), figure)
        run_folder.write_json(figure.with_suffix(".json"), found.report)
    except OSError as error:
        raise InputError(f"{figure} cannot be written: {error}; choose another --out") from error


def main(argv: list[str]) -> None:
    """Traces what the flags name."""
    terminal.set_up_logging()
    workdir = given(_WORKDIR.value)
    if len(argv) != 2:
        raise InputError(f"one image is traced at a time, got {len(argv) - 1}; name one file")
    image = pathlib.Path(argv[1])
    out = _OUT.value or workdir / run_folder.ANALYSIS / f"trace-{image.stem}.png"
    figure = pathlib.Path(out)
    if figure.suffix not in ENDINGS:
        raise InputError(f"--out={figure} must end in {', '.join(ENDINGS)}")
    found = trace(workdir, image, which=_CHECKPOINT.value, blocks=_BLOCKS.value)
    show(found.report)
    write(found, figure)
    print(figure)


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
    _CHECKPOINT = flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "Best is on val.")
    _BLOCKS = flags.DEFINE_bool("blocks", False, "Also tell of each block.")
    _OUT = flags.DEFINE_string("out", None, "The figure; its ending decides the format.")
    command.run(main, operands=True)
