"""Features from categories and numbers, against counts by hand and numpy on the columns themselves."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearm_jax import Dataset
from rearm_jax.data.dataset import load_dataset
from rearm_jax.data.prepare.__main__ import main
from rearm_jax.data.prepare.coded import MOST_CATEGORIES, one_hot, scaled
from rearm_jax.errors import ConfigError, DataError

GENRES = ["Drama", "Comedy|Drama", "", "War", "Comedy", " War |Drama"]
PRICES = ["2", "4.0", "", "8", "1e1", "2"]
IDS = np.array([f"i{number}" for number in range(6)])


def test_each_value_has_a_column():
    lists = [["a", "b"], [], [], ["b"], [], []]
    coded = one_hot({"genre": [[text] if text else [] for text in GENRES], "lists": lists}, "|")
    assert coded.columns == ["genre=Comedy", "genre=Drama", "genre=War", "lists=a", "lists=b"]
    expected = [[name in GENRES[row] for name in ("Comedy", "Drama", "War")] for row in range(6)]
    np.testing.assert_array_equal(coded.features[:, :3], expected)
    np.testing.assert_array_equal(coded.features[:, 3:], [[1, 1], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0]])
    assert (coded.features.dtype, coded.num_absent) == (np.float32, 1)
    whole = one_hot({"genre": [[text] if text else [] for text in GENRES]}, None)
    assert whole.columns == [f"genre={text}" for text in ("Comedy", "Comedy|Drama", "Drama", "War", "War |Drama")]


def test_numbers_are_standardised_over_the_items_that_have_them():
    other = ["", "", "", "1", "3", ""]
    coded = scaled({"price": PRICES, "other": other}, 0, IDS)
    assert coded.columns == ["price", "other"]
    known = np.array([2, 4, 8, 10, 2])
    np.testing.assert_allclose(coded.features[[0, 1, 3, 4, 5], 0], (known - known.mean()) / known.std(), rtol=1e-6)
    np.testing.assert_allclose(coded.features[:, 1], [0, 0, 0, -1, 1, 0])
    assert coded.features[2].tolist() == [0, 0]
    assert coded.num_absent == 1


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=40), st.integers(2, 6))
def test_quantiles_are_in_order_alike_for_equal_numbers_and_about_as_large(numbers, quantiles):
    if len(set(numbers)) < 2:
        return
    texts = [str(number) for number in numbers]
    coded = scaled({"n": [*texts, ""]}, quantiles, np.arange(len(numbers) + 1).astype(str))
    features = coded.features
    assert features[:-1].sum(axis=1).tolist() == [1] * len(numbers)
    assert not features[-1].any()
    assert features.any(axis=0).all()
    assert 2 <= features.shape[1] == len(coded.columns) <= quantiles
    place = features[:-1].argmax(axis=1)
    assert (np.diff(place[np.lexsort((place, numbers))]) >= 0).all()
    assert all(len(set(place[np.equal(numbers, number)])) == 1 for number in numbers)
    if len(set(numbers)) == len(numbers):  # no ties: as equal as can be
        assert max(np.bincount(place)) - min(np.bincount(place)) <= 1 or len(numbers) < quantiles


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (lambda: one_hot({"a": [[], []]}, None), "category a: no item has a value there"),
        (lambda: one_hot({"a": [["caf\u00e9"], ["cafe\u0301"]]}, None), "category a: .* two spellings of Unicode"),
        (
            lambda: one_hot({"a": [[str(n)] for n in range(MOST_CATEGORIES + 1)]}, None),
            "4,097 different values, such",
        ),
        (lambda: scaled({"a": ["1", "x"]}, 0, IDS[:2]), "number a: 'x' of the item 'i1' is not a finite number"),
        (lambda: scaled({"a": ["nan", "1"]}, 0, IDS[:2]), "'nan' of the item 'i0'"),
        (lambda: scaled({"a": ["1", "1e999"]}, 0, IDS[:2]), "'1e999' of the item 'i1'"),
        (lambda: scaled({"a": ["7", "7", ""]}, 0, IDS[:3]), "every item that has one has 7, which tells no two"),
        (lambda: scaled({"a": ["", ""]}, 3, IDS[:2]), "number a: no item has one"),
    ],
)
def test_what_is_refused(code, words):
    with pytest.raises(DataError, match=words):
        code()


@pytest.fixture
def raw(tmp_path):
    """orders.csv and items.csv: 8 users, 6 items, one user with each pair of items that are not far apart."""
    rows = [(user, f"i{(user + step) % 6}") for user in range(8) for step in range(4)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / "orders.csv")
    pl.DataFrame({"item_id": IDS, "genre": GENRES, "price": PRICES}).write_csv(tmp_path / "items.csv")
    return tmp_path


def command(raw, *more):
    named = ("--interactions", str(raw / "orders.csv"), "--items", str(raw / "items.csv"), "--out", str(raw / "out"))
    return main([*named, *more])


def test_prepare_and_frames_give_the_same(raw):
    flags = ("--category", "genre", "--category-separator", "|", "--number", "cost=price", "--quantiles", "2")
    assert command(raw, *flags) == 0
    dataset = load_dataset(raw / "out", ("category", "cost"))
    by_hand = one_hot({"genre": [[text] if text else [] for text in GENRES]}, "|")
    np.testing.assert_array_equal(dataset.features["category"], by_hand.features)
    np.testing.assert_array_equal(dataset.features["cost"], [[1, 0], [0, 1], [0, 0], [0, 1], [0, 1], [1, 0]])
    report = json.loads((raw / "out" / "prepare.json").read_text())
    assert report["columns"] == {"category": by_hand.columns, "cost": ["price from 2 to 2", "price from 4 to 10"]}
    assert report["counts"]["category: items without a value (zero rows)"] == 1
    assert report["counts"]["cost: items without a value (zero rows)"] == 1

    orders = pl.read_csv(raw / "orders.csv")
    lists = [[part.strip() for part in text.split("|")] if text else None for text in GENRES]
    items = pl.DataFrame({"item_id": IDS, "genre": lists, "price": [float(text) if text else None for text in PRICES]})
    made = Dataset.from_tables(orders, items, category={"category": "genre"}, number={"cost": ["price"]}, quantiles=2)
    assert made.content_hash == dataset.content_hash


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--category", "nothing"), "no column 'nothing'"),
        (("--category", "genre", "--number", "category=price"), "every modality may be named once"),
        (("--category", "genre", "--category_separator", ""), "category_separator = '': must be some text"),
        (("--number", "price", "--quantiles", "1"), "quantiles = 1: must be an integer from 2 on"),
        (("--number", "genre"), "number genre: 'Drama' of the item 'i0' is not a finite number"),
    ],
)
def test_refusals_of_prepare(raw, capsys, flags, words):
    assert command(raw, *flags) == 1
    assert words in capsys.readouterr().err
    assert not (raw / "out").exists()


def test_columns_need_a_table(raw):
    with pytest.raises(ConfigError, match="text, category, number and name_column name columns of a table of items"):
        Dataset.from_tables(np.array([[0, 1]]), category={"c": "genre"})


@pytest.mark.parametrize("factor", [1e307, 1e-320])
def test_numbers_too_large_or_small_to_be_standardised_are_refused(factor):
    with pytest.raises(DataError, match=r"number n: from .* cannot be standardised"):
        scaled({"n": [repr(factor * value) for value in (1, 2, 9)]}, None, np.array(["a", "b", "c"]))
