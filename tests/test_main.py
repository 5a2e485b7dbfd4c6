"""The command line, as a person would type it."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from absl.testing import flagsaver

import rearm_jax
from rearm_jax import main
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.inference import recommend_files
from rearm_jax.shipped import list_shipped
from tests.conftest import tiny_config

ROOT = Path(__file__).parent.parent
CONFIG = """
from tests.conftest import tiny_config


def get_config():
    return tiny_config(model__name="lightgcn", learning_rate=1e-2, num_epochs=2).unlock()
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """`python -m rearm_jax.main ARGUMENTS` in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "rearm_jax.main", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit code, stdout, stderr); no person should ever see a traceback."""
    stdout, stderr = process.communicate(timeout=300)
    assert "Traceback" not in stdout + stderr, stderr
    return process.returncode, stdout, stderr


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The same in this process, which keeps its flags and shares its imports: (exit code, stdout, stderr)."""

    def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        monkeypatch.setattr(logging.get_absl_handler().python_handler, "stream", sys.stderr)
        with flagsaver.flagsaver():
            code = main.main()
        stdout, stderr = capsys.readouterr()
        assert "Traceback" not in stdout + stderr, stderr
        return code, stdout, stderr

    for name in ("initialize", "_keep_compiled_programs"):
        monkeypatch.setattr(main, name, lambda *_: None)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with tiny.py and its run under runs/tiny, and the log of that run."""
    folder = tmp_path_factory.mktemp("main")
    (folder / "tiny.py").write_text(CONFIG)
    code, stdout, stderr = finish(start(folder, "--config=tiny.py"))
    assert code == 0, stderr
    assert stdout == ""
    return folder, stderr


def metrics_of(result: dict) -> dict:
    return {key: value for key, value in result.items() if key.startswith(("valid/", "test/"))}


def test_a_config_by_name(run_here, tmp_path):
    code, _, log = run_here(tmp_path, "--config=demo", "--config.model.name=popular")
    assert code == 0, log
    result = json.loads((tmp_path / "runs" / "demo" / "result.json").read_text())
    assert result["versions"]["rearm_jax"] == rearm_jax.__version__


def test_version_and_list(run_here, tmp_path):
    assert run_here(tmp_path, "--version") == (0, f"{rearm_jax.__version__}\n", "")
    assert run_here(tmp_path, "--config_list") == (0, f"{list_shipped()}\n", "")


def test_training_shows_data_progress_and_yardsticks(trained):
    folder, log = trained
    result = json.loads((folder / "runs" / "tiny" / "result.json").read_text())
    assert len(metrics_of(result)) == 20
    assert "split hash" in log  # the table of the data
    assert "epoch 2  step 12  loss " in log
    row = next(line for line in log.splitlines() if line.startswith("test/recall@10 "))
    values = [result, result["yardsticks"]["most_popular"], result["yardsticks"]["random"]]
    assert row.split()[1:] == [f"{value['test/recall@10']:.4f}" for value in values]
    shown = [line.split()[0] for line in log.splitlines() if line.startswith(("valid/", "test/"))]
    assert shown == ["valid/recall@10", *(f"test/{name}@10" for name in ("recall", "ndcg", "precision", "hitrate"))]
    assert "run folder: runs/tiny (all metrics: result.json)" in log
    following = log[log.index("\nnext:\n") :].splitlines()[2:]
    program = f"{sys.executable} -m rearm_jax.main"
    assert following[1] == f"  {program} --mode recommend --workdir runs/tiny --users 0,1 --k 10"
    assert all(line.startswith(f"  {program} --mode ") for line in following)


def test_the_same_command_again_says_that_the_run_is_finished(trained, run_here):
    folder, _ = trained
    before = (folder / "runs/tiny/result.json").read_bytes()
    code, _, log = run_here(folder, "--config", "tiny.py")
    assert code == 0, log
    assert "is finished (2 epochs" in log
    assert (folder / "runs/tiny/result.json").read_bytes() == before


def test_evaluate_prints_the_metrics_of_the_result(trained, run_here):
    folder, _ = trained
    code, stdout, log = run_here(folder, "--mode=evaluate", "--workdir=runs/tiny")
    assert code == 0, log
    assert json.loads(stdout) == metrics_of(json.loads((folder / "runs/tiny/result.json").read_text()))
    assert "data: 60 users, 40 items, 353 train interactions" in log
    assert "split hash" not in log  # the table of the data is for training


