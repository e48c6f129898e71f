"""Numbers that stop being numbers, and nets that learn nothing: results, not failures."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax import run_folder
from resnet_jax.config import RunConfig, validate
from resnet_jax.train import loop, step
from tests.faults import commands
from tests.faults import config as short_run
from tests.faults.outcome import Outcome, Tally

WHERE = ("loss", "gradient", "pixel", "variance")
VALUES = (math.nan, math.inf)
STEPS = 12
AT = (1, 7, STEPS // 2, STEPS)
# A log line comes after some steps more, and checkpoints in between: what is saved there must be
# finite although the run has not yet noticed.
LOG_INTERVAL = 4
LOSS = "softmax_cross_entropy_with_integer_labels"


def injected(rounds: int, folder: Path) -> Outcome:
    """Row 3."""
    tally = Tally()
    # Every place and value before any of them at another step.
    cases = itertools.product(AT, VALUES, WHERE)
    if rounds < len(VALUES) * len(WHERE):
        cases = zip(AT, VALUES * 2, WHERE, strict=True)
    for at, value, where in itertools.islice(cases, rounds):
        with tally.case(f"{value} in the {where} of step {at}") as case:
            workdir = folder / f"{where}-{value}-{at}"
            with poisoned(where, value, at):
                status = loop.train(_config(), workdir)
            assert status["state"] == run_folder.DIVERGED, status["state"]
            assert status["step"] == at, f"step {status['step']} was told"
            assert f"step {at}" in status["reason"]
            case.lost = _nonfinite_leaves(workdir)
            assert case.lost == 0, f"{case.lost} leaves on disk are not finite"
            _check_record(workdir, where, at)
    return tally.outcome(
        3,
        "NaN or Inf in the loss, a gradient, a pixel or a batch variance",
        "`diverged` at exactly that step; nothing that is not finite is saved; null in the log",
        note="lost counts leaves of parameters, statistics and momentum on disk that are not "
        "finite",
    )


def _config() -> RunConfig:
    config = short_run.get_config()
    config.train.steps, config.train.checkpoint_interval = STEPS, 2
    config.train.eval_interval = STEPS
    config.log.interval = LOG_INTERVAL
    config.log.progress = False
    return validate(config)


@contextlib.contextmanager
def poisoned(where: str, value: float, at: int) -> Iterator[None]:
    """Lets one step of every run meet a value that is no number.

    Args:
        where: one of `WHERE`.
        value: NaN or Inf.
        at: the step, counted from 1.
    """
    original, loss_of = step.train_step, getattr(optax, LOSS)

    def train_step(state, images, labels, *, apply, **more):  # noqa: ANN001, ANN202
        poison = jnp.where(state.step + 1 == at, jnp.float32(value), jnp.float32(0))
        if where == "pixel":
            images = images.at[0, 0, 0, 0].add(poison)

        def net(params, stats, x, train, **how):  # noqa: ANN001, ANN202
            if where == "gradient":
                params = jax.tree.map(lambda leaf: _with_gradient(leaf, poison), params)
            logits, new = apply(params, stats, x, train, **how)
            if where == "variance":
                norm = {**new["stem_norm"], "variance": new["stem_norm"]["variance"] + poison}
                new = {**new, "stem_norm": norm}
            return logits, new

        def loss(logits, labels):  # noqa: ANN001, ANN202
            losses = loss_of(logits, labels)
            return losses + poison if where == "loss" else losses

        with mock.patch.object(optax, LOSS, loss):
            return original(state, images, labels, apply=net, **more)

    with mock.patch.object(step, "train_step", train_step):
        yield


@jax.custom_vjp
def _with_gradient(leaf: jax.Array, poison: jax.Array) -> jax.Array:
    """The same leaf; what comes back to it is poisoned."""
    return leaf


_with_gradient.defvjp(
    lambda leaf, poison: (leaf, poison),
    lambda poison, gradient: (gradient + poison, jnp.zeros_like(poison)),
)


def _nonfinite_leaves(workdir: Path) -> int:
    """Over all checkpoints on disk; the window of the log may say what happened."""
    folder = workdir / run_folder.CHECKPOINTS
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    return sum(
        not np.isfinite(leaf).all()
        for saved in steps
        for name, leaf in commands.leaves(workdir, saved).items()
        if not name.startswith(".window")
    )


def _check_record(workdir: Path, where: str, at: int) -> None:
    logged_at = -(-at // LOG_INTERVAL) * LOG_INTERVAL
    found = run_folder.read_records(workdir / run_folder.METRICS)
    (record,) = [r for r in found if (r["step"], r["split"]) == (logged_at, "train")]
    # A loss that is spoilt after the net leaves the gradient finite. NaN in a pixel may be cut off
    # by a ReLU on its way to the loss, and still meet the gradient on its way back.
    quantity = {"loss": "loss", "gradient": "gradient_norm", "pixel": "gradient_norm"}.get(where)
    if quantity:
        assert record[quantity] is None, f"{quantity} is logged as {record[quantity]}"
        assert record["nonfinite"] is True


def chance_level(rounds: int, folder: Path) -> Outcome:
    """Row 4."""
    tally = Tally()
    stuck = ("--config.optimizer.learning_rate=0", "--families=plain", "--retries=3")
    seeds = max(1, rounds // 10)
    arguments = (*stuck, f"--seeds={','.join(map(str, range(seeds)))}")
    workdir = folder / "sweep"
    # The second time there is nothing left to do.
    for what in ("the sweep", "the same sweep again")[: 1 if rounds < 10 else 2]:
        code = commands.end(commands.sweep(workdir, *arguments))
        for seed in range(seeds):
            with tally.case(f"{what}, seed {seed}") as case:
                assert code == 0, f"exit code {code}"
                run = workdir / f"plain-8-seed{seed}"
                status = commands.status(run)
                case.lost = int(status["state"] != run_folder.COMPLETED)
                assert status["state"] == run_folder.COMPLETED, status["state"]
                assert status["verdict"] == "not_converged", status["verdict"]
                assert commands.attempts(run) == 1, f"{commands.attempts(run)} attempts"
                assert (run / run_folder.EVALUATION).is_file()
    return tally.outcome(
        4,
        "a net that stays at chance level (learning rate 0)",
        "completed with the verdict `not_converged`: never failed, never tried again",
        note="in a sweep that would try failed runs three times more",
    )
