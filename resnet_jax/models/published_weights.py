"""Weights that torchvision publishes, by name: where they are, and which net they are of.

Their figures are torchvision's own, of one centre crop of 224 pixels of ImageNet's validation
images (resized to 224 / 0.875, or as its presets say for V2 and for Swin Transformers).
"""

import difflib
import hashlib
import logging
import pathlib
from typing import Any, NamedTuple

import requests

from resnet_jax import files
from resnet_jax.config.torchvision import NETS
from resnet_jax.errors import InputError, first_line
from resnet_jax.files import replacing

LOG = logging.getLogger(__name__)

SERVER = "https://download.pytorch.org/models"
CHUNK = 2**20  # bytes that are read at once
TIMEOUT = 30  # seconds without an answer


class Published(NamedTuple):
    """One file.

    Attributes:
        url: of the file.
        sha256: the first eight digits of its checksum, which its name ends in.
        top1: accuracy on ImageNet's validation images, percent.
        model: the fields of `config.model` that make the net.
    """

    url: str
    sha256: str
    top1: float
    model: dict[str, Any]

    @property
    def file_name(self) -> str:
        """As it is published."""
        return self.url.rsplit("/", 1)[1]


# torchvision 0.28's table of weights: our name of the net and theirs, recipe of training, checksum,
# top-1 accuracy.
ROWS = (
    ("resnet18", "resnet18", "V1", "f37072fd", 69.758),
    ("resnet34", "resnet34", "V1", "b627a593", 73.314),
    ("resnet50", "resnet50", "V1", "0676ba61", 76.130),
    ("resnet50", "resnet50", "V2", "11ad3fa6", 80.858),
    ("resnet101", "resnet101", "V1", "63fe2227", 77.374),
    ("resnet101", "resnet101", "V2", "cd907fc2", 81.886),
    ("resnet152", "resnet152", "V1", "394f9c45", 78.312),
    ("resnet152", "resnet152", "V2", "f82ba261", 82.284),
    ("vgg16", "vgg16", "V1", "397923af", 71.592),
    ("vgg16_bn", "vgg16_bn", "V1", "6c64b313", 73.360),
    ("vgg19", "vgg19", "V1", "dcbb9e9d", 72.376),
    ("vgg19_bn", "vgg19_bn", "V1", "c79401a0", 74.218),
    ("mobilenet_v3_large", "mobilenet_v3_large", "V1", "8738ca79", 74.042),
    ("mobilenet_v3_large", "mobilenet_v3_large", "V2", "5c1a4163", 75.274),
    ("mobilenet_v3_small", "mobilenet_v3_small", "V1", "047dcff4", 67.668),
    ("swin_tiny", "swin_t", "V1", "704ceda3", 81.474),
    ("swin_small", "swin_s", "V1", "5e29d889", 83.196),
    ("swin_base", "swin_b", "V1", "68c6b09e", 83.582),
)
PUBLISHED = {
    f"torchvision/{name}.IMAGENET1K_{recipe}": Published(
        f"{SERVER}/{name}-{checksum}.pth", checksum, top1, NETS[net]
    )
    for net, name, recipe, checksum, top1 in ROWS
}


def locate(weights: str) -> pathlib.Path:
    """The file of some weights, fetched if it is a published one that is not at hand.

    Args:
        weights: a path, or a name of `PUBLISHED`, whose files lie in ~/.cache/resnet_jax/weights.

    Raises:
        InputError: if there is neither such a file nor such a name, or it cannot be fetched, or is
            not what was published; the line says what to put where.
    """
    path = pathlib.Path(weights).expanduser()
    if path.exists():
        return path
    if weights not in PUBLISHED:
        near = difflib.get_close_matches(weights, PUBLISHED, n=3)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else f"for example {next(iter(PUBLISHED))}"
        )
        raise InputError(
            f"config.model.weights={weights!r} does not exist, and is no published name; {hint}"
        )
    published = PUBLISHED[weights]
    path = files.cache() / "weights" / published.file_name
    if not path.exists():
        _fetch(weights, published, path)
    elif _checksum(path) != published.sha256:
        raise InputError(f"{path} is damaged; remove it; {_by_hand(published, path)}")
    return path


def _fetch(name: str, published: Published, path: pathlib.Path) -> None:
    LOG.info("fetching %s to %s", published.url, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            requests.get(published.url, stream=True, timeout=TIMEOUT) as answer,
            replacing(path) as file,
        ):
            answer.raise_for_status()
            found = hashlib.sha256()
            for chunk in answer.iter_content(CHUNK):
                found.update(chunk)
                file.write(chunk)
            if not found.hexdigest().startswith(published.sha256):
                raise InputError(
                    f"{name} came with the checksum {found.hexdigest()[:8]}, so it is damaged or "
                    f"another file, and was not kept; {_by_hand(published, path)}"
                )
    except OSError as error:  # of the network (requests' are such), of the disk
        raise InputError(
            f"{name} cannot be fetched ({first_line(error)}); {_by_hand(published, path)}"
        ) from error


def _by_hand(published: Published, path: pathlib.Path) -> str:
    return (
        f"fetch {published.url} by other means and put it at {path}; its SHA-256 has to start with "
        f"{published.sha256}"
    )


def _checksum(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
