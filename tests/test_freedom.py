"""FREEDOM against its formulas in numpy: the graph of the items, the edges of an epoch, representations and losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import Experiment, init_params, make_experiment
from rearm_jax.graphs import relations
from rearm_jax.graphs.adjacency import propagate, user_item_adjacency
from rearm_jax.graphs.sampled import largest, sample_edges
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.step import loss_share
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS, K = 31, 23, 4
THREE = ("image", "text", "audio")


@functools.cache
def experiment_of(modalities=("image", "text"), **changes) -> Experiment:
    weights = {2: (0.3, 0.7), 3: (0.2, 0.0, 0.8)}[len(modalities)]
    config = tiny_config(
        model__name="freedom",
        data__modalities=modalities,
        graph__item_knn_k=K,
        graph__item_modality_weights=weights,
        loss__modality_weight=0.1,
        **changes,
    )
    return make_experiment(config, make_synthetic(NUM_USERS, NUM_ITEMS, 7, 6, seed=0, modalities=modalities))


def dense_user_item(pairs: np.ndarray) -> np.ndarray:
    """D^-1/2 [[0, A], [A^T, 0]] D^-1/2 of the pairs (user, item)."""
    adjacency = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    adjacency[pairs[:, 0], NUM_USERS + pairs[:, 1]] = 1
    adjacency += adjacency.T
    degrees = adjacency.sum(1) + 1e-7
    return adjacency / np.sqrt(np.outer(degrees, degrees))


def dense_binary_knn(features: np.ndarray) -> np.ndarray:
    """The formula: 1 for the K most similar rows, then r_i^-1/2 r_j^-1/2 with r the sums of the rows."""
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    nearest = np.argsort(-(x @ x.T), axis=1, kind="stable")[:, :K]
    graph = np.zeros((len(x), len(x)))
    np.put_along_axis(graph, nearest, 1, axis=1)
    sums = graph.sum(1) + 1e-7
    return graph / np.sqrt(np.outer(sums, sums))


# The graph of the items


def test_the_binary_knn_graph_has_values_of_one_kth_and_rows_that_sum_to_one():
    features = np.random.default_rng(0).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    graph = relations.binary_graph(relations.knn_graph(features, K))
    assert graph.nnz == K * NUM_ITEMS
    np.testing.assert_allclose(graph.data, 1 / K, rtol=1e-6)
    np.testing.assert_allclose(graph @ np.ones(NUM_ITEMS), 1, rtol=1e-6)
    np.testing.assert_allclose(graph.toarray(), dense_binary_knn(features), atol=1e-7)
    assert (graph != graph.T).nnz  # directed


def test_an_item_without_features_has_no_neighbours_and_is_none():
    features = np.random.default_rng(0).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    features[5] = 0
    graph = relations.binary_graph(relations.knn_graph(features, K)).toarray()
    assert not graph[5].any()
    assert not graph[:, 5].any()
    # The others reach as far as they did among themselves, and zero is nobody's fourth best here.
    others = np.delete(np.arange(NUM_ITEMS), 5)
    assert np.count_nonzero(graph[others], axis=1).max() == K


@pytest.mark.parametrize("modalities", [("image", "text"), THREE])
def test_the_graph_of_the_items_is_the_weighted_sum(modalities):
    experiment = experiment_of(modalities)
    weights = experiment.config.graph.item_modality_weights
    features = [experiment.dataset.features[name] for name in modalities]
    expected = sum(w * dense_binary_knn(x) for w, x in zip(weights, features, strict=True))
    found = experiment.inputs["item_item"]
    np.testing.assert_allclose(found.matrix.todense(), expected, atol=1e-7)
    np.testing.assert_allclose(found.transposed.todense(), expected.T, atol=1e-7)


def test_both_models_share_one_search(tmp_path):
    """REARM's semantic graph in the cache is the one that FREEDOM reads."""
    changes = {"graph__cache_dir": str(tmp_path), "graph__item_knn_k": K}
    dataset = make_synthetic(NUM_USERS, NUM_ITEMS, 7, 6, seed=0, modalities=("image", "text"))
    make_experiment(tiny_config(**changes), dataset)
    before = set(tmp_path.iterdir())
    make_experiment(tiny_config(model__name="freedom", **changes), dataset)
    assert set(tmp_path.iterdir()) == before


# The edges of an epoch


