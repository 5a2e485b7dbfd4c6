"""Checkpoints: what is kept, what comes back, on how many devices, and what is said when something is wrong."""

import errno
import json
import logging
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging
from etils import epath

from rearm_jax.errors import CheckpointError
from rearm_jax.training.checkpoint import Checkpoints, checkpoint_directory
from rearm_jax.training.digest import delete_step, write_record
from tests.conftest import with_devices

NAN = float("nan")


def make_state(seed=0, rows=5):
    """Parameters and the rest of a train state with every kind of leaf: nested, scalar, bfloat16, raw and typed key."""
    rng = np.random.default_rng(seed)
    params = {
        "users": jnp.asarray(rng.normal(size=(rows, 3)), jnp.float32),
        "dense": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.bfloat16), "bias": jnp.zeros(2)},
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    rest = {
        "opt_state": tx.init(jax.tree.map(lambda x: x + 1, params)),
        "step": jnp.int32(7 + seed),
        "key": jax.random.key_data(jax.random.key(seed)),
        "typed_key": jax.random.key(seed + 1),
        "parts": [jnp.arange(3), (jnp.float32(rng.normal()),)],
    }
    return params, rest


def numbers(tree):
    """Every leaf as a numpy array (keys as their data), with the tree's structure beside them."""
    leaves, structure = jax.tree.flatten(tree)
    plain = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]
    return [np.asarray(x) for x in plain], structure


def assert_same(found, expected):
    (found, found_structure), (expected, expected_structure) = numbers(found), numbers(expected)
    assert found_structure == expected_structure
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def save_metrics(workdir, metrics):
    """Saves one small step for each metric: steps 1, 2, ..."""
    with Checkpoints(workdir) as checkpoints:
        for step, metric in enumerate(metrics, start=1):
            checkpoints.save(step, {"a": jnp.full(3, step)}, {"b": jnp.ones(2)}, {"epoch": step}, metric)
        checkpoints.wait()
        return checkpoints.latest_step(), checkpoints.best_step()


def step_folders(workdir):
    return sorted(int(p.name) for p in (Path(workdir) / "checkpoints").iterdir() if p.name.isdigit())


def test_round_trip_in_the_same_and_in_a_new_object(tmp_path):
    params, rest = make_state()
    progress = {"epoch": 3, "best_value": 0.25, "metrics": {"valid/recall@20": 0.25}, "hash": "ab", "none": None}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, params, rest, progress, 0.25)
        assert checkpoints.latest_step() == 7
        restored = checkpoints.restore(7, params, rest)
    for found, expected in zip(restored[:2], (params, rest), strict=True):
        assert_same(found, expected)
    assert restored[2] == progress

    likes = jax.eval_shape(lambda: (params, rest))  # no shardings
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (7, 7)
        found_params, found_rest, found_progress = checkpoints.restore(7, *likes)
        assert_same(found_params, params)
        assert_same(found_rest, rest)
        assert found_progress == progress == checkpoints.read_progress(7)
    np.testing.assert_array_equal(
        jax.random.normal(found_rest["typed_key"], (4,)), jax.random.normal(rest["typed_key"], (4,))
    )


def test_a_relative_workdir_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert save_metrics("run", [0.1]) == (1, 1)
    assert step_folders(tmp_path / "run") == [1]


def test_an_address_of_a_bucket_stays_one():
    assert str(checkpoint_directory("gs://bucket/runs/a")) == "gs://bucket/runs/a/checkpoints"
    assert str(checkpoint_directory("/runs/a/")) == "/runs/a/checkpoints"


def test_parameters_alone_need_no_file_of_the_optimiser(tmp_path):
    params, rest = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, params, rest, {}, 0.5)
    for path in sorted((tmp_path / "checkpoints" / "1" / "rest").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore_params(1, params), params)
        with pytest.raises(CheckpointError, match=r"/1 is damaged: rest/.* is missing"):
            checkpoints.restore(1, params, rest)


