"""What a text table holds, in one dialect of quotes: every line has its place, and what cannot be read is named.

It is looked at block by block (records.py); Python sees only what is out of order.
"""

import bisect
import codecs
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rearm_jax.data.prepare import bits
from rearm_jax.data.prepare.reading import Refused
from rearm_jax.data.prepare.records import OPEN_LINE, OPEN_QUOTE, Layout, Records, whole_records
from rearm_jax.data.prepare.swallowed import first_swallowing
from rearm_jax.data.prepare.text import BLANKS, Text

_READ, _BLANK, _FIELDS, _HEADER_AGAIN, _MARK, _NOT_UTF8 = range(6)
FIELDS = "not as many fields as columns"
_REASONS = ("", "", FIELDS, "the header again", "a byte order mark in mid-file", "not UTF-8")
_BLOCK = 1 << 19  # bytes
_WINDOW = 1 << 12  # bytes looked at first, and behind a record with a broken quote; then twice as many, and so on
_LINE_BITS = 24  # for a number of lines, beside the number of the first


class Survey(NamedTuple):
    """What a file holds, in one dialect.

    Attributes:
        layout: the dialect.
        records: number of records that are read.
        lines: number of lines of the file.
        blank: number of blank lines behind the header.
        refused: records that cannot be read.
        continued: int64 (n,), the lines that go on with a record that is read, in ascending order.
        left_out: int64 (n,), the lines of blank lines and refused records, in ascending order.
        drops: int64 (n, 2), start and end of the bytes of blank lines and refused records.
        swallowed: the first line of a record that looks like many (swallowed.py); None where there is none.
    """

    layout: Layout
    records: int
    lines: int
    blank: int
    refused: list[Refused]
    continued: np.ndarray
    left_out: np.ndarray
    drops: np.ndarray
    swallowed: int | None

    @property
    def spans(self) -> np.ndarray:
        """int64 (n, 2), first line and number of lines of the records read that have several."""
        return _spans(self.continued)

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
        gaps = np.union1d(self.continued, self.left_out)
        records_before = gaps - self.layout.first_line - np.arange(len(gaps))
        return self.layout.first_line + record + int(np.searchsorted(records_before, record, side="right"))


def survey(text: Text, layout: Layout, max_refused: int) -> Survey:
    """Reads the structure of a file in one dialect. Stops where more than `max_refused` records are refused."""
    walk = _Walk(text, layout)
    position, step = layout.body, _WINDOW  # most dialects that do not fit do not fit at the start
    while position < len(text.data) and len(walk.refused) <= max_refused:
        records = whole_records(text, layout, position, text.line_end(position + step))
        walk.take(records, position)
        position += records.size
        step = min(2 * step, _BLOCK)
        if records.trouble not in (None, OPEN_QUOTE, OPEN_LINE):
            # Nobody knows where the record was meant to end. Its first line is refused, and the next is looked at.
            position = walk.refuse_line(position, records)
            step = _WINDOW
    return walk.survey()


def _spans(continued: np.ndarray) -> np.ndarray:
    """First line and number of lines of each record, int64 (n, 2), from the lines behind their first ones."""
    starts = np.flatnonzero(np.diff(continued, prepend=-1) != 1)
    return np.stack([continued[starts] - 1, np.diff(starts, append=len(continued)) + 1], 1)


def _lines_of(refused: list[Refused]) -> np.ndarray:
    return np.array([(record.line, record.num_lines) for record in refused], np.int64).reshape(-1, 2)


def _keys(spans: np.ndarray) -> np.ndarray:
    """One number for a first line and a number of lines, in the order of the lines."""
    return (spans[:, 0] << _LINE_BITS) + np.minimum(spans[:, 1], (1 << _LINE_BITS) - 1)


def _expanded(spans: np.ndarray) -> np.ndarray:
    """The numbers of all the lines."""
    before = np.cumsum(spans[:, 1]) - spans[:, 1]
    return np.arange(spans[:, 1].sum()) + np.repeat(spans[:, 0] - before, spans[:, 1])


def _records_with(mark: bytes, block: bytes, starts: np.ndarray) -> Iterator[int]:
    """The records of a block that start with some bytes, blanks and a byte order mark before them aside."""
    at = block.find(mark)
    while at >= 0:
        record = int(np.searchsorted(starts, at, side="right")) - 1
        if not block[starts[record] : at].removeprefix(codecs.BOM_UTF8).strip(BLANKS):
            yield record
        at = block.find(mark, at + 1)


