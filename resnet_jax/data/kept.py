"""Arrays that take long to make, kept in a file with a checksum."""

import hashlib
import logging
import pathlib

import numpy as np

from resnet_jax.errors import first_line
from resnet_jax.files import replacing

LOG = logging.getLogger(__name__)

CHECKSUM = "sha256"  # its name among the arrays

Arrays = dict[str, np.ndarray]


def read(path: pathlib.Path, again: str) -> Arrays | None:
    """What `keep` wrote; None if it is not there, or damaged, which is told.

    Args:
        path: of the file.
        again: what is done about damage, for the message.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files if name != CHECKSUM}
            # The checksums of a zip file are passed over where less is read than was written.
            if str(stored[CHECKSUM]) == _checksum(arrays):
                return arrays
        LOG.warning("%s has changed since it was written; %s", path, again)
    # NumPy, zipfile and zlib raise many kinds, not all of them OSError or ValueError.
    except Exception as error:
        LOG.warning("%s is damaged (%s); %s", path, first_line(error), again)
    return None


def keep(path: pathlib.Path, arrays: Arrays) -> None:
    """Writes arrays for `read`; where that is not possible, they are made again another time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, **{CHECKSUM: np.array(_checksum(arrays))}, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        LOG.info("%s is not kept: %s", path.name, error)


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
