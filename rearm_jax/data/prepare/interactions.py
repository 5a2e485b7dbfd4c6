"""Reads interactions in a stream, and numbers users and items."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from absl import logging

from rearm_jax.data.prepare.frames import ITEM_COLUMNS
from rearm_jax.data.prepare.ids import check_ids, cut_blanks, missing_words, nested_ids
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.tables import as_id, column_names, pick_column, readable, scan_table
from rearm_jax.data.prepare.times import as_number, as_times, refuse_mixed_units
from rearm_jax.errors import DataError, shown

USER_COLUMNS = ("user_id", "userId", "reviewerID", "user")
RATING_COLUMNS = ("rating", "overall")
TIME_COLUMNS = ("timestamp", "unixReviewTime", "time")


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Who interacted with what. Users and items have numbers in the order of their ids: shorter first, then by
    alphabet, so that plain numbers come in their own order; the order of the files' rows does not matter.

    Attributes:
        users, items: int64 (n,), numbers into the ids.
        times: float64 (n,), of any unit; None if they were not asked for.
        user_ids, item_ids: text of each number, numpy `<U`; also of those whose rows all have a low rating.
        num_blank: rows that held nothing in any column.
        num_low: rows with a rating under the least one; they are in none of the arrays.
        num_cut: ids of users and of items, row by row, that had blanks around them.
        num_naive: times without an offset from UTC, taken as UTC, where other times have one; 0 where none has.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    num_blank: int
    num_low: int
    num_cut: int
    num_naive: int


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
        with_times: whether times are read: numbers, or dates (times.py).
        reading: how text is read; it has the account of every file's lines afterwards.

    Raises:
        DataError: a file cannot be read, a column is not there, a value is missing or not what it must be (the message
            names file and row), or one id has two spellings.
    """
    user_type, item_type = pl.Categorical(pl.Categories.random()), pl.Categorical(pl.Categories.random())
    reading = reading or Reading()
    wanted = [
        USER_COLUMNS if user_column is None else (user_column,),
        ITEM_COLUMNS if item_column is None else (item_column,),
        RATING_COLUMNS if rating_column is None else (rating_column,),
        TIME_COLUMNS if time_column is None else (time_column,),
    ]
    parts, num_cut = [], 0
    names_of: dict[str, list[str]] = {"user": [*USER_COLUMNS], "item": [*ITEM_COLUMNS]}
    for path in paths:
        table = scan_table(path, reading, wanted)
        names = column_names(table, path)
        user = pick_column(names, user_column, USER_COLUMNS, path, "users", "user_column")
        item = pick_column(names, item_column, ITEM_COLUMNS, path, "items", "item_column")
        if user == item:
            raise DataError(f"{path}: the column {user!r} is taken for users and for items; name another one")
        raw = {"user": as_id(table, user, path), "item": as_id(table, item, path)}
        columns = {side: cut_blanks(text) for side, text in raw.items()}
        sources = {"user": user, "item": item}
        names_of = {side: [*names_of[side], sources[side]] for side in names_of}
        if min_rating is not None:
            rating = pick_column(names, rating_column, RATING_COLUMNS, path, "ratings", "rating_column")
            if (dtype := table.collect_schema()[rating]).is_nested():
                raise DataError(f"{path}: column {rating!r} is {dtype}; ratings must be numbers")
            columns["low"] = as_number(rating) < min_rating
            sources["low"] = rating
        if with_times:
            time = pick_column(names, time_column, TIME_COLUMNS, path, "times", "time_column")
            columns["time"] = as_times(table, time, path, reading)
            sources["time"] = time
        typed = {**columns, "user": columns["user"].cast(user_type), "item": columns["item"].cast(item_type)}
        are_cut = {f"{side} is cut": text != columns[side] for side, text in raw.items()}
        with readable(path, reading):
            part = table.select(**typed, **are_cut).collect(engine="streaming")
        part = part.unnest("time") if with_times else part
        _refuse_missing(part, table, columns, sources, path, reading)
        num_cut += sum(int(part[name].sum()) for name in are_cut)
        parts.append(part.drop(are_cut))

    num_naive = _count_naive(parts, paths) if with_times else 0
    if with_times and all(part["has_offset"].null_count() == len(part) for part in parts):
        refuse_mixed_units([part["time"].to_numpy() for part in parts], paths, reading)
    rows = pl.concat(parts)
    num_rows = len(rows)
    rows = rows.filter(pl.col("user").is_not_null())
    num_blank = num_rows - len(rows)
    quotes = not any(reading.quote_of(os.fspath(path)) == "none" for path in paths)

    def numbered(side: str) -> tuple[np.ndarray, pl.Series]:
        def place(name: str) -> str:
            path, row, _ = next(_rows_with(parts, paths, {side: [name]}))
            return reading.where(path, row)

        return _numbered(rows[side], paths, quotes, place)

    users, user_ids = numbered("user")
    items, item_ids = numbered("item")
    _refuse_no_ids(parts, paths, {"user": user_ids, "item": item_ids}, names_of, reading)
    times = rows["time"].to_numpy() if with_times else None
    num_low = 0
    if min_rating is not None:
        enough = ~rows["low"].to_numpy()
        num_low = len(rows) - int(enough.sum())
        users, items, times = users[enough], items[enough], None if times is None else times[enough]
    user_names, item_names = (ids.to_numpy().astype(np.str_) for ids in (user_ids, item_ids))
    return Interactions(users, items, times, user_names, item_names, num_blank, num_low, num_cut, num_naive)


