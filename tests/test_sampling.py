"""Epochs and negatives against brute force."""

import jax
import numpy as np
import pytest
import scipy.stats

from rearm_jax.data.dataset import make_dataset
from rearm_jax.training.order import epoch_order
from rearm_jax.training.sampling import (
    Sampler,
    draw_batch,
    draw_negatives,
    make_sampler,
    num_without_negative,
)

NUM_ITEMS = 12
EXCLUDED = {  # user -> items that are never a negative
    0: [0, 11],  # both ends
    1: [0, 1, 2, 3],  # a run at the start
    2: [8, 9, 10, 11],  # a run at the end
    3: [2, 3, 4, 8],  # a run in the middle
    4: [],
    5: [i for i in range(NUM_ITEMS) if i != 6],  # one item is free
    6: list(range(NUM_ITEMS)),  # none is
    7: [5],
    8: [0, 2, 4, 6, 8, 10],
}


def sampler_of(excluded: dict[int, list[int]], num_items: int) -> Sampler:
    pairs = np.array([(u, i) for u, items in excluded.items() for i in items], np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(items) for items in excluded.values()])]).astype(np.int32)
    return Sampler(pairs[:, 0], pairs[:, 1], indptr, pairs[:, 1], np.int32(num_items))


def free_items(user: int) -> np.ndarray:
    return np.setdiff1d(np.arange(NUM_ITEMS), EXCLUDED[user])


def dataset_of(train, valid, test, num_users=0):
    features = {"image": np.ones((NUM_ITEMS, 2), np.float32)}
    splits = (np.array(pairs, np.int32).T for pairs in (train, valid, test))
    return make_dataset(*splits, features, num_users)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return jax.device_put(sampler_of(EXCLUDED, NUM_ITEMS))


def test_every_rank_gives_the_free_item_of_that_rank(sampler, monkeypatch):
    cases = [(u, r, item) for u in EXCLUDED for r, item in enumerate(free_items(u))]
    users, ranks, expected = np.array(cases, np.int32).T
    monkeypatch.setattr(jax.random, "randint", lambda *args, **kwargs: ranks)
    items, possible = draw_negatives(sampler, users, jax.random.key(0))
    np.testing.assert_array_equal(items, expected)
    assert possible.all()


