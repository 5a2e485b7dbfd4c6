"""Runs of several real processes, started by launch/local.sh: two processes of two CPU devices each.

The runs are of LightGCN, which compiles fastest; that REARM does not depend on the devices is held by test_parallel.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from rearm_jax.errors import ConfigError
from rearm_jax.experiment import build_experiment
from rearm_jax.training import distributed, loop
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.loop import evaluate_run
from rearm_jax.training.placement import place
from rearm_jax.training.run_folder import saved_config
from tests.conftest import tiny_config, with_devices

ROOT = Path(__file__).parent.parent
EPOCHS = 12
CONFIG = f"""
import os
import signal
import threading
import time
from pathlib import Path

from tests.conftest import tiny_config


def kill_after_the_first_checkpoint():
    # The save after epoch 4 is finished before the one after epoch 8 begins.
    while not Path("run/checkpoints/24/finished.json").exists():
        time.sleep(0.001)
    Path("killed").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def get_config():
    process = os.environ.get("REARM_PROCESS_ID", "0")
    if process == os.environ.get("TEST_KILLS") and not Path("killed").exists():
        threading.Thread(target=kill_after_the_first_checkpoint, daemon=True).start()
    config = tiny_config(model__name="lightgcn", learning_rate=1e-2, num_epochs={EPOCHS}, eval_every=4).unlock()
    if "TEST_FOLDERS" in os.environ:
        config.data.source, config.data.root = "folder", f"data{{process}}"
    return config
