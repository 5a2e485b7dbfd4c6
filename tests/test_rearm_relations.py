"""REARM's graphs: the weighted relations, each built, cached and built again for what shapes it and nothing else."""

import numpy as np
import pytest

from rearm_jax import default
from rearm_jax.config import from_json, to_json
from rearm_jax.data.dataset import make_dataset
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.graphs import relations
from rearm_jax.models.rearm import REARM

MODALITIES = ("image", "text", "audio")
NUM_USERS, NUM_ITEMS = 40, 30
GRAPHS = ("user_item", "user_user", "item_item")
COOCCURRENCE = {"user co-occurrence", "item co-occurrence"}
INTEREST = {"user interest (image)", "user interest (text)"}
SEMANTIC = {"item semantic (image)", "item semantic (text)"}
RELATIONS = COOCCURRENCE | INTEREST | SEMANTIC


def small_data(num_modalities=2, seed=0):
    """Synthetic data in which user 0 lost its train interactions, so that the fallback by popularity is seen."""
    whole = make_synthetic(NUM_USERS, NUM_ITEMS, 6, 5, seed, MODALITIES[:num_modalities])
    kept = whole.train[whole.train[:, 0] != 0]
    return make_dataset(kept, whole.valid, whole.test, whole.features, NUM_USERS)


def small_config(cache_dir="", num_modalities=2, protocol="strict", seed=0, **graph):
    config = default.get_config()
    config.protocol, config.seed = protocol, seed
    config.data.source, config.data.modalities = "synthetic", MODALITIES[:num_modalities]
    shares = {1: (1.0,), 2: (0.3, 0.7), 3: (0.2, 0.3, 0.5)}[num_modalities]
    config.graph.update(user_knn_k=6, item_knn_k=4, cache_dir=str(cache_dir))
    config.graph.update(user_modality_weights=shares, item_modality_weights=shares[::-1])
    config.graph.update(graph)
    return config


def dense(graphs):
    assert tuple(graphs) == GRAPHS
    return [np.asarray(graph.matrix.todense()) for graph in graphs.values()]


def build(dataset, config):
    """The three graphs, dense."""
    return dense(REARM.relations(dataset, config))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def weighted_relations(dataset, config):
    """user_user and item_item, written out from the relations, dense."""
    graph = config.graph
    matrix = relations.interaction_matrix(dataset.train, dataset.num_users, dataset.num_items)
    everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
    padding = np.random.RandomState(config.seed) if config.protocol == "reference" else None
    counted = everything if config.protocol == "reference" else dataset.train
    results = []
    for side, incidence, popularity in (
        ("user", matrix, np.bincount(counted[:, 0], minlength=dataset.num_users)),
        ("item", matrix.T.tocsr(), np.bincount(dataset.train[:, 1], minlength=dataset.num_items)),
    ):
        k, weight, total = graph[f"{side}_knn_k"], graph[f"{side}_cooccurrence_weight"], 0
        if weight:  # else nothing is drawn for the padding
            total = weight * relations.cooccurrence_graph(incidence, k, popularity, padding).toarray()
        for share, features in zip(graph[f"{side}_modality_weights"], dataset.features.values(), strict=True):
            if side == "user":
                features = relations.user_interest_features(dataset.train, dataset.num_users, features)
            total += (1 - weight) * share * relations.knn_graph(features, k).toarray()
        results.append(total)
    return results


@pytest.fixture
def built(built_graphs):
    """A function that gives the names of the relations built since it was last called."""
    return lambda: set(built_graphs()) - {"user-item"}


# Content


