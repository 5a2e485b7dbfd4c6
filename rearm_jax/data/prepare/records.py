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

from rearm_jax.data.prepare.text import Text

OPENED_LATE = "a quote within a field that does not start with one"
CLOSED_EARLY = "text behind a closing quote"
NEVER_CLOSED = "a quote that nothing closes"
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
        num_header: number of its lines.
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
    """The whole records at the start of a block.

    Attributes:
        ends: offset behind each record's newline, in the block.
        fields: how many each has; None if all have as many as the header.
        inner: offsets of the newlines within records, which have several lines.
        trouble: why the block's next record is not among them; None if there is no next.
        trouble_at: offset of that, in the block.
        may_be_joined: whether the header's bytes or a byte order mark are in the block.
    """

    ends: np.ndarray
    fields: np.ndarray | None
    inner: np.ndarray
    trouble: str | None = None
    trouble_at: int = 0
    may_be_joined: bool = False

    @property
    def size(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0


def record_end(text: Text, layout: Layout, start: int) -> int | None:
    """The offset behind the record at an offset; None if its quotes are broken."""
    records = whole_records(text, layout, start, text.line_end(start))
    return min(start + int(records.ends[0]), len(text.data)) if len(records.ends) else None


def whole_records(text: Text, layout: Layout, start: int, end: int) -> Records:
    """The records of a block, which is made longer until its first record ends."""
    while is_open(records := find_records(text, layout, start, end)):
        further = text.line_end(end)
        if records.trouble == OPEN_QUOTE:
            quote = text.data.find(b'"', end)
            further = end if quote < 0 else text.line_end(quote)
        if further == end:
            return records._replace(trouble=NEVER_CLOSED)
        end = further
    return records


def is_open(records: Records) -> bool:
    """Whether a block ends within its first record."""
    return not len(records.ends) and records.trouble in (OPEN_QUOTE, OPEN_LINE)


def find_records(text: Text, layout: Layout, start: int, end: int) -> Records:
    """The records of a block that starts with one and ends with a line."""
    raw = text.data[start:end]
    if not raw.endswith(b"\n"):  # the file's last line
        raw += b"\n"
    plain = raw
    if layout.dialect == "backslash" and b"\\" in raw:
        plain = _ESCAPED.sub(b"aa", raw)
    array = np.frombuffer(plain, np.uint8)
    special = (array == layout.separator[0]) | (array == _NEWLINE)
    trouble, trouble_at, may_span = None, 0, plain is not raw
    if layout.dialect != "none" and b'"' in plain:
        special, trouble, trouble_at, has_inner = _outside_quotes(array, special)
        may_span |= has_inner
    if trouble is None and not plain.endswith(b"\n"):
        trouble = OPEN_LINE

    num_fields, fields = len(layout.names), None
    positions = np.flatnonzero(special)
    newline = array[positions] == _NEWLINE
    ends = positions[num_fields - 1 :: num_fields] + 1
    regular = num_fields > 1 and len(ends) * num_fields == len(positions)
    if not (regular and newline[num_fields - 1 :: num_fields].all() and np.count_nonzero(newline) == len(ends)):
        last = np.flatnonzero(newline)
        ends, fields = positions[last] + 1, np.diff(last, prepend=-1)
    if trouble_at:
        ends = ends[: np.searchsorted(ends, trouble_at, side="right")]
        fields = None if fields is None else fields[: len(ends)]
    inner = np.empty(0, np.int64)
    if may_span and len(ends):
        newlines = np.frombuffer(raw, np.uint8, ends[-1]) == _NEWLINE
        newlines[ends - 1] = False
        inner = np.flatnonzero(newlines)
    has_mark = not raw.isascii() and codecs.BOM_UTF8 in raw
    may_be_joined = has_mark or (layout.header is not None and layout.header in raw)
    return Records(ends, fields, inner, trouble, trouble_at, may_be_joined)


def _outside_quotes(array: np.ndarray, special: np.ndarray) -> tuple[np.ndarray, str | None, int, bool]:
    """Which of the special bytes (separators and newlines) lie outside quotes.

    A bit for each byte, 64 in a word: what is between quotes is the running exclusive or of the quotes.

    Args:
        array: uint8 (n,), a block that starts with a record.
        special: bool (n,).

    Returns:
        bool (n,); what is wrong with the first quote that opens or closes where it may not, or with the last, which is
        still open; the offset of the former, 0 without; whether a newline is between quotes.
    """
    newlines = _bits(array == _NEWLINE)
    quotes, borders = _bits(array == _QUOTE), _bits(special)
    inside = quotes.copy()
    for shift in (1, 2, 4, 8, 16, 32):
        inside ^= inside << np.uint64(shift)
    odd = np.bitwise_count(quotes) & 1
    inside[(np.cumsum(odd) - odd) % 2 == 1] ^= np.uint64(2**64 - 1)

    either = borders | quotes
    before = either << np.uint64(1)
    before[1:] |= either[:-1] >> np.uint64(63)
    before[0] |= np.uint64(1)
    returns = _bits(array == _RETURN)
    late = _first(quotes & inside & ~before)
    early = _first(quotes & ~inside & ~_later(either | (returns & _later(newlines))))
    outside = np.unpackbits((borders & ~inside).view(np.uint8), count=len(array), bitorder="little").view(bool)
    has_inner = bool((newlines & inside).any())
    if min(late, early) < len(array):
        return outside, OPENED_LATE if late < early else CLOSED_EARLY, min(late, early), has_inner
    return outside, OPEN_QUOTE if odd.sum() % 2 else None, 0, has_inner


def _bits(flags: np.ndarray) -> np.ndarray:
    """bool (n,) -> uint64 (n / 64,), the first flag in the lowest bit."""
    packed = np.packbits(flags, bitorder="little")
    return np.concatenate([packed, np.zeros(-len(packed) % 8, np.uint8)]).view("<u8")


def _later(bits: np.ndarray) -> np.ndarray:
    """For each bit the one behind it."""
    later = bits >> np.uint64(1)
    later[:-1] |= bits[1:] << np.uint64(63)
    return later


def _first(bits: np.ndarray) -> int:
    """The place of the first bit that is set; beyond all of them if there is none."""
    words = np.flatnonzero(bits)
    if not len(words):
        return 64 * len(bits)
    word = int(bits[words[0]])
    return 64 * int(words[0]) + (word & -word).bit_length() - 1
