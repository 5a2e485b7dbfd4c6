"""Tables as they come: what a file is, its names, its encoding, its quotes; the command on inputs that went wrong."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import zipfile

import numpy as np
import polars as pl
import pytest

from rearm_jax.data.prepare import records
from rearm_jax.data.prepare.__main__ import main
from rearm_jax.data.prepare.interactions import read_interactions
from rearm_jax.data.prepare.item_columns import read_item_columns
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.tables import readable, scan_table
from rearm_jax.errors import DataError


def read(path, wanted=(), **options):
    """Columns, rows and account."""
    reading = Reading(**options)
    table = scan_table(path, reading, wanted)
    with readable(path, reading):
        frame = table.collect()
    return frame.columns, frame.rows(), reading.found[str(path)].account


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


TABLE = b"user_id,item_id\nu1,i1\nu2,i2\n"


def zipped(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


# What a file is


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TABLE, mtime=0),
        bz2.compress(TABLE),
        zipped(("folder/", ""), ("folder/a.csv", TABLE), ("__MACOSX/._a.csv", "x")),
        b"\xef\xbb\xbf" + TABLE,
        TABLE.replace(b"\n", b"\r\n"),
        TABLE.replace(b"\n", b"\r"),
        TABLE.replace(b"u1,i1\n", b"u1,i1\r\n"),
        TABLE[:-1],
        TABLE.replace(b",", b";"),
        TABLE.replace(b",", b"|"),
        TABLE.replace(b",", b"::"),
        TABLE.replace(b",", b"\t"),
    ],
)
def test_the_same_table_in_many_ways(tmp_path, data):
    names, rows, account = read(write(tmp_path / "table", data))
    assert (names, rows) == (["user_id", "item_id"], [("u1", "i1"), ("u2", "i2")])
    assert (account.lines, account.header, account.read, account.records) == (3, 1, 2, 2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "shift_jis"])
def test_encodings(tmp_path, encoding):
    word = "カフェ" if encoding == "shift_jis" else "Café"
    path = write(tmp_path / "table", f"item_id,title\n1,x\n2,{word}\n".encode(encoding))
    assert "encoding=" in refusal(path)
    assert read(path, encoding=encoding)[1] == [("1", "x"), ("2", word)]
    if encoding in ("utf-16", "utf-32"):  # a byte order mark says more
        assert read(path, encoding="ascii")[1] == [("1", "x"), ("2", word)]
    elif encoding != "utf-16-le":
        assert re.search(r"line \d: .*encoding=ascii", refusal(path, encoding="ascii"))


def test_an_encoding_is_for_files_that_are_not_utf8(tmp_path):
    path = write(tmp_path / "table", "item_id,title\n2,Café\n")
    assert read(path, encoding="latin-1")[1] == [("2", "Café")]


def test_what_is_not_utf8_is_shown(tmp_path):
    path = write(tmp_path / "table", b"item_id,title\n1,x\n2,\x80 Caf\xe9\n3,\xff\n")
    message = refusal(path)
    assert "line 3: not UTF-8" in message
    assert "cp1252 it is '2,€ Café'" in message
    assert "latin-1 '2,\\x80 Café'" in message
    assert "encoding=cp1252" in message
    rows, account = read(path, bad_rows="skip", bad_rows_limit=0.7)[1:]
    assert rows == [("1", "x")]
    assert [(record.line, record.reason) for record in account.refused] == [(3, "not UTF-8"), (4, "not UTF-8")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n \r\n\t\n", "is empty"),
        (zipped(("a.csv", TABLE), ("b.csv", TABLE)), "zip archive of 2 files (a.csv, b.csv): unpack the one"),
        (zipped(), "zip archive of 0 files"),
        (zipped(("a.csv", TABLE))[:-30], "zip archive that cannot be read"),
        (bz2.compress(TABLE)[:-5], "cannot be read"),
        (gzip.compress(TABLE, mtime=0)[:-5], "cannot be read"),
        (gzip.compress(gzip.compress(TABLE, mtime=0), mtime=0), "packed by gzip, inside another packing"),
        (gzip.compress(b"x" * 257 + b"ustar", mtime=0), "tar archive"),
        (bz2.compress(TABLE) + bz2.compress(TABLE)[:-5], "cannot be read"),
        (bz2.compress(TABLE) + b"BZh9 and what is no stream", "cannot be read"),
        (b"\xfd7zXZ\0...", "packed by xz"),
        (lzma.compress(TABLE, lzma.FORMAT_ALONE), "packed by lzma"),
        (b"\x04\x22\x4d\x18...", "packed by lz4"),
        (pickle.dumps(["u", "i"]), "a pickle"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\x28\xb5\x2f\xfd...", "packed by zstd"),
        (b"\n<!DOCTYPE html>\n<html>", "a page of HTML"),
        (b"SQLite format 3\0", "SQLite"),
        (TABLE.decode().encode("utf-16-le"), "encoding=utf-16-le"),
        (b"[1, 2]", "one object a line"),
        (b"a,b,a\n1,2,3\n", "the column 'a' is named more than once"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, data, words):
    assert words in refusal(write(tmp_path / "table", data))


# Names of columns


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b" user_id , item_id \nu,i\n", ["user_id", "item_id"]),
        (b"user_id,item_id,\nu,i,\n", ["user_id", "item_id", "column 3"]),
        (b",user_id,,item_id\n0,u,x,i\n", ["column 1", "user_id", "column 3", "item_id"]),
        (b"item_id,0,1,2\ni,5,6,7\n", ["item_id", "0", "1", "2"]),
        (b"item_id,sold,2019,2020\ni,5,6,7\n", ["item_id", "sold", "2019", "2020"]),
        (b'"user\nid","item_id"\nu,i\n', ["user\nid", "item_id"]),
        (b'\n\n"user_id","item_id"\nu,i\n', ["user_id", "item_id"]),
        (b"user_id:token\tage:float\nu\t1\n", ["user_id", "age"]),
        (b"196\t242\t3\t881250949\n", ["userId", "movieId", "rating", "timestamp"]),
        (b"1::1193::5::978300760\n", ["userId", "movieId", "rating", "timestamp"]),
        (b"15::4973::excellent!::1215184630\n", ["userId", "movieId", "tag", "timestamp"]),
        (b"4::Waiting to Exhale (1995)::Comedy|Drama|Romance|War\n", ["movieId", "title", "genres"]),
    ],
)
def test_names(tmp_path, data, names):
    assert read(write(tmp_path / "table", data))[0] == names


@pytest.mark.parametrize(
    "data",
    [
        b"A1,B1,5.0,1400000000\nA2,B2,4.0,1400000001\n",
        b"1,2,5,1400000000\n",
        b"1,2\n3,4\n",
        b"A1,B1\nA1,B2\nA2,B1\n",
    ],
)
def test_a_row_is_no_line_of_names(tmp_path, data):
    path = write(tmp_path / "table", data)
    message = refusal(path)
    assert "line 1: " in message
    assert "interactions_header" in message
    assert "items_header" in refusal(path, names_option="items_header")
    names = ["u", "i", "r", "t"][: data.split(b"\n")[0].count(b",") + 1]
    found, rows, account = read(path, names=names)
    assert (found, account.header, len(rows)) == (names, 0, data.count(b"\n"))
    assert rows[0] == tuple(data.decode().split("\n")[0].split(","))


def test_given_names_that_the_file_has_are_no_row(tmp_path):
    path = write(tmp_path / "table", b"item_id,2020\ni1,5\n")
    assert "holds the numbers 2020" in refusal(path)
    assert read(path, names=["item_id", "2020"])[1] == [("i1", "5")]
    assert "line 1: 2 fields for 3 columns" in refusal(path, names=["a", "b", "c"])


# What quotes mean


SWALLOWING = b'user,item,text\nu1,i1,ok\nu2,i2,"I loved it\nu3,i3,ok\nu4,i4,me too"\nu5,i5,ok\n'


def test_two_readings_are_refused_until_one_is_chosen(tmp_path):
    path = write(tmp_path / "table", SWALLOWING)
    message = refusal(path)
    assert "line 3" in message
    assert "quote=none reads 5 records, quote=double reads 3 records" in message
    assert repr('u2,i2,"I loved it') in message
    rows, account = read(path, quotes=[("", "none")])[1:]
    assert rows[1] == ("u2", "i2", '"I loved it')
    assert (account.records, account.read) == (5, 5)
    rows, account = read(path, quotes=[(str(path), "double"), ("", "none")])[1:]
    assert rows[1] == ("u2", "i2", "I loved it\nu3,i3,ok\nu4,i4,me too")
    assert (account.records, account.read) == (3, 5)


def test_many_records_within_quotes_are_looked_at_twice(tmp_path):
    """Only one dialect fits, since others have separators in quotes; but a stray quote would look like this."""
    swallowed = "u3,i3,ok\n" * 20
    path = write(tmp_path / "table", f'user,item,text\nu1,i1,"a, b"\nu2,i2,"I loved it\n{swallowed}u4,i4,me too"\n')
    assert "line 3: many lines that look like records" in refusal(path)
    assert len(read(path, quotes=[("", "double")])[1]) == 2
    prose = "\n".join(["a line of prose, and more"] * 20)
    path = write(tmp_path / "prose", f'user,item,text\nu1,i1,"a, b"\nu2,i2,"{prose}"\n')
    assert read(path)[1][1][2] == prose


@pytest.mark.parametrize(
    ("data", "expected", "quote"),
    [
        ('a,b\n1,"x, ""y""\nz"\n', [("1", 'x, "y"\nz')], "double"),
        ('a,b\r\n1,"x, ""y""\r\nz"\r\n', [("1", 'x, "y"\r\nz')], "double"),
        ('"a","b"\n"1","x"\n', [("1", "x")], "double"),  # none fits too, and gives the same but for the quotes
        ('a\tb\n1\ta 12" disc\n2\ta 7" disc\n', [("1", 'a 12" disc'), ("2", 'a 7" disc')], "none"),
        ('a,b\n1,a 12" disc\n', [("1", 'a 12" disc')], "none"),
        ('a\tb\n1\t"Great" Dogs\n', [("1", '"Great" Dogs')], "none"),
        ('a,b\n1,"I loved it\n', [("1", '"I loved it')], "none"),
        ("a,b\n1,C:\\dir\n", [("1", "C:\\dir")], "none"),
        ('a,b\n1,"C:\\dir, x"\n', [("1", "C:\\dir, x")], "double"),
        ('a,b\n1,"C:\\, x\\"\n2,"y, y"\n', [("1", "C:\\, x\\"), ("2", "y, y")], "double"),
        ('"a";"b"\n"1";"a 5\\" disc"\n', [("1", 'a 5" disc')], "backslash"),
        ('"a";"b"\n"1";"a 5\\" disc; C:\\\\dir"\n', [("1", 'a 5" disc; C:\\dir')], "backslash"),
        ('a:token\tb:token\n1\t"x"\n', [("1", '"x"')], "none"),  # RecBole
        ('a,b\n1,"x\\"\n2,"y"\n3,"z, z"\n', [("1", "x\\"), ("2", "y"), ("3", "z, z")], "double"),
    ],
)
def test_the_dialect_that_fits(tmp_path, data, expected, quote):
    rows, account = read(write(tmp_path / "table", data))[1:]
    assert (rows, account.quote) == (expected, quote)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('"a","b"\n"1","x"\n"2","a 12" disc"\n', ["line 3: text behind a closing quote", "quote=none"]),
        ('a,b\n1,"x, y"\n2,a 12" disc\n', ["quote=none, line 2", "quote=double, line 3: a quote within a field"]),
        ('a,b\n1,"x, y"\n2,"I loved\n3,z\n', ["quote=double, line 3: a quote that nothing closes"]),
        ('"a","b"\n"1","x\\"y"\n"2","C:\\dir"\n', ["line 3: what backslashes mean", "none or quote=backslash"]),
        ('a,b\n1,"say ""hi"" now"\n2,a 12" disc\n3,z\n', ["line 3: a quote within a field", "quote=none"]),
        ('"a","b,c"\n"1","2,3"\n', ["line 1: what quotes mean is not clear"]),
        ('a,b\n1,"x, \\\\"\n', ["line 2: what backslashes mean", "double or quote=backslash"]),
        (
            "a,b\n1,x\\\n\n2,y\n",
            ["line 2: what quotes mean is not clear", "quote=none reads 2", "quote=backslash reads 2"],
        ),
    ],
)
def test_quotes_that_are_refused(tmp_path, data, words):
    message = refusal(write(tmp_path / "table", data))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a,b,c\n1,2,x\\,y\n", ["line 2: 4 fields", "quote=backslash"]),
        ("# by a tool\na,b\n1,2\n", ["line 2: 2 fields", "names of the columns are taken from line 1: '# by a tool'"]),
        ("a,b\n1,x,y\n2,x,y\n", ["line 2: 3 fields", "are taken from line 1: 'a,b'"]),  # of R, with row names
        ("a,b\r1,x\r2,y\n", ["line 1: lines end in carriage returns here", "a,b\\r1,x"]),
        ('"a","b"\r"1","x"\r"2","y"\n3,z\n', ["line 1: lines end in carriage returns here"]),
    ],
)
def test_what_the_first_line_has_to_do_with_it(tmp_path, data, words):
    message = refusal(write(tmp_path / "table", data))
    for word in words:
        assert word in message


# Bad rows


def test_bad_rows_are_counted_by_reason_and_shown(tmp_path):
    good = b"u,i,x\n"
    bad = b"1\n" + b"2\n" + b"u,i,x,3\n" + b"4,5\n" + b"user,item,text\n"
    path = write(tmp_path / "table", b"user,item,text\n" + good * 300 + bad + b"\n" + good * 300)
    account = read(path, bad_rows="skip")[2]
    assert (account.lines, account.header, account.blank, account.read, account.records) == (607, 1, 1, 600, 600)
    text = str(account)
    assert "607 lines = 1 header + 1 blank + 600 read (600 records) + 5 refused" in text
    assert "not as many fields as columns: 4" in text
    assert "the header again: 1" in text
    assert [line for line in (302, 303, 304, 305, 306) if f"line {line}: " in text] == [302, 303, 304, 306]
    assert account.as_dict()["refused records"] == {"not as many fields as columns": 4, "the header again": 1}
    assert "More than 0.50% of the records" in refusal(path, bad_rows="skip", bad_rows_limit=0.005)


def test_a_dialect_that_reads_more_is_chosen_among_bad_rows(tmp_path):
    rows = ["u,i,x"] * 300 + ['u,i,"a, b"', "u,i", 'u,i,"c, d"'] + ["u,i,x"] * 300
    path = write(tmp_path / "table", "\n".join(["user,item,text", *rows]))
    found, account = read(path, bad_rows="skip")[1:]
    assert (account.quote, account.records, len(account.refused)) == ("double", 602, 1)
    assert [row for row in found if row[2] != "x"] == [("u", "i", "a, b"), ("u", "i", "c, d")]
    swallowing = [*rows[:10], 'u,i,"stray', "u,i,x", 'u,i,stray"', *rows[10:]]
    write(path, "\n".join(["user,item,text", *swallowing]))
    assert "what quotes mean is not clear" in refusal(path, bad_rows="skip")


# JSON lines and Python's dicts


def test_json_lines(tmp_path):
    lines = [
        '{"a": "007", "b": [1, "x"]}',
        "",
        '{"a": 12, "c": "\\ud83d\\ude00 \\ud83c \\\\ud83c"}',
        "  ",
        '{"b": null}',
    ]
    path = write(tmp_path / "table", "\ufeff" + "\r\n".join(lines))
    names, rows, account = read(path)
    assert names == ["a", "b", "c"]
    assert rows == [("007", '[1, "x"]', None), ("12", None, "\U0001f600 \ufffd \\ud83c"), (None, None, None)]
    assert (account.lines, account.blank, account.read, account.records, account.num_replaced) == (5, 2, 3, 3, 1)
    assert "halves of surrogate pairs, read as U+FFFD: 1" in str(account)


def test_python_dicts(tmp_path):
    lines = [
        "{u'asin': u'1', 'title': \"It's\", 'also': [['a'], u'b']}",
        "{'title': '\\ud83d\\ude00 \\ud83c', 'price': 12.5, 'new': True, 'none': None}",
    ]
    names, rows, account = read(write(tmp_path / "table", "\n".join([*lines, "", *[lines[0]] * 1200, "{'late': 1}"])))
    assert names == ["asin", "title", "also", "price", "new", "none", "late"]
    assert rows[0][:3] == ("1", "It's", '[["a"], "b"]')
    assert rows[1] == (None, "\U0001f600 \ufffd", None, "12.5", "true", None, None)
    assert rows[-1][-1] == "1"
    assert (account.lines, account.blank, account.records, account.num_replaced) == (1204, 1, 1203, 1)


@pytest.mark.parametrize(
    ("good", "bad", "kind"),
    [
        ('{"a": 1}', '{"a":', "no JSON object"),
        ('{"a": 1}', "[2]", "no JSON object"),
        ('{"a": 1}', '{"a": NaN}', "no JSON object"),
        ("{'a': 1}", "{'a': open('x')}", "no Python dict"),
        ("{'a': 1}", "[2]", "no Python dict"),
    ],
)
def test_bad_objects(tmp_path, good, bad, kind):
    path = write(tmp_path / "table", "\n".join(["", *[good] * 1500, bad, *[good] * 1500, bad, good]))
    message = refusal(path)
    assert f"line 1502: {kind}" in message
    assert bad in message
    reading = Reading(bad_rows="skip")
    assert len(scan_table(path, reading).collect()) == 3001
    account, line_of, *_ = reading.found[str(path)]
    assert (account.lines, account.blank, account.read) == (3004, 1, 3001)
    assert [record.line for record in account.refused] == [1502, 3003]
    assert [line_of(i) for i in (0, 1499, 1500, 3000)] == [2, 1501, 1503, 3004]
    assert "More than 0.01%" in refusal(path, bad_rows="skip", bad_rows_limit=0.0001)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('{"user_id": "u", "item_id": "i", "title": "x"}', '{"user_id": "u", "item_id": "i", "item_id": "j"}'),
        ('{"user_id": "u", "item_id": "i"}', '{"user_id": "u", "item_id": "i", "title": "x", "title": "y"}'),
        ('{"user_id": "u", "item_id": "i"}', '{"user_id": "u", "item_id": "i", "\\u0069tem_id": "j"}'),
        ('{"user_id": "u", "\\u0069tem_id": "i"}', '{"\\u0069tem_id": "i", "x": "caf\\u00e9", "item_i\\u0064": "j"}'),
        ("{'user_id': 'u', 'item_id': 'i'}", "{'user_id': 'u', 'item_id': 'i', 'item_id': 'j'}"),
    ],
)
def test_a_name_that_is_given_twice(tmp_path, good, bad):
    nested = good[:-1] + good[-1].replace("}", ", 'x': {'item_id': 1, 'title': ['item_id']}}")
    nested = nested if bad.startswith("{'") else nested.replace("'", '"')
    path = write(tmp_path / "table", "\n".join([good, "", nested, bad, *[good] * 200]))
    wanted = [("item_id", "asin"), ("title",)]
    reading = Reading()
    with pytest.raises(DataError) as caught:
        scan_table(path, reading, wanted)
    assert "line 4: " in str(caught.value)
    assert "a name that is given twice" in str(caught.value)
    assert repr(bad)[1:-1] in str(caught.value)
    rows, account = read(path, wanted, bad_rows="skip")[1:]
    assert (len(rows), account.blank, [record.line for record in account.refused]) == (202, 1, [4])


def test_bytes_of_python_are_text(tmp_path):
    assert read(write(tmp_path / "table", "{'a': b'x', 'b': u'y'}"))[1] == [("x", "y")]
    assert "line 1: no Python dict" in refusal(write(tmp_path / "table", "{'a': b'\\xff'}"))


def test_columns_that_come_late(tmp_path):
    early = json.dumps({"user_id": "u", "item_id": "i", "nested": {"later": 1}}) + "\n"
    path = write(tmp_path / "table", early * 1100 + '{"user_id": "v", "item_id": "j", "when": 5, "stars": 4}\n')
    assert read(path)[0] == ["user_id", "item_id", "nested"]
    assert read(path, wanted=[("later",), ("time", "when")])[0] == ["user_id", "item_id", "nested", "when"]
    found = read_interactions([path], rating_column="stars")
    assert len(found.users) == 1101
    texts, *_ = read_item_columns([path], ["when"], np.array(["j"]))
    assert texts == {"when": ["5"]}


def test_lists_in_lists_in_parquet(tmp_path):
    frame = pl.DataFrame(
        {
            "item_id": ["1", "2"],
            "categories": [[["Books", "Old"], ["Rare"]], [[None, "New"], []]],
            "images": [[{"small": "x"}], []],
            "flat": [["a", "b"], None],
        }
    )
    frame.write_parquet(tmp_path / "table")
    texts, *_ = read_item_columns([tmp_path / "table"], ["categories", "images", "flat"], np.array(["1", "2"]))
    assert texts == {"categories": ["Books Old Rare", "New"], "images": ['{"small":"x"}', ""], "flat": ["a b", ""]}


# Files of the field, as they come


U_ITEM = (
    b"1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/title-exact?Toy%20Story%20(1995)|"
    b"0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    b"2|Caf\xe9 Noir (1996)|01-Jan-1996||http://us.imdb.com/M/title-exact?x|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|1|0|0\n"
)
AMAZON_2014 = {"reviewerID": "A1", "asin": "0001", "helpful": [2, 3], "reviewText": 'He said "hi"\n', "overall": 5.0}
AMAZON_2018 = {"overall": 5.0, "verified": True, "reviewerID": "A1", "asin": "0001", "style": {"Size:": ' 7" x 9"'}}
AMAZON_2023 = {"rating": 5.0, "title": "5\u2033", "asin": "0002", "parent_asin": "0001", "user_id": "A1", "images": []}


@pytest.mark.parametrize(
    ("data", "options", "pairs"),
    [
        (b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n", {}, [("196", "242"), ("186", "302")]),
        (b"1::1193::5::978300760\n1::661::3::978302109\n", {}, [("1", "1193"), ("1", "661")]),
        (b"userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n", {}, [("1", "2")]),
        (b"A1,0001,5.0,1400000000\n", {"names": ["user_id", "item_id", "rating", "timestamp"]}, [("A1", "0001")]),
        (b"0001,A1,5.0,1400000000\n", {"names": ["item_id", "user_id", "rating", "timestamp"]}, [("A1", "0001")]),
        (b"user_id,parent_asin,rating,timestamp\nA1,0001,5.0,1400000000000\n", {}, [("A1", "0001")]),
        (b"user_id,parent_asin,rating,timestamp,history\nA1,0001,5.0,14,\nA1,0003,5.0,15,0001 0002\n", {}, None),
        (json.dumps(AMAZON_2014).encode(), {}, [("A1", "0001")]),
        (json.dumps(AMAZON_2018).encode(), {}, [("A1", "0001")]),
        (json.dumps(AMAZON_2023).encode(), {}, [("A1", "0001")]),
        (repr(AMAZON_2014).encode(), {}, [("A1", "0001")]),
        (b'"User-ID";"ISBN";"Book-Rating"\n"276725";"034545104X";"0"\n', {}, [("276725", "034545104X")]),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_interactions_of_the_field(tmp_path, data, options, pairs, pack):
    names = {"user_column": "User-ID", "item_column": "ISBN"} if b"ISBN" in data else {}
    found = read_interactions([write(tmp_path / "table", pack(data))], **names, reading=Reading(**options))
    users, items = found.user_ids[found.users].tolist(), found.item_ids[found.items].tolist()
    assert sorted(zip(users, items, strict=True)) == sorted(pairs or [("A1", "0001"), ("A1", "0003")])


@pytest.mark.parametrize(
    ("data", "options", "column", "texts"),
    [
        (U_ITEM, {"encoding": "latin-1"}, "title", ["Toy Story (1995)", "Café Noir (1996)"]),
        (b"1::Toy Story (1995)::Animation|Comedy\n2::Caf\xe9::War\n", {"encoding": "latin-1"}, "title", None),
        (
            b'1::"Great Performances" Cats (1998)::Musical\n2::b::c\n',
            {},
            "title",
            ['"Great Performances" Cats (1998)', "b"],
        ),
        (b'movieId,title,genres\n1,"American President, The (1995)",Drama\n2,b,c\n', {}, "title", None),
        (b"{'asin': '1', 'title': \"It's 5\\\"\"}\n{'asin': '2', 'title': 'b'}\n", {}, "title", ["It's 5\"", "b"]),
        (b'"movieId";"title"\n"1";"The 5\\" disc; new"\n"2";"b"\n', {}, "title", ['The 5" disc; new', "b"]),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_items_of_the_field(tmp_path, data, options, column, texts, pack):
    path = write(tmp_path / "table", pack(data))
    found, counts, _ = read_item_columns([path], [column], np.array(["1", "2"]), reading=Reading(**options))
    assert (counts["absent"], counts["again"]) == (0, 0)
    expected = texts or (["Toy Story (1995)", "Café"] if b"::" in data else ["American President, The (1995)", "b"])
    assert found[column] == expected


# The command on inputs that went wrong


@pytest.fixture
def raw(tmp_path):
    """60 pairs of 12 users and 10 items, as (user, item), with features of the items on disk."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "feat.npy", rng.standard_normal((10, 4)))
    np.save(tmp_path / "ids.npy", np.array([f"i{i}" for i in range(10)]))
    return tmp_path, [(f"u{user}", f"i{item}") for user in range(12) for item in rng.choice(10, 5, False)]


