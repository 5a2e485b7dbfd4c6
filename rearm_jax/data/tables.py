"""Tables as people have them: CSV and the like, JSON lines, Parquet; read in a stream, by columns that have names.

What a file is, its content tells, not its name: Parquet and gzip by their first bytes, JSON lines by the brace, and in
text the separator (comma, tab, semicolon, bar or MovieLens's "::") is the one that the first line has most of. The
first line must name the columns; the files of MovieLens that have none (u.data, ratings.dat, movies.dat) are
recognised. RecBole's typed names (`user_id:token`) lose their type. All columns of text files and JSON lines are text,
so that an id stays what it was ("007"); a list in JSON is its JSON text. The metadata of the Amazon reviews of 2014,
whose lines are Python's dicts and no JSON, are read as literals, which run nothing.
"""

import ast
import contextlib
import csv
import glob
import gzip
import itertools
import json
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence

import polars as pl
from polars.io.plugins import register_io_source

from rearm_jax.errors import DataError

ITEM_COLUMNS = ("item_id", "movieId", "parent_asin", "asin", "item")
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
_SNIFFED_BYTES = 1 << 20
_SNIFFED_OBJECTS = 1000  # the names of a JSON lines file are those of its first objects
_RECBOLE_NAME = re.compile(r"(.+):(?:token|float)(?:_seq)?$")


def scan_table(path: str | os.PathLike) -> pl.LazyFrame:
    """A file as a lazy frame; only its start is read.

    Raises:
        DataError: the file cannot be read, is empty, or has no names of columns.
    """
    path = os.fspath(path)
    start, is_gzip = _start(path)
    with readable(path):
        if start.startswith(b"PAR1") and not is_gzip:
            return pl.scan_parquet(path, glob=False)
        text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not text:
            raise DataError(f"{path}: the file is empty")
        if text.startswith(b"{'"):
            return _scan_python_dicts(path)
        if text.startswith(b"{"):
            # A name such as "[1].json" would be taken for a pattern.
            return pl.scan_ndjson(glob.escape(path), schema=dict.fromkeys(_json_names(path), pl.String))
        if text.startswith(b"["):
            raise DataError(f"{path}: starts with a bracket; write JSON lines, one object a line, not one JSON array")
        try:
            line = text.split(b"\n", 1)[0].decode().rstrip("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: the first line is not UTF-8 ({error}); convert it, as with iconv") from error
        if "::" in line:
            return _scan_double_colons(path, line)
        return _scan_separated(path, line)


def column_names(table: pl.LazyFrame, path: str | os.PathLike) -> list[str]:
    """Names of a table's columns; DataError if the file cannot be read."""
    with readable(path):
        return table.collect_schema().names()


def pick_column(
    names: Sequence[str], given: str | None, recognised: Sequence[str], path: str | os.PathLike, what: str, flag: str
) -> str:
    """The column that a person named, or else the first recognised one.

    Raises:
        DataError: there is none; the message says which columns there are.
    """
    for name in (given,) if given is not None else recognised:
        if name in names:
            return name
    there = ", ".join(repr(name) for name in names[:30])
    if given is not None:
        raise DataError(f"{path}: no column {given!r} ({flag}); the columns are {there}")
    raise DataError(f"{path}: no column of {what} is recognised; the columns are {there}. Name one with {flag}")


def as_id(table: pl.LazyFrame, name: str, path: str | os.PathLike) -> pl.Expr:
    """A column of ids as text; DataError if it is neither text nor whole numbers."""
    dtype = table.collect_schema()[name]
    if not (dtype.is_integer() or isinstance(dtype, (pl.String, pl.Categorical, pl.Enum))):
        raise DataError(f"{path}: column {name!r} is {dtype}; ids must be text or whole numbers")
    return pl.col(name).cast(pl.String)


