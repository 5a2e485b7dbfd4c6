"""BM3 against its formulas in numpy: representations, losses, and where no gradient flows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.experiment import Experiment, make_experiment
from rearm_jax.parallel.rows import ALL, ALONE, Nodes
from rearm_jax.recommender.contract import Batch
from rearm_jax.recommender.layers import drop_rows
from rearm_jax.training.step import loss_share
from tests.conftest import tiny_config
from tests.test_mgcn import affine, dense_user_item, random_params

NUM_USERS, NUM_ITEMS = 31, 23
THREE = ("image", "text", "audio")


@functools.cache
def experiment_of(modalities=("image", "text"), **changes) -> Experiment:
    config = tiny_config(
        model__name="bm3", data__modalities=modalities, loss__l2_weight=0.3, loss__modality_weight=0.7, **changes
    )
    return make_experiment(config, make_synthetic(NUM_USERS, NUM_ITEMS, 7, 6, seed=0, modalities=modalities))


def nodes_by_hand(experiment: Experiment, params: dict) -> tuple[np.ndarray, np.ndarray]:
    """h of the users, and of the items with their own embedding added."""
    a = dense_user_item(experiment.dataset.train)
    ids = np.concatenate([params["user_id_table"], params["item_id_table"]]).astype(np.float64)
    users, items = np.split((ids + a @ ids + a @ (a @ ids)) / 3, [NUM_USERS])
    return users, items + params["item_id_table"]


def mean_cosine(x: np.ndarray, y: np.ndarray) -> float:
    norms = [np.maximum(np.linalg.norm(z, axis=1), 1e-8) for z in (x, y)]  # a row may be dropped whole
    return np.mean(np.sum(x * y, 1) / norms[0] / norms[1])


@pytest.mark.parametrize("variant", ["strict", "reference"])
def test_representations_and_losses_are_those_of_the_formula(variant):
    changes = {"protocol": "reference", "model__train_features": False} if variant == "reference" else {}
    experiment = experiment_of(THREE if variant == "reference" else ("image", "text"), **changes)
    model, dataset = experiment.model, experiment.dataset
    params = random_params(experiment)
    users, positives = dataset.train[:12].T
    mask = np.arange(12) < 10
    own = jnp.zeros((12, 1), bool)
    batch = Batch(*(jnp.asarray(x) for x in (users, positives, np.array([3]), mask)), own)

    def share(params, inputs):
        return loss_share(model, params, inputs, batch, jax.random.key(7), ALONE)

    with_gradients = variant == "strict"  # they take most of the compilation

    @jax.jit
    def compute(params, inputs):
        out = model.apply({"params": params}, inputs)
        # What is dropped is drawn; that it is dropout is seen below.
        drawn = model.apply(
            {"params": params},
            inputs,
            Nodes(wanted=batch.users),
            Nodes(wanted=jnp.append(batch.positives, 3)),
            train=True,
            rngs={"dropout": jax.random.key(7)},
        ).views
        return out[:2], drawn, (jax.value_and_grad(share, has_aux=True) if with_gradients else share)(params, inputs)

    out, drawn, result = compute(params, experiment.inputs)
    (loss, parts), gradients = result if with_gradients else (result, {})
    h_users, h_items = nodes_by_hand(experiment, params)
    predict = functools.partial(affine, layer=params["predictor"])
    np.testing.assert_allclose(out[0], predict(h_users), atol=1e-5)
    np.testing.assert_allclose(out[1], predict(h_items), atol=1e-5)

    u, i = users[mask], positives[mask]
    names = list(dataset.features)
    features = [
        affine(params.get(f"item_{name}_table", dataset.features[name]), params[f"{name}_projection"])[i]
        for name in names
    ]

    def dropped(found, rows):
        """Each number of the rows is dropped or doubled; the rate is 0.5."""
        found = np.asarray(found)[:10]
        kept = found != 0
        np.testing.assert_allclose(found[kept], 2 * rows[kept], atol=1e-5)
        assert 0.3 < kept.mean() < 0.7
        return found

    target_users, target_items = dropped(drawn["user_targets"], h_users[u]), dropped(drawn["item_targets"], h_items[i])
    bootstrap = 2 - mean_cosine(predict(h_users[u]), target_items) - mean_cosine(predict(h_items[i]), target_users)
    modalities = 0.0
    for rows, target in zip(features, drawn["targets"], strict=True):
        modalities += 2 - mean_cosine(predict(rows), target_items) - mean_cosine(predict(rows), dropped(target, rows))
    l2 = (np.sum(h_users[u] ** 2) + np.sum(h_items[i] ** 2)) / 20
    if variant == "reference":
        l2 = (np.linalg.norm(h_users) + np.linalg.norm(h_items)) / NUM_ITEMS
    expected = {"bootstrap": bootstrap, "modalities": 0.7 * modalities, "l2": 0.3 * l2}
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)
    assert ("item_text_table" in params) == (variant == "strict")
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(gradients))


def test_no_gradient_flows_through_what_the_losses_aim_at():
    """Without the affine map's share and L2, all that the targets could carry is their own gradient: there is none."""
    experiment = experiment_of()
    model = experiment.model.clone(l2_weight=0.0, modality_weight=0.0)
    users, positives = (jnp.asarray(column) for column in experiment.dataset.train[:12].T)
    batch = Batch(users, positives, jnp.array([0]), jnp.ones(12, bool), jnp.zeros((12, 1), bool))
    params = random_params(experiment)

    def loss(views):
        rows = jnp.ones((12, 8)), jnp.ones((13, 8))
        out = model.apply({"params": params}, experiment.inputs, Nodes(wanted=users), ALL)
        return sum(model.losses(out._replace(users=rows[0], items=rows[1], views=views), batch, ALONE).values())

    rng = np.random.default_rng(0)
    views = {f"{side}_targets": rng.normal(size=(12, 8)).astype(np.float32) for side in ("user", "item")}
    value, gradients = jax.value_and_grad(loss)(views)
    assert value != 0
    for g in gradients.values():
        np.testing.assert_array_equal(g, 0)


