"""The ways to run a function on many devices: the only file that knows pmap and shard_map.

`data_parallel`: arguments are whole on every device (`in_axes=None`, `out_axes=None`); a device takes its share of the
batch's rows by its place on the axis. In current JAX pmap runs as jit(shard_map), and replicated outputs are global
arrays with `NamedSharding(mesh, P())`.

`row_parallel`: a device also holds only its rows of the node tables, the graphs and the sampler. What the devices
compute is a share of the loss each, as before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rearm_jax.parallel.rows import AXIS, RowCounts, RowShard, Shard, is_table

Devices = Sequence[jax.Device]
_REPLICATED = jax.sharding.PartitionSpec()
_BY_ROW = jax.sharding.PartitionSpec(AXIS)


def data_parallel(fn: Callable, devices: Devices, donate: bool = False) -> Callable:
    """Runs fn(shard, *args) on every device; arguments and results are replicated.

    Args:
      fn: its results must be equal on all devices.
      devices: of all processes.
      donate: whether the result may reuse the buffers of the first of args.

    Returns:
      A function of args, compiled at its first call.
    """
    mesh, count = _mesh(devices), len(devices)
    local = [device for device in devices if device.process_index == jax.process_index()]
    places = np.zeros(len(local), np.int32)

    def on_device(_: jax.Array, first: Any, rest: tuple) -> Any:
        return fn(Shard(jax.lax.axis_index(AXIS), count, AXIS), first, *rest)

    mapped = jax.pmap(
        on_device,
        axis_name=AXIS,
        in_axes=(0, None, None),
        out_axes=None,
        devices=None if len(devices) == jax.device_count() else devices,
        donate_argnums=(1,) if donate else (),
    )

    def call(first: Any, *rest: Any) -> Any:
        results = mapped(places, first, rest)
        if jax.process_count() == 1:
            return results
        # Here pmap's arrays lie on the devices of this process alone: they could not be saved as one checkpoint.
        return multihost_utils.host_local_array_to_global_array(results, mesh, _REPLICATED)

    return call


def data_parallel_program(fn: Callable, devices: Devices, donate: bool = False) -> jax.stages.Wrapped:
    """The jitted shard_map that `data_parallel` stands for; it is lowered for devices that are absent, too.

    Args: as `data_parallel`.
    """
    count = len(devices)

    def on_device(first: Any, rest: tuple) -> Any:
        return fn(Shard(jax.lax.axis_index(AXIS), count, AXIS), first, *rest)

    mapped = jax.shard_map(on_device, mesh=_mesh(devices), in_specs=_REPLICATED, out_specs=_REPLICATED, check_vma=False)
    return jax.jit(lambda first, *rest: mapped(first, rest), donate_argnums=0 if donate else ())


def row_parallel(
    fn: Callable, devices: Devices, counts: RowCounts, example: tuple, donate: bool = False
) -> jax.stages.Wrapped:
    """Runs fn(shard, *args) on every device, each with its rows of what `place_rows` has placed.

    Args:
      fn: its results must be equal on all devices, but for the sharded rows of a donated argument.
      devices: of all processes.
      counts: rows of the tables.
      example: args, or arrays placed alike; what has no placement on all devices is replicated.
      donate: whether the result, or the first of its tuple, takes the place of the first of args: the same tree,
        sharded alike, in the same buffers.

    Returns:
      A jitted function of args.
    """
    count = len(devices)
    in_specs = jax.tree.map(_spec, tuple(example))

    def on_device(*args: Any) -> Any:
        index = jax.lax.axis_index(AXIS)
        tables = [RowShard(total, index, count) for total in counts]
        results = fn(Shard(index, count, AXIS, *tables), *args)
        return (results[0], results[1:]) if donate else results

    mapped = jax.shard_map(
        on_device,
        mesh=_mesh(devices),
        in_specs=in_specs,
        out_specs=(in_specs[0], _REPLICATED) if donate else _REPLICATED,
        check_vma=False,
    )

    def whole(*args: Any) -> Any:
        if not donate:
            return mapped(*args)
        first, rest = mapped(*args)
        return first, *rest

    return jax.jit(whole, donate_argnums=0 if donate else ())


def ring_order(devices: Devices) -> tuple[jax.Device, ...]:
    """The devices in the order in which a ring goes through them, so that what is passed on crosses one link.

    Chips of a TPU that lie on a grid: back and forth through all of it but the first column, and by that column back.
    Each and the next are neighbours, as are the last and the first where one side of the grid is even. Other devices
    stay as they are.
    """
    places = [tuple(getattr(device, "coords", (0,))) for device in devices]
    sides = [max(side) + 1 for side in zip(*places, strict=True)]
    if len(sides) < 2 or not sides[0] * sides[1] == len(set(places)) == len(devices):
        return tuple(devices)
    down, across = (0, 1) if sides[0] % 2 == 0 else (1, 0)

    def turn(place: tuple[int, ...]) -> int:
        row, column, width = place[down], place[across], sides[across]
        if column == 0:
            return -row % len(devices)
        return 1 + row * (width - 1) + (width - 1 - column if row % 2 else column - 1)

    return tuple(device for _, device in sorted(zip(map(turn, places), devices, strict=True), key=lambda pair: pair[0]))


def replicate(tree: Any, devices: Devices) -> Any:
    """Puts every array of the tree on every device, whole, so that no call copies it again."""
    return jax.device_put(tree, replicated(devices))


def place_rows(tree: Any, devices: Devices) -> Any:
    """Cuts every array of the tree into equal runs of rows, zeros behind the last, and puts each on its device."""
    sharding, count = by_row(devices), len(devices)

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        held = -(-len(x) // count)

        def run(index: Any) -> np.ndarray:
            start = index[0].start or 0
            rows = x[start : start + held]
            return np.pad(rows, ((0, held - len(rows)),) + ((0, 0),) * (x.ndim - 1))

        return jax.make_array_from_callback((held * count, *x.shape[1:]), sharding, run)

    return jax.tree.map(place, tree)


def sharded_like(tree: Any, devices: Devices) -> Any:
    """Shapes, dtypes and shardings of a tree of parameters or a state whose tables are sharded by row.

    Args:
      tree: of arrays or jax.ShapeDtypeStruct with the tables' true numbers of rows.
      devices: that share them.
    """

    def like(path: tuple, x: Any) -> jax.ShapeDtypeStruct:
        if not is_table(path):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(devices))
        rows = -(-x.shape[0] // len(devices)) * len(devices)
        return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=by_row(devices))

    return jax.tree_util.tree_map_with_path(like, tree)


def unpadded(tree: Any, table_rows: Mapping[str, int]) -> Any:
    """Shapes and dtypes of a tree, its tables without padding.

    Args:
      tree: of whatever has a shape and a dtype.
      table_rows: first word of a table's name ("user", "item") -> its true rows; other tables stay as they are.
    """

    def like(path: tuple, x: Any) -> Any:
        rows = table_rows.get(path[-1].key.split("_")[0]) if is_table(path) else None
        return x if rows is None else jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)

    return jax.tree_util.tree_map_with_path(like, tree)


def replicated(devices: Devices) -> jax.sharding.NamedSharding:
    """The sharding of what lies whole on every device."""
    return jax.sharding.NamedSharding(_mesh(devices), _REPLICATED)


def by_row(devices: Devices) -> jax.sharding.NamedSharding:
    """The sharding of what is cut by row over the devices."""
    return jax.sharding.NamedSharding(_mesh(devices), _BY_ROW)


def _spec(x: Any) -> jax.sharding.PartitionSpec:
    sharding = getattr(x, "sharding", None)
    return sharding.spec if isinstance(sharding, jax.sharding.NamedSharding) else _REPLICATED


def _mesh(devices: Devices) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.asarray(devices), (AXIS,))
