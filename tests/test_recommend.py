"""Lists against sorting in numpy; ids, exclusions, unknown users, the three formats, and what is refused."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.experiment import build_experiment
from rearm_jax.inference.recommend import recommend
from rearm_jax.inference.recommend_files import check_output, parse_users, read_items_or_pairs, recommend_run
from rearm_jax.inference.seen import find_seen
from rearm_jax.inference.trained import load_trained
from rearm_jax.training.loop import train
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS = 61, 40
NEWCOMER, SATED = 60, 59  # a user without train interactions, and one with 35 of the 40 items


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on a folder with text ids for users, integers for items, and names with commas, quotes and umlauts."""
    folder = tmp_path_factory.mktemp("recommend")
    data = make_synthetic(60, NUM_ITEMS, 8, 6, 0, ("image", "text"))
    held_out = {(SATED, item) for _, item in np.concatenate([data.valid[-1:], data.test[-1:]])}
    more = [(SATED, item) for item in range(35) if (SATED, item) not in held_out]
    train_pairs = np.unique(np.concatenate([data.train[data.train[:, 0] != SATED], more]), axis=0)
    arrays = {"train": train_pairs, "valid": data.valid, "test": np.concatenate([data.test, [[NEWCOMER, 3]]])}
    for name, pairs in arrays.items():
        np.save(folder / f"{name}.npy", pairs.T)
    for name, table in data.features.items():
        np.save(folder / f"{name}_feat.npy", table)
    np.save(folder / "user_ids.npy", np.array([f"U{user:03}" for user in range(NUM_USERS)]))
    np.save(folder / "item_ids.npy", np.arange(NUM_ITEMS) * 7 + 1000)
    np.save(folder / "item_names.npy", np.array([f'Stück {item}, "rot"' for item in range(NUM_ITEMS)]))
    config = tiny_config(model__name="lightgcn", num_epochs=1, data__source="folder", data__root=str(folder))
    train(build_experiment(config), str(folder / "run"))
    return load_trained(str(folder / "run"))


def sorted_lists(trained, k, exclude=(), splits=("train", "valid", "test")):
    """User row -> items and scores, by sorting in numpy."""
    out, dataset = trained.representations, trained.experiment.dataset
    scores = np.asarray(out.users) @ np.asarray(out.items).T
    left_out = {tuple(pair) for split in splits for pair in getattr(dataset, split).tolist()} | {*exclude}
    lists = []
    for user in range(dataset.num_users):
        items = [item for item in range(dataset.num_items) if (user, item) not in left_out]
        items = sorted(items, key=lambda item, user=user: -scores[user, item])[:k]
        lists.append((items, scores[user, items]))
    return lists


def collect(answer):
    """{user: (items, scores, source)} with empty places cut off."""
    _, lists = answer
    found = {}
    for some in lists:
        for user, items, scores in zip(some.users, some.items, some.scores, strict=True):
            filled = items >= 0
            assert (np.diff(filled.astype(int)) <= 0).all()
            found[user] = items[filled].tolist(), scores[filled], some.source
    return found


def test_all_users_are_answered_as_by_sorting(trained):
    found = collect(recommend(trained, k=10))
    assert list(found) == [f"U{user:03}" for user in range(NUM_USERS)]
    for user, (items, scores) in zip(found.values(), sorted_lists(trained, 10), strict=True):
        assert user[0] == items
        np.testing.assert_allclose(user[1], scores, atol=1e-6)
        assert user[2] == "model"


def test_lists_come_in_blocks_and_in_the_order_asked(trained):
    users = [f"U{user:03}" for user in (40, 3, 60, 3, *range(20))]
    _, lists = recommend(trained, users, k=5)
    blocks = list(lists)
    assert len(blocks) > 1
    assert max(len(some.users) for some in blocks) <= 16  # evaluation.block_size
    assert [user for some in blocks for user in some.users] == users
    expected = [sorted_lists(trained, 5)[int(user[1:])][0] for user in users]
    assert np.concatenate([some.items for some in blocks]).tolist() == expected


def test_candidates_that_run_out_make_a_shorter_list(trained):
    dataset = trained.experiment.dataset
    seen = sum((split[:, 0] == SATED).sum() for split in (dataset.train, dataset.valid, dataset.test))
    assert seen > 30
    found = collect(recommend(trained, [f"U{SATED:03}"], k=20))
    assert len(found[f"U{SATED:03}"][0]) == NUM_ITEMS - seen


