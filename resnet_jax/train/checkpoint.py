"""Checkpoints by Orbax: the last few and the best on val, written in the background.

Orbax commits a step in one go, but neither notices damage afterwards nor falls back to an older
step. Each step has a manifest therefore, and only intact ones are restored.
"""

import errno
import functools
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
from resnet_jax.errors import InputError, first_line
from resnet_jax.hosts import Hosts
from resnet_jax.train import manifest

LOG = logging.getLogger(__name__)

# In the names of steps that Orbax has not finished.
DRAFT = ".orbax-checkpoint-tmp"
# At the end of the name of a step that is being saved anew; it stays until the new one is complete.
REPLACED = ".replaced"
# What Orbax calls the one thing that is saved.
ITEM = "default"
# Damaged steps are moved here, beside the folder of the good ones, and never deleted.
DAMAGED = "damaged_checkpoints"
# Saves that may be left out for want of space before the run fails.
MOST_MISSED = 3
# Orbax gives a save ten minutes by the wall clock, so that a clock put right would end it; this is
# three years, in seconds.
NO_TIMEOUT = 10**8
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

    Where several hosts train together, all see the folder and call every method, each writes its
    part of a state, and the leader moves and deletes.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 1, read_only: bool = False):
        self._folder, self._read_only = folder.absolute(), read_only
        self._saving: int | None = None
        self._missed = 0
        self._keep = keep
        self._hosts = Hosts()
        if not read_only:
            self._hosts.lead(self._clear_up)

    def _clear_up(self) -> None:
        """Half-written steps of a process that died; the run's lock keeps living ones out."""
        for left in self._folder.glob(f"*{DRAFT}*"):
            shutil.rmtree(left, ignore_errors=True)
        for old in self._folder.glob(f"*{REPLACED}"):
            new = old.with_suffix("")
            shutil.rmtree(old) if new.exists() else old.rename(new)

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Orbax's; opened late, when damaged steps are out of its way."""
        options = ocp.CheckpointManagerOptions(
            # best_fn is needed for best_step(), the policy for keeping the newest beside it.
            best_fn=_val_error,
            best_mode="min",
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [
                    preservation_policy.LatestN(self._keep),
                    preservation_policy.BestN(get_metric_fn=_val_error, reverse=True, n=1),
                ]
            ),
            read_only=self._read_only,
            create=not self._read_only,
            async_options=ocp.AsyncOptions(
                timeout_secs=NO_TIMEOUT, post_finalization_callback=self._note
            ),
        )
        return ocp.CheckpointManager(self._folder, options=options)

    @property
    def last_step(self) -> int | None:
        """The newest complete step, or None."""
        return cast(int | None, self._manager.latest_step())

    @property
    def steps(self) -> list[int]:
        """All complete steps that are kept, damaged ones too, in order."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    @property
    def best_step(self) -> int | None:
        """The step with the lowest error on val, or None."""
        return cast(int | None, self._manager.best_step())

    def damaged(self) -> dict[int, str]:
        """The steps that are not as they were written, and why, newest first."""
        found = {step: manifest.damage(self._folder / str(step)) for step in reversed(self.steps)}
        return {step: reason for step, reason in found.items() if reason}

    def newest_intact(self) -> int | None:
        """The newest step that is as it was written; None if there is no step at all.

        Damaged ones are told of and moved aside, older ones too: Orbax reads a record of every step
        when it opens the folder, and stops at one that it cannot read.

        Raises:
            InputError: if there are steps and all are damaged; they are left where they are.
        """
        return self._hosts.lead(self._newest_intact)

    def _newest_intact(self) -> int | None:
        damaged = self.damaged()
        intact = [step for step in self.steps if step not in damaged]
        if damaged and not intact:
            newest, reason = next(iter(damaged.items()))
            raise InputError(
                f"all checkpoints in {self._folder} are damaged (the newest, {newest}: {reason}); "
                "nothing was deleted; start again in another --workdir"
            )
        for step, reason in damaged.items():
            LOG.warning("checkpoint %d is damaged (%s); taking %d", step, reason, intact[-1])
            self._put_aside(step)
        return intact[-1] if intact else None

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
        if not self._hosts.lead(lambda: self._has_room(state, last)):
            return
        error = UNKNOWN_ERROR if val_error is None else val_error
        self._saving = step
        # Forced, for Orbax passes over a step that is not newer than all others, without a word.
        self._manager.save(
            step,
            args=ocp.args.StandardSave(self._shared(state)),
            metrics={"val_error": error},
            force=True,
        )

    def _shared(self, state: Any) -> Any:
        """The state as arrays that lie on all hosts, which Orbax then has each write a part of."""
        if self._hosts.count == 1:
            return state
        firsts = {device.process_index: device for device in reversed(jax.devices())}
        mesh = jax.sharding.Mesh([firsts[i] for i in range(self._hosts.count)], ("host",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), state
        )

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

        So the manifest appears with the step, in one go. By then all hosts have written.
        """
        if not self._hosts.leads:
            return
        (draft,) = self._folder.glob(f"{self._saving}{DRAFT}*")
        manifest.write(draft)

    def _put_aside(self, step: int) -> None:
        if self._read_only:
            return
        target = self._folder.parent / DAMAGED
        target.mkdir(exist_ok=True)
        taken = len(list(target.glob(f"{step}*")))  # after a second damage of the same step
        (self._folder / str(step)).rename(target / (f"{step}-{taken}" if taken else str(step)))
        if "_manager" in vars(self):  # opened already
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
            # Not by the manager, which would read something of every other step as well.
            with ocp.StandardCheckpointer() as reader:
                state = reader.restore(self._folder / str(step) / ITEM, template)
        except (ValueError, OSError, KeyError) as error:
            raise InputError(
                f"checkpoint {step} in {self._folder} cannot be restored ({first_line(error)}); "
                "delete it to go on from an older one, or choose another workdir"
            ) from error
        return jax.device_get(state)

    def replace(self, step: int, state: Any, val_error: float | None) -> None:
        """Saves a step anew, and waits for it; the old one stays until the new one is complete.

        Args:
            step: one that exists.
            state: a tree of arrays.
            val_error: percent, or None if it was not measured.

        Raises:
            OSError: if the save failed or there is no room for it; the old one comes back when the
                folder is opened the next time.
        """
        self.wait()
        old = self._folder / f"{step}{REPLACED}"
        self._hosts.lead(lambda: bool((self._folder / str(step)).rename(old)))
        self._manager.reload()
        self.save(step, state, val_error, last=True)
        self.wait()
        self._hosts.lead(lambda: shutil.rmtree(old))

    def check(self) -> None:
        """Raises what went wrong with a save that has ended; does not wait for one under way.

        Not on several hosts, where saves end together and the next one asks.
        """
        if self._hosts.count > 1:
            return
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self._manager.wait_until_finished()
            self._saving = None

    def wait(self) -> None:
        """Returns when all saves are complete; raises what went wrong with them."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for all saves and releases the folder."""
        if "_manager" in vars(self):
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
    if which == "best":
        # Which one is the best stands in the checkpoints themselves.
        for number, reason in checkpoints.damaged().items():
            raise InputError(
                f"--workdir={workdir}: checkpoint {number} is damaged ({reason}), so which is the "
                "best on val is not known; use --checkpoint=last"
            )
        step = checkpoints.best_step
    else:
        step = checkpoints.newest_intact()
    if step is None:
        raise InputError(f"--workdir={workdir} has no complete checkpoint yet; train it first")
    return checkpoints, step
