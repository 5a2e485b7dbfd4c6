"""The set-up that every mode shares: config -> data, graphs, model, optimiser."""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from absl import logging
from ml_collections import ConfigDict

from rearm_jax.config import check_against_data, check_config
from rearm_jax.data.dataset import Dataset, load_dataset, summary
from rearm_jax.data.download import download
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.graphs.build import Graphs, build_graphs
from rearm_jax.graphs.relations import user_interest_features
from rearm_jax.models.lightgcn import LightGCN
from rearm_jax.models.rearm import REARM, with_features


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config describes."""

    config: ConfigDict
    dataset: Dataset
    graphs: Graphs
    model: nn.Module
    tx: optax.GradientTransformationExtraArgs


def build_experiment(config: ConfigDict) -> Experiment:
    """Reads the data, builds the graphs, and makes model and optimiser.

    Raises:
      ConfigError: a setting is unknown, of the wrong type or impossible; before anything is read or compiled.
      DataError: the data cannot be used.
    """
    check_config(config)
    dataset = _load(config.data)
    check_against_data(config, dataset.num_users, dataset.num_items)
    logging.info("%s", summary(dataset, config.protocol))
    return make_experiment(config, dataset)


def make_experiment(config: ConfigDict, dataset: Dataset) -> Experiment:
    """Graphs, model and optimiser for a checked config and data that are at hand."""
    return Experiment(
        config=config,
        dataset=dataset,
        graphs=build_graphs(dataset, config.graph, config.protocol, config.seed),
        model=make_model(config, dataset),
        tx=make_optimizer(config, len(dataset.train)),
    )


def make_model(config: ConfigDict, dataset: Dataset) -> nn.Module:
    """The Flax module that config.model names, for the sizes of the data."""
    sizes: dict[str, Any] = {"num_users": dataset.num_users, "num_items": dataset.num_items}
    settings = config.model
    if settings.name == "lightgcn":
        return LightGCN(**sizes, embedding_dim=settings.embedding_dim, num_layers=settings.num_layers)
    return REARM(
        **sizes,
        feature_widths=tuple((name, table.shape[1]) for name, table in dataset.features.items()),
        embedding_dim=settings.embedding_dim,
        rank=settings.rank,
        num_layers=settings.num_layers,
        num_user_layers=settings.num_user_layers,
        num_item_layers=settings.num_item_layers,
        self_dropout=settings.self_dropout,
        cross_dropout=settings.cross_dropout,
        train_meta_projection=settings.train_meta_projection,
        dtype=jnp.dtype(config.compute_dtype),
    )


def make_optimizer(config: ConfigDict, num_interactions: int) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov & Hutter, ICLR 2019) with PyTorch's defaults, after the optional clipping of the gradient.

    Args:
      config: the whole config.
      num_interactions: in train; the schedule counts epochs.

    Returns:
      A transformation whose update also takes `grad_norm`, the norm of all gradients, float32 (): a device that holds
      only some rows of the tables cannot compute it. Without it, the gradients given are taken for all.
    """
    epoch = -(-num_interactions // config.batch_size)
    schedule = config.schedule
    rate = config.learning_rate
    warmup = schedule.warmup_epochs * epoch
    if schedule.name == "cosine":
        rate = optax.warmup_cosine_decay_schedule(0.0 if warmup else rate, rate, warmup, schedule.decay_epochs * epoch)
    elif warmup:
        rate = optax.linear_schedule(0.0, rate, warmup)
    decayed = None if config.model.train_meta_projection else _all_but_meta_projections
    adamw = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=config.weight_decay, mask=decayed)
    if config.gradient_clip_norm:
        return optax.chain(_clip_by_norm(config.gradient_clip_norm), adamw)
    return optax.with_extra_args_support(adamw)


def _clip_by_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """optax.clip_by_global_norm (and its state), but for the norm that may be given."""

    def update(
        grads: Any, state: Any, params: Any = None, *, grad_norm: jax.Array | None = None, **_: Any
    ) -> tuple[Any, Any]:
        norm = optax.tree.norm(grads) if grad_norm is None else grad_norm
        return jax.tree.map(lambda g: jnp.where(norm < max_norm, g, g / norm * max_norm), grads), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _all_but_meta_projections(params: dict) -> dict:
    """False for the frozen meta projections: they get no gradient, and the original's AdamW skips them."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "projection" not in [key.key for key in path] or not path[0].key.endswith("_meta"), params
    )


def init_params(experiment: Experiment) -> dict:
    """The parameters before training, drawn with config.seed; feature tables start from the data.

    Returns:
      Nested dict of float32 arrays on the default device.
    """
    dataset, model = experiment.dataset, experiment.model
    params = jax.jit(lambda key, graphs: model.init(key, graphs, train=False)["params"])(
        jax.random.key(experiment.config.seed), experiment.graphs
    )
    if not isinstance(model, REARM):
        return params
    interests = {
        name: user_interest_features(dataset.train, dataset.num_users, table)
        for name, table in dataset.features.items()
    }
    return with_features(params, dataset.features, interests)


def abstract_params(experiment: Experiment) -> dict:
    """Shapes and dtypes of the parameters, without making them."""
    graphs, model = experiment.graphs, experiment.model
    return jax.eval_shape(lambda key: model.init(key, graphs, train=False)["params"], jax.random.key(0))


def _load(data: ConfigDict) -> Dataset:
    if data.source == "synthetic":
        return make_synthetic(**data.synthetic.to_dict(), shown=tuple(data.modalities))
    root = os.path.expanduser(data.root)
    if data.name and data.download and not os.path.lexists(root):
        logging.info("%s is missing: downloading %s", root, data.name)
        download(data.name, root)
    return load_dataset(root, tuple(data.modalities), data.num_users)
