"""The reader of data folders: what it accepts, what it refuses and in which words, and nothing in between."""

import hashlib
import os
import pathlib
import pickle
import re
import tempfile
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from rearm_jax.data.dataset import all_in_train, group_by_user, load_dataset, make_dataset, summary
from rearm_jax.errors import DataError

MODALITIES = ("image", "text")


def example():
    """Files of a small valid folder: 4 users, 5 items; user 3 and item 4 have no train interaction."""
    return {
        "train": np.array([[0, 0], [1, 1], [0, 2], [2, 3]]),
        "valid": np.array([[0, 1], [1, 0], [3, 2]]),
        "test": np.array([[1, 2], [2, 4]]).T,
        "image_feat": np.arange(15, dtype=np.float32).reshape(5, 3) / 8,
        "text_feat": np.arange(10, dtype=np.float32).reshape(5, 2) / 4 - 1,
    }


def write(folder, **changes):
    folder.mkdir(exist_ok=True)
    for stem, array in (example() | changes).items():
        np.save(folder / f"{stem}.npy", array)
    return folder


def refused(folder, *words, modalities=MODALITIES, num_users=0):
    """Asserts that the folder is refused with a message that holds all the words; returns the message."""
    with pytest.raises(DataError) as caught:
        load_dataset(folder, modalities, num_users)
    message = str(caught.value)
    for word in words:
        assert str(word) in message, message
    return message


# What is read


def test_reads_the_folder(tmp_path):
    dataset = load_dataset(write(tmp_path), MODALITIES)
    assert (dataset.num_users, dataset.num_items) == (4, 5)
    np.testing.assert_array_equal(dataset.train, [[0, 0], [0, 2], [1, 1], [2, 3]])
    np.testing.assert_array_equal(dataset.valid, [[0, 1], [1, 0], [3, 2]])
    np.testing.assert_array_equal(dataset.test, [[1, 2], [2, 4]])
    for pairs in (dataset.train, dataset.valid, dataset.test):
        assert pairs.dtype == np.int32
        assert not pairs.flags.writeable
    assert tuple(dataset.features) == MODALITIES
    for modality, table in dataset.features.items():
        assert table.dtype == np.float32
        assert not table.flags.writeable
        np.testing.assert_array_equal(table, example()[f"{modality}_feat"])


def test_modalities_come_in_the_order_asked_for(tmp_path):
    write(tmp_path)
    assert tuple(load_dataset(tmp_path, ("text", "image")).features) == ("text", "image")
    assert tuple(load_dataset(tmp_path, ["text"]).features) == ("text",)


def test_both_orientations_give_the_same_dataset(tmp_path):
    wide, tall = tmp_path / "wide", tmp_path / "tall"
    pairs = np.array([[0, 0], [1, 1], [0, 2], [2, 3]])
    for folder, train in ((wide, pairs.T), (tall, pairs)):
        folder.mkdir()
        write(folder, train=train)
    one, other = load_dataset(wide, MODALITIES), load_dataset(tall, MODALITIES)
    np.testing.assert_array_equal(one.train, other.train)
    assert one.content_hash == other.content_hash


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("num_pairs", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_lies_as_the_others_do(tmp_path, split, num_pairs, by_row):
    pairs = {
        "train": np.array([[0, 0], [1, 1], [0, 2], [2, 3]]),
        "valid": np.array([[0, 1], [1, 0], [3, 2]]),
        "test": np.array([[1, 2], [2, 4], [3, 4]]),
    }
    pairs[split] = pairs[split][1 : 1 + num_pairs]
    write(tmp_path, **{name: array if by_row else array.T for name, array in pairs.items()})
    np.testing.assert_array_equal(getattr(load_dataset(tmp_path, MODALITIES), split), sorted(pairs[split].tolist()))


def test_two_pairs_that_nothing_tells_apart_are_refused(tmp_path):
    two = {"train": [[0, 2], [1, 0]], "valid": [[0, 3], [1, 4]], "test": [[0, 4], [2, 3]]}
    words = ("(2, 2)", "the other splits do not tell", "MMRec")
    refused(write(tmp_path, **{split: np.array(rows) for split, rows in two.items()}), tmp_path / "train.npy", *words)
    with pytest.raises(DataError, match=r"train\.npy: the shape is \(2, 2\)"):
        make_dataset(*map(np.array, two.values()), {"image": example()["image_feat"]})
    # The others lie in two ways: neither tells.
    write(tmp_path, train=example()["train"].T, valid=np.array(two["valid"]), test=np.array([[1, 2]]))
    refused(tmp_path, tmp_path / "valid.npy", *words)
    # It does not matter where both ways give the same pairs, or where the folder is known to have rows of pairs.
    same = {"train": [[0, 2], [2, 0]], "valid": [[1, 0], [0, 3]], "test": [[0, 1], [1, 2]]}
    dataset = load_dataset(write(tmp_path, **{split: np.array(rows) for split, rows in same.items()}), MODALITIES)
    for split, rows in same.items():
        np.testing.assert_array_equal(getattr(dataset, split), sorted(rows))
    (tmp_path / "prepare.json").write_text("{}")
    dataset = load_dataset(write(tmp_path, **{split: np.array(rows) for split, rows in two.items()}), MODALITIES)
    for split, rows in two.items():
        np.testing.assert_array_equal(getattr(dataset, split), rows)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64, ">i4"])
