"""Tables in memory become the data set that `prepare` makes of the same tables in files, whatever kind they are of; and
training on it leaves a run folder that is all that is needed."""

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest
import scipy.sparse

from rearm_jax import Dataset, default_config, evaluate, load, refit, train
from rearm_jax.data.dataset import folder_arrays, load_dataset
from rearm_jax.data.folder import write_folder
from rearm_jax.data.prepare.__main__ import main
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.experiment import load_data
from rearm_jax.training.run_data import DATASET_FOLDER, keep_dataset
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS = 30, 20


@pytest.fixture(scope="module")
def tables():
    """Interactions with ratings, times, repeated pairs and blanks around an id; items, one without interactions."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, NUM_USERS, 400), rng.integers(0, NUM_ITEMS, 400)
    interactions = pl.DataFrame(
        {"who": [f"u{user}" for user in users], "sku": items + 5, "stars": rng.integers(1, 6, 400), "at": range(400)}
    ).with_columns(who=pl.when(pl.col("at") == 7).then(" " + pl.col("who")).otherwise("who"))
    described = pl.DataFrame({"sku": range(5, 26), "title": [f"Item {item}" for item in range(21)]})
    return interactions, described


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(1).normal(size=(NUM_ITEMS + 1, 3)).astype(np.float32)


OPTIONS = {
    "user_column": "who",
    "item_column": "sku",
    "rating_column": "stars",
    "time_column": "at",
    "min_rating": 2.0,
    "k_core": 5,
    "split": "time",
    "duplicates": "last",
    "item_id_column": "sku",
    "name_column": "title",
}


def assert_same(one: Dataset, other: Dataset):
    assert one.content_hash == other.content_hash
    for stem in ("user_ids", "item_ids", "item_names"):
        np.testing.assert_array_equal(getattr(one.labels, stem), getattr(other.labels, stem))


@pytest.fixture(scope="module")
def prepared(tables, vectors, tmp_path_factory):
    """What the command makes of the same tables in files."""
    folder = tmp_path_factory.mktemp("prepared")
    tables[0].write_csv(folder / "orders.csv")
    tables[1].write_csv(folder / "items.csv")
    np.save(folder / "f.npy", vectors)
    np.save(folder / "ids.npy", tables[1]["sku"].to_numpy())
    words = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
    words += ["--features", f"image={folder / 'f.npy'}", "--feature_ids", f"image={folder / 'ids.npy'}"]
    words += ["--interactions", str(folder / "orders.csv"), "--items", str(folder / "items.csv")]
    assert main([*words, "--out", str(folder / "out")]) == 0
    return load_dataset(folder / "out", ("image",))


@pytest.mark.parametrize("kind", ["polars", "lazy", "dict of arrays", "dict of lists"])
def test_the_data_set_of_prepare(tables, vectors, prepared, kind):
    as_kind = {
        "polars": lambda table: table,
        "lazy": pl.DataFrame.lazy,
        "dict of arrays": lambda table: {column.name: column.to_numpy() for column in table},
        "dict of lists": lambda table: table.to_dict(as_series=False),
    }[kind]
    interactions, items = map(as_kind, tables)
    assert_same(Dataset.from_tables(interactions, items, {"image": vectors}, **OPTIONS), prepared)
    ids = tables[1]["sku"].to_list()
    shuffled = np.random.default_rng(2).permutation(len(ids))
    pair = ([ids[row] for row in shuffled], vectors[shuffled])
    assert_same(Dataset.from_tables(interactions, items, {"image": pair}, **OPTIONS), prepared)
    lists = as_kind(pl.DataFrame({"sku": pair[0], "vector": pair[1].tolist(), "note": "no feature"}))
    assert_same(Dataset.from_tables(interactions, items, {"image": lists}, **OPTIONS), prepared)


def test_frames_of_pandas(tables, vectors, prepared):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    interactions, items = (pandas.DataFrame(table.to_dict(as_series=False)) for table in tables)
    interactions["sku"] = interactions["sku"].astype("Int64")  # nullable
    interactions["who"] = interactions["who"].astype("category")
    interactions["at"] = pandas.to_datetime(interactions["at"], unit="s", utc=True)
    features = pandas.DataFrame(vectors, index=pandas.Index(items["sku"], name="sku"))
    made = Dataset.from_tables(interactions, items.set_index("sku"), {"image": features}, **OPTIONS)
    assert_same(made, prepared)
    interactions.loc[3, "who"] = None
    with pytest.raises(DataError, match=r"^interactions, row 4, column 'who': the value is missing"):
        Dataset.from_tables(interactions, items, {"image": vectors}, **OPTIONS)


@pytest.mark.parametrize("unit", ["s", "m", "h"])
def test_dates_of_pandas_and_numpy_in_coarse_units(unit):
    pandas = pytest.importorskip("pandas")
    table = {"user": [1, 1, 1], "item": [1, 2, 3], "time": np.datetime64("2014-05-03T12", unit) - np.arange(3)}
    columns = {"features": {"x": np.eye(3)}, "items": {"item": [1, 2, 3]}, "split": "leave-one-out"}
    for given in (table, pandas.DataFrame(table)):
        made = Dataset.from_tables(given, **columns)
        assert made.labels.item_ids[made.test[:, 1]].tolist() == ["1"]


def test_an_index_of_pandas_is_neither_a_feature_nor_a_column_twice():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"item_id": [0, 1, 2], "a": [1.0, 2.0, 3.0]}).rename_axis("row")
    pairs = np.argwhere(np.ones((3, 3)))
    with pytest.raises(DataError, match=r"features\['x'\]: the index row would be a feature"):
        Dataset.from_tables(pairs, features={"x": frame})
    made = Dataset.from_tables(pairs, features={"x": frame.reset_index(drop=True)})
    assert made.features["x"].shape == (3, 1)
    twice = pandas.DataFrame(pairs, columns=["user_id", "item_id"]).set_index("user_id", drop=False)
    with pytest.raises(DataError, match="interactions: user_id is a column, and the index, too"):
        Dataset.from_tables(twice, features={"x": frame})


def test_matrices_and_arrays():
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 4, (12, 9)) * rng.integers(0, 2, (12, 9))
    dense[3], dense[:, 5] = 0, 0  # a user and an item that are dropped
    features = rng.normal(size=(9, 2))
    stored = (np.r_[dense.ravel(), 0], (np.r_[np.repeat(range(12), 9), 3], np.r_[np.tile(range(9), 12), 0]))
    matrix = scipy.sparse.csr_array(stored, shape=(12, 9))  # zeros, too, which are no interactions
    made = Dataset.from_tables(matrix, features={"x": features})
    pairs = np.argwhere(dense)
    assert_same(Dataset.from_tables(pairs, features={"x": (range(9), scipy.sparse.coo_array(features))}), made)
    known = np.concatenate([made.train, made.valid, made.test])
    named = {(int(made.labels.user_ids[user]), int(made.labels.item_ids[item])) for user, item in known}
    assert named == set(map(tuple, pairs.tolist()))
    assert made.labels.user_ids.tolist() == [str(user) for user in range(12) if user != 3]
    np.testing.assert_array_equal(made.features["x"], np.delete(features, 5, axis=0).astype(np.float32))
    rated = Dataset.from_tables(matrix, features={"x": features}, min_rating=3, ratios=(1, 0, 0))
    assert sum(len(split) for split in (rated.train, rated.valid, rated.test)) == (dense >= 3).sum()


def test_two_interactions_in_each_split_lie_by_row():
    """An array of two pairs could lie either way round."""
    users = np.repeat([0, 1], 3)
    made = Dataset.from_tables(np.stack([users, np.tile([0, 1, 2], 2)], axis=1), features={"x": (range(3), np.eye(3))})
    assert [len(split) for split in (made.train, made.valid, made.test)] == [2, 2, 2]
    assert made.train[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_])
def test_entries_of_a_matrix_add_up_beyond_their_type(dtype):
    users, items = np.r_[np.repeat([0, 1, 2], 3), [0] * 256], np.r_[np.tile([0, 1, 2], 3), [3] * 256]
    matrix = scipy.sparse.coo_array((np.ones(len(users), dtype), (users, items)))
    made = Dataset.from_tables(matrix, features={"x": np.eye(4)}, ratios=(1, 0, 0))
    assert len(made.train) == 10


def test_a_column_that_nobody_reads_may_hold_anything():
    table = {"user": [1, 1, 2], "item": [1, 2, 3], "note": ["a", 1.5, object()]}
    made = Dataset.from_tables(table, features={"x": (range(1, 4), np.eye(3))}, ratios=(1, 0, 0))
    assert len(made.train) == 3
    with pytest.raises(DataError, match=r"^interactions, column 'note': cannot be read as numbers, text or dates"):
        Dataset.from_tables(table, features={"x": (range(1, 4), np.eye(3))}, item_column="note")
    blank = {"user": [1, None, 2], "item": [1, None, 3], "note": [None, object(), None]}
    with pytest.raises(DataError, match="interactions, row 2, column 'user': the value is missing"):
        Dataset.from_tables(blank, features={"x": (range(1, 4), np.eye(3))}, ratios=(1, 0, 0))


X = {"x": np.eye(4)}
PAIRS = np.array([[0, 1], [1, 2]])
PLAIN = {"features": {"x": ([1, 2], np.eye(2))}}


@pytest.mark.parametrize(
    ("interactions", "arguments", "error", "words"),
    [
        (PAIRS, {"k_kore": 3}, ConfigError, "^k_kore is no option; did you mean k_core"),
        (PAIRS, {"bad_rows": "skip"}, ConfigError, "^bad_rows is no option"),
        (PAIRS, {"features": X}, ConfigError, r"^features\['x'\]: nothing says which item a row belongs to"),
        (PAIRS, {"features": {"x": ([1, 2], np.eye(4))}}, DataError, r"^features\['x'\] has 4 rows, for 2 items"),
        (PAIRS, {"features": {"x": ([1, 2], np.array([["a"], ["b"]]))}}, DataError, "features are numbers"),
        (
            PAIRS,
            {"features": {"x": ([1, 2], [[np.nan], [0]])}, "ratios": (1, 0, 0)},
            DataError,
            "item '1': a feature is",
        ),
        (PAIRS, {"features": {"a b": ([1, 2], np.eye(2))}}, DataError, "letters, digits and underscores"),
        (PAIRS, {}, ConfigError, "^no features: give text, category, number, images"),
        (PAIRS, {"text": "title"}, ConfigError, "^text = 'title': must be a dict from modalities to columns"),
        (PAIRS, {"text": {"text": "title"}}, ConfigError, "^text, .* name_column name columns of .* with items$"),
        (
            PAIRS,
            {"features": {"x": ([1, 2], np.ma.masked_array(np.eye(2), mask=[[0, 1], [0, 0]]))}},
            DataError,
            r"^features\['x'\]: 1 numbers are masked",
        ),
        ({"user": [501, True], "item": [1, 2]}, PLAIN, DataError, "column 'user': has booleans among its integers"),
        (PAIRS.T[:, :1], {}, DataError, r"the shape is \(2, 1\), and must be \(n, 2\)"),
        (PAIRS.astype(float), {"features": {"x": ([1], [[1.0]])}}, DataError, "ids must be text or whole numbers"),
        (
            {"who": [1]},
            {"features": {"x": ([1], [[1.0]])}},
            DataError,
            "'who'. Name one with user_column, or call it user_id$",
        ),
        ({"user": [1], "item": [1, 2]}, {}, DataError, "^interactions cannot be read as columns"),
        ([[0, 1]], {}, ConfigError, "^interactions: list is no table"),
        (PAIRS, {"items": 3}, ConfigError, "^items: int is no table"),
        (
            PAIRS,
            {"features": {"x": ([1, 2], np.eye(2))}, "k_core": 3},
            DataError,
            "no interaction is left: of 2 rows, the 3-core of 2 interactions is empty",
        ),
        (
            PAIRS[:0],
            {"features": X | {"x": ([1, 2], np.eye(2))}},
            DataError,
            "^interactions: there is no interaction in",
        ),
        (
            {},
            {"features": {"x": ([1], [[1.0]])}},
            DataError,
            "^interactions: no column of users is recognised; there are no columns at all",
        ),
        (PAIRS, {"features": {"x": (5, np.eye(2))}}, DataError, r"^features\['x'\]: a pair must be n ids and an array"),
        (PAIRS, {"features": {"x": ((i for i in (1, 2)), np.eye(2))}}, DataError, "a pair must be n ids and an array"),
        (PAIRS, {"features": {"x": ([1, 2], [[1.0], [2.0, 3.0]])}}, DataError, "a pair must be n ids and an array"),
        ({"user": ["a", np.nan], "item": [1, 2]}, PLAIN, DataError, "^interactions, column 'user': cannot be read as"),
        (
            {"user": [1, 2], "item": [1, 2]},
            {"user_column": "user", "item_column": "user", "features": {"x": ([1], [[1.0]])}},
            DataError,
            "^interactions: the column 'user' is taken for users and for items",
        ),
    ],
)
def test_what_is_refused(interactions, arguments, error, words):
    with pytest.raises(error, match=words):
        Dataset.from_tables(interactions, **arguments)


GOOD = {"features": {"x": ([1, 2], np.eye(2))}, "ratios": (1, 0, 0)}
ITEMS = {"item_id": [1, 2], "title": ["a", "b"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k_core": "3"}, "k_core = '3': must be an integer from 1"),
        ({"k_core": 2.5}, r"k_core = 2\.5: must be an integer"),
        ({"k_core": True}, "k_core = True: must be an integer"),
        ({"k_core": None}, "k_core = None: must be an integer"),
        ({"min_rating": "4"}, "min_rating = '4': must be a finite number"),
        ({"ratios": "8:1:1"}, r"ratios = '8:1:1': must be three whole numbers up to 1000, such as .*\(8, 1, 1\)"),
        ({"ratios": (0.8, 0.1, 0.1)}, r"ratios = \(0\.8, 0\.1, 0\.1\): must be three whole numbers"),
        ({"ratios": 8}, "ratios = 8: must be three"),
        ({"split": "tiem"}, "split = 'tiem': must be one of 'random', 'time', .*; did you mean 'time'"),
        ({"split": ["time"]}, r"split = \['time'\]: must be one of"),
        ({"duplicates": True}, "duplicates = True: must be one of 'first', 'last', 'refuse'$"),
        ({"seed": None}, "seed = None: must be an integer from 0 on"),
        ({"seed": -1}, "seed = -1: must be an integer from 0 on"),
        ({"user_column": 0}, "user_column = 0: must be the name of a column, as text"),
        ({"item_id_column": ["sku"]}, r"item_id_column = \['sku'\]: must be the name of a column"),
        ({"items": ITEMS, "name_column": 5}, "name_column = 5: must be a list of different names of columns"),
        ({"items": ITEMS, "name_column": ["title", 5]}, r"name_column = \['title', 5\]: must be a list"),
        ({"items": ITEMS, "text": {"text": 5}}, r"text = \{'text': 5\}: must be a dict from modalities to columns"),
        (
            {"items": ITEMS, "number": {"n": []}},
            r"number = \{'n': \[\]\}: must be a dict .*\{\"number\": \[\"title\"\]\}",
        ),
        ({"items": ITEMS, "category": {5: "title"}}, r"category = \{5: 'title'\}: must be a dict"),
        ({"items": ITEMS, "category": {"c": "title"}, "category_separator": 1}, "category_separator = 1: must be some"),
        ({"items": ITEMS, "category": {"c": ["title", "title"]}}, "category = .*: must be a dict .* each column once"),
        ({"items": ITEMS, "name_column": ["title", "title"]}, "name_column = .*: must be a list of different names"),
        ({"quantiles": 1}, "quantiles = 1: must be an integer from 2 on, below 2\\*\\*63, or 0"),
        ({"images": 3}, "images = 3: must be a path"),
        ({"text_model": None}, "text_model = None: must be a path"),
        ({"device": 0}, "device = 0: must be text"),
        ({"batch_size": 0}, "batch_size = 0: must be an integer from 1 on"),
        ({"features": [("x", np.eye(2))]}, r"features = \[\('x', .*: must be a dict from modalities to tables"),
        ({"features": {5: ([1, 2], np.eye(2))}}, r"features = \{5: .*: must be a dict from modalities to tables"),
        ({"time_column": "when"}, "time_column = 'when' says nothing where split is random"),
        ({"duplicates": "last"}, "duplicates = 'last' says nothing where split is random"),
        ({"rating_column": "stars"}, "rating_column = 'stars' says nothing without min_rating"),
        ({"seed": 3, "split": "global-time"}, "seed = 3 says nothing unless split is random"),
        ({"quantiles": 4}, "quantiles = 4 says nothing without number"),
        ({"cache": "kept"}, "cache = 'kept' says nothing without text or images"),
    ],
)
def test_options_of_a_wrong_type_or_without_effect(arguments, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        Dataset.from_tables(PAIRS, **GOOD | arguments)


def test_options_of_numpy_and_empty_ones_are_as_good_as_others():
    given = {"k_core": np.int64(1), "seed": np.uint8(3), "min_rating": None, "ratios": [1, 0, 0], "rating_column": None}
    given |= {"text": {}, "name_column": []}
    assert_same(Dataset.from_tables(PAIRS, **GOOD | given), Dataset.from_tables(PAIRS, **GOOD | {"seed": 3}))


def test_what_a_person_wrote_stays_as_it_is_in_messages():
    odd = {"--users": [1], "--text": [1]}
    with pytest.raises(DataError, match=r"the columns are '--users', '--text'\. Name one with user_column"):
        Dataset.from_tables(odd, **GOOD)
    with pytest.raises(DataError, match=r"^interactions: no column '--who' \(user_column\)"):
        Dataset.from_tables(odd, **GOOD, user_column="--who")


@pytest.mark.parametrize("place", ["interactions", "items", "features"])
@pytest.mark.parametrize("fault", ["missing file", "wrong column", "wrong value"])
def test_a_lazy_frame_that_cannot_be_collected_is_named(tmp_path, place, fault):
    frame = pl.LazyFrame({"user_id": [1, 2], "item_id": [1, 2], "title": ["a", "b"], "x": [1.0, 2.0]})
    broken, words = {
        "missing file": lambda: (pl.scan_parquet(tmp_path / "gone.parquet"), "gone.parquet"),
        "wrong column": lambda: (frame.select("item_id", "nothing"), "nothing"),
        "wrong value": lambda: (frame.with_columns(pl.col("title").cast(pl.Int64).alias("item_id")), "conversion"),
    }[fault]()
    features = {"x": frame.select("item_id", "x")}
    arguments = {
        "interactions": frame,
        "items": frame,
        "features": features,
        "name_column": "title",
        "ratios": (1, 0, 0),
    }
    Dataset.from_tables(**arguments)
    arguments[place] = {"x": broken} if place == "features" else broken
    with pytest.raises(DataError, match=rf"(?s)^{place}.* cannot be read: .*{words}"):
        Dataset.from_tables(**arguments)


# Training


@pytest.fixture(scope="module")
def dataset(tables, vectors):
    features = {"image": vectors, "text": vectors[:, ::-1].copy()}
    return Dataset.from_tables(tables[0], tables[1], features, **OPTIONS | {"min_rating": None, "rating_column": None})


def settings(**changes):
    folder = {"data__source": "folder", "num_epochs": 2, "learning_rate": 1e-2, "evaluation__block_size": 64}
    return tiny_config(model__name="bpr", **folder | changes)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """(run folder, result)"""
    workdir = tmp_path_factory.mktemp("run") / "a"
    return workdir, train(settings(), workdir, progress=False, dataset=dataset)


def metrics(result):
    return {name: value for name, value in result.items() if name.startswith(("valid/", "test/")) and "@" in name}


def test_a_run_holds_its_data(run, dataset, tmp_path):
    workdir, result = run
    moved = shutil.copytree(workdir, tmp_path / "moved")
    assert_same(load_dataset(moved / DATASET_FOLDER, ("image", "text")), dataset)
    assert evaluate(moved) == metrics(result)
    [user] = load(moved).recommend(users=["u3"], k=2)
    assert [place["name"] for place in user["items"]] == [f"Item {int(place['item']) - 5}" for place in user["items"]]
    assert refit(moved, tmp_path / "refit", progress=False)["refit_of"]["metrics"] == metrics(result)
    moved.rename(tmp_path / "gone")
    assert load(tmp_path / "refit").user_ids.tolist() == dataset.labels.user_ids.tolist()


def test_names_that_nobody_gave_are_in_no_list(tables, vectors, tmp_path):
    nameless = Dataset.from_tables(
        tables[0], features={"image": (range(5, 26), vectors)}, user_column="who", item_column="sku"
    )
    train(settings(num_epochs=1), tmp_path / "run", progress=False, dataset=nameless)
    [user] = load(tmp_path / "run").recommend(users=["u3"], k=2)
    assert [sorted(place) for place in user["items"]] == [["item", "score"]] * 2


def test_it_is_the_run_of_a_folder_and_goes_on_to_the_bit(run, dataset, tmp_path):
    workdir, _ = run
    longer = train(settings(num_epochs=3), shutil.copytree(workdir, tmp_path / "a"), dataset=dataset, progress=False)
    alone = settings(num_epochs=3, data__source="run")  # the folder has them
    assert train(alone, shutil.copytree(workdir, tmp_path / "b"), progress=False)["epochs"] == 3
    root = str(workdir / DATASET_FOLDER)
    whole = train(settings(num_epochs=3, data__root=root), tmp_path / "whole", progress=False)
    for other in (longer, train(alone, tmp_path / "b", progress=False)):
        assert metrics(other) == metrics(whole)
        assert other["content_hash"] == whole["content_hash"]


def test_other_data_are_refused_and_those_of_the_run_stay(run, tables, vectors, dataset, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "a")
    other = Dataset.from_tables(
        tables[0],
        tables[1],
        {"image": vectors, "text": vectors},
        **OPTIONS | {"min_rating": None, "rating_column": None},
    )
    with pytest.raises(CheckpointError, match="so it is the values that differ"):
        train(settings(num_epochs=3), workdir, dataset=other, progress=False)
    assert_same(load_dataset(workdir / DATASET_FOLDER, ("image", "text")), dataset)
    (workdir / DATASET_FOLDER / "train.npy").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"train\.npy: not a complete \.npy"):
        evaluate(workdir)
    train(settings(), workdir, dataset=dataset, progress=False)  # which mends it
    assert evaluate(workdir) == metrics(run[1])


@pytest.mark.parametrize("file", ["user_ids.npy", "item_ids.npy"])
def test_a_run_without_its_ids_says_so_until_they_are_back(file, run, dataset, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "a")
    (workdir / DATASET_FOLDER / file).unlink()
    with pytest.raises(DataError, match=f"{file} is missing, and with it which user or item is which"):
        evaluate(workdir)
    train(settings(), workdir, dataset=dataset, progress=False)
    assert_same(load_dataset(workdir / DATASET_FOLDER, ("image", "text")), dataset)
    assert evaluate(workdir) == metrics(run[1])


def test_the_same_data_under_other_ids_are_other_data(run, dataset, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "a")
    labels = dataclasses.replace(dataset.labels, user_ids=dataset.labels.user_ids[::-1])
    with pytest.raises(CheckpointError, match="the same data with other user ids"):
        train(settings(num_epochs=3), workdir, dataset=dataclasses.replace(dataset, labels=labels), progress=False)
    assert_same(load_dataset(workdir / DATASET_FOLDER, ("image", "text")), dataset)


def test_data_that_no_run_has_written_stay(dataset, tmp_path):
    write_folder(tmp_path / DATASET_FOLDER, folder_arrays(dataset), {"interactions": "orders.csv"}, overwrite=False)
    (tmp_path / DATASET_FOLDER / "notes.txt").write_text("mine")
    other = dataclasses.replace(dataset, content_hash="another")
    with pytest.raises(ConfigError, match="dataset holds data that no run has written"):
        train(settings(), tmp_path, dataset=other, progress=False)
    assert (tmp_path / DATASET_FOLDER / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__root": "data/mine"}, r"^config\.data\.root = 'data/mine': leave it out where a data set is given"),
        ({"data__source": "synthetic"}, r"^config\.data\.source = 'synthetic': leave it out"),
        (
            {"data__modalities": ("text",)},
            r"^config\.data\.modalities = \('text',\).* the modalities \('image', 'text'\)",
        ),
        ({"evaluation__ks": (5, 10, 50)}, r"evaluation\.ks = 50: too large, the data has 20 items"),
        ({"batch_size": 0}, r"batch_size = 0: must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(dataset, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        train(settings(**changes), tmp_path / "run", dataset=dataset)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_data_set_or_no_config_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"^dataset = 3: must be a Dataset; did you mean Dataset\.from_tables"):
        train(settings(), tmp_path / "run", dataset=3)
    with pytest.raises(ConfigError, match=r"^config = 3: must be a ConfigDict"):
        train(3, tmp_path / "run", dataset=dataset)
    with pytest.raises(ConfigError, match=r'data\.source = "run": a run folder holds the data'):
        load_data(settings(data__source="run").data)


def test_one_modality_needs_no_word_about_it(tables, vectors, tmp_path):
    """The default config names two; its open weights are those of the data set's."""
    config = default_config("ease")
    config.evaluation.ks, config.evaluation.metric = (5, 10), "recall@10"
    made = Dataset.from_tables(tables[0], tables[1], {"image": vectors}, **OPTIONS)
    assert train(config, tmp_path / "run", dataset=made, progress=False)["model"] == "ease"
    with pytest.raises(ConfigError, match="a bucket cannot hold the data"):
        keep_dataset(config, made, "gs://a-bucket/run")