@pytest.mark.parametrize("protocol", ["strict", "reference"])
@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_graphs_are_the_weighted_sums_of_the_relations(num_modalities, protocol):
    dataset, config = small_data(num_modalities), small_config("", num_modalities, protocol, seed=5)
    graphs = REARM.relations(dataset, config)
    user_item, user_user, item_item = dense(graphs)
    expected = relations.user_item_graph(dataset.train, NUM_USERS, NUM_ITEMS).toarray()
    np.testing.assert_array_equal(user_item, expected)
    assert [graph.symmetric for graph in graphs.values()] == [True, False, False]
    assert [graph.nodes for graph in graphs.values()] == [("user", "item"), ("user",), ("item",)]
    for found, wanted in zip((user_user, item_item), weighted_relations(dataset, config), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_relation_of_weight_0_is_not_computed(monkeypatch, side, weight):
    dataset = small_data()
    config = small_config(**{f"{side}_cooccurrence_weight": weight})
    expected = weighted_relations(dataset, config)
    size = {"user": NUM_USERS, "item": NUM_ITEMS}[side]
    name = "cooccurrence_graph" if weight == 0 else "knn_graph"
    original = getattr(relations, name)

    def watched(matrix, *arguments):
        assert matrix.shape[0] != size
        return original(matrix, *arguments)

    monkeypatch.setattr(relations, name, watched)
    for found, wanted in zip(build(dataset, config)[1:], expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_padding_of_items_starts_anew_where_users_have_none():
    dataset, config = small_data(), small_config(protocol="reference", user_cooccurrence_weight=0.0, item_knn_k=12)
    for found, wanted in zip(build(dataset, config)[1:], weighted_relations(dataset, config), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_protocols_differ_where_they_should():
    dataset = small_data()
    only = {"user_cooccurrence_weight": 1.0, "item_cooccurrence_weight": 1.0, "user_knn_k": 12, "item_knn_k": 12}
    strict, reference = (build(dataset, small_config(protocol=p, **only)) for p in ("strict", "reference"))
    np.testing.assert_array_equal(strict[0], reference[0])

    matrix = relations.interaction_matrix(dataset.train, NUM_USERS, NUM_ITEMS).toarray()
    for level, counts in ((1, matrix @ matrix.T), (2, matrix.T @ matrix)):
        np.fill_diagonal(counts, 0)
        neighbours = (counts > 0).sum(axis=1)
        differs = (strict[level] != reference[level]).any(axis=1)
        assert not differs[neighbours >= 12].any()
        assert differs[(neighbours > 1) & (neighbours < 12)].mean() > 0.8
        assert (neighbours >= 12).any()
    # The cold user: its fallback counts validation and test under "reference" alone.
    assert (matrix[0] == 0).all()
    assert (strict[1][0] != reference[1][0]).any()

    none = {"user_cooccurrence_weight": 0.0, "item_cooccurrence_weight": 0.0}
    assert_same(*(build(dataset, small_config(protocol=p, **none)) for p in ("strict", "reference")))


def test_the_seed_matters_under_reference_only():
    dataset, ks = small_data(), {"user_knn_k": 12, "item_knn_k": 12}
    assert_same(*(build(dataset, small_config(seed=seed, **ks)) for seed in (0, 1)))
    zero, again, one = (build(dataset, small_config(protocol="reference", seed=seed, **ks)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(zero[0], one[0])
    for level in (1, 2):
        np.testing.assert_array_equal(zero[level], again[level])
        assert (zero[level] != one[level]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_knn_k": NUM_USERS + 1}, "number of nodes, 40; got 41"),
        ({"item_knn_k": NUM_ITEMS + 1}, "number of nodes, 30; got 31"),
        ({"item_modality_weights": (1.0,)}, "argument"),
    ],
)
def test_impossible_settings_are_refused_and_leave_no_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        REARM.relations(small_data(), small_config(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


# The cache


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_every_relation_is_cached_by_itself(tmp_path, built, caplog, protocol):
    dataset, config = small_data(), small_config(tmp_path, protocol=protocol)
    expected = build(dataset, small_config(protocol=protocol))
    built()
    assert_same(build(dataset, config), expected)
    assert built() == RELATIONS
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(RELATIONS)
    assert_same(build(dataset, config), expected)
    assert "WARNING" not in caplog.text
    assert built() == set()
    # One that is lost is built as it was: the padding of items does not need that users are padded in the same run.
    for path in files:
        path.unlink()
        assert_same(build(dataset, config), expected)
        assert len(built()) == 1
    assert sorted(tmp_path.iterdir()) == files


CHANGES = [
    # (protocol and seed), what changes, what is built again
    ({}, {}, set()),
    ({}, {"seed": 1}, set()),
    ({}, {"protocol": "reference"}, COOCCURRENCE),
    ({}, {"user_knn_k": 7}, INTEREST | {"user co-occurrence"}),
    ({}, {"item_knn_k": 7}, SEMANTIC | {"item co-occurrence"}),
    ({}, {"user_cooccurrence_weight": 0.41, "item_cooccurrence_weight": 0.21}, set()),
    ({}, {"user_modality_weights": (0.4, 0.6), "item_modality_weights": (0.4, 0.6)}, set()),
    ({}, {"user_cooccurrence": False, "item_semantic": False}, set()),
    ({}, {"user_interest": False, "item_cooccurrence": False}, set()),
    ({}, {"knn": "exact"}, set()),
    ({}, {"knn": "approx"}, INTEREST | SEMANTIC),
    ({}, {"ties": "lowest"}, SEMANTIC),
    ({"protocol": "reference"}, {"seed": 1}, COOCCURRENCE),
    ({"protocol": "reference"}, {"user_knn_k": 7}, INTEREST | COOCCURRENCE),  # the padding of items goes on behind it
    ({"protocol": "reference"}, {"user_cooccurrence_weight": 0.41}, set()),
    ({"protocol": "reference"}, {"user_cooccurrence_weight": 0.0}, {"item co-occurrence"}),
]


@pytest.mark.parametrize(("before", "change", "expected"), CHANGES)
def test_a_change_of_setting_builds_again_what_it_shapes_and_nothing_else(tmp_path, built, before, change, expected):
    dataset = small_data()
    build(dataset, small_config(tmp_path, **before))
    old = set(tmp_path.iterdir())
    built()
    found = build(dataset, small_config(tmp_path, **before | change))
    assert built() == expected
    assert len(set(tmp_path.iterdir()) - old) == len(expected)
    assert old <= set(tmp_path.iterdir())
    assert_same(found, build(dataset, small_config(**before | change)))


def test_the_changes_cover_every_setting_of_the_graphs():
    changed = {name for _, change, _ in CHANGES for name in change} | {"cache_dir"}
    assert set(small_config().graph) == changed - {"protocol", "seed"}


def test_other_data_are_built_for_themselves(tmp_path, built):
    data = small_data()
    swapped = make_dataset(data.train, data.valid, data.test, dict(reversed(data.features.items())), NUM_USERS)
    for dataset in (data, small_data(seed=1), swapped):
        assert_same(build(dataset, small_config(tmp_path)), build(dataset, small_config()))
        built()
    assert len(list(tmp_path.iterdir())) == 3 * len(RELATIONS)


def test_another_folder_is_filled_alike(tmp_path):
    for folder in ("first", "second"):
        build(small_data(), small_config(tmp_path / folder))
    first, second = ({path.name for path in (tmp_path / folder).iterdir()} for folder in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_settings_saved_as_json_lead_to_the_same_files(tmp_path, built, protocol):
    """A run folder keeps the config as JSON, where tuples become lists; evaluation finds the cache all the same."""
    config = small_config(tmp_path, protocol=protocol)
    build(small_data(), config)
    built()
    build(small_data(), from_json(to_json(config)))
    assert built() == set()