def test_what_is_saved_is_what_was_there_at_the_call(tmp_path):
    """The arrays are donated and `progress` is changed right after the call, while the save is being written."""
    rng = np.random.default_rng(0)
    numbers_before = rng.normal(size=(300_000, 4)).astype(np.float32)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    params, rest = {"a": jnp.array(numbers_before)}, {"b": jnp.array(numbers_before[::-1])}
    progress = {"epoch": 1, "metrics": {"loss": 0.5}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, params, rest, progress, 0.5)
        params, rest = overwrite(params), overwrite(rest)
        progress["epoch"] = progress["metrics"]["loss"] = 99
        found_params, found_rest, found_progress = checkpoints.restore(1, params, rest)
    np.testing.assert_array_equal(found_params["a"], numbers_before)
    np.testing.assert_array_equal(found_rest["b"], numbers_before[::-1])
    assert found_progress == {"epoch": 1, "metrics": {"loss": 0.5}}


def test_a_restored_state_trains_on_as_the_saved_one(tmp_path):
    params, rest = make_state()

    def train(params, rest):
        step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
        for _ in range(3):
            params, rest["opt_state"] = step((params, rest["opt_state"]))
        return params, rest

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, params, rest, {}, 0.5)
        expected = train(*make_state())
        restored = checkpoints.restore(1, params, rest)[:2]
    assert_same(train(*restored), expected)


@pytest.mark.parametrize(
    ("metrics", "best", "kept"),
    [
        ([0.1, 0.5, 0.3, 0.2], 2, [2, 3, 4]),
        ([0.1, 0.2, 0.3], 3, [2, 3]),
        ([0.5, 0.2, 0.1], 1, [1, 2, 3]),
        ([0.5, 0.2, 0.1, 0.6], 4, [1, 3, 4]),  # 1 is the best again where 4 is lost
        ([0.2, 0.2, 0.2], 1, [1, 2, 3]),  # an equal is no gain
        ([0.3, NAN, NAN], 1, [1, 2, 3]),
        ([NAN, 0.1, NAN, 0.2, NAN], 4, [4, 5]),
        ([0.1, float("inf"), -float("inf")], 1, [1, 2, 3]),
        ([NAN, NAN, NAN], None, [2, 3]),
        ([-0.5, -0.2, -0.3, -0.4], 2, [2, 3, 4]),
    ],
)
def test_the_latest_two_and_the_best_are_kept_and_nothing_else(tmp_path, metrics, best, kept):
    assert save_metrics(tmp_path, metrics) == (len(metrics), best)
    assert step_folders(tmp_path) == kept
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (len(metrics), best)
        for step in kept:
            np.testing.assert_array_equal(checkpoints.restore_params(step, {"a": jnp.zeros(3, int)})["a"], step)


def test_the_best_outlives_a_new_process_and_nan(tmp_path):
    save_metrics(tmp_path, [0.1, 0.4, 0.2])
    with Checkpoints(tmp_path) as checkpoints:
        for step, metric in [(4, NAN), (5, 0.3), (6, NAN)]:
            checkpoints.save(step, {"a": jnp.full(3, step)}, {"b": jnp.ones(2)}, {}, metric)
    assert step_folders(tmp_path) == [2, 5, 6]


def save_without_rest(workdir, first, metrics):
    """Saves steps from `first` on; the best is kept as parameters alone."""
    with Checkpoints(workdir, keep="params") as checkpoints:
        for step, metric in enumerate(metrics, start=first):
            checkpoints.save(step, {"a": jnp.full(3, step)}, {"b": jnp.ones(2)}, {"epoch": step}, metric)


def items_of(workdir):
    """Step -> names of the folders of arrays that it still has."""
    folder = Path(workdir) / "checkpoints"
    names = {"params", "rest"}
    return {step: {path.name for path in (folder / str(step)).iterdir()} & names for step in step_folders(workdir)}