def test_the_config_that_is_given_stays_as_it_was(dataset, tmp_path):
    config = default_config("popular")
    config.evaluation.ks = (5,)
    config.evaluation.metric = "recall@5"
    before = config.to_json()
    train(config, tmp_path / "run", dataset=dataset, progress=False)
    assert config.to_json() == before


def test_a_matrix_is_what_scipy_says_it_is():
    """Values of one place are added up, whatever format they came in; what is no number is refused."""
    features = {"image": (np.arange(15), np.eye(15))}
    rng = np.random.default_rng(0)
    rows, columns, values = rng.integers(0, 20, 500), rng.integers(0, 15, 500), rng.integers(-1, 2, 500)
    given = scipy.sparse.coo_array((values, (rows, columns)), shape=(20, 15))
    summed = given.tocsr()
    summed.eliminate_zeros()
    kept = given.data.copy()
    assert_same(Dataset.from_tables(given, features=features), Dataset.from_tables(summed, features=features))
    np.testing.assert_array_equal(given.data, kept)
    for bad in (np.nan, np.inf, 1j):
        with pytest.raises(DataError, match="real, finite numbers"):
            Dataset.from_tables(scipy.sparse.coo_array(([1, bad], ([0, 1], [0, 1]))), features=features)


def test_two_columns_of_one_name_are_refused(tables):
    columns = {5: tables[0]["who"], "5": tables[0]["sku"]}
    with pytest.raises(DataError, match="two columns are called the same as text, of 5, '5'"):
        Dataset.from_tables(columns, user_column="5", item_column="5")
