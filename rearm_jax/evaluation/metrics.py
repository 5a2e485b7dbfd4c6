"""Top-k ranking metrics with binary relevance, on the host in float64, the definitions of the published system.

For one user with P positives in the split, h_r = 1 where rank r (from 1) of the list holds a positive, else 0:

    recall@k     sum_{r<=k} h_r / P
    precision@k  sum_{r<=k} h_r / k
    hitrate@k    1 if any h_r = 1 for r <= k, else 0
    ndcg@k       sum_{r<=k} h_r / log2(r + 1)  /  sum_{r<=min(k,P)} 1 / log2(r + 1)
    map@k        sum_{r<=k} h_r precision@r  /  min(k, P)

The ideal list of NDCG and the denominator of MAP are cut at min(k, P), so that a perfect list scores 1 at every k.
Each metric is the plain mean over the users with a positive in the split. An empty place in a list (item -1) is a miss.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def split_metrics(
    top_items: ArrayLike, users: ArrayLike, positives: tuple[np.ndarray, np.ndarray], ks: Sequence[int]
) -> dict[str, float]:
    """Metrics of the lists of `rank_items`, in its shapes, blocked over devices or not; padded users are left out.

    Args:
      top_items: int32 (..., k), best first; -1 is an empty place.
      users: int32 (...), the user of each list; -1 is padding (`UserBlocks.users`).
      positives: `(indptr (num_users + 1,), items)` from `group_by_user`, the pairs of the split.
      ks: cut-offs, each at most k.

    Returns:
      `{"recall@20": ..., "ndcg@20": ..., "precision@20": ..., "map@20": ..., "hitrate@20": ...}` for each of ks.

    Raises:
      ValueError: the shapes do not belong together, a user has no positive, or a cut-off does not fit.
    """
    top_items, users = lists_of_users(top_items, users)
    num_positives = np.diff(positives[0])[users]
    return ranking_metrics(hit_matrix(top_items, users, positives), num_positives, ks)


def lists_of_users(top_items: ArrayLike, users: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Lists and their users without padding: (..., k) and (...) -> (n, k) and (n,), in the same order.

    Raises:
      ValueError: the shapes do not belong together.
    """
    top_items, users = np.asarray(top_items), np.asarray(users)
    if top_items.shape[:-1] != users.shape:
        raise ValueError(
            f"top_items must have the shape of users and one axis more, got {top_items.shape}, {users.shape}"
        )
    is_user = users >= 0
    return top_items[is_user], users[is_user]


def hit_matrix(top_items: np.ndarray, users: np.ndarray, positives: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Where a list holds a positive of its user.

    Args:
      top_items: int (n, k); -1 is an empty place and never a hit.
      users: int (n,), the user of each list.
      positives: `(indptr (num_users + 1,), items)`, items sorted within each user, as `group_by_user` returns them.

    Returns:
      bool (n, k).
    """
    indptr, items = positives
    # A pair (user, item) becomes one int64 key; the keys of the positives are sorted because the pairs are.
    stride = 1 + max(items.max(initial=0), top_items.max(initial=0)).astype(np.int64)
    positive_keys = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)) * stride + items
    keys = users[:, None] * stride + top_items
    place = np.searchsorted(positive_keys, keys)
    found = np.append(positive_keys, -1)[place]  # -1: beyond the last positive
    return (found == keys) & (top_items >= 0)


def ranking_metrics(hits: np.ndarray, num_positives: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """Means over users of `list_metrics`; Args and Raises are its own."""
    return {name: float(np.mean(values)) for name, values in list_metrics(hits, num_positives, ks).items()}


def list_metrics(hits: np.ndarray, num_positives: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Recall, ndcg, precision, map and hitrate of each list at each cut-off; formulas at the top of this file.

    Args:
      hits: bool (n, depth), where each list, best first, holds a positive.
      num_positives: int (n,), positives of each user in the split, all at least 1.
      ks: cut-offs in 1..depth.

    Returns:
      `{"recall@20": float64 (n,), ...}`, five entries for each of ks.

    Raises:
      ValueError: no users, a user without positives, or a cut-off outside 1..depth.
    """
    num_users, depth = hits.shape
    if num_users == 0:
        raise ValueError("no users to average over")
    if num_positives.shape != (num_users,):
        raise ValueError(f"num_positives must have shape ({num_users},), got {num_positives.shape}")
    if num_positives.min() < 1:
        raise ValueError(f"row {num_positives.argmin()} has no positives: pass only users with a positive in the split")
    if not ks or min(ks) < 1 or max(ks) > depth:
        raise ValueError(f"cut-offs must be in 1..{depth}, the length of the lists, got {tuple(ks)}")

    ranks = np.arange(1, depth + 1)
    discounts = 1 / np.log2(ranks + 1)
    num_hits = np.cumsum(hits, axis=1)
    gains = np.cumsum(hits * discounts, axis=1)
    ideal_gains = np.cumsum(discounts)
    precision_sums = np.cumsum(hits * (num_hits / ranks), axis=1)

    metrics: dict[str, np.ndarray] = {}
    for k in ks:
        num_ideal = np.minimum(k, num_positives)
        metrics[f"recall@{k}"] = num_hits[:, k - 1] / num_positives
        metrics[f"ndcg@{k}"] = gains[:, k - 1] / ideal_gains[num_ideal - 1]
        metrics[f"precision@{k}"] = num_hits[:, k - 1] / k
        metrics[f"map@{k}"] = precision_sums[:, k - 1] / num_ideal
        metrics[f"hitrate@{k}"] = (num_hits[:, k - 1] > 0).astype(np.float64)
    return metrics