def prepare(folder, interactions, *more):
    features = ["--features", f"text={folder / 'feat.npy'}", "--feature-ids", f"text={folder / 'ids.npy'}"]
    out = ["--out", str(folder / "out"), "--overwrite"]
    return main(["--interactions", str(interactions), *features, *out, *map(str, more)])


def report(folder):
    return json.loads((folder / "out" / "prepare.json").read_text())


def with_review(pairs, separator, reviews):
    lines = [separator.join((*pair, reviews.get(i, "fine"))) for i, pair in enumerate(pairs)]
    return "\n".join([separator.join(("user_id", "item_id", "review")), *lines]) + "\n"


@pytest.mark.parametrize(
    ("separator", "reviews"),
    [
        (",", {4: '"I loved it', 49: '"me too'}),
        ("\t", {4: 'a 12" disc', 49: 'a 7" disc'}),
        (",", {4: 'a 12" disc', 30: '"', 49: 'a 7" disc'}),
    ],
)
def test_stray_quotes_lose_no_row(raw, caplog, separator, reviews):
    folder, pairs = raw
    path = write(folder / "inter.csv", with_review(pairs, separator, reviews))
    assert prepare(folder, path) == 0
    assert report(folder)["counts"]["rows read"] == report(folder)["counts"]["kept: interactions"] == 60
    assert report(folder)["lines"][str(path)] == {
        "lines": 61,
        "header": 1,
        "blank": 0,
        "read": 60,
        "refused": 0,
        "records": 60,
        "refused records": {},
        "quote": "none",
    }
    assert "61 lines = 1 header + 0 blank + 60 read (60 records) + 0 refused" in caplog.text


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ('"item_id";"title";"author"\n' + "".join(f'"i{i}";"The {i}\\" disc";"A"\n' for i in range(10)), 'The 2" disc'),
        ("item_id\ttitle\tnote\n" + "".join(f'i{i}\t"Great" Dogs {i}\tnote\n' for i in range(10)), '"Great" Dogs 2'),
    ],
)
def test_quotes_in_names_of_items(raw, items, expected):
    folder, pairs = raw
    path = write(folder / "inter.csv", with_review(pairs, ",", {}))
    assert prepare(folder, path, "--items", write(folder / "items", items), "--name-column", "title") == 0
    assert np.load(folder / "out" / "item_names.npy")[2] == expected
    assert report(folder)["counts"]["items without a row in the tables of items"] == 0


