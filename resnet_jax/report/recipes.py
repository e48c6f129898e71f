"""How a run departs from the recipe of the papers it is compared with."""

from collections.abc import Mapping
from typing import Any

from resnet_jax.report import records

# Of both recipes.
COMMON: dict[str, Any] = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.decay_factor": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 1e-4,
    "optimizer.decay_batch_norm": True,
    "data.flip": True,
    "data.resampling": "none",
    "train.class_weights": "none",
    "train.label_smoothing": 0.0,
    "train.average_decay": 0.0,
    "model.dtype": "float32",
    "model.width": 1.0,
    "model.weights": "",
}
# The recipe of the CIFAR experiments, He et al. 2015, Sec. 4.2; He et al. 2016 add the warm-up.
CIFAR: dict[str, Any] = {
    "train.steps": 64_000,
    "train.batch_size": 128,
    "optimizer.schedule": "step",
    "optimizer.milestones": (32_000, 48_000),
    "data.crop_padding": 4,
    "data.normalization": "pixel_mean",
} | COMMON
# Of the ImageNet experiments, He et al. 2015, Sec. 3.4.
IMAGENET: dict[str, Any] = {
    "train.steps": 600_000,
    "train.batch_size": 256,
    "optimizer.schedule": "plateau",
    "optimizer.warmup": "none",
    "data.augmentation": "he2015",
    "data.color_deviation": 0.1,
    "data.image_size": 224,
    "data.normalization": "per-pixel mean",  # which streamed images do not have
} | COMMON


def recipe_differences(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
    """How a run departs from the papers' recipe, one phrase each.

    Args:
        config: of the run.
        dataset: as `Sweep.dataset`: name, and where known `original` and `examples`.
    """
    imagenet = records.field(config, "model.family", "cifar_resnet") != "cifar_resnet"
    found = []
    for path, wanted in (IMAGENET if imagenet else CIFAR).items():
        value = records.field(config, path, wanted)
        value = tuple(value) if isinstance(value, list) else value
        if value != wanted:
            name = path.split(".")[1].replace("_", " ")
            found.append(f"{name} {_number(value)}, not {_number(wanted)}")
    found += _imagenet_images(dataset) if imagenet else _warm_up(config) + _cifar_images(dataset)
    if records.field(config, "data.train_on", "train") != "train":
        found.append("trained on val too (the paper does not say)")
    if not records.field(config, "train.reestimation_batches", 0):
        found.append("batch statistics by moving average, not over a large batch")
    return found


def _cifar_images(dataset: Mapping[str, Any]) -> list[str]:
    if not str(dataset.get("name", "")).startswith("cifar"):
        return [f"data set {dataset.get('name', 'unknown')}, not CIFAR"]
    return _files(dataset) or _count(dataset, (45_000, 50_000))


def _imagenet_images(dataset: Mapping[str, Any]) -> list[str]:
    if dataset.get("name") != "imagenet2012":
        return [f"data set {dataset.get('name', 'unknown')}, not ImageNet 2012"]
    return _files(dataset)


def _files(dataset: Mapping[str, Any]) -> list[str]:
    if dataset.get("original") is False:
        return ["a copy of the images, not the original files"]
    if dataset.get("original") is None:
        return ["whether the files are the original ones is not recorded"]
    return []


def _count(dataset: Mapping[str, Any], published: tuple[int, int]) -> list[str]:
    if not isinstance(dataset.get("examples"), Mapping):
        return []
    images = dataset["examples"].get("train")
    if images in (None, *published):
        return []
    return [f"{images:,} training images, not {published[0]:,} or {published[1]:,}"]


def _warm_up(config: Mapping[str, Any]) -> list[str]:
    kind = records.field(config, "optimizer.warmup", "none")
    late = records.field(config, "model.activation_order", "original") != "original"
    deep = int(config["model"]["depth"]) >= 110
    if kind != "none" and not deep and not late:
        return [f"{kind} warm-up, not none"]
    if kind == "none" and (deep or late):
        return ["no warm-up, not 0.01 at first"]
    return []


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
