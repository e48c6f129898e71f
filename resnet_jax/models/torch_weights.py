"""Weights under PyTorch's names: read into our nets, and written from them.

Covers the widely used CIFAR ResNets (akamaster's names), torchvision's and timm's ResNets of v1 and
v1.5, their VGG nets, MobileNetV3 and Swin Transformers; `torch_names` lists the names. The core
never imports PyTorch: it is needed only for `.pth` files, which are opened with
`weights_only=True`, so that nothing in them is executed.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError

from resnet_jax.errors import InputError, first_line
from resnet_jax.files import replacing
from resnet_jax.models import torch_names
from resnet_jax.models.recognise import recognise

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
    # akamaster's files keep it under 'state_dict', with DataParallel's 'module.' before each name,
    # and those of the authors of Swin Transformers under 'model'.
    tensors: Any = loaded
    for wrapper in ("state_dict", "model"):
        if isinstance(tensors, Mapping) and wrapper in tensors:
            tensors = tensors[wrapper]
    named = isinstance(tensors, Mapping) and tensors
    if not named or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise InputError(f"weights file {path} is not a state dict of tensors; export one")
    return {name.removeprefix("module."): tensor.numpy() for name, tensor in tensors.items()}


def load_into(model: nnx.Module, path: pathlib.Path, *, new_head: bool = False) -> None:
    """Reads a file into a net, all of it or nothing.

    Args:
        model: as in `assign`.
        path: as in `read`.
        new_head: as in `assign`.

    Raises:
        InputError: if names or shapes do not match; the net is then unchanged.
    """
    report = assign(model, read(path), strict=True, new_head=new_head)
    assert not report.missing and not report.extra


def assign(
    model: nnx.Module,
    state_dict: Mapping[str, np.ndarray],
    *,
    strict: bool = False,
    new_head: bool = False,
) -> LoadReport:
    """Writes PyTorch arrays into a net.

    Args:
        model: a net of one of `registry.FAMILIES`, not looped.
        state_dict: arrays by PyTorch name, of whichever of the net's `namings` has most of them.
        strict: refuse missing and extra names instead of reporting them.
        new_head: leave the net's own head as it is, whatever the state dict has for one.

    Returns:
        The missing and the extra names.

    Raises:
        InputError: if a shape differs, or a name with `strict`, or nets of these names compute
            something else; the net is then unchanged.
    """
    known = {
        naming: list(torch_names.targets(model, naming)) for naming in torch_names.namings(model)
    }
    # Every naming's, so that a body under some names may have a head under others.
    heads = {one.name for found in known.values() for one in found if _is_head(model, one)}
    if new_head:
        known = {
            naming: [one for one in found if not _is_head(model, one)]
            for naming, found in known.items()
        }
    naming = min(known, key=lambda n: sum(one.name not in state_dict for one in known[n]))
    targets = known[naming]
    unwanted = heads if new_head else set()
    names = {target.name for target in targets} | unwanted
    report = LoadReport(
        missing=[target.name for target in targets if target.name not in state_dict],
        extra=[n for n in state_dict if n not in names and not n.endswith(torch_names.NO_WEIGHTS)],
    )
    if strict and (report.missing or report.extra):
        raise _another_net(
            state_dict,
            f"{_some('missing', report.missing)}, {_some('extra', report.extra)}",
            "check config.model.family, depth, variant, block, shortcut and batch_norm",
            only_head=not set(report.missing + report.extra) - heads,
        )
    values = {}
    for target in targets:
        if target.name in state_dict:
            array = np.asarray(state_dict[target.name])
            if array.shape != target.shape:
                raise _another_net(
                    state_dict,
                    f"{target.name} has shape {array.shape} where {target.shape} belongs",
                    "check config.model.width, variant and the data set",
                    only_head=target.name in heads,
                )
            values[target.name] = target.to_flax(array)
    if values:
        torch_names.require_same_function(model, naming)
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
        model: a net of one of `registry.FAMILIES`, not looped.
        path: of the `.safetensors` file.
        naming: one of the net's `torch_names.namings`; "" is the first of them.

    Raises:
        InputError: if the net has no such names, or nets of these names compute something else.
    """
    choices = torch_names.namings(model)
    if naming and naming not in choices:
        raise InputError(
            f"naming={naming!r} is none of a {type(model).__name__}; use one of "
            f"{', '.join(map(repr, choices))}"
        )
    torch_names.require_same_function(model, naming or choices[0])
    found = torch_names.targets(model, naming or choices[0])
    state_dict = {target.name: target.to_torch() for target in found}
    with replacing(path) as file:
        file.write(safetensors.numpy.save(state_dict))


def _is_head(model: nnx.Module, target: torch_names.Target) -> bool:
    head: Any = getattr(model, "head", None)
    return target.variable is head.kernel or target.variable is head.bias


def _another_net(
    state_dict: Mapping[str, np.ndarray], found: str, advice: str, *, only_head: bool
) -> InputError:
    looks = recognise({name: np.shape(array) for name, array in state_dict.items()})
    if only_head:
        advice += ", or set config.transfer.new_head=True for a head of the data set's own"
    return InputError(
        f"the weights are of another net (by names and shapes: {looks}): {found}; {advice}"
    )


def _some(label: str, names: list[str]) -> str:
    return f"{len(names)} {label} names" + (f" ({names[0]}, ...)" if names else "")
