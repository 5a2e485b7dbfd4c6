"""Rules for lists: what is allowed, and how many of a brand, against walking down a sorted list in plain Python."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from absl.testing import flagsaver

from rearm_jax import Rules, load, main, train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.inference.recommend import recommend
from rearm_jax.inference.recommend_files import recommend_run
from rearm_jax.inference.rules import check_rules, parse_max_per
from rearm_jax.inference.trained import load_trained
from rearm_jax.training import result as results
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS, K = 60, 40, 8
BRANDS = ["", "Ash", "Birch", "Cedar", "Elm"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ItemKNN on a folder with text ids, and the table of its items."""
    folder = tmp_path_factory.mktemp("rules")
    data = make_synthetic(NUM_USERS, NUM_ITEMS, 8, 6, 0, ("image", "text"))
    for name in ("train", "valid", "test"):
        np.save(folder / f"{name}.npy", getattr(data, name).T)
    for name, table in data.features.items():
        np.save(folder / f"{name}_feat.npy", table)
    np.save(folder / "user_ids.npy", np.array([f"U{user:02}" for user in range(NUM_USERS)]))
    np.save(folder / "item_ids.npy", np.array([f"P{item:02}" for item in range(NUM_ITEMS)]))
    with open(folder / "items.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("sku", "brand", "kind"))
        writer.writerows((f"P{item:02}", brand(item), f"kind {item % 7}") for item in reversed(range(NUM_ITEMS - 2)))
    config = tiny_config(
        model__name="itemknn", data__source="folder", data__root=str(folder), evaluation__block_size=16
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "random_metrics", lambda *_, **__: {})  # to compile it takes longer than all else
        train(config, folder / "run")
    return folder


@pytest.fixture(scope="module")
def trained(run):
    return load_trained(str(run / "run"))


def brand(item):
    return BRANDS[item * item % 5]


def brand_in_table(item):
    return brand(item) if item < NUM_ITEMS - 2 else ""


def kind_in_table(item):
    return f"kind {item % 7}" if item < NUM_ITEMS - 2 else ""


def walk(trained, scores, allow=None, limits=()):
    """Lists of rows of items for each row of scores; limits: (value of an item, how many)."""
    data = trained.experiment.dataset
    seen = {tuple(pair) for split in (data.train, data.valid, data.test) for pair in split.tolist()}
    lists = []
    for user, row in enumerate(scores):
        chosen = []
        for item in sorted(range(NUM_ITEMS), key=lambda item, row=row: (-row[item], item)):
            full = any(
                value(item) and sum(value(other) == value(item) for other in chosen) >= most for value, most in limits
            )
            if (user, item) not in seen and (allow is None or (user, item) in allow) and not full:
                chosen.append(item)
        lists.append(chosen[:K])
    return lists


def model_scores(trained):
    return np.asarray(trained.scores(np.arange(NUM_USERS, dtype=np.int32)))


def collect(answer):
    """{user: rows of items}"""
    _, lists = answer
    return {
        user: items[items >= 0].tolist() for some in lists for user, items in zip(some.users, some.items, strict=True)
    }


def test_items_in_stock(trained, run):
    stock = [item for item in range(NUM_ITEMS) if item % 3]
    found = collect(recommend(trained, k=K, rules=Rules(allow=[f"P{item:02}" for item in stock])))
    allow = {(user, item) for user in range(NUM_USERS) for item in stock}
    assert list(found.values()) == walk(trained, model_scores(trained), allow)
    (run / "stock.csv").write_text("\ufeff" + "".join(f"P{item:02}\n" for item in [*stock, 99]))
    assert collect(recommend(trained, k=K, rules=Rules(allow=run / "stock.csv"))) == found


def test_a_small_stock_makes_short_lists(trained):
    found = collect(recommend(trained, k=K, rules=Rules(allow=["P01", "P07"])))
    assert list(found.values()) == walk(
        trained, model_scores(trained), {(u, i) for u in range(NUM_USERS) for i in (1, 7)}
    )
    with pytest.raises(DataError, match="no item is left"):
        recommend(trained, k=K, never=["P01"], rules=Rules(allow=["P01"]))


def test_items_allowed_to_users(trained, caplog):
    """Blocks of 16 users; users in no pair; one that is not in the catalogue."""
    rng = np.random.default_rng(0)
    allow = {(user, int(item)) for user in range(0, NUM_USERS - 3, 2) for item in rng.choice(NUM_ITEMS, 12)}
    pairs = [(f"U{user:02}", f"P{item:02}") for user, item in allow] + [("nobody", "P03"), ("U01", "P99")]
    found = collect(recommend(trained, k=K, rules=Rules(allow=pairs)))
    assert list(found.values()) == walk(trained, model_scores(trained), allow)
    assert "1 users of the pairs to allow are not in the catalogue: 'nobody'" in caplog.text
    assert "1 items to allow are not in the catalogue: 'P99'" in caplog.text
    assert "31 of 60 users have no item that is allowed: their lists are empty" in caplog.text
    found = collect(recommend(trained, ["nobody", "U00", "other"], K, unknown="popular", rules=Rules(allow=pairs)))
    assert (found["nobody"], found["other"]) == ([3], [])


def test_at_most_so_many_of_a_brand(trained, run, caplog):
    limits = {"brand": 2, "kind": 1}
    rules = Rules(max_per=limits, items=run / "items.csv", item_id_column="sku")
    found = collect(recommend(trained, k=K, rules=rules))
    both = [(brand_in_table, 2), (kind_in_table, 1)]
    assert list(found.values()) == walk(trained, model_scores(trained), None, both)
    free = sum(not brand_in_table(item) for item in range(NUM_ITEMS))
    assert f"{free} of 40 items have no brand in {run / 'items.csv'}: not limited" in caplog.text
    # The same rule for who is not in the catalogue, whose list is of the most popular items.
    found = collect(recommend(trained, ["nobody"], K, unknown="popular", rules=rules))
    counts = np.bincount(trained.experiment.dataset.train[:, 1], minlength=NUM_ITEMS)
    nobody = np.full((NUM_USERS + 1, NUM_ITEMS), counts)
    assert found["nobody"] == walk(trained, nobody, None, both)[-1]


def test_rules_go_together_on_the_command_line_and_in_python(trained, run, monkeypatch):
    stock = [f"P{item:02}" for item in range(5, NUM_ITEMS)]
    (run / "allow.csv").write_text("\n".join(stock))
    rules = Rules(run / "allow.csv", {"brand": 1}, run / "items.csv", "sku")
    recommend_run(trained, None, K, "parquet", run / "lists.parquet", rules=rules)
    rows = pyarrow.parquet.read_table(run / "lists.parquet").to_pylist()
    allow = {(user, item) for user in range(NUM_USERS) for item in range(5, NUM_ITEMS)}
    lists = walk(trained, model_scores(trained), allow, [(brand_in_table, 1)])
    expected = [(f"U{user:02}", f"P{item:02}") for user, items in enumerate(lists) for item in items]
    assert [(row["user"], row["item"]) for row in rows] == expected
    answers = load(run / "run").recommend(k=K, rules=Rules(stock, {"brand": 1}, run / "items.csv", "sku"))
    assert [(one["user"], place["item"]) for one in answers for place in one["items"]] == expected
    for name in ("initialize", "_keep_compiled_programs"):
        monkeypatch.setattr(main, name, lambda *_: None)
    flags = (f"--allow={run}/allow.csv", "--max_per=brand=1", f"--items={run}/items.csv", "--item_id_column=sku")
    command = ("main", "--mode=recommend", f"--workdir={run}/run", f"--out={run}/lists.jsonl", f"--k={K}", *flags)
    monkeypatch.setattr("sys.argv", list(command))
    with flagsaver.flagsaver():
        assert main._dispatch() == 0
    lines = [json.loads(line) for line in (run / "lists.jsonl").read_text().splitlines()]
    assert lines == answers


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (Rules(allow="no.csv"), ConfigError, "allow = 'no.csv': there is no such file"),
        (Rules(allow=[]), ConfigError, r"allow = \[\]: must be a list of ids of items or of pairs"),
        (Rules(allow=["P01", ("U01", "P02")]), ConfigError, "must be a list of ids of items or of pairs"),
        (Rules(allow=3), ConfigError, "must be a list of ids of items or of pairs"),
        (Rules(allow=[1.5]), ConfigError, r"allow\[0\] = 1.5: must be text or an integer"),
        (Rules(allow=["B1", "B2"]), DataError, "none of the items to allow is in the catalogue: 'B1', 'B2'"),
        (Rules(max_per={"brand": 2}), ConfigError, "max_per needs `items`"),
        (Rules(items=__file__), ConfigError, "`items` is the table of items for max_per, which is not given"),
        (Rules(max_per={"brand": 0}, items=__file__), ConfigError, "'brand' = 0; must be"),
        (Rules(max_per={"brand": True}, items=__file__), ConfigError, "'brand' = True; must be"),
        (Rules(max_per=["brand"], items=__file__), ConfigError, "must name columns and numbers"),
        (Rules(max_per={"brand": 2}, items="no.csv"), ConfigError, "items = 'no.csv': there is no such file"),
        (Rules(max_per={"brand": 2}, items=[__file__]), ConfigError, r"items = \[.*must be one file"),
        (Rules(max_per={"brand": 2}, items=__file__, item_id_column=3), ConfigError, "item_id_column = 3: must be the"),
        (Rules(item_id_column="sku"), ConfigError, "item_id_column is of `items`, .* which is not given"),
        (
            Rules(allow=[Path("in.csv")]),
            ConfigError,
            r"allow\[0\] = \w*Path\('in.csv'\): .*: allow=\w*Path\('in.csv'\)",
        ),
        (Rules(allow=["P01", Path("in.csv")]), ConfigError, r"allow\[1\] = \w*Path"),
        (Rules(allow={"P01": 1}), ConfigError, r"allow = \{'P01': 1\}: must be a list"),
        (Rules(allow=iter(["P01"])), ConfigError, "allow = <.*: must be a list"),
        (Rules(fresh_share=True), ConfigError, "fresh_share = True: must be a part"),
        (Rules(fresh_below=3), ConfigError, 'fresh_below says nothing without fresh_share or only = "new"'),
        (Rules(only=["new"]), ConfigError, r"only = \['new'\]: must be one of 'new'"),
        (
            {"allow": ["P01"]},
            ConfigError,
            r"must be rearm_jax.Rules.*did you mean Rules\(\*\*\{'allow': \['P01'\]\}\)\?",
        ),
        ({"allowed": ["P01"]}, ConfigError, r"rules = \{'allowed': .*must be rearm_jax.Rules, such as [^;]*$"),
        ([Path("in.csv")], ConfigError, r"rules = \[\w*Path\('in.csv'\)\]: must be rearm_jax.Rules"),
        (None, ConfigError, "rules = None: must be rearm_jax.Rules"),
    ],
)
def test_rules_that_will_not_do(trained, rules, error, message):
    with pytest.raises(error, match=message):
        recommend(trained, rules=rules)


