"""Transfer without a download: eight classes of CIFAR-10 are learned, the other two by a new head.

    python -m experiments.held_out_classes --workdir=runs/held_out
    python -m experiments.held_out_classes --config=configs/cifar_resnet56.py --seeds=0,1

First a net for each seed learns bird, cat, deer, dog, frog, horse, ship and truck (`pretrained/`).
Then airplane and automobile, which it has never seen, are learned in five ways (`transfer/`, with
the report): a head on the frozen net, a head on a frozen net that was drawn at random, the whole
net from there (fine-tuned), the same part by part (unfrozen), and the whole net from scratch. All
have the same recipe, images, order and number of steps.
"""

import sys
from collections.abc import Sequence

from configs import transfer
from experiments import command_line, costs
from experiments.grid import Row, seeded
from resnet_jax import command
from resnet_jax.terminal import CONSOLE

LEARNED = ("bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HELD_OUT = transfer.RECIPE["data.classes"]
SEEDS = (0, 1, 2)
STEPS = 4_000
# Updates from one part to the one before it; the last of ResNet's five is reached in time.
UNFREEZE_INTERVAL = transfer.STEPS // 5


def pretraining(seeds: Sequence[int]) -> list[Row]:
    """A net for each seed that learns the eight classes, by a sixteenth of the paper's steps."""
    overrides = {
        "data.classes": LEARNED,
        # Constants, so that what is learned later is normalised alike.
        "data.normalization": "imagenet",
        "optimizer.milestones": (STEPS // 2, 3 * STEPS // 4),
        "train.steps": STEPS,
    }
    return seeded("backbone", seeds, overrides)


def arms(seeds: Sequence[int], weights: str) -> list[Row]:
    """The ways of learning the two other classes.

    Args:
        seeds: one run each.
        weights: of the nets that have learned eight, as `config.model.weights`.
    """
    # At ten times the rate that a head alone is trained with.
    recipe = {**transfer.RECIPE, "optimizer.learning_rate": 1e-3}
    pretrained = {"model.weights": weights, "transfer.new_head": True}
    unfrozen = {"transfer.unfreeze_interval": UNFREEZE_INTERVAL, "model.batch_norm": "frozen"}
    ways = {
        "pretrained_head": pretrained | transfer.HEAD,
        "random_head": transfer.HEAD,
        "fine_tuned": pretrained,
        "unfrozen": pretrained | unfrozen,
        "from_scratch": {},
    }
    return [row for label, way in ways.items() for row in seeded(label, seeds, recipe | way)]


def main() -> None:
    """The command line."""
    sweep = command_line.SweepCommand("held_out", "configs/cifar_resnet20.py", SEEDS)

    def work(argv: list[str]) -> None:
        del argv
        before = sweep.workdir / "pretrained"
        code = sweep.work(pretraining(sweep.seeds), before)
        if code:
            sys.exit(code)
        if sweep.dry_run:
            CONSOLE.print("what follows starts from these nets: timed when they are there")
            return
        weights = str(before / "backbone-seed{seed}")
        rows = arms(sweep.seeds, weights)
        sys.exit(sweep.work(rows, sweep.workdir / "transfer", afterwards=costs.measure))

    command.run(work)


if __name__ == "__main__":
    main()
