"""Ranking under rules, on the device: at most so many items of a group in a list, and places kept for some items.

A rule is applied greedily from the top: down the ranking, an item is taken unless the list has as many of one of its
groups as it may. `rank_limited` does not look at each item in turn, but finds the same list: it walks down the best few
of each user; where a list has room left, it strikes out what was looked at and every item of a full group, and takes
the best few of the rest. Each time at least one item enters an unfinished list, and mostly the first few are enough.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rearm_jax.evaluation.ranking import UserBlocks, best_of_rows, without_excluded

_DEPTH = 4  # times the places of a list are looked at together


class Limit(NamedTuple):
    """At most so many items of each group in a list.

    Attributes:
      groups: int32 (num_items,), the group of each item.
      most: int32 (num_groups,), how many of it a list may have.
    """

    groups: jax.Array | Any
    most: jax.Array | Any


class _Lists(NamedTuple):
    """Lists that are being filled: int32 (b, k) items and float32 (b, k) scores, int32 (b,) places that are taken, and
    for each limit int32 (b, num_groups), how many of a group are in a list."""

    items: jax.Array
    scores: jax.Array
    filled: jax.Array
    counts: list[jax.Array]


def make_limit(values: Sequence[str], most: int) -> Limit:
    """At most `most` items of the same value in a list; "" stands for no value, and is not limited."""
    found, groups = np.unique(np.asarray(values, np.str_), return_inverse=True)
    no_limit = np.iinfo(np.int32).max
    return Limit(groups.astype(np.int32), np.where(found == "", no_limit, min(most, no_limit)).astype(np.int32))


def keep_allowed(scores: jax.Array, allowed: UserBlocks) -> jax.Array:
    """The scores of one block, float32 (block, num_items), with -inf for every pair that `allowed` does not name.

    Args:
      scores: of the users of the block.
      allowed: one block of `make_blocks`, the "excluded" pairs of which are those that are allowed.
    """
    named = jnp.zeros(scores.shape, bool).at[allowed.excluded_rows, allowed.excluded_items].set(True, mode="drop")
    return jnp.where(named, scores, -jnp.inf)


def rank_limited(
    scores: jax.Array,
    block: UserBlocks,
    k: int,
    limits: Sequence[Limit] = (),
    reserved: jax.Array | None = None,
    num_reserved: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """The k best items of one block of users under rules; pure, for `jit` (k and num_reserved static).

    Args:
      scores: float32 (block, num_items).
      block: one block of `make_blocks`.
      k: places in a list, 1 to num_items.
      limits: rules that hold for the list together; an item is taken if each of them lets it.
      reserved: bool (num_items,), items that have places of their own; None: none.
      num_reserved: how many, at most k. The reserved items are taken first, these many or as many as there are, and
        the others fill what is left; no more reserved ones than that are in a list.

    Returns:
      items int32 (block, k), best first, ties by lower item id, -1 where the candidates ran out; scores float32
      (block, k), -inf there. Without rules the same as `rank_scores`, but for scores that are NaN.
    """
    scores = without_excluded(scores, block)
    lists = _Lists(
        jnp.full((len(scores), k), -1, jnp.int32),
        jnp.full((len(scores), k), -jnp.inf, jnp.float32),
        jnp.where(block.users >= 0, 0, k),  # a padded user has all
        [jnp.zeros((len(scores), len(limit.most)), jnp.int32) for limit in limits],
    )
    if reserved is not None:
        if num_reserved:
            lists = _filled(lists, jnp.where(reserved, scores, -jnp.inf), limits, num_reserved)
        lists = _filled(lists, jnp.where(reserved, -jnp.inf, scores), limits, k)
        # Empty places, of -inf, stay behind.
        negative, items = jax.lax.sort((-lists.scores, lists.items), num_keys=2)
        return items, -negative
    lists = _filled(lists, scores, limits, k)
    return lists.items, lists.scores


def _filled(lists: _Lists, scores: jax.Array, limits: Sequence[Limit], places: int) -> _Lists:
    """The lists with the first `places` filled, greedily by the scores, as far as there are candidates."""
    rows = jnp.arange(len(scores))[:, None]
    depth = min(scores.shape[1], _DEPTH * places)

    def walk(scores: jax.Array, lists: _Lists) -> tuple[jax.Array, jax.Array, jax.Array, _Lists]:
        best, items = best_of_rows(scores, depth)
        lists = _walked(lists, best, items, limits, places)
        unfinished = (lists.filled < places) & (best[:, -1] > -jnp.inf)
        return scores, items, unfinished.any(), lists

    def go_on(state: tuple[jax.Array, jax.Array, jax.Array, _Lists]) -> tuple:
        scores, looked_at, _, lists = state
        scores = scores.at[rows, looked_at].set(-jnp.inf)
        for limit, counts in zip(limits, lists.counts, strict=True):
            scores = jnp.where((counts >= limit.most)[:, limit.groups], -jnp.inf, scores)
        return walk(scores, lists)

    return jax.lax.while_loop(lambda state: state[2], go_on, walk(scores, lists))[-1]


def _walked(lists: _Lists, best: jax.Array, items: jax.Array, limits: Sequence[Limit], places: int) -> _Lists:
    """The lists after a walk down float32 (b, n) scores, sorted, of int32 (b, n) items."""
    rows = jnp.arange(len(items))

    def look_at(place: jax.Array, lists: _Lists) -> _Lists:
        item, score = items[:, place], best[:, place]
        taken = (score > -jnp.inf) & (lists.filled < places)  # False for NaN
        for limit, counts in zip(limits, lists.counts, strict=True):
            group = limit.groups[item]
            taken &= counts[rows, group] < limit.most[group]
        free = jnp.where(taken, lists.filled, lists.items.shape[1])  # out of bounds, and so dropped
        return _Lists(
            lists.items.at[rows, free].set(item, mode="drop"),
            lists.scores.at[rows, free].set(score, mode="drop"),
            lists.filled + taken,
            [
                counts.at[rows, limit.groups[item]].add(taken.astype(jnp.int32))
                for limit, counts in zip(limits, lists.counts, strict=True)
            ],
        )

    return jax.lax.fori_loop(0, items.shape[1], look_at, lists)
