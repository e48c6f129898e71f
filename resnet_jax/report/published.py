"""Published test errors on CIFAR and ImageNet, with their sources."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from resnet_jax.report import records

HE_2015, HE_2016 = "He et al. 2015 (arXiv 1512.03385)", "He et al. 2016 (arXiv 1603.05027)"
MEDIAN, MEAN, STATED = "median of 5 runs", "mean of 5 runs", "as stated"
# "fail": He et al. 2016 print no number where the test error is above 20 %.
FAIL = "fail (> 20)"


@dataclasses.dataclass(frozen=True)
class Published:
    """One published test error.

    Attributes:
        net: its name in the paper.
        value: test error in percent; None where the paper prints none.
        words: the value as printed, with deviation and kind of average.
        source: paper and table.
        dataset: `config.data.name`.
        model: fields of `config.model` that identify the net; those of `MODEL` hold otherwise.
        settings: other fields, by dotted path, without which the number is of something else.
    """

    net: str
    value: float | None
    words: str
    source: str
    dataset: str
    model: Mapping[str, Any]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def is_of(self, config: Mapping[str, Any]) -> bool:
        """Whether a run's config describes this net on this data set."""
        if records.field(config, "data.name") != self.dataset:
            return False
        if selects_images(config):
            return False
        if any(records.field(config, path) != value for path, value in self.settings.items()):
            return False
        wanted = {**MODEL, **self.model}
        if not wanted["residual"]:  # what a plain net would have as a shortcut is of no matter
            wanted = {k: wanted[k] for k in ("family", "depth", "residual", "block", "width")}
        model = config["model"]
        return all(model.get(key, MODEL.get(key)) == value for key, value in wanted.items())


def selects_images(config: Mapping[str, Any]) -> bool:
    """Whether a run is on some of a data set's classes, or on classes of other relative sizes."""
    fields = ("data.classes", "data.class_ratios")
    return any(records.field(config, field, ()) for field in fields)


# What holds for a published net unless its row says otherwise. A missing field of an older run's
# config counts as this.
MODEL = {
    "family": "cifar_resnet",
    "residual": True,
    "block": "basic",
    "activation_order": "original",
    "shortcut": "A",
    "shortcut_transform": "identity",
    "width": 1.0,
}


def _words(value: float | None, kind: str) -> str:
    return FAIL if value is None else f"{value:.2f} ({kind})"


def _table_6(depth: int, value: float, words: str) -> Published:
    source = f"{HE_2015}, Table 6"
    return Published(f"ResNet-{depth}", value, words, source, "cifar10", {"depth": depth})


def _table_1(net: str, value: float | None, **model: Any) -> Published:
    source = f"{HE_2016}, Table 1"
    model = {"depth": 110, **model}
    return Published(net, value, _words(value, MEDIAN), source, "cifar10", model)


def _table_2(order: str, value: float) -> Published:
    source = f"{HE_2016}, Table 2"
    model = {"depth": 110, "activation_order": order}
    return Published("ResNet-110", value, _words(value, MEDIAN), source, "cifar10", model)


def _deep(
    depth: int, order: str, value: float, table: int, dataset: str, shortcut: str = "B"
) -> Published:
    model = {
        **{"depth": depth, "block": "bottleneck", "activation_order": order},
        "shortcut": shortcut,
    }
    source = f"{HE_2016}, Table {table}"
    return Published(f"ResNet-{depth}", value, _words(value, MEDIAN), source, dataset, model)


def _imagenet(
    net: str, value: float, source: str, crops: str, depth: int, **model: Any
) -> Published:
    model = {
        **{"family": "imagenet_resnet", "depth": depth},
        **{"block": "basic" if depth < 50 else "bottleneck", **model},
    }
    words = f"{value:.2f} ({'ten crops' if crops == 'ten' else 'one crop'})"
    settings = {"evaluation.crops": crops, "data.image_size": 224}
    return Published(net, value, words, source, "imagenet2012", model, settings)


def _ten_crops(net: str, value: float, table: int, depth: int, **model: Any) -> Published:
    return _imagenet(net, value, f"{HE_2015}, Table {table}", "ten", depth, **model)


