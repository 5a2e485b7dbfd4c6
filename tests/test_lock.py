"""One training at a time in a run folder. Time is a number that the tests set; nothing waits for it."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from absl.testing import flagsaver

from rearm_jax import evaluate, main, recommend, train
from rearm_jax.errors import CheckpointError
from rearm_jax.experiment import build_experiment
from rearm_jax.training import lock as lock_module
from rearm_jax.training import loop
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.lock import LOCK_FILE, RunLock
from tests.conftest import tiny_config

ROOT = Path(__file__).parent.parent
HERE = rf"process {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"


class Clock:
    def __init__(self, now: float = 1e9):
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def no_system_locks(monkeypatch):
    """As on a file system without locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def on_another_machine(monkeypatch, workdir, clock, name="elsewhere") -> RunLock:
    """A lock as a process on another machine would have it. Entered by hand: it dies where nobody ends it."""
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: name)
        return RunLock(workdir, clock)


def die(lock: RunLock) -> None:
    """What the system does for a process that is killed."""
    lock._released.set()
    lock._beats.join()
    if lock._file is not None:
        os.close(lock._file)


def test_a_second_training_is_refused_at_once_and_named(tmp_path):
    with RunLock(tmp_path):
        for _ in range(2):
            with pytest.raises(CheckpointError, match=f"{tmp_path} is being trained by {HERE}"), RunLock(tmp_path):
                pass
        assert os.listdir(tmp_path) == [LOCK_FILE]
    assert os.listdir(tmp_path) == []
    with RunLock(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    script = "import sys\nfrom rearm_jax.training.lock import RunLock\n"
    script += f"with RunLock({str(tmp_path)!r}):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"is being trained by process {process.pid} on "), RunLock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert os.listdir(tmp_path) == [LOCK_FILE]
    with RunLock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_two_are_never_in_it_at_once(tmp_path):
    """Locks are taken and given back as fast as possible; the file is removed and made again each time."""
    inside, together, entered, refused = [], [], [], []

    def take_often():
        for _ in range(50):
            try:
                with RunLock(tmp_path):
                    inside.append(1)
                    together.append(len(inside))
                    entered.append(1)
                    inside.pop()
            except CheckpointError:
                refused.append(1)

    threads = [threading.Thread(target=take_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) == {1}
    assert len(entered) + len(refused) == 200
    assert os.listdir(tmp_path) == []


def test_without_locks_of_the_system_a_signature_counts_for_a_minute(tmp_path, clock, no_system_locks, caplog):
    first = RunLock(tmp_path, clock).__enter__()
    clock.now += 20
    first.beat()
    clock.now += 59
    message = rf"is being trained by {HERE}.*, whose last sign of life is 59 s old\. .* again in 1 s"
    with pytest.raises(CheckpointError, match=message), RunLock(tmp_path, clock):
        pass
    first.check()
    clock.now += 1
    with RunLock(tmp_path, clock) as second:
        assert re.search(f"taken over from {HERE}.*, silent for 60 s", caplog.text)
        with pytest.raises(CheckpointError, match=rf"was taken over by {HERE}.* no sign of life for 60 s"):
            first.check()
        before = (tmp_path / LOCK_FILE).read_text()
        first.beat()  # it wakes up: the lock is no longer its own
        first.__exit__()
        assert (tmp_path / LOCK_FILE).read_text() == before
        second.check()
    assert os.listdir(tmp_path) == []


def test_a_clock_that_is_behind_refuses_no_less(tmp_path, clock, no_system_locks):
    with RunLock(tmp_path, clock):
        behind = Clock(clock.now - 30)
        with pytest.raises(CheckpointError, match=r"last sign of life is -30 s old.* again in 90 s"):
            RunLock(tmp_path, behind).__enter__()


def test_another_machine_that_locks_do_not_reach(tmp_path, clock, monkeypatch):
    """File systems whose locks are of one machine: the signature tells that another one is at work."""
    die(on_another_machine(monkeypatch, tmp_path, clock).__enter__())
    clock.now += 50
    with pytest.raises(CheckpointError, match=r"by process .* on elsewhere since .* again in 10 s"):
        RunLock(tmp_path, clock).__enter__()
    assert os.listdir(tmp_path) == [LOCK_FILE]
    clock.now += 10
    with RunLock(tmp_path, clock):
        pass


@pytest.mark.parametrize("locks", ["system", "none"])
def test_a_job_that_starts_again_takes_its_own_lock(tmp_path, clock, monkeypatch, request, locks):
    """At once, also where a file server has not yet noticed that the machine of the first start is gone."""
    if locks == "none":
        request.getfixturevalue("no_system_locks")
    monkeypatch.setenv("REARM_JOB", "job-1")
    first = on_another_machine(monkeypatch, tmp_path, clock).__enter__()
    monkeypatch.setenv("REARM_JOB", "job-2")
    with pytest.raises(CheckpointError, match="on elsewhere"):
        RunLock(tmp_path, clock).__enter__()
    monkeypatch.setenv("REARM_JOB", "job-1")
    with RunLock(tmp_path, clock) as again:
        die(first)
        again.check()
        monkeypatch.setenv("REARM_JOB", "job-2")
        with pytest.raises(CheckpointError, match=HERE):
            RunLock(tmp_path, clock).__enter__()
    assert os.listdir(tmp_path) == []


def test_signs_of_life_are_given_until_the_end(tmp_path, monkeypatch, no_system_locks, caplog):
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 1e-3)
    replace_text, calls, enough = lock_module.replace_text, [], threading.Event()

    def sign(path, text):
        calls.append(text)
        if len(calls) == 3:
            raise ConnectionError("no network")
        if len(calls) == 6:
            enough.set()
        replace_text(path, text)

    monkeypatch.setattr(lock_module, "replace_text", sign)
    ticks = iter(range(10**9, 2 * 10**9))
    with RunLock(tmp_path, lambda: next(ticks)):
        assert enough.wait(60)
    number = len(calls)
    beats = [json.loads(text)["beat"] for text in calls]
    assert beats == sorted(set(beats))
    assert f"{LOCK_FILE} cannot be signed: ConnectionError: no network" in caplog.text
    assert (len(calls), os.listdir(tmp_path)) == (number, [])


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    workdir = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), RunLock(workdir):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    with RunLock(workdir):
        (workdir / "config.json").touch()
    assert os.listdir(workdir) == ["config.json"]


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_place_of_the_folder_is_told(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file.* cannot be read or written: .*Not a directory"):
        RunLock(tmp_path / "file" / below).__enter__()
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, run folder) of a finished run."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config(model__name="lightgcn", num_epochs=1)
    train(config, workdir)
    return config, workdir


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE}


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_locked_folder_is_refused_before_anything_happens(run, monkeypatch, flags):
    config, workdir = run
    before = contents(workdir)
    monkeypatch.setattr(main, "build_experiment", lambda *_: pytest.fail("went on to work"))
    monkeypatch.setattr(main, "_keep_compiled_programs", lambda: None)
    arguments = [f"--config={ROOT}/configs/demo.py", f"--workdir={workdir}", *flags]
    monkeypatch.setattr(sys, "argv", ["main", *arguments])
    with RunLock(workdir):
        with pytest.raises(CheckpointError, match=f"is being trained by {HERE}"):
            train(config, workdir)
        with flagsaver.flagsaver(), pytest.raises(CheckpointError, match=f"is being trained by {HERE}"):
            main._dispatch()
    assert contents(workdir) == before


