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
from ml_collections import FrozenConfigDict
from ml_collections.config_dict import placeholder, required_placeholder

import rearm_jax
from rearm_jax import api, default_config, evaluate, recommend, train
from rearm_jax.config import check_config, resolve
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import CheckpointError, ConfigError, DataError, shown
from rearm_jax.inference.arguments import given_users
from tests.conftest import tiny_config

ROOT = Path(__file__).parent.parent
SHOWN = {"load_dataset", "REARM", "train", "evaluate", "load", "recommend", "default_config"}  # in the README
NAMES = SHOWN | {"Dataset", "refit", "Recommender", "Rules", "register"}  # in docs/ and CONTRIBUTING.md


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


def test_a_path_that_no_file_system_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"workdir = '.*': must be a path"):
        evaluate("\ud800")


def test_the_readme_shows_every_public_name():
    used = " ".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL))
    assert set(re.findall(r"\w+", used)) >= SHOWN


def test_recommendations_are_ranked_and_leave_out_what_users_have(readme):
    folder, _ = readme
    lists = recommend(folder / "runs/first", k=200 - 40)
    config = default_config(source="synthetic", synthetic={"num_users": 300, "num_items": 200})
    data = make_synthetic(**config.data.synthetic.to_dict())
    pairs = {tuple(pair) for split in (data.train, data.valid, data.test) for pair in split.tolist()}
    assert [one["user"] for one in lists] == list(range(300))
    for one in lists:
        scores = [place["score"] for place in one["items"]]
        assert scores == sorted(scores, reverse=True)
        assert not {(one["user"], place["item"]) for place in one["items"]} & pairs
    first = recommend(folder / "runs/first", users=iter(["17", np.int64(3)]), k=np.int64(5))
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


class BytesPath:
    def __fspath__(self):
        return b"runs/a"


NO_PATHS = [None, 3, True, 1.5, "", "a\0b", b"runs/a", ["runs/a"], {}, BytesPath(), tiny_config()]


@pytest.mark.parametrize("workdir", NO_PATHS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "call", [lambda workdir: train(tiny_config(), workdir), evaluate, recommend], ids=["train", "evaluate", "recommend"]
)
def test_a_workdir_that_is_no_path_is_refused(call, workdir):
    with pytest.raises(ConfigError, match=r'^workdir = .*: must be a path, such as "runs/mine"') as caught:
        call(workdir)
    assert "\n" not in str(caught.value)
    assert ("did you mean 'runs/a'?" in str(caught.value)) == (isinstance(workdir, (bytes, BytesPath)))


@pytest.mark.parametrize(
    "address", ["gs://a-bucket/run", "s4://a/b"], ids=["a package that is missing", "an unknown kind"]
)
@pytest.mark.parametrize("call", [lambda workdir: train(tiny_config(), workdir), evaluate, recommend])
def test_an_address_that_cannot_be_reached_is_refused(call, address, monkeypatch):
    for package in ("gcsfs", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=f"^{address} (needs a package .*gcsfs|is no address of a run folder)"):
        call(address)


