"""The layouts of data folders: the same data in each gives the same dataset; ids come back; mistakes are named."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearm_jax.data.dataset import load_dataset, make_dataset
from rearm_jax.errors import DataError
from tests.test_dataset import MODALITIES, example, refused, write

SPLITS = ("train", "valid", "test")
USERS = ["ann", "bob", "cem", "dóra"]  # in the order in which the splits of the example name them
ITEMS = ["B00", "01", "1", "i 3", "x"]


def pairs(split):
    array = example()[split]
    return (array.T if split == "test" else array).tolist()


def write_text(folder, name, *rows):
    (folder / name).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def write_features(folder):
    for stem in ("image_feat", "text_feat"):
        np.save(folder / f"{stem}.npy", example()[stem])


def write_mmrec(folder, *more_rows, columns=("userID", "itemID", "rating", "timestamp", "x_label")):
    rows = [(user, item, 5.0, 1370000, label) for label, split in enumerate(SPLITS) for user, item in pairs(split)]
    write_text(folder, "tiny.inter", columns, *sorted(rows), *more_rows)
    write_features(folder)
    return folder


def write_recbole(folder, **more_rows):
    """Benchmark files, with features in an .item file."""
    for split in SPLITS:
        rows = [(USERS[user], 5.0, ITEMS[item]) for user, item in pairs(split)]
        write_text(
            folder,
            f"tiny.{split}.inter",
            ("user_id:token", "rating:float", "item_id:token"),
            *rows,
            *more_rows.get(split, ()),
        )
    features = [[" ".join(map(str, row)) for row in example()[f"{name}_feat"].tolist()] for name in MODALITIES]
    header = ("image:float_seq", "item_id:token", "title:token_seq", "text:float_seq")
    rows = [
        (image, item, 'A title, "quoted', text)
        for image, item, text in zip(features[0], ITEMS, features[1], strict=True)
    ]
    write_text(folder, "tiny.item", header, *rows)
    return folder


# What is read


@pytest.fixture
def original(tmp_path):
    (tmp_path / "original").mkdir()
    return load_dataset(write(tmp_path / "original"), MODALITIES)


@pytest.mark.parametrize("layout", [write_mmrec, write_recbole])
def test_the_same_data_in_every_layout(tmp_path, original, layout):
    dataset = load_dataset(layout(tmp_path), MODALITIES)
    assert dataset.content_hash == original.content_hash
    assert load_dataset(tmp_path, ("text",)).features.keys() == {"text"}


def test_mmrec_columns_in_any_order_and_other_line_ends(tmp_path, original):
    rows = [(label, item, "-", user) for label, split in enumerate(SPLITS) for user, item in pairs(split)]
    write_text(tmp_path, "other.inter", ("x_label", "itemID", "anything", "userID"), *rows, ())
    path = tmp_path / "other.inter"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    write_features(tmp_path)
    assert load_dataset(tmp_path, MODALITIES).content_hash == original.content_hash


def test_mmrec_without_other_files_has_numbers_for_ids(tmp_path):
    assert load_dataset(write_mmrec(tmp_path), MODALITIES, 9).num_users == 9
    labels = load_dataset(write_mmrec(tmp_path), MODALITIES).labels
    assert (labels.user_ids.tolist(), labels.item_ids.tolist()) == ([0, 1, 2, 3], [0, 1, 2, 3, 4])


def test_mmrec_mappings_give_the_original_ids(tmp_path):
    write_mmrec(tmp_path)
    write_text(tmp_path, "u_id_mapping.csv", ("user_id", "userID"), *[(USERS[n], n) for n in (2, 0, 3, 1)])
    write_text(tmp_path, "i_id_mapping.csv", ("itemID", "asin"), *enumerate(ITEMS))
    labels = load_dataset(tmp_path, MODALITIES).labels
    assert (labels.user_ids.tolist(), labels.item_ids.tolist()) == (USERS, ITEMS)
    np.save(tmp_path / "item_ids.npy", np.arange(10, 15))  # the project's own file goes before
    assert load_dataset(tmp_path, MODALITIES).labels.item_ids.tolist() == [10, 11, 12, 13, 14]


def test_recbole_keeps_the_tokens(tmp_path):
    labels = load_dataset(write_recbole(tmp_path), MODALITIES).labels
    assert (labels.user_ids.tolist(), labels.item_ids.tolist()) == (USERS, ITEMS)


def test_recbole_users_are_numbered_as_train_then_valid_then_test_name_them(tmp_path):
    write_recbole(tmp_path, train=[("zoe", 1, "x")], valid=[("adam", 1, "x")], test=[("zoe", 1, "B00")])
    dataset = load_dataset(tmp_path, MODALITIES)
    assert dataset.labels.user_ids.tolist() == ["ann", "bob", "cem", "zoe", "dóra", "adam"]
    assert [3, 4] in dataset.train.tolist()
    assert [5, 4] in dataset.valid.tolist()
    assert [3, 0] in dataset.test.tolist()


def test_recbole_with_arrays_of_features_and_ids(tmp_path, original):
    write_recbole(tmp_path)
    (tmp_path / "tiny.item").unlink()
    write_features(tmp_path)
    np.save(tmp_path / "item_ids.npy", np.array(ITEMS))
    assert load_dataset(tmp_path, MODALITIES).content_hash == original.content_hash
    np.save(tmp_path / "item_ids.npy", np.array(ITEMS[::-1]))
    np.save(tmp_path / "user_ids.npy", np.array(["nobody", *USERS]))
    dataset = load_dataset(tmp_path, MODALITIES)
    assert dataset.num_users == 5
    np.testing.assert_array_equal(dataset.features["text"], example()["text_feat"])  # row i is item i of item_ids.npy
    expected = sorted([1 + user, 4 - item] for user, item in pairs("train"))
    assert dataset.train.tolist() == expected


def test_recbole_tokens_are_numbers_in_an_integer_file(tmp_path):
    write_recbole(tmp_path)
    for split in SPLITS:
        path = tmp_path / f"tiny.{split}.inter"
        text = path.read_text()
        for number, item in enumerate(ITEMS):
            text = text.replace(f"\t{item}\n", f"\t{100 + number}\n")
        path.write_text(text)
    write_features(tmp_path)
    np.save(tmp_path / "item_ids.npy", np.arange(100, 105))
    labels = load_dataset(tmp_path, MODALITIES).labels
    assert labels.item_ids.tolist() == [100, 101, 102, 103, 104]


def test_recbole_whole_file_beside_its_splits_is_left_alone(tmp_path, original, caplog):
    write_recbole(tmp_path)
    write_text(tmp_path, "tiny.inter", ("user_id:token", "item_id:token"), ("eve", "?"))
    caplog.set_level("INFO", "absl")
    assert load_dataset(tmp_path, MODALITIES).content_hash == original.content_hash
    assert "tiny.inter is not read" in caplog.text


IDS = st.tuples(st.integers(0, 6), st.integers(0, 4))


@settings(max_examples=60, deadline=None)
@given(st.sets(IDS, min_size=3), st.data())
def test_any_interactions_in_any_order_of_rows(interactions, data):
    shuffled = data.draw(st.permutations(sorted(interactions)))
    labels = [0, 1, 2, *data.draw(st.lists(st.integers(0, 2), min_size=len(shuffled) - 3, max_size=len(shuffled) - 3))]
    splits = [[pair for pair, of in zip(shuffled, labels, strict=True) if of == label] for label in range(3)]
    features = {"image": np.arange(15, dtype=np.float32).reshape(5, 3)}
    repeated = [[*split, split[0], split[0]] for split in splits]  # arrays of two pairs do not tell how they lie
    expected = make_dataset(*(np.array(split).T for split in repeated), features)
    rows = data.draw(st.permutations([(*pair, label) for pair, label in zip(shuffled, labels, strict=True)]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder, "a.inter", ("userID", "itemID", "x_label"), *rows)
        np.save(folder / "image_feat.npy", features["image"])
        assert load_dataset(folder, ("image",)).content_hash == expected.content_hash
        (folder / "a.inter").unlink()
        np.save(folder / "item_ids.npy", np.arange(5) + 7)
        for split, of in zip(SPLITS, splits, strict=True):
            rows = [(f"u{user}", 7 + item) for user, item in of]
            write_text(folder, f"b.{split}.inter", ("user_id:token", "item_id:token"), *rows)
        dataset = load_dataset(folder, ("image",))
    for split, of in zip(SPLITS, splits, strict=True):
        found = [(f"{dataset.labels.user_ids[user]}", item) for user, item in getattr(dataset, split)]
        assert sorted(found) == sorted((f"u{user}", item) for user, item in of)


# What is refused


def test_no_layout_and_two_layouts(tmp_path):
    (tmp_path / "notes.txt").touch()
    refused(tmp_path, tmp_path, "no data set", "train.npy", ".inter", "notes.txt", "data.root")
    write_mmrec(tmp_path)
    np.save(tmp_path / "valid.npy", example()["valid"])
    refused(tmp_path, "two data sets", "valid.npy (the original's layout)", "tiny.inter (MMRec's layout)")
    (tmp_path / "valid.npy").unlink()
    write_recbole(tmp_path)
    refused(tmp_path, "two data sets", "MMRec's", "tiny.train.inter, tiny.valid.inter (RecBole's layout)")
    (tmp_path / "tiny.inter").unlink()
    write_text(tmp_path, "other.inter", ("user_id:token", "item_id:token"))
    refused(tmp_path, "keep one", "not other.inter")


def test_two_files_of_mmrec(tmp_path):
    write_text(write_mmrec(tmp_path), "second.inter", ("userID", "itemID", "x_label"))
    refused(tmp_path, "second.inter, tiny.inter", "keep one")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0, 1, 5.0, 3, 3), ["x_label is 3", "0 is train, 1 validation, 2 test"]),
        (("x" * 100, 1, 5.0, 3, 0), ["userID is 'xxx", "...'", "integer"]),
        ((0, -1, 5.0, 3, 0), ["itemID is '-1'", "integer"]),
        ((0, "1.0", 5.0, 3, 0), ["itemID is '1.0'"]),
        ((0, "²", 5.0, 3, 0), ["itemID is '²'"]),
        ((0, "", 5.0, 3, 0), ["itemID is ''"]),
        ((0, 1, 5.0, 0), ["4 fields", "5"]),
        ((0, 5, 5.0, 3, 0), ["item id 5", "image_feat.npy has 5 rows"]),
        ((2**31 - 1, 0, 5.0, 3, 0), [f"user id {2**31 - 1}"]),
    ],
)
def test_wrong_rows_of_mmrec(tmp_path, row, words):
    refused(write_mmrec(tmp_path, row), tmp_path / "tiny.inter", "line 11", *words)


def test_a_leak_in_mmrec_names_both_lines(tmp_path):
    write_mmrec(tmp_path, (0, 4, 5.0, 3, 0), (0, 4, 5.0, 3, 2))
    path = tmp_path / "tiny.inter"
    refused(tmp_path, f"{path} (x_label 0: train), line 11", f"{path} (x_label 2: test), line 12", "user 0, item 4")


@pytest.mark.parametrize("column", ["userID", "itemID", "x_label"])
def test_missing_or_repeated_columns(tmp_path, column):
    names = ["userID", "itemID", "rating", "timestamp", "x_label"]
    renamed = ["?" if name == column else name for name in names]
    refused(write_mmrec(tmp_path, columns=renamed), tmp_path / "tiny.inter", f"the column {column} once")
    repeated = [column if name == "rating" else name for name in names]
    refused(write_mmrec(tmp_path, columns=repeated), tmp_path / "tiny.inter", f"the column {column} once")


def test_missing_features_and_splits_of_mmrec(tmp_path):
    write_mmrec(tmp_path)
    refused(tmp_path, "audio_feat.npy missing", "image, text", modalities=("audio",))
    write_text(tmp_path, "tiny.inter", ("userID", "itemID", "x_label"), (0, 0, 1), (0, 1, 2))
    refused(tmp_path, "x_label 0: train", "empty")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("asin", "itemID", "title")], ["the columns are", "itemID"]),
        ([("asin,itemID",)], ["itemID", "tab"]),
        ([("asin", "itemID"), ("a", "0"), ("b", "x")], ["line 3", "itemID is 'x'"]),
        ([("asin", "itemID"), ("a", "0"), ("b", "0")], ["line 3", "itemID 0 is there already"]),
        ([("asin", "itemID"), ("a", "0"), ("b", "2")], ["itemID 1 is missing"]),
        ([("asin", "itemID"), ("a", "0"), ("", "1")], ["line 3", "asin has 0 characters"]),
        ([("asin", "itemID"), ("a", "0"), ("a", "1")], ["rows 0 and 1", "'a'", "unique"]),
        ([("asin", "itemID"), ("a", "0"), ("b", "1")], ["(2,)", "(5,)", "5 items"]),
        ([("asin", "itemID"), ("a", "0"), ("b" * 1001, "1")], ["line 3", "1001 characters"]),
    ],
)
def test_wrong_mappings(tmp_path, rows, words):
    write_text(write_mmrec(tmp_path), "i_id_mapping.csv", *rows)
    if "unique" in words:
        write_text(tmp_path, "i_id_mapping.csv", *rows, *[(name, n) for n, name in enumerate("cde", start=2)])
    refused(tmp_path, tmp_path / "i_id_mapping.csv", *words)


def test_unsplit_recbole_says_how_to_split(tmp_path):
    write_text(tmp_path, "ml.inter", ("user_id:token", "item_id:token", "rating:float"), ("a", "b", 3))
    refused(tmp_path, "not split", f"python -m rearm_jax.data.prepare --interactions {tmp_path / 'ml.inter'} --out")


def test_missing_files_of_recbole(tmp_path):
    write_recbole(tmp_path)
    (tmp_path / "tiny.valid.inter").unlink()
    refused(tmp_path, "tiny.valid.inter missing")
    write_recbole(tmp_path)
    refused(tmp_path, tmp_path / "tiny.item", "the column audio:float_seq once", modalities=("audio",))
    (tmp_path / "tiny.item").unlink()
    refused(tmp_path, "item_ids.npy", "tiny.item", "image:float_seq")
    np.save(tmp_path / "item_ids.npy", np.array(ITEMS))
    refused(tmp_path, "image_feat.npy, text_feat.npy missing")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("eve", 1, "unknown"), ["item_id 'unknown' is not in", "tiny.item"]),
        (("", 1, "x"), ["user_id has 0 characters"]),
        (("e" * 1001, 1, "x"), ["user_id has 1001 characters"]),
        (("eve", "x"), ["2 fields", "3"]),
    ],
)
def test_wrong_rows_of_recbole(tmp_path, row, words):
    refused(write_recbole(tmp_path, valid=[row]), tmp_path / "tiny.valid.inter", "line 5", *words)


def test_users_that_user_ids_lacks(tmp_path):
    write_recbole(tmp_path)
    np.save(tmp_path / "user_ids.npy", np.array(USERS[:3]))
    refused(tmp_path, "tiny.valid.inter, line 4", "user_id 'dóra' is not in", tmp_path / "user_ids.npy")


def test_more_users_than_declared(tmp_path):
    refused(write_recbole(tmp_path), "user_id column", "(4,)", "(7,)", num_users=7)
    refused(tmp_path, "tiny.train.inter, line 5", "user id 2", "data.num_users is 2", num_users=2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("1 2 3", "B00", "t", "1 2"), ["item_id 'B00' is on line 2 already"]),
        (("1 2", "new", "t", "1 2"), ["image has 2 numbers, and 3 before"]),
        (("1 2 x", "new", "t", "1 2"), ["image is not numbers"]),
        (("", "new", "t", "1 2"), ["image is not numbers"]),
        (("1 2 nan", "new", "t", "1 2"), ["column 2", "nan", "not a finite number"]),
        (("1 2 1e60", "new", "t", "1 2"), ["column 2", "too large for float32"]),
        (("1 2 3", "", "t", "1 2"), ["item_id has 0 characters"]),
    ],
)
def test_wrong_items_of_recbole(tmp_path, row, words):
    write_recbole(tmp_path)
    with (tmp_path / "tiny.item").open("a") as file:
        file.write("\n" + "\t".join(row) + "\n")  # the empty line counts as a line, not as an item
    refused(tmp_path, tmp_path / "tiny.item", "line 8", *words)


def test_no_items(tmp_path):
    write_recbole(tmp_path)
    write_text(tmp_path, "tiny.item", ("item_id:token", "image:float_seq", "text:float_seq"))
    refused(tmp_path, tmp_path / "tiny.item", "no item")


@pytest.mark.parametrize("name", ["tiny.inter", "u_id_mapping.csv"])
@pytest.mark.parametrize("content", [b"userID\xff\titemID\tx_label\n", b"userID\titemID\tx_label\n0\t0\t0\n\xff"])
def test_files_that_are_no_text(tmp_path, name, content):
    (write_mmrec(tmp_path) / name).write_bytes(content)
    refused(tmp_path, tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    refused(tmp_path, tmp_path / name, "cannot be read", "Is a directory")


FUZZED = {
    write_mmrec: ("tiny.inter", "u_id_mapping.csv", "i_id_mapping.csv", "image_feat.npy", "item_ids.npy"),
    write_recbole: (*(f"tiny.{split}.inter" for split in SPLITS), "tiny.item", "tiny.inter", "user_ids.npy"),
}
PIECES = st.sampled_from(
    ["\t", "\n", "\r", " ", "0", "1", "7", "-", "nan", "1e999", "userID", "item_id:token", "x", "é"]
)
TEXTS = (
    st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join).map(lambda text: text.encode("utf-8", "replace"))
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(FUZZED)), st.data())
def test_any_bytes_are_refused_or_read(layout, data):
    """Whatever a file holds: a DataError that names the folder, or a dataset that is what its attributes promise."""
    with tempfile.TemporaryDirectory() as name:
        folder = layout(Path(name))
        if layout is write_mmrec and data.draw(st.booleans()):
            write_text(folder, "i_id_mapping.csv", ("asin", "itemID"), *zip(ITEMS, range(5), strict=True))
        path = folder / data.draw(st.sampled_from(FUZZED[layout]))
        content = path.read_bytes() if path.exists() else b""
        for _ in range(data.draw(st.integers(0, 3))):
            start = data.draw(st.integers(0, len(content)))
            end = data.draw(st.integers(start, min(len(content), start + 20)))
            content = content[:start] + data.draw(TEXTS | st.binary(max_size=6)) + content[end:]
        path.write_bytes(content)
        try:
            dataset, refusal = load_dataset(folder, MODALITIES), ""
        except DataError as error:
            refusal = str(error)
    if refusal:
        assert name in refusal or "tiny.*.inter" in refusal
        return
    for split in SPLITS:
        found = getattr(dataset, split)
        assert len(found)
        assert found.min() >= 0
        assert found[:, 0].max() < dataset.num_users == len(dataset.labels.user_ids)
        assert found[:, 1].max() < dataset.num_items == len(dataset.labels.item_ids)
    assert all(np.isfinite(table).all() and len(table) == dataset.num_items for table in dataset.features.values())
