"""Whole training steps side by side with PyTorch's, on the same images, in alternation.

    python -m benchmarks.compare [--depths=20,56,110] [--precision=bfloat16] [--rounds=9]

On a machine that others use too, where threads wait for each other's lost time slices, compare one
core's own time: taskset -c 0 python -m benchmarks.compare --clock=cpu

Each contender is a process of its own, with its own threads and a run's environment, PyTorch with
the same memory settings (`resnet_jax/environment.py`); they take turns of some steps, so that a
machine whose speed drifts slows all alike. A step is forward, backward and SGD with momentum and
weight decay, for the same net of He et al. 2015; ours includes the metrics and the guard against
divergence that a run has. Warm-up and compilation come before.

Contenders: ours with the CPU extension, `xla` without it, PyTorch eager (channels_last; in bfloat16
under autocast) and, if asked for, `compile`, PyTorch through torch.compile. Gives medians of
images/s, of each round's ratio to eager PyTorch, and the share that a net's multiply-adds, forward
and twice backward, have of what the device was measured to do at most (`benchmarks.ceilings`); of
ours on GPUs also that of the bytes that the compiled program says it moves. Writes
compare_DEVICE_PRECISION.json and .md to --out.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import record, worker
from resnet_jax import native
from resnet_jax.config import ModelConfig, OptimizerConfig, ParallelConfig, validate

_DEPTHS = flags.DEFINE_list("depths", ["20", "56", "110"], "Nets, each of depth 6n + 2.")
_PRECISION = flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Activations.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Turns of each contender.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 3, "Steps in each turn.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images in each step.", lower_bound=1)
_CONTENDERS = flags.DEFINE_multi_enum(
    "contender", ["ours", "xla"], ["ours", "xla", "compile"], "Beside eager PyTorch; repeatable."
)
_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "What computes; one GPU.")
_CLOCK = flags.DEFINE_enum(
    "clock", "wall", ["wall", "cpu"], "'cpu' counts the process's own time, on a busy machine."
)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")
_WORKER = flags.DEFINE_string("worker", None, "Internal: which contender this process is.")

NAMES = {
    "ours": "ours",
    "xla": "ours, by XLA alone",
    "eager": "PyTorch eager",
    "compile": "PyTorch, torch.compile",
}
FIGURES = (
    *("images_per_second", "lowest", "highest", "ratio_to_eager"),
    *("share_of_operations", "share_of_bytes"),
)
# A multiplication and an addition, in the forward pass and twice in the backward pass.
OPERATIONS = 2 * 3
RECIPE: dict[str, Any] = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu"}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [batch, 32, 32, 3] and labels, the same for all."""
    random = np.random.RandomState(0)
    images = random.normal(size=(size, 32, 32, 3)).astype(np.float32)
    return images, random.randint(0, 10, size)


def our_step(depth: int, precision: str, size: int) -> tuple[Callable[[int], None], Any]:
    """A function that makes so many of this project's steps, and the bytes that each moves.

    These are the compiled program's own count, which the CPU extension's calls are not part of:
    None on CPU.
    """
    import jax
    import jax.numpy as jnp

    from resnet_jax.models import registry
    from resnet_jax.parallel import AXIS, DeviceMap
    from resnet_jax.train import optimizer, step
    from resnet_jax.train.state import TrainState

    config = ModelConfig(depth=depth, dtype=precision)
    net = registry.functional(registry.build(config, channels=3, num_classes=10, axis_name=AXIS))
    tx = optimizer.build(OptimizerConfig(schedule="constant", **RECIPE), steps=1)
    state = TrainState.create(net.params, net.stats, tx.init(net.params))
    images, labels = map(jnp.asarray, batch(size))

    def one_step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState]:
        return (step.train_step(state, images, labels, apply=net.apply, tx=tx),)

    program = DeviceMap(ParallelConfig(devices=1)).compile(
        one_step, inputs=(None, 0, 0), outputs=(None,), donate=(0,)
    )

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            (state,) = program(state, images, labels)
        jax.block_until_ready(state)

    moved = None
    if _DEVICE.value != "cpu":
        costs = program.lower(state, images, labels).compile().cost_analysis()  # type: ignore[attr-defined]
        moved = costs.get("bytes accessed")
    return steps, moved


def torch_step(depth: int, precision: str, size: int, compiled: bool) -> Callable[[int], None]:
    """The same for PyTorch, with the short net that our tests too compare with."""
    import torch

    # By name, for tests have no types to check.
    torch_reference = importlib.import_module("tests.torch_reference")
    net = torch_reference.initialise(torch_reference.CifarNet(depth), seed=0)
    device = {"cpu": "cpu", "gpu": "cuda"}[_DEVICE.value]
    net = net.to(device, memory_format=torch.channels_last).train()
    rest = dict(RECIPE)
    optimizer = torch.optim.SGD(net.parameters(), lr=rest.pop("learning_rate"), **rest)
    forward = torch.compile(net) if compiled else net
    images, labels = batch(size)
    # A view of [batch, height, width, channels] memory: channels_last already.
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels).to(device)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(forward(x), y)
            loss.backward()
            optimizer.step()
        loss.item()  # GPUs compute in the background

    return steps


