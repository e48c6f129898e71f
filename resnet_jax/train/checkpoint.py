"""Checkpoints by Orbax: the last few and the best on val, written in the background.

Orbax commits a step in one go, but neither notices damage afterwards nor falls back to an older
step. Each step has a manifest therefore, and only intact ones are restored.
"""

import errno
import logging
import os
import pathlib
import shutil
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from resnet_jax import run_folder
from resnet_jax.errors import InputError
from resnet_jax.train import manifest

LOG = logging.getLogger(__name__)

# In the names of steps that Orbax has not finished.
DRAFT = ".orbax-checkpoint-tmp"
# Damaged steps are moved here, beside the folder of the good ones, and never deleted.
DAMAGED = "damaged_checkpoints"
# Saves that may be left out for want of space before the run fails.
MOST_MISSED = 3
# What a step without validation counts as: worse than any error in percent.
UNKNOWN_ERROR = 1e9


def _val_error(metrics: dict[str, float]) -> float:
    return metrics["val_error"]


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: made if it is not there.
        keep: how many of the newest stay; the best on val stays beside them.
        read_only: open for looking only; nothing is created, moved or deleted.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 1, read_only: bool = False):
        self._folder, self._read_only = folder.absolute(), read_only
        self._saving: int | None = None
        self._missed = 0
        if not read_only:
            # Half-written ones of a process that died; the run's lock keeps living ones out.
            for left in self._folder.glob(f"*{DRAFT}*"):
                shutil.rmtree(left, ignore_errors=True)
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
            async_options=ocp.AsyncOptions(post_finalization_callback=self._note),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

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

    def newest_intact(self) -> int | None:
        """The newest step that is as it was written; None if there is no step at all.

        Damaged ones that are newer are told of and moved aside.

        Raises:
            InputError: if there are steps and all are damaged; they are left where they are.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            reason = manifest.damage(self._folder / str(step))
            if reason is None:
                for number, why in damaged.items():
                    LOG.warning("checkpoint %d is damaged (%s); taking %d", number, why, step)
                    self._put_aside(number)
                return step
            damaged[step] = reason
        if damaged:
            newest, reason = next(iter(damaged.items()))
            raise InputError(
                f"all checkpoints in {self._folder} are damaged (the newest, {newest}: {reason}); "
                "nothing was deleted; start again in another --workdir"
            )
        return None

    def save(self, step: int, state: Any, val_error: float | None, *, last: bool = False) -> None:
        """Starts saving; returns once the state is copied. Waits for a save still under way.

        Args:
            step: of the state.
            state: a tree of arrays.
            val_error: percent, or None if it was not measured.
            last: nothing comes after it, so it must not be left out.

        Raises:
            OSError: if the save before failed, or if there is no room for this one and it is the
                last, or the third in a row.
        """
        self._manager.wait_until_finished()
        if not self._has_room(state, last):
            return
        error = UNKNOWN_ERROR if val_error is None else val_error
        self._saving = step
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics={"val_error": error})

    def _has_room(self, state: Any, last: bool) -> bool:
        """Whether there is room for twice the state: an old step goes only after a new one came."""
        wanted = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if free >= wanted:
            self._missed = 0
            return True
        self._missed += 1
        room = f"a checkpoint needs {wanted / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free"
        if last or self._missed == MOST_MISSED:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {room}", str(self._folder))
        LOG.warning("%s in %s; left out, tried again at the next one", room, self._folder)
        return False

    def _note(self) -> None:
        """Called by Orbax in its own thread, when a step is complete and not yet renamed.

        So the manifest appears with the step, in one go.
        """
        (draft,) = self._folder.glob(f"{self._saving}{DRAFT}*")
        manifest.write(draft)

    def _put_aside(self, step: int) -> None:
        if self._read_only:
            return
        target = self._folder.parent / DAMAGED
        target.mkdir(exist_ok=True)
        taken = len(list(target.glob(f"{step}*")))  # after a second damage of the same step
        (self._folder / str(step)).rename(target / (f"{step}-{taken}" if taken else str(step)))
        self._manager.reload()

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
        InputError: if there is none, or it is damaged.
    """
    folder = workdir / run_folder.CHECKPOINTS
    if not folder.is_dir():
        raise InputError(f"--workdir={workdir} has no checkpoints yet; train it first")
    checkpoints = Checkpoints(folder, read_only=True)
    step = checkpoints.best_step if which == "best" else checkpoints.newest_intact()
    if step is None:
        raise InputError(f"--workdir={workdir} has no complete checkpoint yet; train it first")
    reason = manifest.damage(folder / str(step))
    if reason:
        raise InputError(
            f"--workdir={workdir}: checkpoint {step}, the best on val, is damaged ({reason}); "
            "use --checkpoint=last"
        )
    return checkpoints, step
