"""The devices of one run, and the one wrapper that turns a per-device function into a program.

Everywhere else a step is written for one device, with collectives over the named axis `data`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resnet_jax.config import ParallelConfig
from resnet_jax.errors import InputError
from resnet_jax.hosts import Hosts

AXIS = "data"

# How an argument or result lies on the devices: None is a full copy on each, an integer the axis
# along which it is divided.
Axes = Sequence[int | None]


class DeviceMap:
    """Maps functions over devices: `shard_map`, `pmap`, or plain `jit` on a single device.

    Args:
        config: how, and over how many devices, those of all hosts counted.

    Raises:
        InputError: if more devices are asked for than there are, or not equally many of each host,
            or `pmap` on several hosts.

    Attributes:
        hosts: the processes that train together.
        devices: all in use, one host's after the other's.
    """

    def __init__(self, config: ParallelConfig):
        self.hosts = Hosts()
        self.devices = _chosen(config, self.hosts.count)
        count = len(self.devices)
        if self.hosts.count > 1 and config.mapping == "pmap":
            raise InputError(
                f"config.parallel.mapping='pmap' maps over the devices of one host, but "
                f"{self.hosts.count} processes train together; use 'shard_map'"
            )
        # On one CPU device shard_map and pmap cost 40 % (docs/architecture.md).
        self.mapping = "single" if count == 1 else config.mapping
        self._mesh = Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    @property
    def count(self) -> int:
        """The number of devices in use."""
        return len(self.devices)

    @property
    def is_accelerator(self) -> bool:
        """Whether these are GPUs or TPUs."""
        return bool(self.devices[0].platform != "cpu")

    def check_batch(self, batch_size: int) -> None:
        """Refuses a batch that does not divide evenly.

        Raises:
            InputError: naming the nearest sizes that do.
        """
        if batch_size % self.count:
            below = batch_size - batch_size % self.count
            near = [size for size in (below, below + self.count) if size]
            raise InputError(
                f"config.train.batch_size={batch_size} is not divisible by {self.count} devices; "
                f"use {' or '.join(map(str, near))}, or fewer devices (config.parallel.devices)"
            )

    def round_up(self, batch_size: int) -> int:
        """The next batch size that divides evenly."""
        return -(-batch_size // self.count) * self.count

    def compile(
        self,
        function: Callable[..., Any],
        *,
        inputs: Axes,
        outputs: Axes,
        donate: tuple[int, ...] = (),
    ) -> Callable[..., Any]:
        """Compiles a per-device function into one program over all devices.

        Args:
            function: takes and returns each device's share; may use collectives over `AXIS`. All
                arrays are arguments of it: of some that it closes over, jaxlib 0.11.2 crashes where
                there are several devices.
            inputs: one entry for each argument. Copied ones must have gone through `replicate`.
            outputs: one entry for each result (a tuple).
            donate: arguments whose memory the program may reuse.
        """
        if self.mapping == "single":
            # jit alone has no named axis; a vmap of size 1 names it without cost.
            named = jax.vmap(function, in_axes=None, out_axes=None, axis_name=AXIS, axis_size=1)
            return jax.jit(named, donate_argnums=donate)
        if self.mapping == "shard_map":
            # check_vma=True would already sum the gradients of replicated parameters, so that the
            # step's own mean leaves them `count` times too large, without an error.
            mapped = jax.shard_map(
                function,
                mesh=self._mesh,
                in_specs=tuple(_spec(axis) for axis in inputs),
                out_specs=tuple(_spec(axis) for axis in outputs),
                check_vma=False,
            )
            return jax.jit(mapped, donate_argnums=donate)
        program = jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(axis or 0 for axis in inputs),
            out_axes=tuple(axis or 0 for axis in outputs),
            devices=self.devices,
            donate_argnums=donate,
        )
        return _PmapProgram(program, inputs, outputs, self.count)

    def replicate(self, tree: Any) -> Any:
        """Puts a full copy of every array on every device."""
        if self.hosts.count > 1:
            tree = jax.device_get(tree)
            return self._assembled(tree, PartitionSpec())
        if self.mapping == "pmap":
            sharding = NamedSharding(self._mesh, PartitionSpec(AXIS))
            return jax.tree.map(
                lambda x: jax.device_put(np.broadcast_to(x, (self.count, *np.shape(x))), sharding),
                tree,
            )
        sharding = NamedSharding(self._mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)

    def divide(self, tree: Any, axis: int) -> Any:
        """Puts each device's share of every array on it, ahead of the program that takes them.

        Args:
            tree: arrays on the host, which are its share if there are others.
            axis: along which they are divided, as the program's `inputs` say.
        """
        if self.hosts.count > 1:
            return self._assembled(tree, _spec(axis))
        if self.mapping == "pmap":  # which divides and copies by itself
            return tree
        sharding = NamedSharding(self._mesh, _spec(axis))
        return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)

    def on_their_way(self, inputs: Any, axis: int) -> Any:
        """What a program takes of a batch: images put on the devices, indices as they are.

        Args:
            inputs: as `data.feed.Inputs`; on a single host, indices are passed with the call.
            axis: as in `divide`.
        """
        if isinstance(inputs, dict) or self.hosts.count > 1:
            return self.divide(inputs, axis)
        return inputs

    def share(self, array: Any) -> np.ndarray:
        """This host's rows of what a program returned divided along axis 0; a host's as it is."""
        if self.hosts.count == 1 or not isinstance(array, jax.Array):
            return np.asarray(array)
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    def _assembled(self, tree: Any, spec: PartitionSpec) -> Any:
        """Arrays over the devices of all hosts, of what each host has for its own."""
        sharding = NamedSharding(self._mesh, spec)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
        )

    def single_copy(self, tree: Any) -> Any:
        """One copy of what `replicate` made or a program returned as copied, still on device."""
        if self.mapping != "pmap":
            return tree
        # Not x[0], which XLA computes as a sum over devices, with zeros from all but one: that
        # turns -0 into 0, and takes part of every device.
        return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), tree)


def _chosen(config: ParallelConfig, hosts: int) -> list[jax.Device]:
    """Equally many devices of every host."""
    available = jax.local_devices()
    everywhere = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = config.devices or len(everywhere)
    where = f"these {hosts} hosts have" if hosts > 1 else "this machine has"
    if count > len(everywhere):
        raise InputError(
            f"config.parallel.devices={count}, but {where} {len(everywhere)} "
            f"{available[0].platform} device(s); use at most that, or 0 for all"
        )
    by_host = [[d for d in everywhere if d.process_index == host] for host in range(hosts)]
    if count % hosts or count // hosts > min(map(len, by_host)):
        most = min(map(len, by_host)) * hosts
        raise InputError(
            f"config.parallel.devices={count} cannot be divided equally over {hosts} hosts with "
            f"{', '.join(str(len(own)) for own in by_host)} devices; use a multiple of {hosts}, at "
            f"most {most}"
        )
    return [device for own in by_host for device in own[: count // hosts]]


class _PmapProgram:
    """A pmapped program that takes and returns whole arrays where they are divided."""

    def __init__(self, program: Callable[..., Any], inputs: Axes, outputs: Axes, count: int):
        self._program, self._inputs, self._outputs, self._count = program, inputs, outputs, count

    def __call__(self, *arguments: Any) -> Any:
        pairs = zip(arguments, self._inputs, strict=True)
        results = self._program(*(self._divide(value, axis) for value, axis in pairs))
        return tuple(
            value if axis is None else jax.tree.map(lambda x, axis=axis: _join(x, axis), value)
            for value, axis in zip(results, self._outputs, strict=True)
        )

    def _divide(self, value: Any, axis: int | None) -> Any:
        if axis is None:
            return value
        return jax.tree.map(lambda x: _split(x, axis, self._count), value)


def _split(x: Any, axis: int, count: int) -> Any:
    shape = np.shape(x)
    return np.reshape(x, (*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :]))


def _join(x: jax.Array, axis: int) -> jax.Array:
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)
