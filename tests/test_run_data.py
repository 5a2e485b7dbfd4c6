"""Data that changed under a run folder: what is said, and that it is said before anything is built."""

import numpy as np
import pytest

from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.inference.trained import load_trained
from rearm_jax.training import run_data
from rearm_jax.training.checkpoint import checkpoint_directory
from rearm_jax.training.digest import read_record, write_record
from rearm_jax.training.loop import train
from rearm_jax.training.run_data import open_experiment
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS = 12, 10


def write_data(folder, num_users=NUM_USERS, num_items=NUM_ITEMS, scale=1.0):
    """Three train items, one of validation and one of test for every user."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    users = np.arange(num_users)
    for name, places in {"train": (0, 1, 2), "valid": (3,), "test": (4,)}.items():
        np.save(folder / f"{name}.npy", np.array([(u, (u + p) % num_items) for p in places for u in users]))
    for name in ("image", "text"):
        np.save(folder / f"{name}_feat.npy", scale * rng.normal(size=(num_items, 4)).astype(np.float32))


def config(folder, **changes):
    settings = {"data__source": "folder", "data__root": str(folder), "evaluation__ks": (5,), "num_epochs": 1}
    return tiny_config(model__name="lightgcn", evaluation__metric="recall@5", **settings | changes)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(folder of data, run folder), after which graphs may no longer be built."""
    write_data(tmp_path / "data")
    train(open_experiment(config(tmp_path / "data"), tmp_path / "run"), str(tmp_path / "run"))
    monkeypatch.setattr(run_data, "make_experiment", lambda *_: pytest.fail("built graphs"))
    return tmp_path / "data", tmp_path / "run"


def refusal(workdir, settings) -> str:
    """What opening the run for training says, which must be what opening it for use says."""
    with pytest.raises(CheckpointError) as caught:
        open_experiment(settings, workdir)
    with pytest.raises(CheckpointError) as again:
        load_trained(str(workdir))
    assert str(again.value) == str(caught.value)
    return str(caught.value)


def test_other_sizes_are_told_then_and_now(run):
    data, workdir = run
    write_data(data, num_users=14, num_items=9)
    files = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    lines = refusal(workdir, config(data)).splitlines()
    assert lines[0] == f"{workdir} was trained on other data than those that are here now:"
    assert lines[1:8] == [
        "  users: 12 then, 14 now",
        "  items: 10 then, 9 now",
        "  train rows: 36 then, 42 now",
        "  valid rows: 12 then, 14 now",
        "  test rows: 12 then, 14 now",
        "  image columns: 4 then, 4 now",
        "  text columns: 4 then, 4 now",
    ]
    for word in ("config.data.root", "another run folder", "--overwrite"):
        assert word in lines[-1]
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == files


def test_it_is_the_data_even_where_the_settings_no_longer_fit_them(run):
    data, workdir = run
    write_data(data, num_users=4)  # fewer users than neighbours
    assert "users: 12 then, 4 now" in refusal(workdir, config(data))
    with pytest.raises(ConfigError, match=r"evaluation\.ks = 11: too large, the data has 10 items"):
        open_experiment(config(data, evaluation__ks=(5, 11)), workdir.parent / "another")


def test_values_alone_that_differ_are_told(run):
    data, workdir = run
    write_data(data, scale=2.0)
    words = refusal(workdir, config(data))
    assert "users: 12 then, 12 now" in words
    assert "so it is the values that differ: sha256 " in words


def test_a_run_of_an_earlier_version_knows_less(run):
    data, workdir = run
    write_data(data, num_users=14)
    [folder] = checkpoint_directory(workdir).iterdir()
    record = read_record(folder)
    assert record["progress"].pop("sizes")["users"] == NUM_USERS
    write_record(folder, record)
    lines = refusal(workdir, config(data)).splitlines()
    assert lines[1:4] == [
        "  users: 12 then, 14 now",
        "  items: 10 then, 10 now",
        "  train rows: unknown then, 42 now",
    ]


def test_the_same_data_are_opened_and_told_in_a_line(tmp_path, caplog):
    write_data(tmp_path / "data")
    experiment = open_experiment(config(tmp_path / "data"), tmp_path / "run")
    result, _ = train(experiment, str(tmp_path / "run"))
    caplog.clear()
    caplog.set_level("INFO", logger="absl")
    trained = load_trained(str(tmp_path / "run"))
    assert trained.step == result["best_step"]
    assert "data: 12 users, 10 items, 36 train interactions" in caplog.text
    assert "split hash" not in caplog.text
    (tmp_path / "moved").mkdir()
    for path in (tmp_path / "data").iterdir():
        path.rename(tmp_path / "moved" / path.name)
    assert load_trained(str(tmp_path / "run"), config(tmp_path / "moved")).step == trained.step
