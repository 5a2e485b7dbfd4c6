"""Items held out of training and scored from their features alone, and what they must not change."""

import dataclasses
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rearm_jax.data.dataset import make_dataset
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import DataError
from rearm_jax.experiment import init_params, make_experiment
from rearm_jax.graphs.relations import knn_graph
from rearm_jax.inference.new_items import (
    NewItems,
    _semantic_rows,
    _stand_ins,
    extended_representations,
    read_new_items,
    represent_new_items,
)
from rearm_jax.inference.recommend import recommend
from rearm_jax.inference.recommend_files import recommend_run
from rearm_jax.inference.trained import Trained
from rearm_jax.recommender.contract import Representations
from tests.conftest import tiny_config

MODALITIES = ("image", "text")
NUM_USERS, NUM_OLD, NUM_NEW = 300, 320, 80


@dataclasses.dataclass(frozen=True)
class Case:
    """A run without the last NUM_NEW items of the data, their features, and who interacted with them."""

    trained: Trained
    features: dict[str, np.ndarray]
    interacted: np.ndarray  # bool (NUM_USERS, NUM_NEW)


@pytest.fixture(scope="module")
def case():
    whole = make_synthetic(NUM_USERS, NUM_OLD + NUM_NEW, 12, 32, 0, MODALITIES)
    splits = [getattr(whole, split) for split in ("train", "valid", "test")]
    known = [pairs[pairs[:, 1] < NUM_OLD].T for pairs in splits]
    held_out = np.concatenate([pairs[pairs[:, 1] >= NUM_OLD] for pairs in splits])
    interacted = np.zeros((NUM_USERS, NUM_NEW), bool)
    interacted[held_out[:, 0], held_out[:, 1] - NUM_OLD] = True
    labels = {"item_ids": np.array([f"B{item}" for item in range(NUM_OLD)])}
    old = {name: table[:NUM_OLD] for name, table in whole.features.items()}
    config = tiny_config(
        graph__user_knn_k=10, graph__item_knn_k=10, model__embedding_dim=16, evaluation__block_size=NUM_USERS
    )
    experiment = make_experiment(config, make_dataset(*known, old, NUM_USERS, labels=labels))
    features = {name: table[NUM_OLD:] for name, table in whole.features.items()}
    return Case(Trained("", 60, experiment, fit(experiment, 60)), features, interacted)


