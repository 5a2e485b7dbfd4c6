"""The ways to share the work: the only file that knows pmap and shard_map.

`data_parallel`: state, graphs and sampler are whole on every device (`in_axes=None`, `out_axes=None`); a device takes
its share of the batch's rows by its place on the axis. In current JAX pmap runs as jit(shard_map), and replicated
outputs are global arrays with `NamedSharding(mesh, P())`.

`row_parallel`: a device also holds only its rows of the node tables, the graphs and the sampler. What the devices
compute is a share of the loss each, as before. With `check_vma=False` the transpose of a sum over devices is again a
sum over devices, so differentiating the shares gives the gradient of their total with respect to a device's own rows;
of parameters that every device holds it gives a share of the gradient, to be summed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from rearm_jax.models.representations import WHOLE, WholeTable, sum_rows

AXIS = "devices"
_REPLICATED = jax.sharding.PartitionSpec()
_BY_ROW = jax.sharding.PartitionSpec(AXIS)


class RowCounts(NamedTuple):
    """Rows of the tables that `row_parallel` shards, without padding."""

    users: int
    items: int
    interactions: int


@dataclasses.dataclass(frozen=True)
class RowShard(WholeTable):
    """One device's equal run of the rows of a table; the last devices may hold padding, or nothing but padding."""

    total: int
    index: jax.Array  # int32 (), of the device
    count: int  # devices

    @property
    def first_row(self) -> jax.Array:
        return self.index * self.num_held(self.total)

    @property
    def is_row(self) -> jax.Array:
        """bool (held,), False for padding."""
        held = self.num_held(self.total)
        return self.first_row + jnp.arange(held, dtype=jnp.int32) < self.total

    def num_rows(self, table: jax.Array) -> int:
        return self.total

    def num_held(self, num_rows: int) -> int:
        return -(-num_rows // self.count)

    def lookup(self, read: Callable[[jax.Array], Any], ids: jax.Array) -> Any:
        return jax.lax.psum(self._read_held(read, ids), AXIS)

    def take(self, table: jax.Array, ids: jax.Array) -> jax.Array:
        everyones = jax.lax.all_gather(ids, AXIS, tiled=True)
        rows = self._read_held(lambda places: table[places], everyones)
        return jax.lax.psum_scatter(rows, AXIS, tiled=True)

    def mean(self, transform: Callable[[jax.Array], jax.Array], table: jax.Array) -> jax.Array:
        return jax.lax.psum(sum_rows(transform, table, self.total - self.first_row), AXIS) / self.total

    def _read_held(self, read: Callable[[jax.Array], Any], ids: jax.Array) -> Any:
        place = ids - self.first_row
        held = self.num_held(self.total)
        is_held = (place >= 0) & (place < held)
        rows = read(jnp.clip(place, 0, held - 1))
        return jax.tree.map(lambda x: jnp.where(is_held.reshape(-1, *[1] * (x.ndim - 1)), x, 0), rows)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A device's place among those that share the work."""

    index: jax.Array | int = 0  # int32 ()
    count: int = 1
    axis: str | None = None  # name of the mapped axis; None outside of a mapped function
    users: WholeTable = WHOLE  # how the rows of the users' tables are reached
    items: WholeTable = WHOLE
    interactions: WholeTable = WHOLE  # of the sampler

    @property
    def by_row(self) -> bool:
        """Whether this device holds only its rows of the tables."""
        return isinstance(self.users, RowShard)

    def rows(self, x: jax.Array) -> jax.Array:
        """This device's rows of x (n, ...), n a multiple of `count`: (n / count, ...)."""
        size = x.shape[0] // self.count
        return jax.lax.dynamic_slice_in_dim(x, self.index * size, size)

    def pad(self, x: jax.Array) -> jax.Array:
        """x (n, ...) with zero rows behind it, up to a multiple of `count`."""
        return jnp.pad(x, ((0, -x.shape[0] % self.count),) + ((0, 0),) * (x.ndim - 1))

    def sum(self, tree: Any) -> Any:
        """The sum over all devices of each array."""
        # The sum over one device is a copy of every gradient, on a CPU.
        return tree if self.count == 1 else jax.lax.psum(tree, self.axis)

    def gather(self, x: jax.Array) -> jax.Array:
        """The rows of all devices, one after the other: (n, ...) -> (n * count, ...)."""
        return x if self.count == 1 else jax.lax.all_gather(x, self.axis, tiled=True)

    def sum_gradients(self, grads: dict) -> dict:
        """The gradients of the whole loss, from this device's share; of sharded tables those of the rows held."""
        if not self.by_row:
            return self.sum(grads)
        return jax.tree_util.tree_map_with_path(lambda path, g: g if is_table(path) else self.sum(g), grads)

    def norm(self, grads: dict) -> jax.Array:
        """The norm of all summed gradients, float32 ()."""
        if not self.by_row:
            return optax.tree.norm(grads)
        squares = {True: jnp.float32(0), False: jnp.float32(0)}
        for path, g in jax.tree_util.tree_leaves_with_path(grads):
            squares[is_table(path)] += jnp.sum(g**2)
        return jnp.sqrt(self.sum(squares[True]) + squares[False])


def is_table(path: tuple) -> bool:
    """Whether a leaf (by its path in a tree of parameters or optimiser state) has one row per user or item."""
    return str(getattr(path[-1], "key", "")).endswith("_table") if path else False


def data_parallel(fn: Callable, donate: int | None = None) -> Callable:
    """Runs fn(shard, *args) on every device; arguments and results are replicated.

    Args:
      fn: its results must be equal on all devices.
      donate: position among args of one whose buffers the result may reuse.

    Returns:
      A function of args, compiled at its first call.
    """
    count = jax.device_count()
    places = np.zeros(jax.local_device_count(), np.int32)

    def on_device(_: jax.Array, *args: Any) -> Any:
        return fn(Shard(jax.lax.axis_index(AXIS), count, AXIS), *args)

    compiled: dict[int, Callable] = {}

    def call(*args: Any) -> Any:
        if len(args) not in compiled:
            compiled[len(args)] = jax.pmap(
                on_device,
                axis_name=AXIS,
                in_axes=(0,) + (None,) * len(args),
                out_axes=None,
                donate_argnums=() if donate is None else (donate + 1,),
            )
        results = compiled[len(args)](places, *args)
        if jax.process_count() == 1:
            return results
        # Here pmap's arrays lie on the devices of this process alone: they could not be saved as one checkpoint.
        return multihost_utils.host_local_array_to_global_array(results, _mesh(), _REPLICATED)

    return call


def row_parallel(fn: Callable, counts: RowCounts, example: tuple, donate: int | None = None) -> Callable:
    """Runs fn(shard, *args) on every device, each with its rows of what `place_rows` has placed.

    Args:
      fn: its results must be equal on all devices, but for the sharded rows of a donated argument.
      counts: rows of the tables.
      example: args, or arrays placed alike; what has no placement on all devices is replicated.
      donate: position among args of one whose buffers the result may reuse. The result, or the first of its tuple,
        takes its place: the same tree, sharded alike.

    Returns:
      A jitted function of args.
    """
    count = jax.device_count()
    in_specs = jax.tree.map(_spec, tuple(example))

    def on_device(*args: Any) -> Any:
        index = jax.lax.axis_index(AXIS)
        tables = [RowShard(total, index, count) for total in counts]
        results = fn(Shard(index, count, AXIS, *tables), *args)
        return results if donate is None else (results[0], results[1:])

    mapped = jax.shard_map(
        on_device,
        mesh=_mesh(),
        in_specs=in_specs,
        out_specs=_REPLICATED if donate is None else (in_specs[donate], _REPLICATED),
        check_vma=False,
    )

    def whole(*args: Any) -> Any:
        if donate is None:
            return mapped(*args)
        first, rest = mapped(*args)
        return first, *rest

    return jax.jit(whole, donate_argnums=() if donate is None else donate)


def replicate(tree: Any) -> Any:
    """Puts every array of the tree on every device, whole, so that no call copies it again."""
    return jax.device_put(tree, jax.sharding.NamedSharding(_mesh(), _REPLICATED))


def place_rows(tree: Any) -> Any:
    """Cuts every array of the tree into equal runs of rows, zeros behind the last, and puts each on its device."""
    sharding = jax.sharding.NamedSharding(_mesh(), _BY_ROW)

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        held = -(-len(x) // jax.device_count())

        def run(index: Any) -> np.ndarray:
            start = index[0].start or 0
            rows = x[start : start + held]
            return np.pad(rows, ((0, held - len(rows)),) + ((0, 0),) * (x.ndim - 1))

        return jax.make_array_from_callback((held * jax.device_count(), *x.shape[1:]), sharding, run)

    return jax.tree.map(place, tree)


def sharded_like(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of parameters or a state whose tables are sharded by row.

    Args:
      tree: of arrays or jax.ShapeDtypeStruct with the tables' true numbers of rows.
    """

    def like(path: tuple, x: Any) -> jax.ShapeDtypeStruct:
        if not is_table(path):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.NamedSharding(_mesh(), _REPLICATED))
        rows = -(-x.shape[0] // jax.device_count()) * jax.device_count()
        return jax.ShapeDtypeStruct(
            (rows, *x.shape[1:]), x.dtype, sharding=jax.sharding.NamedSharding(_mesh(), _BY_ROW)
        )

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


def _spec(x: Any) -> jax.sharding.PartitionSpec:
    sharding = getattr(x, "sharding", None)
    return sharding.spec if isinstance(sharding, jax.sharding.NamedSharding) else _REPLICATED


def _mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(jax.devices(), (AXIS,))
