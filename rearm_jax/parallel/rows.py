"""How the rows of node tables and of batches are reached, whole on every device or cut by row over the devices.

The collectives (psum, all_gather, psum_scatter) stand here alone; the ring of graphs/row_adjacency.py asks for the next
device through `pass_on`.

With `check_vma=False` (see mesh.py) the transpose of a sum over devices is again a sum over devices, so differentiating
each device's share of the loss gives the gradient of their total with respect to the device's own rows; of parameters
that every device holds it gives a share of the gradient, to be summed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rearm_jax.parallel.blocks import BlockRows, in_blocks

AXIS = "devices"
_BLOCK_ROWS = BlockRows(1024, elsewhere=65536)  # that `sum_rows` transforms at a time


class WholeTable:
    """Reaches the rows of a table that this device holds whole. `RowShard` is the other way.

    Row numbers (`ids`) are those of the whole table, int (b,), whatever part of it this device holds.
    """

    @property
    def first_row(self) -> jax.Array | int:
        """Number of the first row held here."""
        return 0

    def num_held(self, num_rows: int) -> int:
        """Rows that this device holds of a table of `num_rows`, padding included."""
        return num_rows

    def lookup(self, read: Callable[[jax.Array], Any], ids: jax.Array) -> Any:
        """read(places of the ids in what this device holds), a tree of (b, ...) numbers; ids equal on all devices."""
        return read(ids)

    def take(self, table: jax.Array, ids: jax.Array) -> jax.Array:
        """Rows of a table, (b, ...); every device may ask for ids of its own, equally many."""
        return table[ids]

    def mean(self, transform: Callable[[jax.Array], jax.Array], table: jax.Array) -> jax.Array:
        """Mean of transform(rows of a table (n, c)), float (rows, w), over all rows: (w,)."""
        return sum_rows(transform, table, table.shape[0]) / table.shape[0]


WHOLE = WholeTable()


class RowCounts(NamedTuple):
    """Rows of what is cut by row, without padding."""

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


class Nodes(NamedTuple):
    """The users or the items, as a model reaches them: the rows of their tables, and which of them are wanted."""

    rows: WholeTable = WHOLE
    wanted: jax.Array | None = None  # int (b,), numbers of rows; None: all that this device holds

    def num_held(self, num_rows: int) -> int:
        """Rows to make of a table of `num_rows`; see `WholeTable`."""
        return self.rows.num_held(num_rows)

    def take(self, table: jax.Array) -> jax.Array:
        """The wanted rows of a table of which this device holds its part: (b, ...)."""
        return table if self.wanted is None else self.rows.take(table, self.wanted)


ALL = Nodes()


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


ALONE = Shard()


def is_table(path: tuple) -> bool:
    """Whether a leaf (by its path in a tree of parameters, inputs or optimiser state) has a row per user or item."""
    return str(getattr(path[-1], "key", "")).endswith("_table") if path else False


def pass_on(x: jax.Array, num_devices: int, axis: str) -> jax.Array:
    """Every device gives x to the device before it, and gets that of the device behind it."""
    to_previous = [(device, (device - 1) % num_devices) for device in range(num_devices)]
    return jax.lax.ppermute(x, axis, to_previous)


def sum_rows(transform: Callable[[jax.Array], jax.Array], table: jax.Array, count: jax.Array | int) -> jax.Array:
    """Sum of transform(row) over the first rows of a table, in blocks.

    What the transform makes on the way is never whole in memory: the backward pass makes it again, block after block.

    Args:
      transform: float (rows, c) -> float (rows, w), row by row.
      table: float (n, c).
      count: int (), how many rows count; at 0 or below none, from n up all.

    Returns:
      float (w,).
    """
    n, columns = table.shape

    @jax.checkpoint
    def block_sum(block: jax.Array, counts: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(counts, transform(block), 0), axis=0)

    def add(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + block_sum(*block), None

    def sum_blocks(size: int, table: jax.Array, count: jax.Array | int) -> jax.Array:
        if size == n > _BLOCK_ROWS.cpu:
            return block_sum(table, (jnp.arange(n) < count)[:, None])
        blocks = jnp.pad(table, ((0, -n % size), (0, 0))).reshape(-1, size, columns)
        counts = (jnp.arange(len(blocks) * size) < count).reshape(-1, size, 1)
        shape = jax.eval_shape(block_sum, blocks[0], counts[0])
        return jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), (blocks, counts))[0]

    return in_blocks(sum_blocks, _BLOCK_ROWS, n, table, count)