def fit(experiment, num_steps):
    """Parameters after a few steps of Adam on the BPR loss alone: compiles sooner than the loop."""
    pairs, tx, rng = experiment.dataset.train, optax.adam(3e-3), np.random.default_rng(0)

    def loss(params, graphs, users, positives, negatives):
        out = experiment.model.apply({"params": params}, graphs)
        margin = jnp.sum(out.users[users] * (out.items[positives] - out.items[negatives]), axis=1)
        return -jnp.mean(jax.nn.log_sigmoid(margin))

    @jax.jit
    def step(params, opt_state, graphs, *batch):
        updates, opt_state = tx.update(jax.grad(loss)(params, graphs, *batch), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = init_params(experiment)
    opt_state = tx.init(params)
    for _ in range(num_steps):
        users, positives = pairs[rng.integers(len(pairs), size=256)].T
        params, opt_state = step(
            params, opt_state, experiment.inputs, users, positives, rng.integers(NUM_OLD, size=256)
        )
    return params


def auc(scores, interacted):
    """Mean over users of the probability that an item of theirs scores above another one, by counting pairs."""
    users = np.flatnonzero(interacted.any(axis=1) & ~interacted.all(axis=1))
    return np.mean([(scores[u][interacted[u], None] > scores[u][~interacted[u]]).mean() for u in users])


def new_items(case, **changes):
    return NewItems(np.array([f"N{row}" for row in range(NUM_NEW)]), None, case.features | changes)


def test_held_out_items_find_their_users(case):
    users = np.asarray(case.trained.representations.users)
    found = auc(users @ np.asarray(represent_new_items(case.trained, case.features)).T, case.interacted)
    rng = np.random.default_rng(0)
    at_random = max(auc(rng.random(case.interacted.shape), case.interacted) for _ in range(20))
    order = rng.permutation(NUM_NEW)
    others = {name: table[order] for name, table in case.features.items()}
    mixed_up = auc(users @ np.asarray(represent_new_items(case.trained, others)).T, case.interacted)
    assert found > max(at_random, mixed_up) + 0.1, (found, at_random, mixed_up)


def test_new_items_come_into_lists_where_they_belong(case):
    """Most-popular never recommends them: they have no interactions."""
    items, lists = recommend(case.trained, k=20, new_items=new_items(case))
    assert items.num_new == NUM_NEW
    listed = np.concatenate([some.items for some in lists])
    users, places = np.nonzero(listed >= NUM_OLD)
    precision = case.interacted[users, listed[users, places] - NUM_OLD].mean()
    assert 0.01 < len(users) / listed.size < 0.2  # they are a fifth of all items
    assert precision > 2 * case.interacted.mean(), (precision, case.interacted.mean())


class Untrained(NamedTuple):
    trained: Trained
    features: dict[str, np.ndarray]  # of 6 new items
    extended: Representations


@pytest.fixture(scope="module", params=["rearm", "lightgcn"])
def untrained(request):
    """A model of two item layers with its starting parameters, its feature tables a little off the features."""
    rng = np.random.default_rng(0)
    whole = make_synthetic(30, 40, 8, 6, 0, MODALITIES)
    splits = [getattr(whole, split) for split in ("train", "valid", "test")]
    known = [pairs[pairs[:, 1] < 34].T for pairs in splits]
    dataset = make_dataset(*known, {name: table[:34] for name, table in whole.features.items()}, 30)
    own = {"rearm": {"model__num_item_layers": 2}, "lightgcn": {}}[request.param]
    experiment = make_experiment(tiny_config(model__name=request.param, **own), dataset)
    params = init_params(experiment)
    for name in MODALITIES if request.param == "rearm" else ():
        table = params[f"item_{name}_table"]
        params[f"item_{name}_table"] = table + rng.normal(0, 0.1, table.shape).astype(np.float32)
    trained = Trained("", 0, experiment, params)
    features = {name: table[34:] for name, table in whole.features.items()}
    return Untrained(trained, features, extended_representations(trained, features))


def test_the_catalogue_is_represented_as_before(untrained):
    out = untrained.trained.representations
    assert untrained.extended.items.shape[0] == 34 + 6
    np.testing.assert_allclose(untrained.extended.users, out.users, rtol=0, atol=1e-6)
    np.testing.assert_allclose(untrained.extended.items[:34], out.items, rtol=0, atol=1e-6)


def test_a_new_item_does_not_depend_on_the_others(untrained):
    features = {name: table[3:4] for name, table in untrained.features.items()}
    alone = represent_new_items(untrained.trained, features)
    np.testing.assert_allclose(alone[0], untrained.extended.items[34 + 3], rtol=0, atol=1e-6)


def test_rows_of_the_item_graph_are_those_of_a_catalogue_with_the_item(untrained):
    """The semantic graph of the catalogue and one new item, built by the code for training, has the same row."""
    trained, features, _ = untrained
    dataset, settings = trained.experiment.dataset, trained.experiment.config.graph
    k = settings.get("item_knn_k", 10)
    semantic, _, itself = _semantic_rows(dataset.features, features, settings)
    for row in range(6):
        graphs = [
            knn_graph(np.concatenate([dataset.features[name], table[row : row + 1]]), k).toarray()
            for name, table in features.items()
        ]
        expected = sum(graph[-1] for graph in graphs) / len(graphs)
        np.testing.assert_allclose(np.append(semantic.toarray()[row], itself[row]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("untrained", ["lightgcn"], indirect=True)  # REARM's layers are not linear in the rows
def test_a_lightgcn_item_is_the_mean_of_its_neighbours(untrained):
    trained, features, extended = untrained
    catalogue = trained.experiment.dataset.features
    weights = np.zeros((6, 34))
    for name, table in features.items():
        similarity = table @ catalogue[name].T
        similarity /= np.linalg.norm(table, axis=1)[:, None] * np.linalg.norm(catalogue[name], axis=1)
        for row in range(6):
            nearest = np.argsort(-similarity[row])[:9]  # ten neighbours, the item itself included
            weights[row, nearest] += np.maximum(similarity[row, nearest], 0)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = weights @ np.asarray(trained.representations.items)
    np.testing.assert_allclose(extended.items[34:], expected, rtol=0, atol=1e-6)


def test_features_that_resemble_nothing_are_refused(untrained):
    trained, features, _ = untrained
    zero = {name: np.where(np.arange(6)[:, None] == 4, 0, table) for name, table in features.items()}
    with pytest.raises(DataError, match=r"new item 4 \(from 0\) resembles no item"):
        represent_new_items(trained, zero)
    one_is_enough = zero | {"text": features["text"]}
    semantic, *_ = _semantic_rows(trained.experiment.dataset.features, one_is_enough, trained.experiment.config.graph)
    np.testing.assert_allclose(_stand_ins(semantic).sum(axis=1), 1, rtol=1e-6)


@pytest.fixture
def folder(case, tmp_path):
    for name, table in case.features.items():
        np.save(tmp_path / f"{name}_feat.npy", table)
    np.save(tmp_path / "item_ids.npy", np.array([f"N{row}" for row in range(NUM_NEW)]))
    return tmp_path


def test_lists_of_a_folder_mark_what_is_new(case, folder, capsys):
    np.save(folder / "item_names.npy", np.array([f"new film {row}" for row in range(NUM_NEW)]))
    recommend_run(case.trained, k=20, new_items=folder)
    places = [place for line in capsys.readouterr().out.splitlines() for place in json.loads(line)["items"]]
    assert {place["new"] for place in places} == {False, True}
    for place in places:
        assert place["new"] == place["item"].startswith("N")
        # Items of a catalogue without names go by their ids.
        assert place["name"] == (f"new film {place['item'][1:]}" if place["new"] else place["item"])


def test_a_folder_is_read_as_it_is(case, folder):
    found = read_new_items(folder, case.trained)
    assert found.ids.tolist() == [f"N{row}" for row in range(NUM_NEW)]
    assert found.names is None
    for name, table in case.features.items():
        np.testing.assert_array_equal(found.features[name], table)


def _changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


BAD_FOLDERS = {
    "an id of the catalogue": ("item_ids", lambda ids: _changed(ids, 3, "B7"), r"row 3: item 'B7' is in the catalogue"),
    "an id twice": ("item_ids", lambda ids: _changed(ids, 3, "N0"), "rows 0 and 3"),
    "ids of another kind": (
        "item_ids",
        lambda ids: np.arange(len(ids)),
        "ids are integers, those of the catalogue text",
    ),
    "no items": ("item_ids", lambda ids: ids[:0], "there is no item"),
    "too few rows": ("image_feat", lambda table: table[1:], r"float32 \(79, 32\); must be floats \(80, 32\)"),
    "another width": ("image_feat", lambda table: table[:, 1:], r"must be floats \(80, 32\)"),
    "integers": ("image_feat", lambda table: table.astype(int), "int64"),
    "NaN": ("image_feat", lambda table: _changed(table, (2, 5), np.nan), "row 2, column 5: not a finite"),
    "names that are too few": ("item_names", lambda _: np.array(["one"]), "has 1 rows"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_folders_that_will_not_do(case, folder, name):
    stem, change, message = BAD_FOLDERS[name]
    path = folder / f"{stem}.npy"
    np.save(path, change(np.load(path) if path.exists() else None))
    with pytest.raises(DataError, match=message):
        read_new_items(folder, case.trained)


def test_a_missing_file_is_named(case, folder):
    (folder / "image_feat.npy").unlink()
    with pytest.raises(DataError, match=r"image_feat.npy missing"):
        read_new_items(folder, case.trained)