def test_every_integer_type_of_ids(tmp_path, dtype):
    plain = load_dataset(write(tmp_path), MODALITIES)
    dataset = load_dataset(write(tmp_path, train=example()["train"].astype(dtype)), MODALITIES)
    assert dataset.content_hash == plain.content_hash


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f8"])
def test_every_float_type_of_features(tmp_path, dtype):
    plain = load_dataset(write(tmp_path), MODALITIES)
    table = example()["image_feat"].astype(dtype)
    dataset = load_dataset(write(tmp_path, image_feat=np.asfortranarray(table)), MODALITIES)
    assert dataset.features["image"].dtype == np.float32
    np.testing.assert_array_equal(dataset.features["image"], table.astype(np.float32))
    assert dataset.content_hash == plain.content_hash  # the values are exact in every type


def test_files_written_under_python_2(tmp_path):
    path = write(tmp_path) / "test.npy"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(2, 2), }  ", b"(2L, 2L), }"))
    assert path.read_bytes() != content
    np.testing.assert_array_equal(load_dataset(tmp_path, MODALITIES).test, [[1, 2], [2, 4]])


def test_features_longer_than_a_chunk_are_read_whole(tmp_path):
    table = np.random.default_rng(0).standard_normal((2500, 3))
    dataset = load_dataset(write(tmp_path, image_feat=table), ("image",))
    np.testing.assert_array_equal(dataset.features["image"], table.astype(np.float32))


def test_the_dataset_does_not_follow_later_changes_of_its_sources(tmp_path):
    arrays = example()
    features = {"image": arrays["image_feat"]}
    dataset = make_dataset(arrays["train"], arrays["valid"], arrays["test"], features)
    arrays["image_feat"][:] = 7
    arrays["train"][:] = 1
    assert dataset.features["image"][0, 0] == 0
    assert dataset.train[0, 0] == 0
    loaded = load_dataset(write(tmp_path), MODALITIES)
    before = loaded.features["image"].copy()
    table = np.load(tmp_path / "image_feat.npy", mmap_mode="r+")
    table[:] = 7
    table.flush()
    np.testing.assert_array_equal(loaded.features["image"], before)


def test_number_of_users(tmp_path):
    write(tmp_path)
    assert load_dataset(tmp_path, MODALITIES, 4).num_users == 4
    assert load_dataset(tmp_path, MODALITIES, 9).num_users == 9
    refused(tmp_path, "data.num_users", -1, num_users=-1)
    refused(tmp_path, "data.num_users", 2**31, num_users=2**31)


# What is legal although it looks odd


