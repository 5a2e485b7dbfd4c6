"""The learned baselines: BPR-MF and LightGCN against their formulas in numpy, and all of them as runs.

`python -m tests.test_learned FILE` trains on 1 and 8 devices, on 8 also by row, and saves what came out.
"""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import rearm_jax
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import Experiment, build_experiment, init_params
from rearm_jax.inference.new_items import extended_representations
from rearm_jax.inference.trained import Trained
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Batch
from rearm_jax.training import epoch
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.placement import place
from rearm_jax.training.step import loss_share
from tests.conftest import tiny_config, with_devices

ROOT = Path(__file__).parent.parent
MODELS = ("bpr", "lightgcn", "freedom", "vbpr", "bm3", "mgcn", "smore")
NUM_USERS, NUM_ITEMS = 60, 40
SOFTMAX = {"loss__ranking": "softmax", "loss__num_negatives": 13, "loss__ranking_temperature": 0.5}


@functools.cache
def experiment_of(model: str, **changes) -> Experiment:
    return build_experiment(tiny_config(model__name=model, **changes))


# BPR-MF and LightGCN against numpy


def layers_by_hand(experiment: Experiment, ids: np.ndarray) -> list[np.ndarray]:
    """E, A E, A^2 E, with a dense A."""
    pairs = experiment.dataset.train
    adjacency = np.zeros((NUM_USERS + NUM_ITEMS,) * 2)
    adjacency[pairs[:, 0], NUM_USERS + pairs[:, 1]] = 1
    adjacency += adjacency.T
    degrees = adjacency.sum(1) + 1e-7
    adjacency /= np.sqrt(np.outer(degrees, degrees))
    layers = [ids.astype(np.float64)]
    for _ in range(2):
        layers.append(adjacency @ layers[-1])
    return layers


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


@pytest.mark.parametrize("variant", ["strict", "reference", "softmax"])
@pytest.mark.parametrize("model", ["bpr", "lightgcn"])
def test_representations_and_losses_are_those_of_the_formula(model, variant):
    changes = SOFTMAX | {"loss__similarity": "dot"} if variant == "softmax" else {}
    protocol = "reference" if variant == "reference" else "strict"
    experiment = experiment_of(model, protocol=protocol, loss__l2_weight=0.3, **changes)
    params = jax.device_get(init_params(experiment))
    ids = np.concatenate([params["user_id_table"], params["item_id_table"]])
    z = np.mean(layers_by_hand(experiment, ids), axis=0) if model == "lightgcn" else ids
    z_users, z_items = z[:NUM_USERS], z[NUM_USERS:]

    rng = np.random.default_rng(0)
    users, positives = experiment.dataset.train[::30].T
    mask = np.arange(len(users)) < len(users) - 1
    negatives = rng.integers(0, NUM_ITEMS, 13 if variant == "softmax" else len(users))
    own = jnp.asarray(rng.random((len(users), 13)) < 0.3) if variant == "softmax" else None
    batch = Batch(*(jnp.asarray(x) for x in (users, positives, negatives, mask)), own)

    @jax.jit
    def compute(params, inputs):
        out = experiment.model.apply({"params": params}, inputs)
        return out, loss_share(experiment.model, params, inputs, batch, jax.random.key(0), ALONE)

    out, (loss, parts) = compute(params, experiment.inputs)
    np.testing.assert_allclose(out.users, z_users, atol=1e-6)
    np.testing.assert_allclose(out.items, z_items, atol=1e-6)

    scores = z_users[users] @ z_items.T
    positive = scores[np.arange(len(users)), positives]
    if variant == "softmax":
        others = np.where(own, 0, np.exp(scores[:, negatives] / 0.5)).sum(1)
        ranking = -np.log(np.exp(positive / 0.5) / (np.exp(positive / 0.5) + others))
    else:
        ranking = -log_sigmoid(positive - scores[np.arange(len(users)), negatives])
    e_users, e_items = params["user_id_table"][users[mask]], params["item_id_table"]
    e_negatives = e_items[negatives if variant == "softmax" else negatives[mask]]
    rows = e_users, e_items[positives[mask]], e_negatives
    if variant == "reference":
        l2 = sum(np.linalg.norm(x) for x in rows) / mask.sum()
    else:
        l2 = sum(np.mean(np.sum(x**2, axis=1)) for x in rows) / 2
    expected = {"softmax" if variant == "softmax" else "bpr": ranking[mask].mean(), "l2": 0.3 * l2}
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-5)


def test_without_layers_lightgcn_is_its_embeddings():
    experiment = experiment_of("lightgcn", loss__l2_weight=0.3)
    params = init_params(experiment)
    out = experiment.model.clone(num_layers=0).apply({"params": params}, experiment.inputs)
    np.testing.assert_array_equal(out.users, params["user_id_table"])
    np.testing.assert_array_equal(out.items, params["item_id_table"])


