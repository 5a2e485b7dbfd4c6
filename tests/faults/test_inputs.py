"""Whatever a person, a disk or another program puts into a reader: a valid value, or an error of ours that explains."""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import mock

import absl.flags
import numpy as np
import pytest
from absl import logging
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import config_flags

from rearm_jax.command_line import parse_flags, run_name
from rearm_jax.config import check_config, from_json, to_json
from rearm_jax.data.dataset import load_dataset
from rearm_jax.default import declared
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.models.rearm.torch_weights import from_torch
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.digest import read_record, write_record
from rearm_jax.training.run_folder import read_result, saved_config
from rearm_jax.training.writer import RunWriter, read_metrics
from tests.conftest import tiny_config
from tests.faults.tally import ROOT, cases, counts
from tests.test_config import VALUES
from tests.test_dataset import any_array, check_reader, example, near_valid_pairs, write

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CASES = "inputs tried, each valid or explained"


@pytest.fixture(autouse=True)
def quiet():
    """Thousands of warnings about damaged files are no news."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    yield
    logging.set_verbosity(before)


def mutated(content: bytes):
    """The content with a few bytes changed, cut, or something put between; or anything at all."""
    place = st.integers(0, len(content) - 1)

    def change(edits):
        changed = bytearray(content)
        for position, kind, piece in edits:
            changed[position : position + (len(piece) if kind == "replace" else 0)] = piece
            if kind == "cut":
                del changed[position:]
        return bytes(changed)

    edit = st.tuples(place, st.sampled_from(["replace", "insert", "cut"]), st.binary(min_size=1, max_size=4))
    nested = st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b'{"step": 1e999}', b"\xff\xfe\x00"])
    return st.one_of(st.lists(edit, min_size=1, max_size=3).map(change), st.binary(max_size=40), nested)


CONFIG_JSON = to_json(tiny_config()).encode()
METRICS = b'{"step": 6, "epoch": 1, "train/loss": 0.7}\n{"step": 12, "epoch": 2, "train/loss": 0.6}\n'


def accepted(error_class: type[Exception], words: Iterable[str], read: Callable, *arguments):
    """What `read` returns, or None where it refuses with an error that names one of the words."""
    counts[CASES] += 1
    try:
        return read(*arguments)
    except error_class as error:
        message = str(error)
    assert any(word in message for word in words), message
    return None


def in_file(name: str, content: bytes, read: Callable):
    """What `read` makes of a folder that holds this file alone."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        return read(folder)


@cases(300)
@given(mutated(CONFIG_JSON) | JSON.map(lambda value: json.dumps(value).encode()))
def test_config_json(content):
    config = accepted(ConfigError, ["config.json"], in_file, "config.json", content, saved_config)
    if config is not None:
        check_config(config)


@cases(300)
@given(st.dictionaries(st.sampled_from([*declared("rearm")]), VALUES, min_size=1, max_size=4))
def test_several_fields_at_once(changes):
    config = tiny_config().unlock()
    for name, value in changes.items():
        *sections, leaf = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        with section.ignore_type():
            section[leaf] = value
    text = accepted(ConfigError, changes, to_json, config)
    if text is not None:
        assert to_json(from_json(text)) == text


FLAGS = st.one_of(
    st.tuples(st.sampled_from([*declared("rearm")]), VALUES.map(str)).map(lambda pair: f"--config.{pair[0]}={pair[1]}"),
    st.text(max_size=12),
    st.text(max_size=8).map(lambda text: f"--config.{text}"),
    st.sampled_from(
        ["--config", "--config=", "--config=/", "--noconfig.log.progress", "--config.log", "-", "--", "=", "-c"]
    ),
)


@cases(200)
@given(st.lists(FLAGS, max_size=3))
def test_flags(arguments):
    values = absl.flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, lock_config=True)
    argv = ["main", f"--config={ROOT / 'configs' / 'demo.py'}", *arguments]
    with mock.patch.object(absl.flags, "FLAGS", values), mock.patch.object(sys, "argv", argv):
        if accepted(ConfigError, [""], parse_flags, argv) is not None:
            check_config(values.config)


