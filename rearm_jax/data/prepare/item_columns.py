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
from absl import logging

from rearm_jax.data.labels import check_labels
from rearm_jax.data.npy import open_npy
from rearm_jax.data.prepare.frames import Frame
from rearm_jax.data.prepare.ids import cut_blanks, refuse_two_spellings
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.tables import ITEM_COLUMNS, as_id, column_names, pick_column, readable, scan_table
from rearm_jax.errors import DataError

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f]+")
_MAX_NAME_LENGTH = 200  # the file of names has the width of the longest
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name


def read_item_columns(
    paths: Sequence[str | os.PathLike],
    columns: Sequence[str],
    item_ids: np.ndarray,
    id_column: str | None = None,
    reading: Reading | None = None,
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Texts of the items. Lists (Parquet, JSON) become their parts with spaces between; where several rows have the
    same item the first counts, in the order of the files.

    Args:
        paths: tables of items; every one has all the columns.
        columns: names.
        item_ids: text (num_items,).
        id_column: None: the first of ITEM_COLUMNS that there is.
        reading: how text is read; it has the account of every file's lines afterwards.

    Returns:
        column -> num_items texts, "" where there is none; counts: "absent", of `item_ids` without a row; "others", in
        the tables, but not in `item_ids`; "again", rows left out because their item had one already; "blank", rows with
        nothing in the id and the columns; "cut", ids that had blanks around them.

    Raises:
        DataError: a file cannot be read, a column is not there, an id is empty or has two spellings.
    """
    wanted = pl.LazyFrame({"id": item_ids, "number": np.arange(len(item_ids))})
    reading = reading or Reading()
    wanted_columns = [ITEM_COLUMNS if id_column is None else (id_column,), *((column,) for column in columns)]
    texts = {column: [""] * len(item_ids) for column in columns}
    has_row = np.zeros(len(item_ids), bool)
    others = [pl.Series([], dtype=pl.String)]
    counts = dict.fromkeys(("absent", "others", "again", "blank", "cut"), 0)
    for path in paths:
        table = scan_table(path, reading, wanted_columns)
        names = column_names(table, path)
        item = pick_column(names, id_column, ITEM_COLUMNS, path, "items", "--item_id_column")
        raw = as_id(table, item, path)
        chosen = {
            f"column {column}": _as_text(table, pick_column(names, column, (), path, "", "")) for column in columns
        }
        read = table.select(
            id=cut_blanks(raw),
            is_cut=raw != cut_blanks(raw),
            is_blank=pl.all_horizontal(raw.is_null(), *(text.is_null() for text in chosen.values())),
            **chosen,
        ).with_row_index("row", 1)
        matched = read.join(wanted, on="id", how="left")
        matched = matched.with_columns(  # texts that nobody wants take no memory
            pl.when(pl.col("number").is_not_null()).then(pl.col(name)) for name in chosen
        )
        with readable(path, reading):
            rows = matched.collect(engine="streaming").sort("row")
        empty = rows.filter(pl.col("id").is_null() & ~pl.col("is_blank"))
        if len(empty):
            raise DataError(
                f"{reading.where(path, empty['row'][0])}, column {item!r}: the id is empty; mend the row or remove it"
            )
        others.append(rows.filter(pl.col("number").is_null())["id"].drop_nulls())
        refuse_two_spellings(others[-1], f"{path}, column {item!r}", pl.Series(item_ids), "the interactions")
        of_items = rows.drop_nulls("number")
        first = of_items.unique("number", keep="first", maintain_order=True)
        first = first.filter(~pl.Series(has_row)[first["number"]])
        has_row[first["number"]] = True
        for column in columns:
            for number, value in first.select("number", f"column {column}").iter_rows():
                texts[column][number] = _plain(value)
        counts["again"] += len(of_items) - len(first)
        counts["blank"] += int(rows["is_blank"].sum())
        counts["cut"] += int(rows["is_cut"].sum())
    counts["absent"] = len(item_ids) - int(has_row.sum())
    counts["others"] = pl.concat(others).n_unique()
    return texts, counts


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


def read_features(
    path: str | os.PathLike,
    ids_path: str | os.PathLike | None,
    item_ids: np.ndarray,
    id_column: str | None = None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Features of the items from a .npy file, with another of ids, or from Parquet: a column of ids beside one column
    of lists, or beside columns of numbers. Lists of lists are laid out in a row; an index of pandas is no feature.

    Args:
        path: .npy of floats (n, d), or Parquet, or a Frame.
        ids_path: .npy of n ids, text or whole numbers; None with Parquet.
        item_ids: text (num_items,).
        id_column: of Parquet; None: the first of ITEM_COLUMNS that there is.

    Returns:
        float32 (num_items, d), zero where there are none; counts: "absent", items without; "others", rows of what is
        not in `item_ids`; "cut", ids that had blanks around them.

    Raises:
        DataError: a file cannot be read, does not fit, has an empty id, repeats one or spells it in a second way, or
            holds what is no finite number.
    """
    if ids_path is not None:
        table, ids = open_npy(path), open_npy(ids_path)
        ids = check_labels(ids, f"{ids_path}", unique=False)
        if table.ndim != 2 or table.dtype.kind != "f" or 0 in table.shape:
            raise DataError(f"{path}: {table.dtype} of shape {table.shape}; features are floats (items, features)")
        if len(ids) != len(table):
            raise DataError(f"{path} has {len(table)} rows, but {ids_path} has {len(ids)} ids")
        raw = pl.Series(ids.astype(np.str_).tolist(), dtype=pl.String)
    else:
        raw, table = _read_parquet_features(path, id_column)
    where = f"{ids_path or path}"
    found = pl.select(raw=raw, id=cut_blanks(pl.lit(raw)))
    if (empty := found["id"].is_null()).any():
        raise DataError(f"{where}, row {empty.arg_max()} (from 0): the id is empty; remove the row, and its features")
    names = found["id"].to_list()
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) < len(names):
        last, again = next((row_of[name], row) for row, name in enumerate(names) if row_of[name] != row)
        raise DataError(f"{where}, rows {again} and {last} (from 0): both are {names[last]!r}; keep one")
    refuse_two_spellings(found["id"], where, pl.Series(item_ids), "the interactions")
    features, num_absent = np.zeros((len(item_ids), table.shape[1]), np.float32), 0
    for number, item in enumerate(item_ids.tolist()):
        row = row_of.get(item)
        if row is None:
            num_absent += 1
            continue
        with np.errstate(all="ignore"):  # a value beyond float32 turns into inf here, and is refused below
            features[number] = table[row]
        if not np.isfinite(features[number]).all():
            raise DataError(f"{path}, row {row} (from 0), item {item!r}: a feature is not a finite float32")
    if num_absent == len(item_ids):
        raise DataError(
            f"{path}: no item of the interactions has features there; its ids are such as {', '.join(names[:3])}, "
            f"those of the interactions such as {', '.join(item_ids[:3])}"
        )
    num_cut = int((found["id"] != found["raw"]).sum())
    return features, {"absent": num_absent, "others": len(names) - len(item_ids) + num_absent, "cut": num_cut}


