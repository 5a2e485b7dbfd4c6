"""`python -m rearm_jax.data.encode`: features of a folder that is there, by id and in order, whole or not at all."""

import json
import os

import numpy as np
import polars as pl
import pytest

from rearm_jax import evaluate, train
from rearm_jax.data.dataset import load_dataset
from rearm_jax.data.encode import add
from rearm_jax.data.encode.__main__ import main
from rearm_jax.data.prepare import __main__ as prepare
from rearm_jax.data.prepare.coded import one_hot
from rearm_jax.errors import CheckpointError
from tests.conftest import tiny_config

NUM_USERS, NUM_ITEMS = 12, 10
IDS = [f"i{number}" for number in range(NUM_ITEMS)]
KINDS = ["a", "b", "a", "c", "b", "a", "c", "c", "a", ""]
EXPECTED = one_hot({"kind": [[kind] if kind else [] for kind in KINDS]}, None).features


@pytest.fixture
def raw(tmp_path):
    """A folder that `prepare` made, data, beside tables of its items in another order: items.csv has ids."""
    orders = [(user, IDS[(user + step) % NUM_ITEMS]) for user in range(NUM_USERS) for step in range(6)]
    pl.DataFrame(orders, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / "orders.csv")
    table = pl.DataFrame({"item_id": IDS, "kind": KINDS, "price": range(NUM_ITEMS)})
    table.drop("item_id").write_csv(tmp_path / "in_order.csv")
    table.reverse().write_csv(tmp_path / "items.csv")
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(NUM_ITEMS, 3)))
    np.save(tmp_path / "ids.npy", np.array(IDS))
    ready = ["--features", f"ready={tmp_path / 'f.npy'}", "--feature_ids", f"ready={tmp_path / 'ids.npy'}"]
    files = ["--interactions", str(tmp_path / "orders.csv"), "--out", str(tmp_path / "data")]
    assert prepare.main([*files, *ready]) == 0
    return tmp_path


def command(raw, *more, items="items.csv", root="data"):
    return main(["--items", str(raw / items), "--root", str(raw / root), *map(str, more)])


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(capsys, raw, *more, **options):
    before = content(raw / "data")
    assert command(raw, *more, **options) == 1
    assert content(raw / "data") == before
    return capsys.readouterr().err


@pytest.mark.parametrize(("items", "flags"), [("items.csv", ()), ("in_order.csv", ("--in-order",))])
def test_a_modality_by_id_and_in_order(raw, items, flags):
    before = content(raw / "data")
    assert command(raw, "--category", "kind", "--number", "price", *flags, items=items) == 0
    dataset = load_dataset(raw / "data", ("category", "ready", "number"))
    np.testing.assert_array_equal(dataset.features["category"], EXPECTED)
    prices = np.arange(NUM_ITEMS)
    np.testing.assert_allclose(dataset.features["number"][:, 0], (prices - prices.mean()) / prices.std(), rtol=1e-6)
    after = content(raw / "data")
    assert {name for name in after if after[name] != before.get(name)} == {
        "category_feat.npy",
        "number_feat.npy",
        "prepare.json",
    }
    report = json.loads(after["prepare.json"])
    [added] = report.pop("added")
    assert report == json.loads(before["prepare.json"])
    assert added["modalities"] == {"category": 3, "number": 1}
    assert added["columns"] == {"category": ["kind=a", "kind=b", "kind=c"], "number": ["price"]}
    assert added["counts"]["category: items without a value (zero rows)"] == 1
    assert added["settings"]["in_order"] == bool(flags)


def test_a_folder_of_numbers_and_one_of_ids_alone(raw):
    """The original's layout without ids: items are called by their numbers. New items have ids alone."""
    plain = raw / "plain"
    plain.mkdir()
    for name in ("train", "valid", "test", "ready_feat"):
        np.save(plain / f"{name}.npy", np.load(raw / "data" / f"{name}.npy"))
    pl.DataFrame({"item": range(NUM_ITEMS), "kind": KINDS}).reverse().write_csv(raw / "numbers.csv")
    assert command(raw, "--category", "kind", items="numbers.csv", root="plain") == 0
    np.testing.assert_array_equal(np.load(plain / "category_feat.npy"), EXPECTED)
    assert not (plain / "prepare.json").exists()

    (raw / "new").mkdir()
    np.save(raw / "new" / "item_ids.npy", np.array(["i3", "i1"]))
    ready = ("--features", f"ready={raw / 'f.npy'}", "--feature_ids", f"ready={raw / 'ids.npy'}")
    assert main(["--root", str(raw / "new"), *ready]) == 0
    np.testing.assert_allclose(np.load(raw / "new" / "ready_feat.npy"), np.load(raw / "f.npy")[[3, 1]], rtol=1e-6)
    assert command(raw, "--category", "kind", root="new") == 1
    assert not (raw / "new" / "category_feat.npy").exists()


