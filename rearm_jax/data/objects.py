"""Files of one object a line: JSON lines, and the Python dicts of the Amazon metadata of 2014.

All columns are text, so that an id stays what it was ("007"); lists and objects are their JSON text. Python's dicts are
read as literals, which run nothing. Half of a surrogate pair, which no text can hold, becomes U+FFFD, and is counted.
"""

import ast
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from rearm_jax.data.reading import MEND, Account, Found, Reading, Refused
from rearm_jax.data.text import BLANKS, Text
from rearm_jax.errors import DataError

_BLOCK = 1 << 23
_SNIFFED = 1000  # objects whose names are the columns; names beyond them are looked for where they are wanted
_HALF_PAIR = re.compile(  # behind an even number of backslashes
    rb"(?<!\\)((?:\\\\)*)(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_ERRORS = (  # of lines that are no objects
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    *(ValueError, TypeError, SyntaxError, MemoryError, RecursionError),
)
Parser = Callable[[bytes, Sequence[str]], pl.DataFrame]


def scan_objects(text: Text, reading: Reading, wanted: Sequence[Sequence[str]] = ()) -> pl.LazyFrame:
    """A file of one object a line as a lazy frame of text columns, its account in `reading`.

    Args:
        text: the file.
        reading: whether bad lines are skipped.
        wanted: names of columns, in groups of which one must be there. If the first objects have none of a group, the
            others are searched for it.

    Raises:
        DataError: a line is no object (and must not be skipped), here or when the frame is collected.
    """
    is_python = re.match(rb"\{\s*[uU]?'", text.data[text.start : text.start + 99].lstrip()) is not None
    parse, load, kind = (
        (_parse_python, _load_python, "no Python dict") if is_python else (_parse_json, json.loads, "no JSON object")
    )
    skip = reading.bad_rows == "skip"
    refused: list[Refused] = []

    def refuse(number: int, line: bytes, error: BaseException) -> None:
        found = Refused(number, 1, kind, f"{kind} ({_reason(line, load) or error}): {text.shown(line)}")
        if not skip:
            raise DataError(f"{text.path}, {found}. {MEND}")
        refused.append(found)

    names = _names(text, load, wanted, refuse)
    lines, blank, halves = _count(text)
    refused.clear()
    if skip:
        for _ in _frames(text, parse, names[:1], refuse):
            pass
        if len(refused) > reading.bad_rows_limit * (lines - blank):
            raise DataError(
                f"{text.path}, {refused[0]}. More than {reading.bad_rows_limit:.2%} of the records are so "
                "(--bad_rows_limit)"
            )
    records = lines - blank - len(refused)
    account = Account(text.path, lines, 0, blank, records, records, tuple(refused), num_replaced=halves)
    bad_lines = {record.line for record in refused}
    reading.found[text.path] = Found(account, lambda row: _line_of(text, bad_lines, row), text)

    def frames(
        columns: list[str] | None, predicate: pl.Expr | None, num_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = records if num_rows is None else num_rows
        for frame in _frames(text, parse, columns or names, refuse):
            rows = frame.head(left)
            yield rows if predicate is None else rows.filter(predicate)
            left -= len(rows)
            if num_rows is not None and not left:
                return

    return register_io_source(frames, schema=dict.fromkeys(names, pl.String), is_pure=True)


def _frames(
    text: Text, parse: Parser, columns: Sequence[str], refuse: Callable[[int, bytes, BaseException], None]
) -> Iterator[pl.DataFrame]:
    for start, end in text.blocks(text.start, _BLOCK):
        block, _ = _without_half_pairs(text.data[start:end])
        try:
            yield parse(block, columns)
        except _ERRORS:
            yield from _good_lines(block.split(b"\n"), text.line_number(start), parse, columns, refuse)


def _good_lines(
    lines: list[bytes],
    first: int,
    parse: Parser,
    columns: Sequence[str],
    refuse: Callable[[int, bytes, BaseException], None],
) -> Iterator[pl.DataFrame]:
    """What can be parsed; halves the lines until each that cannot stands alone."""
    try:
        yield parse(b"\n".join(lines), columns)
    except _ERRORS as error:
        if len(lines) == 1:
            refuse(first, lines[0], error)
            return
        middle = len(lines) // 2
        yield from _good_lines(lines[:middle], first, parse, columns, refuse)
        yield from _good_lines(lines[middle:], first + middle, parse, columns, refuse)


def _parse_json(block: bytes, columns: Sequence[str]) -> pl.DataFrame:
    return pl.scan_ndjson(block, schema=dict.fromkeys(columns, pl.String)).collect()


def _parse_python(block: bytes, columns: Sequence[str]) -> pl.DataFrame:
    rows = [_load_python(line) for line in block.split(b"\n") if line.strip(BLANKS)]
    return pl.DataFrame(
        {name: [_as_text(row.get(name)) for row in rows] for name in columns}, dict.fromkeys(columns, pl.String)
    )


def _load_python(line: bytes) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        row = ast.literal_eval(line.decode().strip())
    if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
        raise ValueError("names and values in braces are expected")
    return row


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins pairs of halves


def _reason(line: bytes, load: Callable[[bytes], object]) -> str:
    try:
        load(line)
    except _ERRORS as error:
        return str(error)
    return ""


def _without_half_pairs(block: bytes) -> tuple[bytes, int]:
    if b"\\ud" not in block and b"\\uD" not in block:
        return block, 0
    return _HALF_PAIR.subn(rb"\1\\ufffd", block)


def _names(
    text: Text,
    load: Callable[[bytes], dict],
    wanted: Sequence[Sequence[str]],
    refuse: Callable[[int, bytes, BaseException], None],
) -> list[str]:
    names: dict[str, None] = {}
    lines = (line for line in _lines(text) if line[1].strip(BLANKS))
    for number, line in itertools.islice(lines, _SNIFFED):
        try:
            row = load(_without_half_pairs(line)[0])
            if not isinstance(row, dict):
                raise ValueError("names and values in braces are expected")
            names.update(dict.fromkeys(row))
        except _ERRORS as error:
            refuse(number, line, error)
    for group in wanted:
        if not names.keys() & set(group):
            names.update(dict.fromkeys(name for name in group if _has_name(text, name, load)))
    return [_as_text(name) or "" for name in names]


def _has_name(text: Text, name: str, load: Callable[[bytes], dict]) -> bool:
    """Whether any object of the file has a column."""
    at = text.data.find(name.encode())
    while at >= 0:
        line = text.line(text.data.rfind(b"\n", 0, at) + 1 or text.start)
        try:
            if name in load(line):
                return True
        except _ERRORS:
            pass  # refused elsewhere
        at = text.data.find(name.encode(), text.line_end(at))
    return False


def _lines(text: Text) -> Iterator[tuple[int, bytes]]:
    """Numbers, from 1, and lines."""
    number, start = 1, text.start
    while start < len(text.data):
        yield number, text.line(start)
        number, start = number + 1, text.line_end(start)


def _count(text: Text) -> tuple[int, int, int]:
    """Numbers of lines, of blank ones, and of halves of surrogate pairs."""
    lines = blank = halves = 0
    for start, end in text.blocks(text.start):
        block = text.data[start:end]
        halves += _without_half_pairs(block)[1]
        array = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
        ends = np.flatnonzero(array == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        lines += len(ends)
        blank += sum(not block[starts[i] : ends[i]].strip(BLANKS) for i in np.flatnonzero(array[starts] <= ord(" ")))
    return lines, blank, halves


def _line_of(text: Text, bad_lines: set[int], row: int) -> int:
    rows = (number for number, line in _lines(text) if line.strip(BLANKS) and number not in bad_lines)
    return next(itertools.islice(rows, row, None))
