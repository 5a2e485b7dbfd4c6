"""`rank_items` where node tables are cut by row over the devices."""

from typing import cast

import jax
import jax.numpy as jnp

from rearm_jax.evaluation.ranking import UserBlocks, rank_scores
from rearm_jax.parallel.rows import RowShard, Shard


def rank_items_by_row(
    shard: Shard, user_vectors: jax.Array, item_vectors: jax.Array, blocks: UserBlocks, k: int
) -> jax.Array:
    """`rank_items`, where every device ranks its own items for every user.

    The best of the devices' best are the best of all; a device holds block x num_items / devices scores at a time.

    Args:
      shard: this device's place.
      user_vectors, item_vectors: float (n, c), the rows that it holds.
      blocks: users and excluded items by their numbers in the whole tables.
      k: number of items in a list.

    Returns:
      int32 (num_blocks, block, k), as `rank_items` has it.
    """
    mine_rows = cast(RowShard, shard.items)
    first, held = mine_rows.first_row, item_vectors.shape[0]

    def rank_block(block: UserBlocks) -> jax.Array:
        users = shard.users.lookup(lambda places: user_vectors[places], block.users)
        scores = jnp.matmul(
            users, item_vectors.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )
        excluded = block.excluded_items - first
        is_held = (excluded >= 0) & (excluded < held)
        mine = block._replace(
            excluded_rows=jnp.where(is_held, block.excluded_rows, len(block.users)),  # out of bounds: dropped
            excluded_items=jnp.where(is_held, excluded, 0),
        )
        items, scores = rank_scores(jnp.where(mine_rows.is_row, scores, -jnp.inf), mine, min(k, held))
        items = jnp.where(items >= 0, items + first, -1)
        # Equal scores keep the order of the devices, which is that of the items.
        all_items, all_scores = shard.gather(items.T).T, shard.gather(scores.T).T
        _, best = jax.lax.top_k(all_scores, k)
        return jnp.take_along_axis(all_items, best, axis=1)

    return jax.lax.map(rank_block, blocks)