def test_a_ragged_row_is_refused_or_skipped(raw, capsys):
    folder, pairs = raw
    rows = [f"{item},Title,{user}" for user, item in pairs]
    rows[9] = rows[9].replace("Title", "Hello, world")
    path = write(folder / "inter.csv", "\n".join(["item_id,title,user_id", *rows]))
    assert prepare(folder, path) == 1
    message = capsys.readouterr().err
    assert f"{path}, line 11: 4 fields for 3 columns: {rows[9]!r}" in message
    assert prepare(folder, path, "--bad_rows", "skip") == 1  # one in 60 is more than 1%
    assert "(bad_rows_limit)" in capsys.readouterr().err
    assert prepare(folder, path, "--bad_rows", "skip", "--bad_rows_limit", "0.02") == 0
    assert report(folder)["counts"]["kept: users"] == 12
    assert report(folder)["lines"][str(path)]["refused"] == 1


def test_ratings_without_names_keep_their_first_row(raw, capsys):
    folder, pairs = raw
    path = write(folder / "ratings.csv", "".join(f"{user},{item},5.0,1400000000\n" for user, item in pairs))
    assert prepare(folder, path) == 1
    assert "interactions_header" in capsys.readouterr().err
    assert prepare(folder, path, "--user-column", pairs[0][0], "--item-column", pairs[0][1]) == 1
    assert "interactions_header" in capsys.readouterr().err
    assert prepare(folder, path, "--interactions_header", "user_id,item_id,rating,timestamp") == 0
    assert report(folder)["counts"]["rows read"] == 60


