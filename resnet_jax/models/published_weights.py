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


def _published(file: str, top1: float, **model: Any) -> Published:
    return Published(f"{SERVER}/{file}.pth", file.rsplit("-", 1)[1], top1, model)


def _resnet(file: str, top1: float, depth: int) -> Published:
    # Stride lies in the 3x3 convolutions of bottlenecks; basic blocks have no choice.
    block, stride = ("basic", "1x1") if depth < 50 else ("bottleneck", "3x3")
    return _published(
        *(file, top1),
        family="imagenet_resnet",
        depth=depth,
        block=block,
        shortcut="B",
        bottleneck_stride=stride,
    )


def _vgg(file: str, top1: float, depth: int, batch_norm: str) -> Published:
    return _published(file, top1, family="vgg", depth=depth, residual=False, batch_norm=batch_norm)


def _mobilenet_v3(file: str, top1: float, variant: str) -> Published:
    return _published(file, top1, family="mobilenet_v3", variant=variant, batch_norm_epsilon=1e-3)


def _swin(file: str, top1: float, variant: str) -> Published:
    return _published(file, top1, family="swin", variant=variant, batch_norm="none")


# torchvision 0.28's table of weights. V1 and V2 are recipes of training.
PUBLISHED = {
    "torchvision/resnet18.IMAGENET1K_V1": _resnet("resnet18-f37072fd", 69.758, 18),
    "torchvision/resnet34.IMAGENET1K_V1": _resnet("resnet34-b627a593", 73.314, 34),
    "torchvision/resnet50.IMAGENET1K_V1": _resnet("resnet50-0676ba61", 76.130, 50),
    "torchvision/resnet50.IMAGENET1K_V2": _resnet("resnet50-11ad3fa6", 80.858, 50),
    "torchvision/resnet101.IMAGENET1K_V1": _resnet("resnet101-63fe2227", 77.374, 101),
    "torchvision/resnet101.IMAGENET1K_V2": _resnet("resnet101-cd907fc2", 81.886, 101),
    "torchvision/resnet152.IMAGENET1K_V1": _resnet("resnet152-394f9c45", 78.312, 152),
    "torchvision/resnet152.IMAGENET1K_V2": _resnet("resnet152-f82ba261", 82.284, 152),
    "torchvision/vgg16.IMAGENET1K_V1": _vgg("vgg16-397923af", 71.592, 16, "none"),
    "torchvision/vgg16_bn.IMAGENET1K_V1": _vgg("vgg16_bn-6c64b313", 73.360, 16, "synced"),
    "torchvision/vgg19.IMAGENET1K_V1": _vgg("vgg19-dcbb9e9d", 72.376, 19, "none"),
    "torchvision/vgg19_bn.IMAGENET1K_V1": _vgg("vgg19_bn-c79401a0", 74.218, 19, "synced"),
    "torchvision/mobilenet_v3_large.IMAGENET1K_V1": _mobilenet_v3(
        "mobilenet_v3_large-8738ca79", 74.042, "large"
    ),
    "torchvision/mobilenet_v3_large.IMAGENET1K_V2": _mobilenet_v3(
        "mobilenet_v3_large-5c1a4163", 75.274, "large"
    ),
    "torchvision/mobilenet_v3_small.IMAGENET1K_V1": _mobilenet_v3(
        "mobilenet_v3_small-047dcff4", 67.668, "small"
    ),
    "torchvision/swin_t.IMAGENET1K_V1": _swin("swin_t-704ceda3", 81.474, "tiny"),
    "torchvision/swin_s.IMAGENET1K_V1": _swin("swin_s-5e29d889", 83.196, "small"),
    "torchvision/swin_b.IMAGENET1K_V1": _swin("swin_b-68c6b09e", 83.582, "base"),
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
