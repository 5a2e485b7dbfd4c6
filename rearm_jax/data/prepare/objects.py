"""Files of one object a line: JSON lines, and the Python dicts of the Amazon metadata of 2014.

All columns are text, so that an id stays what it was ("007"); lists and objects are their JSON text. Python's dicts are
read as literals, which run nothing, and written as JSON lines, which polars reads. Half of a surrogate pair, which no
text can hold, becomes U+FFFD, and is counted.
"""

import ast
import codecs
import contextlib
import functools
import glob
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from rearm_jax.data.prepare.json_values import TWICE, doubtful_lines
from rearm_jax.data.prepare.reading import MEND, Account, Found, Reading, Refused, TextError
from rearm_jax.data.prepare.text import BLANKS, Text

_BLOCK = 1 << 22
_SNIFFED = 1000  # objects whose names are the columns; names beyond them are looked for where they are wanted
_HALF_PAIR = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_ERRORS = (  # of lines that are no objects
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    *(ValueError, TypeError, SyntaxError, MemoryError, RecursionError),
)


def scan_objects(text: Text, reading: Reading, wanted: Sequence[Sequence[str]] = ()) -> pl.LazyFrame:
    """A file of one object a line as a lazy frame of text columns, its account in `reading`.

    Args:
        text: the file.
        reading: whether bad lines are skipped.
        wanted: names of columns, in groups of which one must be there. If the first objects of JSON lines have none of
            a group, the others are searched for it.

    Raises:
        DataError: a line is no object, and must not be skipped. Of JSON lines polars finds that when the frame is
            collected; `explain` in `reading.found` then raises it.
    """
    is_python = re.match(rb"\{\s*([uU]?'|[uU]\")", text.data[text.start : text.start + 99].lstrip()) is not None
    skip = reading.bad_rows == "skip"
    lines, blank = _count(text)
    explain = None
    if is_python:
        mended, names, refused, halves = _as_json_lines(text, skip)
    else:
        names, refused, halves, mended = _names(text, wanted, skip), [], 0, text
        asked = {name for group in wanted for name in group if name in names}
        refused = list(doubtful_lines(text, asked))
        if refused and not skip:
            raise TextError(f"{text.path}, {refused[0]}. {MEND}")
        if skip:
            of_lines = {record.line: record for record in (*_bad_lines(text), *refused)}
            refused = [of_lines[line] for line in sorted(of_lines)]
        else:
            explain = functools.partial(_explain, text)
        may_have_halves = all(text.data.find(sign) >= 0 for sign in (b"\\", b"\\u"))
        if text.start or refused or (may_have_halves and _HALF_PAIR.search(text.data) is not None):
            mended, halves = _without(text, {record.line for record in refused})
    if len(refused) > reading.bad_rows_limit * (lines - blank):
        raise TextError(f"{text.path}, {refused[0]}. {reading.over_limit()}")

    records = lines - blank - len(refused)
    account = Account(text.path, lines, 0, blank, records, records, refused, num_replaced=halves)
    line_of = functools.partial(_line_of, text, {record.line for record in refused})
    reading.found[text.path] = Found(account, line_of, text.line_at, explain, mended)
    schema = pl.Schema(dict.fromkeys(names, pl.String()))
    if not records or not names:
        return pl.LazyFrame(schema=schema)
    # A name such as "[1].json" would be taken for a pattern.
    return pl.scan_ndjson(glob.escape(mended.file), schema=schema)


def _count(text: Text) -> tuple[int, int]:
    """Numbers of lines and of blank ones."""
    lines = blank = 0
    for start, end in text.blocks(text.start):
        array = np.frombuffer(b"\n" + text.data[start:end], np.uint8)
        newline = array == ord("\n")
        lines += int(np.count_nonzero(newline)) - 1
        if (newline[:-1] & (array[1:] <= ord(" "))).any():  # a line that starts with a blank
            blank += sum(not line.strip(BLANKS) for line in text.data[start:end].removesuffix(b"\n").split(b"\n"))
    return lines + (text.data[-1:] != b"\n"), blank


def _lines(text: Text) -> Iterator[tuple[int, bytes]]:
    """Numbers, from 1, and lines."""
    number, start = 1, text.start
    while start < len(text.data):
        yield number, text.line(start)
        number, start = number + 1, text.line_end(start)


def _line_of(text: Text, refused: set[int], record: int) -> int:
    records = (number for number, line in _lines(text) if line.strip(BLANKS) and number not in refused)
    return next(itertools.islice(records, record, None))


# JSON lines


def _load_json(line: bytes) -> dict:
    return _checked(json.loads(line))


def _names(text: Text, wanted: Sequence[Sequence[str]], skip: bool) -> list[str]:
    names: dict[str, None] = {}
    lines = (line for line in _lines(text) if line[1].strip(BLANKS))
    for number, line in itertools.islice(lines, _SNIFFED):
        try:
            names.update(dict.fromkeys(_load_json(_without_halves(line)[0])))
        except _ERRORS:
            if not skip:
                raise TextError(f"{text.path}, {_refused(text, number, line, _load_json)}. {MEND}") from None
    for group in wanted:
        if not names.keys() & set(group):
            names.update(dict.fromkeys(name for name in group if _has_name(text, name)))
    return list(names)