@functools.cache
def sampling_problem() -> tuple:
    """(pairs, graph, compiled function of a graph and a key)"""
    pairs = make_synthetic(NUM_USERS, NUM_ITEMS, 7, 6, seed=0, modalities=("text",)).train
    graph = user_item_adjacency(pairs, NUM_USERS, NUM_ITEMS)
    by_item = jnp.asarray(np.lexsort(pairs.T))
    return pairs, graph, jax.jit(lambda graph, key: sample_edges(graph, by_item, NUM_USERS, len(pairs) // 4, key))


@pytest.mark.parametrize("count", [1, 2, 300, 699, 700])
@pytest.mark.parametrize("decimals", [8, 1])  # the second has many equal values
def test_the_largest_are_those_of_a_sort(decimals, count):
    values = np.random.default_rng(0).normal(size=700).round(decimals).astype(np.float32) + 0.0  # no -0.0
    values[::50] = [-np.inf, np.inf, 1e-45, -1e-45, 0, 3e38, -3e38] * 2
    expected = np.zeros(700, bool)
    expected[np.argsort(-values, kind="stable")[:count]] = True
    np.testing.assert_array_equal(jax.jit(largest, static_argnums=1)(values, count), expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_kept_edges_make_a_normalised_graph_that_is_compact_and_sorted(seed):
    pairs, graph, sample = sampling_problem()
    kept = sample(graph, jax.random.key(seed))
    rows, columns = np.asarray(kept.matrix.indices).T
    chosen = rows < NUM_USERS
    edges = np.stack([rows[chosen], columns[chosen] - NUM_USERS], axis=1)
    assert kept.matrix.nse == 2 * (len(pairs) // 4) == 2 * len(edges)
    assert set(map(tuple, edges.tolist())) <= set(map(tuple, pairs.tolist()))
    np.testing.assert_allclose(kept.matrix.todense(), dense_user_item(edges), atol=1e-6)
    order = np.lexsort((columns, rows))
    np.testing.assert_array_equal(order, np.arange(len(rows)))
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(rows)
    counts = np.bincount(rows, minlength=NUM_USERS + NUM_ITEMS)
    np.testing.assert_array_equal(kept.indptr, np.concatenate([[0], np.cumsum(counts)]))
    assert kept.symmetric

    x = np.random.default_rng(seed).normal(size=(NUM_USERS + NUM_ITEMS, 3)).astype(np.float32)
    found = jax.jit(lambda graph, x: propagate(graph, x, 2)[1])(kept, x)
    matrix = dense_user_item(edges)
    np.testing.assert_allclose(found, matrix @ (matrix @ x), atol=1e-5)


def test_how_often_an_edge_is_kept_is_that_of_drawing_one_after_the_other():
    pairs, graph, sample = sampling_problem()
    num_kept, draws = len(pairs) // 4, 4000

    @jax.jit
    def kept_in(graph, key):
        matrix = sample(graph, key).matrix
        edges = matrix.indices[:num_kept]
        return jnp.zeros((NUM_USERS, NUM_ITEMS)).at[edges[:, 0], edges[:, 1] - NUM_USERS].add(1)

    keys = jax.random.split(jax.random.key(0), draws)
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(functools.partial(kept_in, graph), keys).sum(0))(keys))
    found = found[pairs[:, 0], pairs[:, 1]] / draws

    degrees = np.bincount(pairs[:, 0])[pairs[:, 0]] * np.bincount(pairs[:, 1])[pairs[:, 1]]
    weights = degrees**-0.5
    rng, expected = np.random.default_rng(0), np.zeros(len(pairs))
    for _ in range(draws):
        expected[rng.choice(len(pairs), num_kept, replace=False, p=weights / weights.sum())] += 1 / draws
    # The standard deviation of a difference of two frequencies is at most sqrt(2 * .25 / draws) = .011.
    assert np.abs(found - expected).max() < 0.05
    assert np.corrcoef(found, degrees)[0, 1] < -0.8  # hubs lose more
    np.testing.assert_allclose(found.sum(), num_kept, rtol=1e-5)


def test_an_epoch_keeps_as_many_edges_as_the_setting_says():
    experiment = experiment_of(graph__edge_dropout=0.7)
    num_edges = len(experiment.dataset.train)
    draw = jax.jit(experiment.model.epoch_inputs)
    first, again, other = (draw(experiment.inputs, jax.random.key(seed))["user_item"] for seed in (1, 1, 2))
    assert first.matrix.nse == 2 * int(np.floor(num_edges * (1 - 0.7)))
    np.testing.assert_array_equal(first.matrix.indices, again.matrix.indices)
    assert np.any(np.asarray(first.matrix.indices) != np.asarray(other.matrix.indices))
    assert experiment_of(graph__edge_dropout=0.0).model.epoch_inputs(experiment.inputs, jax.random.key(0)) == {}


# The model


def forward_by_hand(experiment: Experiment, params: dict, user_item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z of the users and z + h of the items, with numpy's dense matrices."""
    ids = np.concatenate([params["user_id_table"], params["item_id_table"]]).astype(np.float64)
    layers = [ids, user_item @ ids, user_item @ (user_item @ ids)]
    mean = sum(layers) / 3
    weights = experiment.config.graph.item_modality_weights
    features = experiment.dataset.features.values()
    similar = sum(w * dense_binary_knn(x) for w, x in zip(weights, features, strict=True))
    return mean[:NUM_USERS], mean[NUM_USERS:] + similar @ params["item_id_table"]


@pytest.mark.parametrize("modalities", [("image", "text"), THREE])
def test_evaluation_has_the_formula_over_all_edges(modalities):
    experiment = experiment_of(modalities)
    params = jax.device_get(init_params(experiment))
    out = jax.jit(experiment.model.apply)({"params": params}, experiment.inputs)
    users, items = forward_by_hand(experiment, params, dense_user_item(experiment.dataset.train))
    np.testing.assert_allclose(out.users, users, atol=1e-6)
    np.testing.assert_allclose(out.items, items, atol=1e-6)


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


@pytest.mark.parametrize("train_features", [True, False])
def test_the_loss_is_the_formula_over_the_edges_of_the_epoch(train_features):
    experiment = experiment_of(model__train_features=train_features)
    model, dataset = experiment.model, experiment.dataset
    params = jax.device_get(init_params(experiment))
    kept = jax.jit(model.epoch_inputs)(experiment.inputs, jax.random.key(7))
    inputs = {**experiment.inputs, **kept}
    rng = np.random.default_rng(0)
    users, positives = dataset.train[:12].T
    negatives, mask = rng.integers(0, NUM_ITEMS, 12), np.arange(12) < 10
    batch = Batch(*(jnp.asarray(x) for x in (users, positives, negatives, mask)))

    def share(params, inputs):
        return loss_share(model, params, inputs, batch, jax.random.key(0), ALONE)

    (loss, parts), gradients = jax.jit(jax.value_and_grad(share, has_aux=True))(params, inputs)

    def bpr(x, y):
        return -np.mean(log_sigmoid(np.sum(x[users] * (y[positives] - y[negatives]), axis=1))[mask])

    z, items = forward_by_hand(experiment, params, np.asarray(kept["user_item"].matrix.todense()))
    expected = {"bpr": bpr(z, items), "modalities": 0.0}
    for name, table in dataset.features.items():
        expected["modalities"] += 0.1 * bpr(z, table @ params[f"{name}_projection"]["kernel"])
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-5)

    # The features get a gradient only where they are trained, and then in the rows of the batch alone.
    assert ("item_image_table" in params) == train_features
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(gradients))
    if train_features:
        touched = np.unique(np.concatenate([positives[mask], negatives[mask]]))
        moved = np.flatnonzero(np.any(np.asarray(gradients["item_image_table"]) != 0, axis=1))
        np.testing.assert_array_equal(moved, touched)


def test_without_the_modality_loss_there_are_no_projections():
    experiment = experiment_of()
    model = experiment.model.clone(modality_weight=0.0)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), experiment.inputs)["params"])
    assert set(params) == {"user_id_table", "item_id_table"}


