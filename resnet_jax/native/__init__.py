"""Convolution and batch norm on CPU through oneDNN and loops of our own; never needed to run.

`make native` builds the extension from the C++ files here. Where it is present, on CPU, nets are
trained with it; `RESNET_JAX_NATIVE=0` in the environment turns it off. Results differ from XLA's
in rounding, so a run's provenance says which was used (`library.describe`).

JAX is not imported here: what is set before it starts depends on whether there is an extension.
"""

import os
import pathlib

SWITCH = "RESNET_JAX_NATIVE"
FOLDER = pathlib.Path(__file__).parent
LIBRARY = FOLDER / "lib" / "resnet_jax.so"  # not where Python would take it for a module


def is_built() -> bool:
    """Whether there is an extension that is not turned off; `library.available` tries it."""
    return os.environ.get(SWITCH) != "0" and LIBRARY.exists()
