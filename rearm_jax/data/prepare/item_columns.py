"""What a catalogue says about the items of the interactions: names and texts from tables, pictures from a folder.
Everything comes back in the order of `item_ids`, with what is missing as None or empty."""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Sequence

import numpy as np
import polars as pl

from rearm_jax.data.prepare.frames import ITEM_COLUMNS
from rearm_jax.data.prepare.ids import cut_blanks, missing_words, nested_ids, refuse_two_spellings
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.tables import as_id, column_names, pick_column, readable, scan_table
from rearm_jax.errors import DataError

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")
_MAX_NAME_LENGTH = 200  # the file of names has the width of the longest


def read_item_columns(
    paths: Sequence[str | os.PathLike],
    columns: Sequence[str],
    item_ids: np.ndarray,
    id_column: str | None = None,
    reading: Reading | None = None,
    as_parts: bool = False,
) -> tuple[dict[str, list], dict[str, int], np.ndarray]:
    """Texts of the items. Lists (Parquet, JSON) become their parts with spaces between; where several rows have the
    same item the first counts, in the order of the files.

    Args:
        paths: tables of items; every one has all the columns.
        columns: names.
        item_ids: text (num_items,).
        id_column: None: the first of ITEM_COLUMNS that there is.
        reading: how text is read; it has the account of every file's lines afterwards.
        as_parts: of each value the list of its parts, in the place of one text.

    Returns:
        column -> num_items texts, "" where there is none (or lists of texts); counts: "absent", of `item_ids` without a
        row; "others", in the tables, but not in `item_ids`; "again", rows left out because their item had one already;
        "blank", rows with nothing in any column; "cut", ids that had blanks around them. And which items
        have a row, bool (num_items,).

    Raises:
        DataError: a file cannot be read, a column is not there, an id is empty or has two spellings.
    """
    wanted = pl.LazyFrame({"id": item_ids, "number": np.arange(len(item_ids))})
    reading = reading or Reading()
    wanted_columns = [ITEM_COLUMNS if id_column is None else (id_column,), *((column,) for column in columns)]
    texts: dict[str, list] = {column: [[] if as_parts else ""] * len(item_ids) for column in columns}
    has_row = np.zeros(len(item_ids), bool)
    others = [pl.Series([], dtype=pl.String)]
    counts = dict.fromkeys(("absent", "others", "again", "blank", "cut"), 0)
    for path in paths:
        table = scan_table(path, reading, wanted_columns)
        names = column_names(table, path)
        item = pick_column(names, id_column, ITEM_COLUMNS, path, "items", "item_id_column")
        raw = as_id(table, item, path)
        chosen = {
            f"column {column}": _as_text(table, pick_column(names, column, (), path, "", "")) for column in columns
        }
        read = table.select(
            id=cut_blanks(raw),
            is_cut=raw != cut_blanks(raw),
            **chosen,
        ).with_row_index("row", 1)
        matched = read.join(wanted, on="id", how="left")
        matched = matched.with_columns(  # texts that nobody wants take no memory
            pl.when(pl.col("number").is_not_null()).then(pl.col(name)) for name in chosen
        )
        with readable(path, reading):
            rows = matched.collect(engine="streaming").sort("row")
        if rows["id"].has_nulls():
            _refuse_empty_ids(table, item, path, reading)
        others.append(rows.filter(pl.col("number").is_null())["id"].drop_nulls())
        _refuse_no_ids(rows.select("row", "id"), others[-1], item, path, reading)
        quotes = reading.quote_of(os.fspath(path)) != "none"
        refuse_two_spellings(others[-1], f"{path}, column {item!r}", pl.Series(item_ids), "the interactions", quotes)
        of_items = rows.drop_nulls("number")
        first = of_items.unique("number", keep="first", maintain_order=True)
        first = first.filter(~pl.Series(has_row)[first["number"]])
        has_row[first["number"]] = True
        for column in columns:
            for number, value in first.select("number", f"column {column}").iter_rows():
                parts = _plain_parts(value, reading.is_object(path))
                texts[column][number] = parts if as_parts else " ".join(parts)
        counts["again"] += len(of_items) - len(first)
        counts["blank"] += rows["id"].null_count()
        counts["cut"] += int(rows["is_cut"].sum())
    counts["absent"] = len(item_ids) - int(has_row.sum())
    counts["others"] = pl.concat(others).n_unique()
    return texts, counts, has_row


