"""The fields of a net's configuration."""

import dataclasses

from resnet_jax.config.limits import field

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
    family: str = field(
        "cifar_resnet",
        allowed=("cifar_resnet", "imagenet_resnet", "vgg", "mobilenet_v3", "swin"),
    )
    depth: int = field(20, minimum=8)
    # Which net of a family that has no depths: mobilenet_v3 is large or small, swin is tiny, small
    # or base; "" in all others.
    variant: str = field("", allowed=("", "large", "small", "tiny", "base"))
    # False removes every shortcut and changes nothing else: the plain twin.
    residual: bool = field(True)
    block: str = field("basic", allowed=("basic", "bottleneck"))
    # "": the family's own. Of imagenet_resnet that is 7x7 with stride 2 and a max-pool, which leave
    # a quarter of the image's side; '3x3' leaves all of it, for images of 64 pixels or less.
    stem: str = field("", allowed=("", "3x3"))
    # He 2016, Fig. 4: where BN and ReLU stand relative to the addition.
    activation_order: str = field(
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
    shortcut: str = field("A", allowed=("A", "B", "C"))
    # H = F + h, or He 2016, Table 1 and Fig. 2, for all blocks (its 1x1 convolution is option C):
    # constant_scaling H = b F + s h; annealed_scaling (ours) moves s over the run, evenly by step;
    # exclusive_gating H = g F + (1 - g) h; shortcut_only_gating H = F + (1 - g) h;
    # dropout H = F + dropout(h).
    shortcut_transform: str = field("identity", allowed=tuple(TRANSFORM_FIELDS))
    # s (He's lambda): 0 is the plain net, 1 the residual one. Annealed: where it starts and ends.
    shortcut_scale: float = field(1.0, minimum=0)
    shortcut_scale_end: float = field(1.0, minimum=0)
    # b, on F.
    branch_scale: float = field(1.0, minimum=0)
    # Initial bias of the gate g(x) = sigmoid(W x + bias), a 1x1 convolution; -6 was He's best.
    gate_bias: float = field(-6.0, minimum=-100, maximum=100)
    # Share of h that is set to zero in training.
    shortcut_dropout: float = field(0.5, minimum=0, maximum=0.99)
    # Option A: new channels all at the end (fb.resnet.torch) or half on each side (akamaster).
    zero_padding: str = field("end", allowed=("end", "both"))
    # He 2015 strides in the first 1x1 convolution; widely published weights ("v1.5") in the 3x3.
    bottleneck_stride: str = field("1x1", allowed=("1x1", "3x3"))
    # Multiplies the stages' widths: 16, 32, 64 of cifar_resnet, 64 to 512 of imagenet_resnet and
    # vgg (and its 4096 hidden units), all of mobilenet_v3, each rounded to a multiple of 8, and the
    # 96 or 128 of swin's embedding, whose heads are 32 wide.
    width: float = field(1.0, minimum=1 / 16)
    # Synced: statistics of the global batch. Local: of each device's share, as in the papers.
    # Frozen: the running ones, which stay as they are: those of `weights`, or mean 0 and variance
    # 1, which is a net without BN: scale and shift are left, and nothing is normalised.
    # None: no such layers at all, as in the published VGG nets and in swin, and nowhere else.
    batch_norm: str = field("synced", allowed=("synced", "local", "frozen", "none"))
    # new running statistic = decay * old + (1 - decay) * batch; PyTorch calls 1 - decay "momentum".
    batch_norm_decay: float = field(0.9, minimum=0, maximum=1)
    batch_norm_epsilon: float = field(1e-5, minimum=0)
    # Classifiers after all other stages too, in training alone, so that gradient enters there
    # (Szegedy et al. 2015, arXiv 1409.4842, Sec. 5, with 0.3): the loss that is descended is that
    # of the head plus this times each of theirs; 0 for none. Logged losses are the head's.
    auxiliary_weight: float = field(0.0, minimum=0)
    dtype: str = field("float32", allowed=("float32", "bfloat16", "float64"))
    # What to start from: a PyTorch state dict (.safetensors or .pth), the folder of a run of ours,
    # or the name of a published file ('torchvision/resnet50.IMAGENET1K_V1', docs/transfer.md);
    # {seed} in it stands for `train.seed`. "" draws weights.
    weights: str = field("")

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
