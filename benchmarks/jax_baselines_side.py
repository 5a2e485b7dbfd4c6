"""The parts of LightGCN and FREEDOM in rearm_jax; what is the same for REARM comes from benchmarks/jax_side.py."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.jax_side import COMMON, first_batch, forward_backward, propagation, random, ranking, timed
from benchmarks.problem import load_problem
from rearm_jax.experiment import Experiment, make_experiment
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Representations
from rearm_jax.recommender.layers import torch_linear


def load_parts(folder: str, side: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """Name of a part -> what makes it: a function of nothing that runs it once. `side` is "jax_baselines"."""
    problem = load_problem(Path(folder))
    experiment = functools.cache(lambda: make_experiment(problem.config, problem.dataset))
    makers = COMMON | {"propagation user-item": _user_item, "losses": _losses}
    if problem.config.model.name == "freedom":
        along = functools.partial(propagation, width=problem.width)
        makers |= {
            "pruning an epoch": _pruning,
            "propagation item-item": functools.partial(along, graph="item_item"),
            "projections": _projections,
        }
    parts = {name: functools.partial(lambda make: make(experiment()), make) for name, make in makers.items()}
    return parts | {"ranking": lambda: ranking(problem)}


def _pruning(experiment: Experiment) -> Callable[[], object]:
    return timed(experiment.model.epoch_inputs, experiment.inputs, jax.random.key(0))


def _user_item(experiment: Experiment) -> Callable[[], object]:
    """Over the edges that a step has."""
    changed = jax.jit(experiment.model.epoch_inputs)(experiment.inputs, jax.random.key(0))
    inputs = {**experiment.inputs, **changed}
    d = experiment.config.model.embedding_dim
    return propagation(dataclasses.replace(experiment, inputs=inputs), graph="user_item", width=d)


def _projections(experiment: Experiment) -> Callable[[], object]:
    """Of the positives and negatives of a batch, with the gradients of the tables."""
    d, batch = experiment.config.model.embedding_dim, first_batch(experiment)
    items = jnp.concatenate([batch.positives, batch.negatives])
    tables = [random(table.shape, seed) for seed, table in enumerate(experiment.dataset.features.values())]
    params = [{"kernel": random((table.shape[1], d))} for table in tables]

    def project(tables, params):
        layer = torch_linear(d, jnp.float32, "projection", fan_in=1, use_bias=False)
        return [layer.apply({"params": param}, table[items]) for table, param in zip(tables, params, strict=True)]

    return forward_backward(project, tables, params)


def _losses(experiment: Experiment) -> Callable[[], object]:
    """From the representations of all nodes, and what else the losses read, to the gradients of all of these."""
    dataset, d, batch = experiment.dataset, experiment.config.model.embedding_dim, first_batch(experiment)
    users, items = random((dataset.num_users, d)), random((dataset.num_items, d), 1)
    views = {"user_ids": random(users.shape, 2), "item_ids": random(items.shape, 3)}
    if experiment.config.model.name == "freedom":
        rows = 2 * len(batch.positives)
        views = {"projected": tuple(random((rows, d), seed) for seed, _ in enumerate(dataset.features))}

    def loss(tables, batch):
        users, items, views = tables
        wanted = jnp.concatenate([batch.positives, batch.negatives])
        out = Representations(users[batch.users], items[wanted], views)
        return sum(experiment.model.losses(out, batch, ALONE).values())

    return timed(jax.value_and_grad(loss), (users, items, views), batch)
