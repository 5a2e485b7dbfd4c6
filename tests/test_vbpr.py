"""VBPR against its formulas in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.experiment import Experiment, init_params, make_experiment
from rearm_jax.inference.new_items import extended_representations
from rearm_jax.inference.trained import Trained
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.step import loss_share
from tests.conftest import tiny_config
from tests.test_mgcn import random_params

NUM_USERS, NUM_ITEMS = 31, 23


@functools.cache
def experiment_of(modalities=("image", "text"), **changes) -> Experiment:
    config = tiny_config(model__name="vbpr", data__modalities=modalities, loss__l2_weight=0.3, **changes)
    return make_experiment(config, make_synthetic(NUM_USERS, NUM_ITEMS, 7, 6, seed=0, modalities=modalities))


def items_by_hand(experiment: Experiment, params: dict) -> np.ndarray:
    """[e ; W f + b], with f the features of all modalities side by side and W their matrices one below the other."""
    names = list(experiment.dataset.features)
    features = [params.get(f"item_{name}_table", experiment.dataset.features[name]) for name in names]
    matrix = np.concatenate([params[f"{name}_projection"]["kernel"] for name in names])
    return np.concatenate([params["item_id_table"], np.concatenate(features, 1) @ matrix + params["features_bias"]], 1)


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


@pytest.mark.parametrize("variant", ["strict", "reference", "softmax"])
def test_representations_and_losses_are_those_of_the_formula(variant):
    modalities = {"strict": ("image", "text"), "reference": ("image", "text", "audio"), "softmax": ("text",)}[variant]
    changes = {
        "strict": {},
        "reference": {"protocol": "reference", "model__train_features": True},
        "softmax": {"loss__ranking": "softmax", "loss__num_negatives": 13, "loss__similarity": "dot"},
    }[variant]
    experiment = experiment_of(modalities, **changes)
    params = random_params(experiment)
    p, q = params["user_id_table"], items_by_hand(experiment, params)
    assert p.shape[1] == q.shape[1] == 16

    rng = np.random.default_rng(0)
    users, positives = experiment.dataset.train[:12].T
    mask = np.arange(12) < 10
    negatives = rng.integers(0, NUM_ITEMS, 13 if variant == "softmax" else 12)
    own = rng.random((12, 13)) < 0.3 if variant == "softmax" else None
    batch = Batch(*(jnp.asarray(x) for x in (users, positives, negatives, mask)), own)

    def share(params, inputs):
        return loss_share(experiment.model, params, inputs, batch, jax.random.key(0), ALONE)

    @jax.jit
    def compute(params, inputs):
        out = experiment.model.apply({"params": params}, inputs)
        return out, jax.value_and_grad(share, has_aux=True)(params, inputs)

    out, ((loss, parts), gradients) = compute(params, experiment.inputs)
    np.testing.assert_allclose(out.users, p, atol=1e-6)
    np.testing.assert_allclose(out.items, q, atol=1e-5)

    scores = p[users] @ q.T
    positive = scores[np.arange(12), positives]
    if variant == "softmax":
        others = np.where(own, 0, np.exp(scores[:, negatives] / 0.2)).sum(1)
        ranking = np.log1p(others / np.exp(positive / 0.2))
    else:
        ranking = -log_sigmoid(positive - scores[np.arange(12), negatives])
    rows = p[users[mask]], q[positives[mask]], q[negatives if variant == "softmax" else negatives[mask]]
    if variant == "reference":
        l2 = sum(np.linalg.norm(x) for x in rows) / mask.sum()
    else:
        l2 = sum(np.mean(np.sum(x**2, axis=1)) for x in rows) / 2
    expected = {"softmax" if variant == "softmax" else "bpr": ranking[mask].mean(), "l2": 0.3 * l2}
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)

    assert ("item_text_table" in params) == (variant == "reference")
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(gradients))


def test_initial_parameters_are_the_published_ones():
    experiment = experiment_of()
    params = init_params(experiment)
    bound = np.sqrt(6 / (NUM_USERS + 16))
    assert bound * 0.95 < np.abs(params["user_id_table"]).max() <= bound
    assert np.abs(params["item_id_table"]).max() <= np.sqrt(6 / (NUM_ITEMS + 8))
    np.testing.assert_array_equal(params["features_bias"], 0)
    # Xavier normal of the whole matrix: 12 features to 8.
    kernels = np.concatenate([params[f"{name}_projection"]["kernel"] for name in ("image", "text")])
    np.testing.assert_allclose(kernels.std(), np.sqrt(2 / (12 + 8)), rtol=0.2)
    trained = init_params(experiment_of(model__train_features=True))
    np.testing.assert_array_equal(trained["item_text_table"], experiment.dataset.features["text"])


def test_a_new_item_has_its_own_features_and_the_embedding_of_its_neighbours():
    experiment = experiment_of()
    params = random_params(experiment)
    rng = np.random.default_rng(0)
    new = {name: rng.normal(size=(3, 6)).astype(np.float32) for name in experiment.dataset.features}
    out = extended_representations(Trained("", 0, experiment, params), new)
    np.testing.assert_allclose(out.items[:NUM_ITEMS], items_by_hand(experiment, params), atol=1e-5)
    content = sum(new[name] @ params[f"{name}_projection"]["kernel"] for name in new) + params["features_bias"]
    np.testing.assert_allclose(out.items[NUM_ITEMS:, 8:], content, atol=1e-5)
    # A mean of others' embeddings: weights that are positive and sum to 1.
    ids = np.asarray(params["item_id_table"])
    assert np.all(out.items[NUM_ITEMS:, :8] <= ids.max(0))
    assert np.all(out.items[NUM_ITEMS:, :8] >= ids.min(0))