def test_a_user_without_history_has_a_list_of_the_model(trained):
    assert NEWCOMER not in trained.experiment.dataset.train[:, 0]
    items, _, source = collect(recommend(trained, [f"U{NEWCOMER:03}"], k=NUM_ITEMS))[f"U{NEWCOMER:03}"]
    assert source == "model"
    assert sorted(items) == [item for item in range(NUM_ITEMS) if item != 3]  # which is in test


def test_unknown_users_are_refused_by_name(trained):
    users = ["U001", *(f"nobody{n}" for n in range(7))]
    with pytest.raises(DataError, match=r"7 of 8 users are not .*'nobody0', .*'nobody4' and 2 more"):
        recommend(trained, users)


def test_unknown_users_get_the_most_popular(trained):
    exclude = [("nobody", 1000 + 7 * 2), ("U001", 1000), ("other", 1000)]
    found = collect(recommend(trained, ["nobody", "U001", "stranger"], 6, exclude=exclude, unknown="popular"))
    assert list(found) == ["U001", "nobody", "stranger"]
    counts = np.bincount(trained.experiment.dataset.train[:, 1], minlength=NUM_ITEMS)
    ranking = sorted(range(NUM_ITEMS), key=lambda item: (-counts[item], item))
    assert found["stranger"] == (ranking[:6], pytest.approx(counts[ranking[:6]]), "popular")
    assert found["nobody"][0] == [item for item in ranking if item != 2][:6]
    assert found["U001"][0] == sorted_lists(trained, 6, {(1, 0)})[1][0]


@pytest.mark.parametrize(("seen", "splits"), [("all", ("train", "valid", "test")), ("train", ("train",)), ("none", ())])
def test_what_of_the_data_users_have(trained, seen, splits):
    found = collect(recommend(trained, k=12, seen=find_seen(trained.experiment.dataset, seen)))
    assert [items for items, *_ in found.values()] == [items for items, _ in sorted_lists(trained, 12, (), splits)]
    data, found = trained.experiment.dataset, find_seen(trained.experiment.dataset, seen)
    expected = sorted(tuple(pair) for split in splits for pair in getattr(data, split).tolist())
    assert sorted(map(tuple, found.pairs.tolist())) == expected


def test_a_night_without_orders_changes_nothing(trained, tmp_path):
    (tmp_path / "orders.csv").write_text("user_id,item_id\n")
    dataset = trained.experiment.dataset
    since, before = find_seen(dataset, tmp_path / "orders.csv"), find_seen(dataset, "all")
    assert sorted(map(tuple, since.pairs.tolist())) == sorted(map(tuple, before.pairs.tolist()))
    assert not since.of_strangers


def test_what_users_have_bought_since(trained, tmp_path, caplog):
    """A table of orders, under outside ids: known and unknown users and items, pairs twice, blanks around ids."""
    caplog.set_level("INFO", "absl")
    bought = {(user, item) for user in (0, 7, NEWCOMER) for item in range(user % 5, 30, 2)}
    orders = [("time", "customer", "sku"), *((9, f" U{user:03}", 1000 + 7 * item) for user, item in sorted(bought))]
    orders += [(9, "U007", 1000 + 7 * 2), (9, "nobody", 1000), (9, "nobody", 1000 + 7), (9, "U003", 5)]
    with open(tmp_path / "orders.csv", "w", newline="") as file:
        csv.writer(file).writerows(orders)
    arguments = {"seen": tmp_path / "orders.csv", "user_column": "customer", "item_column": "sku"}
    recommend_run(trained, None, 6, "csv", tmp_path / "lists.csv", **arguments)
    with open(tmp_path / "lists.csv", newline="") as file:
        rows = [(row["user"], int(row["item"])) for row in csv.DictReader(file)]
    lists = sorted_lists(trained, 6, bought | {(7, 2)})
    assert rows == [(f"U{user:03}", 1000 + 7 * item) for user, (items, _) in enumerate(lists) for item in items]
    assert f"{len(bought) + 1} of users and items of the catalogue; 1 users and 1 items are not in it" in caplog.text

    seen = find_seen(trained.experiment.dataset, **arguments)
    found = collect(recommend(trained, ["nobody", "other"], 6, unknown="popular", seen=seen))
    ranking = [item for item in found["other"][0] if item not in (0, 1)]
    assert found["nobody"][0][: len(ranking)] == ranking


