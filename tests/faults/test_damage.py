"""Files of a run that were truncated, emptied, deleted or changed by a bit; a full disk. Nothing is loaded silently."""

import concurrent.futures
import contextlib
import errno
import json
import random
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from rearm_jax.errors import CheckpointError
from rearm_jax.experiment import build_experiment
from rearm_jax.models.rearm import REARM
from rearm_jax.training import digest, loop, writer
from rearm_jax.training.check_finite import check_numbers
from rearm_jax.training.checkpoint import Checkpoints
from tests.conftest import tiny_config
from tests.faults import processes
from tests.faults.tally import counts, random_source, scaled
from tests.test_loop import assert_same_runs

STEPS = 6  # an epoch
LATEST, BEFORE = 4 * STEPS, 3 * STEPS
NUM_FLIPS = scaled(100, 1000)
NUM_GRAPH_FLIPS = scaled(100, 1000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(experiment, run folder) of four epochs, untouched."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    experiment = build_experiment(processes.config(num_epochs=4))
    loop.train(experiment, str(folder))
    return experiment, folder


@pytest.fixture
def run(trained, tmp_path):
    """(experiment, a copy of the run folder that may be damaged)."""
    experiment, folder = trained
    shutil.copytree(folder, tmp_path / "run")
    return experiment, tmp_path / "run"


@pytest.fixture
def errors(caplog):
    """A function that gives the lines logged as errors since it was called last."""

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        caplog.clear()
        return found

    return lines


def files_of(step_folder: Path) -> list[Path]:
    return sorted(path for path in step_folder.rglob("*") if path.is_file())


def flip(content: bytes, source: random.Random) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def resume_step(folder: Path) -> int | None:
    with Checkpoints(folder) as checkpoints:
        return checkpoints.resume_step()


@contextlib.contextmanager
def damaged(path: Path, content: bytes | None):
    """The file with other content, or without it; put back behind the block, out of the folder that was set aside."""
    before, step_folder = path.read_bytes(), path
    while not step_folder.name.isdigit():
        step_folder = step_folder.parent
    path.unlink() if content is None else path.write_bytes(content)
    yield
    aside = step_folder.with_name(f"{step_folder.name}.damaged")
    if aside.exists():
        aside.rename(step_folder)
    path.write_bytes(before)


def test_flipped_bits_never_go_unnoticed(run, errors):
    """In the latest step, in every file by turns; found at the next start, which falls back."""
    _, folder = run
    source = random_source()
    latest = folder / "checkpoints" / str(LATEST)
    files = [path for path in files_of(latest) if path.stat().st_size]
    assert len(files) > 10
    caught = 0
    for number in range(NUM_FLIPS):
        path = files[number % len(files)]
        record = json.loads((latest / "finished.json").read_text())
        with damaged(path, flip(path.read_bytes(), source)):
            if resume_step(folder) == BEFORE:
                (line,) = errors()
                assert line.startswith(f"{latest}: damaged: ")
                caught += 1
            else:  # 1e-05 may become 1E-05
                assert path.name == "finished.json"
                assert json.loads(path.read_text()) == record
    assert caught > 0.99 * NUM_FLIPS
    assert resume_step(folder) == LATEST
    counts["bits flipped in a checkpoint, caught"] += caught


def test_cut_empty_and_missing_files_never_go_unnoticed(run, errors):
    _, folder = run
    latest = folder / "checkpoints" / str(LATEST)
    for path in files_of(latest):
        content = path.read_bytes()
        for kind in {content[: len(content) // 2], content[:-2], b"", None} - {content}:
            with damaged(path, kind):
                assert resume_step(folder) == BEFORE, (path, kind)
                unfinished = path.name == "finished.json" and kind is None  # as after a kill: a warning is enough
                lines = errors()
                assert unfinished == (not lines)
                assert all(line.startswith(f"{latest}: damaged: ") for line in lines)
                counts["files of a checkpoint cut, emptied, deleted, caught"] += 1
    for path in latest.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert resume_step(folder) == BEFORE  # an empty folder is no step


def test_a_run_with_a_damaged_latest_step_ends_as_if_it_were_sound(run, trained, errors):
    experiment, folder = run
    path = max(files_of(folder / "checkpoints" / str(LATEST) / "params"), key=lambda path: path.stat().st_size)
    path.write_bytes(flip(path.read_bytes(), random.Random(0)))
    result, _ = loop.train(experiment, str(folder))
    (line,) = errors()
    assert f"checkpoints/{LATEST}: damaged: params/" in line
    assert "set aside as 24.damaged" in line
    assert_same_runs(experiment, trained[1], folder)
    assert result["best_step"] == json.loads((trained[1] / "result.json").read_text())["best_step"]
    counts["runs that fell back and ended bit-identical"] += 1


def test_without_a_sound_step_the_run_stops_and_says_so(run):
    experiment, folder = run
    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    for step in steps:
        next((folder / "checkpoints" / str(step) / "rest").rglob("manifest.ocdbt")).write_bytes(b"")
    before = sorted(path for path in folder.rglob("*"))
    with pytest.raises(CheckpointError, match=r"no sound checkpoint: step 24, damaged: rest/.*; step 18, damaged"):
        loop.train(experiment, str(folder))
    assert sorted(path for path in folder.rglob("*")) == before
    counts["runs without a sound checkpoint, stopped"] += 1


def test_a_damaged_best_step_is_named_and_not_replaced(tmp_path, monkeypatch):
    """By another step it never is, neither at an evaluation nor when training goes on, whatever is damaged."""
    experiment = build_experiment(processes.config(num_epochs=3))
    values = iter([0.9, 0.2, 0.3])

    class Scripted(loop.Evaluator):
        def __call__(self, params, split, **options):
            return super().__call__(params, split, **options) | {"valid/recall@10": next(values, 0.5)}

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Evaluator", Scripted)
        assert loop.train(experiment, str(tmp_path))[0]["best_step"] == STEPS
    best = tmp_path / "checkpoints" / str(STEPS)
    array = max(files_of(best / "params"), key=lambda path: path.stat().st_size)
    for path in (array, best / "finished.json"):
        content = path.read_bytes()
        for kind in (flip(content, random.Random(1)), b"", None):
            path.unlink() if kind is None else path.write_bytes(kind)
            for action in (loop.evaluate_run, loop.train):
                with pytest.raises(CheckpointError, match=f"{best} is damaged: .* or remove it to go on"):
                    action(experiment, str(tmp_path))
            counts["a damaged best checkpoint, named and refused"] += 1
        path.write_bytes(content)
    assert "valid/recall@10" in loop.evaluate_run(experiment, str(tmp_path))
    shutil.rmtree(best)  # what the message advises
    assert "valid/recall@10" in loop.evaluate_run(experiment, str(tmp_path))


def test_half_a_line_of_metrics_is_no_obstacle(run, trained):
    experiment, folder = run
    whole = (folder / "metrics.jsonl").read_bytes()
    shutil.rmtree(folder / "checkpoints" / str(LATEST))  # so that an epoch is to be done
    (folder / "result.json").unlink()
    for number, end in enumerate([b'{"st', b"{", b"\xff\xfe", whole[: len(whole) // 9]]):
        copy = folder.with_name(f"copy{number}")
        shutil.copytree(folder, copy)
        (copy / "metrics.jsonl").write_bytes(whole + end)
        loop.train(experiment, str(copy))
        assert_same_runs(experiment, trained[1], copy)
        counts["half lines at the end of metrics.jsonl"] += 1


def test_a_flipped_bit_in_a_cached_graph_is_found(tmp_path):
    config = tiny_config(graph__cache_dir=str(tmp_path))
    experiment = build_experiment(config)
    expected = jax.device_get(jax.tree.leaves(experiment.inputs))
    files, source = {path: path.read_bytes() for path in sorted(tmp_path.glob("*.npz"))}, random_source()
    assert len(files) == 6  # a co-occurrence graph and two kNN graphs of users, and of items
    for number in range(NUM_GRAPH_FLIPS):
        path = source.choice(list(files))
        whole = files[path]
        changed = flip(whole, source) if number % 10 else whole[: source.randrange(len(whole))]
        path.write_bytes(changed)
        found = jax.device_get(jax.tree.leaves(REARM.relations(experiment.dataset, config)))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        counts["cached graphs damaged: never a wrong graph"] += 1


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["record", "metrics", "config"])
def test_a_full_disk_is_told_and_costs_nothing(trained, tmp_path, monkeypatch, where):
    """Injected, at the third save, at a line of metrics, and at the first file."""
    experiment, whole = trained
    folder = tmp_path / "run"
    module, name, calls = {
        "record": (digest, "replace_text", 2),
        "metrics": (writer.RunWriter, "write", 2),
        "config": (loop, "write_config", 0),
    }[where]
    original, count = getattr(module, name), iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda *a: no_space() if next(count) >= calls else original(*a))
        with pytest.raises(CheckpointError, match=r"No space left on device.*|See that the disk has room.*"):
            loop.train(experiment, str(folder))
    loop.train(experiment, str(folder))
    assert_same_runs(experiment, whole, folder)
    counts["full disks, told and survived"] += 1


def test_a_save_that_fails_in_the_background_ends_the_run_at_the_next_call(trained, tmp_path, monkeypatch):
    """Not at the next save, which may be an epoch of hours away."""
    experiment, _ = trained
    save, steps = loop._save, []

    def save_and_wait(checkpoints, *arguments):
        save(checkpoints, *arguments)
        concurrent.futures.wait([checkpoints._saving])

    def note(last, step):
        steps.append(step)
        check_numbers(last, step)

    monkeypatch.setattr(loop, "_save", save_and_wait)
    monkeypatch.setattr(loop, "check_numbers", note)
    monkeypatch.setattr(digest, "replace_text", no_space)
    with pytest.raises(CheckpointError, match=r"lost a save\. .* No space left on device"):
        loop.train(experiment, str(tmp_path / "run"))
    assert max(steps) == STEPS
    counts["full disks, told and survived"] += 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TensorStore leaves writes behind
def test_a_disk_that_really_fills_up(trained, tmp_path):
    """A file system of so many kilobytes that the second or third checkpoint does not fit."""
    experiment, whole = trained
    size = sum(path.stat().st_size for path in files_of(whole / "checkpoints" / str(BEFORE))) * 5 // 2 // 1024
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        with pytest.raises(CheckpointError, match="No space left on device"):
            loop.train(experiment, str(tmp_path / "run"))
        subprocess.run(["mount", "-o", "remount,size=100m", tmp_path], check=True)
        loop.train(experiment, str(tmp_path / "run"))
        assert_same_runs(experiment, whole, tmp_path / "run")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    counts["full disks, told and survived"] += 1
