"""Metrics of each user against those of runs, and their files."""

import numpy as np
import polars as pl
import pytest

from rearm_jax import train
from rearm_jax.data.dataset import group_by_user, make_dataset
from rearm_jax.errors import DataError
from rearm_jax.evaluation.scoring import rank_split, scores_metrics
from rearm_jax.evaluation.user_metrics import read_user_metrics, user_metrics, write_user_metrics
from rearm_jax.inference.trained import load_trained
from tests.conftest import tiny_config

KS = (5, 20)


@pytest.fixture
def dataset():
    """Fifty users, of whom those from 40 on have no test interaction."""
    rng = np.random.default_rng(0)
    pairs = np.array([(user, item) for user in range(50) for item in rng.permutation(30)[:8]], np.int32)
    part = np.arange(len(pairs)) % 8
    test = pairs[(part >= 6) & (pairs[:, 0] < 40)]
    return make_dataset(pairs[part < 5], pairs[part == 5], test, {"text": np.ones((30, 2), np.float32)})


def test_the_mean_is_what_the_run_says(dataset):
    table = np.random.default_rng(1).normal(size=(50, 30)).astype(np.float32)
    reported = scores_metrics(lambda users: table[users], dataset, "test", KS, block_size=7)
    metrics = user_metrics(*rank_split(lambda users: table[users], dataset, "test", 20, block_size=7), KS)
    assert {f"test/{name}" for name in metrics} == reported.keys()
    for name, values in metrics.items():
        assert values.shape == (50,)
        assert np.isnan(values[40:]).all()
        assert values[:40].mean() == reported[f"test/{name}"]  # to the bit


@pytest.mark.parametrize("model", ["itemknn", "lightgcn"])
def test_the_mean_is_what_result_json_says(model, tmp_path):
    result = train(tiny_config(model__name=model, num_epochs=1), tmp_path / "run")
    trained = load_trained(str(tmp_path / "run"))
    for split in ("valid", "test"):
        metrics = user_metrics(*rank_split(trained.scores, trained.experiment.dataset, split, 10, 16), (5, 10))
        for name, values in metrics.items():
            assert np.nanmean(values) == pytest.approx(result[f"{split}/{name}"], rel=1e-12)


def test_each_user_is_in_their_place():
    positives = group_by_user(np.array([(2, 5), (0, 1), (0, 3), (4, 0)]), 6)
    lists = np.array([[[0, 9], [-1, -1]], [[3, 1], [7, 5]]])  # of users 4, padding, 0, 2
    metrics = user_metrics(lists, np.array([[4, -1], [0, 2]]), positives, (1, 2))
    nan = np.nan
    np.testing.assert_array_equal(metrics["recall@1"], [0.5, nan, 0, nan, 1, nan])
    np.testing.assert_array_equal(metrics["recall@2"], [1, nan, 1, nan, 1, nan])
    np.testing.assert_allclose(metrics["ndcg@2"], [1, nan, 1 / np.log2(3), nan, 1, nan])
    np.testing.assert_array_equal(metrics["hitrate@1"], [1, nan, 0, nan, 1, nan])


def test_a_file_has_them_as_float32_without_ids(tmp_path):
    metrics = {"recall@5": np.array([0.1, np.nan, 1.0]), "ndcg@5": np.array([1 / 3, np.nan, 0.0])}
    write_user_metrics(tmp_path / "run[1].parquet", metrics)
    table = pl.read_parquet(tmp_path / "run[1].parquet", glob=False)
    assert dict(table.schema) == {"recall@5": pl.Float32, "ndcg@5": pl.Float32}
    assert table["recall@5"].to_list() == [np.float32(0.1), None, 1.0]
    found = read_user_metrics(tmp_path / "run[1].parquet")
    assert found.keys() == metrics.keys()
    for name, values in metrics.items():
        np.testing.assert_array_equal(found[name], values.astype(np.float32))


def test_a_run_of_twenty_thousand_users_takes_little_disk(tmp_path):
    """A data set has 10 MB: fifty runs, such as ten models with five seeds, of 200 kB."""
    rng, num_users = np.random.default_rng(2), 20_000
    num_positives = rng.integers(1, 6, num_users)
    positives = (np.concatenate([[0], np.cumsum(num_positives)]), np.concatenate([np.arange(n) for n in num_positives]))
    # Items 0.. are positives: each place of a list holds one of them in 2% of lists, each of them once.
    lists = 100 + np.arange(20) + np.zeros((num_users, 1), int)
    for item in range(5):
        found = rng.random(num_users) < 0.1
        lists[found, 4 * item + rng.integers(0, 4, found.sum())] = item
    metrics = user_metrics(lists, np.arange(num_users), positives, (10, 20))
    assert 0.05 < metrics["recall@20"].mean() < 0.2
    write_user_metrics(tmp_path / "run.parquet", metrics)
    assert (tmp_path / "run.parquet").stat().st_size < 200_000


@pytest.mark.parametrize("content", [b"", b"no table"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "run.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"run\.parquet: metrics of users cannot be read"):
        read_user_metrics(tmp_path / "run.parquet")
    with pytest.raises(DataError, match=r"none\.parquet"):
        read_user_metrics(tmp_path / "none.parquet")


def test_another_table_is_refused(tmp_path):
    pl.DataFrame({"user": ["a"], "recall@5": pl.Series([0.5], dtype=pl.Float32)}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"found user \(String\)"):
        read_user_metrics(tmp_path / "t.parquet")
