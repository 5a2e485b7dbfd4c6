"""Ids: blanks around them are cut and counted, empty ones and two spellings are refused, nothing is lost unsaid."""

import contextlib
import json
import os
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rearm_jax.data.labels import check_labels
from rearm_jax.data.prepare.interactions import read_interactions
from rearm_jax.data.prepare.item_columns import find_pictures, read_item_columns
from rearm_jax.data.prepare.item_features import read_features
from rearm_jax.data.prepare.new_items import find_new_items
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.errors import DataError

EMPTY = {
    "unquoted.csv": "user,item,n\na,x,1\na,,1\n",
    "quoted.csv": 'user,item,n\na,x,1\na,"",1\n',
    "blanks.csv": "user,item,n\na,x,1\na,  ,1\n",
    "quoted_blanks.csv": 'user,item,n\na,x,1\na,"\t ",1\n',
    "tabs.tsv": "user\titem\tn\na\tx\t1\na\t\t1\n",
    "text.jsonl": '{"user": "a", "item": "x"}\n{"user": "a", "item": ""}\n',
    "null.jsonl": '{"user": "a", "item": "x"}\n{"user": "a", "item": null}\n',
    "absent.jsonl": '{"user": "a", "item": "x"}\n{"user": "a"}\n',
    "blanks.jsonl": '{"user": "a", "item": "x"}\n{"user": "a", "item": "\\u00a0\\n"}\n',
}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def place(path, row):
    """How messages name a row, counted from 1: its line, where the file is text; a header is a line before it."""
    return f"{path}, line {row + (path.suffix in ('.csv', '.tsv'))}"


def pairs(found):
    return {(found.user_ids[user], found.item_ids[item]) for user, item in zip(found.users, found.items, strict=True)}


# Interactions


@pytest.mark.parametrize("side", ["item", "user"])
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_id_is_refused_however_it_is_written(tmp_path, name, side):
    text = (
        EMPTY[name] if side == "item" else EMPTY[name].replace("user", "_").replace("item", "user").replace("_", "item")
    )
    path = write(tmp_path / name, text)
    with pytest.raises(DataError) as caught:
        read_interactions([path])
    assert str(caught.value).startswith(f"{place(path, 2)}, column '{side}': the value is missing")