def test_reading_is_never_blocked(run):
    _, workdir = run
    with RunLock(workdir):
        assert "test/recall@10" in evaluate(workdir)
        assert len(recommend(workdir, users=[3, 17], k=3)) == 2


def test_a_training_that_lost_its_lock_saves_nothing_more(tmp_path):
    class Lost(RunLock):
        def check(self):
            raise CheckpointError("taken over")

    experiment = build_experiment(tiny_config(model__name="lightgcn"))
    with Lost(tmp_path) as lock, pytest.raises(CheckpointError, match="taken over"):
        loop.train(experiment, str(tmp_path), lock)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
    assert not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text()


def test_in_a_bucket_a_signature_is_the_lock(bucket, monkeypatch, clock):
    """No system locks it: a run that was killed counts for STALE_SECONDS, on its own machine, too."""
    die(RunLock("gs://bucket/run", clock).__enter__())
    assert json.loads(bucket.cat(f"gs://bucket/run/{LOCK_FILE}"))["pid"] == os.getpid()
    for other in (RunLock("gs://bucket/run", clock), on_another_machine(monkeypatch, "gs://bucket/run", clock)):
        with pytest.raises(CheckpointError, match=rf"gs://bucket/run is being trained by {HERE}.* 0 s old"), other:
            pass
    clock.now += lock_module.STALE_SECONDS
    with RunLock("gs://bucket/run", clock):
        assert bucket.exists(f"gs://bucket/run/{LOCK_FILE}")
    assert not bucket.exists(f"gs://bucket/run/{LOCK_FILE}")