def test_a_header_in_the_middle_is_refused(raw, capsys):
    folder, pairs = raw
    rows = [f"{user},{item}" for user, item in pairs]
    path = write(folder / "inter.csv", "\n".join(["user_id,item_id", *rows[:30], "user_id,item_id", *rows[30:]]) + "\n")
    assert prepare(folder, path) == 1
    assert "line 32: the header again: 'user_id,item_id'" in capsys.readouterr().err


def test_films_in_latin_1(raw, capsys):
    folder, pairs = raw
    ratings = write(folder / "ratings.dat", "".join(f"{user[1:]}::{item[1:]}::5::14\n" for user, item in pairs))
    films = write(folder / "movies.dat", "".join(f"{i}::Café {i}::Drama\n" for i in range(10)).encode("latin-1"))
    np.save(folder / "ids.npy", np.array([str(i) for i in range(10)]))
    command = (folder, ratings, "--items", films, "--name-column", "title")
    assert prepare(*command) == 1
    message = capsys.readouterr().err
    assert "movies.dat, line 1: not UTF-8" in message
    assert "'0::Café 0::Drama'" in message
    assert prepare(*command, "--encoding", "latin-1") == 0
    assert np.load(folder / "out" / "item_names.npy").tolist() == [f"Café {i}" for i in range(10)]


