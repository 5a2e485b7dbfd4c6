"""The library's front door: the README's blocks as they stand, what the package imports, and what the doors refuse."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import logging

import rearm_jax
from rearm_jax import api, default_config, evaluate, recommend, train
from rearm_jax.config import check_config, resolve
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from tests.conftest import tiny_config

ROOT = Path(__file__).parent.parent
NAMES = {"load_dataset", "REARM", "train", "evaluate", "recommend", "default_config", "Recommender", "register"}
OF_CONTRIBUTORS = {"Recommender", "register"}  # shown in CONTRIBUTING.md


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    """(folder, names) after the README's Python has run there, with the folder of data that it reads."""
    folder = tmp_path_factory.mktemp("readme")
    data = make_synthetic(60, 50, 8, 6, seed=0, modalities=("image", "text"))
    (folder / "data" / "mine").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        np.save(folder / "data/mine" / f"{split}.npy", getattr(data, split))
    for name, table in data.features.items():
        np.save(folder / "data/mine" / f"{name}_feat.npy", table)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    return folder, names


def test_the_readme_runs(readme, capsys):
    folder, names = readme
    result = json.loads((folder / "runs/first/result.json").read_text())
    assert names["result"] == result
    popular = result["yardsticks"]["most_popular"]["test/recall@20"]
    assert result["test/recall@20"] > 1.2 * popular  # it learns: the reader sees that it does
    assert evaluate(folder / "runs/first") == {
        key: result[key] for key in result if key.startswith(("valid/", "test/"))
    }
    dataset = names["dataset"]
    assert (names["vectors"].users.shape, names["vectors"].items.shape) == ((dataset.num_users, 192), (50, 192))


def test_the_readme_shows_every_public_name():
    used = " ".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL))
    assert set(re.findall(r"\w+", used)) >= NAMES - OF_CONTRIBUTORS


def test_recommendations_are_ranked_and_leave_out_train_items(readme):
    folder, _ = readme
    lists = recommend(folder / "runs/first", k=200 - 40)
    config = default_config(source="synthetic", synthetic={"num_users": 300, "num_items": 200})
    train_pairs = set(map(tuple, make_synthetic(**config.data.synthetic.to_dict()).train.tolist()))
    assert [one["user"] for one in lists] == list(range(300))
    for one in lists:
        scores = [place["score"] for place in one["items"]]
        assert scores == sorted(scores, reverse=True)
        assert not {(one["user"], place["item"]) for place in one["items"]} & train_pairs
    first = recommend(folder / "runs/first", users=["17", 3], k=5)
    assert [one["user"] for one in first] == [17, 3]
    assert [one["items"] for one in first] == [lists[17]["items"][:5], lists[3]["items"][:5]]


def test_what_recommend_refuses(readme):
    workdir = readme[0] / "runs/first"
    with pytest.raises(ConfigError, match=r"the text '317': give a list of ids, such as \['317'\]"):
        recommend(workdir, users="317")
    with pytest.raises(DataError, match="1 of 2 users are not in the catalogue: 300"):
        recommend(workdir, users=[3, 300])
    assert [one["source"] for one in recommend(workdir, [300, 3], 5, unknown="popular")] == ["model", "popular"]
    with pytest.raises(CheckpointError, match="is not a run folder"):
        recommend(readme[0])


def test_train_refuses_before_anything_is_written(tmp_path):
    config = default_config(root=str(tmp_path / "nowhere"), download=False)
    with pytest.raises(DataError, match="nowhere"):
        train(config, tmp_path / "run")
    config.model.rank = 0
    with pytest.raises(ConfigError, match=r"model\.rank = 0"):
        train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "shown"), [({}, True), ({"progress": False}, False)])
def test_train_shows_its_progress_unless_told_not_to(tmp_path, monkeypatch, caplog, arguments, shown):
    def fake(experiment, workdir):
        logging.info("epoch 1")
        logging.warning("saved")
        return None, 2

    monkeypatch.setattr(api, "open_experiment", lambda *_: None)
    monkeypatch.setattr(api.loop, "train", fake)
    assert train(tiny_config(), tmp_path / "run", **arguments) is None
    assert [record.getMessage() for record in caplog.records] == (["epoch 1"] if shown else []) + ["saved"]


def test_train_says_what_is_weak_about_the_run(tmp_path, monkeypatch, caplog):
    metrics = {"valid/recall@10": 0.1, "test/recall@10": 0.1}
    result = metrics | {"model": "rearm", "best_epoch": 1, "epochs": 2, "yardsticks": {"most_popular": metrics}}
    monkeypatch.setattr(api, "open_experiment", lambda *_: None)
    monkeypatch.setattr(api.loop, "train", lambda *_: (result, None))
    assert train(tiny_config(), tmp_path / "run", progress=False) == result
    [said] = caplog.records
    assert said.levelname == "WARNING"
    assert "does not beat recommending the most popular items" in said.getMessage()


def test_train_refuses_the_run_of_other_settings(readme):
    with pytest.raises(CheckpointError, match=r"batch_size: 256 there, 64 here"):
        train(tiny_config(), readme[0] / "runs/first")


def test_default_config_weighs_the_modalities_alike():
    config = default_config(root="x", modalities=["a", "b", "c"])
    check_config(config)
    assert config.data.modalities == ("a", "b", "c")
    weights = resolve(config).graph
    assert weights.user_modality_weights == weights.item_modality_weights == pytest.approx([1 / 3] * 3)
    config.data.modalities = ("a",)
    assert resolve(config).graph.user_modality_weights == (1.0,)
    with pytest.raises(AttributeError, match="rnak"):
        config.model.rnak = 7
    assert "rank" not in default_config("lightgcn", root="x").model
    with pytest.raises(ConfigError, match=r"'lightgnc'.*lightgcn"):
        default_config("lightgnc")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"rot": "x"}, r"config\.data has no field rot; it has .*, root, "),
        ({"root": 3}, r"config\.data: .*'root'.* 3 "),
        ({"modalities": "text"}, "modalities"),
        ({"synthetic": {"users": 5}}, "users"),
    ],
)
def test_default_config_refuses_what_data_does_not_have(data, words):
    with pytest.raises(ConfigError, match=words):
        default_config(**data)


def test_public_names():
    assert set(rearm_jax.__all__) == set(rearm_jax._HOMES) == NAMES
    assert set(dir(rearm_jax)) >= NAMES
    for name, home in rearm_jax._HOMES.items():
        assert getattr(rearm_jax, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = rearm_jax.trian


def test_type_checkers_see_the_same_names():
    source = (ROOT / "rearm_jax/__init__.py").read_text()
    block = source.split("if TYPE_CHECKING:")[1].split("\n\n")[0]
    seen = {name: home for home, names in re.findall(r"from (\S+) import (.+)", block) for name in names.split(", ")}
    assert seen == rearm_jax._HOMES


def test_importing_the_package_imports_no_jax():
    script = "import sys; from rearm_jax import load_dataset; print({'jax', 'flax', 'orbax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("set()\n", "")
