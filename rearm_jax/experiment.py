"""The set-up that every mode shares: config -> data, inputs, model, optimiser."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from ml_collections import ConfigDict

from rearm_jax import models
from rearm_jax.config import check_against_data, resolve
from rearm_jax.data.dataset import Dataset, all_in_train, load_dataset, summary
from rearm_jax.data.download import download
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError
from rearm_jax.recommender.contract import Inputs, Recommender, drawn_params
from rearm_jax.recommender.fitted import Fitted


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config describes."""

    config: ConfigDict
    dataset: Dataset
    inputs: Inputs  # empty for a fitted model
    model: Any  # a Recommender, or a Fitted
    optimizer: "Optimizer | None"  # None for a fitted model
    residual: Fitted | None = None  # stands beside a Recommender

    @property
    def tx(self) -> optax.GradientTransformationExtraArgs:
        """The optimiser with its rates."""
        return cast(Optimizer, self.optimizer).transformation(self.model, optimizer_rates(self.config))

    def split_rates(self) -> tuple[Recommender, dict[str, dict[str, Any]]]:
        """The model without its rates, and the rates of model and optimiser: what the compiled programs of training and
        evaluation take as arguments, so that runs that differ in nothing else share them."""
        model, rates = self.model.split_rates()
        return model, {"model": rates, "optimizer": optimizer_rates(self.config)}


def build_experiment(config: ConfigDict) -> Experiment:
    """Reads the data, builds what the model reads, and makes model and optimiser.

    Raises:
      ConfigError: a setting is unknown, of the wrong type or impossible; before anything is read or compiled.
      DataError: the data cannot be used.
    """
    config = resolve(config)
    dataset = load_data(config.data)
    check_against_data(config, dataset.num_users, dataset.num_items)
    logging.info("%s", summary(dataset, config.protocol))
    return make_experiment(config, dataset)


def make_experiment(config: ConfigDict, dataset: Dataset) -> Experiment:
    """Inputs, model and optimiser for a checked config and data that are at hand.

    Raises:
      ConfigError: validation is to choose something, and is empty.
    """
    residual = config.residual.model
    if residual and not len(dataset.valid) and len(config.residual.weights) > 1:
        raise ConfigError(
            f"residual.weights = {config.residual.weights}: validation is empty and cannot choose one of them; give "
            "one, as a refit does"
        )
    kind = models.find(config.model.name)
    model = kind.make(config, dataset)
    return Experiment(
        config=config,
        dataset=dataset,
        inputs=kind.relations(dataset, config),
        model=model,
        optimizer=make_optimizer(config, len(dataset.train)) if isinstance(model, Recommender) else None,
        residual=cast(type[Fitted], models.find(residual)).make(config, dataset, "residual") if residual else None,
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter, ICLR 2019) with PyTorch's defaults, after the optional clipping of the gradient: all
    of it but its rates. Equal ones make one program."""

    schedule: str  # config.schedule.name
    warmup_steps: int
    decay_steps: int  # the warm-up among them
    clips: bool

    def transformation(self, model: Recommender, rates: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
        """The optimiser.

        Args:
          model: says which parameters do not decay.
          rates: of `optimizer_rates`, numbers or scalars of a program that is being traced.

        Returns:
          A transformation whose update also takes `grad_norm`, the norm of all gradients, float32 (): a device that
          holds only some rows of the tables cannot compute it. Without it, the gradients given are taken for all.
        """
        rate: Any = rates["learning_rate"]
        if self.schedule == "cosine":  # optax.warmup_cosine_decay_schedule, which compares the rate with 0
            cosine = optax.cosine_decay_schedule(rate, self.decay_steps - self.warmup_steps)
            warmup = optax.linear_schedule(0.0 if self.warmup_steps else rate, rate, self.warmup_steps)
            rate = optax.join_schedules([warmup, cosine], [self.warmup_steps])
        elif self.warmup_steps:
            rate = optax.linear_schedule(0.0, rate, self.warmup_steps)

        def decayed(params: dict) -> dict:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: model.decays(tuple(key.key for key in path)), params
            )

        adamw = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=rates["weight_decay"], mask=decayed)
        if self.clips:
            return optax.chain(_clip_by_norm(rates["max_norm"]), adamw)
        return optax.with_extra_args_support(adamw)


def make_optimizer(config: ConfigDict, num_interactions: int) -> Optimizer:
    """The optimiser that a config describes.

    Args:
      config: the whole config.
      num_interactions: in train; the schedule counts epochs.
    """
    epoch, schedule = -(-num_interactions // config.batch_size), config.schedule
    return Optimizer(
        schedule.name, schedule.warmup_epochs * epoch, schedule.decay_epochs * epoch, config.gradient_clip_norm > 0
    )


def optimizer_rates(config: ConfigDict) -> dict[str, np.float32]:
    """The optimiser's rates, float32 ()."""
    named = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    return {name: np.float32(rate) for name, rate in (named | {"max_norm": config.gradient_clip_norm}).items()}


def _clip_by_norm(max_norm: Any) -> optax.GradientTransformationExtraArgs:
    """optax.clip_by_global_norm (and its state), but for the norm that may be given."""

    def update(
        grads: Any, state: Any, params: Any = None, *, grad_norm: jax.Array | None = None, **_: Any
    ) -> tuple[Any, Any]:
        norm = optax.tree.norm(grads) if grad_norm is None else grad_norm
        return jax.tree.map(lambda g: jnp.where(norm < max_norm, g, g / norm * max_norm), grads), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def in_precision(precision: str, fn: Callable) -> Callable:
    """fn, every product of which asks for `precision`, of config.matmul_precision, when it is traced."""

    @functools.wraps(fn)
    def traced(*args: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return fn(*args)

    return traced


def init_params(experiment: Experiment) -> dict:
    """The parameters before training, drawn with config.seed; feature tables start from the data.

    Returns:
      Nested dict of float32 arrays on the default device.
    """
    key = jax.random.key(experiment.config.seed)
    return experiment.model.initial_params(key, experiment.inputs, experiment.dataset)


def abstract_params(experiment: Experiment) -> dict:
    """Shapes and dtypes of the parameters, without making them."""
    model, _ = experiment.model.split_rates()
    return jax.eval_shape(functools.partial(drawn_params, model), jax.random.key(0), experiment.inputs)


def load_data(data: ConfigDict) -> Dataset:
    """The data that `config.data` names: made on the spot, downloaded where they may be and are missing, or read.

    Raises:
      ConfigError: the data are those that a run folder holds, which training/run_data.py opens.
      DataError: the data cannot be used.
    """
    return as_trained_on(_as_split(data), data)


def as_trained_on(dataset: Dataset, data: ConfigDict) -> Dataset:
    """The interactions in the splits that `config.data.train_on` wants."""
    return all_in_train(dataset) if data.train_on == "all" else dataset


def _as_split(data: ConfigDict) -> Dataset:
    if data.source == "synthetic":
        return make_synthetic(**data.synthetic.to_dict(), shown=tuple(data.modalities))
    if data.source == "run":
        raise ConfigError(
            'data.source = "run": a run folder holds the data, and this is not about that run. To train anew on them, '
            'set data.source to "folder", and data.root to the folder dataset in the run folder'
        )
    root = os.path.expanduser(data.root)
    if data.name and data.download and not os.path.lexists(root):
        logging.info("%s is missing: downloading %s", root, data.name)
        download(data.name, root)
    return load_dataset(root, tuple(data.modalities), data.num_users)
