"""The checkpoints of a run: the latest two and the best, written by Orbax. The only file that imports it."""

import contextlib
import functools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from logging import WARNING, LogRecord
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from rearm_jax.errors import CheckpointError
from rearm_jax.parallel.mesh import unpadded
from rearm_jax.training.digest import GONE, delete_step
from rearm_jax.training.records import Records, from_process_0
from rearm_jax.training.run_path import RunPath, plain_path, run_path
from rearm_jax.training.tree_differences import tree_differences

MAX_DIFFERENCES_SHOWN = 5
_DISK_REMEDY = "See that the disk has room and the folder is writable."
_ASIDE = ".damaged"  # after the number of a step that is no longer counted as one
_UNFINISHED = r"\.orbax-checkpoint-tmp.*"  # likewise, a pattern: of a step whose save was cut short


class Checkpoints:
    """The steps saved under <workdir>/checkpoints: the latest, the one before it, and the best.

    Orbax writes two items of a step: `params` and `rest` (optimiser state, step counter, key, whatever else the state
    holds), separate, so that evaluation reads the parameters without the optimiser. When they are on the disk, the
    step's record follows: its metric, its `progress` (epoch, state of early stopping, content hash, ...) and a digest
    of every file. A step without a record is not finished and does not count; one whose files are not those of the
    record is damaged and never loaded. Best is the highest metric; among equal ones the earliest step, which is also
    the one that "stop without a strict gain" counts as best.

    What is kept is all that is needed to fall back from the latest step to the one before it as if the latest had
    never been saved: these two, and the best of all but the latest. At most three steps, four while one is written.
    With `keep` "params" the best loses its `rest` once it is not among the latest two; training cannot resume there.

    `workdir` is a local folder or a bucket's address (gs://...). Nothing is created before the first `save`, and
    nothing is changed before `resume_step` or `save`: opening the checkpoints of a run that is still training is safe.
    One `Checkpoints` sees the steps that were there when it was opened, and its own.

    In a run of several processes every process makes every call.

    Node tables (`rows.is_table`) may have rows of padding: `table_rows` has the true numbers, by the first word of
    their names. They are saved, too; a restore adds or drops padding, and refuses tables of other true numbers.

    Raises:
      CheckpointError: the folder is there, but cannot be read.
    """

    def __init__(self, workdir: str | os.PathLike, table_rows: Mapping[str, int] | None = None, keep: str = "whole"):
        self.directory = checkpoint_directory(workdir)
        self._table_rows = dict(table_rows or {})
        logging.get_absl_logger().addFilter(_is_worth_showing)
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        for item in ("params", "rest"):
            registry.add(item, ocp.args.StandardSave)
            registry.add(item, ocp.args.StandardRestore)
        # Where the folder of a step could not be made in the background, threads would wait for it five minutes long.
        options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        items = ocp.CompositeOptions(async_options=options)
        handler = ocp.CompositeCheckpointHandler(handler_registry=registry, composite_options=items)
        # Not Orbax's CheckpointManager, which cannot even be opened where the metadata of one step are damaged.
        self._checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
        self._open_folders = contextlib.ExitStack()
        self._saving: Future | None = None
        self._background = ThreadPoolExecutor(max_workers=1)
        with self._explained("cannot be opened", "Repair or remove that folder, or name another run folder."):
            self._records = Records(self.directory, keep)
        for step in self._records.unfinished:
            logging.warning("%s is left out: its save was not finished", self._records.folder(step))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The newest step (one that is still being written counts), or None where none has been finished."""
        return max(self._records.found, default=None)

    def best_step(self) -> int | None:
        """The step of the highest metric, or None where no step has a finite one.

        Raises:
          CheckpointError: the record of a step is damaged, so that nobody knows its metric.
        """
        return self._records.best()

    def resume_step(self) -> int | None:
        """The newest step that is sound, digests compared, or None where no step has been finished. For training.

        Newer ones are damaged, or their save was not finished: each is named in the log and set aside, as
        <step>.damaged beside the others (what an earlier call set aside is deleted).

        Raises:
          CheckpointError: there are steps, but none is sound; or the best one is damaged. Nothing is changed.
        """
        self.wait()
        step, wrong = from_process_0(self._records.newest_sound)
        for newer, reason in wrong:
            log = logging.error if reason.startswith("damaged") else logging.warning
            log("%s: %s; set aside as %s%s", self._records.folder(newer), reason, newer, _ASIDE)
        if jax.process_index() == 0:
            self._clean_up([newer for newer, _ in wrong])
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints set aside")
        self._records.read()
        return step

    def save(self, step: int, params: Any, rest: Any, progress: dict, metric: float) -> None:
        """Saves a step; returns when the arrays are copied, and writes in the background.

        The arrays may be donated and `progress` may be changed at once after the call.

        The latest step may be saved again: a run that was interrupted between an epoch and its evaluation does so
        when it goes on. The arrays of one step are the same, so only `progress` is replaced, and the metric where the
        new one is finite. Where this makes the step the best, the best before it is removed by the next save.

        Args:
          step: train steps done, larger than every step saved before (or equal to the latest, see above).
          params: pytree of arrays.
          rest: pytree of arrays; keys of jax.random may be typed or raw.
          progress: what JSON can hold; tuples come back as lists.
          metric: the value that early stopping compares, higher is better. NaN or infinite where it is unknown or
            went wrong: such a step is kept as the latest only, never as the best.

        Raises:
          CheckpointError: this save is refused, or an earlier one failed in the background.
          TypeError: `progress` is not JSON.
        """
        progress = json.loads(json.dumps(progress))  # a snapshot: it is written in the background
        self.wait()
        known_metric = float(metric) if math.isfinite(metric) else None
        latest = self.latest_step()
        if step == latest:
            with self._explained(f"cannot take step {step}", _DISK_REMEDY):
                self._records.change(step, progress, known_metric)
            return
        if latest is not None and step < latest:
            raise CheckpointError(
                f"{self.directory} already holds step {latest}; step {step} before it cannot be saved. "
                "Resume from the latest step, or name another run folder."
            )
        items = ocp.args.Composite(params=ocp.args.StandardSave(params), rest=ocp.args.StandardSave(rest))
        with self._explained(f"cannot take step {step}", _DISK_REMEDY):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._checkpointer.save(self._orbax_directory / str(step), args=items)
        record = {"step": step, "metric": known_metric, "progress": progress, "table_rows": self._table_rows}
        self._records.found[step] = record
        self._saving = self._background.submit(self._finish, step)

    def restore(self, step: int, params_like: Any, rest_like: Any) -> tuple:
        """Reads a whole step.

        Args:
          step: one of `latest_step()` and `best_step()`.
          params_like, rest_like: pytrees of arrays or jax.ShapeDtypeStruct, as they were saved: the same structure,
            shapes and dtypes. A leaf comes back with the sharding of its likeness, which may be of another number
            of devices than the saved one; without a sharding, on the first local device.

        Returns:
          (params, rest, progress).

        Raises:
          CheckpointError: the step is not there, is damaged, or does not fit the likeness (the message names the
            leaves).
        """
        items = self._restore(step, {"params": params_like, "rest": rest_like})
        return items["params"], items["rest"], self.read_progress(step)

    def restore_params(self, step: int, params_like: Any) -> Any:
        """Reads the parameters alone; the files of the optimiser are not touched. See `restore`."""
        return self._restore(step, {"params": params_like})["params"]

    def read_progress(self, step: int) -> dict:
        """The `progress` of a step.

        Raises:
          CheckpointError: the step is not there or damaged.
        """
        self._check_saved(step)
        return json.loads(json.dumps(self._records.found[step]["progress"]))

    def wait(self) -> None:
        """Returns when the last save is on the disk, record and all.

        Raises:
          CheckpointError: it failed; the steps before it are still there.
        """
        saving, self._saving = self._saving, None
        try:
            with self._explained("lost a save", _DISK_REMEDY):
                if saving is not None:
                    saving.result()
                    self._records.forget_deleted()
        except CheckpointError:
            self._records.read()
            raise

    def raise_if_failed(self) -> None:
        """Raises as `wait` does where the save under way has failed by now; does not wait for it."""
        if self._saving is not None and self._saving.done() and self._saving.exception() is not None:
            self.wait()

    def close(self) -> None:
        """Waits for the last save and frees what Orbax holds. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._checkpointer.close()
            self._open_folders.close()

    @functools.cached_property
    def _orbax_directory(self) -> RunPath:
        """`directory`, which is there, by the name that Orbax gets."""
        return self._open_folders.enter_context(plain_path(self.directory))

    def _finish(self, step: int) -> None:
        # In the background.
        self._checkpointer.wait_until_finished()
        if jax.process_index() == 0:
            self._records.finish(step)

    def _clean_up(self, aside: list[int]) -> None:
        # Also what killed saves left: their names are those of steps that this run may never save again.
        with self._explained("cannot be cleaned up", _DISK_REMEDY):
            ends = "|".join([re.escape(GONE), _UNFINISHED, *([re.escape(_ASIDE)] if aside else [])])
            for folder in self.directory.iterdir() if self.directory.exists() else ():
                if re.fullmatch(rf"[0-9]+({ends})", folder.name):
                    folder.rmtree()
            for step in self._records.half_deleted:
                delete_step(self._records.folder(step))
            for step in aside:
                self._records.folder(step).rename(self.directory / f"{step}{_ASIDE}")

    def _restore(self, step: int, likes: dict) -> dict:
        self._check_saved(step)
        for item in likes:
            self._records.check_files(step, item)
        with self._step_explained(step):
            metadata = self._checkpointer.metadata(self._orbax_directory / str(step)).item_metadata
            stored = {item: metadata[item].tree for item in likes}
        stored_rows = self._records.found[step]["table_rows"]
        # Orbax itself casts another dtype without a word, and names no leaf where a shape differs.
        differences = tree_differences(unpadded(stored, stored_rows), unpadded(likes, self._table_rows))
        if differences:
            shown = "; ".join(differences[:MAX_DIFFERENCES_SHOWN])
            more = len(differences) - MAX_DIFFERENCES_SHOWN
            raise CheckpointError(
                f"{self.directory / str(step)} does not fit this model: {shown}"
                + (f"; and {more} more" if more > 0 else "")
                + ". Use the data and the configuration of that run, or name another run folder."
            )
        # Not strict: rows of padding are added or dropped. All that may not differ has been compared.
        targets = {item: jax.tree.map(_target, like) for item, like in likes.items()}
        args = {item: ocp.args.StandardRestore(target, strict=False) for item, target in targets.items()}
        with self._step_explained(step):
            return self._checkpointer.restore(self._orbax_directory / str(step), args=ocp.args.Composite(**args))

    def _check_saved(self, step: int) -> None:
        self.wait()
        if step in self._records.damaged:
            raise self._records.damage_error(step, self._records.damaged[step])
        steps = sorted(self._records.found)
        if not steps:
            raise CheckpointError(f"{self.directory} holds no finished checkpoint. Train first, or check the folder.")
        if step not in steps:
            raise CheckpointError(f"{self.directory} holds no checkpoint of step {step}, only of {steps}.")

    def _step_explained(self, step: int) -> contextlib.AbstractContextManager[None]:
        remedy = f"Remove {self._records.folder(step)} to go on with the other steps."
        return self._explained(f"has a damaged step {step}", remedy)

    @contextlib.contextmanager
    def _explained(self, what: str, remedy: str) -> Iterator[None]:
        # Damage surfaces from Orbax, TensorStore, json and the file system as every kind of exception.
        try:
            yield
        except jax.errors.JaxRuntimeError:
            raise  # of the devices, or of another process that died: the files are not to blame
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{self.directory} {what}. {remedy} The cause: {reason}") from error


def checkpoint_directory(workdir: str | os.PathLike) -> RunPath:
    """<workdir>/checkpoints, absolute as Orbax wants it; an address such as gs://bucket/run stays one."""
    directory = run_path(workdir) / "checkpoints"
    return directory if directory.is_absolute() else directory.resolve()


def _target(leaf: Any) -> jax.ShapeDtypeStruct:
    # Without a sharding, Orbax would ask for the devices that the step was saved on, which may not be here.
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_worth_showing(record: LogRecord) -> bool:
    # Orbax logs 70 lines a save at level INFO; what it logs with a traceback, it raises, too.
    return "orbax/checkpoint" not in record.pathname or (record.levelno >= WARNING and not record.exc_info)
