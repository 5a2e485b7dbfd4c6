"""REARM and LightGCN on small random data: properties for any numbers (tests/test_golden.py has the numbers)."""

import dataclasses
import functools
import re
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rearm_jax import default
from rearm_jax.data.dataset import make_dataset
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.experiment import build_experiment, init_params, make_experiment
from rearm_jax.models.lightgcn import Model as LightGCN
from rearm_jax.models.rearm import REARM, attention
from rearm_jax.models.rearm.attention import ScalarAttention, scalar_attention
from rearm_jax.models.rearm.torch_weights import from_torch, to_torch
from rearm_jax.parallel.rows import ALONE, Nodes
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.step import TrainState, train_step
from tests.conftest import tiny_config

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
NUM_USERS, NUM_ITEMS, WIDTH, D = 41, 31, 6, 8
MODALITIES = ("image", "text", "audio")


def make_config(num_modalities=2, **model):
    config = default.get_config()
    config.data.modalities = MODALITIES[:num_modalities]
    config.graph.update(user_knn_k=5, item_knn_k=4, cache_dir="")
    config.model.update({"embedding_dim": D, "num_layers": 2, **model})
    return config


def make_data(num_modalities=2):
    return make_synthetic(NUM_USERS, NUM_ITEMS, 8, WIDTH, seed=0, modalities=MODALITIES[:num_modalities])


def make_lightgcn(num_layers=2):
    config = default.get_config("lightgcn")
    config.model.update(embedding_dim=D, num_layers=num_layers, init_scale=0.1)
    return LightGCN.make(config, make_data()), LightGCN.relations(make_data(), config)


@functools.cache
def experiment_and_params(num_modalities):
    experiment = make_experiment(make_config(num_modalities), make_data(num_modalities))
    return experiment, init_params(experiment)


@functools.cache
def rearm(num_modalities=2):
    """(model, graphs, params, the whole output without dropout); not to be changed."""
    experiment, params = experiment_and_params(num_modalities)
    return experiment.model, experiment.inputs, params, forward(experiment.model, params, experiment.inputs)


def forward(model, params, graphs, users=None, items=None):
    apply = lambda params, graphs: model.apply({"params": params}, graphs, Nodes(wanted=users), Nodes(wanted=items))  # noqa: E731
    return jax.jit(apply)(params, graphs)


def assert_trees_close(found, expected, atol=1e-6):
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, atol=atol), found, expected)


def assert_trees_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# The forward pass


@pytest.mark.parametrize("m", [1, 2, 3])
def test_shapes_and_rows(m):
    model, graphs, params, out = rearm(m)
    assert (out.users.shape, out.items.shape) == ((NUM_USERS, (m + 1) * D), (NUM_ITEMS, (m + 1) * D))
    assert [x.shape for x in out.views["modal_users"]] == [(NUM_USERS, D)] * m
    assert [x.shape for x in out.views["modal_items"]] == [(NUM_ITEMS, D)] * m
    assert all(x.dtype == jnp.float32 and np.isfinite(x).all() for x in jax.tree.leaves(out))
    np.testing.assert_array_equal(out.views["user_ids"], params["user_id_table"])
    np.testing.assert_array_equal(out.views["item_ids"], params["item_id_table"])

    users, items = jnp.array([40, 0, 7, 7]), jnp.array([30])
    some = forward(model, params, graphs, users=users, items=items)
    assert_trees_close(some, out._replace(users=out.users[users], items=out.items[items]))


def test_without_dropout_the_result_repeats_and_needs_no_key():
    model, graphs, params, out = rearm()
    assert_trees_equal(forward(model, params, graphs), out)


def test_dropout_depends_on_the_key_alone():
    model, graphs, params, out = rearm()
    apply = jax.jit(lambda key: model.apply({"params": params}, graphs, train=True, rngs={"dropout": key}))
    first, again, other = (apply(jax.random.key(seed)) for seed in (1, 1, 2))
    assert_trees_equal(first, again)
    for a, b in ((first, other), (first, out)):
        assert all(
            np.abs(x - y).max() > 1e-4 for x, y in zip(a.views["modal_items"], b.views["modal_items"], strict=True)
        )
    # Dropout is on item attention only; with both rates 0, training and evaluation agree.
    without = model.clone(self_dropout=0.0, cross_dropout=0.0)
    trained = without.apply({"params": params}, graphs, train=True, rngs={"dropout": jax.random.key(1)})
    assert_trees_close(trained, out)