@pytest.mark.parametrize("value", ["", "  ", None])
def test_an_empty_id_in_parquet(tmp_path, value):
    pl.DataFrame({"user": ["a", "b"], "item": ["x", value]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet, row 2, column 'item': the value is missing"):
        read_interactions([tmp_path / "log.parquet"])


def test_a_row_without_both_ids_is_blank_only_if_nothing_else_is_there(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,n\na,x,1\n,,\nb,y,2\n")
    found = read_interactions([path])
    assert pairs(found) == {("a", "x"), ("b", "y")}
    assert found.num_blank == 1
    for row in (",,3", '"","",', " , ,"):
        write(path, f"user,item,n\na,x,1\n,,\n{row}\n")
        with pytest.raises(DataError) as caught:
            read_interactions([path])
        assert str(caught.value).startswith(f"{place(path, 3)}, column 'user': the value is missing")


def test_blanks_around_ids_are_cut_and_counted(tmp_path):
    text = write(tmp_path / "log.csv", 'user,item\n a,x\na ,"\tx"\n a ,y\na,y\n')
    pl.DataFrame({"user": ["a", "b\n"], "item": [" z", "z"]}).write_parquet(tmp_path / "log.parquet")
    found = read_interactions([text, tmp_path / "log.parquet"])
    assert found.user_ids.tolist() == ["a", "b"]
    assert found.item_ids.tolist() == ["x", "y", "z"]
    assert list(zip(found.users, found.items, strict=True)) == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (1, 2)]
    assert found.num_cut == 6


@pytest.mark.parametrize("side", ["user", "item"])
def test_one_number_in_two_spellings_is_refused(tmp_path, side):
    ids = {"user": ["a", "b", "c"], "item": ["x", "y", "z"]} | {side: ["12", "7", "12.0"]}
    pl.DataFrame(ids).write_csv(tmp_path / "log.csv")
    with pytest.raises(
        DataError, match=r"log\.csv, line 2: the id '12' is there, and '12\.0' in .*log\.csv, line 4: .*Int64"
    ):
        read_interactions([tmp_path / "log.csv"])
    one = write(tmp_path / "one.jsonl", json.dumps({"user": 12, "item": 1}))
    other = write(tmp_path / "other.jsonl", json.dumps({"user": "12.0", "item": 1}))
    places = r"one\.jsonl, line 1: the id '12' is there, and '12\.0' in .*other\.jsonl, line 1: one number"
    with pytest.raises(DataError, match=places):
        read_interactions([one, other])


@pytest.mark.parametrize(("name", "words"), [("x\0", "holds a NUL character"), ("x" * 257, "has more than 256")])
def test_the_line_of_an_id_that_cannot_be_one(tmp_path, name, words):
    path = write(tmp_path / "log.csv", f"user,item\na,y\n\nb,{name}\nc,{name}\n")
    with pytest.raises(DataError, match=rf"log\.csv, line 4: the id .* {words}"):
        read_interactions([path])


def test_other_ids_that_look_like_numbers_are_their_own(tmp_path):
    ids = ["1", "1.1", "1.10", "01", "001", "1.", ".0", "2.0", "3.0", "-3.0", "1.0.0", "x.0", "1e0", "0x1"]
    pl.DataFrame({"user": ids, "item": ids[::-1]}).write_csv(tmp_path / "log.csv")
    found = read_interactions([tmp_path / "log.csv"])
    assert sorted(found.user_ids) == sorted(found.item_ids) == sorted(ids)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("100000", "1e+05", "one number in two spellings"),  # what write.csv of R makes of numbers
        ("1.5e+03", "1500", "one number in two spellings"),
        ("Guns", '"Guns"', "with and without quotes.*quote=none"),
        ("caf\u00e9", "cafe\u0301", "two spellings of Unicode"),
    ],
)
def test_one_text_in_two_spellings_is_refused(tmp_path, one, other, words):
    pl.DataFrame({"user": ["a", "b"], "item": [one, other]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=words):
        read_interactions([tmp_path / "log.parquet"])
    table = write(tmp_path / "items.jsonl", json.dumps({"item": other, "title": "x"}))
    with pytest.raises(DataError, match=words):
        read_item_columns([table], ["title"], np.array([one]))
    found, counts = features_of(tmp_path, [one, other], [one, other])  # where both are known, each has its own
    assert found.any()
    assert counts["absent"] == 0


def test_quotes_are_characters_where_somebody_says_so(tmp_path):
    path = write(tmp_path / "log.tsv", 'user\titem\na\t"Weird Al" Yankovic\na\t"Guns"\nb\tGuns\n')
    with pytest.raises(DataError, match="with and without quotes"):
        read_interactions([path])
    found = read_interactions([path], reading=Reading(quotes=[("", "none")]))
    assert sorted(found.item_ids) == ['"Guns"', '"Weird Al" Yankovic', "Guns"]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "NULL", "NA", "N/A", "<NA>", "\\N", "NaT"])
def test_a_word_for_a_missing_id_is_refused_among_codes(tmp_path, word, caplog):
    path = write(tmp_path / "log.csv", f"user,item\n17,A1\n,\n18,{word}\n19,B2\n")
    with pytest.raises(DataError) as caught:
        read_interactions([path])
    assert f"log.csv, line 4: the id of the item is {word!r}" in str(caught.value)
    assert f"The line is {f'18,{word}'!r}" in str(caught.value)
    path = write(tmp_path / "log.csv", f"user,item\nAnna,Abba\nBob,{word}\nBob,Queen\n")
    assert word in read_interactions([path]).item_ids  # among names it may be one, and is told
    assert f"log.csv: {word!r} is an id; if it stands for a missing one, remove its rows" in caplog.text


@pytest.mark.parametrize("again", ["user,item", '"user","item"', "User , Item", "userId,movieId", "user_id:token,item"])
def test_a_header_in_another_spelling_is_no_row(tmp_path, again):
    for rows, further in ((3, ""), (3000, "user,x\n")):
        path = write(tmp_path / "log.csv", '"user","item"\n' + "a,x\n" * rows + f"{again}\n{further}")
        with pytest.raises(DataError, match=rf"log\.csv, line {rows + 2}: .*header again"):
            read_interactions([path])
    pl.DataFrame({"user": ["user", "a"], "item": ["x", "item"]}).write_parquet(tmp_path / "log.parquet")
    assert pairs(read_interactions([tmp_path / "log.parquet"])) == {("user", "x"), ("a", "item")}


