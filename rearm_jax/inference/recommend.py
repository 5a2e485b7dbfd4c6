"""Recommendations under outside ids: all items are ranked for each user, a block of users at a time.

What a user has already is left out: the items of all splits, unless `find_seen` is told otherwise. A list is shorter
than k where a user's candidates run out. A user without train interactions has a row all the same: its interest
features are zero, and its relations the most popular users'.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from rearm_jax.data.dataset import Dataset, group_by_user
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.evaluation.ranking import UserBlocks, make_blocks
from rearm_jax.evaluation.scoring import Scores, dot_products, each_block, rank_block
from rearm_jax.inference.arguments import Id, check_options, given_users, plain_ids, some_ids
from rearm_jax.inference.new_items import NewItems, represent_new_items
from rearm_jax.inference.seen import Seen, find_seen
from rearm_jax.inference.trained import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """What is ranked: the items of the catalogue, and new ones behind them.

    Attributes:
      ids: (n,), text or integers.
      names: (n,), text or integers, or None where neither the catalogue nor the new items have names.
      num_new: the last so many are new.
    """

    ids: np.ndarray
    names: np.ndarray | None
    num_new: int = 0

    @property
    def first_new(self) -> int:
        """Row of the first new item; n without any."""
        return len(self.ids) - self.num_new


class Lists(NamedTuple):
    """Lists of some users.

    Attributes:
      users: n outside ids.
      items: int32 (n, k), rows of `Items`, best first; -1 where the candidates ran out.
      scores: float32 (n, k): by the model its scores, by popularity numbers of train interactions.
      source: "model", or "popular" for users who are not in the catalogue.
    """

    users: list[Id]
    items: np.ndarray
    scores: np.ndarray
    source: str


def recommend(
    trained: Trained,
    users: Sequence[Id] | None = None,
    k: int = 20,
    never: Sequence[Id] = (),
    exclude: Sequence[tuple[Id, Id]] = (),
    unknown: str = "refuse",
    new_items: NewItems | None = None,
    seen: Seen | None = None,
) -> tuple[Items, Iterator[Lists]]:
    """The k best items of each user. All that can be wrong is found before the first list is made.

    Args:
      trained: an opened run.
      users: outside ids, in the order wanted; None: all users of the catalogue.
      k: places in a list.
      never: ids of items that nobody gets.
      exclude: pairs (user id, item id) to leave out beside what is seen. What is not in the catalogue, here and in
        `never`, is counted in a warning.
      unknown: what users who are not in the catalogue get: "refuse", an error; "popular", the items with the most
        train interactions. Their lists follow those of the others.
      new_items: ranked together with the catalogue.
      seen: what is left out as users have it, from `find_seen`; None: the interactions of all splits.

    Returns:
      The items that the lists refer to, and an iterator over the lists, at most config.evaluation.block_size users at
      a time.

    Raises:
      ConfigError: k or `unknown` is impossible, or the model cannot rank new items.
      DataError: a user is unknown (under "refuse"), no item of `never` or of `exclude` is known, ids are of another
        kind, or a new item resembles no item of the catalogue.
    """
    users = given_users(users)
    check_options(k, unknown)
    dataset = trained.experiment.dataset
    items = _items(dataset, new_items)
    rows = {user: row for row, user in enumerate(dataset.labels.user_ids.tolist())}
    users = list(rows) if users is None else plain_ids(users, dataset.labels.user_ids, "user")
    if not users:
        raise DataError("no users are named; name one at least, or none at all for everybody")
    strangers = [user for user in users if user not in rows]
    if strangers and unknown == "refuse":
        raise DataError(
            f"{len(strangers)} of {len(users)} users are not in the catalogue: {some_ids(strangers)}. Leave them out, "
            'or let them have the most popular items (unknown="popular")'
        )
    left_out = {row for row in _item_rows(never, items.ids) if row is not None}
    candidates = np.setdiff1d(np.arange(len(items.ids), dtype=np.int32), list(left_out))
    if not 1 <= k <= len(candidates):
        but = f", {len(left_out)} of which nobody gets" if left_out else ""
        raise ConfigError(f"k is {k}: there are {len(items.ids)} items{but}; k must be 1 to {len(candidates)}")
    pairs, of_strangers = _pairs(exclude, items.ids, dataset.labels.user_ids, rows)
    seen = seen or find_seen(dataset, "all")
    for user, own in seen.of_strangers.items():
        of_strangers[user] |= own

    known = [user for user in users if user in rows]
    block_size = trained.experiment.config.evaluation.block_size
    popularity = most_popular_scores(dataset.train, len(items.ids))
    parts = []
    if known:
        known_rows = np.array([rows[user] for user in known], np.int32)
        excluded = _places_by_user(np.concatenate([seen.pairs, pairs]), candidates, dataset.num_users)
        blocks = make_blocks(known_rows, excluded, block_size)
        scores = trained.scores
        if new_items is not None:
            # Before the first list is asked for: it refuses new items that resemble nothing.
            new_vectors = represent_new_items(trained, new_items.features)
            out = trained.representations
            scores = dot_products(out.users, jnp.concatenate([out.items, new_vectors]))
        parts.append(_by_model(known, scores, candidates, blocks, k))
    if strangers:
        parts.append(_by_popularity(strangers, popularity, candidates, of_strangers, k, block_size))
    return items, _with_progress(itertools.chain(*parts), len(users))


def _by_model(users: list[Id], scores: Scores, candidates: np.ndarray, blocks: UserBlocks, k: int) -> Iterator[Lists]:
    """Lists by the model's scores; `blocks` count items by their place among the candidates."""
    start = 0
    for block in each_block(blocks):
        block_scores = scores(np.asarray(block.users))
        if len(candidates) < block_scores.shape[1]:
            block_scores = block_scores[:, candidates]
        places, best = rank_block(block_scores, block, k)
        stop = start + int((block.users >= 0).sum())  # the last block may be padded
        listed = np.where(places >= 0, candidates[places], -1)[: stop - start]
        yield Lists(users[start:stop], listed, best[: stop - start], "model")
        start = stop


