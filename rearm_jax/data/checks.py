"""What is refused about the arrays of a data set: names, shapes, types, ids, features, and pairs in two splits."""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from rearm_jax.data.formats import SPLITS, Folder, Table
from rearm_jax.errors import DataError

MAX_ID = 2**31 - 2  # so that the number of users or items fits int32, too
_CHUNK_ROWS = 1024  # features are converted and checked this many rows at a time: temporaries stay small


def check_modalities(modalities: Sequence[str]) -> None:
    """Raises DataError unless the names are identifiers, unique, and at least one."""
    if isinstance(modalities, str) or not modalities:
        raise DataError(f"data.modalities is {modalities!r}: name at least one, as a tuple such as ('image', 'text')")
    for modality in modalities:
        # The name becomes part of a file name and of parameter names, so nothing but an identifier may pass.
        if not isinstance(modality, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", modality):
            raise DataError(f"data.modalities holds {modality!r}: use letters, digits and underscores, no digit first")
    if len(set(modalities)) < len(modalities):
        raise DataError(f"data.modalities is {tuple(modalities)!r}: every modality may be named once only")


def lie_by_row(folder: Folder) -> bool | None:
    """Whether a (2, 2) array has an interaction in each row, as the other splits lie; None: nothing tells."""
    shapes = [np.shape(table.array) for table in folder.splits.values()]
    by_row = {shape[0] != 2 for shape in shapes if len(shape) == 2 and shape.count(2) == 1}
    return by_row.pop() if len(by_row) == 1 else folder.by_row


def checked_pairs(table: Table, by_row: bool | None) -> np.ndarray:
    """Interactions as int64 (n, 2) with ids from 0 to MAX_ID; by_row: of a (2, 2) array."""
    array = np.asarray(table.array)
    if array.ndim != 2 or 2 not in array.shape:
        raise DataError(f"{table.file}: the shape is {array.shape}, and must be (2, n) or (n, 2): user and item ids")
    if array.shape == (2, 2) and by_row is None and array.dtype.kind in "iu" and array[0, 1] != array[1, 0]:
        raise DataError(
            f"{table.file}: the shape is (2, 2), and the other splits do not tell whether its rows are interactions. "
            "Save all three the same way round, or, where each has two interactions, in MMRec's layout"
        )
    pairs = array.T if array.shape[0] == 2 and not (by_row and array.shape == (2, 2)) else array
    if not len(pairs):
        return np.zeros((0, 2), np.int64)  # whatever its type: numpy saves an empty list as floats
    if pairs.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # of NaN
            row, column = divmod(int(np.argmax(np.trunc(pairs) != pairs)), 2)  # the first fraction or NaN, else row 0
        raise DataError(
            f"{table.where(row)}: {('user', 'item')[column]} id {pairs[row, column]} of dtype {pairs.dtype}; "
            "ids must be integers, so save the array with an integer dtype"
        )
    if pairs.dtype.kind not in "iu":
        raise DataError(
            f"{table.file}: the dtype is {pairs.dtype}; ids must be integers, so save it with an integer dtype"
        )
    out_of_range = (pairs < 0) | (pairs > MAX_ID)
    if out_of_range.any():
        row, column = divmod(int(np.argmax(out_of_range)), 2)
        raise DataError(
            f"{table.where(row)}: {('user', 'item')[column]} id {pairs[row, column]}; ids run from 0 to {MAX_ID}"
        )
    return pairs.astype(np.int64)


def checked_features(table: Table) -> np.ndarray:
    """Features as finite float32 (num_items, d) in row-major order; a copy."""
    array = np.asarray(table.array)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(
            f"{table.file}: the shape is {array.shape}, and must be (items, features), at least one of each"
        )
    if array.dtype.kind != "f":
        raise DataError(f"{table.file}: the dtype is {array.dtype}; features must be floats, so save it as float32")
    features = np.empty(array.shape, np.float32)
    for start in range(0, len(array), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        with np.errstate(all="ignore"):  # a value beyond float32 turns into inf here, and is refused below
            features[chunk] = array[chunk]
        finite = np.isfinite(features[chunk])
        if not finite.all():
            row, column = divmod(int(np.argmin(finite)), array.shape[1])
            value = array[start + row, column]
            reason = "is too large for float32" if np.isfinite(value) else "is not a finite number"
            raise DataError(f"{table.where(start + row)}, column {column}: {value} {reason}; mend the feature")
    return features


def common_num_items(features: dict[str, np.ndarray], tables: dict[str, Table]) -> int:
    """The number of rows that all modalities have; raises DataError where they differ."""
    (first, values), *others = features.items()
    for modality, other in others:
        if len(other) != len(values):
            raise DataError(
                f"{tables[first].file} has {len(values)} rows, but {tables[modality].file} has {len(other)}: every "
                "modality needs one row per item"
            )
    return len(values)


def refuse_beyond(ids: np.ndarray, limit: int, table: Table, kind: str, why: str) -> None:
    """Raises DataError for the first id of `limit` or more; `why` says what set the limit."""
    beyond = np.flatnonzero(ids >= limit)
    if len(beyond):
        row = int(beyond[0])
        raise DataError(f"{table.where(row)}: {kind} id {ids[row]}, but {why}, so ids run from 0 to {limit - 1}")


def refuse_leaks(
    keys: dict[str, np.ndarray], first_rows: dict[str, np.ndarray], num_items: int, tables: dict[str, Table]
) -> None:
    """Raises DataError if two splits share a pair. keys: unique, user * num_items + item; first_rows: their rows."""
    for one, other in itertools.combinations(SPLITS, 2):
        shared, in_one, in_other = np.intersect1d(keys[one], keys[other], assume_unique=True, return_indices=True)
        if len(shared):
            first = np.argmin(first_rows[one][in_one])
            user, item = divmod(int(shared[first]), num_items)
            raise DataError(
                f"{tables[one].where(first_rows[one][in_one[first]])} and "
                f"{tables[other].where(first_rows[other][in_other[first]])}: user {user}, item {item} is in both "
                f"splits ({len(shared)} shared pairs in all); this leaks answers, so keep each pair in one split only"
            )
