"""Rules for lists against walking down a sorted list in plain Python."""

import jax
import numpy as np
import pytest

from rearm_jax.evaluation.limited_ranking import keep_allowed, make_limit, rank_limited
from rearm_jax.evaluation.ranking import UserBlocks, make_blocks, rank_scores
from rearm_jax.evaluation.scoring import each_block

NUM_USERS = 9
RANK = jax.jit(rank_limited, static_argnames=("k", "num_reserved"))


def walk(candidates, scores, places, limits, taken):
    """Items from the top, while each of the limits, (values, most), lets them in beside those taken."""
    chosen = []
    for item in sorted(candidates, key=lambda item: (-scores[item], item)):
        held = [*taken, *chosen]
        full = any(
            values[item] and sum(values[other] == values[item] for other in held) >= most for values, most in limits
        )
        if len(held) < places and not full:
            chosen.append(item)
    return chosen


def expected(scores, excluded, k, limits=(), reserved=None, num_reserved=0):
    lists = []
    for user, row in enumerate(scores):
        candidates = [item for item in range(len(row)) if (user, item) not in excluded]
        if reserved is None:
            lists.append(walk(candidates, row, k, limits, []))
            continue
        own = walk([item for item in candidates if reserved[item]], row, num_reserved, limits, [])
        others = walk([item for item in candidates if not reserved[item]], row, k, limits, own)
        lists.append(sorted([*own, *others], key=lambda item, row=row: (-row[item], item)))
    return lists


def only_block(pairs, num_items, num_users=NUM_USERS):
    """One block of all users, and two of padding."""
    indptr = np.cumsum([0, *(sum(user == row for user, _ in pairs) for row in range(num_users))])
    items = np.array([item for _, item in sorted(pairs)], np.int32)
    (block,) = each_block(make_blocks(np.arange(num_users), (indptr, items), num_users))
    return UserBlocks(np.append(block.users, [-1, -1]).astype(np.int32), block.excluded_rows, block.excluded_items)


def as_lists(items):
    items = np.asarray(items)
    assert (items[NUM_USERS:] == -1).all()  # padded users
    return [[item for item in row if item >= 0] for row in items[:NUM_USERS].tolist()]


def draw(rng, num_items):
    """Scores with many ties, and pairs that are excluded."""
    scores = rng.integers(-12, 12, (NUM_USERS + 2, num_items)).astype(np.float32) / 4
    pairs = {
        (int(u), int(i))
        for u, i in zip(rng.integers(NUM_USERS, size=60), rng.integers(num_items, size=60), strict=True)
    }
    return scores, pairs | {(0, item) for item in range(num_items - 3)}  # of whom three are left


CASES = {
    "one": ([4], [2], None, 0),
    "one of each": ([5], [1], None, 0),
    "two rules": ([3, 6], [3, 1], None, 0),
    "kept places": ([], [], 0.3, 3),
    "none kept": ([], [], 0.3, 0),
    "more kept than there are": ([], [], 0.03, 6),
    "all kept": ([], [], 0.5, 7),
    "both": ([4, 9], [2, 2], 0.3, 3),
}


@pytest.mark.parametrize("num_items", [30, 1000])  # a list at once, and by groups
@pytest.mark.parametrize("case", CASES)
def test_lists_are_those_of_a_walk(case, num_items):
    counts, most, share, num_reserved = CASES[case]
    k, rng = 7, np.random.default_rng(len(case) + num_items)
    scores, pairs = draw(rng, num_items)
    values = [np.array(["", *"abcdefgh"])[rng.integers(count, size=num_items)] for count in counts]
    limits = list(zip(values, most, strict=True))
    reserved = None if share is None else rng.random(num_items) < share
    rules = [make_limit(*limit) for limit in limits]
    items, best = RANK(scores, only_block(pairs, num_items), k, rules, reserved, num_reserved)
    lists = expected(scores[:NUM_USERS], pairs, k, limits, reserved, num_reserved)
    assert as_lists(items) == lists
    for user, row in enumerate(lists):
        np.testing.assert_array_equal(best[user, : len(row)], scores[user, row])
        assert (np.asarray(best)[user, len(row) :] == -np.inf).all()
    if num_reserved and not limits:  # exactly the share, or what there is
        available = [sum(reserved[i] and (u, i) not in pairs for i in range(num_items)) for u in range(NUM_USERS)]
        assert [sum(reserved[row]) for row in lists] == [min(num_reserved, there) for there in available]


def test_a_list_goes_on_until_it_is_full():
    """The best 900 items are of one group, far beyond what is looked at together."""
    num_items, k = 1000, 5
    scores = np.tile(-np.arange(num_items, dtype=np.float32), (NUM_USERS + 2, 1))
    limit = make_limit(["one"] * 900 + ["other"] * 90 + [""] * 10, 2)
    items, _ = RANK(scores, only_block(set(), num_items), k, [limit])
    assert as_lists(items) == [[0, 1, 900, 901, 990]] * NUM_USERS


def test_without_rules_it_is_the_ranking():
    rng = np.random.default_rng(0)
    scores, pairs = draw(rng, 50)
    block = only_block(pairs, 50)
    for mine, ranked in zip(
        RANK(scores, block, 6), jax.jit(rank_scores, static_argnames="k")(scores, block, 6), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(mine)[:NUM_USERS], np.asarray(ranked)[:NUM_USERS])


def test_only_allowed_pairs_stay():
    rng = np.random.default_rng(1)
    scores, pairs = draw(rng, 20)
    kept = np.asarray(jax.jit(keep_allowed)(scores, only_block(pairs, 20)))
    for user in range(NUM_USERS):
        for item in range(20):
            assert kept[user, item] == (scores[user, item] if (user, item) in pairs else -np.inf)
