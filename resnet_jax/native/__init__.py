"""Convolution and batch norm on CPU through oneDNN and loops of our own; never needed to run.

`make native` builds the extension from the C++ files here. Where it is present, on CPU, nets are
trained with it; `RESNET_JAX_NATIVE=0` in the environment turns it off. Results differ from XLA's
in rounding, so a run's provenance says which was used (`library.describe`).

JAX is not imported here: what is set before it starts depends on whether there is an extension.
"""

import hashlib
import importlib.metadata
import os
import pathlib

SWITCH = "RESNET_JAX_NATIVE"
FOLDER = pathlib.Path(__file__).parent
LIBRARY = FOLDER / "lib" / "resnet_jax.so"  # not where Python would take it for a module


def build_stamp() -> str:
    """What a built library must have come from to be used here: this jaxlib, these sources."""
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.cc"), *FOLDER.glob("*.h")]):
        digest.update(path.read_bytes())
    jaxlib = importlib.metadata.version("jaxlib")
    return f"jaxlib {jaxlib}, sources {digest.hexdigest()[:16]}"


def is_current() -> bool:
    """Whether there is an extension, and of the right stamp."""
    return LIBRARY.exists() and build_stamp().encode() in LIBRARY.read_bytes()


def is_wanted() -> bool:
    """Whether there is an extension that is not turned off; `library.available` tries it."""
    return os.environ.get(SWITCH) != "0" and is_current()