def test_embeddings_start_as_published_or_as_wanted():
    published = {model: init_params(experiment_of(model))["user_id_table"] for model in ("bpr", "lightgcn")}
    std = np.sqrt(2 / (NUM_USERS + 8))
    for values in published.values():
        np.testing.assert_allclose(np.std(values), std, rtol=0.1)
    assert np.abs(published["bpr"]).max() > 2.5 * std  # normal
    assert np.abs(published["lightgcn"]).max() <= np.sqrt(3) * std  # uniform
    for model in (*MODELS, "rearm"):
        scaled = experiment_of(model, model__init_scale=0.7).model
        assert scaled.init_scale == 0.7
    wanted = init_params(experiment_of("bpr", model__init_scale=0.7))["user_id_table"]
    np.testing.assert_allclose(np.std(wanted), 0.7, rtol=0.1)


# What the machine does with them


@pytest.mark.parametrize(
    ("model", "protocol", "excluded"),
    [("rearm", "reference", "reference"), ("rearm", "strict", "strict"), *((m, "reference", "strict") for m in MODELS)],
)
def test_only_rearm_leaks_answers_under_reference(model, protocol, excluded, monkeypatch):
    experiment = experiment_of(model, protocol=protocol)
    asked = []
    real = epoch.make_sampler
    monkeypatch.setattr(epoch, "make_sampler", lambda data, *how: asked.append(how[0]) or real(data, *how))
    epoch.compile_steps(place(experiment), {})
    assert asked == [excluded]


def test_a_model_that_cannot_be_cut_is_refused_by_name_before_anything_is_read():
    for model in ("freedom", "mgcn", "smore"):
        config = tiny_config(model__name=model, parallel="row", data__source="folder", data__root="/nowhere")
        with pytest.raises(ConfigError, match=rf"parallel = 'row': must be \"data\" .* \(model.name = '{model}'\)"):
            build_experiment(config)
    for model in ("bpr", "lightgcn", "rearm", "vbpr", "bm3"):
        assert experiment_of(model, parallel="row").model.by_row


def parameters_of(folder: Path, experiment: Experiment) -> dict[tuple, np.ndarray]:
    placement = place(experiment)
    with Checkpoints(folder, placement.table_rows) as checkpoints:
        params = checkpoints.restore_params(checkpoints.latest_step(), placement.like().params)
    return flatten_dict(jax.device_get(params))


@pytest.mark.parametrize(
    ("model", "changes"),
    [("bpr", SOFTMAX), ("lightgcn", {}), ("freedom", {}), ("vbpr", {}), ("bm3", {}), ("mgcn", {}), ("smore", {})],
)
def test_a_run_that_stops_and_goes_on_is_the_run_that_never_stopped(model, changes, tmp_path):
    config = tiny_config(model__name=model, learning_rate=0.01, **changes)
    whole = rearm_jax.train(config, tmp_path / "whole")
    with config.unlocked():
        config.num_epochs = 2
    rearm_jax.train(config, tmp_path / "cut")
    with config.unlocked():
        config.num_epochs = 3
    result = rearm_jax.train(config, tmp_path / "cut")
    metrics = {name: value for name, value in whole.items() if name.startswith(("valid/", "test/"))}
    assert {name: result[name] for name in metrics} == metrics
    experiment = build_experiment(config)
    found, expected = (parameters_of(tmp_path / name, experiment) for name in ("cut", "whole"))
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=str(path))

    # The doors that every run has.
    assert rearm_jax.evaluate(tmp_path / "whole") == metrics
    lists = rearm_jax.recommend(tmp_path / "whole", users=range(5), k=NUM_ITEMS, seen="train")
    for user, one in enumerate(lists):
        listed = [place["item"] for place in one["items"]]
        seen = {item for owner, item in experiment.dataset.train.tolist() if owner == user}
        assert set(listed) == set(range(NUM_ITEMS)) - seen
        scores = [place["score"] for place in one["items"]]
        assert scores == sorted(scores, reverse=True)


