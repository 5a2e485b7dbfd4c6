"""What a finished run says of itself."""

import shlex

import numpy as np
import pytest

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.evaluation.popularity import found_by_popularity
from rearm_jax.training.outcome import next_commands, table, weaknesses

NAMES = ("recall", "ndcg", "precision", "map", "hitrate")


def make_result(model=0.3, popular=0.1, groups=(), **changes):
    def metrics(value):
        return {f"{split}/{name}@{k}": value for split in ("valid", "test") for name in NAMES for k in (10, 20)}

    result = {"model": "rearm", "best_epoch": 3, "epochs": 9, "seconds": 12.3, "test_by_popularity": list(groups)}
    yardsticks = {"most_popular": metrics(popular), "random": metrics(0.01)}
    return {**metrics(model), **result, "yardsticks": yardsticks, **changes}


def group(positives, found, low=0, high=3):
    return {"train_interactions": [low, high], "items": 40, "positives": positives, "found": found}


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("recall@20", ["recall@20", "ndcg@20", "precision@20", "hitrate@20"]),
        ("map@10", ["map@10", "recall@10", "ndcg@10", "precision@10"]),
    ],
)
def test_the_table_has_the_metric_that_chose_and_three_more(metric, shown):
    first, head, *rows = table(make_result(), metric).splitlines()
    assert first == "best epoch 3 of 9, 12 s"
    assert head.split() == ["rearm", "most_popular", "random"]
    assert [row.split()[0] for row in rows] == [f"valid/{metric}", *(f"test/{name}" for name in shown)]
    assert {tuple(row.split()[1:]) for row in rows} == {("0.3000", "0.1000", "0.0100")}


def test_a_good_run_has_no_weakness():
    groups = [group(500, 1), group(199, 0), group(5000, 900)]
    assert weaknesses(make_result(groups=groups), "recall@20") == []
    old = make_result()
    del old["test_by_popularity"]  # a result of an earlier version
    assert weaknesses(old, "recall@20") == []


@pytest.mark.parametrize("value", [0.1, 0.0999])
def test_a_run_that_does_not_beat_most_popular(value):
    [said] = weaknesses(make_result(model=value), "ndcg@10")
    assert "does not beat recommending the most popular items" in said
    assert f"test/ndcg@10 is {value:.4f}, theirs 0.1000" in said
    assert "config.learning_rate" in said
    assert "config.model.name=lightgcn in another run folder" in said
    assert "num_epochs" not in said
    [of_lightgcn] = weaknesses(make_result(model=value) | {"model": "lightgcn", "epochs": 3}, "ndcg@10")
    assert "config.model.name=rearm" in of_lightgcn
    assert "config.num_epochs; the same run goes on" in of_lightgcn


def test_a_group_of_items_in_which_nothing_is_found():
    [said] = weaknesses(make_result(groups=[group(200, 0, 1, 3), group(900, 5)]), "recall@20")
    assert "nothing among the 40 items with 1 to 3 train interactions: none of their 200 test interactions" in said
    assert "first 20 of its user" in said
    assert "config.graph.item_cooccurrence_weight" in said
    [of_lightgcn] = weaknesses(make_result(groups=[group(200, 0, 0, 0)]) | {"model": "lightgcn"}, "recall@20")
    assert "with 0 train interactions" in of_lightgcn
    assert "item_cooccurrence_weight" not in of_lightgcn


def test_found_by_popularity_against_plain_loops():
    dataset = make_synthetic(60, 40, 8, 4, seed=0, modalities=("image",))
    rng = np.random.default_rng(0)
    users = np.unique(dataset.test[:, 0])
    lists = np.stack([rng.permutation(40)[:10] for _ in users])
    lists[:, 9] = -1  # where candidates ran out
    blocks = np.full(64, -1), np.zeros((64, 10), int)  # padded as `make_blocks` does
    blocks[0][: len(users)], blocks[1][: len(users)] = users, lists
    groups = found_by_popularity(dataset, "test", blocks[0].reshape(4, 16), blocks[1].reshape(4, 16, 10))

    counts = np.bincount(dataset.train[:, 1], minlength=40)
    assert len(groups) == 5
    assert sum(one["items"] for one in groups) == 40
    assert sum(one["positives"] for one in groups) == len(dataset.test)
    list_of = dict(zip(users.tolist(), lists.tolist(), strict=True))
    for one in groups:
        low, high = one["train_interactions"]
        inside = [(user, item) for user, item in dataset.test.tolist() if low <= counts[item] <= high]
        assert one["items"] == sum(low <= count <= high for count in counts)
        assert one["positives"] == len(inside)
        assert one["found"] == sum(item in list_of[user] for user, item in inside)
    assert sum(one["found"] for one in groups) > 0


def test_next_commands_can_be_copied():
    lines = next_commands(".venv/bin/python -m rearm_jax.main", "runs/it's mine", ["a,b", " c", "d e", 7, 8]).split(
        "\n"
    )
    assert lines[0] == "next:"
    words = [shlex.split(line) for line in lines[1:]]
    assert all(line[:3] == [".venv/bin/python", "-m", "rearm_jax.main"] for line in words)
    assert [line[4] for line in words] == ["evaluate", "recommend", "export", "visualize"]
    assert all(line[6] == "runs/it's mine" for line in words)
    assert words[1][7:] == ["--users", "d e,7", "--k", "10"]
    assert not any("#" in line for line in lines)  # zsh takes no comment where people type
    assert "--users" not in next_commands("p", "w", ["a,b"])