def test_every_attention_has_its_own_mask_and_rate(monkeypatch):
    experiment, params = experiment_and_params(3)
    model = experiment.model.clone(self_dropout=0.3, cross_dropout=0.7)
    calls = []

    def recording(q, k, v, seed, rate, first_node):
        calls.extend((int(one), rate) for one in seed)
        return scalar_attention(q, k, v, seed, rate, first_node)

    monkeypatch.setattr(attention, "scalar_attention", recording)
    for step in (1, 2):
        model.apply({"params": params}, experiment.inputs, train=True, rngs={"dropout": jax.random.key(step)})
    seeds, rates = zip(*calls, strict=True)
    assert len(set(seeds)) == 18  # 3 self, 6 cross, 2 keys
    assert rates == ((0.3,) * 3 + (0.7,) * 6) * 2
    calls.clear()
    model.apply({"params": params}, experiment.inputs)
    assert [rate for _, rate in calls] == [0.0] * 9


def test_users_and_items_may_be_renumbered():
    """No node is special: a renumbered data set gives the renumbered output (co-occurrence, which has ties, is off)."""
    config = make_config(2)
    config.graph.update(user_cooccurrence_weight=0.0, item_cooccurrence_weight=0.0)
    experiment = make_experiment(config, make_data())
    dataset, params = experiment.dataset, init_params(experiment)
    rng = np.random.default_rng(5)
    new_user, new_item = rng.permutation(NUM_USERS), rng.permutation(NUM_ITEMS)
    old_user, old_item = np.argsort(new_user), np.argsort(new_item)
    splits = [
        np.stack([new_user[pairs[:, 0]], new_item[pairs[:, 1]]], axis=1)
        for pairs in (dataset.train, dataset.valid, dataset.test)
    ]
    features = {name: table[old_item] for name, table in dataset.features.items()}
    renumbered = make_experiment(config, make_dataset(*splits, features, NUM_USERS))
    tables = {
        name: params[name][old_user if name.startswith("user_") else old_item]
        for name in params
        if name.endswith("_table")
    }
    found = forward(renumbered.model, {**params, **tables}, renumbered.inputs)
    expected = forward(experiment.model, params, experiment.inputs)
    assert_trees_close(found.users, expected.users[old_user], atol=5e-6)
    assert_trees_close(found.items, expected.items[old_item], atol=5e-6)
    # The data gives the same tables as the renumbered parameters.
    started = init_params(renumbered)
    for name in MODALITIES[:2]:
        np.testing.assert_allclose(started[f"user_{name}_table"], tables[f"user_{name}_table"], atol=1e-6)


def test_modalities_may_be_reordered():
    """The modal features of a modality do not depend on its place, only its place in the output does."""
    model, graphs, params, out = rearm(3)
    reordered = forward(model.clone(feature_widths=model.feature_widths[2:] + model.feature_widths[:2]), params, graphs)
    for name in ("modal_users", "modal_items"):
        expected = out.views[name]
        assert_trees_close(reordered.views[name], expected[2:] + expected[:2], atol=2e-6)


def test_bfloat16_is_close_and_gives_float32():
    model, graphs, params, out = rearm()
    half = forward(model.clone(dtype=jnp.bfloat16), params, graphs)
    for found, expected in zip(jax.tree.leaves(half), jax.tree.leaves(out), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=0.03)
    assert np.abs(half.users - out.users).max() > 1e-6


def test_full_dropout_trains_without_nan():
    """The paper's setting for Sports."""
    experiment, params = experiment_and_params(2)
    config = make_config(self_dropout=1.0, cross_dropout=0.2)
    model = REARM.make(config, experiment.dataset)
    users, positives = jnp.asarray(experiment.dataset.train[:32].T)
    batch = Batch(users, positives, (positives + 1) % NUM_ITEMS, jnp.ones(32, bool))
    state = TrainState(params, experiment.tx.init(params), jnp.int32(0), jax.random.key_data(jax.random.key(0)))
    step = jax.jit(lambda state: train_step(model, experiment.tx, state, experiment.inputs, batch, ALONE))
    for _ in range(2):
        state, metrics = step(state)
        assert all(np.isfinite(x) for x in metrics.values())
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert np.abs(state.params["user_id_table"] - params["user_id_table"]).max() > 1e-6


