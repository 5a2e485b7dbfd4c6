"""Two yardsticks without a model, most-popular and random, under the masking and the metrics of every model."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rearm_jax.data.dataset import Dataset
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.ranking import UserBlocks, rank_items, rank_scores
from rearm_jax.evaluation.splits import blocks_and_positives


def most_popular_scores(train: np.ndarray, num_items: int) -> np.ndarray:
    """How often each item occurs in train: int32 (n, 2) [user, item] -> float32 (num_items,), exact below 2**24."""
    return np.bincount(train[:, 1], minlength=num_items).astype(np.float32)


def most_popular_metrics(dataset: Dataset, split: str, ks: Sequence[int], block_size: int = 1024) -> dict[str, float]:
    """Metrics of recommending to everyone the items most frequent in train; ties by lower item id.

    Args:
      dataset: its train pairs are counted, and excluded from each user's list.
      split: "valid" or "test".
      ks: cut-offs, none above the number of items.
      block_size: users ranked at a time.

    Returns:
      `{"recall@20": ..., ...}` as `ranking_metrics`.

    Raises:
      ValueError: a cut-off is below 1 or larger than the number of items.
    """
    blocks, positives = blocks_and_positives(dataset, split, block_size)
    user_vectors = jnp.ones((dataset.num_users, 1))
    item_vectors = most_popular_scores(dataset.train, dataset.num_items)[:, None]
    top_items, _ = jax.jit(rank_items, static_argnames="k")(user_vectors, item_vectors, blocks, k=max(ks))
    return split_metrics(top_items, blocks.users, positives, ks)


def random_metrics(
    dataset: Dataset, split: str, ks: Sequence[int], seed: int = 0, block_size: int = 1024
) -> dict[str, float]:
    """Metrics of a list drawn uniformly for each user from the items outside their train positives.

    Every (user, item) pair has a score of its own: random vectors would not do, as their dot products rank all users
    alike along a few directions. A user's scores depend on seed and user id alone, not on the block size.

    Args and Raises: as `most_popular_metrics`; `seed`: of the scores.
    """
    blocks, positives = blocks_and_positives(dataset, split, block_size)
    top_items = _random_lists(jax.random.key(seed), blocks, dataset.num_items, max(ks))
    return split_metrics(top_items, blocks.users, positives, ks)


@functools.partial(jax.jit, static_argnames=("num_items", "k"))
def _random_lists(key: jax.Array, blocks: UserBlocks, num_items: int, k: int) -> jax.Array:
    """The k best items of each user of the blocks by scores that are drawn, int32 (num_blocks, block, k)."""

    def user_scores(user: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, user), (num_items,))

    return jax.lax.map(lambda block: rank_scores(jax.vmap(user_scores)(block.users), block, k)[0], blocks)
