"""The fields of one run's configuration: their meaning, defaults and limits."""

import dataclasses
from typing import Any


def _field(
    default: Any,
    *,
    allowed: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    operational: bool = False,
) -> Any:
    """A field with its limits; `operational` ones may change when a run is resumed."""
    limits = {"allowed": allowed, "min": minimum, "max": maximum, "operational": operational}
    return dataclasses.field(default=default, metadata=limits)


# Which fields of `ModelConfig` each transform of the shortcut reads; the others stay at default.
TRANSFORM_FIELDS = {
    "identity": (),
    "constant_scaling": ("shortcut_scale", "branch_scale"),
    "annealed_scaling": ("shortcut_scale", "shortcut_scale_end", "branch_scale"),
    "exclusive_gating": ("gate_bias",),
    "shortcut_only_gating": ("gate_bias",),
    "dropout": ("shortcut_dropout",),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which net. The number of classes and channels comes from the data set."""

    # He 2015, Sec. 4.2 (three stages) and Table 1 (four); Simonyan and Zisserman 2015, Table 1;
    # Howard et al. 2019, Tables 1 and 2; Liu et al. 2021, Sec. 3.3.
    family: str = _field(
        "cifar_resnet",
        allowed=("cifar_resnet", "imagenet_resnet", "vgg", "mobilenet_v3", "swin"),
    )
    depth: int = _field(20, minimum=8)
    # Which net of a family that has no depths: mobilenet_v3 is large or small, swin is tiny, small
    # or base; "" in all others.
    variant: str = _field("", allowed=("", "large", "small", "tiny", "base"))
    # False removes every shortcut and changes nothing else: the plain twin.
    residual: bool = _field(True)
    block: str = _field("basic", allowed=("basic", "bottleneck"))
    # "": the family's own. Of imagenet_resnet that is 7x7 with stride 2 and a max-pool, which leave
    # a quarter of the image's side; '3x3' leaves all of it, for images of 64 pixels or less.
    stem: str = _field("", allowed=("", "3x3"))
    # He 2016, Fig. 4: where BN and ReLU stand relative to the addition.
    activation_order: str = _field(
        "original",
        allowed=(
            "original",
            "bn_after_addition",
            "relu_before_addition",
            "relu_only_preactivation",
            "full_preactivation",
        ),
    )
    # He 2015, Sec. 4.1: A zero-pads, B projects where the shape changes, C projects everywhere.
    shortcut: str = _field("A", allowed=("A", "B", "C"))
    # H = F + h, or He 2016, Table 1 and Fig. 2, for all blocks (its 1x1 convolution is option C):
    # constant_scaling H = b F + s h; annealed_scaling (ours) moves s over the run, evenly by step;
    # exclusive_gating H = g F + (1 - g) h; shortcut_only_gating H = F + (1 - g) h;
    # dropout H = F + dropout(h).
    shortcut_transform: str = _field("identity", allowed=tuple(TRANSFORM_FIELDS))
    # s (He's lambda): 0 is the plain net, 1 the residual one. Annealed: where it starts and ends.
    shortcut_scale: float = _field(1.0, minimum=0)
    shortcut_scale_end: float = _field(1.0, minimum=0)
    # b, on F.
    branch_scale: float = _field(1.0, minimum=0)
    # Initial bias of the gate g(x) = sigmoid(W x + bias), a 1x1 convolution; -6 was He's best.
    gate_bias: float = _field(-6.0, minimum=-100, maximum=100)
    # Share of h that is set to zero in training.
    shortcut_dropout: float = _field(0.5, minimum=0, maximum=0.99)
    # Option A: new channels all at the end (fb.resnet.torch) or half on each side (akamaster).
    zero_padding: str = _field("end", allowed=("end", "both"))
    # He 2015 strides in the first 1x1 convolution; widely published weights ("v1.5") in the 3x3.
    bottleneck_stride: str = _field("1x1", allowed=("1x1", "3x3"))
    # Multiplies the stages' widths: 16, 32, 64 of cifar_resnet, 64 to 512 of imagenet_resnet and
    # vgg (and its 4096 hidden units), all of mobilenet_v3, each rounded to a multiple of 8, and the
    # 96 or 128 of swin's embedding, whose heads are 32 wide.
    width: float = _field(1.0, minimum=1 / 16)
    # Synced: statistics of the global batch. Local: of each device's share, as in the papers.
    # Frozen: the running ones, which stay as they are: those of `weights`, or mean 0 and variance
    # 1, which is a net without BN: scale and shift are left, and nothing is normalised.
    # None: no such layers at all, as in the published VGG nets and in swin, and nowhere else.
    batch_norm: str = _field("synced", allowed=("synced", "local", "frozen", "none"))
    # new running statistic = decay * old + (1 - decay) * batch; PyTorch calls 1 - decay "momentum".
    batch_norm_decay: float = _field(0.9, minimum=0, maximum=1)
    batch_norm_epsilon: float = _field(1e-5, minimum=0)
    # Classifiers after all other stages too, in training alone, so that gradient enters there
    # (Szegedy et al. 2015, arXiv 1409.4842, Sec. 5, with 0.3): the loss that is descended is that
    # of the head plus this times each of theirs; 0 for none. Logged losses are the head's.
    auxiliary_weight: float = _field(0.0, minimum=0)
    dtype: str = _field("float32", allowed=("float32", "bfloat16", "float64"))
    # A PyTorch state dict (.safetensors or .pth) to start from; "" starts from He's initialisation.
    weights: str = _field("")

    @property
    def has_blocks(self) -> bool:
        """Whether it is made of blocks, plain or residual, which can be checked and taken apart."""
        return self.family in ("cifar_resnet", "imagenet_resnet")

    @property
    def net(self) -> str:
        """As the papers write it: ResNet-20, plain-20, VGG-16, MobileNetV3-Large, Swin-T."""
        if self.family == "mobilenet_v3":
            return f"MobileNetV3-{self.variant.capitalize()}"
        if self.family == "swin":
            return f"Swin-{self.variant[:1].upper()}"
        kind = "VGG" if self.family == "vgg" else "ResNet" if self.residual else "plain"
        return f"{kind}-{self.depth}"

    @property
    def has_dropout(self) -> bool:
        """Whether layers draw masks of their own in training, so that no two blocks are alike."""
        return not self.has_blocks or (self.residual and self.shortcut_transform == "dropout")

    @property
    def is_annealed(self) -> bool:
        """Whether the strength of its shortcuts moves while it trains."""
        return self.residual and self.shortcut_transform == "annealed_scaling"


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """The size of the generated data set (`data.name = 'synthetic'`)."""

    examples: int = _field(512, minimum=20)
    image_size: int = _field(32, minimum=4)
    channels: int = _field(3, minimum=1)
    classes: int = _field(10, minimum=2)


# Data sets whose images do not fit into memory.
STREAMED = ("imagenet2012", "image_folder")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, how they are split, normalised and augmented."""

    name: str = _field("cifar10", allowed=("digits", "cifar10", "cifar100", "synthetic", *STREAMED))
    # The TensorFlow Datasets folder: prepared data sets are looked for and written here. Of
    # image_folder: the folder that holds train/CLASS/IMAGE and val/CLASS/IMAGE.
    data_dir: str = _field("~/tensorflow_datasets", operational=True)
    # Some of the classes, relabelled 0, 1, ... in this order; () takes all. On the command line
    # --config.data.classes="('cat','dog')", or the flag once for each class.
    classes: tuple[str, ...] = _field(())
    # Which of two classes counts as positive; "" takes the second (label 1).
    positive_class: str = _field("")
    # Relative sizes of the classes, e.g. (9, 1), reached by removing as few images as possible from
    # the published training set and from the test set; () leaves them as published.
    class_ratios: tuple[float, ...] = _field(())
    # Share of the published training set held out as `val`: 5,000 of 50,000 (He 2015, Sec. 4.2).
    val_fraction: float = _field(0.1, minimum=0, maximum=0.9)
    split_seed: int = _field(0, minimum=0)
    # The paper does not say whether its final nets saw the 5,000 held-out images.
    train_on: str = _field("train", allowed=("train", "train+val"))
    # What is done to `train`, after the division, to make its classes equally large: repeat images,
    # drop some, or add mixtures l a + (1 - l) b of two of one class, l ~ Beta(alpha, alpha).
    resampling: str = _field("none", allowed=("none", "over", "under", "mixup"))
    mixup_alpha: float = _field(0.2, minimum=0.01)
    normalization: str = _field("pixel_mean", allowed=("pixel_mean", "channel", "imagenet", "none"))
    crop_padding: int = _field(4, minimum=0, maximum=64)
    # Padding before normalisation is black, after it the mean image.
    crop_fill: str = _field("mean", allowed=("mean", "black"))
    flip: bool = _field(True)
    # Of streamed images, in pixels: height and width of what the net sees. The sizes that images
    # are brought to before crops are taken (256 to 480 and so on) go with it, at 224 as published.
    image_size: int = _field(224, minimum=8, maximum=1024)
    # Crops of streamed images in training. he2015: shorter side 256 to 480, random crop (He 2015,
    # Sec. 3.4); inception: 8 to 100 % of the area at aspect ratios of 3:4 to 4:3 (Szegedy et al.
    # 2015, Sec. 6); both mirrored if `flip`, and coloured; none: the centre crop of evaluation.
    augmentation: str = _field("he2015", allowed=("he2015", "inception", "none"))
    # Of streamed images: standard deviation of the colour shift along the principal components of
    # ImageNet's RGB values (Krizhevsky et al. 2012, Sec. 4.1); 0 for none.
    color_deviation: float = _field(0.1, minimum=0, maximum=10)
    # Processes that read, decode and crop streamed images; 0: a thread of the run's own process;
    # -1: one less than there are usable cores.
    workers: int = _field(-1, minimum=-1, maximum=512, operational=True)
    # Share of a split's images that may be damaged, and one in any case but for 0; more end the
    # run. They are replaced in training, left out in evaluation, and listed in the run's folder.
    max_unreadable: float = _field(0.01, minimum=0, maximum=1, operational=True)
    synthetic: SyntheticConfig = dataclasses.field(default_factory=SyntheticConfig)

    @property
    def is_streamed(self) -> bool:
        """Whether its images stay on disk and are decoded while a net trains."""
        return self.name in STREAMED


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate over iterations."""

    name: str = _field("sgd", allowed=("sgd", "adamw"))
    learning_rate: float = _field(0.1, minimum=0)
    momentum: float = _field(0.9, minimum=0, maximum=1)
    nesterov: bool = _field(False)
    # SGD: added to the gradient (L2, as in the papers). AdamW: decoupled.
    weight_decay: float = _field(1e-4, minimum=0)
    # False exempts BN scales and all biases from the decay.
    decay_batch_norm: bool = _field(True)
    # step: times `decay_factor` at each milestone; plateau: whenever `plateau_patience` evaluations
    # in a row have not lowered val's error by more than `plateau_improvement` points.
    schedule: str = _field("step", allowed=("step", "plateau", "cosine", "constant"))
    milestones: tuple[int, ...] = _field((32_000, 48_000))
    plateau_patience: int = _field(3, minimum=1)
    plateau_improvement: float = _field(0.1, minimum=0, maximum=100)
    decay_factor: float = _field(0.1, minimum=0, maximum=1)
    # constant: `warmup_learning_rate` for `warmup_steps`; linear: from it up to `learning_rate`;
    # until_error: at it until the running training error falls below `warmup_error` percent.
    warmup: str = _field("none", allowed=("none", "constant", "linear", "until_error"))
    warmup_steps: int = _field(400, minimum=0)
    warmup_learning_rate: float = _field(0.01, minimum=0)
    warmup_error: float = _field(80.0, minimum=0, maximum=100)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and what is looked at on the way."""

    steps: int = _field(64_000, minimum=1)
    batch_size: int = _field(128, minimum=1)
    # balanced: an example of class c counts n / (k n_c) in the loss that is descended (n images of
    # k classes, n_c of c in `train`). Logged losses and errors stay unweighted.
    class_weights: str = _field("none", allowed=("none", "balanced"))
    # Share of the target probability that is spread over all classes (Szegedy et al. 2016, arXiv
    # 1512.00567, Sec. 7, with 0.1), in the loss that is descended; logged losses are without.
    label_smoothing: float = _field(0.0, minimum=0, maximum=0.99)
    # Evaluate a moving average of weights and running statistics instead of the last ones:
    # average = d * average + (1 - d) * new after each step, with d = min(this, (1 + step) /
    # (10 + step)) so that the first steps are forgotten; 0 for none.
    average_decay: float = _field(0.0, minimum=0, maximum=0.999999)
    # Batches over which BN's statistics are measured anew, with the final weights, before the last
    # evaluation (He 2015, appendix A, for weights that are frozen afterwards); 0 for none.
    reestimation_batches: int = _field(0, minimum=0)
    seed: int = _field(0, minimum=0, maximum=2**31 - 1)
    eval_interval: int = _field(1_000, minimum=1, operational=True)
    eval_batch_size: int = _field(500, minimum=1, operational=True)
    checkpoint_interval: int = _field(1_000, minimum=1, operational=True)
    keep_checkpoints: int = _field(3, minimum=1, operational=True)
    # Steps in one compiled call; 0 chooses: 1 on CPU, where loops are slow, more on accelerators.
    steps_per_call: int = _field(0, minimum=0, operational=True)
    # Blocks that are alike as a loop in the program, which then has one size for any depth. auto:
    # on accelerators from depth 164; loops are slow on CPU.
    block_loop: str = _field("auto", allowed=("auto", "always", "never"), operational=True)
    # Keep only blocks' inputs for the backward pass and compute the rest again: a third more work,
    # a fraction of the memory.
    recompute_blocks: bool = _field(False, operational=True)
    # Compare the net with its config, block by block, before the first step (docs/check.md).
    check: bool = _field(True, operational=True)
    # GPUs: the same numbers from run to run, at a cost; CPUs have them always.
    deterministic: bool = _field(False, operational=True)
    # A finite run that ends above this training error (percent) has the verdict "not_converged".
    not_converged_error: float = _field(60.0, minimum=0, maximum=100)


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How one step is spread over the devices of this machine."""

    mapping: str = _field("shard_map", allowed=("shard_map", "pmap"), operational=True)
    # 0 takes all.
    devices: int = _field(0, minimum=0, operational=True)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How a trained net is judged; nothing here changes the net."""

    # Resamples of the bootstrap for areas under curves; 0 gives no intervals.
    bootstrap_samples: int = _field(1_000, minimum=0, operational=True)
    # Equal bins of the reliability diagram (Guo et al. 2017 use 15).
    calibration_bins: int = _field(15, minimum=1, operational=True)
    # Where the findings turn from good to warning: points of val error above training error,
    # percent of training error, a class's recall, and expected calibration error.
    overfitting_gap: float = _field(10.0, minimum=0, operational=True)
    underfitting_error: float = _field(20.0, minimum=0, maximum=100, operational=True)
    low_recall: float = _field(0.5, minimum=0, maximum=1, operational=True)
    calibration_error: float = _field(0.05, minimum=0, maximum=1, operational=True)
    # What one mistake costs: one number for all classes, or one for each in label order.
    false_negative_cost: tuple[float, ...] = _field((1.0,), minimum=0, operational=True)
    false_positive_cost: tuple[float, ...] = _field((1.0,), minimum=0, operational=True)
    # "Be sure" asks for this precision, "find all" for this recall.
    sure_precision: float = _field(0.95, minimum=0, maximum=1, operational=True)
    find_recall: float = _field(0.95, minimum=0, maximum=1, operational=True)
    # Crops of streamed images that the final report averages over: the centre; AlexNet's ten; or
    # the centre squares of shorter sides 224 to 640 and their mirror images (He 2015, Sec. 3.4).
    # While a run trains, it looks at the centre alone.
    crops: str = _field("center", allowed=("center", "ten", "multi_scale"), operational=True)
    # Test images kept as pictures: wrong, and surest of it.
    mistakes: int = _field(24, minimum=0, maximum=500, operational=True)
    # `audit.json` of these data; the error without leaked test images becomes a column.
    audit: str = _field("", operational=True)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What a run says while it trains."""

    interval: int = _field(100, minimum=1, operational=True)
    # Steps between two looks at the signals and gradients of every layer (docs/vanishing.md), the
    # first before step 1; 0 for none. None in runs that are shorter, nor of nets without blocks or
    # whose blocks run as a loop or are computed again, for whom a pass without that may take too
    # much.
    signals_interval: int = _field(1_000, minimum=0, operational=True)
    tensorboard: bool = _field(True, operational=True)
    progress: bool = _field(True, operational=True)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that one run needs to know."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
