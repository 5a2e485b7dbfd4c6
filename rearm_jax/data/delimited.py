"""Text tables: a line of names, then records whose fields have a separator between them.

The separator (comma, tab, semicolon, bar or MovieLens's "::") is the one that the first line has most of, and what
quotes mean is found by reading the file in each way (dialects.py). The files of MovieLens that name no columns are
recognised; RecBole's typed names (`user_id:token`) lose their type, and its files know no quotes.
"""

import csv
import io
import re
from collections.abc import Iterator

import numpy as np
import polars as pl

from rearm_jax.data.dialects import Layout, Survey, record_end, survey, whole_records
from rearm_jax.data.reading import MEND, NUMBER, Account, Found, Reading
from rearm_jax.data.text import BLANKS, BLOCK, Text, not_utf8
from rearm_jax.errors import DataError

_SEPARATORS = (b",", b"\t", b";", b"|", b"::")
_STAND_IN = b"\x1f"  # for "::" in the copy that polars reads: it wants one byte
_RATINGS = ["userId", "movieId", "rating", "timestamp"]
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_FILMS = ["movieId", "title", "release_date", "video_release_date", "IMDb_URL", *_GENRES]
_RECBOLE_NAME = re.compile(r"(.+):(?:token|float)(?:_seq)?$")
_LINES_COMPARED = 1000  # with the line of names


def scan_delimited(text: Text, reading: Reading) -> pl.LazyFrame:
    """A text table as a lazy frame of text columns; its account is put into `reading`.

    Raises:
        DataError: records cannot be read (and must not be skipped), quotes can be read in two ways that differ, or
            there are no names of columns; the message names line and option.
    """
    separator = _separator(text.line(_first_line(text)[0]))
    if separator == b"::":
        text, separator = _with_stand_in(text), _STAND_IN
    surveys = _surveys(text, reading, separator)
    chosen = _choose(text, reading, surveys)

    layout, drops = chosen.layout, chosen.drops
    blank = chosen.blank + layout.first_line - 1 - layout.num_header
    refused = sum(record.num_lines for record in chosen.refused)
    account = Account(
        path=text.path,
        lines=chosen.lines,
        header=layout.num_header,
        blank=blank,
        read=chosen.lines - layout.num_header - blank - refused,
        records=chosen.records,
        refused=chosen.refused,
        quote=layout.dialect,
    )
    skipped_lines = layout.first_line - 1
    if len(drops) or (layout.dialect == "backslash" and text.data.find(b"\\", layout.body) >= 0):
        text, skipped_lines = text.copy(_mended(text, layout, drops)), 0
    reading.found[text.path] = Found(account, chosen.line_of, text)
    schema = pl.Schema(dict.fromkeys(layout.names, pl.String()))
    if not chosen.records:
        return pl.LazyFrame(schema=schema)
    return pl.scan_csv(
        text.file,
        has_header=False,
        skip_lines=skipped_lines,
        schema=schema,
        separator=separator.decode(),
        quote_char=None if layout.dialect == "none" else '"',
        glob=False,
    )


def _separator(line: bytes) -> bytes:
    bare = re.sub(rb'"[^"]*"', b"", line)
    return b"::" if re.match(rb"\d+::", bare) else max(_SEPARATORS, key=bare.count)


def _with_stand_in(text: Text) -> Text:
    if text.data.find(_STAND_IN) >= 0:
        raise DataError(f"{text.path}: holds the character U+001F, which files with '::' between columns must not")
    blocks = text.blocks(text.start)
    copy = text.copy(text.data[start:end].replace(b"::", _STAND_IN) for start, end in blocks)
    copy.replaced = (_STAND_IN, b"::")
    copy.bad_utf8 = list(not_utf8(copy)) if text.bad_utf8 else []
    return copy


def _first_line(text: Text) -> tuple[int, int]:
    """Offset and number of the first line that is not blank."""
    start, number = text.start, 1
    while not text.line(start).strip(BLANKS):
        start, number = text.line_end(start), number + 1
    return start, number


# Names of columns


