"""The cache of graphs, one file a relation: keyed by what shapes it, written whole, and never damaged in silence."""

import errno
import io
import os

import numpy as np
import pytest
import scipy.sparse

from rearm_jax.graphs import cache
from rearm_jax.graphs.cache import cached_graph, graph_path

NAME, N = "user interest (text)", 40


def random_graph(seed=0) -> scipy.sparse.csr_array:
    graph = scipy.sparse.random_array((N, N), density=0.1, rng=np.random.default_rng(seed), dtype=np.float32).tocsr()
    graph.sum_duplicates()
    return graph


def refuse():
    raise AssertionError("a graph was built that the cache should have held")


def path_in(folder, **changes):
    key = {"name": NAME, "content_hash": "abc", "settings": {"k": 5, "method": "exact"}} | changes
    return graph_path(**key, cache_dir=str(folder))


def get(path, build=random_graph):
    return cached_graph(NAME, build, N, path)


def assert_same(found, expected):
    assert found.shape == expected.shape
    for part in ("data", "indices", "indptr"):
        assert getattr(found, part).dtype == getattr(expected, part).dtype
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_the_second_time_the_file_is_read(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    path = path_in(tmp_path / "new" / "folder")
    assert_same(get(path), random_graph())
    assert f"graph {NAME}: {N} nodes, {random_graph().nnz} entries" in caplog.text
    caplog.clear()
    assert_same(get(path, refuse), random_graph())
    assert f"graph {NAME} loaded from {path}" in caplog.text
    assert not warnings(caplog)
    assert list((tmp_path / "new" / "folder").iterdir()) == [path]
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"data", "indices", "indptr"}


def test_without_a_cache_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_in("") is None
    assert_same(get(None), random_graph())
    assert not list(tmp_path.iterdir())


def test_the_key_is_of_the_relation_the_data_and_the_settings(tmp_path):
    different = [
        path_in(tmp_path),
        path_in(tmp_path, name="user interest (image)"),
        path_in(tmp_path, content_hash="abd"),
        path_in(tmp_path, settings={"k": 6, "method": "exact"}),
        path_in(tmp_path, settings={"k": 5, "method": "approx"}),
        path_in(tmp_path, settings={"k": 5}),
    ]
    assert {path.parent for path in different} == {tmp_path}
    assert len({path.name for path in different}) == len(different)
    assert path_in(tmp_path / "second").name == path_in(tmp_path).name
    assert path_in(tmp_path, settings={"method": "exact", "k": 5}) == path_in(tmp_path)


# Damage


@pytest.fixture
def cached(tmp_path):
    """The file that holds a graph, and its bytes."""
    path = path_in(tmp_path)
    get(path)
    return path, path.read_bytes()


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
    "an array missing": lambda path, content: np.savez(path, data=np.ones(3, np.float32)),
    "a pickle": lambda path, content: rewritten(path, data=lambda a: a.astype(object)),
    "float64": lambda path, content: rewritten(path, data=lambda a: a.astype(np.float64)),
    "NaN": lambda path, content: rewritten(path, data=lambda a: np.full_like(a, np.nan)),
    "fewer values": lambda path, content: rewritten(path, data=lambda a: a[:-1]),
    "fewer nodes": lambda path, content: rewritten(path, indptr=lambda a: a[:-1]),
    "column too large": lambda path, content: rewritten(path, indices=lambda a: a + N),
    "column negative": lambda path, content: rewritten(path, indices=negative_first),
    "columns unsorted": lambda path, content: rewritten(path, indices=lambda a: a[::-1].copy()),
    "rows falling": lambda path, content: rewritten(path, indptr=lambda a: a[::-1].copy()),
    "rows too short": lambda path, content: rewritten(path, indptr=lambda a: np.minimum(a, a[-1] - 1)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_rebuilt_with_a_warning(cached, caplog, damage):
    path, content = cached
    damage(path, content)
    caplog.clear()
    assert_same(get(path), random_graph())
    (warning,) = warnings(caplog)
    assert str(path) in warning
    assert "building the graph again" in warning
    caplog.clear()
    assert_same(get(path, refuse), random_graph())  # the file is whole again
    assert not warnings(caplog)
    assert list(path.parent.iterdir()) == [path]


def test_a_graph_of_another_size_is_not_taken(cached, caplog):
    path, _ = cached
    smaller = scipy.sparse.csr_array(np.eye(N - 1, dtype=np.float32))
    assert cached_graph(NAME, lambda: smaller, N - 1, path) is smaller
    assert len(warnings(caplog)) == 1


def test_a_flipped_bit_never_changes_a_graph_silently(cached, caplog):
    path, content = cached
    rng = np.random.default_rng(0)
    with np.load(path, allow_pickle=False) as file:
        blocks = [file[name].tobytes() for name in file.files]
    starts = [(content.index(block), len(block)) for block in blocks]
    inside = [start + rng.integers(length) for start, length in starts for _ in range(40)]  # values, not zip headers
    anywhere = rng.integers(len(content), size=200)
    headers = [start - 1 - rng.integers(128) for start, _ in starts for _ in range(40)]  # of the arrays, and the zip's
    rebuilt = 0
    for position in [*inside, *anywhere, *headers]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        caplog.clear()
        loaded = cache._load(path, NAME, N)
        if loaded is None:
            (warning,) = warnings(caplog)
            assert str(path) in warning
            rebuilt += 1
        else:
            assert position not in inside
            assert_same(loaded, random_graph())
    assert rebuilt >= len(inside)


# Writing


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch, caplog):
    path, original = path_in(tmp_path), np.savez

    def disk_full(file, *_, **arrays):
        if arrays:
            file.write(b"PK half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(file, **arrays):
        file.write(b"PK half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.np, "savez", disk_full)
    assert_same(get(path), random_graph())
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr(cache.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(path)
    assert not list(tmp_path.iterdir())

    monkeypatch.setattr(cache.np, "savez", original)
    monkeypatch.setattr(cache.os, "replace", disk_full)
    caplog.clear()
    assert_same(get(path), random_graph())
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

    monkeypatch.setattr(cache.os, "replace", watched)
    get(path_in(tmp_path))
    nnz = random_graph().nnz
    assert seen == [{"data": nnz, "indices": nnz, "indptr": N + 1}]
    assert nnz > 0


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert_same(get(path_in(tmp_path / "file" / "cache")), random_graph())
    assert "could not be kept" in warnings(caplog)[-1]
    assert (tmp_path / "file").read_text() == "in the way"
