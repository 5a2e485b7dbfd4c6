"""The parts of LightGCN, FREEDOM and MGCN in rearm_jax; what REARM has as well is in benchmarks/jax_side.py."""

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
    if problem.config.model.name == "mgcn":
        makers |= {"losses": _mgcn_losses, "propagation item-item": _views, "projections": _gates}
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


def _views(experiment: Experiment) -> Callable[[], object]:
    """Of purified features of all modalities, over their graphs and on to the users."""
    dataset, d = experiment.dataset, experiment.config.model.embedding_dim
    tables = [random((dataset.num_items, d), seed) for seed, _ in enumerate(dataset.features)]
    graphs = experiment.inputs["user_item"], [experiment.inputs[f"item_item:{name}"] for name in dataset.features]

    def run(graphs, tables, cotangents):
        user_item, item_items = graphs
        out, backward = jax.vjp(lambda tables: experiment.model.content_views(user_item, tables, item_items), tables)
        return out, backward(cotangents)

    width = d * len(tables)
    return timed(run, graphs, tables, (random((dataset.num_users, width)), random((dataset.num_items, width))))


def _gates(experiment: Experiment) -> Callable[[], object]:
    """The projected features of all items and what the gates are made of, with the gradients of the tables."""
    d = experiment.config.model.embedding_dim
    tables = [random(table.shape, seed) for seed, table in enumerate(experiment.dataset.features.values())]
    params = [[{"kernel": random((n, d)), "bias": random((d,))} for n in (table.shape[1], d)] for table in tables]

    def project(tables, params):
        layer = torch_linear(d, jnp.float32, "affine", fan_in=1)
        return [
            layer.apply({"params": gate}, layer.apply({"params": projection}, table))
            for table, (projection, gate) in zip(tables, params, strict=True)
        ]

    return forward_backward(project, tables, params)


def _mgcn_losses(experiment: Experiment) -> Callable[[], object]:
    """From the representation, side and shared view of users, positives and negatives to the gradients of all.

    The shared view is read out of the tables of all nodes, and its gradients are of these.
    """
    dataset, d, batch = experiment.dataset, experiment.config.model.embedding_dim, first_batch(experiment)
    sizes = len(batch.users), 2 * len(batch.users)
    tables = {
        "rows": [random((n, d), n) for n in sizes],
        "side": tuple(random((n, d), n + 1) for n in sizes),
        "shared": (random((dataset.num_users, d), 2), random((dataset.num_items, d), 3)),
    }

    def loss(tables, batch):
        out = Representations(*tables["rows"], {"side": tables["side"], "shared": tables["shared"]})
        return sum(experiment.model.losses(out, batch, ALONE).values())

    return timed(jax.value_and_grad(loss), tables, batch)


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