@contextlib.contextmanager
def readable(path: str | os.PathLike) -> Iterator[None]:
    """Turns what polars and the file system raise about a file into a DataError that names it."""
    try:
        yield
    except (*_POLARS_ERRORS, OSError, zlib.error, EOFError, UnicodeDecodeError) as error:
        reason = str(error).strip().split("\n\n")[0]
        raise DataError(f"{path} cannot be read: {reason}") from error


def _start(path: str) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked, and whether it is packed."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such file")
    with readable(path):
        with open(path, "rb") as file:
            start = file.read(_SNIFFED_BYTES)
        if not start.startswith(b"\x1f\x8b"):
            return start, False
        with gzip.open(path) as file:
            return file.read(_SNIFFED_BYTES), True


def _json_names(path: str) -> list[str]:
    names: dict[str, None] = {}
    row = 0
    opened = gzip.open if _start(path)[1] else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        try:
            for line in itertools.islice(file, _SNIFFED_OBJECTS):
                row += 1
                if line.strip():
                    found = json.loads(line)
                    if not isinstance(found, dict):
                        raise ValueError(f"it is {line[:40]!r}")
                    names.update(dict.fromkeys(found))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, row {row}: not a JSON object on a line of its own ({error})") from error
    return list(names)


def _scan_python_dicts(path: str) -> pl.LazyFrame:
    opened = gzip.open if _start(path)[1] else open

    def rows() -> Iterator[dict]:
        with readable(path), opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of escapes that Python does not know
                        yield dict(ast.literal_eval(line))
                except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
                    raise DataError(f"{path}, row {number}: neither JSON nor a Python dict ({error})") from error

    def frames(
        columns: list[str] | None, predicate: pl.Expr | None, num_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted, left = dict.fromkeys(columns or names, pl.String), itertools.islice(rows(), num_rows)
        while batch := list(itertools.islice(left, batch_size or _SNIFFED_OBJECTS)):
            frame = pl.DataFrame({name: [_json_text(row.get(name)) for row in batch] for name in wanted}, wanted)
            yield frame if predicate is None else frame.filter(predicate)

    names = list(dict.fromkeys(itertools.chain.from_iterable(itertools.islice(rows(), _SNIFFED_OBJECTS))))
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: the names of the columns are not text")
    return register_io_source(frames, schema=dict.fromkeys(names, pl.String), is_pure=True)


def _json_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _scan_separated(path: str, line: str) -> pl.LazyFrame:
    separator = max(",\t;|", key=line.count)
    try:
        names = next(csv.reader([line], delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{path}: the first line holds no names of columns ({error})") from error
    if all(NUMBER.fullmatch(name) for name in names):
        if len(names) != 4:
            raise DataError(f"{path}: the first line holds numbers, and must name the columns; write a line of names")
        new_names = ["userId", "movieId", "rating", "timestamp"]
        return pl.scan_csv(
            path, infer_schema=False, has_header=False, separator=separator, new_columns=new_names, glob=False
        )
    recbole = all(_RECBOLE_NAME.fullmatch(name) for name in names)  # its files know no quotes
    table = pl.scan_csv(path, infer_schema=False, separator=separator, quote_char=None if recbole else '"', glob=False)
    return table.rename(lambda name: _RECBOLE_NAME.sub(r"\1", name)) if recbole else table


def _scan_double_colons(path: str, line: str) -> pl.LazyFrame:
    """MovieLens's .dat files: a separator of two characters, and titles with single colons."""
    names = {3: ["movieId", "title", "genres"], 4: ["userId", "movieId", "rating", "timestamp"]}.get(
        line.count("::") + 1
    )
    if names is None:
        raise DataError(f"{path}: lines with '::' are read as MovieLens's ratings.dat and movies.dat only")
    lines = pl.scan_csv(
        path, infer_schema=False, has_header=False, separator="\x01", quote_char=None, new_columns=["line"], glob=False
    )
    fields = pl.col("line").str.split_exact("::", len(names) - 1).struct.rename_fields(names)
    return lines.select(fields).unnest("line")
