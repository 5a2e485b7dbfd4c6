"""Text tables against Python's csv module and against a reader that goes from character to character: what is a record,
what is refused, on which line; nothing is lost, whatever the bytes."""

import csv
import gzip
import io
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rearm_jax.data.prepare import survey as survey_module
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.records import Layout
from rearm_jax.data.prepare.survey import survey
from rearm_jax.data.prepare.tables import readable, scan_table
from rearm_jax.data.prepare.text import Text
from rearm_jax.errors import DataError

FOLDER = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path, **options):
    """Rows, with "" for null, and the account."""
    reading = Reading(**options)
    table = scan_table(path, reading)
    with readable(path, reading):
        rows = table.collect().rows()
    return [tuple(value or "" for value in row) for row in rows], reading.found[str(path)]


def read_or_refusal(path):
    try:
        return read(path)[0], ""
    except DataError as error:
        return [], str(error)


def write(path, data):
    path.write_bytes(data)
    return path


# Against the csv module

VALUES = st.text("ab,;\t\"\\\n é'", max_size=5)
TABLES = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=8).map(
        lambda rows: [tuple(f"column{i}" for i in range(width)), *rows]
    )
)
WRITTEN = {
    "double": {"quoting": csv.QUOTE_MINIMAL},
    "double, all": {"quoting": csv.QUOTE_ALL},
    "backslash": {"quoting": csv.QUOTE_MINIMAL, "escapechar": "\\", "doublequote": False},
    "backslash, all": {"quoting": csv.QUOTE_ALL, "escapechar": "\\", "doublequote": False},
}


def csv_bytes(rows, **how):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **how).writerows(rows)
    return buffer.getvalue().encode()


@pytest.mark.parametrize("how", WRITTEN)
@given(TABLES, st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]), st.booleans())
@FOLDER
def test_what_csv_writes_is_read(tmp_path, how, rows, separator, end, packed):
    data = csv_bytes(rows, **WRITTEN[how], delimiter=separator, lineterminator=end)
    path = write(tmp_path / "table", gzip.compress(data) if packed else data)
    dialect = how.split(",")[0]
    found, (account, line_of, *_) = read(path, quotes=[("", dialect)])
    assert found == rows[1:]
    assert (account.records, account.header, account.blank, account.refused) == (len(rows) - 1, 1, 0, [])
    assert account.lines == data.count(b"\n")
    # The line of each record, by csv's own count of lines.
    kind = dict(WRITTEN[how], delimiter=separator)
    lines = io.StringIO(data.decode(), newline="")
    reader, starts = csv.reader(lines, **kind), [1]
    for _ in reader:
        starts.append(reader.line_num + 1)
    assert [line_of(i) for i in range(len(rows) - 1)] == starts[1:-1]
    if dialect == "double":  # without the option too, unless the lines or the backslashes could mean something else
        found, refusal = read_or_refusal(path)
        lines = [line.rstrip("\r") for line in data.decode().rstrip("\n").split("\n")]
        is_clear = not re.search(rb'\\("|\r?\n)', data)
        is_clear &= {line.count(separator) for line in lines if line} != {len(rows[0]) - 1}
        assert found == rows[1:] or ("quote=" in refusal and not is_clear)


@given(st.lists(st.tuples(*[st.text("ab\"\\' é", min_size=1, max_size=5)] * 3), min_size=1, max_size=8))
@FOLDER
def test_without_quotes_every_line_is_a_row(tmp_path, rows):
    data = "".join("\t".join(row) + "\n" for row in [("user", "item", "text"), *rows]).encode()
    path = write(tmp_path / "table", data)
    assert read(path, quotes=[("", "none")])[0] == [tuple(row) for row in rows]
    found, refusal = read_or_refusal(path)
    if refusal:
        assert "quote=" in refusal
        return
    for row, values in zip(found, rows, strict=True):  # nothing but quotes and their escapes may be gone
        for value, written in zip(row, values, strict=True):
            assert value.replace('"', "").replace("\\", "") == written.replace('"', "").replace("\\", "")