"""


def environment(devices: int, **more: str) -> dict[str, str]:
    return with_devices(devices) | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "RESTARTS": "1", **more}


def start(folder: Path, devices: int, *command: str, **more: str) -> subprocess.Popen:
    """The command in `folder`, which gets the config tiny.py; each process has `devices` CPU devices."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.py").write_text(CONFIG)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(devices, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(folder: Path, *arguments: str, devices: int = 2, **more: str) -> subprocess.Popen:
    return start(folder, devices, str(ROOT / "launch" / "local.sh"), "2", "--", *arguments, **more)


def start_one(folder: Path, devices: int, *arguments: str) -> subprocess.Popen:
    return start(folder, devices, sys.executable, "-m", "rearm_jax.main", *arguments)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    stdout, stderr = process.communicate(timeout=400)
    return process.returncode, stdout, stderr


TRAIN = ("--config=tiny.py", "--workdir=run")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """ "processes x devices" -> folder and log of an uninterrupted run, the run folder being FOLDER/run."""
    root = tmp_path_factory.mktemp("multiprocess")
    processes = {
        "2x2": start_two(root / "2x2", *TRAIN),
        "2x2 by row": start_two(root / "2x2 by row", *TRAIN, "--config.parallel=row"),
        "1x1": start_one(root / "1x1", 1, *TRAIN),
        "1x4": start_one(root / "1x4", 4, *TRAIN),
    }
    found = {}
    for name, process in processes.items():
        code, stdout, log = finish(process)
        assert (code, stdout) == (0, ""), log
        found[name] = root / name, log
    return found


def read_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def read_metrics(folder: Path) -> dict[str, float]:
    result = json.loads((folder / "run" / "result.json").read_text())
    return {name: value for name, value in result.items() if name.startswith(("valid/", "test/"))}


def read_state(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint, as this process with its one device reads it."""
    experiment = build_experiment(tiny_config(model__name="lightgcn", learning_rate=1e-2))
    placement = place(experiment)
    with Checkpoints(folder / "run", placement.table_rows) as checkpoints:
        state, progress = loop._start(placement, checkpoints)
    assert progress.epoch == EPOCHS
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


@pytest.mark.parametrize(("several", "other"), [("2x2", "1x1"), ("2x2", "1x4"), ("2x2 by row", "1x1")])
def test_losses_and_parameters_are_those_of_one_process(runs, several, other):
    lines, expected_lines = read_lines(runs[several][0]), read_lines(runs[other][0])
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    for line, expected in zip(lines, expected_lines, strict=True):
        assert line == pytest.approx(expected, rel=1e-6)
    state, expected = read_state(runs[several][0]), read_state(runs[other][0])
    assert set(state) == set(expected)
    for name, value in state.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6 * scale, err_msg=name)


def test_only_the_first_process_logs_and_writes(runs):
    folder, log = runs["2x2"]
    assert "epoch 12  step 72" in log
    assert {line.split(" ")[0] for line in log.splitlines()} == {"[0]"}
    assert len(read_lines(folder)) == EPOCHS


def test_a_checkpoint_of_four_devices_evaluates_the_same_on_one_and_on_two(runs):
    folder, _ = runs["2x2"]
    two = start_two(folder, "--mode=evaluate", "--workdir=run", devices=1)
    assert jax.device_count() == 1
    assert evaluate_run(build_experiment(saved_config(folder / "run")), folder / "run") == read_metrics(folder)
    code, stdout, log = finish(two)
    assert code == 0, log
    assert json.loads(stdout) == read_metrics(folder)


def test_a_killed_process_restarts_the_job_and_costs_nothing(runs, tmp_path):
    # A restart must go on with the run, although the command says --overwrite.
    code, _, log = finish(start_two(tmp_path, *TRAIN, "--overwrite", TEST_KILLS="1"))
    assert code == 0, log
    assert (tmp_path / "killed").exists()
    assert "local.sh: process 1 ended with code 137; restarting all 2 processes (1 of 1)" in log
    assert re.search(r"\[0\] resuming at step (24, after epoch 4|48, after epoch 8)\n", log), log
    assert read_metrics(tmp_path) == read_metrics(runs["2x2"][0])
    state, expected = read_state(tmp_path), read_state(runs["2x2"][0])
    for name, value in state.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_sigterm_to_one_process_stops_all_after_the_same_step(tmp_path):
    process = start_two(tmp_path, *TRAIN, "--config.num_epochs=100000", "--config.eval_every=1")
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n")) and process.poll() is None:
        assert time.monotonic() < deadline, "no epoch in four minutes"
        time.sleep(0.02)
    os.kill(second_process(process.pid), signal.SIGTERM)
    code, _, log = finish(process)
    assert code == 0, log
    step = int(re.search(r"\[0\] warning: saved step (\d+)", log).group(1))
    assert f"[1] warning: saved step {step};" in log
    assert not (tmp_path / "run" / "result.json").exists()
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest_step() == step


def second_process(launcher: int) -> int:
    """Pid of the process whose number is 1 among the children of the launcher."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    [pid] = [pid for pid in children if b"REARM_PROCESS_ID=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    return int(pid)


def test_other_data_in_one_process_stops_the_job(tmp_path):
    dataset = build_experiment(tiny_config(model__name="lightgcn")).dataset
    for process in "01":
        folder = tmp_path / f"data{process}"
        folder.mkdir()
        for split in ("train", "valid", "test"):
            np.save(folder / f"{split}.npy", getattr(dataset, split))
        for name, table in dataset.features.items():
            changed = table.copy()
            changed[0, 0] += int(process)
            np.save(folder / f"{name}_feat.npy", changed)
    code, _, log = finish(start_two(tmp_path, *TRAIN, TEST_FOLDERS="1"))
    assert code == 1
    assert re.search(r"\[0\] error: process 1 on .* has other data than process 0 on .*: hash [0-9a-f]{64} there", log)
    assert "not restarted" in log
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"REARM_COORDINATOR": "a:1"}, "REARM_COORDINATOR set without REARM_NUM_PROCESSES, REARM_PROCESS_ID"),
        ({"REARM_COORDINATOR": "a", "REARM_NUM_PROCESSES": "2", "REARM_PROCESS_ID": "0"}, "must be host:port"),
        ({"REARM_COORDINATOR": "a:1", "REARM_NUM_PROCESSES": "2", "REARM_PROCESS_ID": "2"}, "REARM_PROCESS_ID = '2'"),
        ({"REARM_COORDINATOR": "a:1", "REARM_NUM_PROCESSES": "two", "REARM_PROCESS_ID": "0"}, "PROCESSES = 'two'"),
    ],
)
def test_impossible_variables_are_refused(monkeypatch, given, message):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(message)):
        distributed.initialize(detect=False)
    assert not jax.distributed.is_initialized()
