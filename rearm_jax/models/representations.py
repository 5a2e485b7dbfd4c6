"""What every model gives to the losses and the ranking, and how it reaches the rows of the node tables."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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

    def mean(self, table: jax.Array) -> jax.Array:
        """Mean of all rows of a table (n, c): (c,)."""
        return jnp.mean(table, axis=0)


WHOLE = WholeTable()


def take_rows(table: jax.Array, place: WholeTable, ids: jax.Array | None) -> jax.Array:
    """The rows `ids` of a table, or all that this device holds where ids is None."""
    return table if ids is None else place.take(table, ids)