class _Walk:
    """Adds up the records of one block after the other."""

    def __init__(self, text: Text, layout: Layout):
        self.text, self.layout = text, layout
        self.line = layout.first_line
        self.records = self.blank = 0
        self.refused: list[Refused] = []
        self.continued: list[np.ndarray] = []
        self.left_out: list[np.ndarray] = []
        self.drops: list[np.ndarray] = []
        self.swallowed: int | None = None

    def take(self, records: Records, position: int) -> None:
        """Counts the records of the block at an offset of the file."""
        bad_utf8 = self.text.bad_utf8
        last = bisect.bisect_left(bad_utf8, position + records.size)
        broken = np.array(bad_utf8[bisect.bisect_left(bad_utf8, position) : last], np.int64) - position
        if records.is_regular and not len(broken):
            self._add_read(records, records.breaks, position)
            num_records = bits.count(records.last)
            self.records += num_records
            self.line += num_records + len(records.breaks)
        elif records.size:
            self._take_one_by_one(records, position, broken)

    def _take_one_by_one(self, records: Records, position: int, broken: np.ndarray) -> None:
        """`take` where records may have to be left out; `broken` are the offsets of lines that are not UTF-8."""
        block = self.text.data[position : position + records.size]
        ends, fields, lines = records.ends(), records.num_fields(), records.num_lines()
        starts = np.concatenate([[0], ends[:-1]])
        first_lines = self.line + np.cumsum(lines) - lines

        kinds = np.where(fields == len(self.layout.names), _READ, _FIELDS)
        may_be_blank = (fields == 1) & (np.frombuffer(block, np.uint8)[starts] <= ord(" "))
        for record in np.flatnonzero(may_be_blank).tolist():
            if not block[starts[record] : ends[record]].strip(BLANKS):
                kinds[record] = _BLANK
        for record in _records_with(codecs.BOM_UTF8, block, starts):
            kinds[record] = _MARK
        header = self.layout.header
        for record in _records_with(header, block, starts) if header else ():
            if block[starts[record] : ends[record]].removeprefix(codecs.BOM_UTF8).strip(BLANKS) == header:
                kinds[record] = _HEADER_AGAIN
        kinds[np.searchsorted(ends, broken, side="right")] = _NOT_UTF8
        for record in np.flatnonzero(kinds > _BLANK).tolist():
            found = reason = _REASONS[kinds[record]]
            if kinds[record] == _FIELDS:
                found = f"{fields[record]} field{'s'[: fields[record] - 1]} for {len(self.layout.names)} columns"
            line = self.text.line(position + int(starts[record]))
            self.refused.append(
                Refused(int(first_lines[record]), int(lines[record]), reason, f"{found}: {self.text.shown(line)}")
            )

        is_read = kinds == _READ
        of_read = np.repeat(is_read, lines)
        continued = bits.ranks(records.newlines, records.breaks)
        self._add_read(records, records.breaks[of_read[continued]], position)
        self.left_out.append(self.line + np.flatnonzero(~of_read))
        self.drops.append(np.stack([position + starts, position + ends], 1)[~is_read])
        self.records += int(np.count_nonzero(is_read))
        self.blank += int(np.count_nonzero(kinds == _BLANK))
        self.line += len(of_read)

    def _add_read(self, records: Records, breaks: np.ndarray, position: int) -> None:
        """Notes the lines behind the newlines within records that are read, of the block at an offset of the file."""
        if not len(breaks):
            return
        self.continued.append(self.line + bits.ranks(records.newlines, breaks))
        if self.swallowed is None:
            block = self.text.data[position : position + records.size]
            block += b"" if block.endswith(b"\n") else b"\n"  # the file's last line
            place = first_swallowing(block, records.newlines, breaks, self.layout.separator, len(self.layout.names))
            self.swallowed = None if place is None else self.line + block.count(b"\n", 0, place)

    def refuse_line(self, position: int, records: Records) -> int:
        """Refuses the line at an offset, whose record is in trouble; the offset behind it."""
        line, end = self.text.line(position), self.text.line_end(position)
        reason = str(records.trouble)
        further = self.text.data[position : position - records.size + records.trouble_at].count(b"\n")
        where = f" on line {self.line + further}" if further > 0 else ""
        self.refused.append(Refused(self.line, 1, reason, f"{reason}{where}: {self.text.shown(line)}"))
        self.left_out.append(np.array([self.line]))
        self.drops.append(np.array([[position, end]]))
        self.line += 1
        return end

    def survey(self) -> Survey:
        none = np.empty(0, np.int64)
        continued, left_out = np.concatenate([none, *self.continued]), np.concatenate([none, *self.left_out])
        drops = np.concatenate([none.reshape(0, 2), *self.drops])
        return Survey(
            layout=self.layout,
            records=self.records,
            lines=self.line - 1,
            blank=self.blank,
            refused=self.refused,
            continued=continued,
            left_out=left_out,
            drops=np.minimum(drops, len(self.text.data)),
            swallowed=self.swallowed,
        )
