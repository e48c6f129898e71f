"""What does the loss look like? Along random directions from a trained net, and how curved there.

    python -m resnet_jax.analysis.landscape --workdir=runs/r56 [--points=25] [--radius=1.0]
        [--images=512] [--seed=0] [--batch_norm=running|batch] [--noplane] [--nosharpness]

Training loss and error on a line and a plane of filter-normalised directions (Li et al. 2018,
arXiv 1712.09913), and extreme eigenvalues of the loss's Hessian. Writes
RUN/analysis/landscape.json, which `python -m resnet_jax.report RUNS` draws.

Exit codes: 0, 2 for bad input.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from resnet_jax import command, terminal
from resnet_jax.analysis import directions, sharpness
from resnet_jax.analysis import objective as objectives
from resnet_jax.analysis.objective import Objective
from resnet_jax.analysis.trained import Trained, given, keep
from resnet_jax.errors import InputError

RESULT = "landscape.json"
# The line has so many steps for each of the plane's.
FINER = 4


class Surface:
    """Loss and error of a net that is moved along two directions, by one compiled program.

    One call a point: on CPU a loop over points inside the program, or a batch of them, is no
    quicker (ResNet-56, 128 images: 0.16 s a point, 0.17 and 0.16; docs/landscape.md).

    Args:
        objective: the net's loss.
        first: a direction, of the parameters' structure.
        second: another one.
    """

    def __init__(self, objective: Objective, first: Any, second: Any):
        self._objective = objective
        self._placed = jax.device_put((objective.params, first, second))

        def at(trees: Any, a: float, b: float, *batch: jax.Array) -> tuple[jax.Array, jax.Array]:
            moved = jax.tree.map(lambda w, x, y: w + a * x + b * y, *trees)
            return objective.loss_and_error(moved, *batch)

        self._program = jax.jit(at)

    def measure(self, points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """Measures some points.

        Args:
            points: how far along each direction; 1 is as long as the weights.

        Returns:
            Mean loss in nats and error in percent, float64 [points]; NaN or infinite where the
            net's logits are.
        """
        found = [
            [self._program(self._placed, float(a), float(b), *batch) for batch in self._batches]
            for a, b in points
        ]
        losses, errors = np.asarray(jax.device_get(found), np.float64).mean(axis=1).T
        return losses, errors

    @property
    def _batches(self) -> Sequence[tuple[jax.Array, jax.Array]]:
        return self._objective.batches


def line(surface: Surface, *, radius: float, points: int) -> dict[str, list[float]]:
    """Loss and error along the first direction.

    Args:
        surface: of the net.
        radius: of the line.
        points: on it, an odd number.

    Returns:
        `at` (how far), `loss` and `error`, one number a point.
    """
    at = axis(radius, points)
    losses, errors = surface.measure([(a, 0.0) for a in at])
    return {"at": at.tolist(), "loss": losses.tolist(), "error": errors.tolist()}


def plane(surface: Surface, *, radius: float, points: int) -> dict[str, list[Any]]:
    """Loss and error on the plane of both directions.

    Args:
        surface: of the net.
        radius: half of the square's side.
        points: along each side, an odd number.

    Returns:
        `at` of either axis, and `loss` and `error`: a row for each step along the second
        direction, in it a number for each along the first.
    """
    at = axis(radius, points)
    found = surface.measure([(a, b) for b in at for a in at])
    losses, errors = (values.reshape(points, points).tolist() for values in found)
    return {"at": at.tolist(), "loss": losses, "error": errors}


def axis(radius: float, points: int) -> np.ndarray:
    """Equal steps from -radius to radius, with 0 among them."""
    half = (points - 1) // 2
    return radius * np.arange(-half, half + 1) / half


def measure(
    trained: Trained,
    *,
    points: int,
    radius: float,
    images: int,
    seed: int,
    batch_norm: str = "running",
    with_plane: bool = True,
    with_sharpness: bool = True,
) -> dict[str, Any]:
    """The landscape around a trained net.

    Args:
        trained: the net; it stays as it is.
        points: along each side of the plane, an odd number; the line has `FINER` times the steps.
        radius: how far to go, 1 being as long as the weights.
        images: how many of the training images; the first ones.
        seed: of the directions.
        batch_norm: 'running' or 'batch', see `objective.of`.
        with_plane: also the plane.
        with_sharpness: also eigenvalues, trace and curvatures.

    Returns:
        What landscape.json holds.

    Raises:
        InputError: if there is no such grid, or the net cannot be measured so.
    """
    _require_grid(points, radius)
    objectives.require_batch_norm(batch_norm, trained.config.model)
    objective = objectives.of(
        trained.model, *trained.training_images(images), batch_norm=batch_norm
    )
    first, second = (directions.random(objective.params, seed=seed, number=i) for i in (0, 1))
    surface = Surface(objective, first, second)
    ((loss,), (error,)) = surface.measure([(0.0, 0.0)])
    report: dict[str, Any] = {
        **trained.about("train", objective.examples),
        "batch_norm": batch_norm,
        "batch_size": len(objective.batches[0][1]),
        "directions": {"seed": seed, "cosine": directions.cosine(first, second)},
        "loss": float(loss),
        "error": float(error),
        "line": line(surface, radius=radius, points=FINER * (points - 1) + 1),
    }
    if with_plane:
        report["plane"] = plane(surface, radius=radius, points=points)
    if with_sharpness:
        report["sharpness"] = sharpness.measure(objective, seed=seed)
    return report


def _require_grid(points: int, radius: float) -> None:
    if points < 3 or points % 2 == 0:
        raise InputError(
            f"--points={points} leaves the trained net out of the grid; give an odd number from "
            f"3 on, for example {max(points + 1, 3)}"
        )
    if not 0 < radius < math.inf:
        raise InputError(
            f"--radius={radius} is no distance; give a number above 0, where 1 is as long as the "
            "weights"
        )


def main(argv: list[str]) -> None:
    """Measures what the flags name."""
    del argv
    terminal.set_up_logging()
    workdir = given(_WORKDIR.value)
    _require_grid(_POINTS.value, _RADIUS.value)
    report = measure(
        Trained.load(workdir),
        points=_POINTS.value,
        radius=_RADIUS.value,
        images=_IMAGES.value,
        seed=_SEED.value,
        batch_norm=_BATCH_NORM.value,
        with_plane=_PLANE.value,
        with_sharpness=_SHARPNESS.value,
    )
    path = keep(workdir, RESULT, report)
    ends = report["line"]["loss"][0], report["line"]["loss"][-1]
    print(
        f"loss {report['loss']:.3g}, error {report['error']:.2f} % of {report['examples']} "
        f"training images; loss at the line's ends {ends[0]:.3g} and {ends[1]:.3g}"
    )
    if _SHARPNESS.value:
        print(_told(report["sharpness"]))
    print(path)


def _told(found: dict[str, Any]) -> str:
    top, low = found["eigenvalues"], found["lowest"]
    values = f"{top[0]['value']:.3g} (+- {top[0]['residual']:.1g})" if top else "not found"
    least = f"{low['value']:.3g} (+- {low['residual']:.1g})" if low else "not found"
    return f"largest eigenvalue {values}, lowest {least}, by {found['products']} products"


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.")
    _POINTS = flags.DEFINE_integer("points", 25, "Along each side of the plane; odd.")
    _RADIUS = flags.DEFINE_float("radius", 1.0, "How far to go; 1 is as long as the weights.")
    _IMAGES = flags.DEFINE_integer("images", 512, "Training images, the first ones.", 1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of the directions.", 0, 2**32 - 1)
    _BATCH_NORM = flags.DEFINE_enum(
        "batch_norm",
        "running",
        list(objectives.BATCH_NORM),
        "Statistics to normalise by: the checkpoint's, or each batch's own.",
    )
    _PLANE = flags.DEFINE_bool("plane", True, "Also the plane of two directions.")
    _SHARPNESS = flags.DEFINE_bool("sharpness", True, "Also eigenvalues of the Hessian.")
    command.run(main)
