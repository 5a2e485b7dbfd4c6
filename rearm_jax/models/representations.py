"""What every model gives to the losses and the ranking, and how it reaches the rows of the node tables."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_BLOCK_ROWS = 2048  # that `sum_rows` transforms at a time


class Representations(NamedTuple):
    """Output of `model.apply({"params": params}, graphs, train, users, items, rngs=...)`.

    `users` and `items` given to the model choose the rows of the first two fields (None: all); the others are whole.
    A score is the dot product of a row of `users` and a row of `items`. Where the node tables are sharded by row over
    the devices, "all" and "whole" mean the rows that this device holds.
    """

    users: jax.Array  # float (b_u, c), or (num_users, c)
    items: jax.Array  # float (b_i, c), or (num_items, c)
    modal_users: tuple[jax.Array, ...]  # for each modality float (num_users, d); empty in a model without modalities
    modal_items: tuple[jax.Array, ...]  # for each modality float (num_items, d)
    user_ids: jax.Array  # float (num_users, d), the ID embeddings before any propagation
    item_ids: jax.Array  # float (num_items, d)


class WholeTable:
    """Reaches the rows of a table that this device holds whole. `training.parallel.RowShard` is the other way.

    Row numbers (`ids`) are those of the whole table, int (b,), whatever part of it this device holds.
    """

    @property
    def first_row(self) -> jax.Array | int:
        """Number of the first row held here."""
        return 0

    def num_rows(self, table: jax.Array) -> int:
        """Rows of the whole table."""
        return table.shape[0]

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


def take_rows(table: jax.Array, place: WholeTable, ids: jax.Array | None) -> jax.Array:
    """The rows `ids` of a table, or all that this device holds where ids is None."""
    return table if ids is None else place.take(table, ids)


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
    size = min(_BLOCK_ROWS, n)
    blocks = jnp.pad(table, ((0, -n % size), (0, 0))).reshape(-1, size, columns)
    counts = (jnp.arange(len(blocks) * size) < count).reshape(-1, size, 1)

    @jax.checkpoint
    def block_sum(block: jax.Array, counts: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(counts, transform(block), 0), axis=0)

    def add(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + block_sum(*block), None

    shape = jax.eval_shape(block_sum, blocks[0], counts[0])
    return jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), (blocks, counts))[0]
