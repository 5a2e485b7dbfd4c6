"""The object that `load` gives, against plain numpy on its own vectors and parameters."""

import numpy as np
import polars as pl
import pytest

from rearm_jax import load, recommend, train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.inference.trained import load_trained
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Model -> run folder."""
    folders = {}
    for name in ("lightgcn", "ease"):
        folders[name] = tmp_path_factory.mktemp(name)
        changes = {"learning_rate": 1e-2} if name == "lightgcn" else {}
        train(tiny_config(model__name=name, **changes), folders[name], progress=False)
    return folders


@pytest.fixture(scope="module")
def dataset():
    return make_synthetic(60, 40, 8, 6, seed=0, modalities=("image", "text"))


PAIRS = [(3, 5), (17, 9)]


@pytest.mark.parametrize("pairs", [PAIRS, np.array(PAIRS), zip((3, 17), (5, 9), strict=True), [[3, 5], (17, 9)]])
def test_pairs_of_many_kinds(runs, pairs):
    model = load(runs["lightgcn"])
    expected = np.sum(model.user_vectors[[3, 17]] * model.item_vectors[[5, 9]], axis=1)
    np.testing.assert_allclose(model.score(pairs), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_places_counted_in_8_bits(runs, kind):
    model = load(runs["lightgcn"])
    assert model.recommend([3], kind(39)) == model.recommend([3], 39)
    assert model.similar_items([3], kind(39)) == model.similar_items([3], 39)


def test_scores_are_products_of_vectors(runs):
    model = load(runs["lightgcn"])
    assert model.user_vectors.shape == (60, 8)
    assert model.item_vectors.dtype == np.float32
    pairs = [(user, item) for user in (3, 59, 3, 0) for item in (0, 39, 7)]  # users repeat
    expected = [model.user_vectors[user] @ model.item_vectors[item] for user, item in pairs]
    np.testing.assert_allclose(model.score(pairs), expected, rtol=1e-5, atol=1e-6)
    assert repr(model) == f"<LightGCN of {runs['lightgcn']}: 60 users, 40 items>"


def test_lists_are_the_best_scores_among_what_is_not_seen(runs, dataset):
    model = load(runs["lightgcn"])
    seen = np.concatenate([dataset.train, dataset.valid, dataset.test])
    for one in model.recommend(users=[5, 17], k=4):
        free = np.setdiff1d(np.arange(40), seen[seen[:, 0] == one["user"], 1])
        scores = model.score([(one["user"], int(item)) for item in free])
        best = free[np.argsort(-scores, kind="stable")[:4]]
        assert [place["item"] for place in one["items"]] == best.tolist()
    assert model.recommend(users=[5], k=4) == recommend(runs["lightgcn"], users=[5], k=4)
    bought = {place["item"] for place in model.recommend(users=[5], k=40, seen="none")[0]["items"]}
    assert bought == set(range(40))


def test_similar_items_have_the_largest_cosines(runs):
    model = load(runs["lightgcn"])
    unit = model.item_vectors / np.linalg.norm(model.item_vectors, axis=1, keepdims=True)
    for one in model.similar_items([0, 39, 12], k=5):
        cosines = unit @ unit[one["item"]]
        cosines[one["item"]] = -np.inf
        best = np.argsort(-cosines)[:5]
        assert [place["item"] for place in one["items"]] == best.tolist()
        np.testing.assert_allclose([place["similarity"] for place in one["items"]], cosines[best], rtol=1e-5)


def test_a_fitted_model_answers_by_its_item_weights(runs, dataset):
    model, params = load(runs["ease"]), load_trained(str(runs["ease"])).params
    weights = params["weights"]
    row = weights[7].copy()
    row[7] = -np.inf
    [one] = model.similar_items([7], k=6)
    assert [place["item"] for place in one["items"]] == np.argsort(-row, kind="stable")[:6].tolist()
    history = np.zeros((60, 40), np.float32)
    history[tuple(dataset.train.T)] = 1
    pairs = [(4, 3), (50, 0)]
    np.testing.assert_allclose(model.score(pairs), [history[u] @ weights[:, i] for u, i in pairs], rtol=1e-4)
    with pytest.raises(ConfigError, match="fitted in closed form and has no vectors"):
        model.user_vectors  # noqa: B018


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda model: model.similar_items([0], k=40), ConfigError, "there are 39 other items"),
        (lambda model: model.similar_items([0], k="3"), ConfigError, "k = '3': must be an integer"),
        (lambda model: model.similar_items([40]), DataError, "1 of 1 items are not in the catalogue: 40"),
        (lambda model: model.similar_items([]), ConfigError, "no items are named"),
        (lambda model: model.similar_items(3), ConfigError, r"items = 3: .* did you mean items=\[3\]"),
        (lambda model: model.score([(0, 0), (60, 1)]), DataError, "1 of 2 users are not in the catalogue: 60"),
        (lambda model: model.score([(1, 2), 3]), ConfigError, "must be a list of"),
        (lambda model: model.score(3), ConfigError, "pairs = 3: must be a list of"),
        (
            lambda model: model.score(pl.DataFrame({"user": [3, 17], "item": [5, 9]})),
            ConfigError,
            "pairs is a DataFrame: must be a list of",
        ),
        (lambda model: model.score(["12", "34"]), ConfigError, "must be a list of"),
        (lambda model: model.score([b"12"]), ConfigError, "must be a list of"),
        (lambda model: model.score([{3, 17}]), ConfigError, "must be a list of"),
        (lambda model: model.score({(3, 5), (17, 9)}), ConfigError, "must be a list of"),
        (
            lambda model: model.recommend(pl.DataFrame({"user": [3, 17]})),
            ConfigError,
            "users is a DataFrame: must be a list of ids.*one of its columns",
        ),
        (
            lambda model: model.recommend(np.ma.masked_array([3, 17], mask=[1, 0])),
            ConfigError,
            r"users\[0\] = .*: must be text or an integer",
        ),
        (lambda model: model.score([]), ConfigError, "no pairs are given"),
        (lambda model: model.score([None]), ConfigError, "must be a list of"),
        (lambda model: model.score("ab"), ConfigError, "pairs = 'ab': must be a list of"),
        (lambda model: model.recommend(users=3), ConfigError, r"did you mean users=\[3\]"),
    ],
)
def test_what_cannot_be_asked(runs, ask, error, message):
    with pytest.raises(error, match=message):
        ask(load(runs["ease"]))
