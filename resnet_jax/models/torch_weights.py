"""Weights under PyTorch's names: read into our nets, and written from them.

Covers the widely used CIFAR ResNets (akamaster's names), torchvision's and timm's ResNets of v1 and
v1.5, and their VGG nets; `torch_names` lists the names. The core never imports PyTorch: it is
needed only for `.pth` files, which are opened with `weights_only=True`, so that nothing in them is
executed.
"""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError

from resnet_jax.errors import InputError, first_line
from resnet_jax.files import replacing
from resnet_jax.models import torch_names

# `weights_only=True` was broken before (CVE-2025-32434 up to 2.5.1, CVE-2026-24747 up to 2.9).
SAFE_TORCH = (2, 10)


class LoadReport(NamedTuple):
    """What did not match; both empty after a complete load.

    Attributes:
        missing: names that the net needs and the file lacks.
        extra: names in the file that the net has no place for.
    """

    missing: list[str]
    extra: list[str]


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
        path: a `.safetensors` file, or a `.pth`/`.pt` file if PyTorch is installed.

    Raises:
        InputError: if the file is missing, damaged, of another kind, or not plain tensors.
    """
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist; check config.model.weights")
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.numpy.load_file(path))
        except (SafetensorError, OSError) as error:
            raise InputError(f"weights file {path} is damaged: {error}; fetch it again") from error
    if path.suffix not in (".pth", ".pt", ".th"):
        raise InputError(
            f"weights file {path} is of an unknown kind; use .safetensors (or .pth, .pt, .th)"
        )
    return _read_torch(path)


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"weights file {path} needs PyTorch to be read; install it, or use a .safetensors file"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise InputError(
            f"weights file {path} is not read with PyTorch {torch.__version__}, in which such "
            f"files can run code; install {'.'.join(map(str, SAFE_TORCH))} or newer, or use a "
            ".safetensors file"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of the unpickler, of the zip reader, of PyTorch
        raise InputError(
            f"weights file {path} is not a plain state dict: {first_line(error)}; use a "
            ".safetensors file"
        ) from error
    # akamaster's files keep it under 'state_dict', with DataParallel's 'module.' before each name.
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise InputError(f"weights file {path} is not a state dict of tensors; export one")
    return {name.removeprefix("module."): tensor.numpy() for name, tensor in tensors.items()}


def load_into(model: nnx.Module, path: pathlib.Path) -> None:
    """Reads a file into a net, all of it or nothing.

    Raises:
        InputError: if names or shapes do not match; the net is then unchanged.
    """
    report = assign(model, read(path), strict=True)
    assert not report.missing and not report.extra


def assign(
    model: nnx.Module, state_dict: Mapping[str, np.ndarray], *, strict: bool = False
) -> LoadReport:
    """Writes PyTorch arrays into a net.

    Args:
        model: a `ResNet`, not looped, or a `VGG`.
        state_dict: arrays by PyTorch name, of whichever of the net's `namings` has most of them.
        strict: refuse missing and extra names instead of reporting them.

    Returns:
        The missing and the extra names.

    Raises:
        InputError: if a shape differs, or a name with `strict`; the net is then unchanged.
    """
    known = [list(torch_names.targets(model, naming)) for naming in torch_names.namings(model)]
    targets = min(known, key=lambda found: sum(one.name not in state_dict for one in found))
    names = {target.name for target in targets}
    report = LoadReport(
        missing=[target.name for target in targets if target.name not in state_dict],
        # It counts batches for a mean over all of them, which neither side uses.
        extra=[n for n in state_dict if n not in names and not n.endswith("num_batches_tracked")],
    )
    if strict and (report.missing or report.extra):
        raise InputError(
            f"the weights are of another net: {_some('missing', report.missing)}, "
            f"{_some('extra', report.extra)}; check config.model.family, depth, block, shortcut "
            "and batch_norm"
        )
    values = {}
    for target in targets:
        if target.name in state_dict:
            array = np.asarray(state_dict[target.name])
            if array.shape != target.shape:
                raise InputError(
                    f"the weights are of another net: {target.name} has shape {array.shape} where "
                    f"{target.shape} belongs; check config.model.width and the data set"
                )
            values[target.name] = target.to_flax(array)
    for target in targets:
        if target.name in values:
            current = target.variable[...]
            target.variable[...] = values[target.name].astype(current.dtype)
    return report


def write(model: nnx.Module, path: pathlib.Path, *, naming: str = "") -> None:
    """Writes a net's weights and running statistics, as PyTorch would name and lay them out.

    A PyTorch net of these names loads the file with `strict=True`, but for nets that have none
    there: pre-activated ones, and those with gates, whose names follow the others'.

    Args:
        model: a `ResNet`, not looped, or a `VGG`.
        path: of the `.safetensors` file.
        naming: one of the net's `torch_names.namings`; "" is the first of them.

    Raises:
        InputError: if the net has no such names.
    """
    choices = torch_names.namings(model)
    if naming and naming not in choices:
        raise InputError(
            f"naming={naming!r} is none of a {type(model).__name__}; use one of "
            f"{', '.join(map(repr, choices))}"
        )
    found = torch_names.targets(model, naming or choices[0])
    state_dict = {target.name: target.to_torch() for target in found}
    with replacing(path) as file:
        file.write(safetensors.numpy.save(state_dict))


def _some(label: str, names: list[str]) -> str:
    return f"{len(names)} {label} names" + (f" ({names[0]}, ...)" if names else "")
