"""Items without interactions, from the table of a shop to its lists: kept by prepare, ranked, given places."""

import csv
import json

import numpy as np
import pytest

from rearm_jax import Rules, load, train
from rearm_jax.data.prepare.__main__ import main as prepare
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.inference.new_items import own_new_items, represent_new_items
from rearm_jax.inference.recommend import recommend
from rearm_jax.inference.recommend_files import recommend_run
from rearm_jax.inference.seen import find_seen
from rearm_jax.inference.trained import load_trained
from rearm_jax.training import result as results
from tests.conftest import tiny_config

NUM_USERS, NUM_SOLD, NUM_NEW, K = 50, 40, 9, 10
BELOW = 6  # items with fewer train interactions are fresh


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """orders.csv, items.csv and features of items, of which the last NUM_NEW were never ordered; runs on them."""
    folder, rng = tmp_path_factory.mktemp("fresh"), np.random.default_rng(0)
    kinds = rng.standard_normal((5, 8))
    features = kinds[np.arange(NUM_SOLD + NUM_NEW) % 5] + rng.standard_normal((NUM_SOLD + NUM_NEW, 8)) / 2
    ids = [f"P{item:02}" for item in range(NUM_SOLD + NUM_NEW)]
    np.save(folder / "features.npy", features)
    np.save(folder / "ids.npy", np.array(ids))
    weights = np.linspace(1, 20, NUM_SOLD) / np.linspace(1, 20, NUM_SOLD).sum()
    orders = [(user, item) for user in range(NUM_USERS) for item in rng.choice(NUM_SOLD, 8, False, weights)]
    orders = {*orders, *((item, item) for item in range(NUM_SOLD))}  # each of them is sold
    orders = [(f"C{user:02}", ids[item]) for user, item in sorted(orders)]
    for name, header, rows in (
        ("orders.csv", ("user_id", "item_id"), orders),
        ("items.csv", ("item_id", "title"), [(one, f"Thing {one}") for one in ids]),
    ):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    paths = {name: str(folder / name) for name in ("orders.csv", "items.csv", "features.npy", "ids.npy")}
    flags = ("--interactions", paths["orders.csv"], "--items", paths["items.csv"], "--name_column", "title")
    flags += ("--features", f"text={paths['features.npy']}", "--feature_ids", f"text={paths['ids.npy']}")
    assert prepare([*flags, "--catalogue", "all", "--out", str(folder / "data")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "random_metrics", lambda *_, **__: {})  # to compile it takes longer than all else
        for model in ("bpr", "itemknn"):
            config = tiny_config(
                model__name=model,
                num_epochs=2,
                data__source="folder",
                data__root=str(folder / "data"),
                data__modalities=("text",),
                evaluation__block_size=16,
            )
            train(config, folder / model, progress=False)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    return load_trained(str(folder / "bpr"))


def all_scores(trained):
    """float (users, sold and new items)."""
    out, new = trained.representations, own_new_items(trained)
    return np.asarray(out.users) @ np.concatenate([out.items, represent_new_items(trained, new.features)]).T


def is_fresh(trained):
    counts = np.bincount(trained.experiment.dataset.train[:, 1], minlength=NUM_SOLD + NUM_NEW)
    fresh = counts < BELOW
    assert NUM_NEW < fresh.sum() < 25
    return fresh


def best(scores, candidates, places):
    return sorted(candidates, key=lambda item: (-scores[item], item))[:places]


def candidates_of(trained):
    data = trained.experiment.dataset
    seen = {tuple(pair) for split in (data.train, data.valid, data.test) for pair in split.tolist()}
    return [[i for i in range(NUM_SOLD + NUM_NEW) if (user, i) not in seen] for user in range(data.num_users)]


def lists_of(trained, rules, k=K, **arguments):
    items, lists = recommend(trained, k=k, new_items=own_new_items(trained), rules=rules, **arguments)
    assert items.num_new == NUM_NEW
    assert items.names[-1] == f"Thing P{NUM_SOLD + NUM_NEW - 1}"
    return [row[row >= 0].tolist() for some in lists for row in some.items]


def test_new_items_of_the_data_are_ranked(trained, folder):
    expected = [
        best(row, candidates, K) for row, candidates in zip(all_scores(trained), candidates_of(trained), strict=True)
    ]
    assert any(item >= NUM_SOLD for row in expected for item in row)
    assert lists_of(trained, Rules()) == expected
    recommend_run(trained, k=K, out=folder / "lists.jsonl")
    lines = [json.loads(line) for line in (folder / "lists.jsonl").read_text().splitlines()]
    assert [[place["item"] for place in one["items"]] for one in lines] == [
        [f"P{item:02}" for item in row] for row in expected
    ]
    assert [[place["new"] for place in one["items"]] for one in lines] == [
        [item >= NUM_SOLD for item in row] for row in expected
    ]
    model = load(folder / "bpr")
    assert model.recommend(k=K) == lines == model.recommend(k=K)  # from what it kept


def test_the_catalogue_alone(trained, capsys):
    recommend_run(trained, k=K, new_items="none")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    scores, candidates = all_scores(trained)[:, :NUM_SOLD], candidates_of(trained)
    assert [[int(place["item"][1:]) for place in one["items"]] for one in lines] == [
        best(row, [item for item in own if item < NUM_SOLD], K) for row, own in zip(scores, candidates, strict=True)
    ]
    assert "new" not in lines[0]["items"][0]


@pytest.mark.parametrize(("share", "places"), [(0.2, 2), (0.05, 1), (0.04, 0), (0, 0), (1, K)])
def test_fresh_items_have_their_share(trained, share, places):
    fresh, found = is_fresh(trained), lists_of(trained, Rules(fresh_share=share, fresh_below=BELOW))
    for row, scores, candidates in zip(found, all_scores(trained), candidates_of(trained), strict=True):
        own = best(scores, [item for item in candidates if fresh[item]], places)
        others = best(scores, [item for item in candidates if not fresh[item]], K - len(own))
        assert row == sorted(own + others, key=lambda item: (-scores[item], item))
        assert fresh[row].sum() == min(places, sum(fresh[item] for item in candidates))


def test_a_share_that_nothing_can_have_is_said_once(trained, caplog):
    counts = np.bincount(trained.experiment.dataset.train[:, 1], minlength=NUM_SOLD + NUM_NEW)
    often = [item for item in range(NUM_SOLD) if counts[item] >= BELOW]
    fewest = min(int(counts[item]) for item in often)
    found = lists_of(trained, Rules([f"P{item:02}" for item in often], fresh_share=0.3, fresh_below=BELOW))
    assert {item for row in found for item in row} <= set(often)
    [said] = [record.getMessage() for record in caplog.records if "fresh" in record.getMessage()]
    assert said.startswith(f"fresh_share = 0.3: lists have no fresh item, as none of the {len(often)} items")
    assert f"fewer than {BELOW} train interactions (the fewest are {fewest})" in said


@pytest.mark.parametrize(("share", "is_said"), [(0.04, True), (0, False), (0.3, False)])
def test_a_share_of_less_than_a_place_is_said(trained, caplog, share, is_said):
    lists_of(trained, Rules(fresh_share=share, fresh_below=BELOW))
    assert ("less than half of one of 10 places" in caplog.text) == is_said
    assert ("fresh" in caplog.text) == is_said


def test_few_fresh_items_leave_their_places_to_others(trained):
    allow = [f"P{item:02}" for item in (*range(20, NUM_SOLD), NUM_SOLD + 1)]
    found = lists_of(trained, Rules(allow, fresh_share=0.5, fresh_below=1))
    assert all(len(row) == K and row.count(NUM_SOLD + 1) == 1 for row in found)


def test_only_new(trained):
    fresh = is_fresh(trained)
    expected = [
        best(scores, [item for item in candidates if fresh[item]], K)
        for scores, candidates in zip(all_scores(trained), candidates_of(trained), strict=True)
    ]
    assert lists_of(trained, Rules(only="new", fresh_below=BELOW)) == expected
    # Fewer than k: shorter lists.
    found = lists_of(trained, Rules(only="new", fresh_below=1))
    assert all(sorted(row) == list(range(NUM_SOLD, NUM_SOLD + NUM_NEW)) for row in found)
    with pytest.raises(DataError, match="no item that may be listed has fewer than 1 train interactions"):
        recommend(trained, rules=Rules(only="new", fresh_below=1))


def test_new_items_that_were_bought_since_are_not_listed(trained, folder, tmp_path):
    """By a customer of the catalogue, and by another."""
    (tmp_path / "since.csv").write_text(f"user_id,item_id\nC07,P{NUM_SOLD + 2}\nnobody,P{NUM_SOLD}\n")
    new = own_new_items(trained)
    seen = find_seen(trained.experiment.dataset, tmp_path / "since.csv", new_item_ids=new.ids.tolist())
    rules = Rules(only="new", fresh_below=1)
    with_it, without = (lists_of(trained, rules, users=["C07"], seen=s)[0] for s in (None, seen))
    assert without == [item for item in with_it if item != NUM_SOLD + 2]
    _, (lists,) = recommend(trained, ["nobody"], K, (), (), "popular", new, seen, rules)
    assert lists.items[0].tolist() == [*range(NUM_SOLD + 1, NUM_SOLD + NUM_NEW), -1, -1]
    answers = load(folder / "bpr").recommend(["C07"], K, seen=tmp_path / "since.csv", rules=rules)
    assert [place["item"] for place in answers[0]["items"]] == [f"P{item}" for item in without]


def test_a_model_that_cannot_rank_them_says_so(folder, caplog, capsys):
    fitted = load_trained(str(folder / "itemknn"))
    recommend_run(fitted, ["C07"], 40, unknown="refuse")
    (line,) = capsys.readouterr().out.splitlines()
    assert not {place["item"] for place in json.loads(line)["items"]} & {f"P{NUM_SOLD + n}" for n in range(NUM_NEW)}
    assert "new_items, which have no interactions, are in no list: new items: ItemKNN knows an item by" in caplog.text


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(fresh_share=1.1), "fresh_share = 1.1: must be a part of the places, from 0 to 1"),
        (Rules(fresh_share=float("nan")), "fresh_share = nan"),
        (Rules(fresh_share="0.2"), "fresh_share = '0.2'"),
        (Rules(fresh_share=0.2, fresh_below=0), "fresh_below = 0: must be an integer, 1 or more"),
        (Rules(only="old"), "only = 'old': must be one of 'new', or None"),
        (Rules(only="new", fresh_share=0.2), "fresh_share says nothing"),
    ],
)
def test_rules_that_will_not_do(trained, rules, message):
    with pytest.raises(ConfigError, match=message):
        recommend(trained, rules=rules)
