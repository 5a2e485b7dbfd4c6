"""Lists against what followed them: by sets in Python; the formats, the bounds and their exit code, what is refused."""

import csv
import json
import sys

import numpy as np
import polars as pl
import pytest
from absl.testing import flagsaver

from rearm_jax import main
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.inference.review import below_bounds, review


def random_lists(rng, users, num_items, length):
    return {user: [f"i{item}" for item in rng.permutation(num_items)[:length]] for user in users}


def write_csv(path, lists, columns=("user", "item")):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows((user, item) for user, items in lists.items() for item in items)
    return path


def write_jsonl(path, lists):
    objects = [
        {"user": user, "source": "model", "items": [{"item": i} for i in items]} for user, items in lists.items()
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def write_parquet(path, lists):
    rows = [(user, item) for user, items in lists.items() for item in items]
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_parquet(path)
    return path


def mean_share(some, others):
    return np.mean([len({*some[u]} & {*others[u]}) / len({*some[u]}) for u in some.keys() & others.keys()])


@pytest.mark.parametrize("seed", range(3))
def test_every_measure_by_sets(tmp_path, seed):
    rng = np.random.default_rng(seed)
    lists = random_lists(rng, [f"u{n}" for n in range(30)], 40, 6)
    before = random_lists(rng, [f"u{n}" for n in range(20, 50)], 60, 9)
    orders = {f"u{n}": [f"i{item}" for item in rng.integers(0, 50, 5)] for n in range(10, 40)}  # some of them twice
    table = write_csv(tmp_path / "orders.csv", orders, ("customer", "sku"))
    files = [write_csv(tmp_path / "a.csv", lists), write_jsonl(tmp_path / "a.jsonl", lists)]
    files.append(write_parquet(tmp_path / "a.parquet", lists))
    old = write_jsonl(tmp_path / "b.jsonl", before)
    listed, ordered = ({item for items in one.values() for item in items} for one in (lists, orders))
    for file in files:
        found = review(file, table, old, "customer", "sku")
        assert found == {
            "users": 20,
            "users_without_list": 10,
            "recall": pytest.approx(mean_share(orders, lists)),
            "coverage": pytest.approx(len(listed) / len(listed | ordered)),
            "overlap": pytest.approx(mean_share(lists, before)),
        }
    assert "overlap" not in review(files[0], table, None, "customer", "sku")


def test_integers_are_the_text_of_them(tmp_path):
    pl.DataFrame({"user": [1, 1, 2], "item": [10, 11, 12]}).write_parquet(tmp_path / "lists.parquet")
    (tmp_path / "orders.csv").write_text("user,item\n1,10\n2,13\n")
    assert review(tmp_path / "lists.parquet", tmp_path / "orders.csv")["recall"] == 0.5


def test_a_job_learns_of_lists_that_are_worse_than_its_bounds(tmp_path, monkeypatch, capsys, caplog):
    lists = write_csv(tmp_path / "lists.csv", {"a": ["x", "y"], "b": ["x", "z"]})
    orders = write_csv(tmp_path / "orders.csv", {"a": ["x", "w"], "b": ["v"], "c": ["x"]})
    command = ["main", "--mode=review", f"--lists={lists}", f"--interactions={orders}"]

    def code(*bounds):
        monkeypatch.setattr(sys, "argv", [*command, *bounds])
        with flagsaver.flagsaver():
            return main.main()

    assert code() == 0
    assert json.loads(capsys.readouterr().out) == {
        "users": 2,
        "users_without_list": 1,
        "recall": 0.25,
        "coverage": 3 / 5,
    }
    assert code("--min_recall=0.25", "--min_coverage=0.6") == 0
    assert code("--min_recall=0.26") == 3
    assert "recall 0.2500 is below 0.26" in caplog.text
    assert code("--min_coverage=0.7") == 3
    assert code("--min_overlap=0.5", f"--before={lists}") == 0
    assert code("--min_overlap=0.5") == 1
    assert code("--min_recall=nan") == 1


def test_files_that_will_not_do(tmp_path):
    lists = write_csv(tmp_path / "lists.csv", {"a": ["x"]})
    orders = write_csv(tmp_path / "orders.csv", {"b": ["x"]})
    with pytest.raises(DataError, match=r"no user of .*orders\.csv \('b'\) has a list in .*lists\.csv \('a'\)"):
        review(lists, orders)
    with pytest.raises(DataError, match="there is no such file"):
        review(tmp_path / "none.csv", orders)
    for text in ("{}", '{"user": 1, "items": [{}]}', '{"user": 1, "items": 3}', "{", '{"user": 1, "items": []}\n\n'):
        (tmp_path / "lists.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"lists\.jsonl, line \d: is no list"):
            review(tmp_path / "lists.jsonl", orders)
    with pytest.raises(DataError, match=r"no user of .*lists\.csv .* has a list in .*orders\.csv"):
        review(lists, write_csv(tmp_path / "more.csv", {"a": ["x"]}), before=orders)
    with pytest.raises(ConfigError, match=r"min_overlap = 0\.1: name the lists before"):
        below_bounds({"recall": 0.5}, {"recall": None, "overlap": 0.1})