def work(name: str, depth: int) -> None:
    """Tells what it computes with; then answers each line of input with the seconds of a turn."""
    size, precision = _BATCH.value, _PRECISION.value
    worker.prepare(validate({"model": {"depth": depth, "dtype": precision}}))
    about = {}
    if name == "ours":
        from resnet_jax.native import library

        about = library.describe()
    print(json.dumps(about), flush=True)
    moved = None
    if name in ("eager", "compile"):
        steps = torch_step(depth, precision, size, compiled=name == "compile")
    else:
        steps, moved = our_step(depth, precision, size)
    clock = CLOCKS[_CLOCK.value]
    steps(2)
    print(json.dumps(moved), flush=True)  # it is warm
    for _ in sys.stdin:
        start = clock()
        steps(_STEPS.value)
        print(clock() - start, flush=True)


class Contender:
    """One process; it computes only during its turns."""

    def __init__(self, name: str, depth: int):
        variables = {
            **os.environ,
            "JAX_PLATFORMS": PLATFORMS[_DEVICE.value],
        }
        if name == "xla":
            variables[native.SWITCH] = "0"
        own = [
            f"--{flag.name}={flag.value}" for flag in (_PRECISION, _STEPS, _BATCH, _CLOCK, _DEVICE)
        ]
        self.name = name
        self.rates: list[float] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compare", f"--worker={name}", f"--depths={depth}"]
            + own,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = json.loads(self._answer())
        if name == "ours" and _DEVICE.value == "cpu" and not self.about["used"]:
            self._process.kill()
            raise SystemExit(
                f"error: the CPU extension is not used: {self.about['reason']}; "
                "make native, or compare --contender=xla"
            )
        self.bytes_per_step = json.loads(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.name} ended with code {self._process.wait()}")
        return line

    def turn(self) -> None:
        """Measures some steps."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.rates.append(_STEPS.value * _BATCH.value / float(self._answer()))

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(depth: int, ceilings: dict[str, Any]) -> dict[str, Any]:
    """All contenders on one net; `ceilings` as `benchmarks.ceilings` prints them."""
    contenders = [Contender(name, depth) for name in ["eager", *_CONTENDERS.value]]
    for _ in range(_ROUNDS.value):
        for contender in contenders:
            contender.turn()
    for contender in contenders:
        contender.end()
    eager = contenders[0].rates
    operations = OPERATIONS * ceilings["multiply_adds"][str(depth)]

    def of_bytes(contender: Contender) -> float | None:
        if contender.bytes_per_step is None:
            return None
        steps_per_second = statistics.median(contender.rates) / _BATCH.value
        return float(contender.bytes_per_step * steps_per_second / ceilings["bytes_per_second"])

    return {
        "depth": depth,
        "onednn": next((c.about["onednn"] for c in contenders if "onednn" in c.about), None),
        "contenders": {
            c.name: {
                "images_per_second": statistics.median(c.rates),
                "lowest": min(c.rates),
                "highest": max(c.rates),
                "ratio_to_eager": statistics.median(
                    a / b for a, b in zip(c.rates, eager, strict=True)
                ),
                "share_of_operations": statistics.median(c.rates)
                * operations
                / ceilings["operations_per_second"],
                "share_of_bytes": of_bytes(c),
            }
            for c in contenders
        },
    }


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    depths = [int(depth) for depth in _DEPTHS.value]
    if _WORKER.value:
        return work(_WORKER.value, depths[0])
    asked = worker.output(
        "benchmarks.ceilings",
        f"--precision={_PRECISION.value}",
        f"--depths={','.join(_DEPTHS.value)}",
        variables={"JAX_PLATFORMS": PLATFORMS[_DEVICE.value]},
    )
    ceilings = json.loads(asked.splitlines()[-1])
    nets = [measure(depth, ceilings) for depth in depths]
    report = {
        **record.about("flax", "torch"),
        "device": _DEVICE.value,
        "precision": _PRECISION.value,
        "batch_size": _BATCH.value,
        "rounds": _ROUNDS.value,
        "steps": _STEPS.value,
        "clock": _CLOCK.value,
        "ceilings": ceilings,
        "nets": nets,
    }
    if nets[0]["onednn"]:
        report["versions"]["oneDNN"] = nets[0]["onednn"]
    table = record.markdown(
        f"Training steps on {_DEVICE.value}, {_PRECISION.value}, batch {_BATCH.value}, "
        f"{_CLOCK.value} clock, medians of {_ROUNDS.value} rounds of {_STEPS.value} steps.",
        report,
        {"net": "s", "contender": "s", "images/s": ".0f", "lowest": ".0f", "highest": ".0f"}
        | {"over PyTorch eager": ".2f", "of the device's operations/s": ".0%"}
        | {"of its bytes/s": ".0%"},
        [
            (f"ResNet-{net['depth']}", NAMES[name], *(row[key] for key in FIGURES))
            for net in nets
            for name, row in net["contenders"].items()
        ],
    )
    record.write(_OUT.value, f"compare_{_DEVICE.value}_{_PRECISION.value}", report, table)


if __name__ == "__main__":
    app.run(main)
