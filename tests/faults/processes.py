"""Runs as processes of their own, so that they can be killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import tiny_config
from tests.faults.tally import ROOT

CONFIG = """
from tests.faults.processes import config


def get_config():
    return config().unlock()
"""
SECRET = "a-token-that-nobody-may-find"


def config(**changes):
    """LightGCN on tiny data: an epoch takes a few hundredths of a second, and ends with a save."""
    return tiny_config(model__name="lightgcn", learning_rate=1e-2, **changes)


def start(folder: Path, workdir: str, num_epochs: int) -> subprocess.Popen:
    """`python -m rearm_jax.main` in `folder`, its log in <workdir>.log there."""
    (folder / "tiny.py").write_text(CONFIG)
    with (folder / f"{workdir}.log").open("a") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "rearm_jax.main", "--config=tiny.py"),
                *(f"--workdir={workdir}", f"--config.num_epochs={num_epochs}"),
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "REARM_TOKEN": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET},
            stdout=subprocess.DEVNULL,
            stderr=log,
            umask=0o027,
        )


def finish(process: subprocess.Popen, folder: Path, workdir: str) -> tuple[int, str]:
    """(exit code, the whole log); no person should ever see a traceback."""
    code = process.wait(timeout=300)
    log = (folder / f"{workdir}.log").read_text()
    assert "Traceback" not in log, log
    return code, log


def wait_for(happened: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Looks every two milliseconds; False where the process ended first."""
    deadline = time.monotonic() + 240
    while not happened():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "waited for four minutes"
        time.sleep(0.002)
    return True


def metric_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def result_of(run: Path) -> dict:
    """result.json but for the time that it took."""
    result = json.loads((run / "result.json").read_text())
    return {
        name: value for name, value in result.items() if name not in ("seconds", "seconds_to_best", "steps_per_second")
    }