def test_the_best_may_be_kept_without_the_optimiser_state(tmp_path):
    save_without_rest(tmp_path, 1, [0.1, 0.5])
    assert items_of(tmp_path) == {1: {"params", "rest"}, 2: {"params", "rest"}}
    save_without_rest(tmp_path, 3, [0.2])  # the latest two are whole, the best among them
    assert items_of(tmp_path) == {2: {"params", "rest"}, 3: {"params", "rest"}}
    save_without_rest(tmp_path, 4, [0.3])
    assert items_of(tmp_path) == {2: {"params"}, 3: {"params", "rest"}, 4: {"params", "rest"}}
    assert not list(tmp_path.rglob("*.deleted"))
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.resume_step(), checkpoints.best_step()) == (4, 2)
        np.testing.assert_array_equal(checkpoints.restore_params(2, {"a": jnp.zeros(3, int)})["a"], 2)
        assert checkpoints.read_progress(2) == {"epoch": 2}
        with pytest.raises(CheckpointError, match="/2 was kept without its optimiser state"):
            checkpoints.restore(2, {"a": jnp.zeros(3, int)}, {"b": jnp.ones(2)})


def test_a_best_without_optimiser_state_is_no_step_to_resume_at(tmp_path):
    save_without_rest(tmp_path, 1, [0.5, 0.1, 0.2])
    assert items_of(tmp_path)[1] == {"params"}
    for step in (2, 3):
        next((tmp_path / f"checkpoints/{step}/params").rglob("_METADATA")).write_text("")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"no sound checkpoint: .*; step 1, kept without its optimiser state"),
    ):
        checkpoints.resume_step()
    assert step_folders(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("operation", ["rename", "rmtree"])
def test_a_kill_while_the_optimiser_state_goes_leaves_no_damage(tmp_path, monkeypatch, operation):
    save_metrics(tmp_path, [0.5, 0.1, 0.2])
    kind = type(epath.Path(tmp_path))
    original = getattr(kind, operation)

    def killed(path, *arguments):
        if path.name in ("rest", "1.rest.deleted"):
            raise KeyboardInterrupt
        return original(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, operation, killed)
        with pytest.raises(KeyboardInterrupt):
            save_without_rest(tmp_path, 4, [0.1])
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.resume_step(), checkpoints.best_step()) == (4, 1)
        np.testing.assert_array_equal(checkpoints.restore_params(1, {"a": jnp.zeros(3, int)})["a"], 1)
    save_without_rest(tmp_path, 5, [0.1])
    assert items_of(tmp_path) == {1: {"params"}, 4: {"params", "rest"}, 5: {"params", "rest"}}
    assert not list(tmp_path.rglob("*.deleted"))


STATE = ({"a": np.arange(3, dtype=np.int32)}, {"b": np.ones(2, np.float32)})  # numpy: no device at import


def files_of_arrays(workdir, step):
    """Name and content of every file of the arrays of a step."""
    folder = Path(workdir) / "checkpoints" / str(step)
    paths = [p for item in ("params", "rest") for p in (folder / item).rglob("*") if p.is_file()]
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


