"""The records of a run's checkpoints: which steps are finished, sound, best, and to be kept."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from rearm_jax.errors import CheckpointError
from rearm_jax.training.digest import DELETED, GONE, delete_step, file_digests, find_damage, read_record, write_record


class Records:
    """What the records in the folders of the steps say.

    Attributes:
      directory: holds a folder for each step, named by its number.
      found: step -> record {"step", "metric" (None where unknown), "progress", "table_rows", "files"}; also of the step
        being saved, then without "files", which only process 0 ever has. "params_only" is true where the rest is gone.
      damaged: step -> what is wrong with its record.
      unfinished: steps without a record, newer than all that have one: their saves were cut short.
      half_deleted: steps that were being deleted.
    """

    def __init__(self, directory: epath.Path, keep: str = "whole"):
        """Args: where the steps lie; `config.checkpoints.keep`."""
        self.directory, self._keep = directory, keep
        self.read()

    def folder(self, step: int) -> epath.Path:
        return self.directory / str(step)

    def read(self) -> None:
        """Forgets all, and reads what is there."""
        self.found, self.damaged, self.unfinished, self.half_deleted = {}, {}, [], []
        names = [path.name for path in self.directory.iterdir()] if self.directory.exists() else []
        for step in sorted((int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name)), reverse=True):
            try:
                record = read_record(self.folder(step))
            except CheckpointError as error:
                self.damaged[step] = str(error)
                continue
            if record == DELETED:
                self.half_deleted.append(step)
            elif record is not None:
                self.found[step] = record
            elif not self.folder(step).exists():  # a run that is training deleted it just now
                continue
            elif self.found or self.damaged:  # a save begins when the one before it is finished
                self.damaged[step] = "its record is missing"
            else:
                self.unfinished.append(step)

    def finish(self, step: int) -> None:
        """Writes the record of a step whose arrays are on the disk, and deletes older steps; on process 0 only."""
        record = self.found[step] | {"files": file_digests(self.folder(step))}
        write_record(self.folder(step), record)
        self.found[step] = record
        for old in set(self.found) - self._to_keep():
            delete_step(self.folder(old))
        if self._keep == "params":
            for old in self._to_keep() - set(sorted(self.found)[-2:]):
                self._drop_rest(old)

    def change(self, step: int, progress: dict, metric: float | None) -> None:
        """Replaces the progress of a finished step, and its metric unless None; the arrays stay as they are."""
        record = self.found[step] | {"progress": progress}
        if metric is not None:
            record["metric"] = metric
        if jax.process_index() == 0:
            write_record(self.folder(step), record)
        self.found[step] = record

    def forget_deleted(self) -> None:
        """Drops the steps that `finish` deleted, on every process alike."""
        self.found = {step: self.found[step] for step in self._to_keep()}

    def best(self) -> int | None:
        """The step of the highest metric, the earliest of equals, or None where none has a metric.

        Raises:
          CheckpointError: the record of a step is damaged: nobody knows whether that step is the best.
        """
        for step, damage in self.damaged.items():
            raise self.damage_error(step, damage)
        return self._best(self.found)

    def newest_sound(self) -> tuple[int | None, list[tuple[int, str]]]:
        """The newest step whose files are those that were written, and [step, what is wrong] of those newer than it.

        Returns:
          (None, ...) where no step was ever finished.

        Raises:
          CheckpointError: steps were finished, but none is sound; or the best of the older steps is damaged.
        """
        wrong = []
        for step in sorted({*self.found, *self.damaged, *self.unfinished}, reverse=True):
            if step in self.damaged:
                wrong.append((step, f"damaged: {self.damaged[step]}"))
            elif step in self.unfinished:
                wrong.append((step, "its save was not finished"))
            elif self.found[step].get("params_only"):
                wrong.append((step, "kept without its optimiser state, as checkpoints.keep says"))
            elif damage := find_damage(self.folder(step), self.found[step]):
                wrong.append((step, f"damaged: {damage}"))
            else:
                self._check_best_until(step)
                return step, wrong
        if self.found or self.damaged:
            listed = "; ".join(f"step {step}, {reason}" for step, reason in wrong)
            raise CheckpointError(
                f"{self.directory} holds no sound checkpoint: {listed}. Bring a step back from a copy, or remove "
                "the folder (--overwrite does) to train anew"
            )
        return None, wrong

    def check_files(self, step: int, item: str) -> None:
        """Compares what a restore of `item` reads with the record.

        Raises:
          CheckpointError: the step is damaged.
        """
        from_process_0(lambda: self._raise_if_damaged(step, item))

    def damage_error(self, step: int, damage: str) -> CheckpointError:
        return CheckpointError(
            f"{self.folder(step)} is damaged: {damage}. Bring that folder back from a copy, or remove it to go on with "
            "the other steps, the best of which then counts as the best"
        )

    def _drop_rest(self, step: int) -> None:
        record = self.found[step]
        if not record.get("params_only"):  # the record goes first: a kill between the two leaves no damage
            files = {name: digest for name, digest in record["files"].items() if not name.startswith("rest/")}
            record = self.found[step] = record | {"files": files, "params_only": True}
            write_record(self.folder(step), record)
        rest = self.folder(step) / "rest"
        if rest.exists():
            gone = self.directory / f"{step}.rest{GONE}"  # in one stroke, for whoever reads the parameters just now
            rest.rename(gone)
            gone.rmtree()

    def _to_keep(self) -> set[int]:
        """The latest two steps, and the best of all but the latest: the state of the run before it."""
        steps = sorted(self.found)
        best = self._best(steps[:-1])
        return {*steps[-2:], *([] if best is None else [best])}

    def _best(self, steps: Iterable[int]) -> int | None:
        metrics = {step: self.found[step]["metric"] for step in steps}
        known = [step for step, metric in metrics.items() if metric is not None]
        return max(known, key=lambda step: (metrics[step], -step), default=None)

    def _check_best_until(self, newest: int) -> None:
        for step, damage in self.damaged.items():
            if step < newest:
                raise self.damage_error(step, damage)
        best = self._best(step for step in self.found if step <= newest)
        if best is not None and best != newest:
            self._raise_if_damaged(best, "params")

    def _raise_if_damaged(self, step: int, item: str) -> None:
        if item == "rest" and self.found[step].get("params_only"):
            raise CheckpointError(f"{self.folder(step)} was kept without its optimiser state: evaluate it, no more")
        damage = find_damage(self.folder(step), self.found[step], item)
        if damage:
            raise self.damage_error(step, damage)


def from_process_0(compute: Callable[[], Any]) -> Any:
    """What `compute` returns or raises on process 0, on every process, so that all of them do the same next.

    Args:
      compute: returns what JSON can hold, or raises CheckpointError.
    """
    if jax.process_count() == 1:
        return compute()
    outcome = {}
    if jax.process_index() == 0:
        try:
            outcome = {"value": compute()}
        except CheckpointError as error:
            outcome = {"error": str(error)}
    text = np.frombuffer(json.dumps(outcome).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = text if jax.process_index() == 0 else np.zeros(length, np.uint8)
    outcome = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(text)).tobytes())
    if "error" in outcome:
        raise CheckpointError(outcome["error"])
    return outcome["value"]