def test_odd_but_legal(tmp_path):
    changes = {
        "train": np.array([[0, 0], [0, 1], [0, 2], [0, 3], [2, 3]]).T,
        "valid": np.array([[0, 4], [3, 2]]).T,  # user 0 now has every item; user 3 is not in train
        "test": np.array([[1], [2]]),  # a single interaction, by a user who is not in train
        "image_feat": np.zeros((6, 3)),  # zero rows, and item 5 in no split
    }
    dataset = load_dataset(write(tmp_path, **changes, text_feat=np.ones((6, 1))), MODALITIES, 7)
    assert (dataset.num_users, dataset.num_items) == (7, 6)
    assert set(dataset.train[:, 0]) == {0, 2}
    table = summary(dataset, "strict")
    assert re.search(r"^users +7 +5 cold", table, re.MULTILINE)
    assert re.search(r"^items +6 +2 cold", table, re.MULTILINE)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_duplicates_inside_a_split_warn_and_one_is_kept(tmp_path, caplog, split):
    plain = load_dataset(write(tmp_path), MODALITIES)
    pairs = example()[split] if split != "test" else example()[split].T
    repeated = np.concatenate([pairs, pairs[[1, 0, 1]]])
    caplog.set_level("WARNING", "absl")
    dataset = load_dataset(write(tmp_path, **{split: repeated}), MODALITIES)
    assert dataset.content_hash == plain.content_hash
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(tmp_path / f"{split}.npy") in record.getMessage()
    assert re.search(r"\b3 duplicate", record.getMessage())


def test_no_warning_without_duplicates(tmp_path, caplog):
    caplog.set_level("WARNING", "absl")
    load_dataset(write(tmp_path), MODALITIES)
    assert not caplog.records


# What is refused: folder and files


def test_root_that_is_no_folder(tmp_path):
    refused("", "data.root", "empty")
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "data.root", "No such file")
    write(tmp_path)
    refused(tmp_path / "train.npy", tmp_path / "train.npy", "data.root")


@pytest.mark.parametrize("stem", ["train", "valid", "test", "image_feat", "text_feat"])
def test_missing_file(tmp_path, stem):
    write(tmp_path)
    (tmp_path / f"{stem}.npy").unlink()
    message = refused(tmp_path, tmp_path, f"{stem}.npy missing", "the folder holds")
    for other in example().keys() - {stem}:
        assert f"{other}.npy" in message


def test_missing_modality_names_those_that_are_there(tmp_path):
    refused(write(tmp_path), "audio_feat.npy missing", "image, text", modalities=("audio",))


@pytest.mark.parametrize("stem", ["train", "test", "image_feat"])
@pytest.mark.parametrize(
    "content", [b"", b"0 1\n2 3\n", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x76\x00{'descr':", b"PK\x03\x04 a zip archive"]
)
def test_not_an_npy_file(tmp_path, stem, content):
    write(tmp_path)
    (tmp_path / f"{stem}.npy").write_bytes(content)
    refused(tmp_path, tmp_path / f"{stem}.npy", "not a complete .npy file")


@pytest.mark.parametrize("stem", ["train", "image_feat"])
def test_truncated_file(tmp_path, stem):
    path = write(tmp_path) / f"{stem}.npy"
    path.write_bytes(path.read_bytes()[:-1])
    refused(tmp_path, path, "not a complete .npy file")


@pytest.mark.parametrize("stem", ["valid", "text_feat"])
def test_npz_and_folders_under_the_name_of_a_file(tmp_path, stem):
    path = write(tmp_path) / f"{stem}.npy"
    with path.open("wb") as file:
        np.savez(file, pairs=np.ones((2, 2)))
    refused(tmp_path, path, "not a complete .npy file")
    path.unlink()
    path.mkdir()
    refused(tmp_path, path, "not a complete .npy file")


class _RunsWhenUnpickled:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("stem", ["train", "image_feat"])
def test_pickles_are_refused_and_never_run(tmp_path, stem):
    path, proof = write(tmp_path) / f"{stem}.npy", tmp_path / "the pickle was run"
    np.save(path, np.array([[_RunsWhenUnpickled(proof)] * 2] * 2, dtype=object), allow_pickle=True)
    refused(tmp_path, path, "object")
    path.write_bytes(pickle.dumps(_RunsWhenUnpickled(proof)))
    refused(tmp_path, path)
    assert not proof.exists()
    np.load(path, allow_pickle=True)  # it would have run
    assert proof.exists()


# What is refused: splits


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (3, 5), (2, 2, 2)])
def test_wrong_shape_of_a_split(tmp_path, split, shape):
    refused(write(tmp_path, **{split: np.zeros(shape, int)}), tmp_path / f"{split}.npy", shape, "(2, n) or (n, 2)")


