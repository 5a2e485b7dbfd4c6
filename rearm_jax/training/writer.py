"""What a run writes for people and scripts: metrics.jsonl, TensorBoard events, config.json and result.json."""

import importlib.metadata
import json
import math
import os
import platform
import time
from typing import Any

from absl import logging
from etils import epath
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from rearm_jax.errors import CheckpointError
from rearm_jax.files import replace_text
from rearm_jax.training.run_path import in_bucket, run_path
from rearm_jax.version import VERSION

METRICS_FILE = "metrics.jsonl"
EVENTS_PREFIX = "events.out.tfevents."
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
SECONDS_BETWEEN_FLUSHES = 10  # of the TensorBoard events; metrics.jsonl is on the disk after every line


class RunWriter:
    """Appends metrics to <workdir>/metrics.jsonl and, if asked, to a TensorBoard events file beside it.

    One flat JSON object a line, {"step": 40, "epoch": 2, "train/loss": 0.5, "valid/recall@20": 0.1}. JSON has no NaN
    and no infinity: they are written as null (TensorBoard gets them as they are).

    In a run of several processes only process 0 makes one.

    Args:
      workdir: the run folder, local or a bucket's address (gs://...); made where it is missing.
      tensorboard: whether to write TensorBoard events.
      resume_step: the step from which the run goes on: lines of later steps, which a killed run wrote after its last
        checkpoint, are dropped, and hidden from TensorBoard. None begins a new run: all old lines are dropped, with a
        warning.

    Raises:
      CheckpointError: metrics.jsonl has an unreadable line before its last.
    """

    def __init__(self, workdir: str | os.PathLike, tensorboard: bool, resume_step: int | None = None):
        folder = run_path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS_FILE
        self._lines = self._keep_lines(-1 if resume_step is None else resume_step)
        self._in_bucket = in_bucket(folder)
        self._events = None
        if tensorboard:
            # tensorboardX names a file by the second alone, and would write over the file of a run killed just now.
            suffix = f".{time.time_ns()}"
            self._events = SummaryWriter(
                str(folder),
                purge_step=0 if resume_step is None else resume_step + 1,
                flush_secs=SECONDS_BETWEEN_FLUSHES,
                filename_suffix=suffix,
            )

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, step: int, values: dict) -> None:
        """Appends one line; it is on the disk when this returns.

        Args:
          step: train steps done.
          values: name -> number: of Python, numpy or jax, without dimensions.

        Raises:
          ValueError: a value is no number, or is called "step".
        """
        numbers = {name: _number(name, value) for name, value in values.items()}
        if "step" in numbers:
            raise ValueError('"step" is an argument of its own and cannot be among the values')
        line = json.dumps(json_value({"step": int(step), **numbers})) + "\n"
        if self._in_bucket:  # objects in a bucket cannot be appended to
            self._lines.append(line)
            self._path.write_text("".join(self._lines))
        else:
            with self._path.open("a") as file:
                file.write(line)
        if self._events is not None:
            scalars = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
            # Not `add_scalar`, which has "_" for the "@" of a name.
            self._events.file_writer.add_summary(Summary(value=scalars), step)

    def close(self) -> None:
        """Writes out what TensorBoard has not got yet."""
        if self._events is not None:
            self._events.close()

    def _keep_lines(self, last_step: int) -> list[str]:
        # Returns the lines that stay; rewrites the file where some do not.
        if not self._path.exists():
            return []
        old = self._path.read_bytes()
        records = _parse(self._path, old)
        lines = [json.dumps(record) + "\n" for record in records if record["step"] <= last_step]
        if len(lines) < len(records):
            dropped = len(records) - len(lines)
            logging.warning("%s: dropped %d lines of steps that this run has not done yet", self._path, dropped)
        if "".join(lines).encode() != old:
            replace_text(self._path, "".join(lines))
        return lines


def read_metrics(workdir: str | os.PathLike) -> list[dict]:
    """Every line of <workdir>/metrics.jsonl, in order; empty where nothing has been written.

    A last line that is cut off, as a killed run leaves it, is left out with a warning.

    Raises:
      CheckpointError: another line is unreadable; the message names it.
    """
    path = run_path(workdir) / METRICS_FILE
    return _parse(path, path.read_bytes()) if path.exists() else []


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` (what `json_value` takes) as indented JSON, all or nothing: a reader never sees half a file."""
    replace_text(run_path(path), json.dumps(json_value(value), indent=2) + "\n")


def json_value(value: Any) -> Any:
    """The same value in what JSON has: dict (keys as text), list, text, number, bool, None.

    Takes nested dicts, lists and tuples, and numpy and jax numbers and arrays. NaN and the infinities become None.

    Raises:
      ValueError: something else is inside.
    """
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if hasattr(value, "tolist"):  # of numpy or jax
        return json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ValueError(f"JSON cannot hold {value!r}, a {type(value).__name__}")


def versions() -> dict[str, str]:
    """The versions of Python and of every package that shapes a result; for result.json."""
    found = {"python": platform.python_version()}
    found |= {package: importlib.metadata.version(package) for package in PACKAGES}
    return found | {"rearm_jax": VERSION}


def _number(name: str, value: Any) -> int | float:
    value = value.item() if getattr(value, "shape", None) == () else value
    if not isinstance(value, (bool, int, float)):
        raise ValueError(f"{name} is {value!r}, not one number")
    return value


def _parse(path: epath.Path, content: bytes) -> list[dict]:
    lines = content.splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError("not an object with a step")
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise CheckpointError(
                    f"{path}: line {number} cannot be read ({error}): {line[:80]!r}. Mend or remove that line."
                ) from error
            logging.warning("%s: left out its last line, which is cut off: %r", path, line[:80])
        else:
            records.append(record)
    return records
