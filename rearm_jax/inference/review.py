"""Lists against what people did after they were made, so that a job can keep the old ones where something is wrong.

Files alone are read, of lists (as recommend_files.py writes them) and of interactions; no run is opened. Ids are text.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rearm_jax.data.prepare.interactions import read_interactions
from rearm_jax.data.prepare.reading import without_options
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.inference.arguments import some_ids


class Pairs(NamedTuple):
    """Pairs of users and items.

    Attributes:
      users, items: int64 (n,), numbers into the ids.
      user_ids, item_ids: text.
    """

    users: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray


def review(
    lists: str | os.PathLike,
    interactions: str | os.PathLike,
    before: str | os.PathLike | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
) -> dict[str, float]:
    """How lists fared.

    Args:
      lists: the lists that were shown, JSON lines, CSV or Parquet.
      interactions: what followed, a table in any format of data/prepare/tables.py.
      before: the lists before those, or None.
      user_column, item_column: of the interactions, where they are not recognised.

    Returns:
      "recall", of a user's items in `interactions` the share that the user's list had, the mean over the users who have
      both; "users", how many these are; "users_without_list", how many have interactions alone; "coverage", how many
      different items the lists hold, as a share of all in the lists or the interactions; with `before`, "overlap", of a
      user's list the share that was in the list before, the mean over the users who have both.

    Raises:
      DataError: a file cannot be read, or no user has both.
    """
    shown, done = _read_lists(lists), _read_table(interactions, user_column, item_column)
    recall, num_users = _shares(done, shown)
    if not num_users:
        raise _nobody(interactions, done, lists, shown)
    found: dict[str, float] = {"users": num_users, "users_without_list": len(done.user_ids) - num_users}
    found |= {"recall": recall, "coverage": len(shown.item_ids) / len(np.union1d(shown.item_ids, done.item_ids))}
    if before is not None:
        earlier = _read_lists(before)
        found["overlap"], num_users = _shares(shown, earlier)
        if not num_users:
            raise _nobody(lists, shown, before, earlier)
    return found


def below_bounds(found: Mapping[str, float], bounds: Mapping[str, float | None]) -> list[str]:
    """What is below its bound, in words.

    Args:
      found: of `review`.
      bounds: measure -> the least that will do; None: anything will.

    Raises:
      ConfigError: a bound is no number, or of something that was not measured.
    """
    below = []
    for name, bound in bounds.items():
        if bound is None:
            continue
        if math.isnan(bound):
            raise ConfigError(f"min_{name} = nan: must be a number from 0 to 1; nothing is ever below nan")
        if name not in found:
            raise ConfigError(f"min_{name} = {bound}: name the lists before, which it is measured by (before)")
        if found[name] < bound:
            below.append(f"{name} {found[name]:.4f} is below {bound:g}")
    return below


def _nobody(one: str | os.PathLike, some: Pairs, other: str | os.PathLike, others: Pairs) -> DataError:
    return DataError(
        f"no user of {one} ({some_ids(some.user_ids.tolist())}) has a list in {other} "
        f"({some_ids(others.user_ids.tolist())}): check the files and user_column"
    )


def _shares(some: Pairs, others: Pairs) -> tuple[float, int]:
    """Of a user's items in `some` the share that the user has in `others`: the mean over the users who are in both, NaN
    without any, and their number."""
    user_ids, item_ids = np.union1d(some.user_ids, others.user_ids), np.union1d(some.item_ids, others.item_ids)

    def keys(pairs: Pairs) -> np.ndarray:
        users, items = np.searchsorted(user_ids, pairs.user_ids), np.searchsorted(item_ids, pairs.item_ids)
        return np.unique(users[pairs.users] * len(item_ids) + items[pairs.items])

    one, other = keys(some), keys(others)
    owner, size = one // len(item_ids), len(user_ids)
    totals = np.bincount(owner, minlength=size)
    hits = np.bincount(owner, np.isin(one, other, assume_unique=True), minlength=size)
    both = (totals > 0) & (np.bincount(other // len(item_ids), minlength=size) > 0)
    return (float((hits[both] / totals[both]).mean()) if both.any() else float("nan")), int(both.sum())


def _read_lists(path: str | os.PathLike) -> Pairs:
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such file")
    with open(path, "rb") as file:
        if file.read(1) != b"{":
            return _read_table(path, "user", "item")
    users, items = [], []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                one = json.loads(line)
                listed = [str(place["item"]) for place in one["items"]]
                users += [str(one["user"])] * len(listed)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: is no list of recommendations ({error!r})") from error
            items += listed
    user_ids, user_numbers = np.unique(np.array(users, np.str_), return_inverse=True)
    item_ids, item_numbers = np.unique(np.array(items, np.str_), return_inverse=True)
    return Pairs(user_numbers, item_numbers, user_ids, item_ids)


def _read_table(path: str | os.PathLike, user_column: str | None, item_column: str | None) -> Pairs:
    with without_options():
        table = read_interactions([path], user_column=user_column, item_column=item_column)
    return Pairs(table.users, table.items, table.user_ids, table.item_ids)
