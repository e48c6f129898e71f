"""The fields of one run's configuration: their meaning, defaults and limits."""

import dataclasses

from resnet_jax.config.limits import field
from resnet_jax.config.net import ModelConfig


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """The size of the generated data set (`data.name = 'synthetic'`)."""

    examples: int = field(512, minimum=20)
    image_size: int = field(32, minimum=4)
    channels: int = field(3, minimum=1)
    classes: int = field(10, minimum=2)


# Data sets whose images do not fit into memory.
STREAMED = ("imagenet2012", "image_folder")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, how they are split, normalised and augmented."""

    name: str = field("cifar10", allowed=("digits", "cifar10", "cifar100", "synthetic", *STREAMED))
    # The TensorFlow Datasets folder: prepared data sets are looked for and written here. Of
    # image_folder: the folder that holds train/CLASS/IMAGE and val/CLASS/IMAGE.
    data_dir: str = field("~/tensorflow_datasets", operational=True)
    # Some of the classes, relabelled 0, 1, ... in this order; () takes all. On the command line
    # --config.data.classes="('cat','dog')", or the flag once for each class.
    classes: tuple[str, ...] = field(())
    # Which of two classes counts as positive; "" takes the second (label 1).
    positive_class: str = field("")
    # Relative sizes of the classes, e.g. (9, 1), reached by removing as few images as possible from
    # the published training set and from the test set; () leaves them as published.
    class_ratios: tuple[float, ...] = field(())
    # Share of the published training set held out as `val`: 5,000 of 50,000 (He 2015, Sec. 4.2).
    val_fraction: float = field(0.1, minimum=0, maximum=0.9)
    split_seed: int = field(0, minimum=0)
    # The paper does not say whether its final nets saw the 5,000 held-out images.
    train_on: str = field("train", allowed=("train", "train+val"))
    # What is done to `train`, after the division, to make its classes equally large: repeat images,
    # drop some, or add mixtures l a + (1 - l) b of two of one class, l ~ Beta(alpha, alpha).
    resampling: str = field("none", allowed=("none", "over", "under", "mixup"))
    mixup_alpha: float = field(0.2, minimum=0.01)
    normalization: str = field("pixel_mean", allowed=("pixel_mean", "channel", "imagenet", "none"))
    crop_padding: int = field(4, minimum=0, maximum=64)
    # Padding before normalisation is black, after it the mean image.
    crop_fill: str = field("mean", allowed=("mean", "black"))
    flip: bool = field(True)
    # Of images in memory: height and width in pixels that they are brought to, bilinearly, after
    # they are normalised and augmented; 0 leaves them as they are.
    resize: int = field(0, minimum=0, maximum=1024)
    # Of streamed images, in pixels: height and width of what the net sees. The sizes that images
    # are brought to before crops are taken (256 to 480 and so on) go with it, at 224 as published.
    image_size: int = field(224, minimum=8, maximum=1024)
    # Crops of streamed images in training. he2015: shorter side 256 to 480, random crop (He 2015,
    # Sec. 3.4); inception: 8 to 100 % of the area at aspect ratios of 3:4 to 4:3 (Szegedy et al.
    # 2015, Sec. 6); both mirrored if `flip`, and coloured; none: the centre crop of evaluation.
    augmentation: str = field("he2015", allowed=("he2015", "inception", "none"))
    # Of streamed images: standard deviation of the colour shift along the principal components of
    # ImageNet's RGB values (Krizhevsky et al. 2012, Sec. 4.1); 0 for none.
    color_deviation: float = field(0.1, minimum=0, maximum=10)
    # Processes that read, decode and crop streamed images; 0: a thread of the run's own process;
    # -1: one less than there are usable cores.
    workers: int = field(-1, minimum=-1, maximum=512, operational=True)
    # Share of a split's images that may be damaged, and one in any case but for 0; more end the
    # run. They are replaced in training, left out in evaluation, and listed in the run's folder.
    max_unreadable: float = field(0.01, minimum=0, maximum=1, operational=True)
    synthetic: SyntheticConfig = dataclasses.field(default_factory=SyntheticConfig)

    @property
    def is_streamed(self) -> bool:
        """Whether its images stay on disk and are decoded while a net trains."""
        return self.name in STREAMED


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """What of a net that has been trained before (`model.weights`) is trained."""

    # A freshly drawn head for the classes of these data, whatever head the weights have.
    new_head: bool = field(False)
    # The first part that is trained: 'head', 'stage 4', ...; "" trains all. Parts before it are
    # frozen: they compute as in evaluation, and neither parameters nor running statistics change.
    trained_from: str = field("")
    # Layer-wise unfreezing: at first the head alone is trained, and after each so many steps one
    # part more, back to `trained_from` (Howard and Ruder 2018, arXiv 1801.06146, Sec. 3.3, one an
    # epoch); 0: all of them from the first step on.
    unfreeze_interval: int = field(0, minimum=0)
    # Of a head alone: each image goes through the frozen parts once, before the first step, and the
    # steps work on what came out of them.
    cached_features: bool = field(False)
    # A folder in which these features are kept for other runs with the same frozen parts and
    # images; "" keeps none.
    features_dir: str = field("", operational=True)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate over iterations."""

    name: str = field("sgd", allowed=("sgd", "adamw"))
    learning_rate: float = field(0.1, minimum=0)
    momentum: float = field(0.9, minimum=0, maximum=1)
    nesterov: bool = field(False)
    # SGD: added to the gradient (L2, as in the papers). AdamW: decoupled.
    weight_decay: float = field(1e-4, minimum=0)
    # False exempts BN scales and all biases from the decay.
    decay_batch_norm: bool = field(True)
    # step: times `decay_factor` at each milestone; plateau: whenever `plateau_patience` evaluations
    # in a row have not lowered val's error by more than `plateau_improvement` points.
    schedule: str = field("step", allowed=("step", "plateau", "cosine", "constant"))
    milestones: tuple[int, ...] = field((32_000, 48_000))
    plateau_patience: int = field(3, minimum=1)
    plateau_improvement: float = field(0.1, minimum=0, maximum=100)
    decay_factor: float = field(0.1, minimum=0, maximum=1)
    # constant: `warmup_learning_rate` for `warmup_steps`; linear: from it up to `learning_rate`;
    # until_error: at it until the running training error falls below `warmup_error` percent.
    warmup: str = field("none", allowed=("none", "constant", "linear", "until_error"))
    warmup_steps: int = field(400, minimum=0)
    warmup_learning_rate: float = field(0.01, minimum=0)
    warmup_error: float = field(80.0, minimum=0, maximum=100)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and what is looked at on the way."""

    steps: int = field(64_000, minimum=1)
    batch_size: int = field(128, minimum=1)
    # balanced: an example of class c counts n / (k n_c) in the loss that is descended (n images of
    # k classes, n_c of c in `train`). Logged losses and errors stay unweighted.
    class_weights: str = field("none", allowed=("none", "balanced"))
    # Share of the target probability that is spread over all classes (Szegedy et al. 2016, arXiv
    # 1512.00567, Sec. 7, with 0.1), in the loss that is descended; logged losses are without.
    label_smoothing: float = field(0.0, minimum=0, maximum=0.99)
    # Evaluate a moving average of weights and running statistics instead of the last ones:
    # average = d * average + (1 - d) * new after each step, with d = min(this, (1 + step) /
    # (10 + step)) so that the first steps are forgotten; 0 for none.
    average_decay: float = field(0.0, minimum=0, maximum=0.999999)
    # Batches over which BN's statistics are measured anew, with the final weights, before the last
    # evaluation (He 2015, appendix A, for weights that are frozen afterwards); 0 for none.
    reestimation_batches: int = field(0, minimum=0)
    seed: int = field(0, minimum=0, maximum=2**31 - 1)
    eval_interval: int = field(1_000, minimum=1, operational=True)
    eval_batch_size: int = field(500, minimum=1, operational=True)
    checkpoint_interval: int = field(1_000, minimum=1, operational=True)
    keep_checkpoints: int = field(3, minimum=1, operational=True)
    # Steps in one compiled call; 0 chooses: 1 on CPU, where loops are slow, more on accelerators.
    steps_per_call: int = field(0, minimum=0, operational=True)
    # Blocks that are alike as a loop in the program, which then has one size for any depth. auto:
    # on accelerators from depth 164; loops are slow on CPU.
    block_loop: str = field("auto", allowed=("auto", "always", "never"), operational=True)
    # Keep only blocks' inputs for the backward pass and compute the rest again: a third more work,
    # a fraction of the memory.
    recompute_blocks: bool = field(False, operational=True)
    # Compare the net with its config, block by block, before the first step (docs/check.md).
    check: bool = field(True, operational=True)
    # GPUs: the same numbers from run to run, at a cost; CPUs have them always.
    deterministic: bool = field(False, operational=True)
    # A finite run that ends above this training error (percent) has the verdict "not_converged".
    not_converged_error: float = field(60.0, minimum=0, maximum=100)


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How one step is spread over the devices of this machine."""

    mapping: str = field("shard_map", allowed=("shard_map", "pmap"), operational=True)
    # 0 takes all.
    devices: int = field(0, minimum=0, operational=True)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How a trained net is judged; nothing here changes the net."""

    # Resamples of the bootstrap for areas under curves; 0 gives no intervals.
    bootstrap_samples: int = field(1_000, minimum=0, operational=True)
    # Equal bins of the reliability diagram (Guo et al. 2017 use 15).
    calibration_bins: int = field(15, minimum=1, operational=True)
    # Where the findings turn from good to warning: points of val error above training error,
    # percent of training error, a class's recall, and expected calibration error.
    overfitting_gap: float = field(10.0, minimum=0, operational=True)
    underfitting_error: float = field(20.0, minimum=0, maximum=100, operational=True)
    low_recall: float = field(0.5, minimum=0, maximum=1, operational=True)
    calibration_error: float = field(0.05, minimum=0, maximum=1, operational=True)
    # What one mistake costs: one number for all classes, or one for each in label order.
    false_negative_cost: tuple[float, ...] = field((1.0,), minimum=0, operational=True)
    false_positive_cost: tuple[float, ...] = field((1.0,), minimum=0, operational=True)
    # "Be sure" asks for this precision, "find all" for this recall.
    sure_precision: float = field(0.95, minimum=0, maximum=1, operational=True)
    find_recall: float = field(0.95, minimum=0, maximum=1, operational=True)
    # Crops of streamed images that the final report averages over: the centre; AlexNet's ten; or
    # the centre squares of shorter sides 224 to 640 and their mirror images (He 2015, Sec. 3.4).
    # While a run trains, it looks at the centre alone.
    crops: str = field("center", allowed=("center", "ten", "multi_scale"), operational=True)
    # Test images kept as pictures: wrong, and surest of it.
    mistakes: int = field(24, minimum=0, maximum=500, operational=True)
    # `audit.json` of these data; the error without leaked test images becomes a column.
    audit: str = field("", operational=True)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What a run says while it trains."""

    interval: int = field(100, minimum=1, operational=True)
    # Steps between two looks at the signals and gradients of every layer (docs/vanishing.md), the
    # first before step 1; 0 for none. None in runs that are shorter, nor of nets without blocks or
    # whose blocks run as a loop or are computed again, for whom a pass without that may take too
    # much.
    signals_interval: int = field(1_000, minimum=0, operational=True)
    tensorboard: bool = field(True, operational=True)
    # Trackers beside the run's folder (docs/tracking.md): the URI of an MLflow store or server, for
    # example 'sqlite:///runs/mlflow.db' or 'http://host:5000'; "" for none.
    mlflow: str = field("", operational=True)
    # Weights & Biases; 'offline' writes into the run's folder and sends nothing.
    wandb: str = field("", allowed=("", "offline", "online"), operational=True)
    # What runs are filed under there: MLflow's experiment, W&B's project.
    project: str = field("resnet_jax", operational=True)
    progress: bool = field(True, operational=True)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that one run needs to know."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
