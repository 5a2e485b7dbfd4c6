"""SMORE against its formulas in numpy: its filters, its graph of the fusion, representations and losses."""

import jax
import numpy as np
import pytest
import scipy.sparse

from rearm_jax.config import check_config
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import Experiment, make_experiment
from rearm_jax.graphs.relations import largest
from rearm_jax.parallel.rows import Nodes
from tests.conftest import tiny_config
from tests.test_mgcn import (
    NUM_ITEMS,
    NUM_USERS,
    VARIANTS,
    D,
    affine,
    check_the_formula,
    dense_cosine_knn,
    experiment_of,
    features_of,
    random_params,
    shared_by_hand,
    sigmoid,
    softmax,
    view_by_hand,
)


def filtered(spectrum: np.ndarray, real_and_imaginary: np.ndarray) -> np.ndarray:
    """The filter times the spectrum s, and back: Re(s_0 + (-1)^n s_4 + 2 sum_k s_k e^(2 pi i k n / 8)) / sqrt 8."""
    s = spectrum * (real_and_imaginary[0] + 1j * real_and_imaginary[1])
    n = np.arange(D)
    total = s[:, :1].real + (-1.0) ** n * s[:, 4:].real
    for k in range(1, 4):
        total = total + 2 * (s[:, k : k + 1] * np.exp(2j * np.pi * k * n / D)).real
    return total / np.sqrt(D)


def spectrum_of(x: np.ndarray) -> np.ndarray:
    k, n = np.arange(D // 2 + 1), np.arange(D)
    return x @ np.exp(-2j * np.pi * np.outer(n, k) / D) / np.sqrt(D)


def forward_by_hand(experiment: Experiment, params: dict) -> tuple[np.ndarray, np.ndarray]:
    """C and side, (users + items, d)."""
    dataset, names = experiment.dataset, list(experiment.dataset.features)
    projected = {name: affine(features_of(experiment, params, name), params[f"{name}_projection"]) for name in names}
    spectra = {name: spectrum_of(x) for name, x in projected.items()}
    spectra["fusion"] = np.prod(list(spectra.values()), axis=0)
    graphs = {name: dense_cosine_knn(dataset.features[name]) for name in names}
    stacked = np.stack(list(graphs.values()))
    graphs["fusion"] = np.where(stacked != 0, stacked, -np.inf).max(0)
    graphs["fusion"][np.isinf(graphs["fusion"])] = 0

    views = {}
    for name, spectrum in spectra.items():
        features = filtered(spectrum, params[f"{name}_filter"])
        purified = params["item_id_table"] * sigmoid(affine(features, params[f"{name}_gate"]))
        views[name] = view_by_hand(experiment, graphs[name], purified)
    shared = shared_by_hand(experiment, params)
    for name in names:
        hidden = np.tanh(affine(views["fusion"], params[f"{name}_query"]))
        views[name] = views[name] * softmax(affine(hidden, params[f"{name}_query_weights"]), 1)
        if experiment.config.model.preference == "scaled":
            views[name] *= D
    parts = [sigmoid(affine(shared, params[f"{name}_preference"])) * view for name, view in views.items()]
    return shared, np.mean(parts, axis=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_representations_and_losses_are_those_of_the_formula(variant):
    preference = "scaled" if variant == "softmax" else "softmax"
    check_the_formula("smore", variant, forward_by_hand, model__preference=preference)


def test_filters_of_ones_leave_the_features_as_they_are_and_dropout_is_of_training_alone():
    experiment = experiment_of("smore", model__dropout=0.5)
    model, params = experiment.model, random_params(experiment)
    ones = np.stack([np.ones(5), np.zeros(5)]).astype(np.float32)
    for name in ("image", "text"):
        x = affine(params[f"item_{name}_table"], params[f"{name}_projection"])
        np.testing.assert_allclose(filtered(spectrum_of(x), ones), x, atol=1e-6)  # of the test's own transform
        params[f"{name}_filter"] = ones

    @jax.jit
    def both(params, inputs):
        every = Nodes(wanted=np.arange(NUM_USERS)), Nodes(wanted=np.arange(NUM_ITEMS))
        rngs = {"dropout": jax.random.key(0)}
        return [model.apply({"params": params}, inputs, *every, train=t, rngs=rngs)[:2] for t in (False, True)]

    plain, trained = both(params, experiment.inputs)
    shared, side = forward_by_hand(experiment, params)
    np.testing.assert_allclose(np.concatenate(plain), shared + side, atol=1e-5)
    # One coordinate in eight has all three gates dropped: there the content is gone.
    gone = np.isclose(np.concatenate(trained), shared, atol=1e-7).mean()
    assert 0.06 < gone < 0.25


def test_the_largest_entry_wins_and_what_one_graph_lacks_is_no_zero():
    first = scipy.sparse.csr_array(np.array([[1, -0.5, 0], [0, 0.2, 0.1], [0, 0, 0]], np.float32))
    second = scipy.sparse.csr_array(np.array([[0.5, -0.25, 0], [0.3, 0.4, -1], [0, 0, 0]], np.float32))
    expected = np.array([[1, -0.25, 0], [0.3, 0.4, 0.1], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(largest([first, second]).toarray(), expected)


def test_each_modality_may_have_its_own_number_of_neighbours():
    dataset = experiment_of("smore").dataset
    changes = {"model__name": "smore", "graph__item_knn_ks": (3, 6)}
    inputs = make_experiment(tiny_config(**changes), dataset).inputs
    for name, k in (("image", 3), ("text", 6)):
        found = inputs[f"item_item:{name}"].matrix.todense()
        np.testing.assert_allclose(found, dense_cosine_knn(dataset.features[name], k), atol=1e-6)


def test_what_is_refused():
    config = tiny_config(model__name="smore", graph__item_knn_ks=(3,))
    with pytest.raises(ConfigError, match="one number for each modality"):
        check_config(config)
    config = tiny_config(model__name="smore", data__modalities=("image", "fusion"))
    with pytest.raises(ConfigError, match=r'data.modalities .* must be without "fusion"'):
        check_config(config)