PUBLISHED: tuple[Published, ...] = (
    _table_6(20, 8.75, _words(8.75, STATED)),
    _table_6(32, 7.51, _words(7.51, STATED)),
    _table_6(44, 7.17, _words(7.17, STATED)),
    _table_6(56, 6.97, _words(6.97, STATED)),
    _table_6(110, 6.61, "6.61 +- 0.16 (mean of 5 runs; best 6.43)"),
    _table_6(1202, 7.93, _words(7.93, STATED)),
    # Of plain nets the paper draws curves; its only number is this one, in the caption.
    Published(
        *("plain-110", None, "> 60, not displayed", f"{HE_2015}, Fig. 6", "cifar10"),
        model={"depth": 110, "residual": False},
    ),
    _table_1(
        "constant scaling 0, 1",
        None,
        shortcut_transform="constant_scaling",
        shortcut_scale=0.0,
        branch_scale=1.0,
    ),
    _table_1(
        "constant scaling 0.5, 1",
        None,
        shortcut_transform="constant_scaling",
        shortcut_scale=0.5,
        branch_scale=1.0,
    ),
    _table_1(
        "constant scaling 0.5, 0.5",
        12.35,
        shortcut_transform="constant_scaling",
        shortcut_scale=0.5,
        branch_scale=0.5,
    ),
    *(
        _table_1(
            f"exclusive gating, b = {bias}",
            None,
            shortcut_transform="exclusive_gating",
            gate_bias=float(bias),
        )
        for bias in range(0, -6, -1)
    ),
    _table_1(
        "exclusive gating, b = -6", 8.70, shortcut_transform="exclusive_gating", gate_bias=-6.0
    ),
    _table_1(
        "exclusive gating, b = -7", 9.81, shortcut_transform="exclusive_gating", gate_bias=-7.0
    ),
    _table_1(
        "shortcut-only gating, b = 0",
        12.86,
        shortcut_transform="shortcut_only_gating",
        gate_bias=0.0,
    ),
    _table_1(
        "shortcut-only gating, b = -6",
        6.91,
        shortcut_transform="shortcut_only_gating",
        gate_bias=-6.0,
    ),
    _table_1("1x1 convolution (option C)", 12.22, shortcut="C"),
    _table_1(
        "dropout 0.5 on the shortcut", None, shortcut_transform="dropout", shortcut_dropout=0.5
    ),
    _table_2("bn_after_addition", 8.17),
    _table_2("relu_before_addition", 7.84),
    _table_2("relu_only_preactivation", 6.71),
    _table_2("full_preactivation", 6.37),
    _deep(164, "original", 5.93, 2, "cifar10"),
    _deep(164, "bn_after_addition", 6.50, 2, "cifar10"),
    _deep(164, "relu_before_addition", 6.14, 2, "cifar10"),
    _deep(164, "relu_only_preactivation", 5.91, 2, "cifar10"),
    _deep(164, "full_preactivation", 5.46, 2, "cifar10"),
    _deep(1001, "original", 7.61, 3, "cifar10"),
    _deep(1001, "full_preactivation", 4.92, 3, "cifar10"),
    _deep(164, "original", 25.16, 3, "cifar100"),
    _deep(164, "full_preactivation", 24.33, 3, "cifar100"),
    _deep(1001, "original", 27.82, 3, "cifar100"),
    _deep(1001, "full_preactivation", 22.71, 3, "cifar100"),
)

# He et al. 2015: "B" where the shape changes from depth 50 on, stride in the first 1x1 convolution.
PUBLISHED += (
    _ten_crops("plain-18", 27.94, 2, 18, residual=False),
    _ten_crops("plain-34", 28.54, 2, 34, residual=False),
    _ten_crops("ResNet-18", 27.88, 2, 18),
    _ten_crops("ResNet-34 A", 25.03, 3, 34),
    _ten_crops("ResNet-34 B", 24.52, 3, 34, shortcut="B"),
    _ten_crops("ResNet-34 C", 24.19, 3, 34, shortcut="C"),
    *(
        _ten_crops(f"ResNet-{depth}", value, 3, depth, shortcut="B", bottleneck_stride="1x1")
        for depth, value in ((50, 22.85), (101, 21.75), (152, 21.43))
    ),
)
# The numbers of 90 epochs with projections, and the stride in the 3x3 convolution.
PUBLISHED += tuple(
    _imagenet(
        f"ResNet-{depth}",
        value,
        "facebookarchive/fb.resnet.torch, README",
        "center",
        depth,
        shortcut="B",
        bottleneck_stride="1x1" if depth < 50 else "3x3",
    )
    for depth, value in ((18, 30.43), (34, 26.73), (50, 24.01), (101, 22.44), (152, 22.16))
)


def find(config: Mapping[str, Any]) -> Published | None:
    """The published value of a run's net, or None."""
    return next((row for row in PUBLISHED if row.is_of(config)), None)
