"""Slices of users and measures of lists, against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearm_jax.data.dataset import make_dataset
from rearm_jax.evaluation.slices import by_history, list_measures

NUM_USERS, NUM_ITEMS = 40, 25


def made_up(seed=0, cold=()):
    """User u has 1 + u // 4 train interactions; `cold` users have none."""
    rng = np.random.default_rng(seed)
    pairs = [(u, i) for u in range(NUM_USERS) if u not in cold for i in rng.permutation(NUM_ITEMS - 1)[: 1 + u // 4]]
    valid, test = (np.array([[user, NUM_ITEMS - 1]], np.int32) for user in (0, 1))  # an item that train does not have
    features = {"text": np.ones((NUM_ITEMS, 1), np.float32)}
    return make_dataset(np.array(pairs, np.int32), valid, test, features, num_users=NUM_USERS)


def test_by_history_against_plain_loops():
    dataset = made_up(cold=(3, 9, 30))
    rng = np.random.default_rng(1)
    metrics = {name: rng.random(NUM_USERS) for name in ("recall@5", "ndcg@5")}
    for values in metrics.values():
        values[[1, 9, 20]] = np.nan
    counted = [sum(user == u for user, _ in dataset.train.tolist()) for u in range(NUM_USERS)]
    slices = by_history(metrics, dataset)
    assert slices[0]["train_interactions"] == [0, 0]
    assert slices[0]["users"] == 2  # 3 and 30
    assert len(slices) == 6
    assert sum(one["users"] for one in slices) == 37
    last = -1
    for one in slices:
        low, high = one["train_interactions"]
        assert last < low <= high
        last = high
        inside = [u for u in range(NUM_USERS) if low <= counted[u] <= high and u not in (1, 9, 20)]
        assert one["users"] == len(inside)
        for name, values in metrics.items():
            assert one[name] == pytest.approx(sum(values[u] for u in inside) / len(inside))


def test_the_means_of_slices_add_up_to_the_mean():
    dataset, values = made_up(), np.random.default_rng(2).random(NUM_USERS).astype(np.float32)
    slices = by_history({"m": values}, dataset)
    assert slices[0]["train_interactions"][0] == 1  # nobody is cold
    total = sum(one["users"] * one["m"] for one in slices)
    assert total / NUM_USERS == pytest.approx(values.mean(dtype=np.float64))


def test_cold_users_alone_and_nobody():
    dataset = made_up()
    only = np.full(NUM_USERS, np.nan)
    assert by_history({"m": only}, dataset) == []
    cold = made_up(cold=(7,))
    only[7] = 0.25
    assert by_history({"m": only}, cold) == [{"train_interactions": [0, 0], "users": 1, "m": 0.25}]


def plain_measures(lists, dataset, k):
    places = [item for row in lists for item in row[:k] if item >= 0]
    shown = [places.count(item) for item in range(dataset.num_items)]
    in_train = [sum(item == i for _, i in dataset.train.tolist()) for item in range(dataset.num_items)]
    gaps = sum(abs(a - b) for a in shown for b in shown)
    return {
        f"coverage@{k}": len(set(places)) / dataset.num_items,
        f"gini@{k}": gaps / (2 * dataset.num_items * sum(shown)),
        f"novelty@{k}": sum(-math.log2((in_train[i] + 1) / (dataset.num_users + 1)) for i in places) / len(places),
    }


@given(seed=st.integers(0, 1000), k=st.integers(1, 6), num_lists=st.integers(1, 12), empty=st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_list_measures_against_plain_loops(seed, k, num_lists, empty):
    dataset, rng = made_up(), np.random.default_rng(seed)
    lists = np.stack([rng.permutation(NUM_ITEMS)[:6] for _ in range(num_lists)])
    lists[:, 6 - empty :] = -1
    padded = np.full((2, 10, 6), 3)
    padded.reshape(20, 6)[:num_lists] = lists
    users = np.full((2, 10), -1)
    users.reshape(20)[:num_lists] = np.arange(num_lists)
    assert list_measures(padded, users, dataset, k) == pytest.approx(plain_measures(lists, dataset, k))


def test_list_measures_at_their_ends():
    dataset = made_up()
    everything = list_measures(np.arange(NUM_ITEMS)[None], np.zeros(1, int), dataset, NUM_ITEMS)
    assert everything[f"coverage@{NUM_ITEMS}"] == 1
    assert everything[f"gini@{NUM_ITEMS}"] == 0
    one = list_measures(np.full((9, 1), NUM_ITEMS - 1), np.arange(9), dataset, 1)
    assert one == pytest.approx(
        {"coverage@1": 1 / NUM_ITEMS, "gini@1": 1 - 1 / NUM_ITEMS, "novelty@1": math.log2(NUM_USERS + 1)}
    )


@pytest.mark.parametrize(
    ("lists", "users", "k", "word"),
    [
        (np.zeros((2, 3), int), np.zeros(2, int), 4, r"1\.\.3"),
        (np.zeros((2, 3), int), np.zeros(2, int), 0, r"1\.\.3"),
        (np.full((2, 3), -1), np.zeros(2, int), 2, "no place"),
        (np.zeros((2, 3), int), np.full(2, -1), 2, "no place"),
        (np.zeros((2, 3), int), np.zeros(3, int), 2, "shape of users"),
    ],
)
def test_refused(lists, users, k, word):
    with pytest.raises(ValueError, match=word):
        list_measures(lists, users, made_up(), k)
