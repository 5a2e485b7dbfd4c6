"""Run folders with any name: every mode works in them, and nothing beside them is touched."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import pytest

from rearm_jax import evaluate, recommend, train
from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.inference.export import export_run
from rearm_jax.inference.output import check_output_file, check_output_folder
from rearm_jax.inference.recommend_files import FORMATS, recommend_run
from rearm_jax.inference.trained import load_trained
from rearm_jax.report.visualize import check_report, write_report
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.run_folder import clear_run_folder
from rearm_jax.training.run_path import run_path
from tests.conftest import tiny_config

NAMES = [
    "lr[1]",
    "[!a]",
    "a*b",
    "?",
    "a\\b",
    "\\",
    "a]b[c",
    "a%20b#c",
    " a 'b' \"c\" ",
    "{a},$b;c&d|e",
    "a\nb",
    "é日",
    "~",
    "a:b",
    "\udcff",
]
UNFINISHED = "checkpoints/6.orbax-checkpoint-tmp/d"


def make_neighbours(folder: Path) -> dict[str, bytes]:
    """Files of other runs, at what one would find who took a name of NAMES for a pattern or for another path."""
    for name in ("lr1", "a", "axb", "x", "a/b", "a b", "b"):
        for file in ("config.json", "metrics.jsonl", "events.out.tfevents.1", UNFINISHED, "checkpoints/6.deleted/d"):
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {os.fspath(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_checkpoints_come_back_from_any_folder(tmp_path, name):
    neighbours = make_neighbours(tmp_path)
    params, rest = {"a": jnp.arange(3.0)}, {"b": jnp.ones(2)}
    workdir = tmp_path / name
    unfinished = workdir / UNFINISHED
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text("of a save that was killed")
    for step in (1, 2):
        with Checkpoints(workdir) as checkpoints:
            assert checkpoints.resume_step() == (step - 1 or None)
            checkpoints.save(step, params, rest, {"epoch": step}, 0.5)
            found = checkpoints.restore(step, params, rest)
            assert found[0]["a"].tolist() == [0, 1, 2]
            assert found[2] == {"epoch": step}
    assert sorted(os.listdir(workdir / "checkpoints")) == ["1", "2"]  # and not what the killed save left
    (workdir / "events.out.tfevents.1").touch()
    (workdir / "notes.txt").write_text("mine")
    clear_run_folder(workdir)
    assert os.listdir(workdir) == ["notes.txt"]
    (workdir / "notes.txt").unlink()
    assert contents(tmp_path) == neighbours


@pytest.mark.parametrize("name", ["lr[1]", "a\\b*?"])
def test_every_mode_works_in_any_folder(tmp_path, name):
    for extra in ("jinja2", "matplotlib", "sklearn", "pyarrow", "flatbuffers"):
        pytest.importorskip(extra)
    neighbours = make_neighbours(tmp_path)
    workdir = tmp_path / name
    config = tiny_config(model__name="lightgcn", num_epochs=1, log__tensorboard=True)
    assert train(config, workdir) == train(config, workdir) == json.loads((workdir / "result.json").read_text())
    with config.unlocked():
        config.num_epochs = 2
    result = train(config, workdir)
    assert result["epochs"] == 2
    assert evaluate(workdir) == {name: value for name, value in result.items() if name.startswith(("valid/", "test/"))}
    lists = recommend(workdir, users=[3], k=4)
    trained = load_trained(str(workdir))
    for format in FORMATS:
        recommend_run(trained, [3], 4, format, workdir / f"lists.{format}")
    assert json.loads((workdir / "lists.jsonl").read_text()) == lists[0]
    export_run(trained, workdir / "export")
    write_report(trained)
    assert (workdir / "report.html").is_file()
    assert {path: content for path, content in contents(tmp_path).items() if name not in path} == neighbours


def test_a_step_that_somebody_else_named_stays(tmp_path):
    """Only folders with the number of a step are what a killed save or a deletion has left."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.ones(3)}, {"b": jnp.ones(2)}, {}, 0.5)
    for name in ("old.deleted", "best.orbax-checkpoint-tmp", "mine.damaged"):
        (tmp_path / "checkpoints" / name).mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.resume_step() == 1
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


def test_an_unknown_address_is_refused():
    assert str(run_path("gs://bucket/a[1]/b")) == "gs://bucket/a[1]/b"
    with pytest.raises(CheckpointError, match=r"s4://bucket/a is no address of a run folder: .* gs://, s3://"):
        run_path("s4://bucket/a")


@pytest.mark.parametrize(
    "check",
    [
        check_output_file,
        check_output_folder,
        lambda address: check_report("run", f"{address}.html"),
        lambda address: check_report(address, None),
    ],
)
def test_an_address_is_never_taken_for_a_folder(tmp_path, monkeypatch, check):
    (tmp_path / "gs:" / "bucket" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"gs://bucket/run\S* is an address: name a path of a file system"):
        check("gs://bucket/run")
