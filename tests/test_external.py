"""Lists of other toolkits: what comes in is what was written, scored as ours are, and mistakes are refused."""

import json

import numpy as np
import polars as pl
import pytest

from rearm_jax.compare.external import read_external
from rearm_jax.compare.results import read_results, write_results
from rearm_jax.compare.summary import summarise
from rearm_jax.data.dataset import group_by_user, make_dataset
from rearm_jax.errors import DataError
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.popularity import found_by_popularity
from rearm_jax.evaluation.scoring import rank_split
from rearm_jax.evaluation.slices import by_history, list_measures
from rearm_jax.evaluation.user_metrics import user_metrics
from tests.comparison import about

NUM_USERS, NUM_ITEMS, K = 30, 20, 6


@pytest.fixture(scope="module")
def dataset():
    """Users u0.. of whom the last five have no test interaction; items are called 100, 101, ..."""
    rng = np.random.default_rng(0)
    pairs = np.array([(user, item) for user in range(NUM_USERS) for item in rng.permutation(NUM_ITEMS)[:6]], np.int32)
    part = np.arange(len(pairs)) % 6
    test = pairs[(part == 5) & (pairs[:, 0] < 25)]
    labels = {"user_ids": np.array([f"u{user}" for user in range(NUM_USERS)]), "item_ids": np.arange(100, 120)}
    features = {"text": np.ones((NUM_ITEMS, 2), np.float32)}
    return make_dataset(pairs[part < 4], pairs[part == 4], test, features, labels=labels)


def best_items(dataset, depth=K):
    """(user, item, rank) by a made-up score, train items left out; the ids those outside."""
    scores = np.random.default_rng(1).random((NUM_USERS, NUM_ITEMS)).astype(np.float32)
    had = {(int(user), int(item)) for user, item in dataset.train}
    rows = []
    for user in range(NUM_USERS):
        items = [item for item in np.argsort(-scores[user]) if (user, item) not in had][:depth]
        rows += [(f"u{user}", 100 + int(item), rank) for rank, item in enumerate(items, start=1)]
    return rows, scores


def save(path, rows, **kinds):
    schema = {"user": pl.String, "item": pl.Int64, "rank": pl.Int64} | kinds
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    return path


@pytest.mark.parametrize("kinds", [{}, {"item": pl.String, "rank": pl.UInt8}, {"user": pl.Categorical}], ids=str)
def test_they_score_as_our_own_lists_do(dataset, tmp_path, kinds):
    rows, scores = best_items(dataset)
    if kinds.get("item") == pl.String:
        rows = [(user, str(item), rank) for user, item, rank in rows]
    order = np.random.default_rng(2).permutation(len(rows))  # of rows in the file
    found = read_external(save(tmp_path / "l[1].parquet", [rows[row] for row in order], **kinds), dataset, K)
    ours, users, positives = rank_split(lambda users: scores[users], dataset, "test", K, block_size=7)
    assert found.top_items.dtype == found.users.dtype == np.int32
    assert found.users.tolist() == list(range(25))
    np.testing.assert_array_equal(found.top_items, ours[users >= 0])
    assert split_metrics(found.top_items, found.users, positives, (3, K)) == split_metrics(
        ours, users, positives, (3, K)
    )
    assert list_measures(found.top_items, found.users, dataset, K) == list_measures(ours, users, dataset, K)
    assert found.notes == [f"{tmp_path}/l[1].parquet: 5 lists are of users without a test interaction: not scored"]


def test_who_has_no_list_finds_nothing(dataset, tmp_path):
    rows, _ = best_items(dataset)
    missing = {"u2", "u20", "u29"}
    file = save(tmp_path / "lists.parquet", [row for row in rows if row[0] not in missing])
    found = read_external(file, dataset, K)
    assert found.users.tolist() == list(range(25))
    assert (found.top_items[[2, 20]] == -1).all()
    metrics = user_metrics(found.top_items, found.users, group_by_user(dataset.test, NUM_USERS), (K,))
    assert metrics[f"recall@{K}"][[2, 20]].tolist() == [0, 0]
    assert np.isnan(metrics[f"recall@{K}"][25:]).all()
    assert found.notes[0] == f"{file}: 2 users of test have no list: they find nothing"


def test_short_and_long_lists(dataset, tmp_path):
    rows, _ = best_items(dataset, depth=8)
    rows = [row for row in rows if not (row[0] in ("u1", "u4") and row[2] > 2)]
    file = save(tmp_path / "lists.parquet", rows)
    found = read_external(file, dataset, K)
    assert (found.top_items[1, 2:] == -1).all()
    assert (found.top_items[1, :2] >= 0).all()
    assert (found.top_items[0] >= 0).all()
    assert found.notes[1:] == [
        f"{file}: 2 lists are shorter than 6, the largest cut-off: their empty places find nothing",
        f"{file}: 23 lists are longer than 6: what is beyond is not scored",
    ]


