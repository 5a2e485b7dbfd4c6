"""Text tables: a line of names, then records whose fields have a separator between them.

What quotes mean is found by reading the file in each of the dialects (records.py): one fits when every record has the
header's number of fields and the quotes close. RecBole's files know no quotes, nor do those with "::".
"""

import codecs
import re
from collections.abc import Iterator

import numpy as np
import polars as pl

from rearm_jax.data.prepare.headers import (
    RETURN_STAND_IN,
    STAND_IN,
    find_layout,
    find_separator,
    first_line,
    is_recbole,
    split_line,
)
from rearm_jax.data.prepare.reading import MEND, Account, Found, Reading, TextError
from rearm_jax.data.prepare.records import Layout, whole_records
from rearm_jax.data.prepare.survey import FIELDS, Survey, survey
from rearm_jax.data.prepare.text import BLANKS, BLOCK, Text, not_utf8
from rearm_jax.errors import DataError

_LINES_LOOKED_AT = 1000
_LIKE_ZLIB = (b"x\x01", b"x^", b"x\xda")  # first bytes of it that may be those of text
_ESCAPES = (b'\\"', b"\\\n", b"\\\r\n")  # after which a backslash may be meant to change what records there are
_QUOTED = re.compile(rb'(?:\s|\xc2\xa0)*".*"(?:\s|\xc2\xa0)*')


def scan_delimited(text: Text, reading: Reading) -> pl.LazyFrame:
    """A text table as a lazy frame of text columns; its account is put into `reading`.

    Raises:
        DataError: records cannot be read (and must not be skipped), quotes can be read in two ways that differ, or
            there are no names of columns; the message names line and option.
    """
    original = text
    separator = find_separator(text, reading)
    if separator == b"::":
        text, separator = _with_stand_in(text, b"::", STAND_IN), STAND_IN
    held = text.held(b'\r"\\')
    if ord("\r") in held and _holds(text, b"\r" + separator):
        text = _with_stand_in(text, b"\r", RETURN_STAND_IN, separator)
    signs = [(here.decode(), there.decode()) for here, there in text.replaced]
    surveys = _surveys(text, reading, separator, held)
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
    has_escapes = layout.dialect == "backslash" and text.data.find(b"\\", layout.body) >= 0
    if len(drops) or has_escapes or text.data[:2] in _LIKE_ZLIB:
        text, skipped_lines = text.copy(_mended(text, layout, drops)), 0
    reading.found[text.path] = Found(account, chosen.line_of, original.line_at, None, text)
    names = layout.names
    if layout.dialect == "none":  # where no value holds a separator
        signs = [(here, there) for here, there in signs if there != "::"]
    for here, there in signs:
        names = [name.replace(here, there) for name in names]
    schema = pl.Schema(dict.fromkeys(names, pl.String()))
    if not chosen.records:
        return pl.LazyFrame(schema=schema)
    table = pl.scan_csv(
        text.file,
        has_header=False,
        skip_lines=skipped_lines,
        schema=schema,
        separator=separator.decode(),
        quote_char=None if layout.dialect == "none" else '"',
        glob=False,
    )
    for here, there in signs:
        table = table.with_columns(pl.all().str.replace_all(here, there, literal=True))
    return table


def _with_stand_in(text: Text, sign: bytes, stand_in: bytes, before: bytes = b"") -> Text:
    """The text with another sign for some bytes that stand before others."""
    if text.data.find(stand_in) >= 0:
        what = "'::' between columns" if sign == b"::" else "a carriage return at the end of a value"
        raise DataError(f"{text.path}: holds the character U+{ord(stand_in):04X}, which files with {what} must not")
    blocks = text.blocks(text.start)
    copy = text.copy(text.data[start:end].replace(sign + before, stand_in + before) for start, end in blocks)
    copy.replaced = (*text.replaced, (stand_in, sign))
    copy.bad_utf8 = list(not_utf8(copy)) if text.bad_utf8 else []
    return copy


def _holds(text: Text, sign: bytes) -> bool:
    return any(sign in text.data[start:end] for start, end in text.blocks(text.start))


# What quotes mean


def _surveys(text: Text, reading: Reading, separator: bytes, held: set[int]) -> list[Survey]:
    """The file in every dialect that it may be in, as far as they can differ."""
    given = reading.quote_of(text.path)
    names = split_line(text.line(first_line(text)[0]), "none", separator, text.path)
    if given is not None:
        dialects = [given]
    elif separator == STAND_IN or is_recbole(names):
        dialects = ["none"]
    else:
        has_escapes = ord("\\") in held and any(_holds(text, sign) for sign in _ESCAPES)
        dialects = ["none"] + ["double"] * (ord('"') in held) + ["backslash"] * has_escapes
    max_refused = 0
    if reading.bad_rows == "skip":
        max_refused = int(reading.bad_rows_limit * text.num_lines())
    surveys: dict[str, Survey] = {}
    errors = []
    for dialect in reversed(dialects):
        try:
            layout = find_layout(text, reading, dialect, separator)
            if dialects == ["none", "double"] and surveys and _is_alike_without_quotes(surveys["double"], layout):
                continue
            surveys[dialect] = survey(text, layout, max_refused)
        except DataError as error:
            errors.append(error)
    if not surveys:
        raise errors[-1]
    return [surveys[dialect] for dialect in dialects if dialect in surveys]