@pytest.mark.parametrize("shape", [(2, 0), (0, 2)])
def test_an_empty_train_split_is_refused(tmp_path, shape):
    refused(write(tmp_path, train=np.zeros(shape, int)), tmp_path / "train.npy", "empty", shape)


@pytest.mark.parametrize("splits", [("valid",), ("test",), ("valid", "test")])
@pytest.mark.parametrize("empty", [np.zeros((2, 0), int), np.zeros((0, 2))])
def test_other_splits_may_be_empty(tmp_path, splits, empty):
    whole = load_dataset(write(tmp_path / "whole"), MODALITIES)
    dataset = load_dataset(write(tmp_path / "part", **dict.fromkeys(splits, empty)), MODALITIES)
    for split in ("train", "valid", "test"):
        expected = np.zeros((0, 2)) if split in splits else getattr(whole, split)
        assert getattr(dataset, split).tolist() == expected.tolist()
        assert getattr(dataset, split).dtype == np.int32
    assert dataset.content_hash != whole.content_hash


def test_all_interactions_in_train(tmp_path):
    dataset = load_dataset(write(tmp_path), MODALITIES)
    everything = all_in_train(dataset)
    expected = sorted(dataset.train.tolist() + dataset.valid.tolist() + dataset.test.tolist())
    assert everything.train.tolist() == expected
    assert (len(everything.valid), len(everything.test)) == (0, 0)
    folder = write(tmp_path / "by_hand", train=np.array(expected), valid=np.zeros((0, 2)), test=np.zeros((0, 2)))
    assert everything.content_hash == load_dataset(folder, MODALITIES, dataset.num_users).content_hash


def test_ids_that_are_no_integers(tmp_path):
    path = tmp_path / "train.npy"
    fractions = np.array([[0, 0], [1, 1], [0, 2.5], [2, 3]])
    refused(write(tmp_path, train=fractions), path, "row 2", "item id 2.5", "float64")
    refused(write(tmp_path, train=fractions.T), path, "row 2", "item id 2.5", "float64")
    refused(write(tmp_path, train=np.array([[0, 0], [np.nan, 1], [1, 2]]).T), path, "row 1", "user id nan")
    whole = np.array([[3, 0], [1, 1], [0, 2]], np.float32)
    refused(write(tmp_path, train=whole), path, "row 0", "user id 3.0", "float32", "integer")
    for dtype in (bool, "U3", "S3", complex, "M8[s]", [("user", int), ("item", int)]):
        array = np.zeros((4, 2), dtype)
        refused(write(tmp_path, train=array), path, array.dtype, "integer")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_ids_out_of_range(tmp_path, split):
    path = tmp_path / f"{split}.npy"
    negative = np.array([[0, 0], [1, -2], [-1, 3]])
    refused(write(tmp_path, **{split: negative}), path, "row 1", "item id -2")
    refused(write(tmp_path, **{split: negative.T}), path, "row 1", "item id -2")
    large = np.array([[0, 0], [1, 0], [2**31 - 1, 1]])
    refused(write(tmp_path, **{split: large}), path, "row 2", f"user id {2**31 - 1}", 2**31 - 2)
    huge = large.astype(np.uint64) + np.uint64(2**63)
    refused(write(tmp_path, **{split: huge}), path, "row 0", f"user id {2**63}")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_item_id_beyond_the_feature_rows(tmp_path, split):
    pairs = np.array([[0, 4], [1, 5], [2, 6]])
    refused(
        write(tmp_path, **{split: pairs}), tmp_path / f"{split}.npy", "row 1", "item id 5", "image_feat.npy has 5 rows"
    )


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_user_id_beyond_the_declared_number(tmp_path, split):
    pairs = np.array([[0, 4], [5, 4], [6, 3]])
    write(tmp_path, **{split: pairs})
    refused(tmp_path, tmp_path / f"{split}.npy", "row 1", "user id 5", "data.num_users is 5", num_users=5)