@pytest.mark.parametrize("seed", range(5))
def test_every_rank_of_random_exclusions(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    excluded = {u: sorted(rng.choice(50, rng.integers(0, 50), replace=False).tolist()) for u in range(30)}
    cases = [(u, r, i) for u in excluded for r, i in enumerate(np.setdiff1d(np.arange(50), excluded[u]))]
    users, ranks, expected = np.array(cases, np.int32).T
    monkeypatch.setattr(jax.random, "randint", lambda *args, **kwargs: ranks)
    items, _ = draw_negatives(jax.device_put(sampler_of(excluded, 50)), users, jax.random.key(0))
    np.testing.assert_array_equal(items, expected)


def test_negatives_are_uniform_over_the_free_items(sampler):
    draws = 20_000
    for user in EXCLUDED:
        free = free_items(user)
        if len(free) == 0:
            continue
        items, possible = draw_negatives(sampler, np.full(draws, user, np.int32), jax.random.key(user))
        assert possible.all()
        counts = np.bincount(items, minlength=NUM_ITEMS)
        assert counts[EXCLUDED[user]].sum() == 0
        assert counts[free].sum() == draws
        if len(free) > 1:
            assert scipy.stats.chisquare(counts[free]).pvalue > 1e-3


def test_negatives_of_one_batch_are_independent(sampler):
    # Users 1 and 2 have 8 free items each: the 64 pairs of their draws are uniform, too.
    users = np.tile(np.array([1, 2], np.int32), 20_000)
    items = np.asarray(draw_negatives(sampler, users, jax.random.key(1))[0]).reshape(-1, 2)
    counts = np.bincount((items[:, 0] - 4) * 8 + items[:, 1], minlength=64)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_user_without_a_free_item_is_masked_out(sampler):
    _, possible = draw_negatives(sampler, np.array([6, 0, 6], np.int32), jax.random.key(0))
    assert possible.tolist() == [False, True, False]
    order = epoch_order(jax.random.key(0), len(sampler.users))
    batch = draw_batch(sampler, order, np.int32(0), jax.random.key(1), len(sampler.users))
    np.testing.assert_array_equal(batch.mask, np.asarray(batch.users) != 6)
    assert num_without_negative(sampler) == NUM_ITEMS


@pytest.mark.parametrize("batch_size", [1, 7, 36, 37, 100])
def test_every_interaction_once_an_epoch(batch_size):
    rng = np.random.default_rng(0)
    pairs = np.array([(u, i) for u in range(10) for i in rng.choice(NUM_ITEMS, 4, replace=False)], np.int32)[:37]
    dataset = dataset_of(pairs, [[10, 4]], [[10, 5]])
    sampler = jax.device_put(make_sampler(dataset, "strict"))
    train = {tuple(pair) for pair in pairs.tolist()}
    draw = jax.jit(draw_batch, static_argnums=4)
    order = epoch_order(jax.random.key(3), 37)
    seen = []
    for position in range(0, 37, batch_size):
        batch = draw(sampler, order, np.int32(position), jax.random.key(position), batch_size)
        assert batch.users.shape == batch.mask.shape == (batch_size,)
        assert batch.mask.sum() == min(batch_size, 37 - position)
        mask = np.asarray(batch.mask)
        seen += np.stack([batch.users, batch.positives], 1)[mask].tolist()
        negatives = zip(np.asarray(batch.users)[mask].tolist(), np.asarray(batch.negatives)[mask].tolist(), strict=True)
        assert not train & set(negatives)
    assert sorted(seen) == sorted(pairs.tolist())


def test_order_follows_the_key():
    first, again, other = (np.asarray(epoch_order(jax.random.key(seed), 1000)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.sort(other), np.arange(1000))
    assert (first != other).mean() > 0.9
    assert (first != np.arange(1000)).mean() > 0.9


@pytest.mark.parametrize(
    ("protocol", "negatives", "excluded"),
    [("strict", "all", {0, 1}), ("reference", "all", {0, 1, 5, 7}), ("strict", "leaking", {0, 1, 5, 7})],
)
def test_what_is_excluded(protocol, negatives, excluded):
    # User 1 has no train interactions: nobody asks for its negatives.
    dataset = dataset_of([[0, 0], [0, 1], [2, 3]], [[0, 5], [1, 4]], [[0, 7], [1, 2]], num_users=3)
    sampler = jax.device_put(make_sampler(dataset, protocol, negatives))
    items, possible = draw_negatives(sampler, np.zeros(5000, np.int32), jax.random.key(0))
    assert possible.all()
    assert set(np.unique(items).tolist()) == set(range(NUM_ITEMS)) - excluded
    assert num_without_negative(sampler) == 0
    np.testing.assert_array_equal(sampler.users, [0, 0, 2])


def test_protocol_decides_who_has_no_negative():
    train = [[0, i] for i in range(NUM_ITEMS - 2)] + [[1, 0]]
    dataset = dataset_of(train, [[0, NUM_ITEMS - 2]], [[0, NUM_ITEMS - 1]])
    assert num_without_negative(make_sampler(dataset, "strict")) == 0
    assert num_without_negative(make_sampler(dataset, "reference")) == NUM_ITEMS - 2


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_items_without_train_interactions_are_no_negatives(protocol):
    """Items 2, 6 and 7 have none, whatever validation and test have; what is drawn is uniform over the rest."""
    train = [[0, 0], [0, 1], [1, 3], [2, 4], [2, 5], [2, 8], [3, 9], [3, 10], [3, 11]]
    dataset = dataset_of(train, [[0, 6], [0, 3]], [[1, 7], [0, 11]], num_users=4)
    sampler = jax.device_put(make_sampler(dataset, protocol, "trained"))
    splits = (dataset.train, dataset.valid, dataset.test) if protocol == "reference" else (dataset.train,)
    excluded = {(user, item) for split in splits for user, item in split.tolist()}
    users = np.repeat(np.arange(4, dtype=np.int32), 4000)
    items, possible = draw_negatives(sampler, users, jax.random.key(1))
    assert possible.all()
    for user in range(4):
        free = [item for item in (0, 1, 3, 4, 5, 8, 9, 10, 11) if (user, item) not in excluded]
        found, counts = np.unique(np.asarray(items)[users == user], return_counts=True)
        assert found.tolist() == free
        assert scipy.stats.chisquare(counts).pvalue > 1e-4

    order = np.arange(len(train), dtype=np.int32)
    batch = draw_batch(sampler, order, 0, jax.random.key(2), len(train), num_shared_negatives=200)
    negatives = np.asarray(batch.negatives)
    assert set(negatives.tolist()) == {0, 1, 3, 4, 5, 8, 9, 10, 11}
    assert (np.diff(negatives) >= 0).all()
    expected = [[(int(user), int(item)) in excluded for item in negatives] for user in np.asarray(batch.users)]
    np.testing.assert_array_equal(batch.own, expected)


def test_where_all_items_are_trained_the_setting_changes_nothing():
    none = np.zeros((0, 2), np.int32)
    dataset = dataset_of([[item % 3, item] for item in range(NUM_ITEMS)], none, none, num_users=3)
    for one, other in zip(make_sampler(dataset, "strict"), make_sampler(dataset, "strict", "trained"), strict=True):
        np.testing.assert_array_equal(one, other)
