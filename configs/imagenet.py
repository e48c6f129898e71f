"""ImageNet recipes: that of He et al. 2015, and the 90 epochs that most published numbers rest on.

An epoch is counted as 5,000 steps of 256 images, which is 1,280,000 of 1,281,167. The images are
expected as TFDS prepares `imagenet2012`; for folders of images give --config.data.name=image_folder
and --config.data.data_dir (docs/imagenet.md).
"""

import ml_collections

from resnet_jax.config import default_config
from resnet_jax.errors import InputError

EPOCH = 5_000  # steps of 256 images
VAL_IMAGES = 10_000 / 1_281_167  # held out of the training set, where something is chosen


def he_2015(depth: int, *, residual: bool = True) -> ml_collections.ConfigDict:
    """He et al. 2015 (arXiv 1512.03385), Sec. 3.4 and 4.1, with option A shortcuts as in Table 2.

    Batch 256, momentum 0.9, weight decay 1e-4, rate 0.1 divided by 10 "when the error plateaus", up
    to 600,000 iterations. Shorter side of 256 to 480 pixels, 224x224 crop, flip, colour; tested on
    ten crops. Their released models have statistics of BN that were measured after training. When
    an error plateaus they do not say; here, when five evaluations, 25,000 iterations, have not
    lowered it by 0.1 points. They subtract the per-pixel mean; here channels are normalised.
    """
    config = default_config()
    config.model.family = "imagenet_resnet"
    config.model.depth = depth
    config.model.residual = residual
    config.model.block = "basic" if depth < 50 else "bottleneck"
    config.data.name = "imagenet2012"
    config.data.val_fraction = VAL_IMAGES
    config.data.normalization = "imagenet"
    config.data.augmentation = "he2015"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "plateau"
    config.optimizer.plateau_patience = 5
    config.optimizer.plateau_improvement = 0.1
    config.train.batch_size = 256
    config.train.steps = 120 * EPOCH
    config.train.eval_interval = EPOCH
    config.train.checkpoint_interval = EPOCH
    config.train.reestimation_batches = 100
    config.evaluation.crops = "ten"
    # A thousand resamples of 50,000 images and 1,000 classes would take longer than the evaluation.
    config.evaluation.bootstrap_samples = 0
    return config


def ninety_epochs(
    depth: int, batch_size: str = "", *, residual: bool = True
) -> ml_collections.ConfigDict:
    """Goyal et al. 2017 (arXiv 1706.02677), Sec. 5.1: 90 epochs, rate divided by 10 at 30, 60, 80.

    Crops of varied area and aspect, flip; weight decay 1e-4 on weights alone; rate 0.1 for each 256
    images of a batch (their linear scaling rule), reached over five epochs where that is more than
    0.1; bottlenecks stride in the 3x3 convolution; shortcuts project where the shape changes.
    Theirs starts the last BN of each block at zero, which ours does not: it would end plain twins.

    Args:
        depth: of the net.
        batch_size: a multiple of 256 that divides an epoch; given on the command line behind the
            file's name, `--config=configs/imagenet_resnet50.py:1024`.
        residual: False for the plain twin.
    """
    factor = _factor(batch_size)
    config = he_2015(depth, residual=residual)
    config.model.shortcut = "B" if residual else "A"
    config.model.bottleneck_stride = "3x3" if depth >= 50 else "1x1"
    # Nothing is chosen, so nothing need be held out.
    config.data.train_on = "train+val"
    config.data.augmentation = "inception"
    config.data.color_deviation = 0.0
    config.optimizer = default_config().optimizer
    config.optimizer.learning_rate = 0.1 * factor
    config.optimizer.decay_batch_norm = False
    epoch = EPOCH // factor
    config.optimizer.milestones = (30 * epoch, 60 * epoch, 80 * epoch)
    if factor > 1:
        config.optimizer.warmup = "linear"
        config.optimizer.warmup_learning_rate = 0.1
        config.optimizer.warmup_steps = 5 * epoch
    config.train.batch_size = 256 * factor
    config.train.steps = 90 * epoch
    config.train.eval_interval = epoch
    config.train.checkpoint_interval = epoch
    config.train.reestimation_batches = 0
    config.evaluation.crops = "center"
    return config


def vgg(depth: int, *, batch_norm: bool) -> ml_collections.ConfigDict:
    """The same 90 epochs for a VGG net; without BN at a tenth of the rate, which is all it bears.

    So torchvision's reference recipe has it. Simonyan and Zisserman 2015 (arXiv 1409.1556), Sec.
    3.1, started from shallower nets' weights and had a weight decay of 5e-4.
    """
    config = ninety_epochs(18, residual=False)
    config.model = default_config().model
    config.model.family = "vgg"
    config.model.depth = depth
    config.model.residual = False
    config.model.batch_norm = "synced" if batch_norm else "none"
    if not batch_norm:
        config.optimizer.learning_rate = 0.01
    return config


def downsampled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same at 64x64 pixels, for a twelfth of the cost (Chrabaszcz et al. 2017, 1707.08819)."""
    config.data.image_size = 64
    return config


def _factor(batch_size: str) -> int:
    """How many times 256 images."""
    size = batch_size or "256"
    factor, rest = divmod(int(size), 256) if size.isdecimal() else (0, 0)
    if rest or factor < 1 or EPOCH % factor:
        raise InputError(
            f"the batch size behind the config's name must be 256 times a divisor of {EPOCH}, for "
            f"example 256, 512, 1024 or 2048; got {batch_size}"
        )
    return factor
