"""Recommendations under outside ids: all items are ranked for each user, a block of users at a time.

What a user has already is left out: the items of all splits, unless `find_seen` is told otherwise. A list is shorter
than k where a user's candidates run out. A user without train interactions has a row all the same: its interest
features are zero, and its relations the most popular users'. rules.py has what else decides who gets what.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from rearm_jax.errors import DataError
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.evaluation.limited_ranking import keep_allowed, rank_limited
from rearm_jax.evaluation.ranking import make_blocks
from rearm_jax.evaluation.scoring import Scores, dot_products, each_block, rank_block
from rearm_jax.inference.arguments import Id, check_options, given_users, plain_ids, some_ids
from rearm_jax.inference.new_items import NewItems, represent_new_items
from rearm_jax.inference.request import Items, Request, all_items, make_request
from rearm_jax.inference.rules import NO_RULES, Rules, check_rules
from rearm_jax.inference.seen import Seen, find_seen
from rearm_jax.inference.trained import Trained

_keep_allowed = jax.jit(keep_allowed)
_rank_limited = jax.jit(rank_limited, static_argnames=("k", "num_reserved"))


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
    rules: Rules = NO_RULES,
) -> tuple[Items, Iterator[Lists]]:
    """The k best items of each user. All that can be wrong is found before the first list is made.

    Args:
      trained: an opened run.
      users: outside ids, in the order wanted; None: all users of the catalogue.
      k: places in a list.
      never: ids of items that nobody gets.
      exclude: pairs (user id, item id) to leave out beside what is seen. What is not in the catalogue, here, in
        `never` and in `rules.allow`, is counted in a warning.
      unknown: what users who are not in the catalogue get: "refuse", an error; "popular", the items with the most
        train interactions. Their lists follow those of the others.
      new_items: ranked together with the catalogue.
      seen: what is left out as users have it, from `find_seen`; None: the interactions of all splits.
      rules: what may be listed, and how much of it; they hold for unknown users, too.

    Returns:
      The items that the lists refer to, and an iterator over the lists, at most config.evaluation.block_size users at
      a time.

    Raises:
      ConfigError: k, `unknown` or a rule is impossible, or the model cannot rank new items.
      DataError: a user is unknown (under "refuse"), no item of `never`, of `exclude` or of a rule is known, ids are of
        another kind, or a new item resembles no item of the catalogue.
    """
    users = given_users(users)
    check_options(k, unknown)
    k = int(k)  # one of numpy may have 8 bits
    check_rules(rules)
    dataset = trained.experiment.dataset
    items, user_ids = all_items(dataset, new_items), dataset.labels.user_ids
    rows = {user: row for row, user in enumerate(user_ids.tolist())}
    users = list(rows) if users is None else plain_ids(users, user_ids, "user")
    if not users:
        raise DataError("no users are named; name one at least, or none at all for everybody")
    strangers = [user for user in users if user not in rows]
    if strangers and unknown == "refuse":
        raise DataError(
            f"{len(strangers)} of {len(users)} users are not in the catalogue: {some_ids(strangers)}. Leave them out, "
            'or let them have the most popular items (unknown="popular")'
        )
    known = [user for user in users if user in rows]
    for user in strangers:
        rows.setdefault(user, len(rows))

    request = make_request(trained, items, rows, k, never, exclude, seen or find_seen(dataset, "all"), rules)
    if request.allowed is not None:
        _say_who_gets_nothing(request.allowed, [rows[user] for user in users])

    parts = []
    if known:
        scores = trained.scores
        if new_items is not None:
            # Before the first list is asked for: it refuses new items that resemble nothing.
            vectors = new_items.vectors
            vectors = represent_new_items(trained, new_items.features) if vectors is None else vectors
            out = trained.representations
            scores = dot_products(out.users, jnp.concatenate([out.items, vectors]))
        parts.append(_ranked(request, known, [rows[user] for user in known], scores, "model"))
    if strangers:
        popularity = most_popular_scores(dataset.train, len(items.ids))
        parts.append(
            _ranked(
                request,
                strangers,
                [rows[user] for user in strangers],
                lambda users: np.broadcast_to(popularity, (len(users), len(popularity))),
                "popular",
            )
        )
    return items, _with_progress(itertools.chain(*parts), len(users))


def _ranked(request: Request, users: list[Id], rows: list[int], scores: Scores, source: str) -> Iterator[Lists]:
    """Lists of users, a block at a time, by what scores their rows."""
    candidates, block_size = request.candidates, request.block_size
    places = min(request.k, len(candidates))
    user_rows = np.array(rows, np.int32)
    blocks = make_blocks(user_rows, request.excluded, block_size)
    of_block = (
        itertools.repeat(None)
        if request.allowed is None
        else each_block(make_blocks(user_rows, request.allowed, block_size))
    )
    start = 0
    for block, allowed_pairs in zip(each_block(blocks), of_block, strict=False):
        block_scores = scores(np.asarray(block.users))
        if len(candidates) < block_scores.shape[1]:
            block_scores = block_scores[:, candidates]
        if allowed_pairs is not None:
            block_scores = _keep_allowed(block_scores, allowed_pairs)
        if request.limits or request.reserved is not None:
            found, best = jax.device_get(
                _rank_limited(
                    block_scores,
                    block,
                    k=places,
                    limits=request.limits,
                    reserved=request.reserved,
                    num_reserved=min(request.num_reserved, places),
                )
            )
        else:
            found, best = rank_block(block_scores, block, places)
        stop = min(start + len(block.users), len(users))  # the last block may be padded
        listed = np.full((stop - start, request.k), -1, np.int32)
        values = np.full((stop - start, request.k), -np.inf, np.float32)
        listed[:, :places] = np.where(found >= 0, candidates[found], -1)[: stop - start]
        values[:, :places] = best[: stop - start]
        yield Lists(users[start:stop], listed, values, source)
        start = stop


def _say_who_gets_nothing(allowed: tuple[np.ndarray, np.ndarray], rows: list[int]) -> None:
    num_empty = int((np.diff(allowed[0])[rows] == 0).sum())
    if num_empty:
        logging.warning("%d of %d users have no item that is allowed: their lists are empty", num_empty, len(rows))


def _with_progress(lists: Iterator[Lists], num_users: int) -> Iterator[Lists]:
    with tqdm(total=num_users, desc="recommend", unit="user", disable=None, leave=False) as bar:
        for some in lists:
            yield some
            bar.update(len(some.users))
