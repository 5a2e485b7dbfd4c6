"""Names of users and items: what the files may hold, and what is said about those that are wrong."""

import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rearm_jax.data.dataset import load_dataset, make_dataset
from rearm_jax.data.labels import make_labels, read_labels
from rearm_jax.errors import DataError
from tests.test_dataset import MODALITIES, refused, write

USERS, ITEMS = ["ann", "bob", "cem", "dóra"], ["i0", "i1", "i2", "i3", "i4"]  # of the example: 4 users, 5 items


def test_without_files_users_and_items_are_called_by_their_numbers(tmp_path):
    labels = load_dataset(write(tmp_path), MODALITIES).labels
    assert labels.user_ids.tolist() == [0, 1, 2, 3]
    assert labels.item_ids.tolist() == labels.item_names.tolist() == [0, 1, 2, 3, 4]


def test_files_name_the_rows(tmp_path):
    names = ["Same", "Same", "", "日本", "x\ty"]
    write(tmp_path, user_ids=np.array(USERS), item_ids=np.array([50, 40, 30, 20, 10], np.int16))
    labels = load_dataset(tmp_path, MODALITIES).labels
    assert labels.user_ids.tolist() == USERS
    assert labels.item_ids.tolist() == labels.item_names.tolist() == [50, 40, 30, 20, 10]
    write(tmp_path, item_names=np.array(names))
    labels = load_dataset(tmp_path, MODALITIES).labels
    assert labels.item_names.tolist() == names
    assert not any(array.flags.writeable for array in (labels.user_ids, labels.item_ids, labels.item_names))


def test_labels_do_not_enter_the_hashes(tmp_path):
    plain = load_dataset(write(tmp_path), MODALITIES)
    named = load_dataset(write(tmp_path, user_ids=np.array(USERS)), MODALITIES)
    assert named.content_hash == plain.content_hash


def test_labels_do_not_follow_later_changes():
    ids = np.array(USERS)
    labels = make_labels({"user_ids": ids}, 4, 5)
    ids[0] = "eve"
    assert labels.user_ids.tolist() == USERS


def test_user_ids_set_the_number_of_users(tmp_path):
    path = tmp_path / "user_ids.npy"
    write(tmp_path, user_ids=np.array([*USERS, "eve"]))
    assert load_dataset(tmp_path, MODALITIES).num_users == 5
    write(tmp_path, user_ids=np.array(USERS[:3]))
    message = refused(tmp_path, "valid.npy, row 2", "user id 3", f"{path} names 3 users", "from 0 to 2")
    assert "data.num_users" not in message
    message = refused(tmp_path, "train.npy, row 3", "user id 2", "data.num_users is 2", num_users=2)
    assert "user_ids.npy" not in message
    write(tmp_path, user_ids=np.array(USERS))
    refused(tmp_path, path, "(4,)", "(9,)", "9 users", num_users=9)


def test_make_dataset_takes_labels():
    pairs = [np.array([[user], [0]]) for user in (0, 1, 2)]
    features = {"image": np.ones((2, 1), np.float32)}
    dataset = make_dataset(*pairs, features, labels={"user_ids": np.array(USERS), "item_names": np.array(["a", "a"])})
    assert dataset.num_users == 4
    assert dataset.labels.item_ids.tolist() == [0, 1]
    assert dataset.labels.item_names.tolist() == ["a", "a"]
    with pytest.raises(DataError, match=r"item_ids\.npy: the shape is \(3,\), and must be \(2,\).*2 items"):
        make_dataset(*pairs, features, labels={"item_ids": np.arange(3)})


@pytest.mark.parametrize("stem", ["user_ids", "item_ids", "item_names"])
def test_wrong_labels(tmp_path, stem):
    path = tmp_path / f"{stem}.npy"
    size = 4 if stem == "user_ids" else 5
    for dtype in (float, bool, "S3", complex, "M8[s]", [("id", int)]):
        array = np.zeros(size, dtype)
        refused(write(tmp_path, **{stem: array}), path, array.dtype, "text")
    for shape in ((size, 1), (), (1, size)):
        refused(write(tmp_path, **{stem: np.zeros(shape, int)}), path)
    if stem != "user_ids":
        refused(write(tmp_path, **{stem: np.arange(6)}), path, "(6,)", "(5,)", "5 items")
    path.write_bytes(b"no array")
    refused(tmp_path, path, "not a complete .npy file")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    refused(tmp_path, path, "No such file")


@pytest.mark.parametrize("stem", ["user_ids", "item_ids"])
def test_ids_are_unique(tmp_path, stem):
    values = ["b", "c", "a", "c", "d"][: 4 if stem == "user_ids" else 5]
    refused(write(tmp_path, **{stem: np.array(values)}), tmp_path / f"{stem}.npy", "rows 1 and 3", "'c'", "unique")


@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF, 0xD800, 0xDFFF])
@pytest.mark.parametrize("order", "<>")
def test_text_that_is_no_unicode_is_refused(tmp_path, code, order):
    """numpy keeps any 32 bits as a character; str() or print would fail on them at the end of a long run."""
    names = np.array(["aa", "bb", "cc", "dd", "ee"], f"{order}U2")
    names.view(f"{order}u4")[5] = code
    refused(write(tmp_path, item_names=names), tmp_path / "item_names.npy", "row 2", "character 1", f"{code:#x}")


def test_pickles_are_refused_and_never_run(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "item_names.npy", np.array(["a", 1, None, 2, 3], object), allow_pickle=True)
    refused(tmp_path, "item_names.npy", "object")
    (tmp_path / "item_names.npy").write_bytes(pickle.dumps([1, 2]))
    refused(tmp_path, "item_names.npy", "not a complete .npy file")


LABEL_ARRAYS = st.one_of(
    hnp.arrays(hnp.array_dtypes() | hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=2, max_side=5)),
    st.builds(np.array, st.lists(st.text(max_size=3), max_size=6), dtype=st.sampled_from(["<U3", ">U3"])),
    st.builds(np.zeros, st.integers(0, 6), dtype=st.just("<U0")),
    hnp.arrays(np.uint32, st.sampled_from([4, 5, 10])).map(lambda codes: codes.view("<U1")),
    hnp.arrays(st.sampled_from([np.int64, np.uint64, ">i2"]), st.sampled_from([4, 5]), unique=True),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["user_ids", "item_ids", "item_names"]), LABEL_ARRAYS, st.data())
def test_any_file_is_refused_or_gives_labels_that_can_be_printed(stem, array, data):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy.save warns of odd field names
        path = Path(folder) / f"{stem}.npy"
        np.save(path, array)
        if data.draw(st.booleans()):
            content = bytearray(path.read_bytes())
            for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
                content[position] = data.draw(st.integers(0, 255))
            path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            labels = make_labels(read_labels(folder), 4, 5, {stem: str(path)})
            refusal = None
        except DataError as error:
            refusal = str(error)
    if refusal is not None:
        assert f"{stem}.npy" in refusal
        return
    assert [len(labels.user_ids), len(labels.item_ids), len(labels.item_names)] == [4, 5, 5]
    for values in (labels.user_ids, labels.item_ids):
        assert len(set(values.tolist())) == len(values)
    for value in getattr(labels, stem).tolist():
        assert isinstance(value, (str, int))
        str(value).encode()