def test_packed_and_marked_files(raw):
    folder, pairs = raw
    objects = "".join(json.dumps({"user_id": user, "item_id": item}) + "\n" for user, item in pairs)
    assert prepare(folder, write(folder / "inter.jsonl", "\ufeff" + objects)) == 0
    assert report(folder)["counts"]["rows read"] == 60
    table = with_review(pairs, ",", {})
    assert prepare(folder, write(folder / "inter.zip", zipped(("inter.csv", table)))) == 0
    assert report(folder)["counts"]["rows read"] == 60


def test_half_a_surrogate_pair_in_a_name(raw, caplog):
    folder, pairs = raw
    meta = "".join(f"{{'asin': 'i{i}', 'title': \"It's {chr(92)}ud83c {i}\"}}\n" for i in range(10))
    interactions = write(folder / "inter.csv", with_review(pairs, ",", {}))
    assert prepare(folder, interactions, "--items", write(folder / "meta.json", meta), "--name-column", "title") == 0
    assert np.load(folder / "out" / "item_names.npy")[3] == "It's \ufffd 3"
    assert "halves of surrogate pairs, read as U+FFFD: 10" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quote", "single"], "one of none, double, backslash"),
        (["--quote", "other.csv=none"], "neither interactions nor items name that file"),
        (["--encoding", "klingon"], "encoding: unknown encoding: klingon"),
        (["--encoding", "base64"], "encoding: 'base64' is not a text encoding"),
        (["--bad_rows_limit", "2"], "a share from 0 to 1"),
    ],
)
def test_options_that_cannot_be(raw, capsys, arguments, words):
    folder, pairs = raw
    assert prepare(folder, write(folder / "inter.csv", with_review(pairs, ",", {})), *arguments) == 1
    assert words in capsys.readouterr().err


