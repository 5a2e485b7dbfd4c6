"""The original's weights to a run folder and back, against the numbers that the original computed from them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import scipy.sparse as sp

from rearm_jax.config import to_json
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.experiment import build_experiment
from rearm_jax.graphs.adjacency import make_adjacency
from rearm_jax.inference.convert import from_run, read_state, to_run
from rearm_jax.inference.trained import load_trained, run_config
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.loop import evaluate_run, train
from tests import golden

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "paper_baby.npz"
CONFIG = """
from pathlib import Path
from rearm_jax.config import from_json


def get_config():
    return from_json(Path(__file__).with_name("original.json").read_text()).unlock()
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with the golden data, config and weights, and the run folder `run` made of them by the command line."""
    folder = tmp_path_factory.mktemp("convert")
    with np.load(GOLDEN, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    (folder / "data").mkdir()
    for name, array in arrays.items():
        if name.startswith("data/"):
            np.save(folder / f"{name}.npy", array)
    config = golden._config(json.loads(str(arrays["config"])))
    config.data.root, config.data.num_users = str(folder / "data"), 48
    config.graph.cache_dir, config.log.progress, config.log.tensorboard = "", False, False
    config.batch_size, config.learning_rate = 64, 1e-3
    config.num_epochs = 1
    config.evaluation.ks, config.evaluation.metric = (5, 20), "recall@5"
    (folder / "original.json").write_text(to_json(config))
    (folder / "original.py").write_text(CONFIG)
    state = golden._section(arrays, "state")
    safetensors.numpy.save_file(state, folder / "weights.safetensors")
    arguments = ("to-run", "--weights=weights.safetensors", "--config=original.py", "--workdir=run")
    code, _, log = command(folder, "rearm_jax.inference.convert", *arguments)
    assert code == 0, log
    return folder, arrays, config.lock()


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the extra convert is not installed: no torch")


@pytest.fixture(scope="module")
def weights_pt(original, torch):
    """The weights as the original saves them."""
    folder, arrays, _ = original
    state = {name: torch.from_numpy(array) for name, array in golden._section(arrays, "state").items()}
    torch.save(state, folder / "weights.pt")
    return folder / "weights.pt"


def command(folder, module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_run_has_the_representations_of_the_original(original):
    folder, arrays, _ = original
    trained = load_trained(str(folder / "run"))
    # Those of the file: the original padded short rows of co-occurrence with draws from a generator of its own.
    graphs = {
        "user_item": make_adjacency(sp.csr_array(arrays["graph/norm_adj"]), ("user", "item"), symmetric=True),
        "user_user": make_adjacency(sp.csr_array(arrays["graph/user_user"]), ("user",)),
        "item_item": make_adjacency(sp.csr_array(arrays["graph/item_item"]), ("item",)),
    }
    trained = dataclasses.replace(trained, experiment=dataclasses.replace(trained.experiment, inputs=graphs))
    found = np.concatenate([trained.representations.users, trained.representations.items])
    np.testing.assert_allclose(found, arrays["out/representation"], rtol=0, atol=1e-6)


def test_the_run_evaluates(original):
    folder, arrays, config = original
    metrics = evaluate_run(build_experiment(run_config(str(folder / "run"))), str(folder / "run"))
    out = load_trained(str(folder / "run")).representations
    scores = np.asarray(out.users, np.float64) @ np.asarray(out.items, np.float64).T
    scores[tuple(arrays["data/train"])] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :5]
    users = np.unique(arrays["data/test"][0])
    positives = {user: set(arrays["data/test"][1, arrays["data/test"][0] == user]) for user in users}
    recall = np.mean([len(positives[user] & set(top[user])) / len(positives[user]) for user in users])
    assert metrics["test/recall@5"] == pytest.approx(recall, abs=1e-12)
    assert set(metrics) == {
        f"{split}/{name}@{k}"
        for split in ("valid", "test")
        for name in ("recall", "ndcg", "precision", "map", "hitrate")
        for k in config.evaluation.ks
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_back_to_a_state_dict(original, tmp_path, suffix, request):
    folder, arrays, _ = original
    torch = request.getfixturevalue("torch") if suffix == ".pt" else None
    out = tmp_path / f"back{suffix}"
    from_run(load_trained(str(folder / "run")), out)
    expected = golden._section(arrays, "state")
    if torch:
        found = {name: tensor.numpy() for name, tensor in torch.load(out, weights_only=True).items()}
    else:
        found = safetensors.numpy.load_file(out)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_both_kinds_of_file_read_alike(weights_pt):
    one, other = (read_state(weights_pt.with_suffix(suffix)) for suffix in (".safetensors", ".pt"))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_training_goes_on_from_the_weights(original, tmp_path):
    folder, arrays, config = original
    shutil.copytree(folder / "run", tmp_path / "run")
    workdir = str(tmp_path / "run")
    assert to_json(run_config(workdir)) == to_json(config)
    result, _ = train(build_experiment(config), workdir)
    assert (result["epochs"], result["steps"]) == (1, 5)  # 273 interactions, 64 a step
    assert result["best_epoch"] in (0, 1)  # the weights count as epoch 0
    # AdamW moves a parameter by about the learning rate at each step: other weights to start from would be far away.
    with Checkpoints(workdir, {"user": 48, "item": 32}) as checkpoints:
        params = checkpoints.restore_params(5, load_trained(workdir).params)
    moved = np.abs(np.asarray(params["user_id_table"]) - arrays["state/user_id_embedding.weight"]).max()
    assert 0 < moved < 2 * 5 * config.learning_rate
    other = config.copy_and_resolve_references().unlock()
    other.model.rank = 4
    with pytest.raises(CheckpointError, match=r"model\.rank: 3 there, 4 here"):
        run_config(workdir, other)


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def _without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


BAD_STATES = {
    "a missing entry": (_without("prl.weight"), r"missing \['prl.weight'\]"),
    "an unknown entry": (lambda state: state | {"extra": np.zeros(1, np.float32)}, r"unknown \['extra'\]"),
    "items of other data": (
        lambda state: state | {"item_id_embedding.weight": np.zeros((31, 8), np.float32)},
        r"item_id_table is float32\(31, 8\) in the checkpoint and float32\(32, 8\) here",
    ),
    "NaN": (lambda state: state | {"prl.weight": np.full(1, np.nan, np.float32)}, "prl.weight is .* finite"),
    "integers": (lambda state: state | {"prl.weight": np.ones(1, np.int32)}, "prl.weight is int32"),
    "an attention of another shape": (
        lambda state: state | {"self_i_attn1.in_proj_weight": np.ones((6, 1), np.float32)},
        r"image_self_attention/in_weight is float32\(6,\) in the checkpoint and float32\(3,\) here",
    ),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_weights_that_do_not_fit_are_refused(original, tmp_path, name):
    _, arrays, config = original
    change, message = BAD_STATES[name]
    safetensors.numpy.save_file(change(golden._section(arrays, "state")), tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match=message):
        to_run(tmp_path / "bad.safetensors", config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


def test_code_in_a_pt_file_is_not_run(original, torch, tmp_path, monkeypatch):
    _, _, config = original
    monkeypatch.chdir(tmp_path)
    torch.save({"prl.weight": Code()}, "bad.pt")
    with pytest.raises(DataError, match=r"bad.pt cannot be read as tensors"):
        to_run("bad.pt", config, "run")
    torch.save([1, 2], "list.pt")
    with pytest.raises(DataError, match=r"list.pt holds list"):
        to_run("list.pt", config, "run")
    assert sorted(os.listdir()) == ["bad.pt", "list.pt"]


def test_files_and_folders_that_will_not_do(original, tmp_path):
    folder, _, config = original
    with pytest.raises(ConfigError, match="is not empty"):
        to_run(folder / "weights.safetensors", config, folder / "run")
    with pytest.raises(ConfigError, match=r"must end in \.safetensors or \.pt"):
        to_run(folder / "weights.bin", config, tmp_path / "run")
    with pytest.raises(DataError, match="no such file"):
        to_run(tmp_path / "weights.safetensors", config, tmp_path / "run")
    (tmp_path / "cut.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut.safetensors cannot be read"):
        to_run(tmp_path / "cut.safetensors", config, tmp_path / "run")
    other = config.copy_and_resolve_references().unlock()
    other.model.name = "lightgcn"
    with pytest.raises(ConfigError, match="lightgcn"):
        to_run(folder / "weights.safetensors", other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pt_file_that_is_missing_or_cut_is_refused(original, weights_pt, tmp_path):
    _, _, config = original
    with pytest.raises(DataError, match="no such file"):
        to_run(tmp_path / "weights.pt", config, tmp_path / "run")
    (tmp_path / "cut.pt").write_bytes(weights_pt.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut.pt cannot be read"):
        to_run(tmp_path / "cut.pt", config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.pt"]


def test_a_missing_package_is_named(original, tmp_path, monkeypatch):
    folder, _, config = original
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[convert\]'"):
        to_run(folder / "weights.pt", config, tmp_path / "run")
