"""The files of a run: metrics.jsonl, TensorBoard events, and JSON written whole."""

import json
import os
import resource
import stat
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog

from rearm_jax.errors import CheckpointError
from rearm_jax.training.writer import RunWriter, json_value, read_metrics, versions, write_json


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write_steps(workdir, steps, **settings):
    with RunWriter(workdir, tensorboard=False, **settings) as writer:
        for step in steps:
            writer.write(step, {"train/loss": 1 / step})


def events(workdir):
    """Every event of every events file, in the order in which TensorBoard reads them."""
    found = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:  # length (8 bytes), its checksum (4), the event, its checksum (4)
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(workdir):
    """What TensorBoard shows: a session's start removes the events of its step and of later ones."""
    shown = []
    for event in events(workdir):
        if event.session_log.status == SessionLog.START:
            shown = [scalar for scalar in shown if scalar[0] < event.step]
        shown += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return shown


def test_one_flat_json_object_a_line(tmp_path):
    folder = tmp_path / "a" / "run"
    with RunWriter(folder, tensorboard=False) as writer:
        writer.write(20, {"epoch": 1, "train/loss": jnp.float32(0.5), "valid/recall@20": np.float64(0.1)})
        assert (folder / "metrics.jsonl").read_text().endswith("}\n")  # before close
        writer.write(np.int64(40), {"epoch": np.int32(2), "train/loss": jnp.bfloat16(0.25), "valid/recall@20": 0.2})
    assert (folder / "metrics.jsonl").read_text() == (
        '{"step": 20, "epoch": 1, "train/loss": 0.5, "valid/recall@20": 0.1}\n'
        '{"step": 40, "epoch": 2, "train/loss": 0.25, "valid/recall@20": 0.2}\n'
    )
    assert read_metrics(folder) == lines(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.jsonl"]


def test_what_is_not_finite_is_null(tmp_path):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    values = {"a": float("nan"), "b": jnp.float32("inf"), "c": -np.inf, "d": 1.5}
    with RunWriter(tmp_path, tensorboard=True) as writer:
        writer.write(1, values)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "a": None, "b": None, "c": None, "d": 1.5}
    np.testing.assert_array_equal([value for _, _, value in scalars(tmp_path)], [np.nan, np.inf, -np.inf, 1.5])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"x": np.ones(2)}, "x is array.*not one number"),
        ({"x": jnp.ones((1,))}, "x is .*not one number"),
        ({"x": "high"}, "x is 'high', not one number"),
        ({"x": None}, "x is None, not one number"),
        ({"step": 3}, '"step" is an argument of its own'),
    ],
)
def test_what_is_no_number_is_refused_and_not_written(tmp_path, values, message):
    with RunWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"fine": 1})
        with pytest.raises(ValueError, match=message):
            writer.write(2, values)
    assert lines(tmp_path) == [{"step": 1, "fine": 1}]