# Text that begins as other files do


@pytest.mark.parametrize(
    "name", ["ORCID", "LZIPPER", "BZhost", "PAR1", "Rar!", "ARROW1", "x^2", "x\x01", "x\u06a9", "GIF8"]
)
@pytest.mark.parametrize("header", [None, ("a", "item_id")])
@pytest.mark.parametrize("quote", ["none", "double", "backslash"])
def test_letters_that_other_files_begin_with(tmp_path, name, header, quote):
    rows = [(name, "item_id"), ("u1", "i1"), ("u2", "i2"), (name, "i2")]
    value = '"{}"'.format if quote != "none" and header is None else str
    text = "".join(f"{value(one)},{value(other)}\n" for one, other in rows)
    columns, found, account = read(write(tmp_path / "table", text), quotes=[("", quote)], names=header)
    assert columns == ([name, "item_id"] if header is None else ["a", "item_id"])
    assert found == (rows[1:] if header is None else rows)
    assert account.records == len(found)


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("u1\ti1\tGreat, fast, cheap, good\nu2\ti2\tok\n", ("u", "i", "t"), [("u1", "i1", "Great, fast, cheap, good")]),
        ("u1\ti1\tGreat, fast\n", ("u", "i", "t"), [("u1", "i1", "Great, fast")]),
        ("u|i|a,b,c\nu1|i1|a, b, c\nu2|i2|x\n", None, [("u1", "i1", "a, b, c"), ("u2", "i2", "x")]),
        ("u;i;t\nu1;i1;a,b,c,d\n", None, [("u1", "i1", "a,b,c,d")]),
        ("{3F-01},i1\n{3F-02},i2\n", ("u", "i"), [("{3F-01}", "i1"), ("{3F-02}", "i2")]),
    ],
)
def test_the_separator_is_that_of_all_lines(tmp_path, text, names, rows):
    assert read(write(tmp_path / "table", text), names=names)[1][: len(rows)] == rows


