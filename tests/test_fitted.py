"""The models in closed form beside plain numpy: popularity, nearest items, EASE; the cut of their weights."""

import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from rearm_jax import models
from rearm_jax.data.dataset import make_dataset
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError
from rearm_jax.evaluation.scoring import scores_metrics
from rearm_jax.recommender.fitted import interactions, keep_largest, scores_of

NUM_USERS, NUM_ITEMS = 60, 40
FIELDS = {
    "popular": {},
    "itemknn": {"shrink": 3.0, "neighbours": 0, "kept_weights": 0},
    "ease": {"l2": 5.0, "kept_weights": 0},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """So small matrices are a hundred times as slow on several threads where the cores are busy."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def dataset():
    """With a user and an item that occur in no train interaction."""
    data = make_synthetic(NUM_USERS, NUM_ITEMS, 8, 4, 0, ("image",))
    train = data.train[(data.train[:, 0] != 7) & (data.train[:, 1] != 11)]
    return make_dataset(train.T, data.valid.T, data.test.T, data.features, NUM_USERS)


def make(name: str, **fields):
    return models.find(name)(**FIELDS[name] | fields)


def dense_train(dataset) -> np.ndarray:
    matrix = np.zeros((dataset.num_users, dataset.num_items))
    matrix[tuple(dataset.train.T)] = 1
    return matrix


def dense_weights(params) -> np.ndarray:
    if "weights" in params:
        return params["weights"]
    parts = (params[f"weights_{part}"] for part in ("data", "indices", "indptr"))
    return scipy.sparse.csr_array(tuple(parts), shape=(NUM_ITEMS, NUM_ITEMS)).toarray()


def all_scores(model, params, dataset) -> np.ndarray:
    return scores_of(model, params, dataset)(np.arange(dataset.num_users))


def cosine_weights(train: np.ndarray, shrink: float, neighbours: int) -> np.ndarray:
    """A loop over pairs; of each column the largest, the lower item first among equals."""
    weights = np.zeros((train.shape[1],) * 2)
    for i, first in enumerate(train.T):
        for j, second in enumerate(train.T):
            if i != j and first @ second:
                weights[i, j] = first @ second / (np.sqrt(first.sum()) * np.sqrt(second.sum()) + shrink)
    for column in weights.T:
        # As float32, in which neighbours of equal counts tie.
        order = sorted(range(len(column)), key=lambda item: (-np.float32(column[item]), item))
        column[order[neighbours or len(column) :]] = 0
    return weights


def test_popular_scores_are_counts(dataset):
    model = make("popular")
    scores = all_scores(model, model.fit(dataset), dataset)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.tile(dense_train(dataset).sum(axis=0), (NUM_USERS, 1)))


@pytest.mark.parametrize(("shrink", "neighbours"), [(0.0, 0), (3.0, 0), (100.0, 5), (1.0, 39)])
def test_itemknn_is_the_loop_over_pairs(dataset, shrink, neighbours):
    train = dense_train(dataset)
    expected = cosine_weights(train, shrink, neighbours)
    model = make("itemknn", shrink=shrink, neighbours=neighbours)
    params = model.fit(dataset)
    np.testing.assert_allclose(dense_weights(params), expected, rtol=1e-6)
    assert (np.count_nonzero(dense_weights(params), axis=0) <= (neighbours or NUM_ITEMS)).all()
    np.testing.assert_allclose(all_scores(model, params, dataset), train @ expected, rtol=1e-5, atol=1e-7)


def test_itemknn_does_not_depend_on_its_blocks(dataset, monkeypatch):
    whole = make("itemknn", neighbours=4).fit(dataset)
    monkeypatch.setattr("rearm_jax.models.itemknn._BLOCK_ITEMS", 7)
    for name, array in make("itemknn", neighbours=4).fit(dataset).items():
        np.testing.assert_array_equal(array, whole[name])


@pytest.mark.parametrize("block_rows", [512, 9])
@pytest.mark.parametrize("l2", [0.5, 200.0])
def test_ease_is_stationary_with_a_zero_diagonal(dataset, l2, block_rows, monkeypatch):
    """The gradient of |A - A W|^2 + l2 |W|^2 vanishes off the diagonal: (G + l2 I) W = G - diag(gamma)."""
    monkeypatch.setattr("rearm_jax.models.ease._BLOCK_ROWS", block_rows)
    model = make("ease", l2=l2)
    params = model.fit(dataset)
    weights = params["weights"]
    assert weights.dtype == np.float32
    assert weights.flags.c_contiguous
    assert (weights.diagonal() == 0).all()
    train = dense_train(dataset)
    gram = train.T @ train
    residual = (gram + l2 * np.eye(NUM_ITEMS)) @ weights - gram
    np.testing.assert_allclose(residual - np.diag(residual.diagonal()), 0, atol=2e-4)
    assert not weights[11].any()
    assert not weights[:, 11].any()
    np.testing.assert_allclose(all_scores(model, params, dataset), train @ weights, atol=1e-5)


def test_ease_has_the_least_error_of_its_neighbourhood(dataset):
    train, weights = dense_train(dataset), make("ease").fit(dataset)["weights"].astype(np.float64)

    def error(weights: np.ndarray) -> float:
        return ((train - train @ weights) ** 2).sum() + 5.0 * (weights**2).sum()

    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(0, 1e-3, weights.shape)
        np.fill_diagonal(step, 0)
        assert error(weights + step) > error(weights)


def test_ease_refuses_an_l2_that_float32_cannot_tell_from_0(dataset):
    # Two items with the same 16 users: the determinant of A^T A + l2 I is 0 in float32, exactly.
    train = np.array([[user, item] for user in range(16) for item in (0, 1)], np.int32)
    data = dataclasses.replace(dataset, train=train)
    with pytest.raises(ConfigError, match=r"l2 = 1e-10 is too small"):
        make("ease", l2=1e-10).fit(data)


@pytest.mark.parametrize("name", ["itemknn", "ease"])
def test_kept_weights_are_the_largest_of_each_row(dataset, name, monkeypatch):
    monkeypatch.setattr("rearm_jax.recommender.fitted._BLOCK_ENTRIES", 7 * NUM_ITEMS)
    whole = dense_weights(make(name).fit(dataset))
    model = make(name, kept_weights=6)
    params = model.fit(dataset)
    cut = dense_weights(params)
    for row, kept in zip(whole, cut, strict=True):
        order = sorted(range(NUM_ITEMS), key=lambda item: (-abs(row[item]), item))[:6]
        expected = np.zeros(NUM_ITEMS, np.float32)
        expected[order] = row[order]
        np.testing.assert_array_equal(kept, expected)
    assert {array.dtype for array in params.values()} == {np.dtype(np.float32), np.dtype(np.int32)}
    np.testing.assert_allclose(all_scores(model, params, dataset), dense_train(dataset) @ cut, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_keep_largest(data):
    rows, columns, n = (data.draw(st.integers(1, 6)) for _ in range(3))
    values = st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0, -3.0])
    matrix = np.array(data.draw(st.lists(values, min_size=rows * columns, max_size=rows * columns)), np.float32)
    matrix = matrix.reshape(rows, columns)
    kept = keep_largest(scipy.sparse.csr_array(matrix), n)
    assert kept.has_canonical_format
    assert kept.data.all()
    for row, found in zip(matrix, kept.toarray(), strict=True):
        order = sorted(range(columns), key=lambda column: (-abs(row[column]), column))[:n]
        expected = np.where(np.isin(np.arange(columns), order), row, 0)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("popular", {}), ("itemknn", {}), ("itemknn", {"neighbours": 3}), ("ease", {}), ("ease", {"kept_weights": 9})],
)
def test_traced_scores_are_the_scores(dataset, name, fields, monkeypatch):
    monkeypatch.setattr("rearm_jax.recommender.fitted._CHUNK", 4)  # rows of more than one chunk
    model = make(name, **fields)
    params = model.fit(dataset)
    histories = [[3, 5, 17], [], [11], list(range(12))]
    padded = np.full((4, 12), -1, np.int32)
    matrix = np.zeros((4, NUM_ITEMS), np.float32)
    for row, items in enumerate(histories):
        padded[row, 12 - len(items) :] = items  # wherever the padding is
        matrix[row, items] = 1
    expected = model.scores(params, scipy.sparse.csr_array(matrix))
    found = jax.jit(model.traced_scores)(params, padded)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["popular", "itemknn", "ease"])
def test_evaluation_ranks_all_items_but_those_of_train(dataset, name):
    model = make(name)
    scores = scores_of(model, model.fit(dataset), dataset)
    whole = np.where(dense_train(dataset) > 0, -np.inf, all_scores(model, model.fit(dataset), dataset))
    hits = {}
    for user, item in dataset.test.tolist():
        top = sorted(range(NUM_ITEMS), key=lambda other: (-whole[user, other], other))[:10]
        hits.setdefault(user, []).append(item in top)
    found = scores_metrics(scores, dataset, "test", (5, 10), block_size=16)
    assert found["test/recall@10"] == pytest.approx(np.mean([np.mean(each) for each in hits.values()]))


@pytest.mark.parametrize("name", ["popular", "itemknn", "ease"])
def test_no_array_is_users_by_items(name):
    """Memory beside the interactions does not grow with the number of users times that of items."""
    num_users, num_items = 6000, 1000
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(num_users), 4)
    pairs = np.unique(np.stack([users, rng.integers(0, num_items, len(users))], 1), axis=0)
    train, valid, test = (pairs[np.arange(len(pairs)) % 4 // 2 == place] for place in (0, 1, 2))
    valid, test = valid[::2], valid[1::2]
    data = make_dataset(train.T, valid.T, test.T, {"image": np.ones((num_items, 1), np.float32)}, num_users)
    shapes = []

    class Spied(models.find(name)):
        def scores(self, params, history):
            shapes.append(history.shape)
            return super().scores(params, history)

    def run():
        model = Spied(**FIELDS[name])
        scores_metrics(scores_of(model, model.fit(data), data), data, "test", (10,), block_size=64)

    run()  # compiles
    tracemalloc.start()
    try:
        run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {rows for rows, _ in shapes} <= set(range(2, 65))
    assert len(shapes) > 50
    assert peak < 2 * num_users * num_items  # the scores of all pairs would be twice as much


def test_memory_is_said_beforehand(dataset):
    assert make("ease").memory_bytes(dataset) == 4 * NUM_ITEMS**2
    counts = dense_train(dataset)
    joined = int((counts.T @ counts > 0).sum())
    for neighbours in (0, 3):
        model = make("itemknn", neighbours=neighbours)
        kept = sum(array.nbytes for array in model.fit(dataset).values() if array.dtype == np.float32)
        assert model.memory_bytes(dataset) >= 2 * kept
    assert make("itemknn").memory_bytes(dataset) >= 8 * joined
    assert interactions(dataset).shape == (NUM_USERS, NUM_ITEMS)
