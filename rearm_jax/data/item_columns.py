"""What a catalogue says about the items of the interactions: names and texts from tables, pictures from a folder,
features from files. Everything comes back in the order of `item_ids`, with what is missing as None or as a zero row."""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Sequence

import numpy as np
import polars as pl

from rearm_jax.data.npy import open_npy
from rearm_jax.data.reading import Reading
from rearm_jax.data.tables import ITEM_COLUMNS, as_id, column_names, pick_column, readable, scan_table
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
) -> tuple[dict[str, list[str]], int, int]:
    """Texts of the items. Lists (Parquet, JSON) become their parts with spaces between; where several rows have the
    same item the first counts, in the order of the files.

    Args:
        paths: tables of items; every one has all the columns.
        columns: names.
        item_ids: text (num_items,).
        id_column: None: the first of ITEM_COLUMNS that there is.
        reading: how text is read; it has the account of every file's lines afterwards.

    Returns:
        column -> num_items texts, "" where there is none; the number of items without a row; the number of rows that
        were left out because their item had one already.

    Raises:
        DataError: a file cannot be read or a column is not there.
    """
    wanted = pl.LazyFrame({"id": item_ids, "number": np.arange(len(item_ids))})
    reading = reading or Reading()
    wanted_columns = [ITEM_COLUMNS if id_column is None else (id_column,), *((column,) for column in columns)]
    parts = []
    for path in paths:
        table = scan_table(path, reading, wanted_columns)
        names = column_names(table, path)
        item = pick_column(names, id_column, ITEM_COLUMNS, path, "items", "--item-id-column")
        chosen = {
            f"column {column}": _as_text(table, pick_column(names, column, (), path, "", "")) for column in columns
        }
        chosen_rows = table.select(id=as_id(table, item, path), **chosen).with_row_index("row")
        with readable(path, reading):
            part = chosen_rows.join(wanted, on="id", how="inner").collect(engine="streaming")
        parts.append(part.sort("row").drop("row"))
    rows = pl.concat(parts)
    first = rows.unique("number", keep="first", maintain_order=True)
    rows_of = first["number"].to_list()
    texts = {}
    for column in columns:
        texts[column] = [""] * len(item_ids)
        for number, value in zip(rows_of, first[f"column {column}"].to_list(), strict=True):
            texts[column][number] = _plain(value)
    return texts, len(item_ids) - len(first), len(rows) - len(first)


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


def find_pictures(folder: str | os.PathLike, item_ids: np.ndarray) -> list[str | None]:
    """Paths of the items' pictures, None without: files named by the item's id, with .jpg, .jpeg, .png or .webp behind.

    Raises:
        DataError: the folder cannot be read, or an item has two pictures.
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
    return [os.path.join(folder, found[item]) if item in found else None for item in map(str, item_ids)]


def read_features(
    path: str | os.PathLike,
    ids_path: str | os.PathLike | None,
    item_ids: np.ndarray,
    id_column: str | None = None,
) -> tuple[np.ndarray, int]:
    """Features of the items from a .npy file, with another of ids, or from Parquet: a column of ids beside one column
    of lists, or beside columns of numbers.

    Args:
        path: .npy of floats (n, d), or Parquet.
        ids_path: .npy of n ids, text or whole numbers; None with Parquet.
        item_ids: text (num_items,).
        id_column: of Parquet; None: the first of ITEM_COLUMNS that there is.

    Returns:
        float32 (num_items, d), zero where there are none, and the number of those items.

    Raises:
        DataError: a file cannot be read, does not fit, repeats an id or holds what is no finite number.
    """
    if ids_path is not None:
        table, ids = open_npy(path), open_npy(ids_path)
        if ids.ndim != 1 or ids.dtype.kind not in "Uiu":
            raise DataError(f"{ids_path}: {ids.dtype} of shape {ids.shape}; ids are text (numpy's <U) or integers (n,)")
        if table.ndim != 2 or table.dtype.kind != "f" or 0 in table.shape:
            raise DataError(f"{path}: {table.dtype} of shape {table.shape}; features are floats (items, features)")
        if len(ids) != len(table):
            raise DataError(f"{path} has {len(table)} rows, but {ids_path} has {len(ids)} ids")
        names = ids.astype(np.str_).tolist()
    else:
        names, table = _read_parquet_features(path, id_column)
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) < len(names):
        last, again = next((row_of[name], row) for row, name in enumerate(names) if row_of[name] != row)
        raise DataError(f"{ids_path or path}, rows {again} and {last} (from 0): both are {names[last]!r}; keep one")
    features, num_missing = np.zeros((len(item_ids), table.shape[1]), np.float32), 0
    for number, item in enumerate(item_ids.tolist()):
        row = row_of.get(item)
        if row is None:
            num_missing += 1
            continue
        with np.errstate(all="ignore"):  # a value beyond float32 turns into inf here, and is refused below
            features[number] = table[row]
        if not np.isfinite(features[number]).all():
            raise DataError(f"{path}, row {row} (from 0), item {item!r}: a feature is not a finite float32")
    if num_missing == len(item_ids):
        raise DataError(
            f"{path}: no item of the interactions has features there; its ids are such as {', '.join(names[:3])}, "
            f"those of the interactions such as {', '.join(item_ids[:3])}"
        )
    return features, num_missing


def _as_text(table: pl.LazyFrame, name: str) -> pl.Expr:
    column, dtype = pl.col(name), table.collect_schema()[name]
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
    return column.cast(pl.String)


def _plain(value: str | None) -> str:
    """One line; the parts of a JSON list with spaces between."""
    if value is None:
        return ""
    if value.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # a text that only starts like a list stays
            value = " ".join(_parts(json.loads(value)))
    return _BLANKS.sub(" ", value).strip()


def _parts(value: object) -> list[str]:
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(_parts, value)))
    return [] if value is None else [str(value)]


def _read_parquet_features(path: str | os.PathLike, id_column: str | None) -> tuple[list[str], np.ndarray]:
    table = scan_table(path, Reading())
    names = column_names(table, path)
    item = pick_column(names, id_column, ITEM_COLUMNS, path, "items", "--item-id-column")
    schema = table.collect_schema()
    lists = [name for name in names if _is_list_of_numbers(schema[name])]
    numbers = [name for name in names if name != item and schema[name].is_numeric()]
    if len(lists) > 1 or not (lists or numbers):
        raise DataError(
            f"{path}: {len(lists)} columns of lists of numbers and {len(numbers)} of numbers beside the ids; features "
            "are Parquet with one column of lists, or with columns of numbers (or .npy, with --feature-ids)"
        )
    with readable(path):
        rows = table.select(as_id(table, item, path).alias("id"), *(lists or numbers)).collect(engine="streaming")
        if rows["id"].is_null().any():
            raise DataError(f"{path}, row {rows['id'].is_null().arg_max()} (from 0): the id is missing")
        if lists:
            values = rows[lists[0]].cast(pl.List(pl.Float32))
            lengths = values.list.len().unique().to_list()
            if len(lengths) != 1 or not lengths[0]:
                raise DataError(f"{path}, column {lists[0]!r}: lists of {lengths[:5]} numbers; all must be as long")
            return rows["id"].to_list(), values.cast(pl.Array(pl.Float32, lengths[0])).to_numpy()
        return rows["id"].to_list(), rows.select(pl.col(numbers).cast(pl.Float32)).to_numpy()


def _is_list_of_numbers(dtype: pl.DataType) -> bool:
    return isinstance(dtype, (pl.List, pl.Array)) and dtype.inner.is_numeric()
