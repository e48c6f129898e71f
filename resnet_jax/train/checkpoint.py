"""Checkpoints by Orbax: the last few and the best on val, written in the background."""

import pathlib
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from resnet_jax import run_folder
from resnet_jax.errors import InputError

# What a step without validation counts as: worse than any error in percent.
UNKNOWN_ERROR = 1e9


def _val_error(metrics: dict[str, float]) -> float:
    return metrics["val_error"]


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: made if it is not there.
        keep: how many of the newest stay; the best on val stays beside them.
        read_only: open for looking only; nothing is created or deleted.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 1, read_only: bool = False):
        options = ocp.CheckpointManagerOptions(
            # best_fn is needed for best_step(), the policy for keeping the newest beside it.
            best_fn=_val_error,
            best_mode="min",
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [
                    preservation_policy.LatestN(keep),
                    preservation_policy.BestN(get_metric_fn=_val_error, reverse=True, n=1),
                ]
            ),
            read_only=read_only,
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._folder = folder

    @property
    def last_step(self) -> int | None:
        """The newest complete step, or None."""
        return cast(int | None, self._manager.latest_step())

    @property
    def steps(self) -> list[int]:
        """All complete steps that are kept, in order."""
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """The step with the lowest error on val, or None."""
        return cast(int | None, self._manager.best_step())

    def save(self, step: int, state: Any, val_error: float | None) -> None:
        """Starts saving; returns once the state is copied. Waits for a save still under way."""
        error = UNKNOWN_ERROR if val_error is None else val_error
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics={"val_error": error})

    def restore(self, step: int, like: Any) -> Any:
        """Reads the state of a step.

        Args:
            step: one that exists.
            like: a tree of arrays with the shapes and dtypes to expect.

        Returns:
            The same tree with the saved values, as host arrays.

        Raises:
            InputError: if the checkpoint cannot be read or belongs to another net.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=device), like
        )
        try:
            state = self._manager.restore(step, args=ocp.args.StandardRestore(template))
        except (ValueError, OSError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"checkpoint {step} in {self._folder} cannot be restored ({reason}); delete it to "
                "go on from an older one, or choose another workdir"
            ) from error
        return jax.device_get(state)

    def wait(self) -> None:
        """Returns when all saves are complete; raises what went wrong with them."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for all saves and releases the folder."""
        self._manager.close()


def of_run(workdir: pathlib.Path, which: str) -> tuple[Checkpoints, int]:
    """A trained run's checkpoints, to be read only, and the step of one of them.

    Args:
        workdir: the run's folder.
        which: 'last', or 'best' on val.

    Raises:
        InputError: if there is none.
    """
    folder = workdir / run_folder.CHECKPOINTS
    if not folder.is_dir():
        raise InputError(f"--workdir={workdir} has no checkpoints yet; train it first")
    checkpoints = Checkpoints(folder, read_only=True)
    step = checkpoints.best_step if which == "best" else checkpoints.last_step
    if step is None:
        raise InputError(f"--workdir={workdir} has no complete checkpoint yet; train it first")
    return checkpoints, step
