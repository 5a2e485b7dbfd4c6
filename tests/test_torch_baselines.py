"""The PyTorch yardstick of the baselines computes what rearm_jax does: outputs, losses, gradients, edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import baselines, jax_baselines_side, problem
from rearm_jax.experiment import Experiment, build_experiment, init_params
from rearm_jax.graphs.relations import user_item_graph
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.step import loss_share
from tests.conftest import tiny_config

torch = pytest.importorskip("torch", reason="the yardstick needs requirements-bench.txt")

from benchmarks import torch_baselines, torch_baselines_side, torch_rearm  # noqa: E402

MODELS = ("lightgcn", "freedom", "mgcn")
NUM_USERS, NUM_ITEMS = 60, 40


@functools.cache
def experiment_of(model: str) -> Experiment:
    weights = {
        "lightgcn": {"loss__l2_weight": 0.3},
        "freedom": {"loss__modality_weight": 0.3},
        "mgcn": {"loss__l2_weight": 0.3, "loss__contrastive_weight": 0.2},
    }
    return build_experiment(tiny_config(model__name=model, **weights[model]))


def problem_of(model: str) -> problem.Problem:
    experiment = experiment_of(model)
    return problem.Problem(experiment.config, experiment.dataset, problem.scipy_graphs(experiment.inputs), {})


def named(model: str, params: dict) -> dict[str, np.ndarray]:
    """Parameters (or gradients) of rearm_jax by the names that the yardstick has for them."""
    state = {f"{side}_id_embedding.weight": params[f"{side}_id_table"] for side in ("user", "item")}
    layers = {}
    for name in experiment_of(model).dataset.features if model != "lightgcn" else ():
        state[f"tables.{name}.weight"] = params[f"item_{name}_table"]
        layers[f"projections.{name}"] = params[f"{name}_projection"]
        if model == "mgcn":
            layers |= {f"{kind}s.{name}": params[f"{name}_{kind}"] for kind in ("gate", "preference")}
    if model == "mgcn":
        layers |= {name: params[name] for name in ("query", "query_score")}
    for name, layer in layers.items():
        state |= {f"{name}.weight": layer["kernel"].T} | ({f"{name}.bias": layer["bias"]} if "bias" in layer else {})
    return {name: np.array(value) for name, value in state.items()}


def with_params(model: str, params: dict) -> torch_baselines.TorchLightGCN:
    """The yardstick with the parameters of rearm_jax."""
    found = torch_baselines_side.make_model(problem_of(model), "cpu")
    found.load_state_dict({name: torch.tensor(value) for name, value in named(model, params).items()})
    return found


@pytest.mark.parametrize("model", MODELS)
def test_both_sides_compute_the_same(model):
    experiment = experiment_of(model)
    params = jax.device_get(init_params(experiment))
    params["user_id_table"] = 5 * params["user_id_table"]  # away from where every sigmoid is a half
    yardstick = with_params(model, params)
    changed = jax.jit(experiment.model.epoch_inputs)(experiment.inputs, jax.random.key(3))
    inputs = {**experiment.inputs, **changed}
    yardstick.kept = torch_rearm.csr_tensor(problem.scipy_graphs(inputs)["user_item"])
    rng = np.random.default_rng(0)
    users, positives = experiment.dataset.train[::7].T
    batch = users, positives, rng.integers(0, NUM_ITEMS, len(users))

    @jax.jit
    def compute(params, inputs, full_inputs):
        mine = Batch(*(jnp.asarray(x) for x in batch), jnp.ones(len(users), bool))
        out = experiment.model.apply({"params": params}, full_inputs)

        def share(params):
            return loss_share(experiment.model, params, inputs, mine, jax.random.key(0), ALONE)

        return out[:2], jax.value_and_grad(share, has_aux=True)(params)

    out, ((_, parts), gradients) = compute(params, inputs, experiment.inputs)
    columns = tuple(torch.from_numpy(column.astype(np.int64)) for column in batch)
    weight = (0.3, 0.2) if model == "mgcn" else 0.3
    theirs = yardstick.losses(yardstick(), columns, weight)
    assert theirs.keys() == parts.keys()
    for name, part in theirs.items():
        np.testing.assert_allclose(parts[name], part.item(), rtol=1e-5)
    sum(theirs.values()).backward()
    found = {name: parameter.grad.numpy() for name, parameter in yardstick.named_parameters()}
    expected = named(model, gradients)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradient, found[name], atol=1e-6, err_msg=name)

    with torch.inference_mode():
        for ours, other in zip(out, yardstick.eval()(), strict=True):
            np.testing.assert_allclose(ours, other.numpy(), atol=1e-6)


def test_the_yardstick_prunes_as_many_edges_and_normalises_them():
    yardstick = torch_baselines_side.make_model(problem_of("freedom"), "cpu")
    first = yardstick.kept.to_dense().numpy()
    yardstick.prune()
    second = yardstick.kept.to_dense().numpy()
    train = experiment_of("freedom").dataset.train
    for dense in (first, second):
        edges = np.argwhere(dense[:NUM_USERS, NUM_USERS:])
        assert len(edges) == len(train) // 5
        assert set(map(tuple, edges.tolist())) < set(map(tuple, train.tolist()))
        expected = user_item_graph(edges.astype(np.int32), NUM_USERS, NUM_ITEMS).toarray()
        np.testing.assert_allclose(dense, expected, atol=1e-6)
    assert (first != second).any()


@pytest.mark.parametrize("model", MODELS)
def test_every_part_runs_on_both_sides(model, tmp_path):
    problem.write_problem(problem_of(model), tmp_path)
    ours = jax_baselines_side.load_parts(str(tmp_path), "jax_baselines")
    theirs = torch_baselines_side.load_parts(str(tmp_path), "torch_baselines")
    assert ours.keys() - {"compilation"} == theirs.keys() <= set(baselines.PARTS)
    for make in (*ours.values(), *theirs.values()):
        make()()
