"""Finds, checks and loads the built extension, once, at its first use."""

import contextlib
import contextvars
import ctypes
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from resnet_jax.native import LIBRARY, SWITCH, build_stamp

# XLA's name for each entry of the library.
HANDLERS = {
    f"resnet_jax_{name}": name
    for name in (
        "convolution_forward",
        "convolution_backward_data",
        "convolution_backward_weights",
        "batch_norm_forward",
        "batch_norm_backward",
    )
}

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Status:
    """What became of loading the extension.

    Attributes:
        onednn: its version, or None if the extension cannot be used.
        bfloat16: whether this processor convolves it.
        reason: why it cannot be used, or empty.
    """

    onednn: str | None
    bfloat16: bool
    reason: str


_left_out = contextvars.ContextVar("left_out", default=False)


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """What is traced inside is XLA's alone, whose operations can be read from a program."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def being_read() -> bool:
    """Whether this is traced to be read (`left_out`), and not to be run."""
    return _left_out.get()


def available() -> bool:
    """Whether the extension is present, of this jaxlib, and not turned off."""
    turned_off = being_read() or os.environ.get(SWITCH) == "0"
    return not turned_off and _load().onednn is not None


def suits(*arrays: jax.Array) -> bool:
    """Whether these arrays can go through the extension: on CPU, all float32 or all bfloat16."""
    kinds = {array.dtype for array in arrays}
    if kinds not in ({jnp.dtype(jnp.float32)}, {jnp.dtype(jnp.bfloat16)}):
        return False
    if jax.default_backend() != "cpu" or not available():
        return False
    return kinds == {jnp.dtype(jnp.float32)} or _load().bfloat16


def describe() -> dict[str, str | bool]:
    """For a run's provenance: whether the extension is used on CPU, and which oneDNN or why not."""
    if jax.default_backend() != "cpu":
        return {"used": False, "reason": "not on CPU"}
    if os.environ.get(SWITCH) == "0":
        return {"used": False, "reason": f"{SWITCH}=0"}
    status = _load()
    if status.onednn is None:
        return {"used": False, "reason": status.reason}
    return {"used": True, "onednn": status.onednn}


@functools.cache
def _load() -> Status:
    if not LIBRARY.exists():
        return Status(None, False, "not built (make native)")
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.native_build.restype = ctypes.c_char_p
        stamp = library.native_build().decode()
        if stamp != build_stamp():
            raise OSError(f"built for {stamp}; this is {build_stamp()}")
        for target, symbol in HANDLERS.items():
            handler = jax.ffi.pycapsule(getattr(library, symbol))
            # XLA asks the handler for the interface it was built for, and may refuse it.
            jax.ffi.register_ffi_target(target, handler, platform="cpu")
    except Exception as error:  # a missing symbol, a damaged file, an interface XLA refuses
        log.warning("going on without %s: %s; make native builds it anew", LIBRARY.name, error)
        return Status(None, False, str(error))
    version = [ctypes.c_int() for _ in range(3)]
    library.native_onednn_version(*map(ctypes.byref, version))
    library.native_supports_bfloat16.restype = ctypes.c_bool
    numbers = ".".join(str(part.value) for part in version)
    return Status(numbers, library.native_supports_bfloat16(), "")
