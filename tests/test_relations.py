"""The five relations against the original's numbers, loops over all pairs, and scikit-learn."""

import json
import os
import pathlib
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.neighbors import NearestNeighbors

from rearm_jax.graphs import knn, relations

GOLDEN = sorted((pathlib.Path(__file__).parent / "golden").glob("*.npz"))
BABY = os.path.join(os.environ.get("REARM_DATA", ""), "baby", "train.npy")


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def golden(request):
    with np.load(request.param, allow_pickle=False) as file:
        arrays = dict(file)
    arrays["config"] = json.loads(str(arrays["config"]))
    return arrays


def golden_train(golden):
    """The pairs in sorted order, and the numbers of users and items."""
    train = np.unique(golden["data/train"].T, axis=0).astype(np.int32)
    return train, len(golden["state/user_v_prefer"]), len(golden["data/image_feat"])


def random_train(num_users=30, num_items=25, density=0.1, seed=0):
    """Cold users and items, popular items, and a user and an item that only have each other."""
    rng = np.random.default_rng(seed)
    chance = density * rng.exponential(size=num_items)
    matrix = rng.random((num_users, num_items)) < chance
    matrix[[0, 7]] = False
    matrix[:, [0, 5]] = False
    matrix[7, 5] = True
    return np.argwhere(matrix).astype(np.int32)


def dense_interactions(train, num_users, num_items):
    matrix = np.zeros((num_users, num_items), np.int64)
    for user, item in train:
        matrix[user, item] = 1
    return matrix


def loop_counts(matrix):
    """Shared counterparts of all pairs of rows, diagonal 0, by sets."""
    sets = [set(np.flatnonzero(row)) for row in matrix]
    return [[len(one & other) if i != j else 0 for j, other in enumerate(sets)] for i, one in enumerate(sets)]


