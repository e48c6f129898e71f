"""What the device can do at most, as it is measured and not as it is sold.

    python -m benchmarks.ceilings [--precision=bfloat16]

Products of large square matrices in the precision of the activations give operations a second; an
array that is read and written again, larger than any cache, gives bytes a second. The best of
several turns, for it is a ceiling, and on CPU the best of JAX and NumPy, whose library of linear
algebra is the faster one in float32. A net may still pass it: operations are counted as in the
definition of a convolution, and some algorithms need fewer. `benchmarks.compare` holds training
steps against both; it asks this module as a process, for one that has started JAX keeps a GPU's
memory.
"""

import json
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from benchmarks import worker
from resnet_jax.config import ModelConfig, RunConfig

_DEPTHS = flags.DEFINE_list("depths", [], "Nets whose multiply-adds are wanted too.")
_PRECISION = flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Of matrices.")

# Side of the matrices, and bytes of the array that is copied.
ON_CPU = (2048, 2**28)
ON_ACCELERATOR = (8192, 2**31)
TURNS = 7
REPEATED = 4


def measure(precision: str) -> dict[str, float]:
    """Operations and bytes a second of JAX's first device, on all that this process may use.

    Args:
        precision: 'float32' or 'bfloat16'.
    """
    import jax
    import jax.numpy as jnp

    on_cpu = jax.default_backend() == "cpu"
    side, size = ON_CPU if on_cpu else ON_ACCELERATOR
    a = jax.random.normal(jax.random.key(0), (side, side)).astype(precision)
    product = jax.jit(lambda a: a @ a)
    seconds = _seconds(lambda: product(a), jax.block_until_ready)
    if on_cpu and precision == "float32":
        b = np.asarray(a)
        seconds = min(seconds, _seconds(lambda: b @ b, lambda _: None))
    values = jnp.ones(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)

    def copied() -> None:
        nonlocal values
        values = copy(values)

    return {
        "operations_per_second": 2 * side**3 / seconds,
        "bytes_per_second": 2 * size / _seconds(copied, lambda _: jax.block_until_ready(values)),
    }


def _seconds(run: Callable[[], object], wait: Callable[[object], object]) -> float:
    """Of one run, the best of several turns."""
    wait(run())
    best = float("inf")
    for _ in range(TURNS):
        start = time.perf_counter()
        for _ in range(REPEATED):
            result = run()
        wait(result)
        best = min(best, (time.perf_counter() - start) / REPEATED)
    return best


def multiply_adds(depth: int) -> int:
    """Of one image's forward pass through a ResNet for CIFAR."""
    from resnet_jax.models import complexity, registry

    net = registry.functional(registry.build(ModelConfig(depth=depth), channels=3, num_classes=10))
    return complexity.multiply_adds(net.apply, net.params, net.stats, (1, 32, 32, 3))


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    worker.prepare(RunConfig())
    counts = {depth: multiply_adds(int(depth)) for depth in _DEPTHS.value}
    print(json.dumps({**measure(_PRECISION.value), "multiply_adds": counts}))


if __name__ == "__main__":
    app.run(main)
