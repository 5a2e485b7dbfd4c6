"""From the outcomes of a plan to the files that tables are made of."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from rearm_jax.compare.external import read_external
from rearm_jax.compare.plan import OUTCOME_FILE, USERS_FILE, Plan, Task
from rearm_jax.compare.report import write_report
from rearm_jax.compare.results import read_results, sha256, write_results
from rearm_jax.compare.spec import KEPT_METRICS
from rearm_jax.compare.summary import summarise
from rearm_jax.compare.tables import write_tables
from rearm_jax.compare.work import Datasets
from rearm_jax.data.dataset import group_by_user
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.popularity import found_by_popularity
from rearm_jax.evaluation.slices import by_history, list_measures
from rearm_jax.evaluation.user_metrics import read_user_metrics, user_metrics
from rearm_jax.training.result import ALIKE_SINCE
from rearm_jax.training.writer import versions

_COLUMNS = (
    "valid",
    "epochs",
    "best_epoch",
    "seconds",
    "seconds_to_best",
    "seconds_per_epoch",
    "peak_bytes",
    "device",
    "error",
)
_KINDS: dict[str, Any] = {"device": str | None, "error": str | None, "metrics": dict, "slices": dict}


class External(NamedTuple):
    """Lists of another toolkit, as `--external` names them."""

    row: str
    data: str
    path: str


def parse_external(plan: Plan, words: Sequence[str]) -> list[External]:
    """NAME=lists.parquet, or with several data sets NAME@DATA=lists.parquet.

    Raises:
      ConfigError: a word is not of that form, or names what the spec does not have.
    """
    found = list[External]()
    for word in words:
        name, _, path = word.partition("=")
        row, at, data = name.partition("@")
        if not at and len(plan.spec.data) == 1:
            data = next(iter(plan.spec.data))
        if not row or not path or data not in plan.spec.data:
            raise ConfigError(
                f"--external {word}: must be NAME=FILE, or with several data sets NAME@DATA=FILE; data sets are "
                f"{', '.join(plan.spec.data)}"
            )
        if row in plan.spec.rows or (row, data) in {(lists.row, lists.data) for lists in found}:
            raise ConfigError(f"--external {word}: there is a row {row!r} already")
        found.append(External(row, data, path))
    return found


def check_external(plan: Plan, datasets: Datasets, external: Sequence[External]) -> None:
    """Reads the lists, so that mistakes in them are found before any run.

    Raises:
      DataError: lists cannot be used.
    """
    for lists in external:
        read_external(lists.path, datasets(lists.data), max(plan.spec.ks), plan.spec.split)


def gather(plan: Plan, datasets: Datasets, external: Sequence[External]) -> None:
    """Writes results.parquet, users/ and compare.json of all that has come out, into the plan's workdir.

    Raises:
      DataError: lists of another toolkit cannot be used, or an outcome is damaged.
      CheckpointError: a run has other settings than the plan's.
    """
    spec, runs = plan.spec, list[dict[str, Any]]()
    _say_what_is_left_out(plan, external)
    users: dict[str, dict[tuple[str, int], dict[str, np.ndarray]]] = {}
    about_data: dict[str, Any] = {}
    for name in spec.data:
        dataset = datasets(name)
        about_data[name] = {
            "users": dataset.num_users,
            "items": dataset.num_items,
            **{split: len(getattr(dataset, split)) for split in ("train", "valid", "test")},
            "content_hash": dataset.content_hash,
            "split_hash": dataset.split_hash,
        }
        users[name] = {}
        for row in spec.rows:
            plan.check(name, row)
            for task in _tasks(plan, name, row):
                outcome = plan.outcome(task)
                if outcome is None:
                    continue
                runs.append(_run(plan, task, outcome))
                if task.kind == "final" and outcome["status"] == "done":
                    users[name][row, task.number] = _users(plan.folder(task), outcome)
        for lists in external:
            if lists.data == name:
                run, users[name][lists.row, 0] = _external(lists, datasets, spec.ks, spec.split)
                runs.append(run)
    about = {
        "metric": spec.metric,
        "split": spec.split,
        "select_by": spec.select_by,
        "reference": spec.reference,
        "rows": [*spec.rows, *dict.fromkeys(lists.row for lists in external)],
        "data": about_data,
        "tries": spec.tries,
        "seeds": spec.seeds,
        "command": _command(),
        "version": versions()["rearm_jax"],
        "numerics": ALIKE_SINCE,
    }
    write_results(plan.workdir, about, runs, users)


def write_outputs(folders: Sequence[str | os.PathLike], out: str | os.PathLike) -> None:
    """Makes table.md, table.tex and report.html from the results of one or several workdirs.

    Raises:
      DataError: the results cannot be read, or do not belong together.
      ConfigError: a package of the extra `report` is missing; the tables are there.
    """
    summary = summarise(read_results(folders))
    os.makedirs(out, exist_ok=True)
    write_tables(out, summary)
    write_report(out, summary)
    logging.info("%s: table.md, table.tex, report.html", out)


def _command() -> str:
    """The command that compares, but for what it says of this machine."""
    words = sys.argv[1:]
    kept = [
        word
        for word, before in zip(words, ["", *words], strict=False)
        if not word.startswith("--workers") and before != "--workers"
    ]
    return shlex.join(["python", "-m", "rearm_jax.compare", *kept])


def _say_what_is_left_out(plan: Plan, external: Sequence[External]) -> None:
    """Warns of what is in the tables now, and will not be: lists of another toolkit, seeds, settings."""
    file = plan.workdir / "compare.json"
    before = json.loads(file.read_text("utf-8")).get("rows", []) if file.exists() else []
    for row in sorted(set(before) - set(plan.spec.rows) - {lists.row for lists in external}):
        logging.warning("the row %s is left out of the tables now: neither the spec nor --external has it", row)
    beyond = [
        folder
        for data, row in plan.groups()
        for kind, wanted in (("search", len(plan.spec.settings_tried(data, row))), ("final", plan.spec.num_seeds(row)))
        for folder in sorted((plan.workdir / kind / data / row).glob("*"))
        if (folder / OUTCOME_FILE).exists() and int(folder.name.rpartition("-")[2]) >= wanted
    ]
    if beyond:
        logging.warning(
            "finished runs of more seeds or settings than the spec has are left out of the tables: %d, the first is %s",
            len(beyond),
            beyond[0],
        )


def _users(folder: Path, outcome: Mapping[str, Any]) -> dict[str, np.ndarray]:
    file = folder / USERS_FILE
    if not file.is_file() or sha256(file) != outcome.get("users_sha256"):
        raise DataError(f"{file} is missing, or not what the run wrote. Remove {folder}: the run is made anew")
    return read_user_metrics(file)


def _tasks(plan: Plan, data: str, row: str) -> list[Task]:
    finals = plan.finals(data, row)
    timings = [task for task in plan.timings() if (task.data, task.row) == (data, row)]
    return [*plan.search(data, row), *finals, *timings]


def _run(plan: Plan, task: Task, outcome: Mapping[str, Any]) -> dict[str, Any]:
    run = {
        "data": task.data,
        "row": task.row,
        "model": plan.spec.rows[task.row].model,
        "kind": task.kind,
        "number": task.number,
        "seed": task.seed,
        "settings": json.dumps({**plan.spec.fixed(task.row), **task.tried}),
        "status": outcome["status"],
        "closed_form": plan.spec.is_closed_form(task.row),
        "parameters": outcome.get("parameters"),
        "numerics": outcome["numerics"],
    }
    run |= {name: outcome.get(name) for name in _COLUMNS}
    is_scored = task.kind == "final" and outcome["status"] == "done"
    parts = ("metrics", "slices") if is_scored else ()
    for name in (*_COLUMNS, *parts):
        value: Any = outcome.get(name)
        is_right = isinstance(value, _KINDS.get(name, int | float | None))
        if not is_right or (name == "slices" and not value.keys() >= {"by_history", "by_popularity", "lists"}):
            raise DataError(
                f"{plan.folder(task) / OUTCOME_FILE}: {name} is {value!r}. Remove {plan.folder(task)}: the "
                "run is made anew"
            )
    return run | {name: json.dumps(outcome[name]) for name in parts}


def _external(
    lists: External, datasets: Datasets, ks: tuple[int, ...], split: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The run of lists that came from outside, and its metrics of users."""
    dataset = datasets(lists.data)
    found = read_external(lists.path, dataset, max(ks), split)
    for note in found.notes:
        logging.warning("%s", note)
    positives = group_by_user(getattr(dataset, split), dataset.num_users)
    metrics = user_metrics(found.top_items, found.users, positives, ks)
    metrics = {name: values for name, values in metrics.items() if name.split("@")[0] in KEPT_METRICS}
    slices = {
        "by_history": by_history(metrics, dataset),
        "by_popularity": found_by_popularity(dataset, split, found.users, found.top_items),
        "lists": {
            name: value for k in ks for name, value in list_measures(found.top_items, found.users, dataset, k).items()
        },
    }
    run = {
        "data": lists.data,
        "row": lists.row,
        "model": "external",
        "kind": "external",
        "number": 0,
        "settings": "{}",
        "status": "done",
        "metrics": json.dumps(split_metrics(found.top_items, found.users, positives, ks)),
        "slices": json.dumps(slices),
        "closed_form": False,
        "numerics": ALIKE_SINCE,
    }
    return run, metrics
