"""Where the records of a text table begin and end, in each dialect of quotes.

In `none` a quote is a character like any other. In `double` (RFC 4180) a field may be enclosed in quotes, and then
holds separators, newlines, and quotes that are doubled; no other field has a quote. In `backslash` (Book-Crossing,
MySQL) a backslash, moreover, takes the meaning from what follows it.

A block of bytes is looked at as a whole, with numpy.
"""

import codecs
import re
from typing import NamedTuple

import numpy as np

from rearm_jax.data.prepare import bits
from rearm_jax.data.prepare.text import Text

OPENED_LATE = "a quote within a field that does not start with one"
CLOSED_EARLY = "text behind a closing quote"
NEVER_CLOSED = "a quote that nothing closes"
NEVER_ENDED = "a backslash at the end of the file"
OPEN_QUOTE, OPEN_LINE = "the block ends within quotes", "the block ends in a newline behind a backslash"
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'
_ESCAPED = re.compile(rb"\\.", re.DOTALL)


class Layout(NamedTuple):
    """Where the records of a file lie, in one dialect.

    Attributes:
        dialect: one of reading.QUOTES.
        separator: of fields, one byte.
        names: of the columns.
        header: the line of names, without blanks around it; None if there is none. As a record it is refused.
        num_header: number of its lines, and of one above it that is there for Excel.
        body: offset behind the header.
        first_line: the number, from 1, of the line there.
    """

    dialect: str
    separator: bytes
    names: list[str]
    header: bytes | None
    num_header: int
    body: int
    first_line: int


class Records(NamedTuple):
    """The whole records at the start of a block; newlines, ends and separators are bits (bits.py), a bit for each byte.

    Attributes:
        size: offset behind the last record, in the block.
        newlines: all of them.
        last: the newlines that end a record.
        separators: of fields, those outside quotes.
        is_regular: whether each record has as many fields as the header, of which there are several, and none starts
            with a byte order mark or is the header again.
        breaks: int64 (n,), the offsets of the newlines within records.
        trouble: why the block's next record is not among them; None if there is no next.
        trouble_at: offset of that, in the block.
    """

    size: int
    newlines: np.ndarray
    last: np.ndarray
    separators: np.ndarray
    is_regular: bool
    breaks: np.ndarray
    trouble: str | None
    trouble_at: int

    def ends(self) -> np.ndarray:
        """int64 (n,), the offset behind each record, in the block."""
        return bits.positions(self.last) + 1

    def num_fields(self) -> np.ndarray:
        """int64 (n,), of each record."""
        return np.diff(bits.ranks(self.separators, bits.positions(self.last)), prepend=0) + 1

    def num_lines(self) -> np.ndarray:
        """int64 (n,), of each record."""
        return np.diff(bits.ranks(self.newlines, bits.positions(self.last)), prepend=0)


def record_end(text: Text, layout: Layout, start: int) -> int | None:
    """The offset behind the record at an offset; None if its quotes are broken."""
    records = whole_records(text, layout, start, text.line_end(start))
    return min(start + bits.first(records.last) + 1, len(text.data)) if records.size else None


def whole_records(text: Text, layout: Layout, start: int, end: int) -> Records:
    """The records of a block, which is made longer until its first record ends."""
    while is_open(records := find_records(text, layout, start, end)):
        further = text.line_end(end)
        if records.trouble == OPEN_QUOTE:
            quote = text.data.find(b'"', end)
            further = end if quote < 0 else text.line_end(quote)
        if further == end:
            return records._replace(trouble=NEVER_CLOSED if records.trouble == OPEN_QUOTE else NEVER_ENDED)
        # At least twice as long: a record of many lines, each with a quote, is not looked at once for each of them.
        end = max(further, text.line_end(min(2 * end - start, len(text.data) - 1)))
    return records


def is_open(records: Records) -> bool:
    """Whether a block ends within its first record."""
    return not records.size and records.trouble in (OPEN_QUOTE, OPEN_LINE)


def find_records(text: Text, layout: Layout, start: int, end: int) -> Records:
    """The records of a block that starts with one and ends with a line."""
    raw = np.frombuffer(text.data, np.uint8, end - start, start)
    if raw[-1] != _NEWLINE:  # the file's last line
        raw = np.append(raw, np.uint8(_NEWLINE))
    plain = raw
    if layout.dialect == "backslash" and text.data.find(b"\\", start, end) >= 0:
        plain = np.frombuffer(_ESCAPED.sub(b"aa", raw.tobytes()), np.uint8)
    newlines, separators = bits.places_of(_NEWLINE, plain), bits.places_of(layout.separator[0], plain)
    last, trouble, trouble_at = newlines, None, 0
    if layout.dialect != "none" and text.data.find(b'"', start, end) >= 0:
        last, separators, trouble, trouble_at = _outside_quotes(plain, newlines, separators)
    if trouble is None and plain[-1] != _NEWLINE:
        trouble = OPEN_LINE
    if plain is not raw:
        newlines = bits.places_of(_NEWLINE, raw)
    size = len(raw)
    if trouble is not None:
        last = bits.before(last, trouble_at) if trouble_at else last
        size = bits.end(last)
        newlines, separators = bits.before(newlines, size), bits.before(separators, size)
    is_regular = (
        len(layout.names) > 1
        and bits.are_alike(separators, last, len(layout.names) - 1)
        and not (layout.header is not None and _holds(text, layout.header, start, end))
        and not _holds(text, codecs.BOM_UTF8, start, end)
    )
    breaks = bits.positions(newlines & ~last) if last is not newlines else np.empty(0, np.int64)
    return Records(size, newlines, last, separators, is_regular, breaks, trouble, trouble_at)


def _holds(text: Text, part: bytes, start: int, end: int) -> bool:
    """Whether some bytes stand in a block; to look for each alone is faster, and in most blocks one is missing."""
    are_there = all(text.data.find(bytes([byte]), start, end) >= 0 for byte in set(part))
    return are_there and part in text.data[start:end]


def _outside_quotes(
    array: np.ndarray, newlines: np.ndarray, separators: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str | None, int]:
    """Which newlines and separators lie outside quotes.

    Args:
        array: uint8 (n,), a block that starts with a record.
        newlines, separators: bits (n,).

    Returns:
        both, as bits (n,); what is wrong with the first quote that opens or closes where it may not, or with the last,
        which is still open; the offset of the former, 0 without.
    """
    quotes = bits.places_of(_QUOTE, array)
    inside = bits.are_odd(quotes)
    last, separators = newlines & ~inside, separators & ~inside
    either = last | separators | quotes
    late = quotes & inside & ~bits.previous(either)
    late[0] &= ~np.uint64(1)  # the block's first byte starts a field
    early = quotes & ~inside & ~bits.following(either)
    if early.any():
        early &= ~bits.following(bits.places_of(_RETURN, array) & bits.following(last))
    if late.any() or early.any():
        first_late, first_early = bits.first(late), bits.first(early)
        trouble = OPENED_LATE if first_late < first_early else CLOSED_EARLY
        return last, separators, trouble, min(first_late, first_early)
    is_open = inside[-1] >> np.uint64(63)
    return last, separators, OPEN_QUOTE if is_open else None, 0