def test_the_edges_of_an_epoch_depend_on_the_key_and_the_epoch_alone():
    """A run that stops inside of an epoch draws the same edges when it goes on: another process, another step."""
    placement = place(experiment_of("freedom", learning_rate=0.01))
    inputs = placement.inputs()
    whole, again = (epoch.compile_steps(placement, inputs) for _ in range(2))
    state, *_ = whole(placement.state(), 6)  # an epoch
    state, *_ = whole(state, 1)
    saved = jax.device_get(state)
    expected, found = whole(state, 2)[0], again(placement.whole(saved), 2)[0]
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def test_a_new_item_of_freedom_reads_its_neighbours_alike():
    """h of a new item: the mean over the k nearest, itself included, as `S E` has it for the items of the catalogue."""
    experiment = experiment_of("freedom", graph__item_modality_weights=(0.0, 1.0))
    params = init_params(experiment)
    rng = np.random.default_rng(0)
    new = {name: rng.normal(size=(2, 6)).astype(np.float32) for name in experiment.dataset.features}
    out = extended_representations(Trained("", 0, experiment, params), new)
    k, text = experiment.config.graph.item_knn_k, experiment.dataset.features["text"]
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    for row, features in enumerate(new["text"]):
        similarity = unit @ features / np.linalg.norm(features)
        near = np.argsort(-similarity)[: k - 1]
        ids = np.asarray(params["item_id_table"])[near]
        weights = np.maximum(similarity[near], 0)
        weights = weights / weights.sum()
        stand_in = weights @ ids
        h = (ids.sum(0) + stand_in) / k
        users = np.asarray(experiment.inputs["user_item"].matrix.todense())[NUM_USERS:, :NUM_USERS]
        layers = layers_by_hand(experiment, np.concatenate([params["user_id_table"], params["item_id_table"]]))
        row_of_graph = weights @ users[near]
        z = (stand_in + sum(row_of_graph @ layer[:NUM_USERS] for layer in layers[:2])) / 3
        np.testing.assert_allclose(out.items[NUM_ITEMS + row], z + h, atol=1e-5)


# The number of devices

CASES = {
    "bpr": ("bpr", {}),
    "bpr reference": ("bpr", {"protocol": "reference"}),
    "lightgcn softmax": ("lightgcn", SOFTMAX),
    "freedom": ("freedom", {"loss__modality_weight": 0.1}),
    "vbpr": ("vbpr", {"protocol": "reference", "model__train_features": True}),
    "bm3": ("bm3", {"protocol": "reference"}),
    "mgcn": ("mgcn", {"protocol": "reference"}),
    "smore": ("smore", {"model__dropout": 0.2, "model__train_features": False, **SOFTMAX}),
    "freedom softmax": ("freedom", SOFTMAX | {"loss__modality_weight": 0.1, "loss__similarity": "dot"}),
}
COUNTS = {case: (1, 2, 8) if case == "freedom softmax" else (1, 8) for case in CASES}  # sizes divide by neither
BY_ROW = ("bpr reference", "lightgcn softmax", "vbpr", "bm3")


def train_on(experiment: Experiment, count: int) -> dict[str, np.ndarray]:
    """Losses of three steps of an epoch and one of the next, parameters and metrics after them."""
    placement = place(experiment, jax.devices()[:count])
    inputs = placement.inputs()
    run_steps, state, results = epoch.compile_steps(placement, inputs), placement.state(), {}
    for step in range(5):
        state, _, last = run_steps(state, 1)
        results |= {f"step {step} {name}": np.asarray(value) for name, value in last.items()}
    for path, values in flatten_dict(jax.device_get(state.params)).items():
        rows = {"user": NUM_USERS, "item": NUM_ITEMS}[path[-1][:4]] if path[-1].endswith("_table") else None
        results["/".join(path)] = values[:rows]  # without padding
    return results | Evaluator(placement, inputs)(state.params, "valid")


def train_and_save(file: str) -> None:
    results = {}
    for case, (model, changes) in CASES.items():
        changes = changes | {"batch_size": 101, "learning_rate": 0.01}
        for count in COUNTS[case]:
            found = train_on(experiment_of(model, **changes), count)
            results |= {f"{case}|{count}|{name}": value for name, value in found.items()}
        if case in BY_ROW:
            found = train_on(experiment_of(model, **changes, parallel="row"), 8)
            results |= {f"{case}|row|{name}": value for name, value in found.items()}
    np.savez(file, **results)


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Case -> number of devices or "row" -> what came out."""
    file = tmp_path_factory.mktemp("devices") / "results.npz"
    subprocess.run([sys.executable, "-m", "tests.test_learned", str(file)], cwd=ROOT, env=with_devices(8), check=True)
    results: dict = {}
    with np.load(file, allow_pickle=False) as arrays:
        for key in arrays.files:
            case, count, name = key.split("|")
            results.setdefault(case, {}).setdefault(count, {})[name] = arrays[key]
    return results


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_devices_changes_nothing(case, on_devices):
    one, *others = (on_devices[case][count] for count in on_devices[case])
    assert len(others) == len(COUNTS[case]) - 1 + (case in BY_ROW)
    assert one["step 4 loss"] != one["step 0 loss"]
    for many in others:
        assert many.keys() == one.keys()
        for name, values in one.items():
            np.testing.assert_allclose(many[name], values, rtol=2e-5, atol=2e-5, err_msg=name)


if __name__ == "__main__":
    train_and_save(sys.argv[1])