@pytest.mark.parametrize(("one", "other"), [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_the_same_pair_in_two_splits(tmp_path, one, other):
    clean = {"train": [[9, 0], [9, 1]], "valid": [[8, 0], [8, 1]], "test": [[7, 0], [7, 1]]}
    clean[one] += [[6, 3], [2, 1]]
    clean[other] += [[2, 1], [5, 0], [6, 3]]
    write(tmp_path, **{split: np.array(pairs).T for split, pairs in clean.items()})
    message = refused(tmp_path, "user 6, item 3", "2 shared pairs")
    assert f"{tmp_path / one}.npy, row 2 and {tmp_path / other}.npy, row 4:" in message


# What is refused: features and settings


def test_wrong_features(tmp_path):
    path = tmp_path / "text_feat.npy"
    for shape in ((), (5,), (5, 2, 1), (5, 0), (0, 2)):
        refused(write(tmp_path, text_feat=np.zeros(shape)), path, shape)
    for dtype in (int, np.uint8, bool, complex, "U3", [("x", float)]):
        array = np.zeros((5, 2), dtype)
        refused(write(tmp_path, text_feat=array), path, array.dtype, "float")


@pytest.mark.parametrize("rows", [4, 6])
def test_modalities_of_different_lengths(tmp_path, rows):
    write(tmp_path, text_feat=np.zeros((rows, 2)))
    refused(tmp_path, "image_feat.npy has 5 rows", f"text_feat.npy has {rows}")


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (np.nan, np.float16, "not a finite"),
        (np.inf, np.float32, "not a finite"),
        (-np.inf, np.float64, "not a finite"),
        (1e39, np.float64, "too large for float32"),
        (-3.5e38, np.float64, "too large for float32"),
    ],
)
@pytest.mark.parametrize("row", [0, 1023, 1024, 2100])
def test_features_that_are_not_finite_float32(tmp_path, value, dtype, reason, row):
    table = np.zeros((2101, 3), dtype)
    table[row, 2] = table[2100, 2] = value
    write(tmp_path, image_feat=table)
    path = tmp_path / "image_feat.npy"
    refused(tmp_path, f"{path}, row {row}, column 2: {value}", reason, modalities=("image",))


def test_the_largest_float32_is_legal(tmp_path):
    table = np.full((5, 2), np.finfo(np.float32).max, np.float64)
    dataset = load_dataset(write(tmp_path, image_feat=table), ("image",))
    assert dataset.features["image"].max() == np.finfo(np.float32).max


@pytest.mark.parametrize(
    "modalities",
    [(), "image", ("image", "image"), ("../image",), ("im age",), ("image\n",), ("",), ("1st",), ("é",), (3,), (None,)],
)
def test_names_of_modalities(tmp_path, modalities):
    message = refused(write(tmp_path), modalities=modalities)
    assert message.startswith("data.modalities")  # refused for the name, before any file of that name is looked for


# Hashes


def test_hashes_are_sha256_and_ignore_the_order_of_rows(tmp_path):
    plain = load_dataset(write(tmp_path), MODALITIES)
    shuffled = load_dataset(
        write(tmp_path, train=example()["train"][::-1], valid=example()["valid"][[2, 0, 1]]), MODALITIES
    )
    for name in ("split_hash", "content_hash"):
        assert re.fullmatch(r"[0-9a-f]{64}", getattr(plain, name))
        assert getattr(plain, name) == getattr(shuffled, name)
    assert plain.split_hash != plain.content_hash


def test_split_hash_is_stable_over_versions(tmp_path):
    # Run folders and graph caches remember it, so that a change of the recipe must be a decision.
    train, valid, test = (np.array(pairs, "<i4") for pairs in ([[0, 1], [1, 0]], [[0, 0]], [[1, 1]]))
    digest = hashlib.sha256(b"2 3")
    for split, pairs in (("train", train), ("valid", valid), ("test", test)):
        digest.update(f" {split} <i4 ({len(pairs)}, 2) ".encode() + pairs.tobytes())
    dataset = make_dataset(train.T, valid, test, {"image": np.ones((3, 1), np.float32)})
    assert dataset.split_hash == digest.hexdigest()
    digest = hashlib.sha256(dataset.split_hash.encode() + b" image <f4 (3, 1) " + np.ones(3, "<f4").tobytes())
    assert dataset.content_hash == digest.hexdigest()