# Against a reader that goes from character to character


def one_record(data, start, dialect):
    """The end of the record at `start` and its number of fields; None if its quotes are broken."""
    at, fields, state = start, 1, "start"  # of a field: start, plain, quoted, closed
    while at < len(data):
        sign = data[at : at + 1]
        at += 1
        if dialect == "backslash" and sign == b"\\":
            if at == len(data) or state == "closed":
                return None
            at, state = at + 1, "plain" if state == "start" else state
        elif state == "quoted":
            if sign == b'"' and data[at : at + 1] == b'"':
                at += 1
            elif sign == b'"':
                state = "closed"
        elif sign == b'"' and dialect != "none":
            if state != "start":
                return None
            state = "quoted"
        elif sign == b",":
            fields, state = fields + 1, "start"
        elif sign == b"\n":
            return at, fields
        elif state == "closed":
            if not (sign == b"\r" and data[at : at + 1] == b"\n"):
                return None
        else:
            state = "plain"
    return None


def walk(data, dialect, width):
    """(line, lines) of the records read, and of those refused; the number of blank lines; the number of lines."""
    data += b"" if data.endswith(b"\n") else b"\n"
    read, refused, blank, at, line = [], [], 0, 0, 1
    while at < len(data):
        end, fields = one_record(data, at, dialect) or (data.find(b"\n", at) + 1, None)
        lines = data[at:end].count(b"\n")
        if fields == 1 and not data[at:end].strip():
            blank += 1
        else:
            (read if fields == width else refused).append((line, lines))
        at, line = end, line + lines
    return read, refused, blank, line - 1


SIGNS = st.sampled_from([b"a", b",", b"\n", b'"', b'""', b"\\", b"\r\n", b" ", b"x,y\n", b'"a,b",c\n', b'"a\nb",c\n'])
BODIES = st.lists(SIGNS, min_size=1, max_size=40).map(b"".join)


@given(
    BODIES, st.sampled_from(["none", "double", "backslash"]), st.integers(1, 3), st.sampled_from([1, 5, 40, 1 << 17])
)
@settings(FOLDER, max_examples=500)
def test_records_one_by_one(tmp_path, monkeypatch, data, dialect, width, block):
    monkeypatch.setattr(survey_module, "_BLOCK", block)
    monkeypatch.setattr(survey_module, "_WINDOW", min(block, 7))
    path = str(write(tmp_path / "table", data))
    found = survey(Text(path, path), Layout(dialect, b",", ["name"] * width, None, 0, 0, 1), len(data))
    read, refused, blank, lines = walk(data, dialect, width)
    assert (found.records, found.blank, found.lines) == (len(read), blank, lines)
    assert [(record.line, record.num_lines) for record in found.refused] == refused
    assert [found.line_of(i) for i in range(len(read))] == [line for line, _ in read]
    assert found.spans.tolist() == [[line, lines] for line, lines in read if lines > 1]


def test_blocks_as_large_as_they_are(tmp_path):
    """Quoted newlines over many blocks, in a table that polars reads with several threads."""
    rows = [(f"u{i}", f"i{i % 7}", ['plain\n"one"', "x", 'a,b\n"c",d\n' * (i % 50)][i % 3]) for i in range(60_000)]
    data = csv_bytes([("user", "item", "text"), *rows])
    assert len(data) > 10 * survey_module._BLOCK
    found, (account, line_of, *_) = read(write(tmp_path / "table", data))
    assert found == rows
    assert account.lines == data.count(b"\n")
    before = csv_bytes([("user", "item", "text"), *rows[:40_000]])
    assert line_of(40_000) == before.count(b"\n") + 1


# Corruptions at known lines


