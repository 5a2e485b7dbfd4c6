"""What a comparison has to do, and how far it is: the runs of a spec, their folders in a workdir, and their outcomes.

    WORKDIR/search/DATA/ROW/003     a run folder for each setting tried; without checkpoints once it is done
    WORKDIR/final/DATA/ROW/003-0    one for each seed of the best setting, and in it users.parquet
    WORKDIR/timing/DATA/ROW/003-0   seed 0 once more, alone on the machine

A run that has ended, well or not, has an outcome.json; one that was to be pruned, too. All that is known of a
comparison is in these files, so that any number of processes can work at it, and be killed.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rearm_jax.compare.results import STATUSES
from rearm_jax.compare.spec import Spec
from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.files import whole_file
from rearm_jax.training.checkpoint import checkpoint_directory
from rearm_jax.training.result import ALIKE_SINCE
from rearm_jax.training.run_folder import check_run_folder

OUTCOME_FILE = "outcome.json"
USERS_FILE = "users.parquet"
_RUNG_FILE = "rung.json"
_SPEC_FILE = "spec.json"  # what rows must have in common, and no run's config says
_ANEW = "the run is made anew"


@dataclasses.dataclass(frozen=True)
class Task:
    """A run, or its part up to where pruning decides."""

    kind: str  # "search", "final" or "timing"
    data: str
    row: str
    setting: int  # number of the setting
    number: int  # of the setting, or of the seed
    tried: Mapping[str, Any]
    seed: int
    num_epochs: int | None = None  # None: as many as the data set's config has
    trained: Path | None = None  # the folder of the run whose model it has

    @property
    def title(self) -> str:
        """For people."""
        what = {"search": "setting", "final": "seed", "timing": "alone, seed"}[self.kind]
        return f"{self.data}, {self.row}, {what} {self.number}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A spec in a workdir."""

    spec: Spec
    workdir: Path

    def folder(self, task: Task) -> Path:
        """The run folder."""
        name = f"{task.setting:03}" + ("" if task.kind == "search" else f"-{task.number}")
        return self.workdir / task.kind / task.data / task.row / name

    def config(self, task: Task) -> ConfigDict:
        """The run's config."""
        test = task.kind != "search" and self.spec.split == "test"
        return self.spec.config(task.data, task.row, task.tried, task.seed, test, task.num_epochs)

    def outcome(self, task: Task) -> dict[str, Any] | None:
        """What came of the run; None where it has not ended.

        Raises:
          ConfigError: it is of another numerics version.
          DataError: it is damaged.
        """
        return _outcome(self.folder(task))

    def end(self, task: Task, outcome: Mapping[str, Any]) -> None:
        """Writes down what came of the run. Of a search run the setting is all that is wanted: its checkpoints go."""
        _write(self.folder(task) / OUTCOME_FILE, {**outcome, "numerics": ALIKE_SINCE})
        checkpoints = checkpoint_directory(self.folder(task))
        if task.kind == "search" and checkpoints.exists():
            checkpoints.rmtree()

    def reached(self, task: Task, value: float) -> None:
        """Writes down the validation metric of a run at the epoch where pruning decides."""
        _write(self.folder(task) / _RUNG_FILE, {"valid": value})

    def begin(self, datasets: Callable[[str], Dataset], write: bool = True) -> None:
        """Refuses data that cannot be compared on, and a workdir of another spec or of other data; before any run.

        Args:
          datasets: name -> the data set.
          write: whether the workdir is made, and keeps what its rows must have in common.

        Raises:
          DataError, ConfigError: the data cannot be used, or something that the rows must have in common has changed.
          CheckpointError: a run has other settings.
        """
        spec, file = self.spec, self.workdir / _SPEC_FILE
        prune = dataclasses.astuple(spec.prune) if spec.prune else None
        facts: dict[str, Any] = {"split": spec.split, "prune": prune and list(prune)}
        for name in spec.data:
            dataset, common = datasets(name), spec.config(name, spec.reference, {}, 0, test=False)
            if max(spec.ks) > dataset.num_items:
                raise ConfigError(f"ks = {spec.ks}: data set {name} has {dataset.num_items} items")
            for split in {"valid", spec.split}:
                if len(np.unique(getattr(dataset, split)[:, 0])) < 2:
                    raise DataError(f"data set {name}: fewer than two users have a {split} interaction")
            facts |= {f"{name}: {field}": common[field] for field in ("num_epochs", "patience")}
            facts[f"{name}: content_hash"] = dataset.content_hash
        saved = _read(file) if file.exists() else {}
        for field in facts.keys() & saved.keys():
            if facts[field] != saved[field]:
                raise ConfigError(
                    f"{self.workdir}: {field} was {saved[field]} when its runs were made, and is {facts[field]} now: "
                    "rows of the two cannot stand in one table. Name another --workdir"
                )
        for data, row in self.groups():
            self.check(data, row)
        if write and facts.keys() - saved.keys():
            self.workdir.mkdir(parents=True, exist_ok=True)
            _write(file, saved | facts)

    def check(self, data: str, row: str) -> None:
        """Refuses runs of a row that are not those of this plan.

        A row whose model another row trains can be checked only when that has been done: with more settings tried, or
        a failed seed run again, what it was trained on may be another model now.

        Raises:
          CheckpointError: a run has other settings; the message says what to remove.
        """
        for task in [*self._settings(data, row), *self.finals(data, row)]:
            try:
                _check_settings(self.folder(task), self.config(task))
            except CheckpointError as error:
                if not task.trained:
                    raise
                folders = f"{self.workdir / 'search' / data / row} and {self.workdir / 'final' / data / row}"
                raise CheckpointError(
                    f"{error}\n{row} stands beside what {self.spec.rows[row].trained} trained. If that is another run "
                    f"now, remove {folders}: they are made anew"
                ) from error

    def groups(self) -> list[tuple[str, str]]:
        """Data set and row of what is searched together."""
        return [(data, row) for data in self.spec.data for row in self.spec.rows]

    def search(self, data: str, row: str) -> list[Task]:
        """The runs that try settings; none where there is one setting alone, as nothing is to be chosen."""
        tasks = self._settings(data, row)
        return tasks if len(tasks) > 1 else []

    def best(self, data: str, row: str) -> Task | None:
        """The setting with the best validation metric, the first of equals; None where none has come to its end.

        Only to be asked when the search is over.
        """
        if not self.search(data, row):
            return next(iter(self._settings(data, row)), None)
        outcomes = [(task, self.outcome(task)) for task in self.search(data, row)]
        done = [(task, outcome["valid"]) for task, outcome in outcomes if outcome and outcome["status"] == "done"]
        return max(done, key=lambda pair: pair[1])[0] if done else None

    def finals(self, data: str, row: str) -> list[Task]:
        """The runs that are scored on test; none before the search is over, or where it found nothing."""
        if any(self.outcome(task) is None for task in self.search(data, row)):
            return []
        best, trained = self.best(data, row), self.spec.rows[row].trained
        if best is None:
            return []
        final = dataclasses.replace(best, kind="final")
        if trained:
            runs = [
                task for task, outcome in self._outcomes_of(data, trained) if outcome and outcome["status"] == "done"
            ]
            return [
                dataclasses.replace(final, number=run.number, seed=run.seed, trained=self.folder(run)) for run in runs
            ]
        seeds = [self.spec.final_seed(data, row, number) for number in range(self.spec.num_seeds(row))]
        return [dataclasses.replace(final, number=number, seed=seed) for number, seed in enumerate(seeds)]

    def _settings(self, data: str, row: str) -> list[Task]:
        """What is to be tried; of a row beside another row's model, beside that of its first seed that did not fail:
        none before it is known which that is."""
        tries, trained = self.spec.settings_tried(data, row), self.spec.rows[row].trained
        if trained is None:
            seed = self.spec.search_seed(data, row)
            return [Task("search", data, row, number, number, tried, seed) for number, tried in enumerate(tries)]
        runs = self._outcomes_of(data, trained)
        run, outcome = next(((run, out) for run, out in runs if out is None or out["status"] == "done"), (None, None))
        if run is None or outcome is None:
            return []
        return [
            Task("search", data, row, number, number, {**run.tried, **tried}, run.seed, trained=self.folder(run))
            for number, tried in enumerate(tries)
        ]

    def _outcomes_of(self, data: str, row: str) -> list[tuple[Task, dict[str, Any] | None]]:
        return [(task, self.outcome(task)) for task in self.finals(data, row)]

    def progress(self) -> tuple[int, int]:
        """Search and final runs that have ended, and how many there are in all."""
        ended = total = 0
        for data, row in self.groups():
            tries = len(self.spec.settings_tried(data, row))
            tasks = (*self.search(data, row), *self.finals(data, row))
            ended += sum(self.outcome(task) is not None for task in tasks)
            total += (tries if tries > 1 else 0) + self.spec.num_seeds(row)
        return ended, total

    def timings(self) -> list[Task]:
        """The runs that are timed."""
        trained = [(data, row) for data, row in self.groups() if self.spec.rows[row].trained is None]
        tasks = [task for data, row in trained for task in self.finals(data, row)[:1]]
        return [dataclasses.replace(task, kind="timing") for task in tasks] if self.spec.timing else []

    def open_tasks(self) -> Iterator[Task]:
        """Search and final runs that can be worked at now, group by group."""
        for data, row in self.groups():
            yield from self._open_search(data, row)
            yield from (task for task in self.finals(data, row) if self.outcome(task) is None)

    def _open_search(self, data: str, row: str) -> list[Task]:
        tasks = self.search(data, row)
        ended = {task.number for task in tasks if self.outcome(task) is not None}
        prune = self.spec.prune
        if prune is None or self.spec.is_closed_form(row) or self.spec.rows[row].trained:
            return [task for task in tasks if task.number not in ended]
        rungs = {task.number: value for task in tasks if (value := self._rung(task)) is not None}
        early = [task for task in tasks if task.number not in ended and task.number not in rungs]
        if early:
            return [dataclasses.replace(task, num_epochs=prune.epochs) for task in early]
        order = sorted(rungs, key=lambda number: (-rungs[number], number))
        going_on = set(order[: math.ceil(prune.share * len(order))])
        for task in tasks:
            if task.number in rungs and task.number not in going_on and task.number not in ended:
                self.end(task, {"status": "pruned", "valid": rungs[task.number]})
        return [task for task in tasks if task.number in going_on and task.number not in ended]

    def _rung(self, task: Task) -> float | None:
        path = self.folder(task) / _RUNG_FILE
        if not path.exists():
            return None
        value = _read(path).get("valid")
        if not isinstance(value, float) or not math.isfinite(value):
            raise DataError(f"{path}: valid is {value!r}, and must be a number. Remove {path.parent}: {_ANEW}")
        return value


def _outcome(folder: Path) -> dict[str, Any] | None:
    path = folder / OUTCOME_FILE
    if not path.exists():
        return None
    outcome = _read(path)
    value = outcome.get("valid")
    is_number = isinstance(value, float) and math.isfinite(value)
    if outcome.get("status") not in STATUSES or (outcome["status"] == "done" and not is_number):
        raise DataError(f"{path}: status {outcome.get('status')!r}, valid {value!r}. Remove {folder}: {_ANEW}")
    if outcome.get("numerics") != ALIKE_SINCE:
        raise ConfigError(
            f"{folder} was run by numerics version {outcome.get('numerics')}, and new runs are of version "
            f"{ALIKE_SINCE}: their figures cannot stand in one table. Name another --workdir"
        )
    return outcome


def _check_settings(folder: Path, config: ConfigDict) -> None:
    try:
        check_run_folder(folder, config)
    except CheckpointError as error:
        what = str(error).partition("\nName another")[0]
        raise CheckpointError(f"{what}\nName another --workdir for this spec, or remove {folder}: {_ANEW}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}). Remove {path.parent}: {_ANEW}") from error
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with whole_file(path) as temporary:  # several processes may end the same pruned run
        temporary.write_text(json.dumps(value, indent=1), "utf-8")
