"""Records of several lines that look like many: as if a stray pair of quotes had swallowed those between."""

from collections.abc import Iterator

import numpy as np

from rearm_jax.data.prepare import bits

_MANY = 15  # further lines of one record; text that has as many separators on so many lines is hardly one value
_SHARE = 0.9  # of the further lines that look like records
_LIKELY = 1.5  # values for each further line: of a user and of an item, with room for some of another kind
_SAMPLE = 200  # lines whose values are compared


def first_swallowing(
    block: bytes, newlines: np.ndarray, breaks: np.ndarray, separator: bytes, num_columns: int
) -> int | None:
    """The first record of a block whose further lines would all but a few be records without quotes.

    Few lines that have as many separators may be chance. Then what is between the quotes must, in its columns, be as
    the values beside it mostly are: numbers, words, or codes of letters and digits, as ids are.

    Args:
        block: whole records, the last of which ends in a newline.
        newlines: bits (bits.py), all of them.
        breaks: int64 (n,), offsets of newlines within records, in ascending order.
        separator: of fields, one byte.
        num_columns: that a record has.

    Returns:
        An offset on the record's first line; None where there is no such record.
    """
    ends = bits.onward(newlines, breaks + 1)  # of the lines behind the breaks
    data = np.frombuffer(block, np.uint8)
    is_record = np.diff(bits.ranks(bits.places_of(ord(separator), data), np.stack([breaks, ends])), axis=0)[0]
    is_record = is_record == num_columns - 1
    if not is_record.any():
        return None
    is_blank = ends - breaks - 1 <= (data[breaks + 1] == ord("\r"))

    firsts = np.flatnonzero(np.append(True, breaks[1:] != ends[:-1]))  # of the breaks of each record
    num_alike, num_lines = np.add.reduceat(is_record, firsts, dtype=int), np.add.reduceat(~is_blank, firsts, dtype=int)
    suspects = np.flatnonzero((num_alike > 0) & (num_alike >= _SHARE * num_lines))
    usual = None
    for suspect in suspects.tolist():
        first = int(breaks[firsts[suspect]])
        start, end = block.rfind(b"\n", 0, first) + 1, int(ends[np.append(firsts[1:], len(ends))[suspect] - 1])
        lines = [line.split(separator) for line in block[start:end].split(b"\n")]
        if len(lines[0]) < num_columns:  # it may have more, in its text
            continue
        usual = _usual_kinds(block, breaks, separator, num_columns) if usual is None else usual
        inside = _inside_quotes(lines, num_columns)
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


def _usual_kinds(block: bytes, breaks: np.ndarray, separator: bytes, num_columns: int) -> list[bytes]:
    """For each column the kind that most values are of, in the first records of one line without quotes; b"" where
    there is none."""
    within = set(breaks.tolist())
    records: list[list[bytes]] = []
    start = 0
    while start < len(block) and len(records) < _SAMPLE:
        end = block.index(b"\n", start)
        fields = block[start:end].split(separator)
        if len(fields) == num_columns and not within & {start - 1, end} and block.find(b'"', start, end) < 0:
            records.append(fields)
        start = end + 1
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
