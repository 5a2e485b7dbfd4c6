"""What an export holds, read by other programs: numpy, pyarrow, faiss, and jax in a process without this package."""

import dataclasses
import re
import subprocess
import sys

import faiss
import numpy as np
import pyarrow.parquet
import pytest

from rearm_jax.config import from_json
from rearm_jax.data.dataset import make_dataset
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError, RearmError
from rearm_jax.experiment import init_params, make_experiment
from rearm_jax.inference import export
from rearm_jax.inference.export import check_index, export_run, write_index
from rearm_jax.inference.trained import Trained
from rearm_jax.training.run_folder import write_result
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS, WIDTH = 60, 130, 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model with its starting parameters, and the result of a run beside it."""
    data = make_synthetic(NUM_USERS, NUM_ITEMS, 8, 6, 0, ("image", "text"))
    splits = [getattr(data, split).T for split in ("train", "valid", "test")]
    labels = {
        "user_ids": np.arange(NUM_USERS) + 500,
        "item_ids": np.array([f"B{item}é" for item in range(NUM_ITEMS)]),
        "item_names": np.array([f"film {item}" for item in range(NUM_ITEMS)]),
    }
    experiment = make_experiment(tiny_config(), make_dataset(*splits, data.features, NUM_USERS, labels=labels))
    workdir = tmp_path_factory.mktemp("run")
    write_result(workdir, {"valid/recall@10": 0.25, "test/recall@10": 0.125, "steps": 7})
    return Trained(str(workdir), 7, experiment, init_params(experiment))


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    export_run(trained, folder)
    return folder


def test_vectors_and_ids(trained, folder):
    out, labels = trained.representations, trained.experiment.dataset.labels
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert len(list(folder.iterdir())) == 12
    for side, vectors, ids in (("user", out.users, labels.user_ids), ("item", out.items, labels.item_ids)):
        array = np.load(folder / f"{side}_vectors.npy", allow_pickle=False)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, vectors)
        assert np.load(folder / f"{side}_ids.npy", allow_pickle=False).tolist() == ids.tolist()
        table = pyarrow.parquet.read_table(folder / f"{side}s.parquet").to_pydict()
        assert table["id"] == ids.tolist()
        np.testing.assert_array_equal(np.array(table["vector"], np.float32), vectors)
        assert table.get("name") == (labels.item_names.tolist() if side == "item" else None)
    assert from_json((folder / "config.json").read_text()).model.name == "rearm"


def test_the_index_lists_what_sorting_lists(folder):
    users, items = (np.load(folder / f"{side}_vectors.npy") for side in ("user", "item"))
    _, found = faiss.read_index(str(folder / "items.faiss")).search(users, 20)
    exact = users.astype(np.float64) @ items.astype(np.float64).T
    ordered = -np.sort(-exact, axis=1)
    clear = -np.diff(ordered[:, :21]).max(axis=1) > 1e-6
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], np.argsort(-exact, axis=1)[clear, :20])


def test_an_index_that_ranks_otherwise_is_refused(trained, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(rows, 8)).astype(np.float32) for rows in (70, 50))
    path = tmp_path / "index"
    write_index(path, items)
    check_index(path, users, items)
    items[[3, 9]] = items[3]  # equal vectors may come in any order
    write_index(path, items[np.argsort(np.r_[:3, 9, 4:9, 3, 10:50])])
    check_index(path, users, items)
    write_index(path, np.concatenate([items[:-1], items[-1:] + 0.5]))
    with pytest.raises(RearmError, match="lists other items for user"):
        check_index(path, users, items)
    write_index(path, items[:10])
    with pytest.raises(RearmError, match="lists other items"):
        check_index(path, users, items)

    monkeypatch.setattr(export, "write_index", lambda path, items: write_index(path, items[::-1]))
    out = tmp_path / "out"
    with pytest.raises(RearmError, match="Nothing was written"):
        export_run(trained, out)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_the_score_function_runs_in_a_process_without_this_package(trained, folder, tmp_path):
    """The program of the README, word for word, and what it finds."""
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    program = (
        "import sys\n"
        + program
        + "assert not [name for name in sys.modules if name.split('.')[0] in ('rearm_jax', 'flax', 'torch')]\n"
        + "many, _ = score.call(users[5:50], np.concatenate([items, items]))\n"
        + f"np.savez({str(tmp_path / 'found.npz')!r}, rows=rows, scores=scores, many=many)\n"
    )
    # -I: neither this folder nor PYTHONPATH is searched.
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    users, items = (np.load(folder / f"{side}_vectors.npy") for side in ("user", "item"))
    exact = users.astype(np.float64) @ items.astype(np.float64).T
    found = np.load(tmp_path / "found.npz")
    assert found["rows"].shape == (2, 100)
    np.testing.assert_allclose(
        np.take_along_axis(exact[:2], found["rows"], 1), -np.sort(-exact[:2])[:, :100], atol=1e-5
    )
    np.testing.assert_allclose(found["scores"], -np.sort(-exact[:2])[:, :100], atol=1e-5)
    assert all(len(set(row)) == 100 for row in found["rows"].tolist())
    assert found["many"].shape == (45, 100)
    data = trained.experiment.dataset
    for user, line in enumerate(done.stdout.replace("\n ", " ").splitlines()):
        had = {item for split in (data.train, data.valid, data.test) for owner, item in split.tolist() if owner == user}
        shown = [int(number) for number in re.findall(r"'B(\d+)é'", line)]
        assert shown == [item for item in found["rows"][user].tolist() if item not in had][:20]
        assert len(shown) == 20


def test_an_export_is_replaced_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="was not made by this command"):
        export_run(trained, out, overwrite=True)
    (out / "notes.txt").rename(out / "score.stablehlo")  # what tells an export
    monkeypatch.setattr(export, "export_readme", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_run(trained, out, overwrite=True)
    assert [path.read_text() for path in out.iterdir()] == ["mine"]
    monkeypatch.undo()
    export_run(trained, out, overwrite=True, seen="train")
    assert list(tmp_path.iterdir()) == [out]
    assert (out / "score.stablehlo").stat().st_size > 1000
    assert len(np.load(out / "seen_items.npy")) == len(trained.experiment.dataset.train)
    with pytest.raises(ConfigError, match="is not empty"):
        export_run(trained, out)


def test_the_readme_tells_shapes_metrics_and_versions(trained, folder):
    readme = (folder / "README.md").read_text("utf-8")
    for text in (
        "float32 (60, 24), a row a user",
        "float32 (130, 24), a row an item",
        "| test/recall@10 | 0.1250 |",
        "step 7",
        trained.workdir,
        trained.experiment.dataset.content_hash,
        "jax ",
        "items.faiss",
    ):
        assert text in readme
    assert "{" not in readme
    listed = set(re.findall(r"`([a-z_]+\.[a-z]+)`", readme.split("```")[0])) | {"README.md"}
    assert listed == {path.name for path in folder.iterdir()}


def test_without_faiss_there_is_no_index(trained, tmp_path, monkeypatch, caplog):
    real = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "faiss" else real(name))
    caplog.set_level("INFO", "absl")
    unfinished = dataclasses.replace(trained, workdir=str(tmp_path))
    export_run(unfinished, tmp_path / "out")
    assert not (tmp_path / "out" / "items.faiss").exists()
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "items.faiss" not in readme
    assert "has not finished" in readme
    assert "pip install '.[faiss]'" in caplog.text


def test_what_cannot_be_written_is_refused_first(trained, folder, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="is not empty"):
        export_run(trained, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ConfigError, match="there is no folder"):
        export_run(trained, tmp_path / "no" / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is no folder"):
        export_run(trained, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[export\]'"):
        export_run(trained, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
