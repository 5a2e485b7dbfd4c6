"""MGCN against its formulas in numpy: its graphs, representations and losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import Experiment, abstract_params, make_experiment
from rearm_jax.graphs import relations
from rearm_jax.graphs.adjacency import items_to_users, user_item_adjacency
from rearm_jax.inference.new_items import check_new_items
from rearm_jax.inference.trained import Trained
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.step import loss_share
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS, K, D = 31, 23, 4, 8
THREE = ("image", "text", "audio")
TEMPERATURE = 0.5
VARIANTS = {
    "strict": (("image", "text"), {}),
    "reference": (THREE, {"protocol": "reference", "model__train_features": False}),
    "softmax": (("text",), {"loss__ranking": "softmax", "loss__num_negatives": 13, "loss__similarity": "dot"}),
}


@functools.cache
def experiment_of(model="mgcn", modalities=("image", "text"), **changes) -> Experiment:
    config = tiny_config(
        model__name=model,
        data__modalities=modalities,
        graph__item_knn_k=K,
        batch_size=16,
        loss__contrastive_weight=0.1,
        loss__temperature=TEMPERATURE,
        loss__l2_weight=0.3,
        **changes,
    )
    return make_experiment(config, make_synthetic(NUM_USERS, NUM_ITEMS, 7, 6, seed=0, modalities=modalities))


def random_params(experiment: Experiment) -> dict:
    """Parameters of a size at which gates and shares differ from a half; features unlike those of the data."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.6, x.shape).astype(np.float32), abstract_params(experiment))


# The formulas, with numpy's dense matrices


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    x = np.exp(x)
    return x / x.sum(axis, keepdims=True)


def affine(x, layer):
    return x @ layer["kernel"] + layer.get("bias", 0)


def dense_user_item(pairs: np.ndarray) -> np.ndarray:
    adjacency = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    adjacency[pairs[:, 0], NUM_USERS + pairs[:, 1]] = 1
    adjacency += adjacency.T
    degrees = adjacency.sum(1) + 1e-7
    return adjacency / np.sqrt(np.outer(degrees, degrees))


def dense_cosine_knn(features: np.ndarray, k: int = K) -> np.ndarray:
    """The cosines to the k most similar rows, by w_ij / sqrt(r_i r_j) with r the sums of the rows."""
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = (x @ x.T).astype(np.float64)
    kept = np.zeros_like(cosines)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    np.put_along_axis(kept, nearest, np.take_along_axis(cosines, nearest, 1), axis=1)
    sums = kept.sum(1)
    return kept / np.sqrt(np.outer(sums, sums))


def shared_by_hand(experiment: Experiment, params: dict) -> np.ndarray:
    a = dense_user_item(experiment.dataset.train)
    ids = np.concatenate([params["user_id_table"], params["item_id_table"]]).astype(np.float64)
    return (ids + a @ ids + a @ (a @ ids)) / 3


def view_by_hand(experiment: Experiment, graph: np.ndarray, purified: np.ndarray) -> np.ndarray:
    items = graph @ purified
    return np.concatenate([dense_user_item(experiment.dataset.train)[:NUM_USERS, NUM_USERS:] @ items, items])


def features_of(experiment: Experiment, params: dict, name: str) -> np.ndarray:
    return params.get(f"item_{name}_table", experiment.dataset.features[name])


def forward_by_hand(experiment: Experiment, params: dict) -> tuple[np.ndarray, np.ndarray]:
    """C and side, (users + items, d)."""
    shared, views = shared_by_hand(experiment, params), []
    for name, raw in experiment.dataset.features.items():
        features = affine(features_of(experiment, params, name), params[f"{name}_projection"])
        purified = params["item_id_table"] * sigmoid(affine(features, params[f"{name}_gate"]))
        views.append(view_by_hand(experiment, dense_cosine_knn(raw), purified))
    scores = [affine(np.tanh(affine(view, params["query"])), params["query_score"]) for view in views]
    shares = softmax(np.concatenate(scores, 1), 1)
    common = sum(shares[:, m : m + 1] * view for m, view in enumerate(views))
    specific = [
        sigmoid(affine(shared, params[f"{name}_preference"])) * (view - common)
        for name, view in zip(experiment.dataset.features, views, strict=True)
    ]
    return shared, (common + sum(specific)) / (len(views) + 1)


def info_nce(side: np.ndarray, shared: np.ndarray) -> float:
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (side, shared)]
    similarities = unit[0] @ unit[1].T / TEMPERATURE
    return np.mean(np.log(np.exp(similarities).sum(1)) - np.diag(similarities))


