"""The names of a text table's columns, and what separates them.

The separator (comma, tab, semicolon, bar or MovieLens's "::") is the one that every line has as often as the first.
The files of MovieLens that name no columns are recognised; RecBole's typed names (`user_id:token`) lose their type.
"""

import csv
import io
import re

from rearm_jax.data.prepare.reading import NUMBER, Reading, TextError
from rearm_jax.data.prepare.records import Layout, record_end
from rearm_jax.data.prepare.text import BLANKS, BLOCK, Text, encoding_error
from rearm_jax.errors import DataError

STAND_IN = b"\x1f"  # for "::" in the copy that polars reads: it wants one byte
RETURN_STAND_IN = b"\x1e"  # for a carriage return before a separator, which polars would drop
_SEPARATORS = (b",", b"\t", b";", b"|", b"::")
_RATINGS = ["userId", "movieId", "rating", "timestamp"]
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_FILMS = ["movieId", "title", "release_date", "video_release_date", "IMDb_URL", *_GENRES]
_RECBOLE_NAME = re.compile(r"(.+):(?:token|float)(?:_seq)?$")
_EXCEL = re.compile(rb'"?sep=(.)"?\r?\n')  # a first line that tells Excel the separator
_LINES_COMPARED = 1000  # with the line of names


def find_separator(text: Text, reading: Reading) -> bytes:
    """Of what is in the first line, outside quotes: what makes as many fields there as names were given, or what the
    next lines have as often as the first; among those what it has most of."""
    if (told := _EXCEL.match(text.data, text.start)) and told[1] in _SEPARATORS:
        return told[1]
    start = first_line(text)[0]
    lines = text.data[start : start + BLOCK].split(b"\n")[:_LINES_COMPARED]
    first, *further = (re.sub(rb'"[^"]*"', b"", line) for line in lines)
    if re.match(rb"\d+::", first):
        return b"::"

    def likely(separator: bytes) -> tuple[bool, int, int]:
        count = first.count(separator)
        is_given = reading.names is not None and count == len(reading.names) - 1
        return is_given, sum(line.count(separator) == count for line in further), count

    return max((separator for separator in _SEPARATORS if separator in first), key=likely, default=b",")


def first_line(text: Text) -> tuple[int, int]:
    """Offset and number of the first line that is not blank, nor there for Excel."""
    start, number = text.start, 1
    if told := _EXCEL.match(text.data, start):
        start, number = told.end(), 2
    while not text.line(start).strip(BLANKS):
        start, number = text.line_end(start), number + 1
    return start, number


def find_layout(text: Text, reading: Reading, dialect: str, separator: bytes) -> Layout:
    """The names of the columns, and where the records begin.

    Raises:
        DataError: there is no line of names, and `reading` has none.
    """
    start, number = first_line(text)
    num_told = int(_EXCEL.match(text.data, text.start) is not None)
    end = record_end(text, Layout(dialect, separator, [""], None, 0, start, number), start)
    where = f"{text.path}, line {number}"
    if end is None:
        raise DataError(f"{where}: quotes do not close: {text.shown(text.line(start))}")
    record = text.data[start:end]
    fields = split_line(record, dialect, separator, where)
    bare = record if dialect == "none" else re.sub(rb'"[^"]*"', b"", record)
    if b"\r" in bare.rstrip(b"\r\n") or RETURN_STAND_IN in bare:
        raise TextError(
            f"{where}: lines end in carriage returns here, and elsewhere in newlines: {text.shown(record)}. Write all "
            "ends of lines alike"
        )
    names = list(reading.names) if reading.names is not None else _names_of_movielens(fields, separator)
    is_header = names is None or names == fields
    if names is None:
        names = _checked(fields, where, reading)
        _refuse_repeated(text, end, separator, names, record, where, reading)
    names = [name or f"column {i}" for i, name in enumerate(names, start=1)]
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: the column {again[0]!r} is named more than once; give each a name of its own")
    if not is_header:
        return Layout(dialect, separator, names, None, num_told, start, number)
    if start in text.bad_utf8:
        raise encoding_error(text, start)
    num_lines = record.count(b"\n") + (not record.endswith(b"\n"))
    header = record.strip(BLANKS) if num_lines == 1 else None
    return Layout(dialect, separator, names, header, num_told + num_lines, end, number + num_lines)


def split_line(record: bytes, dialect: str, separator: bytes, where: str) -> list[str]:
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
    return [re.sub(r'^"(.*)"$', r"\1", field) if dialect == "none" else field for field in fields]


def _names_of_movielens(fields: list[str], separator: bytes) -> list[str] | None:
    """Names for the files of MovieLens that have none: u.data, u.item, ratings.dat, tags.dat, movies.dat."""
    numbers = [NUMBER.fullmatch(field) is not None for field in fields]
    if separator == b"\t" and numbers == [True] * 4:
        return _RATINGS
    if separator == b"|" and len(fields) == len(_FILMS) and numbers[0] and set(fields[5:]) <= {"0", "1"}:
        return _FILMS
    if separator == STAND_IN and numbers[0] and len(fields) == 3:
        return ["movieId", "title", "genres"]
    if separator == STAND_IN and len(fields) == 4 and numbers[0] and numbers[1] and numbers[3]:
        return _RATINGS if numbers[2] else ["userId", "movieId", "tag", "timestamp"]
    return None


def _checked(fields: list[str], where: str, reading: Reading) -> list[str]:
    """Names of columns; DataError if they are values. Numbers that count up by one are names."""
    if is_recbole(fields):
        return [_RECBOLE_NAME.sub(r"\1", field) for field in fields]
    numbers = [field for field in fields if NUMBER.fullmatch(field)]
    counts_up = 1 < len(numbers) < len(fields) and numbers[0].isdecimal()
    if numbers and not (counts_up and numbers == [str(int(numbers[0]) + i) for i in range(len(numbers))]):
        raise TextError(
            f"{where}: holds the numbers {', '.join(numbers[:3])}, and must name the columns. {_headless(reading)}"
        )
    return fields


def is_recbole(fields: list[str]) -> bool:
    """Whether these are RecBole's typed names."""
    return all(_RECBOLE_NAME.fullmatch(field) for field in fields)


def _refuse_repeated(
    text: Text, body: int, separator: bytes, names: list[str], header: bytes, where: str, reading: Reading
) -> None:
    """DataError if every name is a value of its own column further down: then the first line is a row."""
    repeated: set[int] = set()
    for line in text.data[body : body + BLOCK].split(b"\n")[:_LINES_COMPARED]:
        values = line.decode("utf-8", "replace").replace('"', "").split(separator.decode())
        if len(values) == len(names) and line.strip(BLANKS) != header.strip(BLANKS):
            same = {i for i, (name, value) in enumerate(zip(names, values, strict=True)) if name == value.strip()}
            repeated |= same if len(same) < len(names) else set()  # all in one line are the header again
    if len(repeated) == len(names):
        raise TextError(
            f"{where}: must name the columns, but {', '.join(names[:3])} are values of those columns further down. "
            f"{_headless(reading)}"
        )


def _headless(reading: Reading) -> str:
    example = "user_id,item_id,rating,timestamp" if "interactions" in reading.names_option else "item_id,title"
    return (
        f"If it is a row, name the columns in their order with {reading.names_option} (such as {example}), and it "
        "counts as one; if it does name them, repeat the names there"
    )
