"""Approximate neighbours against exhaustive search in numpy, and the choice between the two."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rearm_jax.configs import baby, clothing, sports, tiktok
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError
from rearm_jax.graphs import knn, relations
from rearm_jax.models.rearm import REARM
from tests.test_rearm_relations import COOCCURRENCE, INTEREST, SEMANTIC, small_config

TIKTOK = os.path.join(os.environ.get("REARM_DATA", ""), "tiktok")


def clustered(n, width, num_clusters, seed=0):
    """Rows around centres of unequal share, the noise as wide as the centres lie apart."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num_clusters, width), np.float32)
    shares = rng.pareto(1.5, num_clusters) + 0.1
    members = rng.choice(num_clusters, n, p=shares / shares.sum())
    return centres[members] + rng.standard_normal((n, width), np.float32)


def measured_recall(features, values, k, rows):
    """Share of the values that reach the k-th largest cosine of their row, by comparing with all rows."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms == 0, 1, norms)
    least = np.concatenate([np.partition(unit[part] @ unit.T, -k)[:, -k] for part in np.array_split(rows, 20)])
    return np.mean(values[rows] >= least[:, None] - 1e-6)


@pytest.fixture(autouse=True)
def whole_log(caplog):
    caplog.set_level("INFO", logger="absl")


def messages(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records if "neighbours" in record.getMessage()]


# Recall


@pytest.mark.skipif(not os.path.exists(TIKTOK), reason="REARM_DATA names no folder with tiktok/")
@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("modality", ["image", "audio"])
def test_recall_on_tiktok(side, modality):
    features = np.load(os.path.join(TIKTOK, f"{modality}_feat.npy"), allow_pickle=False).astype(np.float32)
    if side == "user":
        pairs = np.load(os.path.join(TIKTOK, "train.npy"), allow_pickle=False)
        pairs = pairs.T if pairs.shape[0] == 2 else pairs
        features = relations.user_interest_features(np.unique(pairs, axis=0).astype(np.int32), 9308, features)
    rows = np.random.default_rng(5).choice(len(features), 1000, replace=False)
    for k in (10, 40):
        values, neighbours = knn.nearest_approximate(features, k, "test")
        assert measured_recall(features, values, k, rows) >= 0.95
        assert (np.diff(np.sort(neighbours[features.any(axis=1)])) > 0).all()  # no neighbour twice


def test_recall_on_100_000_clustered_rows(caplog):
    features, k = clustered(100_000, 64, 1000), 10
    values, neighbours = knn.nearest_approximate(features, k, "test")
    recall = measured_recall(features, values, k, np.random.default_rng(5).choice(100_000, 500, replace=False))
    assert recall >= 0.95
    ((level, message),) = messages(caplog)
    assert level == "INFO"
    assert abs(float(message.split("recall ")[1][:5]) - recall) < 0.02
    # What is returned are cosines, and the row itself is the nearest.
    some = np.arange(0, 100_000, 997)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(values[some], np.einsum("rd,rkd->rk", unit[some], unit[neighbours[some]]), atol=1e-5)
    np.testing.assert_array_equal(neighbours[:, 0], np.arange(100_000))
    np.testing.assert_allclose(values[:, 0], 1, atol=1e-5)


# The same as exact search, where it is allowed to search everywhere


@pytest.mark.parametrize("zeros", [0, 3, 200, 299, 300])
@pytest.mark.parametrize("k", [1, 7, 260, 300])
def test_searching_all_groups_is_exact_with_zero_rows_and_negative_cosines(monkeypatch, k, zeros):
    monkeypatch.setattr(knn, "_WANTED_RECALL", 2)
    features = np.random.default_rng(2).normal(size=(300, 9)).astype(np.float32)
    features[np.random.default_rng(3).choice(300, zeros, replace=False)] = 0
    exact = relations.knn_graph(features, k)
    found = relations.knn_graph(features, k, method="approx")
    np.testing.assert_allclose(found.toarray(), exact.toarray(), atol=1e-6)
    np.testing.assert_array_equal(np.diff(found.indptr), np.diff(exact.indptr))


def test_the_same_input_gives_the_same_graph():
    features = clustered(3_000, 16, 50)
    features[::7] = features[3]  # ties
    first, again = (relations.knn_graph(features, 10, method="approx") for _ in range(2))
    np.testing.assert_array_equal(first.indices, again.indices)
    np.testing.assert_array_equal(first.data, again.data)


def test_a_poor_recall_is_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(knn, "_MOST_GROUPS", 1)
    features = np.random.default_rng(0).normal(size=(2_000, 64)).astype(np.float32)  # no cluster to be found
    values, _ = knn.nearest_approximate(features, 20, "user interest (image)")
    recall = measured_recall(features, values, 20, np.arange(2_000))
    assert recall < 0.5
    ((level, message),) = messages(caplog)
    assert level == "WARNING"
    assert "user interest (image)" in message
    assert 'graph.knn = "exact"' in message
    assert abs(float(message.split("recall ")[1][:5]) - recall) < 0.05


# Queries that are not in the index


@pytest.mark.parametrize("chunk", [3, 512])
def test_queries_find_their_nearest_rows_of_the_index(monkeypatch, chunk):
    """Rows of +1 and -1, whose cosines are exact in float32 and often equal, and zero rows on either side."""
    monkeypatch.setattr(knn, "_CHUNK_ROWS", chunk)
    rng = np.random.default_rng(0)
    features, queries = (rng.choice(np.float32([-1, 1]), (n, 4)) for n in (60, 14))
    features[:2] = queries[5] = 0
    values, neighbours = knn.nearest_exact(features, 7, "test", queries)
    assert (values.dtype, neighbours.dtype) == (np.float32, np.int32)
    cosines = queries @ features.T / 4
    for row, found, similarities in zip(cosines, neighbours, values, strict=True):
        assert found.tolist() == sorted(range(60), key=lambda item: (-row[item], item))[:7]
        np.testing.assert_array_equal(similarities, row[found])


# The choice


def small_data():
    return make_synthetic(40, 30, 6, 5, 0, ("image", "text"))


def test_published_configurations_stay_exact():
    for module in (baby, sports, clothing, tiktok):
        assert module.get_config().graph.knn == "auto"
    assert knn.choose_method("auto", 39_387) == "exact"  # users of Clothing, the largest
    assert knn.choose_method("auto", 100_000) == "exact"
    assert knn.choose_method("auto", 100_001) == "approx"
    assert knn.choose_method("exact", 10**9) == "exact"
    assert knn.choose_method("approx", 10) == "approx"


def test_each_side_is_searched_by_its_size_and_the_log_says_how(monkeypatch, caplog):
    monkeypatch.setattr(knn, "EXACT_UP_TO", 35)
    REARM.relations(small_data(), small_config())
    said = {message.split(":")[0]: message for _, message in messages(caplog)}
    for modality in ("image", "text"):
        assert "approximate (faiss" in said[f"neighbours user interest ({modality})"]
        assert said[f"neighbours item semantic ({modality})"].endswith("exact")
    assert len(said) == 4


def test_the_cache_keeps_what_was_done(monkeypatch, tmp_path, built_graphs):
    def searched(setting, folder, **changes):
        """The relations that were not in the folder's cache."""
        REARM.relations(small_data(), small_config(tmp_path / folder, knn=setting, **changes))
        return set(built_graphs()) - {"user-item"}

    assert searched("auto", "first") == COOCCURRENCE | INTEREST | SEMANTIC
    assert searched("exact", "first") == set()
    assert searched("approx", "first") == INTEREST | SEMANTIC
    monkeypatch.setattr(knn, "EXACT_UP_TO", 35)
    searched("exact", "second")
    assert searched("auto", "second") == INTEREST  # of two sides, one is approximate
    assert searched("approx", "second") == SEMANTIC
    monkeypatch.setattr(knn, "EXACT_UP_TO", 5)
    searched("approx", "third")
    assert searched("auto", "third") == set()
    # Without a kNN graph the setting does nothing.
    weights = {"user_cooccurrence_weight": 1.0, "item_cooccurrence_weight": 1.0}
    assert searched("auto", "fourth", **weights) == COOCCURRENCE
    assert searched("exact", "fourth", **weights) == searched("approx", "fourth", **weights) == set()