@pytest.mark.parametrize(
    "config",
    [None, {}, tiny_config().to_dict(), "configs/demo.py", 3, default_config, []],
    ids=lambda value: type(value).__name__,
)
def test_train_refuses_what_is_no_config(tmp_path, config):
    with pytest.raises(ConfigError, match=r"^config = .*: must be a ConfigDict, found .*; did you mean default_config"):
        train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("seed", None, "seed = None: must be an integer from 0 to 2147483647"),
        ("seed", "1", "seed = '1': must be an integer from 0 to 2147483647; did you mean 1?"),
        ("seed", 3.0, "seed = 3.0: must be an integer from 0 to 2147483647; did you mean 3?"),
        ("seed", 2.5, "seed = 2.5: must be an integer from 0 to 2147483647"),
        ("seed", np.int64(3), "seed = np.int64(3): must be an integer from 0 to 2147483647; did you mean 3?"),
        ("seed", 10**5000, "seed = <int>: must be"),
        (
            "learning_rate",
            "1e-3",
            "learning_rate = '1e-3': must be a finite number above 0 (as float32); did you mean 0.001?",
        ),
        ("log.progress", 0, "log.progress = 0: must be true or false; did you mean False?"),
        ("log.progress", "true", "log.progress = 'true': must be true or false; did you mean True?"),
        ("model.name", "LightGCN", "model.name = 'LightGCN': must be the name of a model: "),
        ("model.name", "lightgnc", "; did you mean 'lightgcn'?"),
        ("protocol", b"strict", "protocol = b'strict': must be one of"),
        ("evaluation.ks", 5, "evaluation.ks = 5: must be a tuple of different integers"),
        ("evaluation.ks", 5, "; did you mean (5,)?"),
        ("evaluation.ks", np.array([5, 10]), "; did you mean (5, 10)?"),
        ("evaluation.ks", (5, "10"), "evaluation.ks = (5, '10'): must be"),
        ("data.modalities", "image", "; did you mean ('image',)?"),
        ("data.modalities", {"image": 1}, "data.modalities = {'image': 1}: must be"),
        ("data.root", Path("x"), "data.root = PosixPath('x'): must be a path of a file system, as text"),
        ("data.root", "a\0b", "data.root = 'a\\x00b': must be a path of a file system, as text"),
        ("graph.cache_dir", "a\0b", "graph.cache_dir = 'a\\x00b': must be"),
        ("model", None, "model: is a section, not a field"),
        ("model", 3, "model: is a section, not a field"),
        ("evaluation", [], "evaluation: is a section, not a field"),
        ("model", {"name": "rearm"}, "model.rank: missing; must be an integer"),
        ("batchsize", 3, "batchsize: unknown field; did you mean batch_size?"),
        (
            "data.synthetic.num_user",
            3,
            "data.synthetic.num_user: unknown field; did you mean data.synthetic.num_users?",
        ),
        ("seed", placeholder(int), "seed = None: must be"),
        ("seed", required_placeholder(int), "a field of the config has no value yet"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", shown(value)),  # pytest-xdist's workers must agree
)
def test_train_names_the_field_the_rule_and_what_may_be_meant(tmp_path, field, value, words):
    config = tiny_config().unlock()
    *sections, name = field.split(".")
    with config.ignore_type():
        section = config
        for part in sections:
            section = section[part]
        section[name] = value
    with pytest.raises(ConfigError, match=re.escape(words)):
        train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_ml_collections_refuses_stays_its_error():
    config = default_config(root="x")
    with pytest.raises(TypeError):
        config.seed = "1"
    with pytest.raises(TypeError):
        config.evaluation.ks = 5
    with pytest.raises(AttributeError):
        config.sed = 1


def test_lists_in_the_place_of_tuples_and_frozen_configs_are_fine(tmp_path):
    config = tiny_config(model__name="lightgcn", num_epochs=1)
    config.evaluation.ks = [5, 10]
    result = train(FrozenConfigDict(config), tmp_path / "run")
    assert result == train(config, str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"users": 3}, "users = 3: must be a list of ids, text or integers; did you mean users=[3]?"),
        ({"users": "317"}, "users is the text '317': give a list of ids, such as ['317']"),
        ({"users": b"3"}, "users = b'3': must be a list of ids"),
        ({"users": {3: 1}}, "users = {3: 1}: must be a list of ids"),
        ({"users": True}, "users = True: must be a list of ids"),
        ({"users": 3.5}, "users = 3.5: must be a list of ids"),
        ({"users": np.array(3)}, "users = array(3): must be a list of ids"),
        ({"users": [3, None]}, "users[1] = None: must be text or an integer"),
        ({"users": [3.0]}, "users[0] = 3.0: must be text or an integer; did you mean 3?"),
        ({"users": np.array([3.0])}, "users[0] = np.float64(3.0): must be text or an integer; did you mean 3?"),
        ({"users": [True]}, "users[0] = True: must be text or an integer"),
        ({"users": [b"3"]}, "users[0] = b'3': must be text or an integer"),
        ({"users": [[3]]}, "users[0] = [3]: must be text or an integer"),
        ({"users": [10**5000]}, "users[0] = <int>: must be text or an integer"),
        ({"k": "3"}, "k = '3': must be an integer, the places in a list; did you mean 3?"),
        ({"k": True}, "k = True: must be an integer, the places in a list"),
        ({"k": 2.5}, "k = 2.5: must be an integer, the places in a list"),
        ({"k": 3.0}, "k = 3.0: must be an integer, the places in a list; did you mean 3?"),
        ({"k": None}, "k = None: must be an integer"),
        ({"k": [3]}, "k = [3]: must be an integer"),
        ({"k": float("nan")}, "k = nan: must be an integer"),
        ({"k": 10**5000}, "k = <int>: must be an integer"),
        ({"unknown": "x"}, "unknown = 'x': must be one of 'refuse', 'popular'"),
        ({"unknown": "Popular"}, "unknown = 'Popular': must be one of 'refuse', 'popular'; did you mean 'popular'?"),
        ({"unknown": None}, "unknown = None: must be one of"),
        ({"unknown": ["refuse"]}, "unknown = ['refuse']: must be one of"),
    ],
    ids=shown,
)
def test_recommend_names_the_argument_the_rule_and_what_may_be_meant(readme, arguments, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        recommend(readme[0] / "runs/first", **arguments)


@pytest.mark.parametrize("users", [(3, 17), np.array([3, 17]), iter([3, 17]), range(3, 18, 14), {3: 0, 17: 0}.keys()])
def test_ids_come_in_any_list(users):
    assert given_users(users) == [3, 17]


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
    def fake(experiment, workdir, lock, on_evaluation):
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