def _by_popularity(
    users: list[Id],
    popularity: np.ndarray,
    candidates: np.ndarray,
    exclude: Mapping[Id, set[int]],
    k: int,
    block_size: int,
) -> Iterator[Lists]:
    """Lists of the candidates with the largest popularity, float32 (n,), ties by lower row."""
    ranking = candidates[np.argsort(-popularity[candidates], kind="stable")]
    for start in range(0, len(users), block_size):
        block = users[start : start + block_size]
        listed = np.full((len(block), k), -1, np.int32)
        for row, user in enumerate(block):
            own = exclude.get(user, set())
            best = [item for item in ranking[: k + len(own)] if item not in own][:k]
            listed[row, : len(best)] = best
        yield Lists(block, listed, np.where(listed >= 0, popularity[listed], -np.inf), "popular")


def _with_progress(lists: Iterator[Lists], num_users: int) -> Iterator[Lists]:
    with tqdm(total=num_users, desc="recommend", unit="user", disable=None, leave=False) as bar:
        for some in lists:
            yield some
            bar.update(len(some.users))


def _items(dataset: Dataset, new_items: NewItems | None) -> Items:
    labels = dataset.labels
    ids, names = labels.item_ids, None if labels.item_names is labels.item_ids else labels.item_names
    if new_items is None:
        return Items(ids, names)
    if names is not None or new_items.names is not None:
        # An item without a name goes by its id.
        both = [ids if names is None else names, new_items.ids if new_items.names is None else new_items.names]
        names = np.concatenate([part.astype(str) for part in both])
    return Items(np.concatenate([ids, new_items.ids]), names, len(new_items.ids))


def _item_rows(given: Sequence[Id], item_ids: np.ndarray) -> list[int | None]:
    """Row of each item, None where it is not there: these are counted in a warning.

    Raises:
      DataError: none is there.
    """
    if not len(given):
        return []
    row_of = {item: row for row, item in enumerate(item_ids.tolist())}
    plain = plain_ids(given, item_ids, "item")
    missing = list(dict.fromkeys(item for item in plain if item not in row_of))
    if missing and all(item not in row_of for item in plain):
        raise DataError(f"none of the items to leave out is in the catalogue: {some_ids(missing)}. Check the list")
    if missing:
        logging.warning("%d items to leave out are not in the catalogue: %s", len(missing), some_ids(missing))
    return [row_of.get(item) for item in plain]


def _pairs(
    exclude: Sequence[tuple[Id, Id]], item_ids: np.ndarray, user_ids: np.ndarray, rows: Mapping[Id, int]
) -> tuple[np.ndarray, defaultdict[Id, set[int]]]:
    """Rows of the pairs, int32 (n, 2); of users who are not in `rows`, user -> rows of items."""
    known, of_strangers = [], defaultdict[Id, set[int]](set)
    users = plain_ids([user for user, _ in exclude], user_ids, "user")
    for user, item in zip(users, _item_rows([item for _, item in exclude], item_ids), strict=True):
        if item is not None and user in rows:
            known.append((rows[user], item))
        elif item is not None:
            of_strangers[user].add(item)
    if strangers := list(of_strangers):
        logging.warning(
            "%d users of the pairs to leave out are not in the catalogue: %s", len(strangers), some_ids(strangers)
        )
    return np.array(known, np.int32).reshape(-1, 2), of_strangers


def _places_by_user(pairs: np.ndarray, candidates: np.ndarray, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """`group_by_user` of the pairs whose item is a candidate; items by their place among the candidates."""
    place = np.full(1 + max(candidates.max(), pairs[:, 1].max(initial=0)), -1, np.int32)
    place[candidates] = np.arange(len(candidates))
    pairs = np.stack([pairs[:, 0], place[pairs[:, 1]]], axis=1)
    return group_by_user(pairs[pairs[:, 1] >= 0], num_users)
