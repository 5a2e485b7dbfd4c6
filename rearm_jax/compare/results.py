"""What a comparison found, as files that tables and report are made from: results.parquet, users/, compare.json.

    results.parquet      a row a run, see RUN
    users/DATA.parquet   metrics of users, a row a user of the data set in its order, without ids; null without a
                         positive; float32 columns "ROW/NUMBER/METRIC"
    compare.json         what was compared: data sets with their hashes, rows, metric, reference, command, versions

compare.json is written last, with the digests of the others, so that files of two writings are not read as one.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rearm_jax.errors import ConfigError, DataError
from rearm_jax.evaluation.user_metrics import read_user_metrics, write_user_metrics
from rearm_jax.files import whole_file, whole_folder

RUN = {
    "data": pl.String,
    "row": pl.String,  # name in the table: a model with its variant
    "model": pl.String,  # config.model.name, or "external"
    "kind": pl.String,  # one of KINDS
    "number": pl.Int64,  # of the setting tried, or of the seed
    "seed": pl.Int64,
    "settings": pl.String,  # JSON, dotted name -> value: fixed by the row, and tried; {} is the defaults
    "status": pl.String,  # one of STATUSES
    "error": pl.String,
    "valid": pl.Float64,  # the validation metric that chose
    "metrics": pl.String,  # JSON, {"recall@20": ...}, on the split that is compared; of final and external alone
    "slices": pl.String,  # JSON, {"by_history", "by_popularity", "lists"}
    "epochs": pl.Int64,
    "best_epoch": pl.Int64,
    "seconds": pl.Float64,
    "seconds_to_best": pl.Float64,
    "seconds_per_epoch": pl.Float64,
    "peak_bytes": pl.Int64,
    "parameters": pl.Int64,
    "device": pl.String,  # kind of the run's devices: cpu, NVIDIA H200; null where nothing noted it
    "closed_form": pl.Boolean,  # one seed is all there is
    "numerics": pl.Int64,
}
KINDS = ("search", "final", "timing", "external")
STATUSES = ("done", "failed", "pruned")
SCORED = ("final", "external")  # kinds of runs that are compared
_SAME = ("metric", "split", "numerics", "select_by")  # what folders that are joined must agree about
_ABOUT = {"metric", "split", "reference", "rows", "data", "tries", "seeds", "command", "version", "numerics", "files"}
_ABOUT |= {"select_by"}
_ANEW = "give the comparison's command again, which makes it anew"


@dataclasses.dataclass(frozen=True)
class Results:
    """Of one or several workdirs.

    Attributes:
        about: "metric", "split", "reference", "select_by", "numerics", "rows" (in order), "data" (name -> sizes and
            hashes), and "sources", a dict a workdir: its "folder", "rows", "data" (names), "tries", "seeds", "command",
            "version".
        runs: a row a run, columns RUN.
        users: data set -> row -> metric -> float32 (seeds, users with a positive); of the rows that have a final run.
    """

    about: dict[str, Any]
    runs: pl.DataFrame
    users: dict[str, dict[str, dict[str, np.ndarray]]]


def write_results(
    folder: str | os.PathLike,
    about: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    users: Mapping[str, Mapping[tuple[str, int], Mapping[str, np.ndarray]]],
) -> None:
    """Writes the files of a comparison into its workdir, in the place of older ones.

    Args:
        folder: the workdir, which may hold other things.
        about: becomes compare.json: "metric", "split" ("test" or "valid"), "reference", "rows", "data", "tries",
            "seeds", "command", "version", "numerics", "select_by".
        runs: a dict a run, its keys those of RUN; what is left out is null.
        users: data set -> (row, number) -> metric -> float (num_users,), NaN without a positive: what `user_metrics`
            gives, of each final run that is done.

    Raises:
        ConfigError: the name of a data set cannot be that of a file.
        ValueError: a run has other keys.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    for data in about["data"]:
        if not re.fullmatch(r"\w[\w. -]*", data):
            raise ConfigError(f"data set {data!r}: its name becomes that of a file; use letters, digits, _, . and -")
    if unknown := {name for run in runs for name in run} - RUN.keys():
        raise ValueError(f"a run has {sorted(unknown)}, and its keys are {list(RUN)}")
    table, digests = pl.DataFrame([dict(run) for run in runs], schema=RUN), {}
    with whole_folder(folder / "users", replace=True) as temporary:
        for data, runs_of_data in users.items():
            columns = {
                f"{row}/{number}/{metric}": values
                for (row, number), metrics in runs_of_data.items()
                for metric, values in metrics.items()
            }
            write_user_metrics(temporary / f"{data}.parquet", columns)
            digests[f"users/{data}.parquet"] = sha256(temporary / f"{data}.parquet")
    with whole_file(folder / "results.parquet") as temporary:
        table.write_parquet(temporary, compression="zstd")
        digests["results.parquet"] = sha256(temporary)
    with whole_file(folder / "compare.json") as temporary:
        temporary.write_text(json.dumps({**about, "files": digests}, indent=1, ensure_ascii=False), "utf-8")