def test_they_become_a_row_of_a_table(dataset, tmp_path):
    """With all that is measured of our own rows, from the lists alone."""
    rows, _ = best_items(dataset)
    lists = {"best": rows, "upside down": [(user, item, 7 - rank) for user, item, rank in rows]}
    head = about(rows=list(lists), reference="best", data=["d"], metric=f"ndcg@{K}")
    head["data"]["d"] |= {"users": NUM_USERS, "items": NUM_ITEMS}
    runs, users = [], {}
    for name, given in lists.items():
        top_items, scored, _ = read_external(save(tmp_path / "lists.parquet", given), dataset, K)
        metrics = user_metrics(top_items, scored, group_by_user(dataset.test, NUM_USERS), (3, K))
        users[name, 0] = {name: metrics[name] for name in (f"ndcg@{K}", f"recall@{K}", "ndcg@3", "recall@3")}
        slices = {
            "by_history": by_history(users[name, 0], dataset),
            "by_popularity": found_by_popularity(dataset, "test", scored, top_items),
            "lists": list_measures(top_items, scored, dataset, K),
        }
        run = {"data": "d", "row": name, "model": "external", "kind": "external", "number": 0, "status": "done"}
        runs.append(run | {"numerics": 1, "closed_form": False, "slices": json.dumps(slices)})
    write_results(tmp_path, head, runs, {"d": users})
    [table] = summarise(read_results([tmp_path]), num_resamples=200).tables
    for row in table.rows:
        assert row.one_seed
        assert row.compared.mean == pytest.approx(np.nanmean(users[row.name, 0][f"ndcg@{K}"]), rel=1e-6)
        assert sum(group["users"] for group in row.by_history) == 25
        assert sum(group["positives"] for group in row.by_popularity) == len(dataset.test)
        assert row.lists.keys() == {f"coverage@{K}", f"gini@{K}", f"novelty@{K}"}
    assert table.metrics == [f"ndcg@{K}", f"recall@{K}", "ndcg@3", "recall@3"]
    assert table.rows[0].lists == pytest.approx(table.rows[1].lists)  # the same items in another order


def test_users_of_validation(dataset, tmp_path):
    rows, _ = best_items(dataset)
    assert len(read_external(save(tmp_path / "lists.parquet", rows), dataset, K, "valid").users) == NUM_USERS


def with_place(place, **changes):
    """Changes of the row at a place."""

    def change(rows):
        new = dict(zip(("user", "item", "rank"), rows[place], strict=True)) | changes
        return [*rows[:place], tuple(new.values()), *rows[place + 1 :]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_place(7, user="zoe"), r"row 7: user 'zoe' is no user of the data set; use the ids"),
        (with_place(3, item=5), r"row 3: item '5' is no item of the data set"),
        (lambda rows: with_place(3, item=5)(with_place(9, item=6)(rows)), r"row 3: item '5' .* \(2 rows in all\)"),
        (with_place(6, rank=0), r"row 6: rank 0; ranks count from 1"),
        (with_place(2, rank=2), r"row 2: user 'u0' has rank 2 twice"),
        (lambda rows: with_place(4, item=rows[1][1])(rows), r"row 4: user 'u0' has item '\d+' twice"),
        (with_place(5, rank=7), r"row 5: user 'u0' has 6 places and rank 7; ranks must run from 1 without leaving one"),
        (lambda rows: rows[1:], r"row 4: user 'u0' has 5 places and rank 6"),
        (with_place(8, user=None), r"row 8: user is empty"),
        (with_place(8, rank=None), r"row 8: rank is empty"),
        (lambda rows: [], r"there are no rows"),
    ],
)
def test_mistakes_are_refused(dataset, tmp_path, change, message):
    rows, _ = best_items(dataset)
    file = save(tmp_path / "lists.parquet", change(rows))
    with pytest.raises(DataError, match=rf"lists\.parquet(, |: ){message}"):
        read_external(file, dataset, K)


def test_a_train_item_is_refused(dataset, tmp_path):
    rows, _ = best_items(dataset)
    item = next(int(item) for user, item in dataset.train if user == 4)
    place = next(place for place, row in enumerate(rows) if row[0] == "u4" and row[2] == 3)
    file = save(tmp_path / "lists.parquet", with_place(place, item=100 + item)(rows))
    with pytest.raises(DataError, match=rf"row {place}: user 'u4' has item '{100 + item}', which is in train; leave"):
        read_external(file, dataset, K)


def test_other_files_are_refused(dataset, tmp_path):
    rows, _ = best_items(dataset)
    file = save(tmp_path / "lists.parquet", rows)
    pl.read_parquet(file).rename({"item": "item_id"}).write_parquet(tmp_path / "named.parquet")
    with pytest.raises(
        DataError, match=r"named\.parquet: there is no column item; the columns are user, item_id, rank"
    ):
        read_external(tmp_path / "named.parquet", dataset, K)
    pl.read_parquet(file).with_columns(pl.col("item").cast(pl.Float64)).write_parquet(tmp_path / "float.parquet")
    with pytest.raises(DataError, match=r"column item is of type Float64; save it as text or integers"):
        read_external(tmp_path / "float.parquet", dataset, K)
    pl.read_parquet(file).with_columns(pl.col("rank").cast(pl.String)).write_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"column rank is of type String; save it as integers"):
        read_external(tmp_path / "text.parquet", dataset, K)
    (tmp_path / "no.parquet").write_text("user,item,rank")
    for name in ("no.parquet", "gone.parquet"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read as Parquet"):
            read_external(tmp_path / name, dataset, K)
