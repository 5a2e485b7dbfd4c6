"""Parts of a loss that models share: this device's share of each, from its rows of the batch."""

import jax
import jax.numpy as jnp

from rearm_jax.losses import bpr_loss, contrastive_loss, first_occurrence
from rearm_jax.parallel.rows import Shard
from rearm_jax.recommender.contract import Batch, Representations


def row_weights(batch: Batch, shard: Shard) -> jax.Array:
    """float32 (rows,): 1 / (rows of the global batch that count) for this device's rows that do, else 0."""
    count = jnp.maximum(jnp.sum(batch.mask), 1).astype(jnp.float32)
    return shard.rows(batch.mask) / count


def ranking_share(out: Representations, batch: Batch, shard: Shard) -> jax.Array:
    """BPR of the batch's pairs, float32 ()."""
    positives, negatives = jnp.split(out.items, 2)
    positive_scores = jnp.sum(out.users * positives, axis=1)
    negative_scores = jnp.sum(out.users * negatives, axis=1)
    return bpr_loss(positive_scores, negative_scores, row_weights(batch, shard))


def l2_share(user_table: jax.Array, item_table: jax.Array, batch: Batch, shard: Shard) -> jax.Array:
    """Half the squared norm of the batch's rows, users, positives and negatives, mean over the batch; float32 ().

    Args:
      user_table, item_table: float (n, d), the rows that this device holds.
      batch: the global batch.
      shard: which share.
    """
    mine = jax.tree.map(shard.rows, batch)
    items = shard.items.take(item_table, jnp.concatenate([mine.positives, mine.negatives]))
    rows = shard.users.take(user_table, mine.users), *jnp.split(items, 2)
    squares = sum(jnp.sum(row**2, axis=1) for row in rows)
    return jnp.sum(row_weights(batch, shard) * squares) / 2


def batch_items(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The positives, then the negatives of the global batch: int32 (2 b,), and which of them count, bool (2 b,)."""
    return jnp.concatenate([batch.positives, batch.negatives]), jnp.tile(batch.mask, 2)


def contrastive_share(
    first: jax.Array, second: jax.Array, ids: jax.Array, mask: jax.Array, temperature: float, shard: Shard
) -> jax.Array:
    """InfoNCE between two views over the unique ids of the batch, this device's rows of it as anchors; float32 ().

    Args:
      first, second: float (b, d), rows of the global batch.
      ids: int (b,), of those rows.
      mask: bool (b,), those that count.
      temperature: of the softmax.
      shard: which share.
    """
    # The place of an id among the sorted ones stands for it: `first_occurrence` takes memory by the largest id.
    labels = jnp.searchsorted(jnp.sort(ids), ids)
    unique = first_occurrence(labels, mask, ids.shape[0])
    weights = unique / jnp.maximum(jnp.sum(unique), 1).astype(jnp.float32)
    position = jnp.arange(ids.shape[0], dtype=jnp.int32)
    return contrastive_loss(shard.rows(first), second, shard.rows(position), shard.rows(weights), unique, temperature)
