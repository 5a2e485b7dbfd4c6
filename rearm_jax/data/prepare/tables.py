"""Tables as people have them: text with separators, JSON lines, Parquet; read in a stream, by columns that have names.

What a file is, its content tells, not its name: Parquet and packed files by their first bytes, JSON lines by the brace.
All columns of text files and JSON lines are text, so that an id stays what it was ("007"). delimited.py and objects.py
tell more; reading.py has the options, and the account of every line.
"""

import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import polars as pl

from rearm_jax.data.prepare.delimited import scan_delimited
from rearm_jax.data.prepare.frames import Frame
from rearm_jax.data.prepare.objects import scan_objects
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.text import is_line, open_text
from rearm_jax.errors import DataError

_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
_FILE_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError)


def scan_table(path: str | os.PathLike, reading: Reading, wanted: Sequence[Sequence[str]] = ()) -> pl.LazyFrame:
    """A file as a lazy frame. Of text, the lines have been looked at, and `reading` has their account; a copy that was
    made of the file stays as long as `reading`.

    Args:
        path: the file, or a Frame.
        reading: how text is read.
        wanted: names of columns, in groups of which one must be there; JSON lines may have them late in the file.

    Raises:
        DataError: the file cannot be read, is empty, or has no names of columns.
    """
    if isinstance(path, Frame):
        with readable(path):
            return _with_flat_lists(path.table)
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such file")
    with readable(path):
        if is_parquet(path):
            return _with_flat_lists(pl.scan_parquet(path, glob=False))
        text = open_text(path, reading.encoding, reading.bad_rows == "skip")
        start = text.data[text.start : text.start + (1 << 20)].lstrip()
        if start.startswith(b"{") and not (reading.names is not None and re.match(rb"\{[^\n:]*\}", start)):
            return scan_objects(text, reading, wanted)
        if start.startswith(b"["):
            raise DataError(f"{path}: starts with a bracket; write JSON lines, one object a line, not one JSON array")
        return scan_delimited(text, reading)


def is_parquet(path: str | os.PathLike) -> bool:
    """Whether a file is Parquet; DataError if it cannot be read."""
    with readable(path), open(path, "rb") as file:
        start = file.read(1000)
    return start.startswith(b"PAR1") and not is_line(start)


def column_names(table: pl.LazyFrame, path: str | os.PathLike) -> list[str]:
    """Names of a table's columns; DataError if the file cannot be read."""
    with readable(path):
        return table.collect_schema().names()


def pick_column(
    names: Sequence[str], given: str | None, recognised: Sequence[str], path: str | os.PathLike, what: str, option: str
) -> str:
    """The column that a person named, or else the first recognised one.

    Raises:
        DataError: there is none (the message says which columns there are), or it cannot be read.
    """
    for name in (given,) if given is not None else recognised:
        if isinstance(path, Frame) and name in path.unreadable:
            raise path.unreadable[name]
        if name in names:
            return name
    there = f"the columns are {', '.join(map(repr, names[:30]))}" if names else "there are no columns at all"
    if given is not None:
        named_by = f" ({option})" if option else ""
        raise DataError(f"{path}: no column {given!r}{named_by}; {there}")
    if len(names) == 1 and not isinstance(path, Frame):
        there += ", one alone (between columns may stand a comma, a tab, a semicolon, a bar or '::')"
    nameless = (
        ". If these are values, the file has no line of names: write one above them, or give the names with "
        "interactions_header or items_header"
    )
    raise DataError(
        f"{path}: no column of {what} is recognised; {there}. Name one with {option}, or call it "
        f"{recognised[0]}{'' if isinstance(path, Frame) else nameless}"
    )


def as_id(table: pl.LazyFrame, name: str, path: str | os.PathLike) -> pl.Expr:
    """A column of ids as text; DataError if it is neither text nor whole numbers."""
    dtype = table.collect_schema()[name]
    is_whole = dtype.is_integer() or (isinstance(dtype, pl.Decimal) and dtype.scale == 0)
    if not (is_whole or isinstance(dtype, (pl.String, pl.Categorical, pl.Enum, pl.Binary))):  # Spark's text is binary
        raise DataError(f"{path}: column {name!r} is {dtype}; ids must be text or whole numbers")
    return pl.col(name).cast(pl.String)


@contextlib.contextmanager
def readable(path: str | os.PathLike, reading: Reading | None = None) -> Iterator[None]:
    """Turns what polars and the file system raise about a file into a DataError that names it, and the line if
    `reading` has seen the file."""
    try:
        yield
    except (*_POLARS_ERRORS, *_FILE_ERRORS) as error:
        found = reading.found.get(os.fspath(path)) if reading is not None else None
        if found is not None and found.explain is not None:
            found.explain()
        reason = str(error).strip().split("\n\n")[0]
        raise DataError(f"{path} cannot be read: {reason}") from error


def _with_flat_lists(table: pl.LazyFrame) -> pl.LazyFrame:
    """Lists of lists, as Amazon's categories are, become lists of texts: the parts of each inner list, with spaces."""
    nested = {
        name: dtype
        for name, dtype in table.collect_schema().items()
        if isinstance(dtype, (pl.List, pl.Array)) and dtype.inner.is_nested()
    }
    return table.with_columns(
        _as_list(pl.col(name), dtype).list.eval(_as_text(pl.element(), dtype.inner)) for name, dtype in nested.items()
    )


def _as_list(column: pl.Expr, dtype: object) -> pl.Expr:
    return column.arr.to_list() if isinstance(dtype, pl.Array) else column


def _as_text(column: pl.Expr, dtype: object) -> pl.Expr:
    if isinstance(dtype, (pl.List, pl.Array)):
        return _as_list(column, dtype).list.eval(_as_text(pl.element(), dtype.inner)).list.join(" ", ignore_nulls=True)
    return column.struct.json_encode() if isinstance(dtype, pl.Struct) else column.cast(pl.String)
