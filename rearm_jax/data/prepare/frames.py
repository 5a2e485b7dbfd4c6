"""Tables that a program holds, in the place of files: data frames of polars and pandas, columns by name, arrays."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse

from rearm_jax.errors import ConfigError, DataError

ITEM_COLUMNS = ("item_id", "movieId", "parent_asin", "asin", "item")  # of ids
PAIR_COLUMNS = ("user_id", "item_id", "rating")  # of interactions that come as an array or a matrix


class Frame(os.PathLike):
    """A table in memory. Its path is what it is called in messages, as that of a file is.

    Attributes:
        table: a lazy frame of polars.
        unreadable: columns that hold neither numbers, text nor dates -> what to raise where one is asked for. In the
            table they say whether there is a value.
    """

    def __init__(self, name: str, table: pl.LazyFrame, unreadable: Mapping[str, DataError] | None = None):
        self._name, self.table, self.unreadable = name, table, unreadable or {}

    def __fspath__(self) -> str:
        return self._name

    __str__ = __fspath__


def as_frame(given: Any, name: str) -> Frame:
    """A table of any kind that is understood.

    Args:
        given: a data frame of polars (lazy, too) or of pandas, whose index counts as columns where it has a name; or a
            mapping from names of columns to one-dimensional arrays or lists.
        name: for messages.

    Raises:
        ConfigError: it is something else.
        DataError: its columns are not as long.
    """
    if isinstance(given, pl.LazyFrame):
        return Frame(name, given)
    if isinstance(given, pl.DataFrame):
        return Frame(name, given.lazy())
    if isinstance(given, Mapping):
        if len(set(map(str, given))) < len(given):
            raise DataError(f"{name}: two columns are called the same as text, of {', '.join(map(repr, given))}")
        return _frame({str(column): values for column, values in given.items()}, name)
    if _is_pandas(given):
        return _frame(_of_pandas(given, name), name)
    raise ConfigError(
        f"{name}: {type(given).__name__} is no table; give a data frame of polars or pandas, or a dict of columns"
    )


def interactions_frame(given: Any) -> Frame:
    """Interactions: a table of `as_frame`; an array (n, 2), [user, item]; or a matrix of scipy (users, items), in which
    every value other than 0 is an interaction, and its rating. Users and items of a matrix are called by their numbers.

    Raises: as `as_frame`; DataError for an array of another shape.
    """
    name = "interactions"
    if scipy.sparse.issparse(given):
        if given.ndim != 2 or given.dtype.kind not in "buif":
            raise _no_interactions(given)
        matrix = scipy.sparse.coo_array(given, dtype=np.float64, copy=True)  # sums of 8 bits may be 0 again
        matrix.sum_duplicates()
        if not np.isfinite(matrix.data).all():
            raise _no_interactions(given)
        kept = np.flatnonzero(matrix.data)
        values = (*(axis[kept] for axis in matrix.coords), matrix.data[kept])
        return _frame(dict(zip(PAIR_COLUMNS, values, strict=True)), name)
    if isinstance(given, np.ndarray):
        if given.ndim != 2 or given.shape[1] != 2:
            raise DataError(f"{name}: the shape is {given.shape}, and must be (n, 2): a user and an item in each row")
        return _frame(dict(zip(PAIR_COLUMNS, given.T, strict=False)), name)
    return as_frame(given, name)


def _no_interactions(matrix: Any) -> DataError:
    return DataError(
        f"interactions: a matrix of {matrix.dtype} and shape {matrix.shape}; it must be (users, items) with real, "
        "finite numbers"
    )


def features_frame(given: Any, name: str, id_column: str, rows: Sequence[Any] | None) -> Frame:
    """Features of items: a table of `as_frame` with ids; a pair (ids, array); or an array alone, (n, d), of numpy or
    scipy.

    Args:
        given: the features.
        name: for messages.
        id_column: what the column of ids shall be called, where there is none yet.
        rows: the items of the rows of an array alone; None where nothing says which they are.

    Raises: as `as_frame`; ConfigError for an array alone where `rows` is None; DataError where ids and rows are not as
        many.
    """
    if isinstance(given, tuple) and len(given) == 2:
        rows, given = given
    elif not (isinstance(given, np.ndarray) or scipy.sparse.issparse(given)):
        _refuse_index(given, name, id_column)
        return _whole(as_frame(given, name))
    if rows is None:
        raise ConfigError(
            f"{name}: nothing says which item a row belongs to. Give a pair (ids, array), or a table with ids; or give "
            "items, whose rows those of the array then are"
        )
    try:
        num_rows, array = len(rows), given.toarray() if scipy.sparse.issparse(given) else np.asarray(given)
    except (TypeError, ValueError) as error:  # no list of ids, or rows of several lengths
        raise DataError(f"{name}: a pair must be n ids and an array (n, d) of numbers: {error}") from error
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise DataError(f"{name}: {array.dtype} of shape {array.shape}; features are numbers (items, features)")
    if np.ma.is_masked(given):
        raise DataError(f"{name}: {np.ma.count_masked(given)} numbers are masked; fill them, or leave out their items")
    if num_rows != len(array):
        raise DataError(f"{name} has {len(array)} rows, for {num_rows} items")
    return _whole(_frame({id_column: rows, "features": array}, name))


def _frame(columns: Mapping[str, Any], name: str) -> Frame:
    series, unreadable = [], {}
    for column, values in columns.items():
        try:
            series.append(_series(column, values, name))
        except DataError as error:
            unreadable[column] = error
            series.append(pl.Series(column, [None if value is None else True for value in values]))
    try:
        return Frame(name, pl.DataFrame(series).lazy(), unreadable)
    except pl.exceptions.PolarsError as error:  # they are not as long
        raise DataError(f"{name} cannot be read as columns: {_first_line(error)}") from error


def _whole(frame: Frame) -> Frame:
    """The frame; raises the DataError of a column that cannot be read, each of which is wanted."""
    for error in frame.unreadable.values():
        raise error
    return frame


def _series(column: str, values: Any, name: str) -> pl.Series:
    if isinstance(values, np.ndarray) and values.dtype.kind in "OU":  # polars would keep Python's objects as they are
        values = values.tolist()
    if isinstance(values, (list, tuple)) and {bool, int} <= set(map(type, values)):  # polars takes True for 1
        raise DataError(f"{name}, column {column!r}: has booleans among its integers")
    values = _with_known_unit(values)
    try:
        return pl.Series(column, values)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{name}, column {column!r}: cannot be read as numbers, text or dates: {_first_line(error)}"
        ) from error


def _with_known_unit(values: Any) -> Any:
    """Dates of numpy in a unit that polars knows: microseconds in the place of seconds, minutes and hours."""
    is_date = isinstance(values, np.ndarray) and values.dtype.kind == "M"
    coarse = is_date and np.datetime_data(values.dtype)[0] in ("s", "m", "h")
    return values.astype("datetime64[us]") if coarse else values


def _refuse_index(given: Any, name: str, id_column: str) -> None:
    """A named index of pandas beside a column of ids is a number of the row, and would be a feature."""
    if not _is_pandas(given) or not {id_column, *ITEM_COLUMNS} & {*map(str, given.columns)}:
        return
    if index := [str(level) for level in given.index.names if level is not None]:
        raise DataError(
            f"{name}: the index {', '.join(index)} would be a feature beside the column of ids; give the frame without "
            "it: reset_index(drop=True)"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _is_pandas(given: Any) -> bool:
    """pandas need not be installed, and is not imported."""
    return type(given).__module__.split(".")[0] == "pandas" and hasattr(given, "columns")


def _of_pandas(frame: Any, name: str) -> dict[str, Any]:
    """Column by column; what pandas takes for missing is None. pyarrow is not needed."""
    index = [level for level in frame.index.names if level is not None]
    if index:
        if again := {*map(str, index)} & {*map(str, frame.columns)}:
            raise DataError(
                f"{name}: {', '.join(sorted(again))} is a column, and the index, too; give the frame without it: "
                "reset_index(drop=True)"
            )
        frame = frame.reset_index()
    columns: dict[str, Any] = {}
    for place, column in enumerate(map(str, frame.columns)):
        if column in columns:
            raise DataError(f"{name}: two columns are called {column!r}; rename one")
        series = frame.iloc[:, place]
        if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biufM":
            columns[column] = pl.Series(_with_known_unit(series.to_numpy()), nan_to_null=True)
        else:
            missing = series.isna().tolist()
            columns[column] = [None if gone else value for value, gone in zip(series.tolist(), missing, strict=True)]
    return columns