def test_runs_go_on_where_their_modalities_are_as_they_were(raw):
    config = tiny_config(
        model__name="itemknn", data__source="folder", data__root=str(raw / "data"), data__modalities=("ready",)
    )
    config.evaluation.ks, config.evaluation.metric = (3, 5), "recall@5"
    train(config, raw / "old", progress=False)
    before = evaluate(raw / "old")
    assert command(raw, "--category", "kind") == 0
    assert evaluate(raw / "old") == before
    config.data.modalities = ("ready", "category")
    train(config, raw / "new", progress=False)
    assert command(raw, "--category", "category=kind,price", "--overwrite") == 0
    with pytest.raises(CheckpointError, match="category columns: 3 then, 13 now"):
        evaluate(raw / "new")
    assert evaluate(raw / "old") == before


@pytest.mark.parametrize(
    ("flags", "options", "words"),
    [
        ((), {}, "no features: give text"),
        (("--category", "ready=kind"), {}, "has ready_feat.npy: give other names, or overwrite"),
        (("--category", "nothing"), {}, "no column 'nothing'"),
        (("--category", "kind"), {"items": "in_order.csv"}, "no column of items is recognised"),
        (("--category", "kind", "--in_order"), {"items": "short.csv"}, "has 9 rows, for 10 items of"),
        (("--category", "kind", "--in_order", "--item_id_column", "item_id"), {}, "in_order is about columns"),
        (("--category", "kind"), {"items": "others.csv"}, "none of the interactions' items is there"),
        (("--category", "kind"), {"root": "nowhere"}, "there is no such folder"),
        (("--category", "kind"), {"root": "bare"}, "neither features nor item_ids.npy"),
        (("--wrong", "kind"), {}, "unrecognized arguments: --wrong"),
        (("--category", "kind", "--quantiles", "3"), {}, "quantiles = 3 says nothing without number"),
        (
            ("--number", "price", "--category_separator", ","),
            {},
            "category_separator = ',' says nothing without",
        ),
        (("--category", "kind", "--device", "cpu"), {}, "device = 'cpu' says nothing without text or images"),
    ],
)
def test_what_is_refused_changes_nothing(raw, capsys, flags, options, words):
    pl.read_csv(raw / "in_order.csv").head(9).write_csv(raw / "short.csv")
    pl.DataFrame({"item_id": ["x1"], "kind": ["a"]}).write_csv(raw / "others.csv")
    (raw / "bare").mkdir()
    np.save(raw / "bare" / "train.npy", np.load(raw / "data" / "train.npy"))
    assert words in refused(capsys, raw, *flags, **options)


def test_a_full_disk_leaves_the_folder_as_it_was(raw, capsys, monkeypatch):
    def full(file, *_, **__):
        file.write(b"half")
        raise OSError(28, "No space left on device", file.name)

    monkeypatch.setattr(add.np, "save", full)
    assert "cannot be written: No space left on device" in refused(capsys, raw, "--category", "kind")


def test_a_damaged_report_is_said_before_anything_is_done(raw, capsys):
    (raw / "data" / "prepare.json").write_text("{")
    assert "prepare.json cannot be read" in refused(capsys, raw, "--category", "kind")
    assert sorted(os.listdir(raw / "data")) == sorted(content(raw / "data"))


@pytest.fixture
def with_new(raw):
    """The folder prepared with --catalogue all: items.csv lists two items more, n1 and n2, that nobody ordered."""
    table = pl.read_csv(raw / "items.csv")
    more = pl.DataFrame({"item_id": ["n1", "n2"], "kind": ["b", "d"], "price": [40, 60]})
    pl.concat([more, table]).write_csv(raw / "items.csv")
    flags = ["--interactions", str(raw / "orders.csv"), "--out", str(raw / "data"), "--overwrite"]
    flags += ["--items", str(raw / "items.csv"), "--catalogue", "all"]
    assert prepare.main([*flags, "--category", "kind", "--number", "price"]) == 0
    return raw