def test_lists_and_objects_are_no_ids(tmp_path):
    for line in ('{"user": ["a"], "item": "x"}', '{"user": {"$oid": "a"}, "item": "x"}', "{'user': ['a'], 'item': 1}"):
        path = write(tmp_path / "log.jsonl", f"{line}\n")
        with pytest.raises(DataError, match=r"log\.jsonl, line 1: the id of the user is a list or an object"):
            read_interactions([path])
    path = write(tmp_path / "log.csv", "user,item\n[1],[deleted]\n")
    assert pairs(read_interactions([path])) == {("[1]", "[deleted]")}


def test_blanks_without_width_are_cut(tmp_path):
    path = write(tmp_path / "log.csv", "user,item\na,x\n\u200ba,x\u2060\na\u3000,\u200b\ufeffx\n")
    found = read_interactions([path])
    assert (pairs(found), found.num_cut) == ({("a", "x")}, 4)
    with pytest.raises(DataError, match=r"line 3, column 'item': the value is missing.*The line is 'a,"):
        read_interactions([write(tmp_path / "log.csv", "user,item\na,x\na,\u200b\n")])


# Tables of items


def test_items_are_joined_by_the_id_without_blanks(tmp_path):
    one = write(tmp_path / "a.csv", "item,title\n x ,One\nother,Two\n,\nother,Three\ny,\nx,Again\n")
    two = write(tmp_path / "b.jsonl", '{"item": "z", "title": "Four"}\n{"item": "more"}\n{"item": "other "}\n')
    texts, counts, _ = read_item_columns([one, two], ["title"], np.array(["x", "y", "z", "w"]))
    assert texts == {"title": ["One", "", "Four", ""]}
    assert counts == {"absent": 1, "others": 2, "again": 1, "blank": 1, "cut": 2}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_id_of_a_table_of_items(tmp_path, name):
    path = write(tmp_path / name, EMPTY[name])
    for columns in (["user"], []):  # what is read must not decide which row is blank
        with pytest.raises(DataError) as caught:
            read_item_columns([path], columns, np.array(["x"]))
        assert str(caught.value).startswith(f"{place(path, 2)}, column 'item': the id is empty")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("items.csv", '"item","title"\nA1,x\nITEM,title\n', "line 3, column 'item': 'ITEM' is the name of the column"),
        ("items.csv", "item,title\nA1,x\nB2,x\nnan,y\n", "line 4, column 'item': 'nan' is what programs write"),
        ("items.jsonl", '{"item": "A1"}\n{"item": ["B2"], "title": "x"}\n', "line 2, .* is a list or an object"),
    ],
)
def test_what_is_no_id_of_an_item(tmp_path, name, text, words):
    with pytest.raises(DataError, match=words):
        read_item_columns([write(tmp_path / name, text)], ["title"], np.array(["A1"]))


@pytest.mark.parametrize(("known", "there"), [("12", "12.0"), ("12.0", "12")])
def test_spellings_are_compared_wherever_ids_are_joined(tmp_path, known, there):
    known_ids = np.array([known, "7"])
    words = rf"the id '{there}' is there, and '{known}' in the interactions"
    table = write(tmp_path / "items.csv", f"item,title\n7,Seven\n{there},Twelve\n")
    with pytest.raises(DataError, match=rf"items\.csv, column 'item': {words}"):
        read_item_columns([table], ["title"], known_ids)
    np.save(tmp_path / "f.npy", np.ones((2, 3)))
    np.save(tmp_path / "ids.npy", np.array(["7", there]))
    with pytest.raises(DataError, match=rf"ids\.npy: {words}"):
        read_features(tmp_path / "f.npy", tmp_path / "ids.npy", known_ids)
    write(tmp_path / f"{there}.png", "")
    with pytest.raises(DataError, match=words):
        find_pictures(tmp_path, known_ids)


