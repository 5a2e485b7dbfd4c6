"""Scores of a block of users, whatever the model, and their ranking block after block.

What is ranked is a function `Scores`: a learned model's is made of its vectors by `dot_products`, a fitted one's by
`rearm_jax.recommender.fitted.scores_of`. So no array of users x items ever exists.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rearm_jax.data.dataset import Dataset
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.popularity import found_by_popularity
from rearm_jax.evaluation.ranking import UserBlocks, block_scores, rank_scores
from rearm_jax.evaluation.splits import blocks_and_positives

# Rows of users, int32 (b,) -> float32 (b, num_items); for a user of -1, which is padding, anything.
Scores = Callable[[np.ndarray], jax.Array | np.ndarray]

_block_scores = jax.jit(block_scores)
_rank = jax.jit(rank_scores, static_argnames="k")


def dot_products(user_vectors: jax.Array | np.ndarray, item_vectors: jax.Array | np.ndarray) -> Scores:
    """The scores of vectors, float (num_users, c) and (num_items, c)."""
    return lambda users: _block_scores(user_vectors, item_vectors, users)


@jax.jit
def standardised(scores: jax.Array) -> jax.Array:
    """Each row minus its mean, divided by its standard deviation, float32 (b, n); a constant row becomes 0."""
    lowest = scores.min(axis=1, keepdims=True)
    spread = scores.max(axis=1, keepdims=True) - lowest
    # To the range 0..1 first: the squares of tiny differences would be 0.
    shifted = (scores - lowest) / jnp.where(spread > 0, spread, 1)
    centred = shifted - shifted.mean(axis=1, keepdims=True)
    deviation = jnp.sqrt((centred**2).mean(axis=1, keepdims=True))
    return jnp.where(spread > 0, centred / jnp.where(spread > 0, deviation, 1), 0)


def with_residual(scores: Scores, others: Scores, weight: float) -> Scores:
    """z(scores) + weight z(others), each z-scored for a user over all items, whatever is excluded later."""
    return lambda users: standardised(scores(users)) + weight * standardised(others(users))


def each_block(blocks: UserBlocks) -> Iterator[UserBlocks]:
    """The blocks, one after the other, without the leading axis."""
    return itertools.starmap(UserBlocks, zip(*blocks, strict=True))


def rank_block(scores: jax.Array | np.ndarray, block: UserBlocks, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`rank_scores` of one block, compiled; what comes out is on the host."""
    return jax.device_get(_rank(scores, block, k=k))


def rank_split(
    scores: Scores, dataset: Dataset, split: str, k: int, block_size: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The lists of a split's users, in blocks, the users, and their positives: what `split_metrics` takes.

    Args:
      scores: what is ranked; train items are left out.
      dataset: the data.
      split: "valid" or "test".
      k: places in a list, at most the number of items.
      block_size: users ranked at a time.
    """
    blocks, positives = blocks_and_positives(dataset, split, block_size)
    lists = [rank_block(scores(np.asarray(block.users)), block, k)[0] for block in each_block(blocks)]
    return np.stack(lists), np.asarray(blocks.users), positives


def scores_metrics(
    scores: Scores, dataset: Dataset, split: str, ks: Sequence[int], block_size: int, popularity_k: int = 0
) -> dict[str, Any]:
    """Metrics of a split, `{"valid/recall@20": ...}`, averaged over its users; train items are left out.

    Args:
      scores: what is ranked.
      dataset: the data.
      split: "valid" or "test".
      ks: cut-offs, none above the number of items.
      block_size: users ranked at a time.
      popularity_k: where not 0, adds "test_by_popularity" (or "valid_..."), see `found_by_popularity`, of lists of this
        length, at most max(ks).
    """
    lists, users, positives = rank_split(scores, dataset, split, max(ks), block_size)
    metrics = split_metrics(lists, users, positives, ks)
    named: dict[str, Any] = {f"{split}/{name}": value for name, value in metrics.items()}
    if popularity_k:
        named[f"{split}_by_popularity"] = found_by_popularity(dataset, split, users, lists[..., :popularity_k])
    return named


def metrics_by_weight(
    scores: Scores,
    others: Scores,
    weights: Sequence[float],
    dataset: Dataset,
    split: str,
    ks: Sequence[int],
    block_size: int,
) -> list[dict[str, float]]:
    """`scores_metrics` of `with_residual` for each of the weights; what is scored is scored once."""
    blocks, positives = blocks_and_positives(dataset, split, block_size)
    top_items: list[list[np.ndarray]] = [[] for _ in weights]
    for block in each_block(blocks):
        users = np.asarray(block.users)
        own, other = standardised(scores(users)), standardised(others(users))
        for weight, lists in zip(weights, top_items, strict=True):
            lists.append(rank_block(own + weight * other, block, max(ks))[0])
    found = [split_metrics(np.stack(lists), blocks.users, positives, ks) for lists in top_items]
    return [{f"{split}/{name}": value for name, value in metrics.items()} for metrics in found]