def test_any_change_of_content_changes_the_hashes(tmp_path):
    plain = load_dataset(write(tmp_path), MODALITIES)
    moved = example()["image_feat"]
    moved[3, 1] += 1e-6
    of_splits = [
        {"train": np.array([[0, 0], [1, 1], [0, 2], [2, 2]])},
        {"train": np.array([[0, 0], [1, 1], [0, 2]])},
        {"valid": example()["valid"][:2]},
        {"train": example()["valid"], "valid": example()["train"]},
        {"image_feat": np.zeros((6, 3)), "text_feat": np.zeros((6, 2))},
    ]
    of_features = [
        {"image_feat": moved},
        {"image_feat": example()["image_feat"][:, :2]},
        {"image_feat": example()["text_feat"], "text_feat": example()["image_feat"]},
    ]
    datasets = [load_dataset(write(tmp_path, **changes), MODALITIES) for changes in of_splits]
    datasets.append(load_dataset(write(tmp_path), MODALITIES, 5))
    assert len({dataset.split_hash for dataset in [plain, *datasets]}) == len(of_splits) + 2
    more = [load_dataset(write(tmp_path, **changes), MODALITIES) for changes in of_features]
    write(tmp_path, audio_feat=example()["text_feat"])
    more += [load_dataset(tmp_path, names) for names in (("text", "image"), ("image",), ("image", "audio"))]
    assert {dataset.split_hash for dataset in more} == {plain.split_hash}
    assert len({dataset.content_hash for dataset in [plain, *datasets, *more]}) == len(datasets) + len(more) + 1


# What others read from a dataset


def test_group_by_user_is_scipys_csr():
    rng = np.random.default_rng(0)
    dense = rng.random((30, 20)) < 0.2
    dense[[0, 7, 29]] = False
    dense[5] = True
    pairs = rng.permutation(np.argwhere(dense)).astype(np.int32)
    indptr, items = group_by_user(pairs, 30)
    expected = sparse.csr_array(dense)
    expected.sort_indices()
    assert indptr.dtype == items.dtype == np.int32
    np.testing.assert_array_equal(indptr, expected.indptr)
    np.testing.assert_array_equal(items, expected.indices)
    indptr, items = group_by_user(np.zeros((0, 2), np.int32), 3)
    np.testing.assert_array_equal(indptr, [0, 0, 0, 0])
    assert items.shape == (0,)


def test_summary(tmp_path):
    dataset = load_dataset(write(tmp_path), MODALITIES)
    expected = f"""\
users                  4  1 cold (no train interaction)
items                  5  1 cold (no train interaction)
train                  4  interactions
valid                  3  interactions
test                   2  interactions
density         45.0000%  of all user-item pairs, all splits
image                  3  features per item
text                   2  features per item
protocol       reference
split hash  {dataset.split_hash[:12]}"""
    table = summary(dataset, "reference")
    assert [line.split() for line in table.splitlines()] == [line.split() for line in expected.splitlines()]
    ends = {re.match(r"\w+(?: hash)? +\S+", line).end() for line in table.splitlines()}
    assert len(ends) == 1  # the values are aligned at their right edge


@pytest.mark.skipif("REARM_DATA" not in os.environ, reason="REARM_DATA names no folder with real data")
def test_tiktok():
    dataset = load_dataset(pathlib.Path(os.environ["REARM_DATA"], "tiktok"), ("image", "audio"))
    assert (dataset.num_users, dataset.num_items) == (9308, 6710)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (59541, 3051, 6130)
    assert {name: table.shape for name, table in dataset.features.items()} == {
        "image": (6710, 128),
        "audio": (6710, 128),
    }
    assert len(set(range(9308)) - set(dataset.train[:, 0].tolist())) == 10
    assert len(set(range(6710)) - set(dataset.train[:, 1].tolist())) == 465
    table = summary(dataset, "strict")
    for words in ("9,308  10 cold", "6,710  465 cold", "59,541", "3,051", "6,130"):
        assert words in table