def test_tables_of_items_that_will_not_do(trained, tmp_path):
    table = tmp_path / "items.csv"
    for text, message in (
        ("sku,brand\nP01,Ash\n", "Name one with item_id_column, or call it item_id"),
        ("item_id,make\nP01,Ash\n", "no column 'brand'"),
        ("item_id,brand\nQ1,Ash\n", "none of the items of the catalogue is there"),
        ("item_id,brand\nP01,\n", "no item of the catalogue has a value in the column 'brand'"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            recommend(trained, rules=Rules(max_per={"brand": 2}, items=table))


def test_limits_on_the_command_line():
    assert parse_max_per(["brand=2", "a=b=10"]) == {"brand": 2, "a=b": 10}
    for texts in (["brand"], ["=2"], ["brand=two"], ["brand=-1"], ["brand=1", "brand=2"]):
        with pytest.raises(ConfigError, match=f"--max_per={texts[-1]}: must be a column of --items and a number"):
            parse_max_per(texts)
    with pytest.raises(ConfigError, match="'brand' = 0"):
        check_rules(Rules(max_per=parse_max_per(["brand=0"]), items=__file__))


def test_blanks_around_ids_of_a_file_are_cut(trained, run):
    stock = [f"P{item:02}" for item in range(0, NUM_ITEMS, 2)]
    found = collect(recommend(trained, k=K, rules=Rules(allow=stock)))
    (run / "blanks.csv").write_text("".join(f"  {item}\t\n   \n" for item in stock))
    assert collect(recommend(trained, k=K, rules=Rules(allow=run / "blanks.csv"))) == found
    (run / "blanks.csv").write_text("U00 , P03\nU01, P04 \n")
    found = collect(recommend(trained, k=K, rules=Rules(allow=run / "blanks.csv")))
    assert found == collect(recommend(trained, k=K, rules=Rules(allow=[("U00", "P03"), ("U01", "P04")])))


@pytest.mark.parametrize(
    ("text", "words"),
    [('P01\n"P02\nP03\n', "a quote that is opened has to be closed"), (";".join(["P01"] * 40_000), "line 1")],
    ids=["an open quote", "a line of all ids"],
)
def test_a_file_that_would_lose_lines_is_refused(trained, run, text, words):
    (run / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        recommend(trained, k=K, rules=Rules(allow=run / "bad.csv"))


def test_pairs_of_nobody_are_refused(trained):
    with pytest.raises(DataError, match="none of the users of the pairs to allow is in the catalogue: 'P01'"):
        recommend(trained, k=K, rules=Rules(allow=[("P01", "P02")]))


def test_a_limit_beyond_any_list_is_none(trained, run):
    rules = Rules(max_per={"brand": 2**32}, items=run / "items.csv", item_id_column="sku")
    assert collect(recommend(trained, k=K, rules=rules)) == collect(recommend(trained, k=K))
