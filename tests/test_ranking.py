"""Full ranking against sorting in plain Python, for every block size; ties, exclusion and padding."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from rearm_jax.evaluation.ranking import make_blocks, rank_items

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
NUM_USERS, NUM_ITEMS = 23, 17


def pairs_to_rows(pairs, num_users):
    """(indptr, items sorted within each user) of a list of (user, item), in plain Python."""
    rows = [sorted(item for user, item in pairs if user == u) for u in range(num_users)]
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return indptr, np.array([item for row in rows for item in row], np.int32)


def brute_force(scores, excluded, users, k):
    """Lists by sorting on (higher score, lower id) after leaving out the excluded pairs; -1 fills short lists."""
    lists = []
    for user in users:
        items = [item for item in range(scores.shape[1]) if (user, item) not in excluded]
        items = sorted(items, key=lambda item: (-scores[user, item], item))[:k]
        lists.append(items + [-1] * (k - len(items)))
    return np.array(lists)


def rank(user_vectors, item_vectors, users, excluded, k, block_size, num_devices=1):
    """Lists and scores of `users`, (n, k) each, from blocks that are ranked separately for each device."""
    exclude = pairs_to_rows(excluded, len(user_vectors))
    blocks = make_blocks(np.asarray(users), exclude, block_size, num_devices)
    per_device = jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), blocks)
    ranked = jax.jit(partial(rank_items, k=k))
    out = [
        ranked(user_vectors, item_vectors, jax.tree.map(lambda x, d=d: x[d], per_device)) for d in range(num_devices)
    ]
    items, scores = (np.concatenate([np.asarray(o[i]).reshape(-1, k) for o in out]) for i in (0, 1))
    assert (items[len(users) :] == -1).all()  # padded users have no list
    return items[: len(users)], scores[: len(users)]


@pytest.fixture(scope="module")
def integer_case():
    """Small integers: products and sums are exact and full of ties. User 3 has seen everything, user 5 all but two."""
    rng = np.random.default_rng(0)
    user_vectors = rng.integers(-2, 3, (NUM_USERS, 4)).astype(np.float32)
    item_vectors = rng.integers(-2, 3, (NUM_ITEMS, 4)).astype(np.float32)
    excluded = {(u, i) for u in range(NUM_USERS) for i in range(NUM_ITEMS) if rng.random() < 0.2 and u % 4}
    excluded |= {(3, i) for i in range(NUM_ITEMS)} | {(5, i) for i in range(NUM_ITEMS - 2)}
    excluded -= {(5, NUM_ITEMS - 2), (5, NUM_ITEMS - 1)}
    return user_vectors, item_vectors, excluded


@pytest.mark.parametrize("num_devices", [1, 3])
@pytest.mark.parametrize("block_size", [1, 2, 5, 8, 22, 23, 1000])
def test_every_block_size_gives_the_sorted_list(integer_case, block_size, num_devices):
    user_vectors, item_vectors, excluded = integer_case
    users = np.random.default_rng(1).permutation(NUM_USERS)[:19]
    users = np.union1d(users, [3, 5])[::-1]  # any order of users is kept
    items, scores = rank(user_vectors, item_vectors, users, excluded, 12, block_size, num_devices)
    dense = user_vectors @ item_vectors.T
    expected = brute_force(dense, excluded, users, 12)
    np.testing.assert_array_equal(items, expected)
    found = items >= 0
    np.testing.assert_array_equal(scores[found], dense[users[:, None], expected][found])
    assert (scores[~found] == -np.inf).all()
    assert (items[users == 3] == -1).all()
    assert (items[users == 5] >= 0).sum() == 2


@pytest.mark.parametrize("num_items", [16 * 8 * 3 - 1, 16 * 8 * 3, 500, 1000])
def test_many_items_give_the_sorted_list(num_items):
    """Enough items for the ranking by groups, which starts at 384 for lists of 3; ties everywhere, across groups."""
    rng = np.random.default_rng(num_items)
    user_vectors = rng.integers(-1, 2, (9, 3)).astype(np.float32)
    user_vectors[8] = -0.0  # all scores are 0 or -0.0
    item_vectors = rng.integers(-2, 3, (num_items, 3)).astype(np.float32)
    item_vectors[7] = np.nan
    # User 2 has seen everything, user 3 all but one item of the first group and one of the last, short one.
    excluded = {(u, int(i)) for u in range(9) for i in rng.choice(num_items, num_items // 3, replace=False)}
    excluded |= {(2, i) for i in range(num_items)} | {(3, i) for i in range(num_items)} | {(u, 7) for u in range(9)}
    excluded -= {(3, 5), (3, num_items - 1)}
    items, scores = rank(user_vectors, item_vectors, range(9), excluded, 3, 4)
    dense = user_vectors @ item_vectors.T
    expected = brute_force(dense, excluded, range(9), 3)
    np.testing.assert_array_equal(items, expected)
    assert (items[2] == -1).all()
    assert sorted(items[3]) == [-1, 5, num_items - 1]
    np.testing.assert_array_equal(scores[items >= 0], np.take_along_axis(dense, expected, axis=1)[items >= 0])


def test_float_scores_do_not_depend_on_the_block_size():
    rng = np.random.default_rng(2)
    user_vectors, item_vectors = (rng.normal(size=(n, 48)).astype(np.float32) for n in (37, 60))
    excluded = {(int(u), int(i)) for u, i in zip(rng.integers(0, 37, 99), rng.integers(0, 60, 99), strict=True)}
    exact = user_vectors.astype(np.float64) @ item_vectors.T
    gaps = np.diff(np.sort(exact, axis=1), axis=1)
    users = np.flatnonzero(gaps.min(axis=1) > 1e-4)  # far above rounding: the order is certain
    assert len(users) > 20
    expected = brute_force(exact, excluded, users, 20)
    for block_size in (1, 4, 9, 100):
        items, scores = rank(user_vectors, item_vectors, users, excluded, 20, block_size)
        np.testing.assert_array_equal(items, expected)
        np.testing.assert_allclose(scores, exact[users[:, None], expected], atol=2e-5)


@pytest.mark.parametrize("block_size", [1, 7])
def test_equal_scores_come_in_the_order_of_ids(block_size):
    user_vectors = np.ones((7, 1), np.float32)
    item_vectors = np.float32([[1], [3], [2], [3], [1], [3]])
    items, _ = rank(user_vectors, item_vectors, range(7), {(2, 1)}, 6, block_size)
    assert items[0].tolist() == [1, 3, 5, 2, 0, 4]
    assert items[2].tolist() == [3, 5, 2, 0, 4, -1]


def test_negative_zero_ties_with_zero():
    # 0 * -1 is -0.0, which a total order of floats puts below 0.0.
    items, _ = rank(np.zeros((2, 1), np.float32), np.float32([[-1], [1], [-1], [1]]), range(2), set(), 4, 2)
    assert items.tolist() == [[0, 1, 2, 3]] * 2


def test_nan_is_never_recommended():
    item_vectors = np.float32([[1], [np.nan], [2]])
    items, scores = rank(np.ones((2, 1), np.float32), item_vectors, range(2), {(1, 2)}, 3, 2)
    assert [sorted(row) for row in items.tolist()] == [[-1, 0, 2], [-1, -1, 0]]
    assert np.isnan(scores).any(axis=1).all()


def test_nan_is_never_recommended_among_many_items():
    item_vectors = np.linspace(0, 1, 700, dtype=np.float32)[:, None]
    item_vectors[[20, 650]] = np.nan
    items, _ = rank(np.ones((2, 1), np.float32), item_vectors, range(2), {(1, 20), (1, 698)}, 4, 2)
    assert items.tolist() == [[-1, -1, 699, 698], [-1, 699, 697, 696]]


def test_nothing_excluded():
    item_vectors = np.arange(5, dtype=np.float32)[:, None]
    items, _ = rank(np.ones((3, 1), np.float32), item_vectors, [2, 0], set(), 5, 2)
    assert items.tolist() == [[4, 3, 2, 1, 0]] * 2


def test_blocks_hold_every_pair_once(integer_case):
    excluded = integer_case[2]
    users = np.arange(NUM_USERS)
    for block_size in (1, 4, 10, 100):
        blocks = make_blocks(users, pairs_to_rows(excluded, NUM_USERS), block_size, num_devices=2)
        num_blocks, block = blocks.users.shape
        assert num_blocks % 2 == 0
        assert 2 <= block <= max(block_size, 2)
        assert block == make_blocks(users, pairs_to_rows(excluded, NUM_USERS), block_size).users.shape[1]
        real = blocks.excluded_rows < block
        rows = np.arange(num_blocks)[:, None] * block + blocks.excluded_rows
        pairs = list(zip(rows[real].tolist(), blocks.excluded_items[real].tolist(), strict=True))
        assert sorted(pairs) == sorted(excluded)
        assert real.sum(axis=1).max() == blocks.excluded_rows.shape[1]  # no wider than the fullest block needs
        assert {a.dtype for a in blocks} == {np.dtype(np.int32)}


@pytest.mark.parametrize("k", [0, 6])
def test_k_that_does_not_fit_is_refused(k):
    with pytest.raises(ValueError, match=f"between 1 and the number of items, 5, got {k}"):
        rank(np.ones((2, 1), np.float32), np.ones((5, 1), np.float32), range(2), set(), k, 2)


@pytest.mark.parametrize(
    ("users", "sizes", "message"),
    [
        ([], (4, 1), "non-empty"),
        ([0, 3], (4, 1), r"0\.\.2, got 0\.\.3"),
        ([-1, 2], (4, 1), r"got -1\.\.2"),
        ([0], (0, 1), "got 0 and 1"),
        ([0], (4, 0), "got 4 and 0"),
    ],
)
def test_impossible_blocks_are_refused(users, sizes, message):
    with pytest.raises(ValueError, match=message):
        make_blocks(np.array(users, np.int32), pairs_to_rows([], 3), *sizes)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_lists(path, split):
    golden = np.load(path, allow_pickle=False)
    users, scores, expected = (golden[f"out/{split}_{name}"] for name in ("users", "scores", "top20"))
    num_users, num_items = scores.shape
    representation = golden["out/representation_after"]
    train = set(zip(*golden["data/train"].tolist(), strict=True))
    items, _ = rank(representation[:num_users], representation[-num_items:], users, train, 20, 16)
    masked = np.take_along_axis(scores[users], expected, axis=1) < -1e9  # the original fills short lists with these
    ranked = -np.sort(-scores[users], axis=1)[:, :21]
    certain = np.diff(ranked, axis=1).max(axis=1) < -2e-6  # no tie within rounding
    assert certain.mean() > 0.9
    np.testing.assert_array_equal(items[certain], np.where(masked, -1, expected)[certain])