def test_other_settings_are_refused_unless_overwritten(tmp_path, run_here):
    (tmp_path / "tiny.py").write_text(CONFIG)
    first = run_here(tmp_path, "--config=tiny.py", "--config.num_epochs=1", "--workdir=here")
    assert first[0] == 0, first[2]
    (tmp_path / "here" / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "here").glob("*.*")}

    other = ("--config=tiny.py", "--config.num_epochs=1", "--workdir=here", "--config.model.num_layers=1")
    code, _, log = run_here(tmp_path, *other)
    assert code == 1
    assert "error: here holds a run with other settings:\n  model.num_layers: 2 there, 1 here" in log
    assert "--overwrite" in log
    assert {path: path.read_bytes() for path in (tmp_path / "here").glob("*.*")} == before

    code, _, log = run_here(tmp_path, *other, "--overwrite")
    assert code == 0, log
    assert json.loads((tmp_path / "here" / "config.json").read_text())["model"]["num_layers"] == 1
    assert len((tmp_path / "here" / "metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "here" / "notes.txt").read_text() == "mine"


MISTAKES = {
    "a typo in a setting": (("--config=tiny.py", "--config.learning_rat=1"), "learning_rate"),
    "an impossible setting": (("--config=tiny.py", "--config.model.num_layers=-1"), "model.num_layers"),
    "longer lists than items": (("--config=tiny.py", "--config.evaluation.ks=(10,41)"), "evaluation.ks = 41"),
    "a typo in a flag": (("--config=tiny.py", "--workdr=x"), "workdr"),
    "a config file that is not there": (("--config=tinny.py",), "tinny.py"),
    "a data folder that is not there": (
        ("--config=tiny.py", "--config.data.source=folder", "--config.data.root=nowhere"),
        "nowhere",
    ),
    "a run folder that is not there": (("--mode=evaluate", "--workdir=runs/none"), "runs/none is not a run folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained_and_leave_nothing_behind(tmp_path, run_here, name):
    (tmp_path / "tiny.py").write_text(CONFIG)
    arguments, words = MISTAKES[name]
    code, stdout, log = run_here(tmp_path, *arguments)
    assert (code, stdout) == (1, "")
    assert words in log
    assert "error: " in log
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["tiny.py"]


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, run_here):
    (tmp_path / "tiny.py").write_text(CONFIG)
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = start(tmp_path, "--config=tiny.py", "--workdir=run", "--config.num_epochs=100000")
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n")) and process.poll() is None:
        assert time.monotonic() < deadline, "no epoch in four minutes"
        time.sleep(0.02)
    code, _, log = run_here(tmp_path, "--config=tiny.py", "--workdir=run", "--config.num_epochs=1")
    assert code == 1
    assert f"error: run is being trained by process {process.pid} on " in log
    process.send_signal(signal.SIGINT)
    code, stdout, log = finish(process)
    assert (code, stdout) == (130, ""), log
    assert "the same command goes on from there" in log
    assert not (tmp_path / "run" / "training.lock").exists()
    assert not (tmp_path / "run" / "result.json").exists()

    done = metrics.read_text().splitlines()
    code, _, log = run_here(tmp_path, "--config=tiny.py", "--workdir=run", f"--config.num_epochs={len(done) + 2}")
    assert code == 0, log
    assert "resuming at step " in log
    lines = metrics.read_text().splitlines()
    assert lines[: len(done)] == done
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, len(done) + 3))
    assert (tmp_path / "run" / "result.json").exists()


def test_recommend_prints_lists_as_json_lines_and_writes_them_as_csv(trained, run_here):
    folder, _ = trained
    (folder / "users.txt").write_text("17\n3\n")
    command = ("--mode=recommend", "--workdir=runs/tiny", "--k=4")
    code, stdout, log = run_here(folder, *command, "--users=3,17")
    to_file = ("--users=users.txt", "--format=csv", "--out=lists.csv")
    csv_code, csv_stdout, csv_log = run_here(folder, *command, *to_file)
    assert (code, csv_code, csv_stdout) == (0, 0, ""), log + csv_log
    lists = {one["user"]: one["items"] for one in map(json.loads, stdout.splitlines())}
    assert list(lists) == [3, 17]

    settings = tiny_config().data.synthetic.to_dict()
    had = set(map(tuple, make_synthetic(**settings).train.tolist()))
    for user, places in lists.items():
        items = [place["item"] for place in places]
        assert len(set(items)) == 4
        assert set(items) <= set(range(40))
        assert not {(user, item) for item in items} & had
        assert sorted(places, key=lambda place: -place["score"]) == places
    assert "recommendations: lists.csv" in csv_log
    with open(folder / "lists.csv", newline="") as file:
        rows = [(int(row["user"]), int(row["rank"]), int(row["item"])) for row in csv.DictReader(file)]
    assert rows == [(user, rank + 1, lists[user][rank]["item"]) for user in (17, 3) for rank in range(4)]


RECOMMEND = ("--mode=recommend", "--workdir=run")


@pytest.fixture
def dispatch(monkeypatch):
    """main._dispatch on arguments, in this process, which keeps its flags and its compilation cache."""
    for name in ("initialize", "_keep_compiled_programs"):
        monkeypatch.setattr(main, name, lambda *_: None)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        return main._dispatch()

    with flagsaver.flagsaver():
        yield call


def test_ctrl_c_leaves_no_half_of_the_lists(dispatch, trained, tmp_path, monkeypatch):
    real = recommend_files.recommend

    def interrupted(*args, **kwargs):
        items, lists = real(*args, **kwargs)

        def some():
            yield next(lists)
            [temporary] = tmp_path.glob(".old.csv.*")
            assert temporary.exists()
            signal.raise_signal(signal.SIGINT)
            yield from lists

        return items, some()

    monkeypatch.setattr(recommend_files, "recommend", interrupted)
    out = tmp_path / "old.csv"
    out.write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        dispatch("--mode=recommend", f"--workdir={trained[0] / 'runs/tiny'}", "--format=csv", f"--out={out}")
    assert out.read_text() == "mine"
    assert not list(tmp_path.glob(".old.csv.*"))


@pytest.fixture
def refusing(dispatch, tmp_path, monkeypatch):
    """`dispatch` in an empty folder that stays empty; to open data or a run fails the test."""
    for name in ("load_trained", "build_experiment", "open_experiment"):
        monkeypatch.setattr(main, name, lambda *_: pytest.fail("went on to work"))
    monkeypatch.chdir(tmp_path)
    yield dispatch
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--users=3",), "--users goes with --mode=recommend, and this is train"),
        (
            ("--mode=train", "--out=x"),
            "--out goes with --mode=refit or recommend or export or visualize, and this is train",
        ),
        (
            ("--mode=evaluate", "--workdir=run", "--format=jsonl"),
            "--format goes with --mode=recommend, and this is evaluate",
        ),
        (("--mode=evaluate", "--workdir=run", "--out=x"), "--out goes with"),
        (
            ("--mode=evaluate", "--workdir=run", "--seen=all"),
            "--seen goes with --mode=recommend or export, and this is",
        ),
        (("--mode=export", "--workdir=run", "--k=20"), "--k goes with --mode=recommend, and this is export"),
        (("--mode=visualize", "--workdir=run", "--new_items=x"), "--new_items goes with --mode=recommend"),
        ((*RECOMMEND, "--overwrite"), "--overwrite goes with --mode=train or refit or export, and this is recommend"),
        ((*RECOMMEND, "--distributed"), "--distributed goes with --mode=train or evaluate, and this is recommend"),
        ((*RECOMMEND, "--fresh_share=2"), "--fresh_share=2"),
        ((*RECOMMEND, "--only=old"), "--only=old"),
        (("--mode=export", "--workdir=run", "--allow=x"), "--allow goes with --mode=recommend, and this is export"),
        (("--mode=refit", "--workdir=run"), "--out is missing: name the folder of the refit"),
        (("--mode=refit", "--out=run"), "--workdir is missing: name the run folder to refit"),
        (("--refit_by=steps",), "--refit_by goes with --mode=refit, and this is train"),
        (("--mode=refit", "--workdir=run", "--out=final", "--refit_by=hours"), "epochs|steps"),
        (("--mode=review", "--lists=x"), "--lists and --interactions are needed"),
        (("--mode=review", "--lists=x", "--interactions=y", "--workdir=z"), "--workdir goes with --mode=train or"),
        (("--mode=review", "--lists=x", "--interactions=y", "--min_recall=2"), "--min_recall=2"),
        (("--mode=evaluate",), "--workdir is missing: name the run folder to evaluate"),
        (("--mode=recommend", "--users=3"), "--workdir is missing: name the run folder to recommend"),
        (("--mode=export", "--workdir="), "--workdir is missing: name the run folder to export"),
        (("--mode=visualize",), "--workdir is missing: name the run folder to visualize"),
        (("--mod=recommend", "--workdir=run"), "Unknown command line flag 'mod'. Did you mean: mode"),
        ((*RECOMMEND, "--userss=3"), "Unknown command line flag 'userss'. Did you mean: users"),
        (("--mode=recomend", "--workdir=run"), "--mode=recomend"),
        ((*RECOMMEND, "--k=0"), "--k=0"),
        ((*RECOMMEND, "--k=ten"), "--k=ten"),
        ((*RECOMMEND, "--format=xml"), "jsonl|csv|parquet"),
        ((*RECOMMEND, "--unknown=skip"), "refuse|popular"),
        ((*RECOMMEND, "3,17"), "unexpected arguments: 3,17"),
        (("evaluate", "--workdir=run"), "unexpected arguments: evaluate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_flags_are_refused_before_anything_happens(refusing, monkeypatch, arguments, words):
    monkeypatch.setattr(main, "initialize", lambda *_: pytest.fail("went on"))
    with pytest.raises(ConfigError, match=re.escape(words)):
        refusing(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--config is missing"),
        ((*RECOMMEND, "--format=parquet"), "standard output: name a file"),
        ((*RECOMMEND, "--out=nowhere/lists.jsonl"), "there is no folder"),
        ((*RECOMMEND, "--out=."), ". is a folder: name a file"),
        ((*RECOMMEND, "--seen=al"), "seen = 'al': must be one of"),
        ((*RECOMMEND, "--allow=no.csv"), "allow = 'no.csv': there is no such file"),
        ((*RECOMMEND, "--max_per=brand"), "--max_per=brand: must be a column of --items and a number"),
        ((*RECOMMEND, "--max_per=brand=2"), "max_per needs `items`"),
    ],
)
def test_outputs_are_refused_before_the_run_is_opened(refusing, arguments, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        refusing(*arguments)


@pytest.mark.parametrize("mode", ["refit", "evaluate", "recommend", "export", "visualize"])
def test_a_folder_that_is_no_run_is_refused(dispatch, tmp_path, mode):
    out = [f"--out={tmp_path}/out"] if mode == "refit" else []
    with pytest.raises(CheckpointError, match="is not a run folder"):
        dispatch(f"--mode={mode}", f"--workdir={tmp_path}/none", *out)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_refitted(dispatch, trained, monkeypatch, caplog):
    folder, _ = trained
    caplog.set_level("INFO", "absl")
    refit = ("--mode=refit", f"--workdir={folder}/runs/tiny", f"--out={folder}/runs/final")
    assert dispatch(*refit) == 0
    assert "nothing was scored: validation and test are empty" in caplog.text
    result = json.loads((folder / "runs/final/result.json").read_text())
    assert result["refit_of"]["metrics"] == metrics_of(json.loads((folder / "runs/tiny/result.json").read_text()))
    caplog.clear()
    assert dispatch(*refit) == 0
    assert "final is finished" in caplog.text
    assert dispatch(*refit, "--overwrite") == 0
    assert "compiled the train step" in caplog.text


def test_a_run_does_not_start_from_itself(dispatch, trained, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="the run itself"):
        dispatch("--config=tiny.py", "--init_from=runs/../runs/tiny", "--overwrite")
    assert (folder / "runs/tiny/result.json").exists()


def test_an_unknown_user_is_refused(dispatch, trained):
    folder, _ = trained
    out = folder / "unknown.jsonl"
    with pytest.raises(DataError, match="1 of 2 users are not in the catalogue: 60"):
        dispatch("--mode=recommend", f"--workdir={folder}/runs/tiny", "--users=3,60", f"--out={out}")
    assert not list(folder.glob("*unknown*"))


def test_export_and_report_lie_in_the_run_folder(dispatch, trained, monkeypatch):
    for library in ("jinja2", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    workdir = trained[0] / "runs" / "tiny"
    assert dispatch("--mode=export", f"--workdir={workdir}") == 0
    assert np.load(workdir / "export" / "item_vectors.npy").shape[0] == 40
    assert (workdir / "export" / "README.md").exists()
    assert dispatch("--mode=visualize", f"--workdir={workdir}") == 0
    assert (workdir / "report.html").read_text("utf-8").rstrip().endswith("</html>")
    assert list((workdir / "report").glob("*.png"))

    monkeypatch.setattr(main, "load_trained", lambda *_: pytest.fail("opened the run"))
    with pytest.raises(ConfigError, match="is there, and is not empty"):
        dispatch("--mode=export", f"--workdir={workdir}")


def test_a_mode_of_one_process_is_refused_among_several(refusing, monkeypatch):
    monkeypatch.setattr(main.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(main.jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="--mode=recommend is the work of one process, and here are 2"):
        refusing(*RECOMMEND)


def test_help_tells_the_modes_and_every_flag(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rearm_jax", "--help"])
    assert main.main() == 0
    out = capsys.readouterr().out
    for mode in ("evaluate", "recommend", "export", "visualize"):
        assert f"--mode {mode}" in out
    flags_of_modes = set(main._MODES_OF_FLAGS) | {"mode", "config", "workdir"}
    assert all(re.search(rf"^  --{name}\b", out, re.M) for name in flags_of_modes)