@pytest.mark.parametrize("first", ["sep=;\n", '\ufeff"sep=;"\r\n\r\n', "sep=;\r\n"])
@pytest.mark.parametrize("names", [None, ("user", "item")])
def test_a_first_line_that_tells_excel_the_separator(tmp_path, first, names):
    """It is a line of the header, and says more than the lines that follow: each has as many commas."""
    rows = ["1,5;2,5", "3,5;4,5"] if names else ["user;item", "1,5;2,5", "3,5;4,5"]
    columns, found, account = read(write(tmp_path / "log.csv", first + "\n".join(rows)), names=names)
    assert (columns, found) == (["user", "item"], [("1,5", "2,5"), ("3,5", "4,5")])
    lines = first.count("\n") + len(rows)
    assert (account.lines, account.read, account.records) == (lines, 2, 2)
    assert (account.header, account.blank) == (1 + (names is None), first.count("\n") - 1)


def test_a_separator_that_is_not_known(tmp_path):
    path = write(tmp_path / "table", "user_id item_id\nu1 i1\n")
    with pytest.raises(DataError, match=r"the columns are 'user_id item_id', one alone \(between columns may stand"):
        read_interactions([path])


def test_carriage_returns_alone_beside_what_is_not_utf8(tmp_path):
    text = b"user_id,item_id\r" + b"".join(b"u%d,i%d\r" % (i, i) for i in range(200)) + b"u7,caf\xe9\r"
    path = write(tmp_path / "table", text)
    assert "line 202: not UTF-8. As cp1252 it is 'u7,caf\xe9'" in refusal(path)
    account = read(path, bad_rows="skip")[2]
    assert (account.records, [record.line for record in account.refused]) == (200, [202])


def test_a_late_name_written_with_escapes(tmp_path):
    lines = ['{"item_id":"i1"}'] * 1100 + [json.dumps({"item_id": "i2", "gr\u00f6\u00dfe": "L"})]
    columns, rows, _ = read(write(tmp_path / "table", "\n".join(lines)), [("item_id",), ("gr\u00f6\u00dfe",)])
    assert columns == ["item_id", "gr\u00f6\u00dfe"]
    assert rows[-1] == ("i2", "L")


@pytest.mark.parametrize("row", ['i1, "u1"', 'i1,"u1" ', '"i1",\xa0"u1"\xa0'])
def test_quotes_with_blanks_beside_them_are_no_part_of_an_id(tmp_path, row):
    path = write(tmp_path / "table", f"item_id, user_id\n{row}\n{row}\n")
    assert "quote=none would take the quotes for parts of the values" in refusal(path)
    assert '"' in read(path, quotes=[("", "none")])[1][0][1]


@pytest.mark.parametrize("ids", [pl.Series([b"u1", b"u2"]), pl.Series(["1", "2"]).cast(pl.Decimal(10, 0))])
def test_ids_of_parquet_of_other_programs(tmp_path, ids):
    pl.DataFrame({"user_id": ids, "item_id": ["i1", "i2"]}).write_parquet(tmp_path / "table")
    found = read_interactions([tmp_path / "table"]).user_ids.tolist()
    assert found == [id.decode() if isinstance(id, bytes) else str(id) for id in ids]


