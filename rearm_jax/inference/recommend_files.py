"""The files around `recommend`: users and exclusions in, lists as JSON lines, CSV or Parquet out.

JSON lines: an object a user, {"user", "source", "items": [{"item", "name", "score", "new"}, ...]}, best first. CSV and
Parquet: a row a place, with the columns user, rank (from 1), item, name, score, source and new. "name" is there where
the catalogue has names, "new" where new items were ranked too. "source" is "model", or "popular" for users who are not
in the catalogue: their scores are numbers of train interactions.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import numpy as np
from absl import logging

from rearm_jax.errors import ConfigError, DataError
from rearm_jax.inference.arguments import Id
from rearm_jax.inference.extras import import_extra
from rearm_jax.inference.new_items import own_new_items, read_new_items
from rearm_jax.inference.output import check_output_file, output_file
from rearm_jax.inference.recommend import Lists, recommend
from rearm_jax.inference.request import Items
from rearm_jax.inference.rules import NO_RULES, Rules, check_rules, read_items_or_pairs, read_text
from rearm_jax.inference.seen import find_seen
from rearm_jax.inference.trained import Trained

FORMATS = ("jsonl", "csv", "parquet")


def recommend_run(
    trained: Trained,
    users: str | Sequence[Id] | None = None,
    k: int = 20,
    format: str = "jsonl",
    out: str | os.PathLike | None = None,
    exclude: str | os.PathLike | None = None,
    unknown: str = "refuse",
    new_items: str | os.PathLike | None = None,
    seen: str | os.PathLike = "all",
    user_column: str | None = None,
    item_column: str | None = None,
    rules: Rules = NO_RULES,
) -> None:
    """Recommends, and writes the lists in UTF-8: to a file whole or not at all, to standard output as they come.

    Args:
      trained: an opened run.
      users: outside ids, or what `parse_users` takes; None: all.
      k: places in a list.
      format: one of FORMATS.
      out: the file; None: standard output (not for Parquet). A file that is there is replaced.
      exclude: a file for `read_items_or_pairs`, or None.
      unknown: "refuse" or "popular", see `recommend`.
      new_items: a folder for `read_new_items`; "none": the catalogue alone; None: those of `own_new_items`.
      seen, user_column, item_column: what users have already, for `find_seen`.
      rules: what may be listed.

    Raises:
      ConfigError, DataError: before anything is ranked, or where `out` cannot be written.
    """
    check_output(format, out)
    check_rules(rules)
    users = parse_users(users) if isinstance(users, str) else users
    never, pairs = read_items_or_pairs(exclude) if exclude is not None else ([], [])
    if new_items is None:
        new = own_new_items(trained)
    else:
        new = read_new_items(new_items, trained) if new_items != "none" else None
    new_ids = [] if new is None else new.ids.tolist()
    bought = find_seen(trained.experiment.dataset, seen, user_column, item_column, new_ids)
    items, lists = recommend(trained, users, k, never, pairs, unknown, new, bought, rules)
    if out is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale says: the next program expects it
        try:
            _write_text(sys.stdout, format, items, lists)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has had enough, as `| head` has; what is left in the buffer goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with output_file(out) as path:
        if format == "parquet":
            _write_parquet(path, items, lists)
        else:
            with open(path, "w", encoding="utf-8", newline="") as file:
                _write_text(file, format, items, lists)
    logging.info("recommendations: %s", out)


def check_output(format: str, out: str | os.PathLike | None) -> None:
    """Raises ConfigError unless lists can be written so: what costs nothing, to be asked before a run is opened."""
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}: must be one of {', '.join(FORMATS)}")
    if format == "parquet":
        import_extra("pyarrow", "export", "Parquet")
        if out is None:
            raise ConfigError("Parquet cannot be written to standard output: name a file")
    if out is not None:
        check_output_file(out)


def parse_users(text: str) -> list[str]:
    """User ids from a file, one a line, or where there is no file of that name, from the text itself: "A17,B4".

    Raises:
      DataError: the file cannot be read or names nobody.
    """
    path = os.path.expanduser(text)
    if os.path.isfile(path):
        users = [line for line in read_text(path).split("\n") if line]
    else:
        users = [user.strip() for user in text.split(",")]
    if not users or "" in users:
        raise DataError(f"users is {text!r}: name a file with a user id a line, or ids with commas between them")
    return users


def as_objects(items: Items, lists: Lists) -> Iterator[dict]:
    """The lists as the objects of JSON lines, described at the top of this file."""
    for user, listed, scores in zip(lists.users, lists.items.tolist(), lists.scores, strict=True):
        places = []
        for item, score in zip(listed, scores, strict=True):
            if item < 0:
                break
            place = {"item": items.ids[item].item()}
            if items.names is not None:
                place["name"] = str(items.names[item])
            place["score"] = float(f"{score:.9g}")  # nine digits are enough to tell float32 apart
            if items.num_new:
                place["new"] = item >= items.first_new
            places.append(place)
        yield {"user": user, "source": lists.source, "items": places}


def _write_text(file: TextIO, format: str, items: Items, lists: Iterable[Lists]) -> None:
    if format == "jsonl":
        for some in lists:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in as_objects(items, some))
        return
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_columns(items))
    for some in lists:
        columns = _as_columns(items, some)
        columns["score"] = np.array([f"{score:.9g}" for score in columns["score"]])
        if items.num_new:
            columns["new"] = np.where(columns["new"], "true", "false")
        writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(path: str | os.PathLike, items: Items, lists: Iterable[Lists]) -> None:
    """A row group for each block of users."""
    pyarrow, parquet = (import_extra(name, "export", "Parquet") for name in ("pyarrow", "pyarrow.parquet"))
    types = {
        "user": None,
        "rank": pyarrow.int32(),
        "item": pyarrow.string() if items.ids.dtype.kind == "U" else pyarrow.int64(),
        "name": pyarrow.string(),
        "score": pyarrow.float32(),
        "source": pyarrow.string(),
        "new": pyarrow.bool_(),
    }
    writer = None
    try:
        for some in lists:
            columns = _as_columns(items, some)
            types["user"] = types["user"] or (pyarrow.string() if isinstance(some.users[0], str) else pyarrow.int64())
            schema = pyarrow.schema([(name, types[name]) for name in columns])
            writer = writer or parquet.ParquetWriter(path, schema)
            writer.write_table(pyarrow.table(columns, schema))
    finally:
        if writer:
            writer.close()


def _columns(items: Items) -> list[str]:
    optional = {"name": items.names is not None, "new": bool(items.num_new)}
    return [c for c in ("user", "rank", "item", "name", "score", "source", "new") if optional.get(c, True)]


def _as_columns(items: Items, lists: Lists) -> dict[str, np.ndarray]:
    """One entry a filled place."""
    rows, ranks = np.nonzero(lists.items >= 0)
    listed = lists.items[rows, ranks]
    users = np.array(lists.users)
    columns = {"user": users[rows], "rank": ranks + 1, "item": items.ids[listed]}
    if items.names is not None:
        columns["name"] = items.names[listed].astype(str)
    columns |= {"score": lists.scores[rows, ranks], "source": np.full(len(rows), lists.source)}
    if items.num_new:
        columns["new"] = listed >= items.first_new
    return columns
