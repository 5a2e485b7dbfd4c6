"""Lists of other toolkits, checked so that they can stand beside ours: what a mistake would hide is refused.

A Parquet file with a row a place: `user` and `item`, ids outside (text or integers, compared as text), `rank` from 1.
"""

import os
from typing import NamedTuple

import numpy as np
import polars as pl

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import DataError

COLUMNS = ("user", "item", "rank")


class External(NamedTuple):
    """Lists for a data set.

    Attributes:
        top_items: int32 (users, k), best first; -1 is an empty place.
        users: int32 (users,), all users with a positive in the split, ascending.
        notes: what there is to say about them.
    """

    top_items: np.ndarray
    users: np.ndarray
    notes: list[str]


def read_external(path: str | os.PathLike, dataset: Dataset, k: int, split: str = "test") -> External:
    """Reads lists, in the form that `user_metrics`, `split_metrics` and `list_measures` take.

    Users of the split without a list find nothing: all their places are empty. Lists of other users are not scored.

    Args:
        path: the Parquet file.
        dataset: whose outside ids the file has, and whose train items no list may hold.
        k: places of a list that are scored, the largest cut-off.
        split: whose users are scored.

    Raises:
        DataError: the file cannot be read, lacks a column, holds an unknown id, a train item of its user, an item or a
            rank twice for a user, or leaves out a rank; names file, row (from 0) and value.
    """
    file = os.fspath(path)
    table = _read(file)
    table = table.with_columns(
        _numbers("user", dataset.labels.user_ids).alias("u"), _numbers("item", dataset.labels.item_ids).alias("i")
    )
    for column, number in (("user", "u"), ("item", "i")):
        what = f"{{{column}!r}} is no {column} of the data set; use the ids that the data set was made from"
        _refuse(table.filter(pl.col(number).is_null()), file, f"{column} {what}")
    _refuse(table.filter(pl.col("rank") < 1), file, "rank {rank}; ranks count from 1, the best")
    for column, does in (("rank", "has rank {rank} twice"), ("item", "has item {item!r} twice")):
        again = table.filter(pl.struct("user", column).is_duplicated() & ~pl.struct("user", column).is_first_distinct())
        _refuse(again, file, f"user {{user!r}} {does}; give each place and each item of a list once")
    ends = table.with_columns(pl.len().over("u").alias("places"), (pl.col("rank") > pl.len().over("u")).alias("beyond"))
    _refuse(
        ends.filter("beyond"),
        file,
        "user {user!r} has {places} places and rank {rank}; ranks must run from 1 without leaving one out",
    )
    train = pl.DataFrame(dataset.train, schema={"u": pl.Int32, "i": pl.Int32})
    _refuse(
        table.join(train, on=["u", "i"], how="semi", maintain_order="left"),
        file,
        "user {user!r} has item {item!r}, which is in train; leave train items out, as ours are left out",
    )

    users = np.unique(getattr(dataset, split)[:, 0]).astype(np.int32)
    top_items = np.full((dataset.num_users, k), -1, np.int32)
    scored = table.filter(pl.col("rank") <= k)
    top_items[scored["u"].to_numpy(), scored["rank"].to_numpy() - 1] = scored["i"].to_numpy()
    return External(top_items[users], users, _notes(file, table, users, k, split))


def _read(file: str) -> pl.DataFrame:
    """Columns user and item as text, rank, and row, the number of the row in the file."""
    try:
        table = pl.read_parquet(file, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({error})") from error
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise DataError(
            f"{file}: there is no column {missing[0]}; the columns are {', '.join(table.columns)}, and must be user, "
            "item and rank"
        )
    if not len(table):
        raise DataError(f"{file}: there are no rows; write a row for each place of each list")
    table = table.select(COLUMNS).with_row_index("row")
    for name in COLUMNS:
        kind = table.schema[name]
        is_text = kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)
        if not (kind.is_integer() or (is_text and name != "rank")):
            wanted = "integers" if name == "rank" else "text or integers"
            raise DataError(f"{file}: column {name} is of type {kind}; save it as {wanted}")
        _refuse(table.filter(pl.col(name).is_null()), file, f"{name} is empty; give every row one")
    return table.with_columns(pl.col("user", "item").cast(pl.String))


def _numbers(column: str, ids: np.ndarray) -> pl.Expr:
    """Numbers in the data set of outside ids, null for those that it does not have."""
    text = pl.Series([str(value) for value in ids.tolist()])
    rows = pl.Series(range(len(ids)), dtype=pl.Int32)
    return pl.col(column).replace_strict(text, rows, default=None, return_dtype=pl.Int32)


def _refuse(wrong: pl.DataFrame, file: str, message: str) -> None:
    """Raises DataError about the first of some rows, whose values fill in the message."""
    if len(wrong):
        first = wrong.sort("row").row(0, named=True)
        more = f" ({len(wrong):,} rows in all)" if len(wrong) > 1 else ""
        raise DataError(f"{file}, row {first['row']}: {message.format(**first)}{more}")


def _notes(file: str, table: pl.DataFrame, users: np.ndarray, k: int, split: str) -> list[str]:
    lengths = table.group_by("u").agg(pl.len().alias("places"))
    is_scored = lengths["u"].is_in(pl.Series(users).implode())
    scored = lengths.filter(is_scored)
    said = {
        f"users of {split} have no list: they find nothing": len(users) - len(scored),
        f"lists are of users without a {split} interaction: not scored": len(lengths) - len(scored),
        f"lists are shorter than {k}, the largest cut-off: their empty places find nothing": (
            scored["places"] < k
        ).sum(),
        f"lists are longer than {k}: what is beyond is not scored": (scored["places"] > k).sum(),
    }
    return [f"{file}: {count:,} {what}" for what, count in said.items() if count]