def test_pictures_of_no_item_are_counted(tmp_path):
    for name in ("x.png", "y.jpg", "other.webp", "notes.txt"):
        write(tmp_path / name, "")
    found, num_others = find_pictures(tmp_path, np.array(["y", "z", "x"]))
    assert found == [str(tmp_path / "y.jpg"), None, str(tmp_path / "x.png")]
    assert num_others == 1


# Features


def features_of(tmp_path, ids, item_ids):
    np.save(tmp_path / "f.npy", np.arange(2.0 * len(ids)).reshape(-1, 2) + 1)
    np.save(tmp_path / "ids.npy", np.array(ids))
    return read_features(tmp_path / "f.npy", tmp_path / "ids.npy", np.array(item_ids))


def test_features_are_joined_by_the_id_without_blanks(tmp_path):
    features, counts = features_of(tmp_path, [" x", "other", "y\n", "more"], ["y", "x", "z"])
    assert features.tolist() == [[5, 6], [1, 2], [0, 0]]
    assert counts == {"absent": 1, "others": 2, "cut": 2}
    features, counts = features_of(tmp_path, [7, 12], ["12", "7"])
    assert features.tolist() == [[3, 4], [1, 2]]
    assert counts == {"absent": 0, "others": 0, "cut": 0}


def test_features_with_wrong_ids(tmp_path):
    for ids, words in (
        (["x", ""], r"ids\.npy, row 1 \(from 0\): the id is empty"),
        (["x", " \t"], r"ids\.npy, row 1 \(from 0\): the id is empty"),
        (["x", " x"], r"ids\.npy, rows 0 and 1 \(from 0\): both are 'x'"),
        (["y", "z"], "no item of the interactions has features there"),
    ):
        with pytest.raises(DataError, match=words):
            features_of(tmp_path, ids, ["x"])
    pl.DataFrame({"item": ["x", None], "f": [1.0, 2.0]}).write_parquet(tmp_path / "f.parquet")
    with pytest.raises(DataError, match=r"f\.parquet, row 1 \(from 0\): the id is empty"):
        read_features(tmp_path / "f.parquet", None, np.array(["x"]))


PANDAS = '{"index_columns": ["row", "__index_level_1__", {"kind": "range", "start": 0}], "columns": []}'


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        ({"__index_level_0__": [5, 6]}, None),
        ({"__index_level_0__": [5, 6], "__index_level_1__": [7, 8]}, "{}"),
        ({"row": [5, 6]}, PANDAS),
        ({"row": [5, 6], "title": ["a", "b"]}, PANDAS),
    ],
)
def test_the_index_of_pandas_is_no_feature(tmp_path, caplog, columns, note):
    frame = pl.DataFrame({"item_id": ["x", "y"], "f0": [1.0, 2.0], "f1": [3, 4], **columns})
    frame.write_parquet(tmp_path / "f.parquet", metadata=None if note is None else {"pandas": note})
    features, _ = read_features(tmp_path / "f.parquet", None, np.array(["y", "x"]))
    assert features.tolist() == [[2, 4], [1, 3]]
    for name in columns:
        assert repr(name) in caplog.text
    assert "(the index of pandas)" in caplog.text


def test_an_index_of_pandas_that_holds_the_ids(tmp_path, caplog):
    pl.DataFrame({"f0": [1.0, 2.0], "__index_level_0__": ["x", "y"]}).write_parquet(tmp_path / "f.parquet")
    features, _ = read_features(tmp_path / "f.parquet", None, np.array(["y"]), "__index_level_0__")
    assert features.tolist() == [[2]]
    assert not caplog.records


@pytest.mark.parametrize("note", ["", "[", "[]", "null", "3", '{"index_columns": 3}', '{"index_columns": [[1], null]}'])
def test_a_note_that_is_not_of_pandas(tmp_path, note):
    frame = pl.DataFrame({"item_id": ["x", "y"], "f0": [1.0, 2.0]})
    frame.write_parquet(tmp_path / "f.parquet", metadata={"pandas": note})
    assert read_features(tmp_path / "f.parquet", None, np.array(["x"]))[0].tolist() == [[1]]