# Fuzzing: a valid dataset or a DataError, never anything else


def check_reader(folder, num_users=0):
    """Loads; asserts that a DataError or a dataset that keeps every promise comes out, and no warning of numpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            dataset = load_dataset(folder, MODALITIES, num_users)
        except DataError:
            return None
    seen = set()
    for pairs in (dataset.train, dataset.valid, dataset.test):
        assert pairs.dtype == np.int32
        rows = [tuple(row) for row in pairs.tolist()]
        assert rows == sorted(set(rows))
        assert rows or pairs is not dataset.train
        assert not seen & set(rows)
        seen |= set(rows)
    assert all(0 <= user < dataset.num_users and 0 <= item < dataset.num_items for user, item in seen)
    for table in dataset.features.values():
        assert table.dtype == np.float32
        assert table.flags.c_contiguous
        assert table.shape[0] == dataset.num_items
        assert np.isfinite(table).all()
    return dataset


fuzz = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
any_array = hnp.arrays(
    dtype=st.one_of(
        hnp.integer_dtypes(),
        hnp.unsigned_integer_dtypes(),
        hnp.floating_dtypes(),
        hnp.scalar_dtypes(),
        hnp.array_dtypes(),
    ),
    shape=st.one_of(
        st.tuples(st.just(2), st.integers(0, 4)),
        st.tuples(st.integers(0, 6), st.integers(0, 3)),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    ),
)
near_valid_pairs = st.one_of(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.just(2)), elements=st.integers(0, 4)),
    hnp.arrays(np.int16, st.tuples(st.just(2), st.integers(1, 3)), elements=st.integers(-1, 6)),
)


@fuzz
@given(
    arrays=st.dictionaries(st.sampled_from(sorted(example())), any_array, min_size=1, max_size=5),
    num_users=st.integers(-1, 10),
)
def test_fuzz_any_array(arrays, num_users):
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy.save warns of odd field names
            write(pathlib.Path(folder), **arrays)
        check_reader(folder, num_users)


@fuzz
@given(
    splits=st.fixed_dictionaries(dict.fromkeys(("train", "valid", "test"), near_valid_pairs)),
    table=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]), (5, 2), elements=st.floats(-9, 9, width=16)
    ),
)
def test_fuzz_nearly_valid_splits(splits, table):
    with tempfile.TemporaryDirectory() as folder:
        dataset = check_reader(write(pathlib.Path(folder), **splits, image_feat=table))
    if dataset is not None:
        others = [array for array in splits.values() if array.shape != (2, 2)]
        for split, array in splits.items():
            as_column = array.shape[1] != 2 or (array.shape == (2, 2) and all(a.shape[0] == 2 for a in others))
            pairs = array.T if as_column else array
            assert {tuple(row) for row in pairs.tolist()} == {tuple(row) for row in getattr(dataset, split).tolist()}


@fuzz
@given(stem=st.sampled_from(sorted(example())), data=st.data())
def test_fuzz_bytes(stem, data):
    with tempfile.TemporaryDirectory() as name:
        path = write(pathlib.Path(name)) / f"{stem}.npy"
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):  # random bytes, or a few wrong ones (mostly in the header) in a valid file
            content = data.draw(st.binary(max_size=200)).join([b"", data.draw(st.sampled_from([b"", content[:10]]))])
        else:
            for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
                content[position] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        check_reader(path.parent)


@pytest.mark.parametrize(
    "shape",
    ["(2, 99999999999)", "(9223372036854775807, 2)", "(-1, -2)", "(8589934592, 2147483648)", "(2, 3L)", "(2, 'a')"],
)
@pytest.mark.parametrize("dtype", ["<i8", "<f4", "|V0", "<U0", "|O", "(0,)<i8"])
def test_headers_that_lie(tmp_path, shape, dtype):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    for stem in ("train", "image_feat"):
        path = write(tmp_path) / f"{stem}.npy"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(48))
        check_reader(tmp_path)