def _refuse_empty_ids(table: pl.LazyFrame, item: str, path: str | os.PathLike, reading: Reading) -> None:
    """Raises DataError for the first row without an id; a row with nothing in any column is blank, and fine."""
    # Read again, with all columns: only now are they worth their time.
    blank = pl.all_horizontal(pl.all().is_null())
    checked = table.select(id=cut_blanks(as_id(table, item, path)), blank=blank).with_row_index("row", 1)
    with readable(path, reading):
        row = checked.filter(pl.col("id").is_null() & ~pl.col("blank")).head(1).collect(engine="streaming")
    if len(row):
        place = row["row"].item()
        raise DataError(
            f"{reading.where(path, place)}, column {item!r}: the id is empty; mend the row or remove it"
            f"{reading.line(path, place)}"
        )


def _refuse_no_ids(rows: pl.DataFrame, others: pl.Series, item: str, path: str | os.PathLike, reading: Reading) -> None:
    """Raises DataError for a row whose id is none: a word for a missing one, a list or an object of JSON, or the name
    of its column. Those of `others` are looked at, which the interactions do not have."""
    for ids, found in (
        (missing_words(others.unique(), f"{path}, column {item!r}"), "what programs write for a missing id"),
        (nested_ids(others) if reading.is_object(path) else [], "a list or an object, which is no id"),
        (others.filter(others.str.to_lowercase() == item.lower()).to_list(), "the name of the column"),
    ):
        if ids:
            row, name = rows.filter(pl.col("id").is_in(ids)).row(0)
            raise DataError(
                f"{reading.where(path, row)}, column {item!r}: {name!r} is {found}; mend the row or remove it"
                f"{reading.line(path, row)}"
            )


def join_texts(columns: Sequence[Sequence[str]]) -> list[str]:
    """The texts of several columns as one for each item, with a space between."""
    return [" ".join(text for text in texts if text) for texts in zip(*columns, strict=True)]


def make_names(columns: Sequence[Sequence[str]], item_ids: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Names for people: the first column's text, those of the others behind it in parentheses: Toy Story (1995).

    Returns:
        numpy `<U` (num_items,), the id where there is no text; the number of those; the number of shortened names.
    """
    names, num_missing, num_shortened = [], 0, 0
    for item_id, (first, *others) in zip(item_ids, zip(*columns, strict=True), strict=True):
        name = " ".join(part for part in (first, *(f"({text})" for text in others if text)) if part)
        num_missing += not name
        name = name or str(item_id)
        if len(name) > _MAX_NAME_LENGTH:
            num_shortened += 1
            name = name[: _MAX_NAME_LENGTH - 1] + "…"
        names.append(name)
    return np.array(names, np.str_), num_missing, num_shortened


def find_pictures(folder: str | os.PathLike, item_ids: np.ndarray) -> tuple[list[str | None], int]:
    """Paths of the items' pictures, None without: files named by the item's id, with .jpg, .jpeg, .png or .webp behind.

    Returns:
        num_items paths, and the number of pictures that are of no item.

    Raises:
        DataError: the folder cannot be read, an item has two pictures, or an id has two spellings.
    """
    try:
        files = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a folder of pictures ({error.strerror})") from error
    found: dict[str, str] = {}
    for file in files:
        stem, extension = os.path.splitext(file)
        if extension.lower() in _PICTURES:
            if stem in found:
                raise DataError(f"{folder}: {found[stem]} and {file} are pictures of the same item; keep one")
            found[stem] = file
    items = item_ids.tolist()
    others = found.keys() - set(items)
    refuse_two_spellings(pl.Series(sorted(others), dtype=pl.String), f"{folder}", pl.Series(items), "the interactions")
    return [os.path.join(folder, found[item]) if item in found else None for item in items], len(others)


def _as_text(table: pl.LazyFrame, name: str) -> pl.Expr:
    """Text, but for what is nested, which only Parquet has. NaN, which pandas writes for a missing number, is none."""
    dtype = table.collect_schema()[name]
    column = pl.col(name).fill_nan(None) if dtype.is_float() else pl.col(name)
    return column if dtype.is_nested() else column.cast(pl.String)


def _plain_parts(value: object, is_json: bool) -> list[str]:
    """Of each part one line: those of a list, also of one that is written as JSON, or the value itself. In files of
    other kinds a text such as [1408] may be a title: there only lists of texts are lists."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # a text that only starts like a list stays
            parts = json.loads(value)
            value = parts if is_json or _are_texts(parts) else value
    plain = [_BLANKS.sub(" ", part).strip() for part in _parts(value)]
    return [part for part in plain if part]


def _parts(value: object) -> list[str]:
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(_parts, value)))
    if isinstance(value, dict):
        return [json.dumps(value, ensure_ascii=False, default=str)]
    if isinstance(value, bytes):
        return [value.decode("utf-8", "replace")]
    if isinstance(value, bool):
        return [str(value).lower()]  # as polars writes one that is not in a list
    return [] if value is None or value != value else [str(value)]  # NaN is a missing number


def _are_texts(value: object) -> bool:
    return all(map(_are_texts, value)) if isinstance(value, list) else isinstance(value, str)
