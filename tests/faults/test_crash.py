"""kill -9 again and again, signals, and the same seed twice: all end with the same bits."""

import signal
import stat
import subprocess
import sys
import time

import pytest

from rearm_jax.experiment import build_experiment
from rearm_jax.training import loop
from rearm_jax.training.checkpoint import Checkpoints
from tests.faults import processes
from tests.faults.processes import SECRET, finish, metric_lines, result_of, start, wait_for
from tests.faults.tally import ROOT, counts, random_source, scaled
from tests.test_loop import assert_same_runs

NUM_KILLS = scaled(4, 20)
NUM_EPOCHS = scaled(30, 120)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder with two runs of the same command in two processes, never disturbed: `one` and `two`."""
    folder = tmp_path_factory.mktemp("reference")
    runs = {name: start(folder, name, NUM_EPOCHS) for name in ("one", "two")}
    codes = {name: process.wait(timeout=300) for name, process in runs.items()}
    assert codes == {"one": 0, "two": 0}, "".join((folder / f"{name}.log").read_text() for name in runs)
    return folder


def same_runs(one, two):
    assert_same_runs(build_experiment(processes.config(num_epochs=NUM_EPOCHS)), one, two)
    assert result_of(one) == result_of(two)


def test_the_same_seed_gives_the_same_run_in_two_processes(reference):
    same_runs(reference / "one", reference / "two")
    counts["same seed: pairs of runs, bit-identical"] += 1


def test_a_run_killed_again_and_again_ends_as_one_that_was_never_killed(reference, tmp_path):
    random = random_source()
    checkpoints = tmp_path / "run" / "checkpoints"
    moments = ["in the set-up", "in an epoch", "amid a save", "behind a save"] * NUM_KILLS
    kills = 0
    for number in range(2 * NUM_KILLS):
        if kills == NUM_KILLS:
            break
        moment = moments[number]
        process = start(tmp_path, "run", NUM_EPOCHS)
        lines = metric_lines(tmp_path / "run")
        before = {path.name for path in checkpoints.iterdir()} if checkpoints.exists() else set()

        def amid(before=before):
            """A new step is being written."""
            return checkpoints.exists() and any(
                "orbax-checkpoint-tmp" in path.name and path.name not in before for path in checkpoints.iterdir()
            )

        def behind(before=before):
            """Orbax has finished a new step, whose record may be missing."""
            return checkpoints.exists() and any(
                path.name.isdigit() and path.name not in before for path in checkpoints.iterdir()
            )

        happens = {
            "in the set-up": lambda: True,
            # The third line follows the second save, which waits for the first: there is one to go on from.
            "in an epoch": lambda lines=lines: metric_lines(tmp_path / "run") > lines + 2,
            "amid a save": amid,
            "behind a save": behind,
        }[moment]
        if wait_for(happens, process):
            longest = {"in the set-up": 4.0, "in an epoch": 0.2}.get(moment, 0.02)
            # On a fast machine the run could end before that: two epochs later it is killed in any case.
            deadline, last = time.monotonic() + random.uniform(0, longest), metric_lines(tmp_path / "run") + 2
            wait_for(
                lambda last=last, deadline=deadline: (
                    time.monotonic() >= deadline or metric_lines(tmp_path / "run") >= last
                ),
                process,
            )
            process.kill()
        code = process.wait()
        assert code in (0, -signal.SIGKILL), (tmp_path / "run.log").read_text()
        kills += code != 0
    assert kills == NUM_KILLS, f"the run ended after {kills} kills: give it more epochs"
    code, log = finish(start(tmp_path, "run", NUM_EPOCHS), tmp_path, "run")
    assert code == 0, log
    assert "resuming at step " in log
    assert "damaged" not in log.replace("set aside as", "").replace(".damaged", ""), log
    same_runs(reference / "one", tmp_path / "run")
    assert not list(checkpoints.glob("*orbax-checkpoint-tmp*"))
    counts["kills survived (kill -9), bit-identical at the end"] += kills


def test_what_a_run_writes_has_the_users_umask_and_no_secret(reference):
    paths = [reference / "one", *(reference / "one").rglob("*")]
    assert len(paths) > 20
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & ~0o750 == 0, f"{path}: {mode:o}"
        assert mode & 0o440 == 0o440, f"{path}: {mode:o}"
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    counts["files of a run: user's umask, no secret"] += len(paths)


def test_sigterm_saves_and_the_same_command_goes_on(reference, tmp_path):
    process = start(tmp_path, "run", NUM_EPOCHS)
    assert wait_for(lambda: metric_lines(tmp_path / "run") > 1, process)
    process.terminate()
    code, log = finish(process, tmp_path, "run")
    assert code == 0, log
    (saved,) = (line for line in log.splitlines() if "saved step" in line)
    code, log = finish(start(tmp_path, "run", NUM_EPOCHS), tmp_path, "run")
    assert code == 0, log
    assert f"resuming at step {saved.split('saved step ')[1].split(';')[0]}," in log
    same_runs(reference / "one", tmp_path / "run")
    counts["signals: stopped, saved, went on bit-identically"] += 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_before_training_ends_the_run_and_leaves_no_damage(tmp_path, number, code):
    """From the table of the data on: graphs, first parameters, compilation."""
    process = start(tmp_path, "run", 2)
    assert wait_for(lambda: "split hash" in (tmp_path / "run.log").read_text(), process)
    process.send_signal(number)
    found, log = finish(process, tmp_path, "run")
    assert found == code, log
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    counts["signals: before training, ended cleanly"] += 1


def test_a_second_ctrl_c_quits_at_once():
    script = """
import os, signal
from rearm_jax.training.interrupt import stop_on_signal
with stop_on_signal() as request:
    os.kill(os.getpid(), signal.SIGINT)
    assert request.signal == signal.SIGINT
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")
    assert "Traceback" not in done.stderr
    counts["signals: a second Ctrl-C quits at once"] += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_evaluation_loses_nothing(tmp_path, monkeypatch, number):
    class Interrupted(loop.Evaluator):
        def __call__(self, params, split):
            signal.raise_signal(number)
            return super().__call__(params, split)

    experiment = build_experiment(processes.config(num_epochs=3))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Evaluator", Interrupted)
        assert loop.train(experiment, str(tmp_path / "run")) == (None, number)
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest_step() == checkpoints.best_step() == 6
        assert checkpoints.read_progress(6)["epoch"] == 1
    loop.train(experiment, str(tmp_path / "run"))
    loop.train(experiment, str(tmp_path / "whole"))
    assert_same_runs(experiment, tmp_path / "run", tmp_path / "whole")
    counts["signals: during evaluation, nothing lost"] += 1
