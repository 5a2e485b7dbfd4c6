"""What a text table holds, in one dialect of quotes: every line has its place, and what cannot be read is named.

Threads look at blocks of the file (records.py); Python sees only what is out of order.
"""

import bisect
import codecs
import concurrent.futures
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import polars as pl

from rearm_jax.data.prepare.reading import Refused
from rearm_jax.data.prepare.records import OPEN_LINE, OPEN_QUOTE, Layout, Records, find_records, is_open, whole_records
from rearm_jax.data.prepare.text import BLANKS, Text

_READ, _BLANK, _FIELDS, _HEADER_AGAIN, _MARK, _NOT_UTF8 = range(6)
_REASONS = ("", "", "not as many fields as columns", "the header again", "a byte order mark in mid-file", "not UTF-8")
_BLOCK = 1 << 17  # bytes; what numpy makes of them stays in a core's cache
_GROUP = 16  # blocks that a thread takes at a time
_WINDOW = 1 << 12  # bytes looked at first behind a record with a broken quote
_SUSPICIOUS = 16  # lines of one record
_LINE_BITS = 24  # for a number of lines, beside the number of the first


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
        swallowed: the first line of a record whose lines, at least _SUSPICIOUS, would all be records without quotes.
    """

    layout: Layout
    records: int
    lines: int
    blank: int
    refused: list[Refused]
    spans: np.ndarray
    gaps: np.ndarray
    drops: np.ndarray
    swallowed: int | None

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


def survey(text: Text, layout: Layout, max_refused: int) -> Survey:
    """Reads the structure of a file in one dialect. Stops where more than `max_refused` records are refused."""
    walk = _Walk(text, layout)
    position, step = layout.body, _BLOCK
    for start, end, records in _look_ahead(text, layout):
        window = end
        while position < end and len(walk.refused) <= max_refused:
            if (position, window) != (start, end) or is_open(records):
                records = whole_records(text, layout, position, window)
            walk.take(records, position)
            position += records.size
            step = min(2 * step, _BLOCK)
            if records.trouble not in (None, OPEN_QUOTE, OPEN_LINE):
                # Nobody knows where the record was meant to end. Its first line is refused, and the next is looked at.
                position = walk.refuse_line(position, records)
                step = _WINDOW
            window = min(end, text.line_end(position + step))
        if len(walk.refused) > max_refused:
            break
    return walk.survey()


def _look_ahead(text: Text, layout: Layout) -> Iterator[tuple[int, int, Records]]:
    """Blocks, and what is in them if a record starts where they start: threads read ahead on that guess."""
    workers = pl.thread_pool_size()
    blocks = text.blocks(layout.body, _BLOCK)
    groups = iter(lambda: list(islice(blocks, _GROUP)), [])
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(groups, 4 * workers)):
            found = pool.map(lambda group: [find_records(text, layout, *block) for block in group], batch)
            for group, records_of in zip(batch, found, strict=True):
                yield from ((*block, records) for block, records in zip(group, records_of, strict=True))


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
        self.spans: list[np.ndarray] = []
        self.gaps: list[np.ndarray] = []
        self.drops: list[np.ndarray] = []
        self.swallowed: int | None = None

    def take(self, records: Records, position: int) -> None:
        """Counts the records of the block at an offset of the file."""
        if not len(records.ends):
            return
        bad_utf8 = self.text.bad_utf8
        last = bisect.bisect_left(bad_utf8, position + records.size)
        broken = np.array(bad_utf8[bisect.bisect_left(bad_utf8, position) : last], np.int64) - position
        ends, fields = records.ends, records.fields
        is_plain = fields is None and not records.may_be_joined and not len(broken)
        if is_plain and not len(records.inner):
            self.records += len(ends)
            self.line += len(ends)
            return
        several, more = np.unique(np.searchsorted(ends, records.inner), return_counts=True)
        if is_plain:
            self._add_spans(position, ends, several, self.line + several + np.cumsum(more) - more, more + 1)
            self.records += len(ends)
            self.line += len(ends) + len(records.inner)
            return
        block = self.text.data[position : position + records.size]
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        lines = np.ones(len(ends), np.int64)
        lines[several] += more
        first_lines = self.line + np.cumsum(lines) - lines

        kinds = np.full(len(ends), _READ, np.uint8)
        if fields is not None:
            kinds[fields != len(self.layout.names)] = _FIELDS
            may_be_blank = (fields == 1) & (np.frombuffer(block, np.uint8)[starts] <= ord(" "))
            for record in np.flatnonzero(may_be_blank).tolist():
                if not block[starts[record] : ends[record]].strip(BLANKS):
                    kinds[record] = _BLANK
        if records.may_be_joined:
            for record in _records_with(codecs.BOM_UTF8, block, starts):
                kinds[record] = _MARK
            header = self.layout.header
            for record in _records_with(header, block, starts) if header else ():
                if block[starts[record] : ends[record]].removeprefix(codecs.BOM_UTF8).strip(BLANKS) == header:
                    kinds[record] = _HEADER_AGAIN
        kinds[np.searchsorted(ends, broken, side="right")] = _NOT_UTF8
        for record in np.flatnonzero(kinds > _BLANK).tolist():
            found = reason = _REASONS[kinds[record]]
            if kinds[record] == _FIELDS and fields is not None:
                found = f"{fields[record]} field{'s'[: fields[record] - 1]} for {len(self.layout.names)} columns"
            line = self.text.line(position + int(starts[record]))
            self.refused.append(
                Refused(int(first_lines[record]), int(lines[record]), reason, f"{found}: {self.text.shown(line)}")
            )

        is_read = kinds == _READ
        self.records += int(np.count_nonzero(is_read))
        self.blank += int(np.count_nonzero(kinds == _BLANK))
        self.line += int(lines.sum())
        several = several[is_read[several]]
        self._add_spans(position, ends, several, first_lines[several], lines[several])
        self.gaps.append(np.stack([first_lines, lines], 1)[~is_read])
        self.drops.append(np.stack([position + starts, position + ends], 1)[~is_read])

    def _add_spans(
        self, position: int, ends: np.ndarray, several: np.ndarray, first_lines: np.ndarray, lines: np.ndarray
    ) -> None:
        """Notes which records of the block at an offset have several lines, and are read."""
        self.spans.append(np.stack([first_lines, lines], 1))
        for i in np.flatnonzero(lines >= _SUSPICIOUS).tolist() if self.swallowed is None else ():
            start = position + (int(ends[several[i] - 1]) if several[i] else 0)
            record = self.text.data[start : position + int(ends[several[i]])]
            separators = {line.count(self.layout.separator) for line in record.removesuffix(b"\n").split(b"\n")}
            if separators == {len(self.layout.names) - 1}:
                self.swallowed = int(first_lines[i])
                return

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
        spans, others, drops = (np.concatenate([none, *parts]) for parts in (self.spans, self.gaps, self.drops))
        gaps = np.concatenate([spans + np.array([1, -1]), others])
        gaps = gaps[np.argsort(gaps[:, 0])]
        drops = np.minimum(drops, len(self.text.data))
        return Survey(
            self.layout, self.records, self.line - 1, self.blank, self.refused, spans, gaps, drops, self.swallowed
        )
