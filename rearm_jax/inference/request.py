"""What `recommend` ranks and leaves out, from outside ids to rows: the same for the lists of all users."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from rearm_jax.data.dataset import Dataset, group_by_user
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.evaluation.limited_ranking import Limit
from rearm_jax.inference.arguments import Id, item_rows, pair_rows
from rearm_jax.inference.new_items import NewItems
from rearm_jax.inference.rules import Rules, allowed, find_limits
from rearm_jax.inference.seen import Seen
from rearm_jax.inference.trained import Trained

# Of a block of users, for all items: memory of that size is used again for the next block. Larger blocks come and go
# with the kernel: with 100,000 items that took a quarter of the time, and four times the memory.
_MOST_SCORES = 2**23


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


class Request(NamedTuple):
    """What holds for the lists of all users; pairs by user, as `group_by_user` has them.

    Attributes:
      k: places in a list.
      candidates: int32 (n,), rows of `Items`, ascending; below, an item is its place among them.
      limits: of the candidates.
      reserved: bool (n,), fresh candidates that have places of their own; None: none have.
      num_reserved: how many places.
      excluded, allowed: pairs; None: all are allowed.
      block_size: users ranked at a time, at most config.evaluation.block_size.
    """

    k: int
    candidates: np.ndarray
    limits: list[Limit]
    reserved: np.ndarray | None
    num_reserved: int
    excluded: tuple[np.ndarray, np.ndarray]
    allowed: tuple[np.ndarray, np.ndarray] | None
    block_size: int


def all_items(dataset: Dataset, new_items: NewItems | None) -> Items:
    """Those of the catalogue, with the new ones behind them."""
    labels = dataset.labels
    ids, names = labels.item_ids, None if labels.item_names is labels.item_ids else labels.item_names
    if new_items is None:
        return Items(ids, names)
    if names is not None or new_items.names is not None:
        # An item without a name goes by its id.
        both = [ids if names is None else names, new_items.ids if new_items.names is None else new_items.names]
        names = np.concatenate([part.astype(str) for part in both])
    return Items(np.concatenate([ids, new_items.ids]), names, len(new_items.ids))


def make_request(
    trained: Trained,
    items: Items,
    rows: Mapping[Id, int],
    k: int,
    never: Sequence[Id],
    exclude: Sequence[tuple[Id, Id]],
    seen: Seen,
    rules: Rules,
) -> Request:
    """Args: as `recommend`; `rows` are of all users of the catalogue, and of those that are asked for."""
    user_ids = trained.experiment.dataset.labels.user_ids
    left_out = {row for row in item_rows(never, items.ids, "to leave out") if row is not None}
    candidates = np.setdiff1d(np.arange(len(items.ids), dtype=np.int32), list(left_out))
    if not 1 <= k <= len(candidates):
        but = f", {len(left_out)} of which nobody gets" if left_out else ""
        raise ConfigError(f"k is {k}: there are {len(items.ids)} items{but}; k must be 1 to {len(candidates)}")
    allowed_items, allowed_pairs = allowed(rules) if rules.allow is not None else ((), ())
    if allowed_items:
        in_stock = [row for row in item_rows(allowed_items, items.ids, "to allow") if row is not None]
        candidates = np.intersect1d(candidates, np.array(in_stock, np.int32))
        if not len(candidates):
            raise DataError("no item is left: each of those to allow is to be left out, too. Check both lists")
    counts = most_popular_scores(trained.experiment.dataset.train, len(items.ids))
    is_fresh = counts < rules.fresh_below
    if rules.only == "new":
        candidates = candidates[is_fresh[candidates]]
        if not len(candidates):
            raise DataError(
                f"no item that may be listed has fewer than {rules.fresh_below} train interactions, and only = "
                f"{rules.only!r} lists no others. Leave it out, or raise fresh_below"
            )
    num_reserved = int((rules.fresh_share or 0) * k + 0.5)
    if rules.fresh_share:
        _say_where_nothing_is_fresh(rules, k, num_reserved, counts[candidates])
    own = [(rows[user], item) for user, own in seen.of_strangers.items() if user in rows for item in own]
    not_again = pair_rows(exclude, items.ids, user_ids, rows, "to leave out")
    excluded = np.concatenate([seen.pairs, not_again, np.array(own, np.int32).reshape(-1, 2)])
    allowed_rows = pair_rows(allowed_pairs, items.ids, user_ids, rows, "to allow")
    return Request(
        k,
        candidates,
        [Limit(limit.groups[candidates], limit.most) for limit in find_limits(rules, items.ids)],
        None if rules.fresh_share is None else is_fresh[candidates],
        num_reserved,
        _places_by_user(excluded, candidates, len(rows)),
        _places_by_user(allowed_rows, candidates, len(rows)) if allowed_pairs else None,
        min(trained.experiment.config.evaluation.block_size, max(2, _MOST_SCORES // len(items.ids))),
    )


def _say_where_nothing_is_fresh(rules: Rules, k: int, num_reserved: int, counts: np.ndarray) -> None:
    """Args: counts: (n,) train interactions of the candidates."""
    if not num_reserved:
        logging.warning(
            "fresh_share = %g: less than half of one of %d places, so that lists have no fresh item; raise it",
            rules.fresh_share,
            k,
        )
    elif counts.min() >= rules.fresh_below:
        logging.warning(
            "fresh_share = %g: lists have no fresh item, as none of the %d items that may be listed has fewer than %d "
            "train interactions (the fewest are %d); raise fresh_below, or leave fresh_share out",
            rules.fresh_share,
            len(counts),
            rules.fresh_below,
            counts.min(),
        )


def _places_by_user(pairs: np.ndarray, candidates: np.ndarray, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """`group_by_user` of the pairs whose item is a candidate; items by their place among the candidates."""
    place = np.full(1 + max(candidates.max(), pairs[:, 1].max(initial=0)), -1, np.int32)
    place[candidates] = np.arange(len(candidates))
    pairs = np.stack([pairs[:, 0], place[pairs[:, 1]]], axis=1)
    return group_by_user(pairs[pairs[:, 1] >= 0], num_users)