def check_the_formula(model: str, variant: str, by_hand, **more) -> None:
    """Representations and losses of a variant (and more settings) against `by_hand`, which gives (C, side)."""
    modalities, changes = VARIANTS[variant]
    experiment = experiment_of(model, modalities, **changes, **more)
    params, is_softmax = random_params(experiment), variant == "softmax"
    rng = np.random.default_rng(0)
    users, positives = experiment.dataset.train[:12].T  # users with several items: they are there more than once
    mask = np.arange(12) < 10
    negatives = rng.integers(0, NUM_ITEMS, 13 if is_softmax else 12)
    own = rng.random((12, 13)) < 0.3 if is_softmax else None
    batch = Batch(*(jnp.asarray(x) for x in (users, positives, negatives, mask)), own)

    def share(params, inputs):
        return loss_share(experiment.model, params, inputs, batch, jax.random.key(0), ALONE)

    with_gradients = variant == "strict"  # they take most of the compilation

    @jax.jit
    def compute(params, inputs):
        out = experiment.model.apply({"params": params}, inputs)
        return out[:2], (jax.value_and_grad(share, has_aux=True) if with_gradients else share)(params, inputs)

    out, result = compute(params, experiment.inputs)
    (loss, parts), gradients = result if with_gradients else (result, {})
    shared, side = by_hand(experiment, params)
    z_users, z_items = np.split(shared + side, [NUM_USERS])
    np.testing.assert_allclose(out[0], z_users, atol=1e-5)
    np.testing.assert_allclose(out[1], z_items, atol=1e-5)

    scores = z_users[users] @ z_items.T
    positive = scores[np.arange(12), positives]
    if is_softmax:
        others = np.where(own, 0, np.exp(scores[:, negatives] / 0.2)).sum(1)
        ranking = np.log1p(others / np.exp(positive / 0.2))
    else:
        ranking = -np.log(sigmoid(positive - scores[np.arange(12), negatives]))
    u, i, j = users[mask], positives[mask], negatives if is_softmax else negatives[mask]
    squares = [np.sum(x**2) for x in (z_users[u], z_items[i], z_items[j])]
    sizes = (16, 16, 16) if variant == "reference" else (10, 10, len(j))
    contrastive = info_nce(side[NUM_USERS + i], shared[NUM_USERS + i]) + info_nce(side[u], shared[u])
    expected = {
        "softmax" if is_softmax else "bpr": ranking[mask].mean(),
        "l2": 0.3 / 2 * sum(square / size for square, size in zip(squares, sizes, strict=True)),
        "contrastive": 0.1 * contrastive,
    }
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)
    assert ("item_text_table" in params) == experiment.config.model.train_features
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(np.asarray(g) != 0), path


@pytest.mark.parametrize("variant", VARIANTS)
def test_representations_and_losses_are_those_of_the_formula(variant):
    check_the_formula("mgcn", variant, forward_by_hand)


def test_equal_modalities_have_nothing_of_their_own():
    """The shares sum to 1: what all views agree on is common, whole, and no gate adds to it."""
    experiment = experiment_of()
    dataset, params = experiment.dataset, random_params(experiment)
    alike = make_experiment(
        experiment.config,
        dataset.__class__(**{**vars(dataset), "features": dict.fromkeys(dataset.features, dataset.features["text"])}),
    )
    for part in ("projection", "gate"):
        params[f"image_{part}"] = params[f"text_{part}"]
    params["item_image_table"] = params["item_text_table"]
    out = jax.jit(alike.model.apply)({"params": params}, alike.inputs)
    features = affine(params["item_text_table"], params["text_projection"])
    purified = params["item_id_table"] * sigmoid(affine(features, params["text_gate"]))
    view = view_by_hand(alike, dense_cosine_knn(dataset.features["text"]), purified)
    np.testing.assert_allclose(np.concatenate(out.views["side"]), view / 3, atol=1e-6)


# The parts


def test_the_cosine_graph_is_the_formula_and_leaves_out_items_without_features():
    features = np.random.default_rng(0).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    found = relations.cosine_graph(relations.knn_graph(features, K))
    np.testing.assert_allclose(found.toarray(), dense_cosine_knn(features), atol=1e-6)
    assert (found != found.T).nnz  # directed
    features[5] = 0
    found = relations.cosine_graph(relations.knn_graph(features, K)).toarray()
    assert np.isfinite(found).all()
    assert not found[5].any()
    assert not found[:, 5].any()
    # A row whose sum is negative has no root.
    one = scipy.sparse.csr_array(np.array([[1, -3], [0, 2]], np.float32))
    np.testing.assert_array_equal(relations.cosine_graph(one).toarray(), [[0, 0], [0, 1]])


def test_items_to_users_is_the_block_of_the_graph_forward_and_backward():
    pairs = experiment_of().dataset.train
    graph = user_item_adjacency(pairs, NUM_USERS, NUM_ITEMS)
    block = dense_user_item(pairs)[:NUM_USERS, NUM_USERS:]
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(NUM_ITEMS, 3)).astype(np.float32), rng.normal(size=(NUM_USERS, 3)).astype(np.float32)

    @jax.jit
    def both(graph, x, g):
        out, backward = jax.vjp(lambda x: items_to_users(graph, NUM_USERS, x), x)
        return out, backward(g)[0]

    out, gradient = both(graph, x, g)
    np.testing.assert_allclose(out, block @ x, atol=1e-5)
    np.testing.assert_allclose(gradient, block.T @ g, atol=1e-5)


@pytest.mark.parametrize("model", ["mgcn", "smore"])
def test_what_is_refused(model):
    with pytest.raises(ValueError, match="number of neighbours must lie within"):
        make_experiment(tiny_config(model__name=model, graph__item_knn_k=99), experiment_of().dataset)
    trained = Trained("", 0, experiment_of(model), {})
    with pytest.raises(ConfigError, match="no rows for them in its graphs of items"):
        check_new_items(trained)
