"""What a model finds among popular and among rare items."""

import numpy as np

from rearm_jax.data.dataset import Dataset, group_by_user
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.evaluation.metrics import hit_matrix

NUM_GROUPS = 5


def found_by_popularity(dataset: Dataset, split: str, users: np.ndarray, top_items: np.ndarray) -> list[dict]:
    """How many of a split's interactions are in the lists of their users, by popularity of the item.

    Args:
      dataset: its train interactions say how popular an item is; groups are those of `quantile_groups`.
      split: "valid" or "test".
      users: int (...), the user of each list; -1 is padding (`UserBlocks.users`).
      top_items: int (..., k), the lists; -1 is an empty place.

    Returns:
      A dict a group, from rare to popular: "train_interactions" [fewest, most] of an item, "items", "positives" (the
      split's interactions with them) and "found" (those in the lists). Groups without positives are left out.
    """
    pairs, popularity = getattr(dataset, split), most_popular_scores(dataset.train, dataset.num_items).astype(np.int64)
    groups = quantile_groups(popularity)
    is_user = users >= 0
    top_items = top_items[is_user]
    hits = hit_matrix(top_items, users[is_user], group_by_user(pairs, dataset.num_users))
    num_groups = groups.max() + 1
    found = np.bincount(groups[top_items[hits]], minlength=num_groups)
    positives = np.bincount(groups[pairs[:, 1]], minlength=num_groups)
    return [
        {
            "train_interactions": [int(popularity[groups == group].min()), int(popularity[groups == group].max())],
            "items": int((groups == group).sum()),
            "positives": int(positives[group]),
            "found": int(found[group]),
        }
        for group in np.flatnonzero(positives)
    ]


def quantile_groups(counts: np.ndarray) -> np.ndarray:
    """Numbers each element by its group, from 0: NUM_GROUPS groups of equal size, as far as equal counts allow.

    Args:
      counts: int (n,); equal counts are always in one group, so that there may be fewer groups.

    Returns:
      int (n,), every number up to the largest occurs.
    """
    shares = np.arange(1, NUM_GROUPS) / NUM_GROUPS
    edges = np.unique(np.quantile(counts, shares, method="inverted_cdf"))
    return np.unique(np.searchsorted(edges, counts), return_inverse=True)[1]