def _refuse_missing(
    part: pl.DataFrame,
    table: pl.LazyFrame,
    columns: dict[str, pl.Expr],
    sources: dict[str, str],
    path: str | os.PathLike,
    reading: Reading,
) -> None:
    """Raises DataError for the first row that lacks a value; a row with nothing in any column is blank, and fine."""
    if not any(part[name].has_nulls() for name in columns):
        return
    # Read again, with the values as they are in the file: only now are row numbers and other columns worth their time.
    raw = {f"raw {name}": pl.col(source).cast(pl.String) for name, source in sources.items()}
    checked = table.select(**columns, **raw, blank=pl.all_horizontal(pl.all().is_null())).with_row_index("row", 1)
    checked = checked.unnest("time") if "time" in columns else checked
    bad = ~pl.col("blank") & pl.any_horizontal(pl.col(name).is_null() for name in columns)
    with readable(path, reading):
        row = checked.filter(bad).head(1).collect(engine="streaming")
    if not len(row):
        return
    name = next(name for name in columns if row[name].item() is None)
    value, place = row[f"raw {name}"].item(), row["row"].item()
    where = f"{reading.where(path, place)}, column {sources[name]!r}"
    if value is None or not value.strip() or name in ("user", "item"):
        raise DataError(f"{where}: the value is missing; mend the row or remove it{reading.line(path, place)}")
    if name == "time" and value.strip().lstrip("+-").isdecimal() and int(float(value)) != int(value):
        raise DataError(
            f"{where}: {value!r} has more digits than float64 holds, and the order of the times would change; give the "
            f"times in a larger unit, such as microseconds{reading.line(path, place)}"
        )
    wanted = "a finite number" if name == "low" else "a finite number, nor a date such as 2014-05-03T12:00:00"
    raise DataError(f"{where}: {value!r} is not {wanted}{reading.line(path, place)}")


