"""Forward passes of published nets: ours, and the same with XLA's grouped convolutions.

    python -m benchmarks.backbones [--size=224] [--batch=32] [--rounds=5]

Both are compiled before anything is timed, and take turns: a round runs each net once in both ways.
On CPU depthwise convolutions are sums of shifted maps (`models/layers.py`); where they are not,
both ways are one.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks import record
from configs import transfer
from resnet_jax.config import validate
from resnet_jax.models import registry
from resnet_jax.native import library

_BACKBONES = flags.DEFINE_list(
    "backbones", ["resnet50", "mobilenet_v3_large", "swin_tiny"], "As in configs/transfer.py."
)
_SIZE = flags.DEFINE_integer("size", 224, "Of the images, in pixels.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 32, "Images in a call.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Calls of each.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/benchmarks", "Folder for the results.")


def programs(name: str, images: jax.Array) -> list[Any]:
    """A net's compiled forward pass on these images: as it is run, and with XLA's layers alone."""
    config = validate(transfer.get_config(name)).model
    net = registry.functional(registry.build(config, channels=3, num_classes=1000))

    def forward(images: jax.Array) -> jax.Array:
        return net.apply(net.params, net.stats, images, False)[0]

    usual = jax.jit(forward).lower(images).compile()
    with library.left_out():
        plain = jax.jit(lambda images: forward(images)).lower(images).compile()
    return [usual, plain]


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    shape = (_BATCH.value, _SIZE.value, _SIZE.value, 3)
    images = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    rows: list[dict[str, Any]] = []
    for name in _BACKBONES.value:
        ways = programs(name, images)
        seconds: list[list[float]] = [[], []]
        for _ in range(1 + _ROUNDS.value):
            for program, times in zip(ways, seconds, strict=True):
                begun = time.perf_counter()
                jax.block_until_ready(program(images))
                times.append(time.perf_counter() - begun)
        ours, plain = (times[1:] for times in seconds)  # the first calls fill caches
        rows.append({"net": name, "ours": ours, "xla": plain})
    table_rows = []
    for row in rows:
        ours, plain = (1e3 * statistics.median(row[way]) / _BATCH.value for way in ("ours", "xla"))
        table_rows.append([row["net"], ours, plain, plain / ours])
    report = {**record.about("flax"), "size": _SIZE.value, "batch": _BATCH.value, "nets": rows}
    table = record.markdown(
        f"Forward passes of {_BATCH.value} images of {_SIZE.value} pixels in float32, median of "
        f"{_ROUNDS.value}.",
        report,
        {"net": "s", "ours, ms an image": ".2f", "XLA's layers alone": ".2f", "ratio": ".1f"},
        table_rows,
    )
    record.write(_OUT.value, f"backbones_{_SIZE.value}", report, table)


if __name__ == "__main__":
    app.run(main)
