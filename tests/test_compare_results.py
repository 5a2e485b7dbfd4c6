"""The files of a comparison: what is written is read again, workdirs are joined, what does not fit is refused."""

import json
import os
import shutil

import numpy as np
import polars as pl
import pytest

from rearm_jax.compare.results import RUN, read_results, write_results
from rearm_jax.errors import ConfigError, DataError
from tests.comparison import METRICS, NUM_SCORED, NUM_USERS, ROWS, about, write

FIRST, SECOND = list(ROWS)[:3], list(ROWS)[3:]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder, write(folder)


def test_what_was_written_is_read(written):
    folder, users = written
    results = read_results([folder])
    assert results.about["rows"] == list(ROWS)
    [source] = results.about["sources"]
    assert (source["folder"], source["tries"], source["seeds"]) == (str(folder), 8, 3)
    assert source["command"].startswith("python -m")
    assert results.runs.filter(pl.col("error") == "killed")["row"].to_list() == ["REARM", "REARM"]
    for data, of_data in users.items():
        rows = dict.fromkeys(row for row, _ in of_data)
        assert results.users[data].keys() == rows.keys()
        for row in rows:
            numbers = sorted(number for name, number in of_data if name == row)
            assert numbers == ([0, 2] if row == "REARM" else list(range(len(numbers))))
            for metric in METRICS:
                given = [of_data[row, number][metric] for number in numbers]
                wanted = np.stack([values[~np.isnan(values)] for values in given]).astype(np.float32)
                assert wanted.shape == (len(numbers), NUM_SCORED)
                np.testing.assert_array_equal(results.users[data][row][metric], wanted)
                assert results.users[data][row][metric].dtype == np.float32


def test_the_files_are_what_is_said_of_them(written):
    folder, _ = written
    assert sorted(path.name for path in folder.iterdir()) == ["compare.json", "results.parquet", "users"]
    table = pl.read_parquet(folder / "users" / "baby.parquet")
    assert len(table) == NUM_USERS
    assert set(table.dtypes) == {pl.Float32}
    assert f"FREEDOM/no graph/2/{METRICS[0]}" in table.columns
    assert table["EASE/0/ndcg@20"].null_count() == NUM_USERS - NUM_SCORED
    assert dict(pl.read_parquet(folder / "results.parquet").schema) == RUN
    assert json.loads((folder / "compare.json").read_text("utf-8"))["reference"] == "LightGCN"


def test_numbers_of_seeds_have_no_order_of_text(tmp_path):
    """Seed 10 comes after seed 9."""
    run = {"data": "d", "row": "A", "kind": "final", "status": "done", "model": "a", "settings": "{}", "numerics": 1}
    run["closed_form"] = False
    users = {("A", n): {"ndcg@20": np.array([n, np.nan, n + 0.5])} for n in (10, 9, 0)}
    facts = about(data=["d"])["data"]["d"] | {"users": 3}
    write_results(
        tmp_path,
        about(rows=["A"], reference="A", data=["d"]) | {"data": {"d": facts}},
        [run | {"number": n} for n in (10, 9, 0)],
        {"d": users},
    )
    values = read_results([tmp_path]).users["d"]["A"]["ndcg@20"]
    assert values.tolist() == [[0, 0.5], [9, 9.5], [10, 10.5]]


def test_workdirs_with_other_rows_and_other_data_are_joined(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    write(tmp_path / "a", rows=FIRST, data=["baby"])
    write(tmp_path / "b", rows=SECOND, data=["baby"], reference="REARM", tries=99)
    write(tmp_path / "c", rows=FIRST, data=["office"])
    results = read_results([tmp_path / name for name in "abc"])
    assert results.about["rows"] == FIRST + SECOND
    assert list(results.about["data"]) == ["baby", "office"]
    assert results.about["reference"] == "LightGCN"
    assert [source["tries"] for source in results.about["sources"]] == [8, 99, 8]
    assert set(results.users["baby"]) == set(ROWS) - {"REARM, 3 layers"}
    assert set(results.users["office"]) == set(FIRST)
    parts = [read_results([tmp_path / name]) for name in "abc"]
    assert len(results.runs) == sum(len(part.runs) for part in parts)
    np.testing.assert_array_equal(results.users["baby"]["REARM"]["ndcg@20"], parts[1].users["baby"]["REARM"]["ndcg@20"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "recall@20"}, r"/a has metric ndcg@20, .*/b has recall@20"),
        ({"select_by": "ndcg@10"}, r"/a has select_by recall@20, .*/b has ndcg@10"),
        ({"numerics": 2}, r"/a has numerics 1, .*/b has 2"),
        ({"content_hash": "other"}, r"/a has content_hash c-baby of the data set baby, .*/b has other"),
        ({"split_hash": "other"}, r"/a has split_hash s-baby of the data set baby, .*/b has other"),
        ({"rows": SECOND + FIRST[-1:]}, r"/a and .*/b both have the row 'LightGCN' on baby"),
    ],
)
def test_workdirs_that_disagree_are_refused(tmp_path, changes, message):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write(tmp_path / "a", rows=FIRST, data=["baby"])
    write(tmp_path / "b", rows=changes.pop("rows", SECOND), data=["baby"])
    path = tmp_path / "b" / "compare.json"
    head = json.loads(path.read_text())
    for name in {"content_hash", "split_hash"} & changes.keys():
        head["data"]["baby"][name] = changes.pop(name)
    path.write_text(json.dumps(head | changes))
    if "numerics" in changes:
        runs = pl.read_parquet(tmp_path / "b" / "results.parquet").with_columns(numerics=pl.lit(2, pl.Int64))
        rewrite(tmp_path / "b", runs)
    with pytest.raises(DataError, match=message):
        read_results([tmp_path / "a", tmp_path / "b"])


