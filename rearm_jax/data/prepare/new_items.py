"""Items of a catalogue that nobody has interacted with: no rows of the data, but files of their own beside them.

They are not trained on, and cost nothing there; rearm_jax/inference/new_items.py ranks them by their features.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from rearm_jax.data.prepare.frames import ITEM_COLUMNS
from rearm_jax.data.prepare.ids import check_ids, cut_blanks, refuse_two_spellings
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.tables import as_id, column_names, pick_column, readable, scan_table


def find_new_items(
    paths: Sequence[str | os.PathLike], item_ids: np.ndarray, id_column: str | None, reading: Reading
) -> np.ndarray:
    """The ids of tables of items that are not in `item_ids`, text (n,): shorter ones first, then by alphabet.

    Args:
        paths: the tables.
        item_ids: text (num_items,), of the interactions.
        id_column: None: the first of ITEM_COLUMNS that there is.
        reading: how text is read.

    Raises:
        DataError: a file cannot be read, has no such column, or an id is too long, holds a NUL or has two spellings.
    """
    found = []
    for path in paths:
        table = scan_table(path, reading, [ITEM_COLUMNS if id_column is None else (id_column,)])
        item = pick_column(column_names(table, path), id_column, ITEM_COLUMNS, path, "items", "item_id_column")
        ids = table.select(id=cut_blanks(as_id(table, item, path))).drop_nulls().unique()
        with readable(path, reading):
            found.append(ids.collect(engine="streaming")["id"])
        refuse_two_spellings(found[-1], f"{path}, column {item!r}", pl.Series(item_ids), "the interactions")
    others = pl.DataFrame({"id": pl.concat(found).unique()}).filter(~pl.col("id").is_in(item_ids.tolist()))
    others = others.sort(pl.col("id").str.len_chars(), "id")
    quotes = not any(reading.quote_of(os.fspath(path)) == "none" for path in paths)
    check_ids(others["id"], ", ".join(map(str, paths)), quotes)
    return others["id"].to_numpy().astype(np.str_)


def split_new_items(
    arrays: Mapping[str, np.ndarray], num_kept: int, modalities: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Arrays of rows of items, cut behind the first `num_kept`.

    Returns:
        those of the first; those of the others that have features, nothing without any; the number of the others that
        have none in any of the modalities, and so resemble nothing.
    """
    has_features = np.any([arrays[f"{name}_feat"][num_kept:].any(axis=1) for name in modalities], axis=0)
    kept = {stem: _as_wide(array[:num_kept]) for stem, array in arrays.items()}
    new = {stem: _as_wide(array[num_kept:][has_features]) for stem, array in arrays.items()}
    return kept, new if has_features.any() else {}, int((~has_features).sum())


def _as_wide(array: np.ndarray) -> np.ndarray:
    """The array; text with the width of its own longest."""
    return np.array(array.tolist(), np.str_) if array.dtype.kind == "U" else array
