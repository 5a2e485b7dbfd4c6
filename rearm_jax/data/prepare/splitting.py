"""From interactions to three splits: duplicates, k-core, and the four ways to split that the field uses.

Nothing here depends on the order of the rows: they are sorted by user, time and item before anything is drawn or cut,
so that equal times of one user go by the number of the item.
"""

import numpy as np

from rearm_jax.errors import DataError

METHODS = ("random", "time", "leave-one-out", "global-time")
TRAIN, VALID, TEST = range(3)
_MIN_INTERACTIONS = 3  # of a user that the splits of a user hold something of: one for each


def deduplicate(users: np.ndarray, items: np.ndarray, times: np.ndarray | None, keep: str) -> np.ndarray:
    """Indices (ascending) of one row for each pair of user and item.

    Args:
        users, items: int64 (n,).
        times: float64 (n,) or None: then it does not matter which row stays.
        keep: "first" or "last", by time.
    """
    order = np.lexsort((items, users) if times is None else (times, items, users))
    new_pair = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    edge = np.ones(min(len(order), 1), bool)
    chosen = np.concatenate((edge, new_pair) if keep == "first" else (new_pair, edge))
    return np.sort(order[chosen])


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Indices (ascending) of the largest part in which every user and every item has at least k rows; may be empty.

    Args:
        users, items: int64 (n,), no pair twice.
        k: 1 keeps everything.
    """
    kept = np.arange(len(users))
    while len(kept):
        enough = np.ones(len(kept), bool)
        for ids in (users[kept], items[kept]):
            enough &= (np.bincount(ids) >= k)[ids]
        if enough.all():
            break
        kept = kept[enough]
    return kept


def split(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None,
    method: str,
    ratios: tuple[int, int, int] = (8, 1, 1),
    seed: int = 0,
) -> np.ndarray:
    """The split of every row, as uint8 (n,): TRAIN, VALID or TEST.

    - random: of each user's n rows, drawn at random, floor(n * ratio) but at least one go to validation, as many to
      test, and the rest, at least one, to train.
    - time: the same numbers, the latest to test, those before to validation.
    - leave-one-out: each user's latest to test, the one before to validation.
    - global-time: two moments cut the rows of all users by the ratios; rows of the same moment stay together. Users and
      items may have no train rows.

    In the first three, users with fewer than 3 rows are in train with all of them. A ratio of 0 leaves its split empty.

    Args:
        users, items: int64 (n,), no pair twice.
        times: float64 (n,); None will do for random.
        method: one of METHODS.
        ratios: whole numbers, of train at least 1; leave-one-out does not look at them.
        seed: of random, numpy's default generator.

    Raises:
        DataError: a split would be empty though its ratio is not 0.
    """
    if method == "random":
        parts = _split_each_user(users, _shuffled(users, items, seed), method, ratios)
    elif times is None:
        raise DataError(f"the split {method} needs times")
    elif method == "global-time":
        parts = _cut(times, ratios)
    else:
        parts = _split_each_user(users, np.lexsort((items, times, users)), method, ratios)
    counts = np.bincount(parts, minlength=3)
    for part, name in enumerate(("train", "validation", "test")):
        if not counts[part] and ratios[part]:
            raise DataError(
                f"the split {method} leaves {name} empty: {len(users)} interactions of {len(np.unique(users))} users "
                f"are left. Give more data, keep more of it, or choose another split or other ratios"
            )
    return parts


def _cut(times: np.ndarray, ratios: tuple[int, int, int]) -> np.ndarray:
    ordered, parts = np.sort(times), np.full(len(times), TRAIN, np.uint8)
    for part, share in ((VALID, ratios[0]), (TEST, ratios[0] + ratios[1])):
        if len(ordered) and ratios[part]:
            parts[times >= ordered[len(ordered) * share // sum(ratios)]] = part
    return parts


def _shuffled(users: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """Indices that sort by user, and each user's rows at random."""
    order = np.lexsort((items, users))
    draws = np.empty(len(users))
    draws[order] = np.random.default_rng(seed).random(len(users))
    return np.lexsort((draws, users))


def _split_each_user(users: np.ndarray, order: np.ndarray, method: str, ratios: tuple[int, int, int]) -> np.ndarray:
    """The last rows of each user, in `order`, go to test, those before to validation."""
    counts = np.bincount(users)
    num_test, num_valid = np.ones_like(counts), np.ones_like(counts)
    if method != "leave-one-out":
        num_test = np.clip(counts * ratios[2] // sum(ratios), ratios[2] > 0, counts - 2)
        num_valid = np.clip(counts * ratios[1] // sum(ratios), ratios[1] > 0, counts - 1 - num_test)
    enough = counts >= _MIN_INTERACTIONS
    num_test, num_held_out = num_test * enough, (num_test + num_valid) * enough
    following = np.cumsum(counts)[users[order]] - np.arange(len(users)) - 1  # rows of the same user
    parts = np.full(len(users), TRAIN, np.uint8)
    parts[order[following < num_held_out[users[order]]]] = VALID
    parts[order[following < num_test[users[order]]]] = TEST
    return parts
