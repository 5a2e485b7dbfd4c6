"""Parts of a loss that models share: this device's share of each, from its rows of the batch."""

import jax
import jax.numpy as jnp

from rearm_jax.losses import (
    bpr_loss,
    contrastive_loss,
    first_among_pairs,
    first_occurrence,
    normalize_rows,
    softmax_loss,
)
from rearm_jax.parallel.rows import Shard
from rearm_jax.recommender.contract import Batch


def row_weights(batch: Batch, shard: Shard) -> jax.Array:
    """float32 (rows,): 1 / (rows of the global batch that count) for this device's rows that do, else 0."""
    count = jnp.maximum(jnp.sum(batch.mask), 1).astype(jnp.float32)
    return shard.rows(batch.mask) / count


def bpr_share(users: jax.Array, items: jax.Array, batch: Batch, shard: Shard) -> jax.Array:
    """BPR of the batch's pairs, float32 ().

    Args:
      users: float (rows, c), this device's rows of the batch.
      items: float (2 rows, c), their positives, then their negatives.
      batch: the global batch.
      shard: which share.
    """
    positives, negatives = jnp.split(items, 2)
    positive_scores = jnp.sum(users * positives, axis=1)
    negative_scores = jnp.sum(users * negatives, axis=1)
    return bpr_loss(positive_scores, negative_scores, row_weights(batch, shard))


def softmax_share(
    users: jax.Array, items: jax.Array, batch: Batch, shard: Shard, similarity: str, temperature: jax.Array | float
) -> jax.Array:
    """Softmax of each row's positive among the shared negatives that are not the user's own items, float32 ().

    Args:
      users: float (rows, c), this device's rows of the batch.
      items: float (rows + n, c), their positives, then all shared negatives.
      batch: the global batch, with shared negatives.
      shard: which share.
      similarity: "dot" or "cosine" of users and items.
      temperature: divides the similarities.
    """
    if similarity == "cosine":
        users, items = normalize_rows(users), normalize_rows(items)
    positives, negatives = jnp.split(items, [len(users)])
    users = users * (1 / temperature)
    others = ~shard.rows(_own(batch))
    return softmax_loss(jnp.sum(users * positives, axis=1), users @ negatives.T, others, row_weights(batch, shard))


def l2_share(user_table: jax.Array, item_table: jax.Array, batch: Batch, shard: Shard) -> jax.Array:
    """`l2_of_rows` of the batch's rows of two tables, float32 ().

    Args:
      user_table, item_table: float (n, d), the rows that this device holds.
      batch: the global batch.
      shard: which share.
    """
    return l2_of_rows(*_rows(user_table, item_table, batch, shard), batch, shard)


def l2_norm_share(user_table: jax.Array, item_table: jax.Array, batch: Batch, shard: Shard) -> jax.Array:
    """`l2_norm_of_rows` of the batch's rows of two tables, float32 (). Arguments as in `l2_share`."""
    return l2_norm_of_rows(*_rows(user_table, item_table, batch, shard), batch, shard)


def l2_of_rows(users: jax.Array, items: jax.Array, batch: Batch, shard: Shard) -> jax.Array:
    """Half the squared norm of the rows, users, positives and negatives, mean over the batch; float32 ().

    Shared negatives count by their own mean.

    Args:
      users: float (rows, d), this device's rows of the batch.
      items: float (rows + n, d), their positives, then their negatives, or all shared negatives.
      batch: the global batch.
      shard: which share.
    """
    weights = row_weights(batch, shard)
    num_shared = len(items) - len(users)
    shared = batch.own is not None  # then every device has all negatives
    negatives = jnp.full(num_shared, 1 / (num_shared * shard.count), jnp.float32) if shared else weights
    squares = jnp.sum(users**2, axis=1), jnp.sum(items**2, axis=1)
    return (weights @ squares[0] + jnp.concatenate([weights, negatives]) @ squares[1]) / 2


def l2_norm_of_rows(users: jax.Array, items: jax.Array, batch: Batch, shard: Shard) -> jax.Array:
    """The norms (not squared) of the matrices of all users, positives and negatives of the batch, added up and divided
    by its rows; float32 (). What RecBole and MMRec call EmbLoss. Arguments as in `l2_of_rows`.
    """
    counts = shard.rows(batch.mask).astype(jnp.float32)
    num_shared = len(items) - len(users)
    shared = batch.own is not None
    negatives = jnp.full(num_shared, 1 / shard.count, jnp.float32) if shared else counts
    positive_squares, negative_squares = jnp.split(jnp.sum(items**2, axis=1), [len(users)])
    # The norms couple all rows: the devices add the squares up, and each gives its part.
    squares = shard.sum(
        jnp.stack([counts @ jnp.sum(users**2, axis=1), counts @ positive_squares, negatives @ negative_squares])
    )
    return jnp.sum(_root(squares)) / jnp.maximum(jnp.sum(batch.mask), 1) / shard.count


def _rows(user_table: jax.Array, item_table: jax.Array, batch: Batch, shard: Shard) -> tuple[jax.Array, jax.Array]:
    """This device's rows of the batch: (users, positives above negatives)."""
    mine = batch.map_rows(shard.rows)
    items = jnp.concatenate([mine.positives, mine.negatives])
    return shard.users.take(user_table, mine.users), shard.items.take(item_table, items)


def batch_items(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The positives, then the negatives of the global batch: int32 (m,), and which of them count, bool (m,)."""
    counts = batch.mask if batch.own is None else jnp.ones(batch.negatives.shape, bool)
    return jnp.concatenate([batch.positives, batch.negatives]), jnp.concatenate([batch.mask, counts])


def contrastive_share(
    first: jax.Array, second: jax.Array, ids: jax.Array, mask: jax.Array, temperature: jax.Array | float, shard: Shard
) -> jax.Array:
    """InfoNCE between two views over the unique ids of the batch, this device's rows of it as anchors; float32 ().

    Args:
      first, second: float (b, d), rows of the global batch.
      ids: int (b,), of those rows.
      mask: bool (b,), those that count.
      temperature: of the softmax.
      shard: which share.
    """
    unique = _first_of_each(ids, mask)
    weights = unique / jnp.maximum(jnp.sum(unique), 1).astype(jnp.float32)
    position = jnp.arange(ids.shape[0], dtype=jnp.int32)
    anchors, targets, weights = (shard.rows(shard.pad(x)) for x in (first, position, weights))
    return contrastive_loss(anchors, second, targets, weights, unique, temperature)


def _first_of_each(ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Marks each distinct id of the mask once, where it first stands: bool (b,)."""

    def by_sorting(ids: jax.Array, mask: jax.Array) -> jax.Array:
        # The place of an id among the sorted ones stands for it: `first_occurrence` takes memory by the largest id.
        return first_occurrence(jnp.searchsorted(jnp.sort(ids), ids), mask, ids.shape[0])

    # Sorting is slow on an accelerator, and all pairs are few beside the products of InfoNCE.
    return jax.lax.platform_dependent(ids, mask, cpu=by_sorting, default=first_among_pairs)


def _own(batch: Batch) -> jax.Array:
    if batch.own is None:
        raise ValueError("the softmax needs negatives that the rows of the batch share")
    return batch.own


def _root(x: jax.Array) -> jax.Array:
    """sqrt(x), with gradient 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