# Parameters


def assert_uniform(x, bound):
    x = np.ravel(x)
    assert np.abs(x).max() <= bound
    assert scipy.stats.kstest(x, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def assert_normal(x, std):
    """Also that the tails are there: Flax's xavier_normal has none beyond 2.28 standard deviations."""
    assert np.abs(x).max() > 2.3 * std
    assert scipy.stats.kstest(np.ravel(x), scipy.stats.norm(0, std).cdf).pvalue > 1e-3


def test_initialisation_follows_the_original():
    experiment, _ = experiment_and_params(2)
    model, d, rank = experiment.model.clone(embedding_dim=32), 32, 3
    params = jax.jit(lambda key: model.init(key, experiment.inputs))(jax.random.key(3))["params"]
    kernels = []
    for side in ("user", "item"):
        assert_normal(params[f"{side}_id_table"], 0.1)
        for modality in MODALITIES[:2]:
            projection = params[f"{side}_{modality}_projection"]
            assert projection["kernel"].shape == (WIDTH, d)
            kernels.append(projection["kernel"])
            assert_uniform(projection["bias"], WIDTH**-0.5)
        meta = params[f"{side}_meta"]
        layers = [(meta["projection"], 2 * d)]
        layers += [(meta[mlp][name], n) for mlp in ("mlp_1", "mlp_2") for name, n in (("pre", d), ("out", d * rank))]
        for layer, fan_in in layers:
            assert layer["kernel"].shape[0] == fan_in
            assert_uniform(layer["kernel"], fan_in**-0.5)
            assert_uniform(layer["bias"], fan_in**-0.5)
    assert_normal(np.stack(kernels), np.sqrt(2 / (WIDTH + d)))
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    slopes = {name: x for name, x in flat.items() if name.endswith("negative_slope")}
    assert len(slopes) == 5  # the shared one, and one in each MLP
    assert all(x == 0.25 for x in slopes.values())
    np.testing.assert_array_equal(params["layer_norm"]["scale"], np.ones(d))
    np.testing.assert_array_equal(params["layer_norm"]["bias"], np.zeros(d))
    # No two parameters are the same draw.
    drawn = [np.ravel(x)[:3].tobytes() for x in flat.values() if x.size >= 3 and np.ptp(x) > 0]
    assert len(set(drawn)) == len(drawn)


def test_attention_is_initialised_as_multihead_attention():
    module = ScalarAttention()
    keys = jax.random.split(jax.random.key(0), 500)
    params = jax.jit(jax.vmap(lambda key: module.init(key, jnp.ones((1, 2)), method="project_out")["params"]))(keys)
    assert_uniform(params["in_weight"], np.sqrt(1.5))  # Xavier over (3, 1): sqrt(6 / (3 + 1))
    assert_uniform(params["out_weight"], 1.0)
    np.testing.assert_array_equal(params["in_bias"], np.zeros((500, 3)))
    np.testing.assert_array_equal(params["out_bias"], np.zeros(500))


@pytest.mark.parametrize("make", [lambda: rearm(2)[:2], make_lightgcn], ids=["rearm", "lightgcn"])
def test_tables_with_a_row_per_node_are_named_so(make):
    model, graphs = make()
    shapes = jax.eval_shape(lambda key: model.init(key, graphs), jax.random.key(0))["params"]
    flat = {name: x.shape for name, x in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    for size, prefix in ((NUM_USERS, "user_"), (NUM_ITEMS, "item_")):
        of_size = {name for name, shape in flat.items() if shape and shape[0] == size}
        assert of_size == {name for name in flat if name.startswith(prefix) and name.endswith("_table")}
        assert f"{prefix}id_table" in of_size


def test_feature_tables_start_from_the_data():
    experiment, params = experiment_and_params(3)
    dataset = experiment.dataset
    for name, table in dataset.features.items():
        np.testing.assert_array_equal(params[f"item_{name}_table"], table)
        for user in (0, 17):
            items = dataset.train[dataset.train[:, 0] == user, 1]
            np.testing.assert_allclose(params[f"user_{name}_table"][user], table[items].mean(0), atol=1e-6)


def test_data_of_other_sizes_are_refused():
    experiment, _ = experiment_and_params(3)
    features = {name: table[:, 1:] for name, table in experiment.dataset.features.items()}
    other = dataclasses.replace(experiment.dataset, features=features)
    message = f"item_image_table: the data has shape ({NUM_ITEMS}, {WIDTH - 1}), the parameter ({NUM_ITEMS}, {WIDTH})"
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment.model.initial_params(jax.random.key(0), experiment.inputs, other)


# The original's names


def test_torch_weights_round_trip():
    *_, params, _ = rearm(2)
    state = to_torch(params, MODALITIES[:2])
    assert_trees_equal(from_torch(state, MODALITIES[:2]), jax.device_get(params))
    assert all(type(x) is np.ndarray for x in state.values())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_torch_weights_have_the_original_names_and_shapes(path):
    with np.load(path, allow_pickle=False) as file:
        state = {name.removeprefix("state/"): file[name] for name in file.files if name.startswith("state/")}
    back = to_torch(from_torch(state, ("a", "b")), ("a", "b"))
    assert {name: x.shape for name, x in back.items()} == {name: x.shape for name, x in state.items()}
    assert_trees_equal(back, state)
    assert not np.array_equal(state["image_i_trs.weight"], state["image_u_trs.weight"])


def test_torch_weights_of_another_model_are_refused():
    *_, params, _ = rearm(2)
    state = to_torch(params, MODALITIES[:2])
    del state["prl.weight"]
    with pytest.raises(ValueError, match=r"missing \['prl.weight'\]"):
        from_torch(state, MODALITIES[:2])
    with pytest.raises(ValueError, match=r"unknown \['surplus'\]"):
        from_torch({**to_torch(params, MODALITIES[:2]), "surplus": np.zeros(1)}, MODALITIES[:2])
    for wrong in (MODALITIES, MODALITIES[:1]):
        with pytest.raises(ValueError, match="two modalities"):
            to_torch(params, wrong)
        with pytest.raises(ValueError, match="two modalities"):
            from_torch(state, wrong)


# LightGCN


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_lightgcn_equals_dense_propagation(num_layers):
    model, graphs = make_lightgcn(num_layers)
    assert list(graphs) == ["user_item"]
    dataset, params = make_data(), model.init(jax.random.key(0), graphs)["params"]

    adjacency = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    for user, item in dataset.train:
        adjacency[user, NUM_USERS + item] = adjacency[NUM_USERS + item, user] = 1
    scale = (adjacency.sum(axis=1) + 1e-7) ** -0.5
    adjacency *= scale[:, None] * scale
    layers = [np.concatenate([params["user_id_table"], params["item_id_table"]]).astype(np.float64)]
    for _ in range(num_layers):
        layers.append(adjacency @ layers[-1])
    expected = np.mean(layers, axis=0)

    out = forward(model, params, graphs)
    np.testing.assert_allclose(np.concatenate([out.users, out.items]), expected, atol=1e-6)
    assert set(out.views) == {"user_ids", "item_ids"}
    np.testing.assert_array_equal(out.views["user_ids"], params["user_id_table"])
    some = forward(model, params, graphs, users=jnp.array([3, 3]), items=jnp.array([30]))
    np.testing.assert_allclose(some.users, expected[[3, 3]], atol=1e-6)
    np.testing.assert_allclose(some.items, expected[[NUM_USERS + 30]], atol=1e-6)
    assert_normal(params["user_id_table"], 0.1)


def test_lightgcn_builds_one_graph(tmp_path, built_graphs):
    experiment = build_experiment(tiny_config(model__name="lightgcn", graph__cache_dir=str(tmp_path)))
    assert built_graphs() == ["user-item"]
    assert list(experiment.inputs) == ["user_item"]
    assert list(tmp_path.iterdir()) == []
