"""The run that faults are tried on: seconds long, with everything in it that a long one has."""

from resnet_jax.config import default_config

STEPS = 40
# Steps between two checkpoints.
INTERVAL = 4
# 144 training images in batches of 32 are 4.5 steps an epoch: one ends within step 5, the next
# exactly with step 9.
LAST_OF_EPOCH = 9
MID_EPOCH = 6


def get_config():
    config = default_config()
    config.model.depth = 8
    config.data.name = "synthetic"
    config.data.synthetic.image_size = 8
    config.data.synthetic.examples = 200
    config.optimizer.warmup = "until_error"
    config.optimizer.milestones = (30,)
    config.train.batch_size = 32
    config.train.steps = STEPS
    config.train.eval_interval = 10
    config.train.eval_batch_size = 25
    config.train.checkpoint_interval = INTERVAL
    config.train.check = False  # has tests of its own, and takes a second of each process
    config.parallel.devices = 1
    config.evaluation.bootstrap_samples = 0
    config.log.interval = 1
    config.log.tensorboard = False
    return config
