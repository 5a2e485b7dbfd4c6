"""The three graphs of a configuration, and their cache: right, keyed by what matters, and never damaged in silence."""

import errno
import io
import json
import os

import numpy as np
import pytest

from configs.default import get_config
from rearm_jax.data.dataset import make_dataset
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.graphs import build, relations
from rearm_jax.graphs.build import build_graphs

MODALITIES = ("image", "text", "audio")
NUM_USERS, NUM_ITEMS = 40, 30


def small_data(num_modalities=2, seed=0):
    """Synthetic data in which user 0 lost its train interactions, so that the fallback by popularity is seen."""
    whole = make_synthetic(NUM_USERS, NUM_ITEMS, 6, 5, seed, MODALITIES[:num_modalities])
    kept = whole.train[whole.train[:, 0] != 0]
    return make_dataset(kept, whole.valid, whole.test, whole.features, NUM_USERS)


def small_config(cache_dir="", num_modalities=2, **changes):
    config = get_config().graph
    config.update(user_knn_k=6, item_knn_k=4, cache_dir=str(cache_dir))
    shares = {1: (1.0,), 2: (0.3, 0.7), 3: (0.2, 0.3, 0.5)}[num_modalities]
    config.update(user_modality_weights=shares, item_modality_weights=shares[::-1])
    config.update(changes)
    return config


def dense(graphs):
    return [np.asarray(getattr(graphs, name).matrix.todense()) for name in ("user_item", "user_user", "item_item")]


