"""For whom a model works, and what its lists are beyond hits: pure functions of a ranking and the train interactions.

What it finds among popular and rare items is told by popularity.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rearm_jax.data.dataset import Dataset
from rearm_jax.evaluation.metrics import lists_of_users
from rearm_jax.evaluation.popularity import quantile_groups


def by_history(metrics: Mapping[str, np.ndarray], dataset: Dataset) -> list[dict[str, Any]]:
    """Means of metrics over users with about as many train interactions.

    Args:
      metrics: of `user_metrics`, float (num_users,); users for whom they are NaN are left out.
      dataset: whose train interactions are counted.

    Returns:
      A dict a group, from few to many: "train_interactions" [fewest, most] of a user, "users", and the means. Cold
      users, those without a train interaction, are a group of their own, the first, if there are any; the others are in
      groups of equal size as far as equal counts allow.
    """
    history = np.bincount(dataset.train[:, 0], minlength=dataset.num_users)
    is_user = ~np.isnan(np.stack(list(metrics.values()))).any(axis=0)
    is_warm = is_user & (history > 0)
    groups = np.where(is_user, 0, -1)
    if is_warm.any():
        groups[is_warm] = 1 + quantile_groups(history[is_warm])
    slices = []
    for group in range(groups.max(initial=-1) + 1):
        inside = groups == group
        if inside.any():
            counts = history[inside]
            means = {name: float(np.mean(values[inside], dtype=np.float64)) for name, values in metrics.items()}
            slices.append(
                {"train_interactions": [int(counts.min()), int(counts.max())], "users": int(inside.sum()), **means}
            )
    return slices


def list_measures(top_items: ArrayLike, users: ArrayLike, dataset: Dataset, k: int) -> dict[str, float]:
    """What the first k places of all lists are, whether they are hits or not.

    With n_i how many of the lists have item i, c_i how many users have it in train, and U all users:

        coverage@k   share of all items with n_i > 0
        gini@k       sum_ij |n_i - n_j| / (2 num_items sum_i n_i): 0 where all items are shown alike, near 1 where few
                     take every place
        novelty@k    mean over the places of -log2((c_i + 1) / (U + 1)), in bits (self-information, Zhou et al., PNAS
                     2010); 1 is added so that items without interactions have a finite one

    Args:
      top_items: int (..., depth), best first; -1 is an empty place.
      users: int (...), the user of each list; -1 is padding.
      dataset: the data.
      k: places of a list that count, at most depth.

    Raises:
      ValueError: the shapes do not belong together, k does not fit, or no place holds an item.
    """
    top_items, _ = lists_of_users(top_items, users)
    if not 1 <= k <= top_items.shape[1]:
        raise ValueError(f"k must be in 1..{top_items.shape[1]}, the length of the lists, got {k}")
    shown = top_items[:, :k]
    shown = shown[shown >= 0]
    if not shown.size:
        raise ValueError("no place of a list holds an item")
    num_items = dataset.num_items
    counts = np.sort(np.bincount(shown, minlength=num_items))
    ranks = np.arange(1, num_items + 1)
    # The sum over pairs, of sorted counts: the i-th smallest is above i - 1 and below num_items - i others.
    gini = ((2 * ranks - num_items - 1) * counts).sum() / (num_items * counts.sum())
    popularity = np.bincount(dataset.train[:, 1], minlength=num_items)
    information = -np.log2((popularity + 1) / (dataset.num_users + 1))
    return {
        f"coverage@{k}": float((counts > 0).mean()),
        f"gini@{k}": float(gini),
        f"novelty@{k}": float(information[shown].mean()),
    }