def _layout(text: Text, reading: Reading, dialect: str, separator: bytes) -> Layout:
    """The names of the columns, and where the records begin. Raises DataError: there is no line of names."""
    start, number = _first_line(text)
    end = record_end(text, Layout(dialect, separator, [""], None, 0, start, number), start)
    where = f"{text.path}, line {number}"
    if end is None:
        raise DataError(f"{where}: quotes do not close: {text.shown(text.line(start))}")
    record = text.data[start:end]
    fields = _fields(record, dialect, separator, where)
    names = list(reading.names) if reading.names is not None else _names_of_movielens(fields, separator)
    if names is not None and names != fields:
        return Layout(dialect, separator, names, None, 0, start, number)
    num_lines = record.count(b"\n") or 1
    if names is None:
        names = _checked(fields, where, reading)
        _refuse_repeated(text, end, separator, names, record, where, reading)
    names = [name or f"column {i}" for i, name in enumerate(names, start=1)]
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: names the column {again[0]!r} more than once; give each a name of its own")
    header = record.strip(BLANKS) if num_lines == 1 else None
    return Layout(dialect, separator, names, header, num_lines, end, number + num_lines)


def _fields(record: bytes, dialect: str, separator: bytes, where: str) -> list[str]:
    """The fields of the first record, without blanks around them."""
    reader = csv.reader(
        io.StringIO(record.decode("utf-8", "replace").rstrip("\r\n"), newline=""),
        delimiter=separator.decode(),
        quoting=csv.QUOTE_NONE if dialect == "none" else csv.QUOTE_MINIMAL,
        escapechar="\\" if dialect == "backslash" else None,
    )
    try:
        fields = [field.strip() for field in next(reader)]
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{where}: holds no names of columns ({error})") from error
    return [re.sub(r'^"(.*)"$', r"\1", field) for field in fields]


def _names_of_movielens(fields: list[str], separator: bytes) -> list[str] | None:
    """Names for the files of MovieLens that have none: u.data, u.item, ratings.dat, tags.dat, movies.dat."""
    numbers = [NUMBER.fullmatch(field) is not None for field in fields]
    if separator == b"\t" and numbers == [True] * 4:
        return _RATINGS
    if separator == b"|" and len(fields) == len(_FILMS) and numbers[0] and set(fields[5:]) <= {"0", "1"}:
        return _FILMS
    if separator == _STAND_IN and numbers[0] and len(fields) == 3:
        return ["movieId", "title", "genres"]
    if separator == _STAND_IN and len(fields) == 4 and numbers[0] and numbers[1] and numbers[3]:
        return _RATINGS if numbers[2] else ["userId", "movieId", "tag", "timestamp"]
    return None


def _checked(fields: list[str], where: str, reading: Reading) -> list[str]:
    """Names of columns; DataError if they are values. Numbers that count up by one are names."""
    if all(_RECBOLE_NAME.fullmatch(field) for field in fields):
        return [_RECBOLE_NAME.sub(r"\1", field) for field in fields]
    numbers = [field for field in fields if NUMBER.fullmatch(field)]
    counts_up = 1 < len(numbers) < len(fields) and numbers[0].isdecimal()
    if numbers and not (counts_up and numbers == [str(int(numbers[0]) + i) for i in range(len(numbers))]):
        raise DataError(
            f"{where}: holds the numbers {', '.join(numbers[:3])}, and must name the columns. {_headless(reading)}"
        )
    return fields


def _refuse_repeated(
    text: Text, body: int, separator: bytes, names: list[str], header: bytes, where: str, reading: Reading
) -> None:
    """DataError if every name is a value of its own column further down: then the first line is a row."""
    repeated: set[int] = set()
    for line in text.data[body : body + BLOCK].split(b"\n")[:_LINES_COMPARED]:
        values = line.decode("utf-8", "replace").replace('"', "").split(separator.decode())
        if len(values) == len(names) and line.strip(BLANKS) != header.strip(BLANKS):
            repeated |= {i for i, (name, value) in enumerate(zip(names, values, strict=True)) if name == value.strip()}
    if len(repeated) == len(names):
        raise DataError(
            f"{where}: must name the columns, but {', '.join(names[:3])} are values of those columns further down. "
            f"{_headless(reading)}"
        )


def _headless(reading: Reading) -> str:
    example = "user_id,item_id,rating,timestamp" if "interactions" in reading.names_flag else "item_id,title"
    return (
        f"If it is a row, name the columns in their order with {reading.names_flag} (such as {example}), and it counts "
        "as one; if it does name them, repeat the names there"
    )


# What quotes mean