def _as_text(table: pl.LazyFrame, name: str) -> pl.Expr:
    """Text, but for what is nested, which only Parquet has."""
    return pl.col(name) if table.collect_schema()[name].is_nested() else pl.col(name).cast(pl.String)


def _plain(value: object) -> str:
    """One line; the parts of a list with spaces between, also of one that is written as JSON."""
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # a text that only starts like a list stays
            value = json.loads(value)
    return _BLANKS.sub(" ", " ".join(_parts(value))).strip()


def _parts(value: object) -> list[str]:
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(_parts, value)))
    if isinstance(value, dict):
        return [json.dumps(value, ensure_ascii=False, default=str)]
    return [] if value is None else [str(value)]


def _read_parquet_features(path: str | os.PathLike, id_column: str | None) -> tuple[pl.Series, np.ndarray]:
    """Ids as they are written, and features (n, d)."""
    table = path.table if isinstance(path, Frame) else pl.scan_parquet(os.fspath(path), glob=False)
    names = column_names(table, path)
    item = pick_column(names, id_column, ITEM_COLUMNS, path, "items", "--item_id_column")
    schema = table.collect_schema()
    others = [name for name in names if name != item]
    index = _pandas_index(path) if any(_is_numeric(schema[name]) for name in others) else set()
    numeric = [name for name in others if _is_numeric(schema[name]) and name not in index]
    lists = [name for name in numeric if schema[name].is_nested()]
    if len(lists) > 1 or not numeric:
        raise DataError(
            f"{path}: {len(lists)} columns of lists of numbers and {len(numeric) - len(lists)} of numbers beside the "
            "ids; features are Parquet with one column of lists, or with columns of numbers (or .npy, with "
            "--feature_ids)"
        )
    if unread := [name for name in others if name not in (lists or numeric)]:
        listed = ", ".join(f"{name!r}{' (the index of pandas)' * (name in index)}" for name in unread)
        logging.warning("%s: columns that are no features, and not read: %s", path, listed)
    with readable(path):
        rows = table.select(as_id(table, item, path).alias("id"), *(lists or numeric)).collect(engine="streaming")
        if lists:
            return rows["id"], _laid_out(rows[lists[0]], path)
        return rows["id"], rows.select(pl.col(numeric).cast(pl.Float32)).to_numpy()


def _is_numeric(dtype: pl.DataType | pl.datatypes.DataTypeClass) -> bool:
    """Numbers, or lists of them, or lists of such lists, ..."""
    return _is_numeric(dtype.inner) if isinstance(dtype, (pl.List, pl.Array)) else dtype.is_numeric()


def _pandas_index(path: str | os.PathLike) -> set[str]:
    """Columns of a Parquet file that are the index of the data frame it was, by pandas' own note or by their name."""
    if isinstance(path, Frame):
        return set()
    with readable(path):
        names = pl.read_parquet_schema(os.fspath(path))
        note = pl.read_parquet_metadata(os.fspath(path)).get("pandas", "{}")
    index = {name for name in names if _UNNAMED_INDEX.fullmatch(name)}
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError, KeyError):  # another program's note
        index |= {name for name in json.loads(note)["index_columns"] if isinstance(name, str)}
    return index


def _laid_out(values: pl.Series, path: str | os.PathLike) -> np.ndarray:
    """Lists as rows, float32 (n, d); what is nested in them one behind the other."""
    num_rows, name = len(values), values.name
    while isinstance(values.dtype, (pl.List, pl.Array)):
        lists = values.cast(pl.List(values.dtype.inner))
        lengths = lists.list.len().unique().to_list()
        if len(lengths) != 1 or not lengths[0]:
            raise DataError(f"{path}, column {name!r}: lists of {lengths[:5]} numbers; all must be as long")
        values = lists.explode()
    return values.cast(pl.Float32).to_numpy().reshape(num_rows, -1)