def test_what_users_have_cannot_be_read(trained, tmp_path):
    dataset = trained.experiment.dataset
    with pytest.raises(ConfigError, match=r"seen = 'al': must be one of 'all', 'train', 'none', as text, or a file"):
        find_seen(dataset, "al")
    (tmp_path / "orders.csv").write_text("user,item\nU001,1\n")
    with pytest.raises(DataError, match=r"none of its items is in the catalogue: '1'\. The catalogue has 1000, 1007"):
        find_seen(dataset, tmp_path / "orders.csv")
    (tmp_path / "orders.csv").write_text("who,item\nU001,1\n")
    with pytest.raises(DataError, match="Name one with user_column, or call it user_id"):
        find_seen(dataset, tmp_path / "orders.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"user_id,item_id\nU001,1000\nU002,1007,5\n", "line 3: 3 fields for 2 columns"),
        (b"user_id,item_id\nU\xff,1000\n", "line 2: not UTF-8"),
        (b"1,1000\n2,1007\n", "line 1: holds the numbers"),
        (b'{"user_id": "U001", "item_id": 1000}\n[]\n', "line 2: "),
    ],
)
def test_a_table_of_purchases_that_is_damaged(trained, tmp_path, text, words):
    """How text is read can be set for prepare alone: what is said can be done here."""
    (tmp_path / "orders.csv").write_bytes(text)
    with pytest.raises(
        DataError, match=rf"{words}.* there are none here: write the table as Parquet, or as CSV in UTF-8"
    ):
        find_seen(trained.experiment.dataset, tmp_path / "orders.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seen": Path("none")}, r"Path\('none'\): must be .*there is no such file; .*did you mean seen='none'\?"),
        ({"seen": Path("no.csv")}, r"Path\('no\.csv'\): must be .*there is no such file$"),
        ({"seen": None}, r"seen = None: must be one of 'all', 'train', 'none', as text, or a file of interactions$"),
        ({"seen": ["orders.csv"]}, r"seen = \['orders\.csv'\]: must be one of"),
        ({"seen": "all", "user_column": "who"}, "user_column is of the table that seen names, and seen = 'all' names"),
        ({"seen": "none", "item_column": "sku"}, "item_column is of the table that seen names"),
    ],
)
def test_what_users_have_is_a_word_or_a_file(trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        find_seen(trained.experiment.dataset, **arguments)


@pytest.mark.parametrize("name", ["none", "train", "all"])
def test_a_path_is_a_file_whatever_it_is_called(trained, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    dataset = trained.experiment.dataset
    (tmp_path / name).write_text("user_id,item_id\nU001,1000\n")
    expected = {(1, 0), *(tuple(pair) for s in ("train", "valid", "test") for pair in getattr(dataset, s).tolist())}
    assert set(map(tuple, find_seen(dataset, Path(name)).pairs.tolist())) == expected
    assert len(find_seen(dataset, "none").pairs) == 0  # a word is a word, whatever files there are


def test_items_that_nobody_gets(trained):
    never = {0, 5, 17, 38}
    found = collect(recommend(trained, k=36, never=[1000 + 7 * item for item in never]))
    expected = sorted_lists(trained, 36, {(user, item) for user in range(NUM_USERS) for item in never})
    assert [items for items, *_ in found.values()] == [items for items, _ in expected]


def test_exclusions_of_which_nothing_is_known(trained, caplog):
    with pytest.raises(DataError, match=r"none of the items to leave out is in the catalogue: 1, 2"):
        recommend(trained, never=[1, 2])
    recommend(trained, never=[1000, 2])
    assert "1 items to leave out are not in the catalogue: 2" in caplog.text
    recommend(trained, exclude=[("U001", 1000), ("nobody", 1000)])
    assert "1 users of the pairs to leave out are not in the catalogue: 'nobody'" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ConfigError, "k is 0: there are 40 items; k must be 1 to 40"),
        ({"k": 41}, ConfigError, "k is 41: there are 40 items; k must be 1 to 40"),
        ({"k": 40, "never": [1000]}, ConfigError, "40 items, 1 of which nobody gets; k must be 1 to 39"),
        ({"unknown": "ignore"}, ConfigError, "unknown = 'ignore': must be one of 'refuse', 'popular'"),
        ({"users": []}, DataError, "no users are named"),
        ({"never": ["B1"]}, DataError, "items of this catalogue are integers, and these are not: 'B1'"),
    ],
)
def test_requests_that_will_not_do(trained, arguments, error, message):
    with pytest.raises(error, match=message):
        recommend(trained, **arguments)


def expected_rows(trained, k, users):
    lists = sorted_lists(trained, k)
    for user in users:
        for rank, (item, score) in enumerate(zip(*lists[user], strict=True), start=1):
            yield f"U{user:03}", rank, 1000 + 7 * item, f'Stück {item}, "rot"', score, "model"