# What stands in for other characters while polars reads


@pytest.mark.parametrize(
    ("data", "quote", "rows"),
    [
        ('a::b\nx::"y::z"\n"::"::y\n', "double", [("x", "y::z"), ("::", "y")]),
        ("a::b\nx\\::y::z\n", "backslash", [("x::y", "z")]),
        ('a::"b::c"\nx::y\n', "double", [("x", "y")]),
        ('a::b\nx\r::"y\r::z"\n', "double", [("x\r", "y\r::z")]),
    ],
)
def test_two_colons_within_a_value(tmp_path, data, quote, rows):
    path = write(tmp_path / "table", data)
    columns, found, _ = read(path, quotes=[("", quote)])
    assert found == rows
    assert columns == (["a", "b::c"] if "b::c" in data else ["a", "b"])


@pytest.mark.parametrize("separator", [",", "\t", "::"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quote", ["none", "double", "backslash"])
def test_a_carriage_return_at_the_end_of_a_value_stays(tmp_path, separator, end, quote):
    rows = [("q\r", "xy", "a"), ("q", "z\r\r", "b"), ("\r", "\r", "c"), ("q\rq", "z", "\rd")]
    lines = [separator.join(row) for row in [("u", "i", "t"), *rows]]
    path = write(tmp_path / "table", end.join(lines) + end)
    found, account = read(path, quotes=[("", quote)])[1:]
    assert found == rows
    assert (account.lines, account.records) == (5, 4)
    reading = Reading(quotes=[("", quote)])
    assert scan_table(path, reading).select("u").collect()["u"].to_list() == [row[0] for row in rows]


def test_what_stands_in_must_not_be_there_already(tmp_path):
    assert "holds the character U+001E" in refusal(write(tmp_path / "table", "u,i\nq\r,x\x1e\n"))
    assert "holds the character U+001F" in refusal(write(tmp_path / "table", "1::2::3::4\n1::2::\x1f::4\n"))
    assert read(write(tmp_path / "table", "u,i\nq,x\x1e\x1f\n"))[1] == [("q", "x\x1e\x1f")]


# Marks, long records, long numbers


def test_a_mark_of_utf8_goes_before_an_encoding(tmp_path):
    path = write(tmp_path / "table", b"\xef\xbb\xbfu,x\nw,\xc3\xa9\nv,\xe9\n")
    message = refusal(path, encoding="latin-1")
    assert "line 3: not UTF-8, which the byte order mark at the start of the file promises" in message
    rows, account = read(path, encoding="latin-1", bad_rows="skip", bad_rows_limit=0.5)[1:]
    assert (rows, [record.line for record in account.refused]) == ([("w", "é")], [3])
    objects = write(tmp_path / "objects", b'\xef\xbb\xbf{"a":"\xc3\xa9"}\n{"a":"\xe9"}\n')
    assert "line 2: not UTF-8" in refusal(objects, encoding="latin-1")


def test_a_record_of_many_lines_with_quotes_is_looked_at_a_few_times(tmp_path, monkeypatch):
    looked_at = []

    def find_records(text, layout, start, end):
        looked_at.append(end - start)
        return found(text, layout, start, end)

    found = records.find_records
    monkeypatch.setattr(records, "find_records", find_records)
    cell = '{""a"": 1,\n""b"": 2}\n' * 5000
    path = write(tmp_path / "table", f'user,item,text\nu,i,"{cell}"\nv,j,x\n')
    assert read(path)[1] == [("u", "i", cell.replace('""', '"')), ("v", "j", "x")]
    assert sum(looked_at) < 20 * path.stat().st_size
    looked_at.clear()
    stray = "".join(f'u{i},i{i % 50},"",""\n' for i in range(20_000))
    path = write(tmp_path / "table", f'user,item,text,note\nu0,i0,"so good,\n{stray}')
    assert "line 2: " in refusal(path)
    assert sum(looked_at) < 20 * path.stat().st_size


def test_a_backslash_at_the_end_of_a_file(tmp_path):
    for end in ("", "\n"):
        path = write(tmp_path / "table", f"a,b\nu,v\\{end}")
        assert "line 2: a backslash at the end of the file" in refusal(path, quotes=[("", "backslash")])


@pytest.mark.parametrize(
    "number", ["9007199254740993.0", "9.007199254740993e15", "-9007199254740993E0", "[1, 1234567890123456789.5]"]
)
def test_numbers_that_floats_would_round_are_refused(tmp_path, number):
    path = write(tmp_path / "table", f'{{"a": 1.5}}\n{{"a": {number}}}\n')
    message = refusal(path)
    assert "line 2: a number that floats of 64 bits round" in message
    assert number.strip("[]").split()[-1] in message
    rows, account = read(path, bad_rows="skip", bad_rows_limit=0.5)[1:]
    assert (rows, [record.line for record in account.refused]) == ([("1.5",)], [2])


def test_numbers_that_floats_hold_are_read(tmp_path):
    numbers = ["9007199254740992.0", "1e17", "0.30000000000000004", "1234567890123456.0", '"9007199254740993.0"']
    path = write(tmp_path / "table", "".join(f'{{"a": {number}}}\n' for number in numbers))
    assert [float(value) for (value,) in read(path)[1]] == [float(number.strip('"')) for number in numbers]