def test_a_row_is_dropped_alike_wherever_it_stands_and_kept_as_often_as_it_should_be():
    drop = jax.jit(lambda key, ids, rows: drop_rows(key, Nodes(wanted=ids), rows, 0.3))
    ids = jnp.array([5, 2, 5, *range(400)])
    rows = jnp.ones((403, 16))
    found = np.asarray(drop(jax.random.key(0), ids, rows))
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[0], found[3 + 5])
    assert (found[0] != found[1]).any()
    np.testing.assert_allclose(np.unique(found), [0, 1 / 0.7], rtol=1e-6)
    # 6,400 draws: the share kept has a standard deviation of .006.
    assert abs((found[3:] != 0).mean() - 0.7) < 0.03
    assert (np.asarray(drop(jax.random.key(1), ids, rows)) != found).any()
    np.testing.assert_array_equal(drop_rows(jax.random.key(0), ALL, rows[:400], 0.3), found[3:])
    np.testing.assert_array_equal(drop_rows(jax.random.key(0), ALL, rows, 0.0), rows)
    np.testing.assert_array_equal(drop_rows(jax.random.key(0), ALL, rows, 1.0), 0)


def test_a_rate_just_below_1_drops_all_and_has_a_gradient():
    def dropped(rate, rows):
        return drop_rows(jax.random.key(0), ALL, rows, rate)

    rows, rate = jnp.full((5, 3), 1e3), np.float32(0.99999999)
    np.testing.assert_array_equal(jax.jit(dropped)(rate, rows), 0)
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda rows, rate: dropped(rate, rows).sum()))(rows, rate), 0)


def test_without_the_modality_loss_there_are_no_projections():
    experiment = experiment_of()
    model = experiment.model.clone(modality_weight=0.0)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), experiment.inputs)["params"])
    assert set(params) == {"user_id_table", "item_id_table", "predictor"}