def _surveys(text: Text, reading: Reading, separator: bytes) -> list[Survey]:
    """The file in every dialect that it may be in."""
    given = reading.quote_of(text.path)
    typed = [
        _RECBOLE_NAME.fullmatch(name) for name in text.line(_first_line(text)[0]).decode("utf-8", "replace").split("\t")
    ]
    if given is not None:
        dialects = [given]
    elif text.data.find(b'"') < 0 or separator == _STAND_IN or all(typed):
        dialects = ["none"]
    else:
        dialects = ["none", "double"] + ["backslash"] * (text.data.find(b'\\"') >= 0)
    max_refused = 0
    if reading.bad_rows == "skip":
        num_lines = 1 + sum(text.data[start:end].count(b"\n") for start, end in text.blocks(text.start))
        max_refused = int(reading.bad_rows_limit * num_lines)
    surveys, errors = [], []
    for dialect in dialects:
        try:
            surveys.append(survey(text, _layout(text, reading, dialect, separator), max_refused))
        except DataError as error:
            errors.append(error)
    if not surveys:
        raise errors[0]
    return surveys


def _choose(text: Text, reading: Reading, surveys: list[Survey]) -> Survey:
    """The dialect to read. Raises DataError: none fits, or two that differ in more than the quotes around values."""
    limit = reading.bad_rows_limit if reading.bad_rows == "skip" else 0.0
    fits = [one for one in surveys if len(one.refused) <= limit * (one.records + len(one.refused))]
    if not fits:
        raise DataError(_unreadable(text, reading, surveys))
    best = [one for one in fits if all(one.reads_all_of(other) for other in fits)]
    dialects = {one.layout.dialect for one in best}
    backslash = None
    if "backslash" in dialects and len(dialects) > 1:
        # Without quotes the values are the same where backslashes stand before quotes alone.
        backslash = re.search(rb'\\"' if "double" in dialects else rb'\\[^"]', text.data)
    if best and backslash is None:
        return best[-1]  # of dialects that give the same records, the one that knows quotes
    if backslash is not None:
        line = text.line_number(backslash.start())
        differing = best
    else:
        differing = next([a, b] for a in fits for b in fits if not a.reads_all_of(b))
        line = differing[0].first_difference(differing[1])
    ways = [f"--quote {one.layout.dialect} reads {one.records:,} records" for one in differing]
    raise DataError(
        f"{text.path}, line {line}: what quotes mean is not clear, and changes the rows: {', '.join(ways)}. Choose one "
        f"of them; the line is {text.shown(text.line_at(line))}"
    )


def _unreadable(text: Text, reading: Reading, surveys: list[Survey]) -> str:
    first = [one.refused[0] for one in surveys]
    if len(set(map(str, first))) == 1:
        message = f"{text.path}, {first[0]}"
    else:
        ways = [f"--quote {one.layout.dialect}: {one.refused[0]}" for one in surveys]
        message = f"{text.path}: cannot be read, whatever its quotes mean. {'; '.join(ways)}"
    if reading.bad_rows == "skip":
        return f"{message}. More than {reading.bad_rows_limit:.2%} of the records are so (--bad_rows_limit)"
    return f"{message}. {MEND}"


# What polars reads


def _mended(text: Text, layout: Layout, drops: np.ndarray) -> Iterator[bytes]:
    """The records that are read, with doubled quotes in place of backslashes."""
    position = layout.body
    for start, end in [*drops.tolist(), (len(text.data), len(text.data))]:
        while position < start:
            block_end = min(start, text.line_end(position + BLOCK))
            if layout.dialect != "backslash":
                yield text.data[position:block_end]
                position = block_end
                continue
            ends = whole_records(text, layout, position, block_end).ends
            block = text.data[position : position + int(ends[-1])]
            yield _without_backslashes(block, ends, layout.separator)
            position += len(block)
        position = end


def _without_backslashes(block: bytes, ends: np.ndarray, separator: bytes) -> bytes:
    """Records of the dialect `backslash` as RFC 4180 has them."""
    field = rb'"(?:[^"\\]|\\.|"")*"|(?:[^"\\\r\n%b]|\r(?!\n)|\\.)+' % re.escape(separator)
    backslashes = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\\"))
    pieces, position = [], 0
    for record in np.unique(np.searchsorted(ends, backslashes, side="right")):
        start, end = int(ends[record - 1]) if record else 0, int(ends[record])
        pieces += [block[position:start], re.sub(field, _doubled, block[start:end], flags=re.DOTALL)]
        position = end
    return b"".join([*pieces, block[position:]])


def _doubled(match: re.Match[bytes]) -> bytes:
    field = match[0]
    if b"\\" not in field:
        return field
    inner = field[1:-1] if field.startswith(b'"') else field
    value = re.sub(rb'\\(.)|""', lambda pair: pair[1] or b'"', inner, flags=re.DOTALL)
    return b'"%b"' % value.replace(b'"', b'""')
