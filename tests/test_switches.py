"""REARM with its parts switched off: what each switch equals, and that nothing is left behind that no loss reaches."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rearm_jax.config import check_config, from_json, to_json
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import build_experiment, init_params
from rearm_jax.losses import normalize_rows
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.step import loss_share
from tests.conftest import tiny_config

LOSSES = {"loss__contrastive_weight": 0.1, "loss__orthogonal_weight": 0.1}


def experiment_of(**changes):
    return build_experiment(tiny_config(**LOSSES, **changes))


@functools.cache
def full():
    experiment = experiment_of()
    return experiment, init_params(experiment)


def forward(experiment, params):
    return experiment.model.apply({"params": params}, experiment.inputs)


def assert_equal(found, expected):
    np.testing.assert_array_equal(found.users, expected.users)
    np.testing.assert_array_equal(found.items, expected.items)


def kept_of(params, experiment):
    """Those of `params` that the experiment's model has; they must be all that it has."""
    wanted = jax.eval_shape(lambda key: experiment.model.init(key, experiment.inputs)["params"], jax.random.key(0))
    flat = flatten_dict(params)
    assert flatten_dict(wanted).keys() <= flat.keys()
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[tuple(key.key for key in path)], wanted)


OFF = [
    {"model__attention": "norm"},
    {"model__attention": "none"},
    {"model__meta_network": False},
    {"model__heterography": False},
    {"model__id_embeddings": False, "model__meta_network": False},
    {"graph__user_cooccurrence": False, "graph__user_interest": False},
    {"graph__item_cooccurrence": False, "graph__item_semantic": False},
    {"model__train_features": False},
]


@pytest.mark.parametrize("changes", OFF, ids=lambda changes: "-".join(changes))
def test_no_parameter_is_dead_and_fewer_are_there(changes):
    experiment = experiment_of(**changes, model__num_layers=1)  # layers have no parameters
    params = kept_of(full()[1], experiment)
    users, items = experiment.dataset.train[:64].T
    batch = Batch(users, items, (items + 7) % 40, np.ones(64, bool))
    share = functools.partial(loss_share, experiment.model)
    grads = jax.jit(jax.grad(lambda p: share(p, experiment.inputs, batch, jax.random.key(2), ALONE)[0]))(params)
    dead = {
        "/".join(path)
        for path, grad in flatten_dict(grads).items()
        if not np.abs(grad).max() > 0
        # The published model's own: its meta projection is frozen, and what the layer norm or the softmax cancels.
        if "projection" not in path or not path[0].endswith("_meta")
        if path[-1] not in ("out_bias", "in_bias")
    }
    assert dead == set()


def test_attention_norm_is_attention_whose_output_is_nothing():
    experiment, params = full()
    silent = {
        name: {**block, "out_weight": 0 * block["out_weight"], "out_bias": 0 * block["out_bias"]}
        if name.endswith("_attention")
        else block
        for name, block in params.items()
    }
    norm = experiment_of(model__attention="norm")
    found = forward(norm, kept_of(params, norm))
    expected = forward(experiment, silent)
    np.testing.assert_allclose(found.items, expected.items, atol=1e-6)
    np.testing.assert_allclose(found.users, expected.users, atol=1e-6)


def test_attention_none_treats_items_as_users():
    """With the sides exchanged, users and items would be treated alike: the features that enter the heterography."""
    experiment = experiment_of(model__attention="none", model__num_layers=0)
    params = init_params(experiment)
    out = forward(experiment, params)
    table = params["item_image_table"] @ params["item_image_projection"]["kernel"]
    texts = params["item_text_table"] @ params["item_text_projection"]["kernel"]
    parts = [
        params["item_id_table"],
        table + params["item_image_projection"]["bias"],
        texts + params["item_text_projection"]["bias"],
    ]
    graph = experiment.inputs["item_item"].matrix.todense()
    expected = normalize_rows(graph @ jnp.concatenate(parts, axis=1))
    slope = params["prelu"]["negative_slope"]
    image = expected[:, 8:16]
    np.testing.assert_allclose(out.views["modal_items"][0], jnp.where(image >= 0, image, slope * image), atol=1e-6)


def test_without_the_meta_network_the_shared_part_is_missing():
    experiment, params = full()
    found = experiment_of(model__meta_network=False)
    out, expected = forward(found, kept_of(params, found)), forward(experiment, params)
    np.testing.assert_array_equal(out.users, expected.users[:, :16])
    np.testing.assert_array_equal(out.items, expected.items[:, :16])


def test_without_heterography_features_stay_where_the_homography_left_them():
    experiment = experiment_of(model__heterography=False)
    shallow = experiment_of(model__num_layers=0)
    _, params = full()
    found, expected = forward(experiment, params), forward(shallow, params)
    for side in ("modal_users", "modal_items"):
        for one, other in zip(found.views[side], expected.views[side], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.allclose(found.users, expected.users)  # the ID embeddings are propagated


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_relation_that_is_off_gives_the_other_its_weight(side, weight):
    similarity = {"user": "user_interest", "item": "item_semantic"}[side]
    off = f"{side}_cooccurrence" if weight == 0 else similarity
    found = experiment_of(**{f"graph__{off}": False})
    expected = experiment_of(**{f"graph__{side}_cooccurrence_weight": weight})
    name = f"{side}_{side}"
    np.testing.assert_array_equal(found.inputs[name].matrix.todense(), expected.inputs[name].matrix.todense())


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_side_without_relations_is_not_propagated(side):
    similarity = {"user": "user_interest", "item": "item_semantic"}[side]
    found = experiment_of(**{f"graph__{side}_cooccurrence": False, f"graph__{similarity}": False})
    assert f"{side}_{side}" not in found.inputs
    expected = experiment_of(**{f"model__num_{side}_layers": 0})
    _, params = full()
    assert_equal(forward(found, params), forward(expected, params))


def test_frozen_features_are_those_of_the_data():
    experiment, params = full()
    frozen = experiment_of(model__train_features=False)
    kept = kept_of(params, frozen)
    assert not [name for name in kept if name.endswith(("image_table", "text_table"))]
    assert_equal(forward(frozen, kept), forward(experiment, params))


def test_a_single_modality_with_everything_off():
    experiment = experiment_of(
        data__modalities=("text",),
        graph__user_modality_weights=(1.0,),
        graph__item_modality_weights=(1.0,),
        model__attention="none",
        model__meta_network=False,
        model__id_embeddings=False,
    )
    out = forward(experiment, init_params(experiment))
    assert out.users.shape == (60, 8)
    assert np.isfinite(out.items).all()


def test_switches_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match=r"model\.meta_network = True: must be false without ID embeddings"):
        check_config(tiny_config(model__id_embeddings=False))
    with pytest.raises(ConfigError, match=r"loss\.l2_weight = 0\.1: must be 0 without ID embeddings"):
        check_config(tiny_config(model__id_embeddings=False, model__meta_network=False, loss__l2_weight=0.1))


def test_runs_of_the_first_version_are_of_the_published_model():
    config = tiny_config()
    tree = json.loads(to_json(config))
    for name in ("attention", "meta_network", "heterography", "id_embeddings", "train_features"):
        del tree["model"][name]
    for name in ("user_cooccurrence", "user_interest", "item_cooccurrence", "item_semantic"):
        del tree["graph"][name]
    assert to_json(from_json(json.dumps(tree))) == to_json(config)