@given(st.data())
@settings(FOLDER, max_examples=120)
def test_a_bad_line_is_named_or_skipped_alone(tmp_path, data):
    dialect = data.draw(st.sampled_from(["none", "double"]))
    rows = [f"u{i},i{i % 5},{'word' if dialect == 'none' else chr(34) + 'a, b' + chr(34)}" for i in range(40)]
    lines = ["user,item,text", *rows]
    number = data.draw(st.integers(2, 41))
    broken = {
        "few": "u1,i1",
        "many": "u1,i1,word,word",
        "header": "user,item,text",
        "mark": "\ufeffu1,i1,word",
        "open": 'u1,i1,a 12" disc' if dialect == "double" else "u1",
        "closed": 'u1,i1,"a 12" disc"' if dialect == "double" else "u1,,,",
    }[data.draw(st.sampled_from(["few", "many", "header", "mark", "open", "closed"]))]
    blanks = data.draw(st.integers(0, 2))  # blank lines count as lines
    content = [*lines[: number - 1], *[""] * blanks, broken, *lines[number - 1 :]]
    path = write(tmp_path / "table", data.draw(st.sampled_from(["\n", "\r\n"])).join(content).encode())
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert f"line {number + blanks}: " in message
    assert repr(broken) in message
    assert "bad_rows=skip" in message
    with pytest.raises(DataError, match=r"More than 1\.00% of the records"):
        read(path, bad_rows="skip")
    found, (account, line_of, *_) = read(path, bad_rows="skip", bad_rows_limit=0.03)
    assert [",".join(row) for row in found] == [row.replace('"', "") for row in rows]
    assert (account.header, account.blank, account.read, account.lines) == (1, blanks, 40, 42 + blanks)
    assert [(record.line, record.num_lines) for record in account.refused] == [(number + blanks, 1)]
    assert [line_of(i) for i in range(40)] == [i for i in range(2, 43 + blanks) if content[i - 1] not in ("", broken)]


# Any bytes at all

PIECES = st.sampled_from(
    [b"a", b",", b"\n", b'"', b"\\", b"\r", b"\r\n", b"\t", b"::", b"\xff", b"\xc3\xa9", b"\0", b"1", b" ", b"PK"]
) | st.sampled_from(
    [b"x,y\n", b"a,b\n", b'"a\nb",c\n', b"\xef\xbb\xbf", b"\x1f", b'{"a":1}\n', b"{'a':1}\n", b'{"a":"\\ud83c"}\n']
)
STARTS = st.sampled_from(
    [
        b"",
        b"a,b\n",
        b'"a"\t"b"\r\n',
        b"\xef\xbb\xbfa;b\n",
        b"h\n",
        b'{"a":1}\n',
        b"{'a':1}\n",
        b"1::2::3\n",
        b"sep=;\na;b\n",
    ]
)


@given(
    STARTS,
    st.lists(PIECES, max_size=25).map(b"".join) | st.binary(max_size=60),
    st.booleans(),
    st.sampled_from(["refuse", "skip"]),
    st.sampled_from([0.01, 1.0]),
    st.sampled_from([None, "none", "double", "backslash"]),
)
@settings(FOLDER, max_examples=500)
def test_every_line_has_its_place_or_the_file_is_refused(tmp_path, start, body, packed, bad_rows, limit, quote):
    data = start + body
    path = write(tmp_path / "table", gzip.compress(data) if packed else data)
    quotes = [("", quote)] if quote else []
    try:
        rows, (account, line_of, *_) = read(path, quotes=quotes, bad_rows=bad_rows, bad_rows_limit=limit)
    except DataError:
        return
    refused = sum(record.num_lines for record in account.refused)
    assert account.header + account.blank + account.read + refused == account.lines
    separator = b"\n" if b"\n" in data else b"\r"  # an old Macintosh's lines
    assert account.lines == data.count(separator) + (not data.endswith(separator))
    assert len(rows) == account.records <= account.read
    lines = [line_of(i) for i in range(len(rows))]
    assert lines == sorted(set(lines))
    assert not {line for record in account.refused for line in range(record.line, record.line + record.num_lines)} & {
        *lines
    }
