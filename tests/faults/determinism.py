"""The same seed again: in other processes, on other numbers of devices, under another clock."""

import re
import shutil
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from resnet_jax import run_folder
from resnet_jax.config import validate
from resnet_jax.data.order import TrainingOrder
from resnet_jax.train import loop
from tests.faults import commands
from tests.faults import config as short_run
from tests.faults.outcome import Outcome, Tally

EIGHT = "--xla_force_host_platform_device_count=8"
# Steps on each number of devices, fewer where few rounds are asked for: whole checkpoint intervals.
STEPS_EACH, FEW_STEPS_EACH = 20, 8
# How much a loss may move in double precision. In single precision training is chaotic: a sum in
# another order is another run after some steps.
TOLERANCE = 1e-5


def other_devices(rounds: int, folder: Path) -> Outcome:
    """Row 13."""
    tally, worst = Tally(), 0.0
    each = STEPS_EACH if rounds >= 10 else FEW_STEPS_EACH
    assert jax.device_count() >= 8, "eight CPU devices are wanted: XLA_FLAGS=" + EIGHT
    for number in range(max(1, rounds // 10)):
        with tally.case(f"seed {number}: 1, 8, then 2 devices"):
            whole, parts = folder / f"whole{number}", folder / f"parts{number}"
            whole_losses, whole_ids = _losses(whole, number, {3 * each: 1})
            # The run on one device as it stood after the first part.
            shutil.copytree(whole, parts)
            for saved in (parts / run_folder.CHECKPOINTS).glob("[0-9]*"):
                if int(saved.name) > each:
                    shutil.rmtree(saved)
            (parts / run_folder.STATUS).unlink()
            losses, ids = _losses(parts, number, {2 * each: 8, 3 * each: 2})
            assert ids == {s: whole_ids[s] for s in range(each, 3 * each)}
            assert len(losses) == len(whole_losses) == 3 * each
            assert whole_losses[-1] < whole_losses[0]
            changed = losses != whole_losses
            assert not changed[:each].any() and changed[each:].any()
            worst = max(worst, float(np.max(np.abs(losses / whole_losses - 1))))
            assert worst <= TOLERANCE, f"losses differ by {worst:.1e}"
    return tally.outcome(
        13,
        f"one run on 1, then 8, then 2 devices, {each} steps each",
        f"the same examples at every step; losses within {TOLERANCE:g} in double precision",
        note=f"losses differ by {worst:.1e} at most",
    )


def _losses(
    workdir: Path, seed: int, devices_until: dict[int, int]
) -> tuple[np.ndarray, dict[int, list[int]]]:
    """Trains up to some steps on some devices each; the loss and the examples of every step."""
    seen: dict[int, list[int]] = {}
    batches = TrainingOrder.batches

    def watched(order: TrainingOrder, step: int, steps: int) -> np.ndarray:
        found = batches(order, step, steps)
        for offset, batch in enumerate(found):
            seen[step + offset] = batch.tolist()
        return found

    config = short_run.get_config()
    config.model.dtype = "float64"
    config.train.seed = seed
    config.train.steps = config.train.eval_interval = max(devices_until)
    config.train.keep_checkpoints = max(devices_until)
    config.optimizer.milestones = ()
    config.log.progress = False
    with jax.enable_x64(True), mock.patch.object(TrainingOrder, "batches", watched):
        for last, devices in devices_until.items():
            config.parallel.devices = devices
            loop.train(
                validate(config),
                workdir,
                should_stop=lambda last=last: max(seen, default=0) == last,
            )
    found = run_folder.read_records(workdir / run_folder.METRICS)
    return np.array([r["loss"] for r in found if r["split"] == "train"]), seen


def same_seed(rounds: int, folder: Path) -> Outcome:
    """Row 14."""
    tally, times = Tally(), 3 if rounds >= 3 else 2
    for devices, flags in ((1, ""), (8, EIGHT)):
        arguments = (f"--config.parallel.devices={devices}", "--config.train.steps=50")
        for seed in range(max(1, rounds // 10)):
            prints = []
            for number in range(times):
                workdir = folder / f"{devices}-{seed}-{number}"
                # In the long version each process compiles for itself: a program taken from a cache
                # proves less.
                own = {"JAX_COMPILATION_CACHE_DIR": str(folder / f"compiled-{workdir.name}")}
                process = commands.train(
                    workdir,
                    *arguments,
                    f"--config.train.seed={seed}",
                    XLA_FLAGS=flags,
                    **(own if times == 3 else {}),
                )
                assert commands.end(process) == 0, commands.words(workdir)
                prints.append(commands.fingerprint(workdir))
            for number in range(1, times):
                with tally.case(f"{devices} device(s), seed {seed}, process {number}") as case:
                    case.identical = prints[number] == prints[0]
                    changed = [
                        name for name in prints[0] if prints[0][name] != prints[number][name]
                    ]
                    assert case.identical, f"{len(changed)} differ, first {changed[0]}"
    return tally.outcome(
        14,
        f"the same seed in {times} fresh processes, 50 steps, on 1 and on 8 CPU devices",
        "every leaf of the state, every record and the report alike, bit for bit",
        note="each process compiled for itself" if times == 3 else "",
    )


def other_clock(rounds: int, folder: Path) -> Outcome:
    """Row 16."""
    tally = Tally()
    whole = commands.fingerprint(commands.undisturbed(folder.parent))
    zones = ("Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu")
    for number in range(max(1, rounds // 10)):
        workdir = folder / f"run{number}"
        with tally.case(f"clock jumps, TZ={zones[number % 3]}") as case:
            jumps = {"step 5": "clock -3600", "step 15": "clock 86400", "step 25": "clock -86400"}
            process = commands.train(workdir, faults={"*": jumps}, TZ=zones[number % 3])
            assert commands.end(process) == 0, commands.words(workdir)
            case.identical = commands.fingerprint(workdir) == whole
            assert commands.records(workdir) == commands.every_record()
            speeds = [float(s) for s in re.findall(r"(\S+) img/s", commands.words(workdir))]
            assert len(speeds) == short_run.STEPS
            assert min(speeds) > 0, f"a speed of {min(speeds)} img/s was told"
            assert commands.status(workdir)["images_per_second"] > 0
            saved = sorted(int(p.name) for p in (workdir / run_folder.CHECKPOINTS).glob("[0-9]*"))
            expected = commands.undisturbed(folder.parent) / run_folder.CHECKPOINTS
            assert saved == sorted(int(p.name) for p in expected.glob("[0-9]*"))
    return tally.outcome(
        16,
        "the clock jumps by -1 h, +1 day and -1 day during a run, in another time zone",
        "same result, no speed below 0, the same checkpoints kept",
        note="jumps of the clock as Python tells it",
    )