def test_lists_of_lists_are_laid_out_in_a_row(tmp_path, caplog):
    values = np.arange(12.0).reshape(2, 3, 2)
    nested = pl.Array(pl.Array(pl.Float32, 2), 3)
    for column in (pl.Series(values.tolist()), pl.Series(values.tolist(), dtype=nested)):
        pl.DataFrame({"item": ["x", "y"], "v": column, "price": [3, 4]}).write_parquet(tmp_path / "f.parquet")
        features, _ = read_features(tmp_path / "f.parquet", None, np.array(["y", "x"]))
        np.testing.assert_array_equal(features, values[::-1].reshape(2, 6))
    assert "no features, and not read: 'price'" in caplog.text
    for wrong in ([[[1.0], [2.0]], [[1.0]]], [[[1.0], [2.0]], [[1.0], [2.0, 3.0]]], [[[1.0]], None], [[[1.0]], [None]]):
        pl.DataFrame({"item": ["x", "y"], "v": wrong}).write_parquet(tmp_path / "f.parquet")
        with pytest.raises(DataError, match="all must be as long"):
            read_features(tmp_path / "f.parquet", None, np.array(["y"]))


def test_nested_columns_of_parquet_as_text(tmp_path):
    frame = pl.DataFrame(
        {
            "item": ["x", "y"],
            "categories": [[["Toys", "Cars"], None, ["Red", None]], None],
            "details": [{"brand": "B", "sizes": [1, 2]}, None],
            "images": [[{"url": "u"}], []],
        }
    )
    frame.write_parquet(tmp_path / "items.parquet")
    texts, *_ = read_item_columns(
        [tmp_path / "items.parquet"], ["categories", "details", "images"], np.array(["x", "y"])
    )
    assert texts["categories"] == ["Toys Cars Red", ""]
    assert texts["details"] == ['{"brand": "B", "sizes": [1, 2]}', ""]
    assert [json.loads(text or "null") for text in texts["images"]] == [{"url": "u"}, None]


def test_nan_is_no_value_of_an_item(tmp_path):
    pl.DataFrame({"item": ["a", "b"], "size": [1.5, float("nan")]}).write_parquet(tmp_path / "items.parquet")
    assert read_item_columns([tmp_path / "items.parquet"], ["size"], np.array(["a", "b"]))[0] == {"size": ["1.5", ""]}


def test_values_within_lists_are_as_those_without(tmp_path):
    values = [[1.5, float("nan")], [None]], [[True, False], []], [[b"a"], [b"b", b"a"]]
    names = ["size", "sold", "raw"]
    table = pl.DataFrame({"item": ["a", "b"], **dict(zip(names, values, strict=True))})
    table.write_parquet(tmp_path / "items.parquet")
    texts, *_ = read_item_columns([tmp_path / "items.parquet"], names, np.array(["a", "b"]))
    assert texts == {"size": ["1.5", ""], "sold": ["true false", ""], "raw": ["a", "b a"]}


def test_a_title_in_brackets_is_no_list(tmp_path):
    """[1408] is a film; a list of texts in CSV is a list, and in JSON any list is one."""
    titles = ["[1408]", "[Infinity]", "[REC]", '["a","b"]']
    table = pl.DataFrame({"item": list("abcd"), "title": titles})
    table.write_csv(tmp_path / "items.csv")
    table.write_parquet(tmp_path / "items.parquet")
    for name in ("items.csv", "items.parquet"):
        texts, *_ = read_item_columns([tmp_path / name], ["title"], np.array(list("abcd")))
        assert texts == {"title": ["[1408]", "[Infinity]", "[REC]", "a b"]}
    path = write(tmp_path / "items.jsonl", '{"item": "a", "title": [1408, "b"]}\n')
    assert read_item_columns([path], ["title"], np.array(["a"]))[0] == {"title": ["1408 b"]}


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["12", "12.0"], "the id '12' is there, and '12.0' in the same column"),
        (["caf\u00e9", "cafe\u0301"], "one text in two spellings of Unicode"),
        (["z", "z\0"], "holds a NUL character"),
        (["z" * 257], "has more than 256 characters"),
    ],
)
@pytest.mark.parametrize("num_files", [1, 2])
def test_ids_of_new_items_are_looked_at(tmp_path, ids, words, num_files):
    files = []
    for number in range(num_files):
        files.append(tmp_path / f"{number}.jsonl")
        write(files[-1], "".join(json.dumps({"item_id": id}) + "\n" for id in ["i1", *ids][number::num_files]))
    with pytest.raises(DataError, match=words):
        find_new_items(files, np.array(["i1"]), None, Reading())