def _has_name(text: Text, name: str) -> bool:
    """Whether any object of the file has a column."""
    for written in {name.encode(), json.dumps(name)[1:-1].encode()}:  # as it is, and with escapes
        at = text.data.find(written, text.start)
        while at >= 0:
            with contextlib.suppress(*_ERRORS):  # what is no object is refused elsewhere
                if name in _load_json(text.line(max(text.data.rfind(b"\n", 0, at) + 1, text.start))):
                    return True
            at = text.data.find(written, text.line_end(at))
    return False


def _without(text: Text, refused: set[int]) -> tuple[Text, int]:
    """The text without the lines of some numbers and halves of pairs, and the number of those halves."""
    halves = 0

    def blocks() -> Iterator[bytes]:
        nonlocal halves
        number = 1
        for start, end in text.blocks(text.start, _BLOCK):
            block, replaced = _without_halves(text.data[start:end])
            halves += replaced
            if refused:
                lines = re.findall(rb"[^\n]*\n|[^\n]+", block)
                block = b"".join(line for i, line in enumerate(lines, number) if i not in refused)
                number += len(lines)
            yield block

    return text.copy(blocks()), halves


def _explain(text: Text) -> None:
    """Raises DataError for the first line that polars cannot read."""
    for refused in _bad_lines(text):
        raise TextError(f"{text.path}, {refused}. {MEND}")


def _bad_lines(text: Text) -> Iterator[Refused]:
    for start, end in text.blocks(text.start, _BLOCK):
        lines = _without_halves(text.data[start:end])[0].split(b"\n")
        if not _is_json_lines(lines):
            first = text.line_number(start)
            for i in _bad_of(lines):
                yield _refused(text, first + i, lines[i], _load_json)


def _bad_of(lines: list[bytes]) -> Iterator[int]:
    """Halves the lines until each that is bad stands alone."""
    if _is_json_lines(lines):
        return
    if len(lines) == 1:
        yield 0
        return
    middle = len(lines) // 2
    yield from _bad_of(lines[:middle])
    yield from (middle + i for i in _bad_of(lines[middle:]))


def _is_json_lines(lines: list[bytes]) -> bool:
    try:
        pl.scan_ndjson(b"\n".join(lines), schema={"": pl.String}).collect()
    except _ERRORS:
        return False
    return True


# Python's dicts


def _as_json_lines(text: Text, skip: bool) -> tuple[Text, list[str], list[Refused], int]:
    """A file of Python's dicts as JSON lines; the names in them; what is refused; the number of halves of pairs."""
    names: dict[str, None] = {}
    refused: list[Refused] = []
    halves = 0

    def objects() -> Iterator[bytes]:
        nonlocal halves
        for number, line in _lines(text):
            if not line.strip(BLANKS):
                continue
            whole, replaced = _without_halves(line)
            halves += replaced
            try:
                row = {_as_text(name): _as_text(value) for name, value in _load_python(whole).items()}
            except _ERRORS:
                refused.append(_refused(text, number, line, _load_python))
                if not skip:
                    raise TextError(f"{text.path}, {refused[0]}. {MEND}") from None
                continue
            names.update(dict.fromkeys(name for name in row if name is not None))
            yield json.dumps(row).encode() + b"\n"

    return text.copy(objects()), list(names), refused, halves


def _load_python(line: bytes) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        tree = ast.parse(line.decode().strip(), mode="eval")
        row = _checked(ast.literal_eval(tree))
    if isinstance(tree.body, ast.Dict) and len(row) < len(tree.body.keys):
        raise ValueError(TWICE)
    return row


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode()
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins the halves of pairs


# Lines


def _without_halves(block: bytes) -> tuple[bytes, int]:
    """Lines with U+FFFD in place of halves of surrogate pairs, and the number of those."""
    number = 0

    def replaced(match: re.Match[bytes]) -> bytes:
        nonlocal number
        start = match.start()
        while start and block[start - 1] == ord("\\"):
            start -= 1
        if (match.start() - start) % 2:  # its backslash stands for itself
            return match[0]
        number += 1
        return rb"\ufffd"

    return _HALF_PAIR.sub(replaced, block), number


def _checked(row: object) -> dict:
    if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
        raise ValueError("names and values in braces are expected")
    return row


def _refused(text: Text, number: int, line: bytes, load: Callable[[bytes], dict]) -> Refused:
    kind = "no Python dict" if load is _load_python else "no JSON object"
    lacks = "a value of it" if load is _load_python else "NaN, infinities, or numbers beyond 64-bit floats"
    reason = "a byte order mark in mid-file" if line.startswith(codecs.BOM_UTF8) else f"JSON cannot have {lacks}"
    try:
        load(line)
    except _ERRORS as error:
        reason = getattr(error, "msg", None) or str(error).split(":")[0]  # behind a colon come places in memory
    return Refused(number, 1, kind, f"{kind} ({reason}): {text.shown(line)}")