def softmax(scores):
    weights = [np.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def loop_cooccurrence(matrix, k, popularity, padding=None):
    """The published construction, node by node, except that ties go to the lower id."""
    n = len(matrix)
    expected = np.zeros((n, n))
    popular = sorted(range(n), key=lambda node: (-popularity[node], node))[:k]
    for node, counts in enumerate(loop_counts(matrix)):
        neighbours = sorted((other for other in range(n) if counts[other]), key=lambda other: (-counts[other], other))
        neighbours = neighbours[:k]
        scores = [counts[other] for other in neighbours]
        if not neighbours:
            neighbours = popular
            total = sum(popularity[other] for other in popular)
            scores = [popularity[other] / total for other in popular]
        elif len(neighbours) < k and padding is not None:
            drawn = padding.randint(0, len(neighbours), size=k - len(neighbours))
            neighbours, scores = neighbours + [neighbours[d] for d in drawn], scores + [scores[d] for d in drawn]
        for other, weight in zip(neighbours, softmax(scores), strict=True):
            expected[node, other] += weight
    return expected


def assert_well_formed(graph, n):
    assert graph.shape == (n, n)
    assert (graph.dtype, graph.indices.dtype, graph.indptr.dtype) == (np.float32, np.int32, np.int32)
    assert (graph.data != 0).all()
    for row in range(n):
        assert (np.diff(graph.indices[graph.indptr[row] : graph.indptr[row + 1]]) > 0).all()


# The original's numbers


def test_golden_user_item(golden):
    graph = relations.user_item_graph(*golden_train(golden))
    np.testing.assert_allclose(graph.toarray(), golden["graph/norm_adj"], rtol=0, atol=1e-6)


def test_golden_interest_and_semantic(golden):
    (train, num_users, _), config = golden_train(golden), golden["config"]
    features = [golden["data/image_feat"], golden["data/text_feat"]]
    interests = [relations.user_interest_features(train, num_users, table) for table in features]
    # Not graph/user_*_interest: those arrays are parameters of the original, and hold the values after five steps.
    for interest, name in zip(interests, ("user_v_prefer", "user_t_prefer"), strict=True):
        np.testing.assert_allclose(interest, golden[f"state/{name}"], rtol=0, atol=1e-6)

    for side, tables, name in (("u", interests, "user_interest"), ("i", features, "item_semantic")):
        k, weight = config["user_knn_k" if side == "u" else "item_knn_k"], config[f"{side}_mm_image_weight"]
        graph = relations.combine(
            (weight, 1 - weight), [lambda table=table, k=k: relations.knn_graph(table, k) for table in tables]
        )
        np.testing.assert_allclose(graph.toarray(), golden[f"graph/{name}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["user", "item"])
def test_golden_cooccurrence(golden, side):
    matrix = dense_interactions(*golden_train(golden))
    matrix = matrix if side == "user" else matrix.T
    counts = np.array(loop_counts(matrix))
    np.testing.assert_array_equal(counts, golden[f"graph/{side}_cooccurrence_counts"])

    k = golden["config"][f"{side}_knn_k"]
    ordered = -np.sort(-counts, axis=1)
    certain = (ordered[:, k - 1] > 0) & (ordered[:, k - 1] > ordered[:, k])  # neither padded nor a tie
    assert certain.sum() >= 5
    for padding in (None, np.random.RandomState(0)):
        graph = relations.cooccurrence_graph(scipy.sparse.csr_array(matrix), k, matrix.sum(1), padding)
        expected = golden[f"graph/{side}_cooccurrence"]
        np.testing.assert_allclose(graph.toarray()[certain], expected[certain], rtol=0, atol=1e-6)


# User-item


def test_user_item_is_the_normalised_bipartite_graph():
    num_users, num_items = 30, 25
    train = random_train(num_users, num_items)
    interactions = dense_interactions(train, num_users, num_items)
    graph = relations.user_item_graph(train, num_users, num_items)
    assert_well_formed(graph, num_users + num_items)
    dense = np.block([[np.zeros((num_users,) * 2), interactions], [interactions.T, np.zeros((num_items,) * 2)]])
    scale = np.diag((dense.sum(1) + 1e-7) ** -0.5)
    np.testing.assert_allclose(graph.toarray(), scale @ dense @ scale, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(graph.toarray(), graph.toarray().T)
    assert graph.nnz == 2 * len(train)


# Co-occurrence


@pytest.mark.parametrize("padded", [False, True], ids=["strict", "reference"])
@pytest.mark.parametrize("k", [1, 3, 8, 24, "all"])
@pytest.mark.parametrize("density", [0.03, 0.15])
@pytest.mark.parametrize("side", ["user", "item"])
def test_cooccurrence_equals_the_loop_over_all_pairs(side, density, k, padded):
    matrix = dense_interactions(random_train(density=density), 30, 25)
    matrix = matrix if side == "user" else matrix.T
    counts, k = np.array(loop_counts(matrix)), len(matrix) if k == "all" else k
    ordered = -np.sort(-counts, axis=1)
    assert (ordered[:, 0] == 0).sum() >= 2  # cold and isolated nodes
    if k in (1, 3) and density > 0.1:
        assert ((ordered[:, k - 1] == ordered[:, k]) & (ordered[:, k] > 0)).any()  # ties at the k-th place
    popularity = matrix.sum(1) + np.arange(len(matrix)) % 3
    sources = [np.random.RandomState(3) if padded else None for _ in range(2)]
    graph = relations.cooccurrence_graph(scipy.sparse.csr_array(matrix), k, popularity, sources[0])
    assert_well_formed(graph, len(matrix))
    np.testing.assert_allclose(graph.toarray(), loop_cooccurrence(matrix, k, popularity, sources[1]), atol=1e-6)
    np.testing.assert_allclose(graph.sum(axis=1), 1, atol=1e-6)
    if padded:  # both have drawn the same number of times
        assert sources[0].randint(2**31) == sources[1].randint(2**31)


@pytest.mark.parametrize("padded", [False, True], ids=["strict", "reference"])
@pytest.mark.parametrize("chunk", [1, 60, 2**40])
def test_the_chunk_size_changes_nothing(monkeypatch, chunk, padded):
    matrix = dense_interactions(random_train(density=0.15), 30, 25)
    arguments = scipy.sparse.csr_array(matrix), 4, matrix.sum(1)
    expected = relations.cooccurrence_graph(*arguments, np.random.RandomState(3) if padded else None)
    monkeypatch.setattr(relations, "_CHUNK_PRODUCTS", chunk)
    transposed = arguments[0].T.tocsr()
    chunks = relations._chunks(arguments[0], transposed)
    assert [start for start, _ in chunks] == [0, *(stop for _, stop in chunks[:-1])]
    assert chunks[-1][1] == 30
    products = (matrix @ matrix.sum(0)).astype(int)
    assert all(stop == start + 1 or products[start:stop].sum() <= chunk for start, stop in chunks)
    # Rows without an entry cost nothing, and may share a chunk.
    assert (len(chunks) >= (products > 0).sum()) if chunk == 1 else (len(chunks) > 1) == (chunk == 60)
    found = relations.cooccurrence_graph(*arguments, np.random.RandomState(3) if padded else None)
    np.testing.assert_array_equal(found.toarray(), expected.toarray())


def test_padding_follows_the_seed_and_stays_among_the_neighbours_of_its_row():
    matrix = dense_interactions(random_train(density=0.05), 30, 25)
    incidence, popularity, k = scipy.sparse.csr_array(matrix), matrix.sum(1), 10
    first, again, other = (
        relations.cooccurrence_graph(incidence, k, popularity, np.random.RandomState(seed)).toarray()
        for seed in (3, 3, 4)
    )
    strict = relations.cooccurrence_graph(incidence, k, popularity).toarray()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first > 0, strict > 0)
    neighbours = (np.array(loop_counts(matrix)) > 0).sum(1)
    short = (neighbours > 1) & (neighbours < k)
    assert (np.abs(first - strict)[short].max(1) > 1e-3).mean() > 0.8  # the draws seldom fall evenly
    np.testing.assert_array_equal(first[~short], strict[~short])
    np.testing.assert_allclose(first.sum(1), 1, atol=1e-6)


def test_nobody_shares_anything():
    graph = relations.cooccurrence_graph(scipy.sparse.csr_array(np.eye(4, dtype=np.int32)), 2, np.array([1, 3, 3, 5]))
    expected = np.zeros(4)
    expected[[3, 1]] = softmax([5 / 8, 3 / 8])  # the tie goes to 1
    np.testing.assert_allclose(graph.toarray(), np.tile(expected, (4, 1)), atol=1e-7)


def test_no_interaction_at_all():
    empty = scipy.sparse.csr_array((4, 3), dtype=np.int32)
    for padding in (None, np.random.RandomState(0)):
        graph = relations.cooccurrence_graph(empty, 2, np.zeros(4, np.int64), padding)
        np.testing.assert_allclose(graph.toarray(), np.tile([0.5, 0.5, 0, 0], (4, 1)))


def test_large_counts_do_not_overflow():
    matrix = np.zeros((3, 2000), np.int32)
    matrix[0], matrix[1], matrix[2, :1990] = 1, 1, 1  # counts 2000 and 1990
    graph = relations.cooccurrence_graph(scipy.sparse.csr_array(matrix), 2, matrix.sum(1))
    expected = np.zeros((3, 3))
    expected[0, [1, 2]] = expected[1, [0, 2]] = softmax([2000.0, 1990.0])
    expected[2, [0, 1]] = 0.5
    np.testing.assert_allclose(graph.toarray(), expected, rtol=1e-5)


def test_cooccurrence_never_holds_a_dense_matrix(monkeypatch):
    n, m, k = 20_000, 5_000, 5
    incidence = scipy.sparse.random_array((n, m), density=4e-4, format="csr", rng=np.random.default_rng(0))
    incidence = (incidence != 0).astype(np.int32)
    monkeypatch.setattr(relations, "_CHUNK_PRODUCTS", 2**17)
    tracemalloc.start()
    try:
        graph = relations.cooccurrence_graph(incidence, k, np.diff(incidence.indptr))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert graph.nnz > 0.9 * n * k
    assert peak < n * n * 4 / 50


# User interest


def test_interest_is_the_mean_over_the_items_of_a_user():
    rng = np.random.default_rng(0)
    train, features = random_train(), rng.normal(size=(25, 6)).astype(np.float32)
    expected = np.zeros((30, 6))
    for user in range(30):
        items = [item for other, item in train if other == user]
        if items:
            expected[user] = np.mean([features[item].astype(np.float64) for item in items], axis=0)
    found = relations.user_interest_features(train, 30, features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[0], np.zeros(6))  # a cold user


# kNN


def exact_features(n=40, width=7, seed=0):
    """Four entries of -1 or 1 a row: cosines are multiples of 1/4 without any rounding, so that ties are exact."""
    rng = np.random.default_rng(seed)
    features = np.zeros((n, width), np.float32)
    for row in features:
        row[rng.choice(width, 4, replace=False)] = rng.choice([-1, 1], 4)
    features[n // 2] = features[3]  # a duplicate
    features[[5, n - 1]] = 0
    return features


def loop_knn(features, k):
    n = len(features)
    unit = [row / (np.linalg.norm(row) or 1.0) for row in features.astype(np.float64)]
    expected = np.zeros((n, n))
    for row in range(n):
        cosines = [unit[row] @ unit[other] for other in range(n)]
        for other in sorted(range(n), key=lambda other: (-cosines[other], other))[:k]:
            expected[row, other] = cosines[other] / (k + 1e-7)
    return expected


@pytest.mark.parametrize("k", [1, 2, 5, 39, 40])
def test_knn_equals_the_loop_with_zero_rows_duplicates_and_ties(k):
    features = exact_features()
    graph = relations.knn_graph(features, k)
    assert_well_formed(graph, 40)
    expected = loop_knn(features, k)
    np.testing.assert_array_equal(graph.toarray() != 0, expected != 0)
    np.testing.assert_allclose(graph.toarray(), expected, rtol=1e-6)
    assert not graph[[5]].nnz  # a zero row is similar to none
    if k == 1:
        assert graph[20, 3] > 0  # of two equal rows, the lower id
        assert graph[20, 20] == 0


@pytest.mark.parametrize("k", [1, 4, 50])
def test_knn_agrees_with_scikit_learn(k):
    features = np.random.default_rng(2).normal(size=(50, 9)).astype(np.float32)
    graph = relations.knn_graph(features, k)
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(features.astype(np.float64))
    distances, neighbours = search.kneighbors(features)
    expected = np.zeros((50, 50))
    np.put_along_axis(expected, neighbours, (1 - distances) / k, axis=1)
    np.testing.assert_allclose(graph.toarray(), expected, atol=1e-6)


@pytest.mark.parametrize(("setting", "value"), [("_CHUNK_ROWS", 1), ("_CHUNK_ROWS", 17), ("_CHUNK_SIMILARITIES", 130)])
def test_knn_in_chunks_equals_knn_at_once(monkeypatch, setting, value):
    exact, rounded = exact_features(), np.random.default_rng(2).normal(size=(40, 9)).astype(np.float32)
    expected = [relations.knn_graph(features, 6).toarray() for features in (exact, rounded)]
    shapes, nearest = [], knn._nearest

    def recorded(normalised, queries, start, rows, k, draws_ties):
        shapes.append((start, rows))
        return nearest(normalised, queries, start, rows, k, draws_ties)

    monkeypatch.setattr(knn, setting, value)
    monkeypatch.setattr(knn, "_nearest", recorded)
    np.testing.assert_array_equal(relations.knn_graph(exact, 6).toarray(), expected[0])
    rows = 3 if setting == "_CHUNK_SIMILARITIES" else value
    assert {size for _, size in shapes} == {rows}
    assert len(shapes) == -(-40 // rows)
    np.testing.assert_allclose(relations.knn_graph(rounded, 6).toarray(), expected[1], atol=1e-6)


def test_knn_on_the_device_holds_a_chunk_and_no_dense_matrix():
    n, rows = 20_000, knn._CHUNK_ROWS
    program = knn._nearest.lower(jnp.zeros((n, 8)), jnp.zeros((n, 8)), 0, rows, 5, False).compile()
    assert program.memory_analysis().temp_size_in_bytes < 3 * rows * n * 4 < n * n * 4 / 10


@pytest.mark.parametrize("k", [0, -1, 5])
def test_an_impossible_number_of_neighbours_is_refused(k):
    with pytest.raises(ValueError, match=f"number of nodes, 4; got {k}"):
        relations.knn_graph(np.ones((4, 2), np.float32), k)
    with pytest.raises(ValueError, match=f"number of nodes, 4; got {k}"):
        relations.cooccurrence_graph(scipy.sparse.csr_array(np.eye(4, dtype=np.int32)), k, np.ones(4, np.int64))


# Combination


def test_combine_is_the_weighted_sum_and_skips_weight_0():
    rng = np.random.default_rng(0)
    parts = [scipy.sparse.random_array((6, 6), density=0.4, format="csr", rng=rng, dtype=np.float32) for _ in range(3)]

    def never():
        raise AssertionError("a graph of weight 0 was computed")

    graphs = [lambda: parts[0], never, lambda: parts[1], lambda: parts[2], never]
    found = relations.combine((0.25, 0.0, 0.5, -1.0, 0), graphs)
    assert_well_formed(found, 6)
    expected = 0.25 * parts[0].toarray() + 0.5 * parts[1].toarray() - parts[2].toarray()
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-7)


def test_combine_refuses_what_has_no_sum():
    graph = scipy.sparse.csr_array(np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="no graph has a weight other than 0"):
        relations.combine((0.0, 0), [lambda: graph, lambda: graph])
    with pytest.raises(ValueError, match="argument"):
        relations.combine((1.0,), [lambda: graph, lambda: graph])


# Real data


@pytest.mark.skipif(not os.path.exists(BABY), reason="REARM_DATA names no folder with baby/train.npy")
@pytest.mark.parametrize("side", ["user", "item"])
def test_cooccurrence_of_baby(side):
    pairs = np.load(BABY, allow_pickle=False)
    pairs = pairs.T if pairs.shape[0] == 2 else pairs
    num_users, num_items = pairs.max(axis=0) + 1
    incidence = relations.interaction_matrix(np.unique(pairs, axis=0).astype(np.int32), num_users, num_items)
    incidence, k = (incidence, 40) if side == "user" else (incidence.T.tocsr(), 10)
    popularity = np.diff(incidence.indptr)
    graph = relations.cooccurrence_graph(incidence, k, popularity)
    sizes = np.diff(graph.indptr)
    np.testing.assert_allclose(graph.sum(axis=1), 1, atol=1e-5)
    assert 1 <= sizes.min() <= sizes.max() == k

    counts = (incidence @ incidence.T).tocsr()
    isolated = np.diff(counts.indptr) - (popularity > 0) == 0
    assert not graph.diagonal()[~isolated].any()
    for node in np.random.default_rng(0).choice(len(sizes), 100, replace=False):
        row = counts[[node]].toarray()[0]
        row[node] = 0
        expected = np.lexsort((np.arange(len(row)), -row))[: min(k, (row > 0).sum())]
        if len(expected):
            kept = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
            assert set(kept) <= set(expected)
            weights = dict(zip(expected.tolist(), softmax(row[expected].astype(float)), strict=True))
            np.testing.assert_allclose(
                graph.data[graph.indptr[node] : graph.indptr[node + 1]], [weights[i] for i in kept], rtol=1e-5
            )
            assert all(weights[i] < 1e-44 for i in set(weights) - set(kept))  # too small for float32