def test_tensorboard_gets_the_same_numbers_under_the_same_names(tmp_path):
    with RunWriter(tmp_path, tensorboard=True) as writer:
        for step in (5, 10):
            writer.write(step, {"epoch": step // 5, "train/loss": 1 / step, "valid/recall@20": jnp.float32(0.5)})
    expected = []
    for step in (5, 10):
        expected += [(step, "epoch", step // 5), (step, "train/loss", pytest.approx(1 / step))]
        expected += [(step, "valid/recall@20", 0.5)]
    assert scalars(tmp_path) == expected
    assert events(tmp_path)[0].file_version == "brain.Event:2"


def test_resuming_appends_and_drops_later_lines(tmp_path, caplog):
    write_steps(tmp_path, [1, 2, 3, 4])
    write_steps(tmp_path, [3, 4, 5], resume_step=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert "metrics.jsonl: dropped 2 lines" in caplog.text
    caplog.clear()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    write_steps(tmp_path, [], resume_step=5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert caplog.text == ""


def test_resuming_hides_later_events_and_keeps_every_file(tmp_path):
    """Also right after the first process: events files are named by the second."""
    for first, resume_step in [(1, None), (3, 2), (5, 4)]:
        with RunWriter(tmp_path, tensorboard=True, resume_step=resume_step) as writer:
            for step in range(first, first + 4):
                writer.write(step, {"x": first})
    assert scalars(tmp_path) == [(1, "x", 1), (2, "x", 1), (3, "x", 3), (4, "x", 3)] + [
        (s, "x", 5) for s in range(5, 9)
    ]
    with RunWriter(tmp_path, tensorboard=True) as writer:
        writer.write(1, {"x": 9})
    assert scalars(tmp_path) == [(1, "x", 9)]


def test_a_new_run_in_an_old_folder_begins_anew_and_says_so(tmp_path, caplog):
    write_steps(tmp_path, [1, 2, 3])
    write_steps(tmp_path, [1])
    assert [line["step"] for line in lines(tmp_path)] == [1]
    assert "dropped 3 lines" in caplog.text


def test_resuming_where_nothing_was_written(tmp_path):
    write_steps(tmp_path, [3], resume_step=2)
    assert [line["step"] for line in lines(tmp_path)] == [3]


@pytest.mark.parametrize("rest", ['{"step": 3, "trai', '{"step"', "\0\0\0\0", "\xff\xfe", '{"no": "step"}\n', "3"])
def test_half_a_last_line_is_dropped_with_a_warning(tmp_path, rest, caplog):
    write_steps(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a", encoding="latin-1") as file:
        file.write(rest)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    assert "metrics.jsonl: left out its last line" in caplog.text
    caplog.clear()
    write_steps(tmp_path, [3], resume_step=2)
    assert "metrics.jsonl: left out its last line" in caplog.text
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_whole_last_line_without_its_line_feed_is_kept(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-1])
    write_steps(tmp_path, [3], resume_step=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_another_unreadable_line_is_an_error_that_names_it(tmp_path):
    write_steps(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 2', '{"st'))
    before = path.read_bytes()
    for read in (lambda: read_metrics(tmp_path), lambda: RunWriter(tmp_path, tensorboard=False, resume_step=3)):
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 cannot be read .*Mend or remove"):
            read()
    assert path.read_bytes() == before


def test_reading_where_nothing_was_written(tmp_path):
    assert read_metrics(tmp_path / "missing") == []


def test_a_bucket_that_cannot_append(bucket):
    write_steps("gs://bucket/run", [1, 2, 3])
    write_steps("gs://bucket/run", [3, 4], resume_step=2)
    write_json("gs://bucket/run/config.json", {"a": 1})
    assert [record["step"] for record in read_metrics("gs://bucket/run")] == [1, 2, 3, 4]
    assert json.loads(bucket.cat("gs://bucket/run/config.json")) == {"a": 1}
    assert not any("tmp" in name for name in bucket.find("gs://bucket"))


def test_write_json_reads_back_and_takes_numpy_and_jax(tmp_path):
    value = {
        "metrics": {"test/recall@20": np.float32(0.5), "valid/ndcg@10": jnp.float32(0.25), "bad": float("nan")},
        "ks": (5, np.int64(10)),
        "weights": np.array([[0.5, np.inf]]),
        "name": "é",
        "flag": np.bool_(True),
        "nothing": None,
        3: [],
    }
    write_json(tmp_path / "result.json", value)
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "metrics": {"test/recall@20": 0.5, "valid/ndcg@10": 0.25, "bad": None},
        "ks": [5, 10],
        "weights": [[0.5, None]],
        "name": "é",
        "flag": True,
        "nothing": None,
        "3": [],
    }
    write_json(tmp_path / "result.json", {"again": 1})
    assert json.loads((tmp_path / "result.json").read_text()) == {"again": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


short_text = st.text('ab"\\é\n', max_size=4)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | short_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short_text, inner, max_size=3),
    max_leaves=8,
)


@given(plain_json)
def test_json_value_leaves_json_as_it_is(value):
    assert json_value(value) == value
    assert json.loads(json.dumps(json_value(value))) == value


@pytest.mark.parametrize("value", [object(), {"a": {1, 2}}, [b"x"], 1j, np.complex64(1j)])
def test_what_json_cannot_hold_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="JSON cannot hold"):
        write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_get_the_users_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "result.json", {})
        write_steps(tmp_path / "run", [1, 2])
        write_steps(tmp_path / "run", [2], resume_step=1)  # rewritten
    finally:
        os.umask(before)
    for path in (tmp_path / "result.json", tmp_path / "run" / "metrics.jsonl"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o777 & ~umask


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "result.json", {"old": 1})
    write_steps(tmp_path, range(1, 101))
    old = (tmp_path / "metrics.jsonl").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # stands in for a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            write_json(tmp_path / "result.json", {"new": "x" * 2000})
        with pytest.raises(OSError, match="too large"):
            RunWriter(tmp_path, tensorboard=False, resume_step=90)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads((tmp_path / "result.json").read_text()) == {"old": 1}
    assert (tmp_path / "metrics.jsonl").read_bytes() == old


def test_versions(caplog):
    found = versions()
    assert set(found) == {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "rearm_jax"}
    assert found["numpy"] == np.__version__
    assert found["python"].startswith("3.")
    assert json.loads(json.dumps(found)) == found