def _is_alike_without_quotes(one: Survey, plain: Layout) -> bool:
    """Whether the dialect `none` gives the same records, or fits worse: there is no need to look."""
    return not one.refused and not len(one.continued) and len(one.layout.names) == len(plain.names)


def _choose(text: Text, reading: Reading, surveys: list[Survey]) -> Survey:
    """The dialect to read. Raises DataError: none fits, or two that differ in more than the quotes around values."""
    limit = reading.bad_rows_limit if reading.bad_rows == "skip" else 0.0
    fits = [one for one in surveys if len(one.refused) <= limit * (one.records + len(one.refused))]
    best = _best(fits)
    by_quotes = [one for one in surveys if one.layout.dialect != "none"]
    if by_quotes and [one.layout.dialect for one in best] == ["none"] and _has_quoted_values(text, best[0]):
        fits = [one for one in fits if one.layout.dialect != "none"]
        surveys, best = by_quotes, _best(fits)
    if not fits:
        raise TextError(_unreadable(text, reading, surveys))

    if len(best) > 1 and best[-1].layout.dialect == "backslash" and not _holds(text, b'\\"'):
        best = best[:-1]  # the records are the same, and a backslash before anything but quotes is mostly meant
    chosen = best[-1] if best else None
    backslash = None
    if len(best) > 1 and best[-1].layout.dialect == "backslash":
        # Without quotes the values are the same where backslashes stand before quotes alone.
        backslash = re.search(rb'\\"' if best[-2].layout.dialect == "double" else rb'\\[^"]', text.data)
    if backslash is not None:
        line, ways = text.line_number(backslash.start()), [f"quote={one.layout.dialect}" for one in best]
        found = f"what backslashes mean is not clear, and changes the values: {' or '.join(ways)}"
    elif chosen is None:
        one, other = next(
            (one, other) for one in fits for other in fits if one is not other and not one.reads_all_of(other)
        )
        line = one.first_difference(other)
        ways = [f"quote={each.layout.dialect} reads {each.records:,} records" for each in (one, other)]
        found = f"what quotes mean is not clear, and changes the rows: {', '.join(ways)}"
    elif chosen.swallowed is not None and reading.quote_of(text.path) is None:
        line = chosen.swallowed
        found = f"many lines that look like records are between quotes: is quote={chosen.layout.dialect} meant?"
    else:
        return chosen
    raise TextError(
        f"{text.path}, line {line}: {found}. Choose with quote; the line is {text.shown(text.line_at(line))}"
    )


def _best(fits: list[Survey]) -> list[Survey]:
    """Those that read all that any of the others reads, and alike; the last is the one to take."""
    return [one for one in fits if all(one is other or one.reads_all_of(other) for other in fits)]


def _has_quoted_values(text: Text, one: Survey) -> bool:
    """Whether quotes are no part of the values: most lines have a value in quotes, or one has doubled quotes within."""
    body = one.layout.body
    lines = [line.strip(BLANKS) for line in text.data[body : body + BLOCK].split(b"\n")[:_LINES_LOOKED_AT]]
    fields = [line.split(one.layout.separator) for line in lines if line]
    quoted = [any(_QUOTED.fullmatch(field) for field in values) for values in fields]
    legal = [re.fullmatch(rb'"((?:[^"]|"")*)"', field) for values in fields for field in values]
    return sum(quoted) > len(quoted) / 2 or any(match is not None and b'""' in match[1] for match in legal)


def _unreadable(text: Text, reading: Reading, surveys: list[Survey]) -> str:
    first = [one.refused[0] for one in surveys]
    if len(set(map(str, first))) == 1:
        message = f"{text.path}, {first[0]}"
    else:
        ways = [f"with quote={one.layout.dialect}, {one.refused[0]}" for one in surveys]
        message = f"{text.path} cannot be read, whatever its quotes mean: {'; '.join(ways)}"
    if reading.bad_rows == "skip":
        return f"{message}. {reading.over_limit()}"
    if reading.quote_of(text.path) is None and all(one.layout.dialect != "none" for one in surveys):
        message += " (quote=none would take the quotes for parts of the values)"
    layout, escaped = surveys[0].layout, re.escape(b"\\" + surveys[0].layout.separator)
    if all(one.layout.dialect != "backslash" for one in surveys) and re.search(escaped, text.data):
        message += " (quote=backslash would take backslashes before separators for escapes)"
    if layout.header is not None and first[0].line == layout.first_line and first[0].reason == FIELDS:
        message += (
            f". The names of the columns are taken from line {layout.first_line - 1}: {text.shown(layout.header)}"
        )
    return f"{message}. {MEND}"


# What polars reads


def _mended(text: Text, layout: Layout, drops: np.ndarray) -> Iterator[bytes]:
    """The records that are read, with doubled quotes in place of backslashes. A byte order mark stands before them:
    without one polars would unpack what begins like zlib."""
    yield codecs.BOM_UTF8
    position = layout.body
    for start, end in [*drops.tolist(), (len(text.data), len(text.data))]:
        while position < start:
            block_end = min(start, text.line_end(position + BLOCK))
            if layout.dialect != "backslash":
                yield text.data[position:block_end]
                position = block_end
                continue
            ends = whole_records(text, layout, position, block_end).ends()
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