def check_rows(found, expected):
    expected = list(expected)
    assert [(*row[:4], row[5]) for row in found] == [(*row[:4], row[5]) for row in expected]
    np.testing.assert_allclose([row[4] for row in found], [row[4] for row in expected], atol=1e-6)


def test_formats_hold_the_same(trained, tmp_path):
    for name in ("jsonl", "csv", "parquet"):
        recommend_run(trained, None, 8, name, tmp_path / f"lists.{name}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lists.csv", "lists.jsonl", "lists.parquet"]
    names = ["user", "rank", "item", "name", "score", "source"]

    objects = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text("utf-8").splitlines()]
    assert [one["user"] for one in objects] == [f"U{user:03}" for user in range(NUM_USERS)]
    assert list(objects[0]["items"][0]) == ["item", "name", "score"]
    rows = [
        (one["user"], rank, place["item"], place["name"], place["score"], one["source"])
        for one in objects
        for rank, place in enumerate(one["items"], start=1)
    ]
    check_rows(rows, expected_rows(trained, 8, range(NUM_USERS)))

    with open(tmp_path / "lists.csv", encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == names
    assert [(u, int(r), int(i), n, np.float32(s), m) for u, r, i, n, s, m in lines] == [
        (*row[:4], np.float32(row[4]), row[5]) for row in rows
    ]

    table = pyarrow.parquet.read_table(tmp_path / "lists.parquet")
    assert table.column_names == names
    assert [str(kind) for kind in table.schema.types] == ["string", "int32", "int64", "string", "float", "string"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (*row[:4], np.float32(row[4]), row[5]) for row in rows
    ]


def test_standard_output_streams(trained, tmp_path, capsys):
    (tmp_path / "users.txt").write_text("U002\nU001\n")
    (tmp_path / "not.csv").write_text("U002,1007\n")
    recommend_run(trained, str(tmp_path / "users.txt"), 3, "csv", exclude=tmp_path / "not.csv")
    found = list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:]
    lists = sorted_lists(trained, 3, {(2, 1)})
    assert [(row[0], int(row[2])) for row in found] == [
        (f"U{user:03}", 1000 + 7 * item) for user in (2, 1) for item in lists[user][0]
    ]
    recommend_run(trained, "U005, nobody", 3, unknown="popular")
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["user"], one["source"], len(one["items"])) for one in objects] == [
        ("U005", "model", 3),
        ("nobody", "popular", 3),
    ]


def test_what_fails_leaves_the_old_file(trained, tmp_path, monkeypatch):
    out = tmp_path / "lists.csv"
    out.write_text("old")
    with pytest.raises(DataError, match="'nobody'"):
        recommend_run(trained, "nobody", 3, "csv", out)
    monkeypatch.setattr("rearm_jax.inference.recommend_files._as_columns", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recommend_run(trained, None, 3, "csv", out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_outputs_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="format is 'xml': must be one of jsonl, csv, parquet"):
        check_output("xml", None)
    with pytest.raises(ConfigError, match="standard output"):
        check_output("parquet", None)
    with pytest.raises(ConfigError, match="there is no folder"):
        check_output("csv", tmp_path / "no" / "lists.csv")
    with pytest.raises(ConfigError, match="is a folder"):
        check_output("csv", tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[export\]'"):
        check_output("parquet", tmp_path / "lists.parquet")


def test_users_from_files_and_from_text(tmp_path):
    path = tmp_path / "users.txt"
    path.write_bytes("\ufeffA,1\r\nB\n\n".encode())
    assert parse_users(str(path)) == ["A,1", "B"]
    assert parse_users("A, B,C") == ["A", "B", "C"]
    for wrong in ("", "A,,B"):
        with pytest.raises(DataError, match="name a file"):
            parse_users(wrong)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        parse_users(str(path))


def test_exclusions_from_files(tmp_path):
    path = tmp_path / "not.csv"
    path.write_text('B1\n"B,2"\n\n')
    assert read_items_or_pairs(path) == (["B1", "B,2"], [])
    path.write_text("U1,B1\nU2,B2\n")
    assert read_items_or_pairs(path) == ([], [("U1", "B1"), ("U2", "B2")])
    for text, message in (("", "is empty"), ("B1\nU1,B1\n", r"row 1 \(from 0\): 'U1,B1'"), ("a,b,c\n", "row 0")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_items_or_pairs(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_items_or_pairs(tmp_path / "nothing.csv")
