"""What follows from a configuration and the machine: loops, and how many steps make one call."""

from resnet_jax.config.schema import RunConfig


def intervals(run: RunConfig) -> dict[str, int]:
    """After how many steps something happens, by field; one call of the step must divide all."""
    found = {
        "train.steps": run.train.steps,
        "train.eval_interval": run.train.eval_interval,
        "train.checkpoint_interval": run.train.checkpoint_interval,
        "log.interval": run.log.interval,
    }
    if records_signals(run):
        found["log.signals_interval"] = run.log.signals_interval
    return found


def records_signals(run: RunConfig) -> bool:
    """Whether a run looks at its signals, if its blocks are no loop."""
    asked = 0 < run.log.signals_interval <= run.train.steps
    frozen = run.transfer.trained_from == "head"  # nothing happens in it
    return asked and run.model.has_blocks and not run.train.recompute_blocks and not frozen


# Below it, unrolled programs are compiled within a minute.
LOOP_FROM = 164


def resolve_block_loop(run: RunConfig, *, accelerator: bool) -> bool:
    """Whether blocks that are alike become a loop: as configured, or where it pays."""
    if run.train.block_loop == "auto":
        return accelerator and run.model.depth >= LOOP_FROM and not run.model.has_dropout
    return run.train.block_loop == "always"


def resolve_steps_per_call(run: RunConfig, *, accelerator: bool) -> int:
    """Steps in one compiled call: as configured, or chosen so that it divides every interval."""
    if run.train.steps_per_call:
        return run.train.steps_per_call
    # Batches of images are prepared one call ahead: several steps would be gigabytes, and a step
    # on streamed images takes far longer than its launch.
    # Of cached features, neither is the case.
    cached = run.transfer.cached_features
    if (not accelerator or run.data.is_streamed) and not cached:
        return 1
    values = intervals(run).values()
    return max(k for k in range(1, 51) if all(value % k == 0 for value in values))
