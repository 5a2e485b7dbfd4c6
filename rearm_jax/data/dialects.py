"""What the quotes of a text table mean, found by reading all of it.

There are three dialects. In `none` a quote is a character like any other. In `double` (RFC 4180) a field may be
enclosed in quotes, and then holds separators, newlines, and quotes that are doubled; no other field has a quote. In
`backslash` (Book-Crossing, MySQL) a backslash, moreover, takes the meaning from what follows it. A dialect fits a file
when every record has the header's number of fields and the quotes close.

Bytes are looked at by the million with numpy, in blocks that threads share; Python sees only what is out of order.
"""

import bisect
import codecs
import concurrent.futures
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import polars as pl

from rearm_jax.data.reading import Refused
from rearm_jax.data.text import BLANKS, Text

FIELDS = "not as many fields as columns"
HEADER_AGAIN = "the header again"
NOT_UTF8 = "not UTF-8"
OPENED_LATE = "a quote within a field that does not start with one"
CLOSED_EARLY = "text behind a closing quote"
NEVER_CLOSED = "a quote that nothing closes"
_OPEN_QUOTE, _OPEN_LINE = "the block ends within quotes", "the block ends in a newline behind a backslash"
_REASONS = (None, None, FIELDS, HEADER_AGAIN, NOT_UTF8)
_READ, _BLANK, _FIELDS, _HEADER_AGAIN, _NOT_UTF8 = range(5)
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'
_BLOCK = 1 << 18  # bytes; what numpy makes of them stays in a core's cache
_LINE_BITS = 24  # of a number of lines, beside that of the first
_WINDOW = 1 << 12  # bytes looked at first behind a record with a broken quote
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
        lines: how many lines each has; None if all have one.
        trouble: why the block's next record is not among them; None if there is no next.
        trouble_at: offset of that, in the block.
        may_repeat_header: whether the header's bytes are in the block.
    """

    ends: np.ndarray
    fields: np.ndarray | None
    lines: np.ndarray | None
    trouble: str | None = None
    trouble_at: int = 0
    may_repeat_header: bool = False

    @property
    def size(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0


class Survey(NamedTuple):
    """What a file holds, in one dialect.

    Attributes:
        layout: the dialect.
        records: number of records that are read.
        lines: number of lines of the file.
        blank: number of blank lines behind the header.
        refused: records that cannot be read.
        spans: int64 (n, 2), first line and number of lines of the records read that have several.
        gaps: int64 (n, 2), first line and number of the lines at which no record that is read begins.
        drops: int64 (n, 2), start and end of the bytes of blank lines and refused records.
    """

    layout: Layout
    records: int
    lines: int
    blank: int
    refused: list[Refused]
    spans: np.ndarray
    gaps: np.ndarray
    drops: np.ndarray

    def reads_all_of(self, other: "Survey") -> bool:
        """Whether every record that the other reads is read alike here, but for the quotes around its values."""
        mine, others = _keys(self.spans), _keys(other.spans)
        lost = [self.spans[~np.isin(mine, others)], _lines_of(self.refused)]
        return (
            len(self.layout.names) == len(other.layout.names)
            and bool(np.isin(others, mine).all())
            and bool(np.isin(_expanded(np.concatenate(lost)), _expanded(_lines_of(other.refused))).all())
        )

    def first_difference(self, other: "Survey") -> int:
        """The first line, from 1, of a record that the other reads in another way."""
        spans = np.concatenate([self.spans, _lines_of(self.refused)])
        others = np.concatenate([other.spans, _lines_of(other.refused)])
        differing = np.setxor1d(_keys(spans), _keys(others))
        return int(differing[0] >> _LINE_BITS) if len(differing) else self.layout.first_line - 1

    def line_of(self, record: int) -> int:
        """The first line, from 1, of a record that is read, from 0."""
        before = np.concatenate([[0], np.cumsum(self.gaps[:, 1])])
        records_before = self.gaps[:, 0] - self.layout.first_line - before[:-1]
        gaps = np.searchsorted(records_before, record, side="right")
        return self.layout.first_line + record + int(before[gaps])


def _lines_of(refused: list[Refused]) -> np.ndarray:
    return np.array([(record.line, record.num_lines) for record in refused], np.int64).reshape(-1, 2)


def _keys(spans: np.ndarray) -> np.ndarray:
    """One number for a first line and a number of lines, in the order of the lines."""
    return (spans[:, 0] << _LINE_BITS) + np.minimum(spans[:, 1], (1 << _LINE_BITS) - 1)


def _expanded(spans: np.ndarray) -> np.ndarray:
    """The numbers of all the lines."""
    before = np.cumsum(spans[:, 1]) - spans[:, 1]
    return np.arange(spans[:, 1].sum()) + np.repeat(spans[:, 0] - before, spans[:, 1])


def survey(text: Text, layout: Layout, max_refused: int) -> Survey:
    """Reads the structure of a file in one dialect. Stops where more than `max_refused` records are refused."""
    walk = _Walk(text, layout)
    position, step = layout.body, _BLOCK
    for start, end, records in _look_ahead(text, layout):
        window = end
        while position < end and len(walk.refused) <= max_refused:
            if (position, window) != (start, end) or _is_open(records):
                records = whole_records(text, layout, position, window)
            walk.take(records, position)
            position += records.size
            step *= 2
            if records.trouble not in (None, _OPEN_QUOTE, _OPEN_LINE):
                # Nobody knows where the record was meant to end. Its first line is refused, and the next is looked at.
                position = walk.refuse_line(position, records)
                step = _WINDOW
            window = min(end, text.line_end(position + step))
        if len(walk.refused) > max_refused:
            break
    return walk.survey()


def record_end(text: Text, layout: Layout, start: int) -> int | None:
    """The offset behind the record at an offset; None if its quotes are broken."""
    records = whole_records(text, layout, start, text.line_end(start))
    return min(start + int(records.ends[0]), len(text.data)) if len(records.ends) else None


def whole_records(text: Text, layout: Layout, start: int, end: int) -> Records:
    """The records of a block, which is made longer until its first record ends."""
    while _is_open(records := find_records(text, layout, start, end)):
        further = text.line_end(end)
        if records.trouble == _OPEN_QUOTE:
            quote = text.data.find(b'"', end)
            further = end if quote < 0 else text.line_end(quote)
        if further == end:
            return records._replace(trouble=NEVER_CLOSED)
        end = further
    return records


def _is_open(records: Records) -> bool:
    return not len(records.ends) and records.trouble in (_OPEN_QUOTE, _OPEN_LINE)


def _look_ahead(text: Text, layout: Layout) -> Iterator[tuple[int, int, Records]]:
    """Blocks, and what is in them if a record starts where they start: threads read ahead on that guess."""
    blocks, workers = text.blocks(layout.body, _BLOCK), pl.thread_pool_size()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(blocks, 16 * workers)):
            found = pool.map(lambda block: find_records(text, layout, *block), batch)
            for (start, end), records in zip(batch, found, strict=True):
                yield start, end, records


def find_records(text: Text, layout: Layout, start: int, end: int) -> Records:
    """The records of a block that starts with one and ends with a line."""
    raw = text.data[start:end]
    if not raw.endswith(b"\n"):  # the file's last line
        raw += b"\n"
    plain = raw
    if layout.dialect == "backslash" and b"\\" in raw:
        plain = _ESCAPED.sub(b"aa", raw)
    array = np.frombuffer(plain, np.uint8)
    has_quotes = layout.dialect != "none" and b'"' in plain
    special = (array == layout.separator[0]) | (array == _NEWLINE)
    positions = np.flatnonzero(special | (array == _QUOTE) if has_quotes else special)
    kinds = array[positions]
    trouble, trouble_at = None, 0
    if has_quotes:
        quote = kinds == _QUOTE
        trouble, trouble_at = _broken_quote(array, positions[quote], layout.separator[0])
        outside = ~quote & (np.cumsum(quote, dtype=np.uint8) & 1 == 0)
        positions, kinds = positions[outside], kinds[outside]
        if trouble is None and np.count_nonzero(quote) % 2:
            trouble = _OPEN_QUOTE
    if trouble is None and not plain.endswith(b"\n"):
        trouble = _OPEN_LINE

    newline = kinds == _NEWLINE
    num_fields, fields = len(layout.names), None
    ends = positions[num_fields - 1 :: num_fields] + 1
    regular = num_fields > 1 and len(ends) * num_fields == len(positions)
    if not (regular and newline[num_fields - 1 :: num_fields].all() and np.count_nonzero(newline) == len(ends)):
        last = np.flatnonzero(newline)
        ends, fields = positions[last] + 1, np.diff(last, prepend=-1)
    if trouble is not None and trouble_at:
        ends = ends[: np.searchsorted(ends, trouble_at, side="right")]
        fields = None if fields is None else fields[: len(ends)]
    lines = None
    if (has_quotes or plain is not raw) and len(ends):
        newlines = np.flatnonzero(np.frombuffer(raw, np.uint8)[: ends[-1]] == _NEWLINE)
        if len(newlines) != len(ends):
            lines = np.diff(np.searchsorted(newlines, ends), prepend=0)
    again = layout.header is not None and layout.header in raw
    return Records(ends, fields, lines, trouble, trouble_at, again)


def _broken_quote(array: np.ndarray, quotes: np.ndarray, separator: int) -> tuple[str | None, int]:
    """The first quote that opens or closes where it may not, and its offset."""
    opening, closing = quotes[::2], quotes[1::2]
    before = array[np.maximum(opening - 1, 0)]
    late = (before != separator) & (before != _NEWLINE) & (before != _QUOTE) & (opening > 0)
    behind = array[closing + 1]
    line_ends = (behind == _RETURN) & (array[np.minimum(closing + 2, len(array) - 1)] == _NEWLINE)
    early = (behind != separator) & (behind != _NEWLINE) & (behind != _QUOTE) & ~line_ends
    broken = [
        (int(where[wrong.argmax()]), reason)
        for where, wrong, reason in ((opening, late, OPENED_LATE), (closing, early, CLOSED_EARLY))
        if wrong.any()
    ]
    if not broken:
        return None, 0
    at, reason = min(broken)
    return reason, at


class _Walk:
    """Adds up the records of one block after the other."""

    def __init__(self, text: Text, layout: Layout):
        self.text, self.layout = text, layout
        self.line = layout.first_line
        self.records = self.blank = 0
        self.refused: list[Refused] = []
        self.spans: list[np.ndarray] = []
        self.gaps: list[np.ndarray] = []
        self.drops: list[np.ndarray] = []

    def take(self, records: Records, position: int) -> None:
        """Counts the records of the block at an offset of the file."""
        if not len(records.ends):
            return
        bad_utf8 = self.text.bad_utf8
        last = bisect.bisect_left(bad_utf8, position + records.size)
        broken = np.array(bad_utf8[bisect.bisect_left(bad_utf8, position) : last], np.int64) - position
        ends, fields, lines = records.ends, records.fields, records.lines
        if fields is None and lines is None and not records.may_repeat_header and not len(broken):
            self.records += len(ends)
            self.line += len(ends)
            return
        block = self.text.data[position : position + records.size]
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        lines = np.ones(len(ends), np.int64) if lines is None else lines
        first_lines = self.line + np.cumsum(lines) - lines

        kinds = np.full(len(ends), _READ, np.uint8)
        if fields is not None:
            kinds[fields != len(self.layout.names)] = _FIELDS
            may_be_blank = (fields == 1) & (np.frombuffer(block, np.uint8)[starts] <= ord(" "))
            for record in np.flatnonzero(may_be_blank).tolist():
                if not block[starts[record] : ends[record]].strip(BLANKS):
                    kinds[record] = _BLANK
        if records.may_repeat_header:
            for record in self._with_header(block, starts, ends):
                kinds[record] = _HEADER_AGAIN
        kinds[np.searchsorted(ends, broken, side="right")] = _NOT_UTF8
        for record in np.flatnonzero(kinds > _BLANK).tolist():
            found = reason = str(_REASONS[kinds[record]])
            if reason == FIELDS and fields is not None:
                found = f"{fields[record]} fields for {len(self.layout.names)} columns"
            line = self.text.line(position + int(starts[record]))
            self.refused.append(
                Refused(int(first_lines[record]), int(lines[record]), reason, f"{found}: {self.text.shown(line)}")
            )

        is_read = kinds == _READ
        self.records += int(np.count_nonzero(is_read))
        self.blank += int(np.count_nonzero(kinds == _BLANK))
        self.line += int(lines.sum())
        several = is_read & (lines > 1)
        self.spans.append(np.stack([first_lines, lines], 1)[several])
        self.gaps.append(np.stack([first_lines + is_read, lines - is_read], 1)[~is_read | several])
        self.drops.append(np.stack([position + starts, position + ends], 1)[~is_read])

    def _with_header(self, block: bytes, starts: np.ndarray, ends: np.ndarray) -> Iterator[int]:
        """Records that are the header."""
        header = self.layout.header or b""
        at = block.find(header)
        while at >= 0:
            record = int(np.searchsorted(ends, at, side="right"))
            if (
                record < len(ends)
                and block[starts[record] : ends[record]].removeprefix(codecs.BOM_UTF8).strip(BLANKS) == header
            ):
                yield record
            at = block.find(header, at + 1)

    def refuse_line(self, position: int, records: Records) -> int:
        """Refuses the line at an offset, whose record is in trouble; the offset behind it."""
        line, end = self.text.line(position), self.text.line_end(position)
        reason = str(records.trouble)
        further = self.text.data[position : position - records.size + records.trouble_at].count(b"\n")
        where = f" on line {self.line + further}" if further > 0 else ""
        self.refused.append(Refused(self.line, 1, reason, f"{reason}{where}: {self.text.shown(line)}"))
        self.gaps.append(np.array([[self.line, 1]]))
        self.drops.append(np.array([[position, end]]))
        self.line += 1
        return end

    def survey(self) -> Survey:
        none = np.empty((0, 2), np.int64)
        spans, gaps, drops = (np.concatenate([none, *parts]) for parts in (self.spans, self.gaps, self.drops))
        drops = np.minimum(drops, len(self.text.data))
        return Survey(self.layout, self.records, self.line - 1, self.blank, self.refused, spans, gaps, drops)