def test_new_items_get_their_features_too(with_new):
    """Whatever way a modality came there, the folder has the same of it."""
    new = with_new / "data" / "new_items"
    before = content(with_new / "data") | {f"new/{name}": data for name, data in content(new).items()}
    assert np.load(new / "item_ids.npy").tolist() == ["n1", "n2"]
    assert np.load(new / "category_feat.npy").tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    flags = ("--category", "again=kind", "--number", "cost=price")
    assert command(with_new, *flags) == 0
    for folder in (with_new / "data", new):
        for one, other in (("category", "again"), ("number", "cost")):
            assert (folder / f"{one}_feat.npy").read_bytes() == (folder / f"{other}_feat.npy").read_bytes()
    assert command(with_new, "--category", "category=kind", "--number", "price", "--overwrite") == 0
    after = content(with_new / "data") | {f"new/{name}": data for name, data in content(new).items()}
    assert {name: after[name] for name in before if name != "prepare.json"} == {
        name: data for name, data in before.items() if name != "prepare.json"
    }
    [_, added] = json.loads(after["prepare.json"])["added"]
    assert added["counts"]["category: items without a value (zero rows)"] == 1


def test_a_replaced_modality_is_replaced_for_new_items(with_new, capsys):
    ids = [*IDS, "n1", "n2"]
    vectors = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    pl.DataFrame({"item_id": ids[::-1], "vector": vectors[::-1].tolist()}).write_parquet(with_new / "v.parquet")
    flags = ["--root", str(with_new / "data"), "--features", f"category={with_new / 'v.parquet'}"]
    assert main(flags) == 1
    assert "has category_feat.npy, new_items/category_feat.npy: give other names" in capsys.readouterr().err
    assert main([*flags, "--overwrite"]) == 0
    rows = dict(zip(ids, vectors.tolist(), strict=True))
    for folder in (with_new / "data", with_new / "data" / "new_items"):
        named = np.load(folder / "item_ids.npy").tolist()
        np.testing.assert_array_equal(np.load(folder / "category_feat.npy"), [rows[one] for one in named])


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_disk_that_fills_up_later_leaves_both_folders_as_they_were(with_new, capsys, monkeypatch, left):
    save, room = np.save, iter([True] * left)

    def full(file, *arguments, **options):
        if not next(room, False):
            raise OSError(28, "No space left on device", file.name)
        save(file, *arguments, **options)

    monkeypatch.setattr(add.np, "save", full)
    new = content(with_new / "data" / "new_items")
    flags = ("--category", "kind", "--number", "price", "--overwrite")
    assert "No space left on device" in refused(capsys, with_new, *flags)
    assert content(with_new / "data" / "new_items") == new


@pytest.mark.parametrize(
    ("flags", "items", "words"),
    [
        (("--in_order", "--category", "k=kind"), "in_order.csv", "in_order says nothing about the 2 new items of"),
        (("--category", "k=kind"), "new.csv", "none of the interactions' items is there"),
        (
            ("--category", "kind", "--number", "price", "--overwrite"),
            "sold.csv",
            "2 items, such as 'n1', would have no",
        ),
    ],
)
def test_new_items_that_would_be_left_behind(with_new, capsys, flags, items, words):
    table = pl.read_csv(with_new / "items.csv")
    table.head(2).write_csv(with_new / "new.csv")
    table.tail(NUM_ITEMS).write_csv(with_new / "sold.csv")
    new = content(with_new / "data" / "new_items")
    assert words in refused(capsys, with_new, *flags, items=items)
    assert content(with_new / "data" / "new_items") == new


def test_new_items_without_ids_are_refused(raw, capsys):
    (raw / "data" / "new_items").mkdir()
    assert command(raw, "--category", "kind=kind") == 1
    assert "new_items has neither features nor item_ids.npy" in capsys.readouterr().err
    np.save(raw / "data" / "new_items" / "item_ids.npy", np.array(["x", "i3"]))
    assert command(raw, "--category", "kind=kind") == 1
    assert "item_ids.npy: 'i3' is an item of the data, too" in capsys.readouterr().err
    np.save(raw / "data" / "new_items" / "item_ids.npy", np.array(["x", "y"]))
    for damaged in (np.ones((3, 2)), np.ones(2)):
        np.save(raw / "data" / "new_items" / "ready_feat.npy", damaged)
        assert command(raw, "--category", "kind=kind") == 1
        assert "ready_feat.npy: the shape is (" in capsys.readouterr().err
    assert not (raw / "data" / "kind_feat.npy").exists()