def test_empty_ids_of_a_folder():
    for ids in (["a", ""], ["a", " \t"]):
        with pytest.raises(DataError, match=r"user_ids\.npy, row 1: the id is empty"):
            check_labels(np.array(ids), "user_ids.npy", unique=True)
    assert check_labels(np.array(["a", ""]), "item_names.npy", unique=False).tolist() == ["a", ""]
    assert check_labels(np.array([], "U3"), "user_ids.npy", unique=True).tolist() == []


# Fuzzing: features or a DataError, never anything else

fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.array_dtypes() | st.sampled_from(["<U2", ">U2", "<U0"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
ID_ARRAYS = hnp.arrays("<U2", st.integers(0, 4), elements=st.text("x y0.", max_size=2)) | hnp.arrays(
    np.uint32, st.integers(0, 4)
).map(lambda codes: codes.view("<U1"))
TABLES = hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 2)), elements=st.floats(width=32))


@fuzz
@given(TABLES | ARRAYS, ID_ARRAYS | ARRAYS)
def test_any_arrays_are_features_or_refused(tmp_path, table, ids):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy.save warns of odd field names
        np.save(tmp_path / "f.npy", table)
        np.save(tmp_path / "ids.npy", ids)
    with contextlib.suppress(DataError):
        features, counts = read_features(tmp_path / "f.npy", tmp_path / "ids.npy", np.array(["x", "y"]))
        assert np.isfinite(features).all()
        assert counts["absent"] + len(ids) - counts["others"] == 2
        rows = {str(item).strip(): row.astype(np.float32) for item, row in zip(ids, table, strict=True)}
        for item, row in zip("xy", features, strict=True):
            np.testing.assert_array_equal(row, rows.get(item, np.zeros(table.shape[1])))


NUMBERS = st.floats(width=32) | st.none()
COLUMNS = {
    "number": (pl.Float64, NUMBERS),
    "whole": (pl.Int16, st.integers(-9, 9) | st.none()),
    "list": (pl.List(pl.Float32), st.lists(NUMBERS, max_size=2) | st.none()),
    "nested": (pl.List(pl.List(pl.Int8)), st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2) | st.none()),
    "array": (pl.Array(pl.Float32, 2), st.lists(NUMBERS, min_size=2, max_size=2) | st.none()),
    "text": (pl.String, st.text(max_size=2)),
    "flag": (pl.Boolean, st.booleans()),
    "__index_level_0__": (pl.Int64, st.integers(0, 9)),
}


@fuzz
@given(st.data(), st.integers(0, 3), st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, max_size=3))
def test_any_parquet_is_features_or_refused(tmp_path, data, size, names):
    ids = data.draw(st.lists(st.sampled_from(["x", "y", " x", "z", "", "1.0", None]), min_size=size, max_size=size))
    columns = [pl.Series("item", ids, dtype=pl.String)]
    for name in names:
        dtype, values = COLUMNS[name]
        columns.append(pl.Series(name, data.draw(st.lists(values, min_size=size, max_size=size)), dtype=dtype))
    pl.DataFrame(columns).write_parquet(tmp_path / "f.parquet")
    with contextlib.suppress(DataError):
        features, _ = read_features(tmp_path / "f.parquet", None, np.array(["x", "y"]))
        assert features.dtype == np.float32
        assert features.shape[0] == 2
        assert np.isfinite(features).all()
    with contextlib.suppress(DataError):
        texts, counts, _ = read_item_columns([tmp_path / "f.parquet"], names, np.array(["x", "y"]))
        assert all(len(values) == 2 and all(isinstance(text, str) for text in values) for values in texts.values())
        assert counts["absent"] == len({"x", "y"} - {(item or "").strip() for item in ids})
    os.unlink(tmp_path / "f.parquet")
