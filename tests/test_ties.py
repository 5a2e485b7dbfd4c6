"""Neighbours among ties, against the rule on cosines without any rounding; without ties, nothing changes to the bit."""

import dataclasses
import json

import numpy as np
import pytest

from rearm_jax.config import from_json, to_json
from rearm_jax.experiment import load_data
from rearm_jax.graphs import knn, relations
from rearm_jax.models import find
from tests.conftest import tiny_config
from tests.test_relations import exact_features, loop_knn

CATEGORIES = np.repeat(
    np.eye(4, dtype=np.float32), [60, 30, 3, 7], axis=0
)  # items of four categories, one after the other


@pytest.mark.parametrize("k", [1, 3, 5, 12, 40])
def test_whoever_is_more_similar_stays_and_the_rest_is_among_the_tied(k):
    features = exact_features()
    values, neighbours = knn.nearest_exact(features, k, "test", draws_ties=True)
    lowest, _ = knn.nearest_exact(features, k, "test")
    np.testing.assert_array_equal(values, lowest)  # how similar they are does not depend on the draw
    unit = features.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    cosines = np.round(unit @ unit.T * 4) / 4
    for row, found in enumerate(neighbours):
        assert len(set(found.tolist())) == k
        np.testing.assert_array_equal(cosines[row, found], np.sort(cosines[row])[::-1][:k])
        last = cosines[row, found[-1]]
        assert set(np.flatnonzero(cosines[row] > last)) <= set(found.tolist())
        assert row in found or not features[row].any()  # itself goes before those that tie with it


def test_draws_are_spread_and_always_the_same():
    _, neighbours = knn.nearest_exact(CATEGORIES, 6, "test", draws_ties=True)
    _, again = knn.nearest_exact(CATEGORIES, 6, "test", draws_ties=True)
    np.testing.assert_array_equal(neighbours, again)
    kinds = CATEGORIES.argmax(axis=1)
    for kind in (0, 1):  # more items than places: each has others, and no few have all
        own = neighbours[kinds == kind]
        assert (kinds[own] == kind).all()
        times = np.bincount(own.ravel(), minlength=len(kinds))[kinds == kind]
        assert times.sum() == 6 * len(own)
        assert times.max() <= 16  # of 60 and 30; the lowest ids alone would be 60 and 30 times
        assert times.min() >= 1
        assert len({tuple(sorted(row)) for row in own.tolist()}) == len(own)
    _, lowest = knn.nearest_exact(CATEGORIES, 6, "test")
    assert set(lowest[kinds == 0].ravel().tolist()) == set(range(6))


@pytest.mark.parametrize(("setting", "value"), [("_CHUNK_ROWS", 1), ("_CHUNK_ROWS", 17), ("_CHUNK_SIMILARITIES", 330)])
def test_chunks_change_nothing(monkeypatch, setting, value):
    whole = relations.knn_graph(CATEGORIES, 6, draws_ties=True)
    monkeypatch.setattr(knn, setting, value)
    chunked = relations.knn_graph(CATEGORIES, 6, draws_ties=True)
    np.testing.assert_array_equal(chunked.toarray(), whole.toarray())


@pytest.mark.parametrize("zeros", [0, 30])
def test_without_ties_not_a_bit_changes(zeros):
    features = np.random.default_rng(0).normal(size=(80, 9)).astype(np.float32)
    features[:zeros] = 0  # similar to none: they tie, and are no neighbours
    for k in (1, 7, 40):
        for one, other in zip(
            *(knn.nearest_exact(features, k, "t", draws_ties=drawn) for drawn in (True, False)), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_the_setting_reaches_the_graph_and_the_cache(tmp_path, built_graphs, monkeypatch):
    """FREEDOM and REARM; an old config.json keeps the lowest ids, and finds the graphs that an old run has cached."""
    config = tiny_config(graph__cache_dir=str(tmp_path))
    features = {"image": exact_features(), "text": CATEGORIES[:40]}
    dataset = dataclasses.replace(load_data(config.data), features=features)
    for name in ("freedom", "rearm"):
        settings = tiny_config(model__name=name, graph__cache_dir=str(tmp_path))
        assert settings.graph.ties == "drawn"
        find(name).relations(dataset, settings)
        assert ("item semantic (image)" in built_graphs()) == (name == "freedom")  # REARM has FREEDOM's
        values = json.loads(to_json(settings))
        del values["graph"]["ties"]
        old = from_json(json.dumps(values))
        assert old.graph.ties == "lowest"
        find(name).relations(dataset, old)
        assert ("item semantic (image)" in built_graphs()) == (name == "freedom")
    lowest = relations.knn_graph(features["image"], 5)
    np.testing.assert_allclose(lowest.toarray(), loop_knn(features["image"], 5), rtol=1e-6)