@cases(300)
@given(mutated(METRICS) | st.lists(JSON, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()))
def test_metrics(content):
    def read_and_resume(folder):
        read_metrics(folder)
        RunWriter(folder, tensorboard=False, resume_step=6).write(12, {"epoch": 2})
        return read_metrics(folder)

    lines = accepted(CheckpointError, ["metrics.jsonl: line "], in_file, "metrics.jsonl", content, read_and_resume)
    if lines is not None:
        assert lines[-1] == {"step": 12, "epoch": 2}
        assert all(line["step"] <= 6 for line in lines[:-1])


@cases(100)
@given(mutated(b'{"steps": 6, "best_epoch": 1}') | JSON.map(lambda value: json.dumps(value).encode()))
def test_result(content):
    result = accepted(CheckpointError, ["result.json"], in_file, "result.json", content, read_result)
    assert result is None or isinstance(result, dict)


RECORD = {"step": 6, "metric": 0.25, "progress": {"epoch": 1}, "files": {"params/d/0": "ab" * 32}}


@cases(300)
@given(st.data())
def test_record(data):
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder), RECORD)
        content = (Path(folder) / "finished.json").read_bytes()
    content = data.draw(mutated(content))
    read = lambda: in_file("finished.json", content, lambda folder: read_record(Path(folder)))  # noqa: E731
    assert accepted(CheckpointError, ["finished.json"], read) in (None, RECORD)


@cases(100)
@given(st.dictionaries(st.sampled_from(["1", "2", "10", "x", "3.damaged", "4.orbax-checkpoint-tmp"]), mutated(b"{}")))
def test_checkpoint_folder(entries):
    """Folders and files under any name: nothing that was not finished is ever taken for a step."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in entries.items():
            path = Path(folder) / "checkpoints" / name
            path.parent.mkdir(exist_ok=True)
            if len(content) % 3:
                path.mkdir()
                (path / "finished.json").write_bytes(content)
            else:
                path.write_bytes(content)

        def steps():
            with Checkpoints(folder) as checkpoints:
                return checkpoints.latest_step(), checkpoints.best_step(), checkpoints.resume_step()

        assert accepted(CheckpointError, ["checkpoints"], steps) in (None, (None, None, None))


@cases(300)
@given(st.data())
def test_data_folder(data):
    counts[CASES] += 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy.save warns of odd field names
        stems = st.sampled_from(sorted(example()))
        write(Path(folder), **data.draw(st.dictionaries(stems, any_array | near_valid_pairs, max_size=3)))
        if data.draw(st.booleans()):
            path = Path(folder) / f"{data.draw(stems)}.npy"
            path.write_bytes(data.draw(mutated(path.read_bytes())))
        check_reader(folder, data.draw(st.integers(-1, 9)))


@cases(200)
@given(st.text("./\\~%:a\0_", max_size=12) | st.sampled_from(["../image", "/etc/passwd", "image/../image", "a\n"]))
def test_names_of_modalities_lead_nowhere_else(name):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        write(Path(folder) / "data")
        np.save(Path(folder) / "image_feat.npy", example()["image_feat"])  # outside of the root
        with pytest.raises(DataError):
            load_dataset(Path(folder) / "data", (name,))
    config = tiny_config().unlock()
    config.data.modalities = (name, "text")
    accepted(ConfigError, ["data.modalities"], check_config, config)


@cases(200)
@given(st.text("./\\:apy~", max_size=12).map(lambda text: f"{text}.py"))
def test_the_run_folder_of_a_config_lies_under_runs(path):
    counts[CASES] += 1
    folder = os.path.normpath(os.path.join("runs", run_name(path)))
    assert folder == "runs" or folder.startswith("runs" + os.sep), folder


STATE = [f"layer_{i}.weight" for i in range(3)] + ["user_id_embedding.weight", "ly_norm.bias", "prl.weight"]


@cases(100)
@given(st.dictionaries(st.sampled_from(STATE), any_array, max_size=4))
def test_states_of_the_original(state):
    counts[CASES] += 1
    with pytest.raises(ValueError, match="not a state_dict of REARM: missing"):
        from_torch(state, ("image", "text"))