def test_initial_parameters_are_the_published_ones():
    experiment = experiment_of()
    params = init_params(experiment)
    for side, n in (("user", NUM_USERS), ("item", NUM_ITEMS)):
        bound = np.sqrt(6 / (n + 8))
        table = np.asarray(params[f"{side}_id_table"])
        assert bound * 0.95 < np.abs(table).max() <= bound
        np.testing.assert_allclose(table.std(), bound / np.sqrt(3), rtol=0.15)
    for name, table in experiment.dataset.features.items():
        np.testing.assert_array_equal(params[f"item_{name}_table"], table)
        assert np.abs(params[f"{name}_projection"]["kernel"]).max() <= 6**-0.5
    scaled = experiment.model.clone(init_scale=0.5).init(jax.random.key(0), experiment.inputs)["params"]
    np.testing.assert_allclose(np.asarray(scaled["user_id_table"]).std(), 0.5, rtol=0.2)


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r"edge_dropout = 0.999: leaves none of the \d+ edges"):
        experiment_of(graph__edge_dropout=0.999)
    with pytest.raises(ValueError, match="number of neighbours must lie within"):
        make_experiment(tiny_config(model__name="freedom", graph__item_knn_k=99), experiment_of().dataset)


def test_scipy_agrees_on_a_graph_whose_rows_differ_in_length():
    """`binary_graph` of any graph: D^-1/2 B D^-1/2 with the row sums at both ends."""
    dense = np.array([[0.5, 0, -0.2], [0, 0.1, 0], [0.3, 0.2, 0.1]], np.float32)
    found = relations.binary_graph(scipy.sparse.csr_array(dense)).toarray()
    sums = np.array([2, 1, 3.0])
    np.testing.assert_allclose(found, (dense != 0) / np.sqrt(np.outer(sums, sums)), atol=1e-6)