@pytest.mark.parametrize("setting", ["auto", "approx"])
def test_without_faiss_it_says_what_to_do_before_anything_is_computed(monkeypatch, tmp_path, setting):
    monkeypatch.setattr(knn, "EXACT_UP_TO", 35)
    config = small_config(tmp_path / "kept", knn=setting)
    kept = REARM.relations(small_data(), config)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert REARM.relations(small_data(), config)["user_user"].matrix.nse == kept["user_user"].matrix.nse

    monkeypatch.setattr(relations, "cooccurrence_graph", lambda *_: pytest.fail("a graph was computed"))
    config.graph.cache_dir = ""
    with pytest.raises(ConfigError) as caught:
        REARM.relations(small_data(), config)
    for words in (f'graph.knn = "{setting}"', "pip install", "faiss", 'graph.knn = "exact"'):
        assert words in str(caught.value)
    assert ("more than 35 nodes" in str(caught.value)) == (setting == "auto")
    with pytest.raises(ConfigError):
        knn.nearest_approximate(np.ones((4, 2), np.float32), 2, "test")


def test_without_faiss_exact_search_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(knn, "EXACT_UP_TO", 35)
    REARM.relations(small_data(), small_config(knn="exact"))
    only_cooccurrence = {"user_cooccurrence_weight": 1.0, "item_cooccurrence_weight": 1.0}
    REARM.relations(small_data(), small_config(knn="auto", **only_cooccurrence))


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="of a CPU's program: XLA's top-k, and not a sort of every row"
)
@pytest.mark.parametrize("draws_ties", [False, True])
def test_no_row_is_sorted(draws_ties):
    table = jax.ShapeDtypeStruct((6000, 32), "float32")
    program = knn._nearest.lower(table, table, 0, 512, 10, draws_ties).compile().as_text()
    assert " sort(" not in program
    assert program.count('custom_call_target="TopK"') == 1 + draws_ties


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=2))
@example([0, 1, 2**23, 2**30 - 1, 2**30, 2**30 + 1, 2**31 - 2, 2**31 - 1])
def test_integers_as_floats_keep_their_order(draws):
    floats = np.asarray(knn._as_floats(jnp.array(draws, jnp.int32)))
    assert np.isfinite(floats).all()
    assert (np.abs(floats) >= np.finfo(np.float32).tiny).all()  # a device may take smaller ones for 0
    assert np.argsort(floats, stable=True).tolist() == np.argsort(draws, stable=True).tolist()


@pytest.mark.parametrize("search", [knn.nearest_exact, knn.nearest_approximate])
def test_a_cosine_does_not_know_lengths(search):
    if search is knn.nearest_approximate:
        pytest.importorskip("faiss")
    features = np.random.default_rng(0).standard_normal((300, 8), np.float32)
    scales = np.float32(2.0) ** np.random.default_rng(1).integers(-120, 100, (300, 1))
    assert (scales.max() > 1e25) & (scales.min() < 1e-30)
    values, neighbours = search(features, 5, "rows")
    scaled_values, scaled_neighbours = search(features * scales, 5, "rows")
    np.testing.assert_array_equal(scaled_neighbours, neighbours)
    np.testing.assert_allclose(scaled_values, values, rtol=0, atol=1e-6)
