"""Records of several lines that look like many: as if a stray pair of quotes had swallowed those between."""

import itertools
from collections.abc import Iterator

import numpy as np

_MANY = 15  # further lines of one record; text that has as many separators on so many lines is hardly one value
_SHARE = 0.9  # of the further lines that look like records
_LIKELY = 1.5  # values for each further line: of a user and of an item, with room for some of another kind
_SAMPLE = 200  # lines whose values are compared


def first_swallowing(block: bytes, continued: np.ndarray, separator: bytes, num_columns: int) -> int | None:
    """The first record of a block whose further lines would all but a few be records without quotes.

    Few lines that have as many separators may be chance. Then what is between the quotes must, in its columns, be as
    the values beside it mostly are: numbers, words, or codes of letters and digits, as ids are.

    Args:
        block: whole records.
        continued: int64 (n,), the lines that go on with the record of the line before; the block's first line is 0.
        separator: of fields, one byte.
        num_columns: that a record has.

    Returns:
        The number of the record's first line, from 0; None where there is no such record.
    """
    data = np.frombuffer(block, np.uint8)
    bounds = np.concatenate([[-1], np.flatnonzero(data == ord("\n")), [len(data)]])
    separators = np.flatnonzero(data == ord(separator))

    def count(lines: np.ndarray) -> np.ndarray:
        return np.searchsorted(separators, bounds[lines + 1]) - np.searchsorted(separators, bounds[lines])

    is_record = count(continued) == num_columns - 1
    if not is_record.any():
        return None
    begin, end = bounds[continued] + 1, bounds[continued + 1]
    is_blank = end - begin <= (data[np.minimum(begin, len(data) - 1)] == ord("\r"))

    starts = np.flatnonzero(np.diff(continued, prepend=-1) != 1)
    ends = np.append(starts[1:], len(continued))
    num_alike, num_lines = np.add.reduceat(is_record, starts, dtype=int), np.add.reduceat(~is_blank, starts, dtype=int)
    may_be = count(continued[starts] - 1) >= num_columns - 1  # the first line, whose text may have separators
    suspects = np.flatnonzero(may_be & (num_alike > 0) & (num_alike >= _SHARE * num_lines))
    if not len(suspects):
        return None

    lines = block.split(b"\n")
    within = set(continued.tolist()) | set((continued - 1).tolist())
    beside = (line.split(separator) for i, line in enumerate(lines) if i not in within and b'"' not in line)
    whole = (fields for fields in beside if len(fields) == num_columns)
    usual = _usual_kinds(list(itertools.islice(whole, _SAMPLE)), num_columns)
    for suspect in suspects.tolist():
        first, last = int(continued[starts[suspect]]) - 1, int(continued[ends[suspect] - 1])
        inside = _inside_quotes([line.split(separator) for line in lines[first : last + 1]], num_columns)
        num_likely = sum(usual[column] != b"" and usual[column] == _kind(value) for column, value in inside)
        if num_alike[suspect] >= _MANY or num_likely >= _LIKELY * num_lines[suspect]:
            return first
    return None


def _inside_quotes(lines: list[list[bytes]], num_columns: int) -> Iterator[tuple[int, bytes]]:
    """Columns and fields of a record's lines that lie between its quotes, of lines with as many fields as columns."""
    for number, fields in enumerate(lines):
        quotes = [column for column, field in enumerate(fields) if b'"' in field]
        start = quotes[-1] + 1 if number == 0 and quotes else 0
        end = quotes[0] if number == len(lines) - 1 and quotes else len(fields)
        yield from enumerate(fields[start:end], start) if len(fields) == num_columns else ()


def _usual_kinds(records: list[list[bytes]], num_columns: int) -> list[bytes]:
    """For each column the kind that most values are of; b"" where there is none."""
    usual = []
    for column in range(num_columns):
        kinds = [_kind(fields[column]) for fields in records]
        most = max(set(kinds), key=kinds.count, default=b"")
        usual.append(most if 2 * kinds.count(most) > len(kinds) else b"")
    return usual


def _kind(value: bytes) -> bytes:
    """Whether a value is a number, a word or a code of both; b"" where it is neither."""
    value = value.removesuffix(b"\r")
    if not value.isalnum():
        return b""
    return b"number" if value.isdigit() else b"word" if value.isalpha() else b"code"
