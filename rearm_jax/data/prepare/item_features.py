"""Features of items that somebody has computed already, from .npy or Parquet or from memory."""

import contextlib
import json
import os
import re

import numpy as np
import polars as pl
from absl import logging

from rearm_jax.data.labels import check_labels
from rearm_jax.data.npy import open_npy
from rearm_jax.data.prepare.frames import ITEM_COLUMNS, Frame
from rearm_jax.data.prepare.ids import cut_blanks, refuse_two_spellings
from rearm_jax.data.prepare.tables import as_id, column_names, pick_column, readable
from rearm_jax.errors import DataError

_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name


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
    known = pl.Series(item_ids)
    refuse_two_spellings(found["id"].filter(~found["id"].is_in(known.implode())), where, known, "the interactions")
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


def _read_parquet_features(path: str | os.PathLike, id_column: str | None) -> tuple[pl.Series, np.ndarray]:
    """Ids as they are written, and features (n, d)."""
    table = path.table if isinstance(path, Frame) else pl.scan_parquet(os.fspath(path), glob=False)
    names = column_names(table, path)
    item = pick_column(names, id_column, ITEM_COLUMNS, path, "items", "item_id_column")
    schema = table.collect_schema()
    others = [name for name in names if name != item]
    index = _pandas_index(path) if any(_is_numeric(schema[name]) for name in others) else set()
    numeric = [name for name in others if _is_numeric(schema[name]) and name not in index]
    lists = [name for name in numeric if schema[name].is_nested()]
    if len(lists) > 1 or not numeric:
        raise DataError(
            f"{path}: {len(lists)} columns of lists of numbers and {len(numeric) - len(lists)} of numbers beside the "
            "ids; features are Parquet with one column of lists, or with columns of numbers (or .npy, with "
            "feature_ids)"
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