def _refuse_no_ids(
    parts: Sequence[pl.DataFrame],
    paths: Sequence[str | os.PathLike],
    ids: Mapping[str, pl.Series],
    names_of: Mapping[str, Sequence[str]],
    reading: Reading,
) -> None:
    """Raises DataError for a row whose ids are none: a word for a missing value, a list or an object of JSON, or the
    names of columns, which are the header again, in whatever spelling.

    Args:
        parts: the rows of each path, with the ids as categories.
        ids: all that there are, of "user" and of "item".
        names_of: names of the columns of ids.
    """
    where = ", ".join(map(str, paths))
    for side, found in ids.items():
        if words := missing_words(found, where):
            path, row, (word,) = next(_rows_with(parts, paths, {side: words}))
            raise DataError(
                f"{reading.where(path, row)}: the id of the {side} is {word!r}, which programs write for a missing "
                f"one; mend the row or remove it{reading.line(path, row)}"
            )
        for path, row, (nested,) in _rows_with(parts, paths, {side: nested_ids(found)}):
            if reading.is_object(path):
                raise DataError(
                    f"{reading.where(path, row)}: the id of the {side} is a list or an object, {shown(nested)}; ids "
                    f"must be text or whole numbers{reading.line(path, row)}"
                )
    headers = {}
    for side, found in ids.items():
        plain = found.str.to_lowercase().str.strip_suffix(":token")
        headers[side] = found.filter(plain.is_in([name.lower() for name in names_of[side]])).to_list()
    for path, row, _ in _rows_with(parts, paths, headers):
        raise DataError(
            f"{reading.where(path, row)}: names of columns in the place of ids, the header again; remove the row"
            f"{reading.line(path, row)}"
        )


def _rows_with(
    parts: Sequence[pl.DataFrame], paths: Sequence[str | os.PathLike], wanted: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str | os.PathLike, int, tuple[str, ...]]]:
    """Of each path the first row, from 1, that has one of some ids on each side, and those ids."""
    if not all(wanted.values()):
        return
    for path, part in zip(paths, parts, strict=True):
        texts = part.lazy().select(pl.col(side).cast(pl.String) for side in wanted).with_row_index("row", 1)
        has_all = pl.all_horizontal(pl.col(side).is_in(list(ids)) for side, ids in wanted.items())
        for row, *ids in texts.filter(has_all).head(1).collect().rows():
            yield path, row, tuple(ids)


def _count_naive(parts: Sequence[pl.DataFrame], paths: Sequence[str | os.PathLike]) -> int:
    """Dates without an offset, where others have one.

    Raises:
        DataError: one file has numbers, and another dates.
    """
    numbers, dates, num_naive, num_with_offset = [], [], 0, 0
    for path, part in zip(paths, parts, strict=True):
        is_date = part["has_offset"].is_not_null()
        if is_date.any():
            dates.append(path)
        elif part["time"].is_not_null().any():
            numbers.append(path)
        num_with = int(part["has_offset"].sum())
        num_with_offset += num_with
        num_naive += int(is_date.sum()) - num_with
    if dates and numbers:
        raise DataError(f"{numbers[0]} has numbers as times, and {dates[0]} has dates: give all files the same kind")
    if not (num_with_offset and num_naive):
        return 0
    logging.warning("%d times have no offset from UTC, where %d have one: taken as UTC", num_naive, num_with_offset)
    return num_naive


def _numbered(
    ids: pl.Series, paths: Sequence[str | os.PathLike], quotes: bool, place: Callable[[str], str]
) -> tuple[np.ndarray, pl.Series]:
    """Numbers of categorical ids in the order of the ids, and the ids. `quotes` and `place` are those of check_ids."""
    seen = pl.DataFrame({"id": ids.unique()}).select(code=pl.col("id").to_physical(), id=pl.col("id").cast(pl.String))
    seen = seen.sort(pl.col("id").str.len_chars(), "id")
    check_ids(seen["id"], ", ".join(map(str, paths)), quotes, place)
    codes = seen["code"].to_numpy()
    number = np.zeros(1 + codes.max(initial=0), np.int64)
    number[codes] = np.arange(len(codes))
    return number[ids.to_physical().to_numpy()], seen["id"]
