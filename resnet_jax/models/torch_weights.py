"""Weights under PyTorch's names: read into our nets, and written from them.

Covers the widely used CIFAR ResNets (akamaster's names: conv1, bn1, layer1..3, linear), v1 with
basic blocks. The core never imports PyTorch: it is needed only for `.pth` files, which are opened
with `weights_only=True`, so that nothing in them is executed.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError

from resnet_jax.errors import InputError, first_line
from resnet_jax.files import replacing
from resnet_jax.models.blocks import Block
from resnet_jax.models.layers import BatchNorm
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.shortcuts import GatedAddition, ProjectionShortcut

# `weights_only=True` was broken before (CVE-2025-32434 up to 2.5.1, CVE-2026-24747 up to 2.9).
SAFE_TORCH = (2, 10)


class Target(NamedTuple):
    """One array of the net and the PyTorch name it comes from."""

    name: str
    variable: nnx.Variable
    kind: str  # 'conv', 'linear' or 'vector': how the axes are ordered


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
        model: a `ResNet` with basic blocks in the original order.
        state_dict: arrays by PyTorch name.
        strict: refuse missing and extra names instead of reporting them.

    Returns:
        The missing and the extra names.

    Raises:
        InputError: if a shape differs, or a name with `strict`; the net is then unchanged.
    """
    targets = list(_targets(model))
    names = {target.name for target in targets}
    report = LoadReport(
        missing=[target.name for target in targets if target.name not in state_dict],
        extra=[n for n in state_dict if n not in names and not n.endswith("num_batches_tracked")],
    )
    if strict and (report.missing or report.extra):
        raise InputError(
            f"the weights are of another net: {_some('missing', report.missing)}, "
            f"{_some('extra', report.extra)}; check config.model.depth, block and shortcut"
        )
    values = {}
    for target in targets:
        if target.name in state_dict:
            array = _to_flax(np.asarray(state_dict[target.name]), target.kind)
            if array.shape != target.variable.shape:
                raise InputError(
                    f"the weights are of another net: {target.name} has shape {array.shape} where "
                    f"{target.variable.shape} belongs; check config.model.width and the data set"
                )
            values[target.name] = array
    for target in targets:
        if target.name in values:
            current = target.variable[...]
            target.variable[...] = values[target.name].astype(current.dtype)
    return report


def write(model: nnx.Module, path: pathlib.Path) -> None:
    """Writes a net's weights and running statistics, as PyTorch would name and lay them out.

    Args:
        model: a `ResNet`, not looped.
        path: a `.safetensors` file; replaced if it is there.
    """
    state_dict = {
        target.name: _to_torch(np.asarray(target.variable[...]), target.kind)
        for target in _targets(model)
    }
    with replacing(path) as file:
        file.write(safetensors.numpy.save(state_dict))


def _some(label: str, names: list[str]) -> str:
    return f"{len(names)} {label} names" + (f" ({names[0]}, ...)" if names else "")


def _to_flax(array: np.ndarray, kind: str) -> np.ndarray:
    if kind == "conv" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)  # out, in, height, width -> height, width, in, out
    return array.T if kind == "linear" else array


def _to_torch(array: np.ndarray, kind: str) -> np.ndarray:
    if kind == "conv":
        array = array.transpose(3, 2, 0, 1)
    return np.ascontiguousarray(array.T if kind == "linear" else array)


def _targets(model: nnx.Module) -> Iterator[Target]:
    if not isinstance(model, ResNet):
        raise InputError(f"no PyTorch names are known for a {type(model).__name__}")
    yield _conv("conv1", model.stem_conv)
    yield from _norm("bn1", model.stem_norm)
    for s, stage in enumerate(model.stages, 1):
        for b, block in enumerate(stage):
            yield from _block(f"layer{s}.{b}", block)
    if model.final_norm is not None:
        yield from _norm("bn", model.final_norm)
    yield Target("linear.weight", model.head.kernel, "linear")
    assert model.head.bias is not None
    yield Target("linear.bias", model.head.bias, "vector")


def _block(prefix: str, block: Block) -> Iterator[Target]:
    for i, conv in enumerate(block.convs, 1):
        yield _conv(f"{prefix}.conv{i}", conv)
    # A pre-activated first block has no norm before its first convolution.
    skipped = len(block.convs) - len(block.norms)
    for i, norm in enumerate(block.norms, 1 + skipped):
        yield from _norm(f"{prefix}.bn{i}", norm)
    if isinstance(block.shortcut, ProjectionShortcut):
        yield _conv(f"{prefix}.shortcut.0", block.shortcut.conv)
        if block.shortcut.norm is not None:
            yield from _norm(f"{prefix}.shortcut.1", block.shortcut.norm)
    if isinstance(block.addition, GatedAddition):
        gate = block.addition.gate
        assert gate.bias is not None
        yield _conv(f"{prefix}.gate", gate)
        yield Target(f"{prefix}.gate.bias", gate.bias, "vector")


def _conv(name: str, conv: nnx.Conv) -> Target:
    return Target(f"{name}.weight", conv.kernel, "conv")


def _norm(name: str, norm: BatchNorm) -> Iterator[Target]:
    yield Target(f"{name}.weight", norm.scale, "vector")
    yield Target(f"{name}.bias", norm.bias, "vector")
    yield Target(f"{name}.running_mean", norm.mean, "vector")
    yield Target(f"{name}.running_var", norm.variance, "vector")
