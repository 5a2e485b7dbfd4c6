"""Reads interactions in a stream, and numbers users and items."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import polars as pl

from rearm_jax.data.reading import NUMBER, Reading
from rearm_jax.data.tables import ITEM_COLUMNS, as_id, column_names, pick_column, readable, scan_table
from rearm_jax.errors import DataError

USER_COLUMNS = ("user_id", "userId", "reviewerID", "user")
RATING_COLUMNS = ("rating", "overall")
TIME_COLUMNS = ("timestamp", "unixReviewTime", "time")
_MAX_ID_LENGTH = 256  # the files of ids have the width of the longest
_DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.fZ")


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Who interacted with what. Users and items have numbers in the order of their ids: shorter first, then by
    alphabet, so that plain numbers come in their own order; the order of the files' rows does not matter.

    Attributes:
        users, items: int64 (n,), numbers into the ids.
        times: float64 (n,), of any unit; None if they were not asked for.
        user_ids, item_ids: text of each number, numpy `<U`; also of those whose rows all have a low rating.
        num_blank: rows that named neither user nor item.
        num_low: rows with a rating under the least one; they are in none of the arrays.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    num_blank: int
    num_low: int


def read_interactions(
    paths: Sequence[str | os.PathLike],
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    time_column: str | None = None,
    min_rating: float | None = None,
    with_times: bool = False,
    reading: Reading | None = None,
) -> Interactions:
    """Reads the interactions of one or more files, each of any format; 21 bytes an interaction stay in memory.

    Args:
        paths: the files.
        user_column, item_column, rating_column, time_column: names; None: the first of USER_COLUMNS and so on.
        min_rating: rows with a lower one are counted and left out; None: ratings are not looked at.
        with_times: whether times are read: numbers, or dates (ISO 8601 without another zone than Z).
        reading: how text is read; it has the account of every file's lines afterwards.

    Raises:
        DataError: a file cannot be read, a column is not there, or a value is missing or not what it must be; the
            message names file and row.
    """
    user_type, item_type = pl.Categorical(pl.Categories.random()), pl.Categorical(pl.Categories.random())
    reading = reading or Reading()
    wanted = [
        USER_COLUMNS if user_column is None else (user_column,),
        ITEM_COLUMNS if item_column is None else (item_column,),
        RATING_COLUMNS if rating_column is None else (rating_column,),
        TIME_COLUMNS if time_column is None else (time_column,),
    ]
    parts = []
    for path in paths:
        table = scan_table(path, reading, wanted)
        names = column_names(table, path)
        user = pick_column(names, user_column, USER_COLUMNS, path, "users", "--user-column")
        item = pick_column(names, item_column, ITEM_COLUMNS, path, "items", "--item-column")
        columns = {"user": as_id(table, user, path), "item": as_id(table, item, path)}
        sources = {"user": user, "item": item}
        if min_rating is not None:
            rating = pick_column(names, rating_column, RATING_COLUMNS, path, "ratings", "--rating-column")
            number = _as_number(rating)
            columns["low"] = pl.when(number.is_finite()).then(number < min_rating)
            sources["low"] = rating
        if with_times:
            time = pick_column(names, time_column, TIME_COLUMNS, path, "times", "--time-column")
            columns["time"] = _as_time(table, time, path, reading)
            sources["time"] = time
        typed = {**columns, "user": columns["user"].cast(user_type), "item": columns["item"].cast(item_type)}
        with readable(path, reading):
            part = table.select(**typed).collect(engine="streaming")
        _refuse_missing(part, table, columns, sources, path, reading)
        parts.append(part)

    rows = pl.concat(parts)
    num_rows = len(rows)
    rows = rows.filter(pl.col("user").is_not_null())
    num_blank = num_rows - len(rows)
    users, user_ids = _numbered(rows["user"], paths)
    items, item_ids = _numbered(rows["item"], paths)
    times = rows["time"].to_numpy() if with_times else None
    num_low = 0
    if min_rating is not None:
        enough = ~rows["low"].to_numpy()
        num_low = len(rows) - int(enough.sum())
        users, items, times = users[enough], items[enough], None if times is None else times[enough]
    return Interactions(users, items, times, user_ids, item_ids, num_blank, num_low)


def _as_number(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def _as_time(table: pl.LazyFrame, name: str, path: str | os.PathLike, reading: Reading) -> pl.Expr:
    """Finite numbers, or null."""
    column, dtype = pl.col(name), table.collect_schema()[name]
    if dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64)
    with readable(path, reading):
        first = table.select(column.cast(pl.String).drop_nulls().head(1)).collect(engine="streaming")
    if len(first) and not NUMBER.fullmatch(first.item()):
        dates = [column.str.to_datetime(form, time_unit="us", strict=False) for form in _DATE_FORMATS]
        return pl.coalesce(dates).dt.epoch("us").cast(pl.Float64)
    number = _as_number(name)
    return pl.when(number.is_finite()).then(number)


def _refuse_missing(
    part: pl.DataFrame,
    table: pl.LazyFrame,
    columns: dict[str, pl.Expr],
    sources: dict[str, str],
    path: str | os.PathLike,
    reading: Reading,
) -> None:
    """Raises DataError for the first row that lacks a value; rows without user and item are blank, and fine."""
    blank = pl.col("user").is_null() & pl.col("item").is_null()
    bad = ~blank & pl.any_horizontal(pl.col(name).is_null() for name in columns)
    if not part.select(bad.any()).item():
        return
    # Read again, with the values as they are in the file: only now are row numbers worth their time.
    raw = {f"raw {name}": pl.col(source).cast(pl.String) for name, source in sources.items()}
    with readable(path, reading):
        row = table.select(**columns, **raw).with_row_index("row", 1).filter(bad).head(1).collect(engine="streaming")
    name = next(name for name in columns if row[name].item() is None)
    value, where = row[f"raw {name}"].item(), f"{reading.where(path, row['row'].item())}, column {sources[name]!r}"
    if value is None or not value.strip():
        raise DataError(f"{where}: the value is missing; mend the row or remove it")
    wanted = "a finite number" if name == "low" else "a finite number, nor a date such as 2014-05-03T12:00:00"
    raise DataError(f"{where}: {value!r} is not {wanted}")


def _numbered(ids: pl.Series, paths: Sequence[str | os.PathLike]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of categorical ids in the order of the ids, and the ids."""
    seen = pl.DataFrame({"id": ids.unique()}).select(code=pl.col("id").to_physical(), id=pl.col("id").cast(pl.String))
    seen = seen.sort(pl.col("id").str.len_chars(), "id")
    for name, rows in (
        (f"has more than {_MAX_ID_LENGTH} characters", seen.filter(pl.col("id").str.len_chars() > _MAX_ID_LENGTH)),
        ("holds a NUL character", seen.filter(pl.col("id").str.contains("\0", literal=True))),
    ):
        if len(rows):
            raise DataError(
                f"{', '.join(map(str, paths))}: the id {rows['id'][0][:80]!r} {name}; is it the right column?"
            )
    codes = seen["code"].to_numpy()
    number = np.zeros(1 + codes.max(initial=0), np.int64)
    number[codes] = np.arange(len(codes))
    return number[ids.to_physical().to_numpy()], seen["id"].to_numpy().astype(np.str_)