def rewrite(folder, runs):
    """Other runs, with the digest that belongs to them."""
    import hashlib

    runs.write_parquet(folder / "results.parquet")
    head = json.loads((folder / "compare.json").read_text())
    head["files"]["results.parquet"] = hashlib.sha256((folder / "results.parquet").read_bytes()).hexdigest()
    (folder / "compare.json").write_text(json.dumps(head))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: runs.drop("seed"), r"results\.parquet: columns .* missing \['seed'\]"),
        (lambda runs: runs.with_columns(kind=pl.lit("finale")), r"kind is 'finale', and .* search, final"),
        (lambda runs: runs.with_columns(row=pl.lit("Nobody")), r"row is 'Nobody'"),
        (lambda runs: runs.with_columns(numerics=pl.lit(7, pl.Int64)), r"numerics is 7, and compare\.json has 1"),
        (lambda runs: pl.concat([runs, runs[:1]]), r"the run \('baby', 'MostPopular', 'search', 0\) is there twice"),
        (
            lambda runs: runs.with_columns(
                number=pl.when(pl.col("kind") == "final").then(pl.col("number") + 5).otherwise(pl.col("number"))
            ),
            r"users/baby\.parquet: has no metrics of MostPopular, number 5",
        ),
    ],
)
def test_runs_that_cannot_be_are_refused(written, tmp_path, change, message):
    folder = shutil.copytree(written[0], tmp_path / "copy")
    rewrite(folder, change(pl.read_parquet(folder / "results.parquet")))
    with pytest.raises(DataError, match=f"copy/.*{message}"):
        read_results([folder])


@pytest.mark.parametrize("name", ["results.parquet", "users/office.parquet"])
def test_files_of_two_writings_are_not_read_as_one(written, tmp_path, name):
    folder = shutil.copytree(written[0], tmp_path / "copy")
    with open(folder / name, "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=rf"copy/{name}: is missing, or not what compare\.json was written with"):
        read_results([folder])
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"copy/{name}: is missing"):
        read_results([folder])


def test_a_folder_without_a_comparison_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/compare\.json: cannot be read .* give the comparison"):
        read_results([tmp_path])


def test_what_cannot_be_written_leaves_the_old_results(written, tmp_path, monkeypatch):
    folder = shutil.copytree(written[0], tmp_path / "copy")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"a run has \['sed'\]"):
        write_results(folder, about(), [{"sed": 1}], {})
    with pytest.raises(pl.exceptions.ComputeError, match="three"):
        write_results(folder, about(), [{"number": "three"}], {})
    with pytest.raises(ConfigError, match=r"data set '\.\./x': its name becomes that of a file"):
        write_results(folder, about(data=["../x"]), [], {})
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    # A disk that fails between two files: what is there is refused, and nothing temporary is left.
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(folder, rows=FIRST)
    monkeypatch.setattr(os, "replace", replace)
    assert not list(folder.rglob("*.tmp"))
    with pytest.raises(DataError, match="give the comparison's command again"):
        read_results([folder])
    write(folder, rows=FIRST)
    assert read_results([folder]).about["rows"] == FIRST


def test_ten_models_and_five_seeds_of_twenty_thousand_users_are_ten_megabytes_at_most(tmp_path):
    rng, num_users, rows = np.random.default_rng(0), 20_000, [f"model {number}" for number in range(10)]
    num_positives = rng.integers(1, 6, num_users)
    users = {}
    for row in rows:
        for number in range(5):
            hits = rng.binomial(num_positives, 0.1)
            gains = hits * rng.choice(1 / np.log2(np.arange(2, 22)), num_users)
            metrics = {"recall@20": hits / num_positives, "ndcg@20": gains / num_positives}
            metrics |= {"recall@10": metrics["recall@20"] * (rng.random(num_users) < 0.6)}
            users[row, number] = metrics | {"ndcg@10": metrics["ndcg@20"] * (metrics["recall@10"] > 0)}
    write_results(tmp_path, about(rows=rows, data=["d"]), [], {"d": users})
    assert (tmp_path / "users" / "d.parquet").stat().st_size < 10e6
