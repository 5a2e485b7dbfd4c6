"""Tab-separated text with a header, read row by row. Nothing is quoted; every error names file, line and value."""

import codecs
import itertools
import operator
import os
from collections.abc import Iterator, Sequence

from rearm_jax.errors import DataError

_SHOWN = 60  # characters of a wrong value in a message
_MAX_LABEL = 1000  # characters: numpy gives every label the room of the longest


def header(path: str | os.PathLike) -> list[str]:
    """Names of the columns: the first line of the file.

    Raises:
        DataError: the file cannot be read, or is no UTF-8.
    """
    return next(_lines(path), (1, ""))[1].split("\t")


def rows(path: str | os.PathLike, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """For each row the line, counted from 1, and the fields of `columns`, two or more. Empty lines are no rows.

    Raises:
        DataError: the file cannot be read, is no UTF-8, lacks a column, or a row has more or fewer fields.
    """
    names = header(path)
    for column in columns:
        if names.count(column) != 1:
            raise DataError(
                f"{path}: the header is {shown(' '.join(names))}, and must have the column {column} once; columns are "
                "separated by tabs"
            )
    pick = operator.itemgetter(*map(names.index, columns))
    for line, text in itertools.islice(_lines(path), 1, None):
        fields = text.split("\t")
        if fields == [""]:
            continue
        if len(fields) != len(names):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, and the header has {len(names)}: {shown(text)}"
            )
        yield line, pick(fields)


def number(text: str, path: str | os.PathLike, line: int, column: str) -> int:
    """A field that is a whole number, not negative, of up to ten digits. Raises DataError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise DataError(f"{path}, line {line}: {column} is {shown(text)}, and must be an integer from 0 to 2147483646")
    return int(text)


def label(text: str, path: str | os.PathLike, line: int, column: str) -> str:
    """A field that names a user or an item: neither empty nor endless. Raises DataError."""
    if not 0 < len(text) <= _MAX_LABEL:
        raise DataError(
            f"{path}, line {line}: {column} has {len(text)} characters, and must have from 1 to {_MAX_LABEL}"
        )
    return text


def shown(text: str) -> str:
    """Text as it stands in a message."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and lines without their ends."""
    line = 1
    try:
        with open(path, "rb") as file:
            for line, text in enumerate(file, start=1):
                yield line, text.removeprefix(codecs.BOM_UTF8 if line == 1 else b"").decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}, line {line}: cannot be read as text in UTF-8 ({error})") from error