def read_results(folders: Sequence[str | os.PathLike]) -> Results:
    """The results of workdirs that hold other data sets or other rows, joined; the reference row is the first one's.

    Raises:
        DataError: names folder and value: a file is missing or damaged, or two folders disagree about a data set, the
            metric, how settings were chosen or the numerics version, or both have the same row on the same data.
    """
    parts = [_read(Path(folder)) for folder in folders]
    first, rows, data = parts[0].about, list[str](), dict[str, Any]()
    owners: dict[tuple[str, str], str] = {}
    for part in parts:
        [source] = part.about["sources"]
        _refuse_disagreement(part.about, first, data, [other.about["sources"][0] for other in parts])
        for pair in itertools.product(part.about["data"], part.about["rows"]):
            if pair in owners:
                raise DataError(
                    f"{owners[pair]} and {source['folder']} both have the row {pair[1]!r} on {pair[0]}: leave one of "
                    "the folders out, or name the row differently in one of the specs"
                )
            owners[pair] = source["folder"]
        rows += [row for row in part.about["rows"] if row not in rows]
        data |= {name: about for name, about in part.about["data"].items() if name not in data}
    users: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for part in parts:
        for name, found in part.users.items():
            users.setdefault(name, {}).update(found)
    sources = [part.about["sources"][0] for part in parts]
    about = {**first, "rows": rows, "data": data, "sources": sources}
    return Results(about, pl.concat([part.runs for part in parts]), users)


def _read(folder: Path) -> Results:
    try:
        about = json.loads((folder / "compare.json").read_text("utf-8"))
        if not isinstance(about, dict) or not about.keys() >= _ABOUT or not isinstance(about["files"], dict):
            raise ValueError(f"it must be an object with {', '.join(sorted(_ABOUT))}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / 'compare.json'}: cannot be read ({error}). A workdir has tables once its comparison has come "
            "to its end or was stopped: give the comparison's command again"
        ) from error
    for name, digest in about.pop("files").items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise DataError(f"{folder / name}: is missing, or not what compare.json was written with; {_ANEW}")
    runs = pl.read_parquet(folder / "results.parquet", glob=False)
    _check_runs(folder / "results.parquet", about, runs)
    source = {"folder": str(folder), "rows": about["rows"], "data": list(about["data"])}
    source |= {name: about.pop(name) for name in ("tries", "seeds", "command", "version")}
    users = {}
    for data in about["data"]:
        scored = runs.filter(
            (pl.col("data") == data) & (pl.col("status") == "done") & pl.col("kind").is_in(SCORED)
        ).sort("number")
        if len(scored):
            of_rows = _numbers_of_rows(scored)
            users[data] = _read_users(folder / "users" / f"{data}.parquet", about["data"][data]["users"], of_rows)
            for row, metrics in users[data].items():
                if about["metric"] not in metrics:
                    raise DataError(
                        f"{folder / 'users' / data}.parquet: {row} has {', '.join(metrics)}, and the rows are compared "
                        f"by {about['metric']}; {_ANEW}"
                    )
    return Results({**about, "sources": [source]}, runs, users)