def test_a_step_saved_before_its_evaluation_takes_it_later(tmp_path):
    """The metric and the progress are added; the arrays are not written again; the step can then be the best."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *STATE, {"epoch": 1}, 0.5)
        checkpoints.save(2, *STATE, {"epoch": 1, "best_value": -float("inf")}, NAN)
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (2, 1)
    arrays = files_of_arrays(tmp_path, 2)
    assert len(arrays) > 4
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, *STATE, {"epoch": 2, "best_value": -float("inf")}, 0.6)
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (2, 2)
        assert checkpoints.read_progress(2) == {"epoch": 2, "best_value": -float("inf")}
    assert files_of_arrays(tmp_path, 2) == arrays
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 2
        found = checkpoints.restore(2, *STATE)
        assert_same(found[:2], STATE)
        assert found[2]["epoch"] == 2
        checkpoints.save(3, *STATE, {}, 0.1)
        checkpoints.save(4, *STATE, {}, 0.1)
    assert step_folders(tmp_path) == [2, 3, 4]
    assert not list(tmp_path.rglob("*.tmp"))


def test_saving_the_latest_step_again(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *STATE, {"epoch": 1}, 0.5)
        checkpoints.save(1, *STATE, {"epoch": 2}, 0.5)
        assert checkpoints.read_progress(1) == {"epoch": 2}
        checkpoints.save(1, *STATE, {"epoch": 3}, NAN)  # an interrupt right after the evaluation
        assert checkpoints.read_progress(1) == {"epoch": 3}
        assert checkpoints.best_step() == 1  # it keeps its metric
        checkpoints.save(2, *STATE, {}, 0.4)
        assert checkpoints.best_step() == 1
        checkpoints.save(2, *STATE, {}, 0.6)  # evaluated again, on another number of devices
        assert checkpoints.best_step() == 2


def test_a_kill_while_the_evaluation_is_added_costs_nothing(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *STATE, {"epoch": 0}, NAN)
        checkpoints.wait()

        def killed(path, text):
            path.with_suffix(".tmp").write_text(text[:20])
            raise KeyboardInterrupt

        monkeypatch.setattr("rearm_jax.training.digest.replace_text", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(1, *STATE, {"epoch": 1}, 0.5)
    monkeypatch.undo()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(1, *STATE)[2] == {"epoch": 0}  # so that the loop evaluates once more
        checkpoints.save(1, *STATE, {"epoch": 1}, 0.5)
        assert (checkpoints.best_step(), checkpoints.read_progress(1)) == (1, {"epoch": 1})


def test_an_earlier_step_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, *STATE, {}, 0.5)
        with pytest.raises(CheckpointError, match="already holds step 2; step 1 before it"):
            checkpoints.save(1, *STATE, {}, 0.6)
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (2, 2)


def test_progress_that_is_not_json_is_refused_at_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(1, {"a": jnp.ones(3)}, {"b": jnp.ones(2)}, {"epoch": np.ones(2)}, 0.5)
        assert checkpoints.latest_step() is None


def test_mismatches_name_the_leaf_and_both_shapes(tmp_path):
    params, rest = make_state(rows=5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, params, rest, {}, 0.5)

        other_shape = make_state(rows=6)
        with pytest.raises(CheckpointError, match=r"params/users is float32\(5, 3\) in .* float32\(6, 3\) here"):
            checkpoints.restore_params(1, other_shape[0])
        with pytest.raises(CheckpointError, match=r"rest/opt_state/1/0/mu/users is float32\(5, 3\)"):
            checkpoints.restore(1, params, other_shape[1])

        other_type = {**rest, "step": jnp.float32(0)}
        with pytest.raises(CheckpointError, match=r"rest/step is int32\(\) in the checkpoint and float32\(\) here"):
            checkpoints.restore(1, params, other_type)

        without_bias = {**params, "dense": {"kernel": params["dense"]["kernel"]}}
        with pytest.raises(CheckpointError, match="params/dense/bias is only in the checkpoint"):
            checkpoints.restore(1, without_bias, rest)
        with pytest.raises(CheckpointError, match="params/extra is not in the checkpoint"):
            checkpoints.restore_params(1, {**params, "extra": jnp.zeros(2)})

        other_key = {**rest, "typed_key": jax.random.key(0, impl="rbg")}
        with pytest.raises(CheckpointError, match=r"rest/typed_key is uint32\(2,\) .* uint32\(4,\) here"):
            checkpoints.restore(1, params, other_key)

        many = {f"leaf{i}": jnp.zeros(1) for i in range(7)}  # 7 leaves too many, 3 missing
        with pytest.raises(CheckpointError, match=r"and 5 more\. Use the data and the configuration"):
            checkpoints.restore_params(1, many)
        assert_same(checkpoints.restore_params(1, params), params)


def test_a_folder_without_checkpoints(tmp_path):
    like = {"a": jnp.ones(3)}
    for workdir in (tmp_path / "missing", tmp_path):
        with Checkpoints(workdir) as checkpoints:
            assert checkpoints.latest_step() is None
            assert checkpoints.best_step() is None
            for read in (
                lambda c: c.restore(1, like, like),
                lambda c: c.restore_params(None, like),
                lambda c: c.read_progress(1),
            ):
                with pytest.raises(CheckpointError, match=f"{workdir}/checkpoints holds no finished checkpoint. Train"):
                    read(checkpoints)
    assert list(tmp_path.iterdir()) == []  # reading creates nothing


def test_a_step_that_is_not_there(tmp_path):
    save_metrics(tmp_path, [0.5, 0.1, 0.2])
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=r"checkpoints holds no checkpoint of step 4, only of \[1, 2, 3\]"),
    ):
        checkpoints.read_progress(4)


def test_interrupted_saves_are_no_steps(tmp_path):
    save_metrics(tmp_path, [0.5])
    folder = tmp_path / "checkpoints"
    for name in ("2.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp"):
        (folder / name / "params.orbax-checkpoint-tmp").mkdir(parents=True)
        (folder / name / "params.orbax-checkpoint-tmp" / "junk").write_text("half")
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (1, 1)
        with pytest.raises(CheckpointError, match="no checkpoint of step 9"):
            checkpoints.read_progress(9)
        checkpoints.save(2, {"a": jnp.full(3, 2)}, {"b": jnp.ones(2)}, {}, 0.6)  # over what an interrupted save left
        np.testing.assert_array_equal(checkpoints.restore_params(2, {"a": jnp.zeros(3, int)})["a"], 2)
    assert step_folders(tmp_path) == [1, 2]


def test_damaged_files_are_never_loaded(tmp_path):
    """The other steps are; how training falls back is told in tests/faults."""
    like = {"a": jnp.zeros(3, int)}
    save_metrics(tmp_path, [0.5, 0.1, 0.2])
    folder = tmp_path / "checkpoints"
    metadata = folder / "2" / "params" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:-1])
    (folder / "7").mkdir()  # an empty folder is no step
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (3, 1)
        with pytest.raises(CheckpointError, match=f"{folder}/2 is damaged: params/_METADATA is not what was written"):
            checkpoints.restore_params(2, like)
        for step in (1, 3):
            np.testing.assert_array_equal(checkpoints.restore_params(step, like)["a"], step)

    record = folder / "1" / "finished.json"
    record.write_text(record.read_text().replace("0.5", "0.6"))
    with Checkpoints(tmp_path) as checkpoints:
        message = f"{folder}/1 is damaged: .*finished.json cannot be read .it is not what was written"
        for read in (checkpoints.best_step, lambda: checkpoints.read_progress(1)):
            with pytest.raises(CheckpointError, match=message):
                read()
        assert checkpoints.read_progress(3) == {"epoch": 3}


@pytest.mark.parametrize("last", range(6))
def test_a_deletion_that_was_cut_short_leaves_no_damage(tmp_path, monkeypatch, last):
    """A kill before any of the operations on the disk: record, three removals, rename, the last removal."""
    save_metrics(tmp_path, [0.1, 0.5, 0.2, 0.3])
    operations = []

    def until_the_kill(original):
        def operation(*arguments, **keywords):
            if len(operations) == last:
                raise KeyboardInterrupt
            operations.append(original)
            return original(*arguments, **keywords)

        return operation

    old = epath.Path(tmp_path / "checkpoints" / "3")
    with monkeypatch.context() as patch:
        for name in ("rmtree", "unlink", "rename"):
            patch.setattr(type(old), name, until_the_kill(getattr(type(old), name)))
        patch.setattr("rearm_jax.training.digest.write_record", until_the_kill(write_record))
        with pytest.raises(KeyboardInterrupt):
            delete_step(old)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
        assert checkpoints.resume_step() == 4
    assert step_folders(tmp_path) == ([2, 3, 4] if last == 0 else [2, 4])
    assert not list(tmp_path.rglob("*.deleted"))


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be opened\. Repair or remove that folder"):
        Checkpoints(tmp_path)


def test_a_failed_write_is_told_and_keeps_what_was_there(tmp_path):
    save_metrics(tmp_path, [0.5, 0.1])
    big, small = {"a": jnp.asarray(np.random.default_rng(0).normal(size=200_000))}, {"b": jnp.ones(2)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # stands in for a full disk
        try:
            with pytest.raises(CheckpointError, match="room"):  # noqa: PT012 - either of the two may find out
                checkpoints.save(3, big, small, {}, 0.9)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (2, 1)
        checkpoints.save(4, big, small, {}, 0.9)
        assert_same(checkpoints.restore_params(4, big), big)
    assert step_folders(tmp_path) == [1, 2, 4]


@pytest.mark.parametrize("folder", ["3.orbax-checkpoint-tmp", "params.orbax-checkpoint-tmp"])
def test_a_folder_that_cannot_be_made_ends_the_save_and_leaves_no_thread(tmp_path, monkeypatch, folder):
    """Threads of Orbax that wait for the folder would keep the process for minutes."""
    save_metrics(tmp_path, [0.5, 0.1])
    before, mkdir = set(threading.enumerate()), os.mkdir

    def refuse(path, *args, **kwargs):
        if os.path.basename(path) == folder:
            raise OSError(errno.EROFS, "Read-only file system", os.fspath(path))
        return mkdir(path, *args, **kwargs)

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(os, "mkdir", refuse)
        with pytest.raises(CheckpointError, match=r"checkpoints cannot take step 3\. See .* Read-only file system"):
            checkpoints.save(3, *STATE, {}, 0.9)
        monkeypatch.undo()
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread not in before]
    assert [thread for thread in left if not thread.name.startswith("asyncio_")] == []  # idle ones end with the process
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.resume_step() == 2


def test_the_death_of_another_process_is_not_blamed_on_the_files(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("UNKNOWN: AllGather failed: connection reset by peer")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._checkpointer, "save", fail)
        with pytest.raises(jax.errors.JaxRuntimeError, match="connection reset"):
            checkpoints.save(1, {"w": np.ones(2)}, {"s": np.zeros(1)}, {}, 0.5)


def test_the_log_shows_no_chatter_of_orbax(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        save_metrics(tmp_path, [0.5, NAN])
        absl_logging.info("ours")
    assert [r.getMessage() for r in caplog.records] == ["ours"]


DEVICES_SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from rearm_jax.training.checkpoint import Checkpoints

action, workdir, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
base = ({"w": jnp.zeros((4, 3))}, {"step": jnp.int32(0), "key": jax.random.key(5), "raw": jnp.zeros(2, jnp.uint32)})
if jax.device_count() > 1:  # replicated over the devices, by pmap as in training
    sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("device",)), P())
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), base)
    train = jax.pmap(
        lambda state, x: jax.tree.map(lambda leaf: leaf + jax.lax.pmean(x, "device").astype(leaf.dtype), state),
        axis_name="device", in_axes=(None, 0), out_axes=None,
    )
else:
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), base)
    train = jax.jit(lambda state, x: jax.tree.map(lambda leaf: leaf + x.mean().astype(leaf.dtype), state))

with Checkpoints(workdir) as checkpoints:
    if action == "restore":
        params, rest, progress = checkpoints.restore(step, *like)
        for leaf in jax.tree.leaves((params, rest)):
            assert len(leaf.sharding.device_set) == jax.device_count(), leaf.sharding
    else:
        (params, rest), progress = base, {"devices": 0}
    key = rest.pop("key")
    params, rest = train((params, rest), jnp.ones(jax.device_count()))
    rest["key"] = jax.random.split(key)[1]
    checkpoints.save(step + 1, params, rest, {"devices": jax.device_count()}, 0.1 * step)
print(json.dumps({
    "found": progress["devices"], "w": np.asarray(params["w"]).tolist(), "step": int(rest["step"]),
    "raw": np.asarray(rest["raw"]).tolist(), "draw": float(jax.random.normal(rest["key"])),
}))
"""


def run_on_devices(count, action, workdir, step):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DEVICES_SCRIPT, action, str(workdir), str(step)],
        capture_output=True,
        text=True,
        env=with_devices(count),
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_state_moves_between_numbers_of_devices(tmp_path):
    """4 devices -> 1 -> 4, each adding 1 to the state that it finds."""
    key = jax.random.key(5)
    for devices, action, step, found in [(4, "start", 1, 0), (1, "restore", 2, 4), (4, "restore", 3, 1)]:
        key = jax.random.split(key)[1]
        assert run_on_devices(devices, action, tmp_path, step) == {
            "found": found,
            "w": [[step] * 3] * 4,
            "step": step,
            "raw": [step] * 2,
            "draw": float(jax.random.normal(key)),
        }
