"""Everything that is set before JAX starts: it and the C library read their settings only once.

    variable                    value                                    when
    JAX_COMPILATION_CACHE_DIR   ~/.cache/resnet_jax/compiled-HOST        always
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS
                                0, for small programs too                always
    GLIBC_TUNABLES              keep freed memory, in huge pages         Linux, on CPU
    XLA_FLAGS                   --xla_disable_hlo_passes=fusion          on CPU, from depth 44,
                                                                         without the CPU extension
    XLA_FLAGS                   --xla_gpu_deterministic_ops=true         train.deterministic

What the user has set is left alone, but for the last one, which is appended: it was asked for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from resnet_jax import files, native

if TYPE_CHECKING:  # importing it takes longer than what precedes `keep_memory` should
    from resnet_jax.config import RunConfig

LOG = logging.getLogger(__name__)

# XLA:CPU fuses the chain of residual additions into each weight gradient, so that its cost grows
# with the square of the depth; without fusion depth 56 runs twice as fast, 20 a tenth slower. The
# calls of the CPU extension stop the chain by themselves.
FUSION_HURTS_FROM = 44
NO_FUSION = "--xla_disable_hlo_passes=fusion"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

# XLA:CPU asks for its scratch memory anew at each step, and the kernel's filling it with pages of
# 4 KiB costs as much as the arithmetic: huge pages, and no memory given back between steps. One
# arena, for those of other threads end at 64 MB, and what is larger (a deep net's scratch memory)
# is mapped and unmapped at each step whatever the thresholds say. glibc passes over what it does
# not know, other allocators over all of it.
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "arena_max": 1,
        "mmap_threshold": 2**34,
        "trim_threshold": 2**34,
        "top_pad": 2**28,
    }.items()
)

CACHE = "JAX_COMPILATION_CACHE_DIR"
# JAX would keep only what took a second. Drawing weights and the check before training are dozens
# of small programs, which together take longer to compile than a net's step.
SMALLEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# What a run's numbers and speed may depend on.
NUMERICS = ("GLIBC_TUNABLES", "XLA_FLAGS")


def of_run(config: RunConfig, *, on_cpu: bool) -> dict[str, str]:
    """The variables that a run's process is to have, where the user has not set others."""
    # Runs that differ in the seed alone share one program. Compiled code fits one kind of machine.
    cache = files.cache() / f"compiled-{socket.gethostname()}"
    wanted = {CACHE: str(cache), SMALLEST: "0"}
    if on_cpu:
        wanted["GLIBC_TUNABLES"] = KEEP_MEMORY
    if on_cpu and config.model.depth >= FUSION_HURTS_FROM and not _by_extension(config):
        wanted["XLA_FLAGS"] = NO_FUSION
    wanted = {name: value for name, value in wanted.items() if name not in os.environ}
    flags = os.environ.get("XLA_FLAGS", wanted.get("XLA_FLAGS", ""))
    if config.train.deterministic and DETERMINISTIC.split("=")[0] not in flags:
        wanted["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}".strip()
    return wanted


def _by_extension(config: RunConfig) -> bool:
    return config.model.dtype != "float64" and native.is_wanted()


def prepare(config: RunConfig) -> None:
    """Sets a run's variables in this process, and tells which; in vain once JAX has started."""
    if "jax" in sys.modules:
        return
    wanted = of_run(config, on_cpu=has_only_cpus())
    # The C library has read its own already; see `keep_memory`.
    wanted.pop("GLIBC_TUNABLES", None)
    os.environ |= wanted
    for name in (CACHE, SMALLEST, *NUMERICS):
        if name in os.environ:
            LOG.info("%s=%s", name, os.environ[name])


def keep_memory() -> None:
    """Replaces this process by itself with `KEEP_MEMORY` set, once; before any work is done."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and has_only_cpus():
        os.environ["GLIBC_TUNABLES"] = KEEP_MEMORY
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def has_only_cpus() -> bool:
    """Whether JAX will run on CPU, as far as that can be told without starting it."""
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen:
        return chosen.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