def assert_same(found, expected):
    for one, other in zip(dense(found), dense(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def weighted_relations(dataset, config, protocol="strict", seed=0):
    """user_user and item_item, written out from the relations, dense."""
    matrix = relations.interaction_matrix(dataset.train, dataset.num_users, dataset.num_items)
    everything = np.concatenate([dataset.train, dataset.valid, dataset.test])
    padding = np.random.RandomState(seed) if protocol == "reference" else None
    counted = everything if protocol == "reference" else dataset.train
    results = []
    for side, incidence, popularity in (
        ("user", matrix, np.bincount(counted[:, 0], minlength=dataset.num_users)),
        ("item", matrix.T.tocsr(), np.bincount(dataset.train[:, 1], minlength=dataset.num_items)),
    ):
        k, weight = config[f"{side}_knn_k"], config[f"{side}_cooccurrence_weight"]
        total = weight * relations.cooccurrence_graph(incidence, k, popularity, padding).toarray()
        for share, features in zip(config[f"{side}_modality_weights"], dataset.features.values(), strict=True):
            if side == "user":
                features = relations.user_interest_features(dataset.train, dataset.num_users, features)
            total += (1 - weight) * share * relations.knn_graph(features, k).toarray()
        results.append(total)
    return results


def forbid_building(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a graph was built that the cache should have held")

    for name in ("cooccurrence_graph", "knn_graph", "user_interest_features", "combine"):
        monkeypatch.setattr(relations, name, refuse)


def only_file(folder):
    (path,) = folder.iterdir()
    return path


# Content


@pytest.mark.parametrize("protocol", ["strict", "reference"])
@pytest.mark.parametrize("num_modalities", [1, 2, 3])
def test_graphs_are_the_weighted_sums_of_the_relations(num_modalities, protocol):
    dataset, config = small_data(num_modalities), small_config(num_modalities=num_modalities)
    graphs = build_graphs(dataset, config, protocol, seed=5)
    user_item, user_user, item_item = dense(graphs)
    expected = relations.user_item_graph(dataset.train, NUM_USERS, NUM_ITEMS).toarray()
    np.testing.assert_array_equal(user_item, expected)
    assert (graphs.user_item.symmetric, graphs.user_user.symmetric, graphs.item_item.symmetric) == (True, False, False)
    for found, wanted in zip((user_user, item_item), weighted_relations(dataset, config, protocol, 5), strict=True):
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
    for found, wanted in zip(dense(build_graphs(dataset, config, "strict", 0))[1:], expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_protocols_differ_where_they_should():
    dataset = small_data()
    config = small_config(user_cooccurrence_weight=1.0, item_cooccurrence_weight=1.0, user_knn_k=12, item_knn_k=12)
    strict, reference = (dense(build_graphs(dataset, config, protocol, 0)) for protocol in ("strict", "reference"))
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

    config = small_config(user_cooccurrence_weight=0.0, item_cooccurrence_weight=0.0)
    assert_same(build_graphs(dataset, config, "strict", 0), build_graphs(dataset, config, "reference", 0))


def test_the_seed_matters_under_reference_only():
    dataset, config = small_data(), small_config(user_knn_k=12, item_knn_k=12)
    assert_same(build_graphs(dataset, config, "strict", 0), build_graphs(dataset, config, "strict", 1))
    zero, again, one = (dense(build_graphs(dataset, config, "reference", seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(zero[0], one[0])
    for level in (1, 2):
        np.testing.assert_array_equal(zero[level], again[level])
        assert (zero[level] != one[level]).any()


@pytest.mark.parametrize(
    ("changes", "protocol", "message"),
    [
        ({}, "Strict", "protocol must be .* got 'Strict'"),
        ({"user_knn_k": NUM_USERS + 1}, "strict", "number of nodes, 40; got 41"),
        ({"item_knn_k": NUM_ITEMS + 1}, "strict", "number of nodes, 30; got 31"),
        ({"item_modality_weights": (1.0,)}, "strict", "argument"),
    ],
)
def test_impossible_settings_are_refused_and_leave_no_file(tmp_path, changes, protocol, message):
    with pytest.raises(ValueError, match=message):
        build_graphs(small_data(), small_config(tmp_path, **changes), protocol, 0)
    assert not list(tmp_path.iterdir())


def test_open_modality_weights_are_equal_shares(tmp_path):
    dataset = small_data(num_modalities=3)
    shares = dict.fromkeys(("user_modality_weights", "item_modality_weights"), (1 / 3,) * 3)
    explicit = build_graphs(dataset, small_config(tmp_path, 3, **shares), "strict", 0)
    config = small_config(tmp_path, 3, **dict.fromkeys(shares, ()))
    assert_same(build_graphs(dataset, config, "strict", 0), explicit)
    only_file(tmp_path)  # the cache knows them as the same
    assert config.user_modality_weights == ()


# The cache


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_the_second_build_reads_the_cache(tmp_path, monkeypatch, caplog, protocol):
    dataset, config = small_data(), small_config(tmp_path / "new" / "folder")
    built = build_graphs(dataset, config, protocol, 0)
    with monkeypatch.context() as patch:
        forbid_building(patch)
        assert_same(build_graphs(dataset, config, protocol, 0), built)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    with np.load(only_file(tmp_path / "new" / "folder"), allow_pickle=False) as file:
        assert len(file.files) == 6


def test_without_a_cache_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_graphs(small_data(), small_config(), "strict", 0)
    assert not list(tmp_path.iterdir())


def test_the_key_follows_all_that_shapes_the_graphs_and_nothing_else(tmp_path):
    first = tmp_path / "first"

    def key(dataset=None, protocol="strict", seed=0, folder=first, **changes):
        return build._cache_path(dataset or small_data(), small_config(folder, **changes), protocol, seed).name

    different = {
        "nothing": key(),
        "protocol": key(protocol="reference"),
        "seed": key(protocol="reference", seed=1),
        "data": key(small_data(seed=1)),
        "user_knn_k": key(user_knn_k=7),
        "item_knn_k": key(item_knn_k=7),
        "user_cooccurrence_weight": key(user_cooccurrence_weight=0.41),
        "item_cooccurrence_weight": key(item_cooccurrence_weight=0.21),
        "user_modality_weights": key(user_modality_weights=(0.4, 0.6)),
        "item_modality_weights": key(item_modality_weights=(0.4, 0.6)),
        "knn": key(knn="approx"),
    }
    assert set(small_config().keys()) == (different.keys() & small_config().keys()) | {"cache_dir"}
    assert len(set(different.values())) == len(different)
    assert key() == key(seed=1) == key(folder=tmp_path / "second")

    data = small_data()
    swapped = make_dataset(data.train, data.valid, data.test, dict(reversed(data.features.items())), NUM_USERS)
    assert key(swapped) != key()


def test_a_change_of_setting_builds_again_beside_the_old_file(tmp_path):
    dataset = small_data()
    first = build_graphs(dataset, small_config(tmp_path), "strict", 0)
    second = build_graphs(dataset, small_config(tmp_path, item_knn_k=5), "strict", 0)
    assert len(list(tmp_path.iterdir())) == 2
    assert (dense(first)[2] != dense(second)[2]).any()


# Damage


@pytest.fixture
def cached(tmp_path):
    """A dataset, a config, the graphs, the file that holds them, and its bytes."""
    dataset, config = small_data(), small_config(tmp_path)
    graphs = build_graphs(dataset, config, "strict", 0)
    path = only_file(tmp_path)
    return dataset, config, graphs, path, path.read_bytes()


def rewritten(path, **changes):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    with path.open("wb") as file:
        np.savez(file, **arrays)


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def negative_first(array):
    return np.concatenate([[-1], array[1:]]).astype(array.dtype)


DAMAGE = {
    "empty": lambda path, content: path.write_bytes(b""),
    "a few bytes": lambda path, content: path.write_bytes(content[:3]),
    "truncated by half": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "last byte missing": lambda path, content: path.write_bytes(content[:-1]),
    "zeros": lambda path, content: path.write_bytes(bytes(len(content))),
    "text": lambda path, content: path.write_text("not a cache"),
    "a single array": lambda path, content: path.write_bytes(npy_bytes(np.ones(3))),
    "an array missing": lambda path, content: np.savez(path, user_user_data=np.ones(3, np.float32)),
    "a pickle": lambda path, content: rewritten(path, user_user_data=lambda a: a.astype(object)),
    "float64": lambda path, content: rewritten(path, item_item_data=lambda a: a.astype(np.float64)),
    "NaN": lambda path, content: rewritten(path, item_item_data=lambda a: np.full_like(a, np.nan)),
    "fewer values": lambda path, content: rewritten(path, user_user_data=lambda a: a[:-1]),
    "fewer nodes": lambda path, content: rewritten(path, user_user_indptr=lambda a: a[:-1]),
    "column too large": lambda path, content: rewritten(path, user_user_indices=lambda a: a + 30),
    "column negative": lambda path, content: rewritten(path, user_user_indices=negative_first),
    "columns unsorted": lambda path, content: rewritten(path, item_item_indices=lambda a: a[::-1].copy()),
    "rows falling": lambda path, content: rewritten(path, item_item_indptr=lambda a: a[::-1].copy()),
    "rows too short": lambda path, content: rewritten(path, item_item_indptr=lambda a: np.minimum(a, a[-1] - 1)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_rebuilt_with_a_warning(cached, caplog, damage):
    dataset, config, graphs, path, content = cached
    damage(path, content)
    caplog.clear()
    assert_same(build_graphs(dataset, config, "strict", 0), graphs)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert str(path) in warning.getMessage()
    assert "building the graphs again" in warning.getMessage()
    caplog.clear()
    assert_same(build_graphs(dataset, config, "strict", 0), graphs)  # the file is whole again
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert only_file(path.parent) == path


def test_a_flipped_bit_never_changes_a_graph_silently(cached, monkeypatch, caplog):
    _, _, graphs, path, content = cached
    original = [matrix.astype(np.float32) for matrix in dense(graphs)[1:]]
    rng = np.random.default_rng(0)
    with np.load(path, allow_pickle=False) as file:
        blocks = [(name, file[name].tobytes()) for name in file.files]
    starts = [(content.index(block), len(block)) for _, block in blocks]
    inside = [start + rng.integers(length) for start, length in starts for _ in range(20)]  # values, not zip headers
    anywhere = rng.integers(len(content), size=200)
    headers = [start - 1 - rng.integers(128) for start, _ in starts for _ in range(20)]  # of the arrays, and the zip's
    rebuilt = 0
    for position in [*inside, *anywhere, *headers]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        caplog.clear()
        loaded = build._load(path, NUM_USERS, NUM_ITEMS)
        if loaded is None:
            (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
            assert str(path) in warning.getMessage()
            rebuilt += 1
        else:
            assert position not in inside
            for found, expected in zip(loaded, original, strict=True):
                np.testing.assert_array_equal(found.toarray(), expected)
    assert rebuilt >= len(inside)


# Writing


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch, caplog):
    dataset, config = small_data(), small_config(tmp_path)
    original = np.savez

    def disk_full(file, *_, **arrays):
        if arrays:
            file.write(b"PK half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(file, **arrays):
        file.write(b"PK half a file")
        raise KeyboardInterrupt

    expected = build_graphs(dataset, small_config(), "strict", 0)
    monkeypatch.setattr(build.np, "savez", disk_full)
    assert_same(build_graphs(dataset, config, "strict", 0), expected)
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr(build.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_graphs(dataset, config, "strict", 0)
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr(build.np, "savez", original)
    monkeypatch.setattr(build.os, "replace", disk_full)
    caplog.clear()
    assert_same(build_graphs(dataset, config, "strict", 0), expected)
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_file_appears_whole(tmp_path, monkeypatch):
    """What os.replace moves into place is complete already, and lies in the same folder."""
    original, seen = os.replace, []

    def watched(source, target):
        with np.load(source, allow_pickle=False) as file:
            seen.append({name: file[name].size for name in file.files})
        assert os.path.dirname(source) == os.path.dirname(target)
        assert not os.path.exists(target)
        original(source, target)

    monkeypatch.setattr(build.os, "replace", watched)
    build_graphs(small_data(), small_config(tmp_path), "strict", 0)
    assert len(seen) == 1
    assert seen[0]["user_user_indptr"] == NUM_USERS + 1
    assert seen[0]["user_user_data"] == seen[0]["user_user_indices"] > 0


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    dataset, config = small_data(), small_config(tmp_path / "file" / "cache")
    expected = build_graphs(dataset, small_config(), "strict", 0)
    caplog.clear()
    assert_same(build_graphs(dataset, config, "strict", 0), expected)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "could not be kept" in messages[-1]
    assert (tmp_path / "file").read_text() == "in the way"


def test_settings_saved_as_json_lead_to_the_same_file(tmp_path):
    """A run folder keeps the config as JSON, where tuples become lists; evaluation finds the cache all the same."""
    config = small_config(tmp_path)
    restored = small_config(tmp_path)
    with restored.ignore_type():
        restored.update(json.loads(config.to_json()))
    paths = [build._cache_path(small_data(), settings, "strict", 0) for settings in (config, restored)]
    assert paths[0] == paths[1]