def _check_runs(path: Path, about: Mapping[str, Any], runs: pl.DataFrame) -> None:
    if dict(runs.schema) != RUN:
        other = [f"{name} ({kind})" for name, kind in runs.schema.items() if RUN.get(name) != kind]
        missing = [name for name in RUN if name not in runs.columns]
        raise DataError(f"{path}: columns are not those of runs: missing {missing}, others {other}; {_ANEW}")
    allowed = {"data": about["data"], "row": about["rows"], "kind": KINDS, "status": STATUSES}
    allowed["numerics"] = (about["numerics"],)
    for column, values in allowed.items():
        odd = runs.filter(~pl.col(column).is_in(list(values)))[column]
        if len(odd):
            raise DataError(
                f"{path}: {column} is {odd[0]!r}, and compare.json has {', '.join(map(str, values))}; {_ANEW}"
            )
    twice = runs.filter(pl.struct("data", "row", "kind", "number").is_duplicated())
    if len(twice):
        run = twice.select("data", "row", "kind", "number").row(0)
        raise DataError(f"{path}: the run {run} is there twice; {_ANEW}")


def _numbers_of_rows(scored: pl.DataFrame) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for row, number in scored.select("row", "number").iter_rows():
        numbers.setdefault(row, []).append(number)
    return numbers


def _read_users(path: Path, num_users: int, numbers: Mapping[str, Sequence[int]]) -> dict[str, dict[str, np.ndarray]]:
    """Row -> metric -> float32 (seeds, users with a positive), in the order of the numbers."""
    table = read_user_metrics(path)
    without = np.isnan(next(iter(table.values())))
    for name, values in table.items():
        if len(values) != num_users:
            raise DataError(f"{path}: has {len(values)} rows, and the data set {num_users} users; {_ANEW}")
        if not np.array_equal(np.isnan(values), without):
            raise DataError(f"{path}: {name} is not of the same users as {next(iter(table))}; {_ANEW}")
    if num_users - without.sum() < 2:
        raise DataError(f"{path}: fewer than two users have a positive; a comparison needs more interactions to find")
    columns: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, values in table.items():
        row, text, metric = name.rsplit("/", 2)
        columns.setdefault((row, int(text)), {})[metric] = values[~without]
    users = {}
    for row, of_row in numbers.items():
        for number in of_row:
            if (row, number) not in columns:
                raise DataError(f"{path}: has no metrics of {row}, number {number}, though that run is done; {_ANEW}")
        users[row] = {metric: np.stack([columns[row, n][metric] for n in of_row]) for metric in columns[row, of_row[0]]}
    return users


def _refuse_disagreement(
    about: Mapping[str, Any], first: Mapping[str, Any], data: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> None:
    """Raises DataError if a folder cannot be joined with the first one and with the `data` of all before it."""
    folder, first_folder = about["sources"][0]["folder"], first["sources"][0]["folder"]
    for field in _SAME:
        if about[field] != first[field]:
            raise DataError(
                f"{first_folder} has {field} {first[field]}, {folder} has {about[field]}: rows of the two cannot stand "
                "in one table; leave one of the folders out, or run one of the comparisons again"
            )
    for name, facts in about["data"].items():
        for field, value in facts.items():
            if name in data and data[name][field] != value:
                owner = next(source["folder"] for source in sources if name in source["data"])
                raise DataError(
                    f"{owner} has {field} {data[name][field]} of the data set {name}, {folder} has {value}: the data "
                    "are not the same; give one of them another name, or run one of the comparisons again"
                )


def sha256(path: Path) -> str:
    """Of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
