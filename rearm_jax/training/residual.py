"""A fitted model's score beside a learned model's own: fitted before training, weighed on validation when it ends.

For a user, with z the z-score over all items, score = z(model) + w z(fitted). The fit lies among the checkpoints of the
run, and with it, once training has ended, the weight w, which belongs to the best step.
"""

import os
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import CheckpointError
from rearm_jax.evaluation.scoring import Scores, metrics_by_weight, scores_metrics, with_residual
from rearm_jax.evaluation.splits import scored_splits
from rearm_jax.experiment import Experiment
from rearm_jax.recommender.fitted import Fitted, Params, scores_of
from rearm_jax.training.checkpoint import Checkpoints, checkpoint_directory
from rearm_jax.training.fit import fit, open_fits, read_fit, save_fit
from rearm_jax.training.run_data import data_sizes


class Residual(NamedTuple):
    """A fitted model that stands beside a learned one, and the weight of its score."""

    model: Fitted
    params: Params
    weight: float

    def join(self, scores: Scores, dataset: Dataset) -> Scores:
        """The scores of both."""
        return with_residual(scores, scores_of(self.model, self.params, dataset), self.weight)


def fit_residual(experiment: Experiment, workdir: str) -> None:
    """Fits and saves the model of config.residual, unless that is done already.

    Raises:
      NonFiniteError: the fit holds a NaN or an infinity; nothing is saved.
      CheckpointError: the run folder holds a damaged fit, or cannot be written.
    """
    dataset = experiment.dataset
    with _open(workdir, dataset) as checkpoints:
        if checkpoints.resume_step() is None:
            params = fit(_model(experiment), dataset)
            save_fit(checkpoints, params, _data_facts(dataset), None)


def weigh_residual(experiment: Experiment, workdir: str, best_step: int, scores: Scores) -> dict[str, Any]:
    """Chooses the weight by evaluation.metric on validation, the first of equals, keeps it, and scores test with it if
    config.evaluation.test is on.

    Args:
      experiment: of the run.
      workdir: where `fit_residual` has been.
      best_step: the step of `scores`.
      scores: of the learned model.

    Returns:
      The metrics of the splits that the run scores, and "residual": the model, the weight, and validation, if there is
      any, with every weight.

    Raises:
      CheckpointError: the fit is damaged.
    """
    config, dataset, model = experiment.config, experiment.dataset, _model(experiment)
    weights, ks = [float(weight) for weight in config.residual.weights], tuple(config.evaluation.ks)
    block_size = config.evaluation.block_size
    name = f"valid/{config.evaluation.metric}"
    with _open(workdir, dataset) as checkpoints:
        params, _ = read_fit(checkpoints, dataset)
        others = scores_of(model, params, dataset)
        valid: list[dict[str, float]] = [{}]  # without validation there is one weight: `make_experiment` sees to it
        if len(dataset.valid):
            valid = metrics_by_weight(scores, others, weights, dataset, "valid", ks, block_size)
        values = [metrics[name] for metrics in valid if metrics]
        best = int(np.argmax(values)) if values else 0
        residual = Residual(model, params, weights[best])
        facts = _data_facts(dataset) | {"best_step": best_step, "weight": residual.weight}
        save_fit(checkpoints, params, facts, values[best] if values else None)
    logging.info("residual %s: weight %g", model.title, residual.weight)
    popularity_k = int(config.evaluation.metric.split("@")[1])
    metrics: dict[str, Any] = dict(valid[best])
    if "test" in scored_splits(config.evaluation, dataset):
        joined = residual.join(scores, dataset)
        metrics |= scores_metrics(joined, dataset, "test", ks, block_size, popularity_k)
    about: dict[str, Any] = {"model": config.residual.model, "weight": residual.weight}
    about["parameters"] = sum(array.size for array in params.values())
    if values:
        about[name] = {str(weight): value for weight, value in zip(weights, values, strict=True)}
    return metrics | {"residual": about}


def saved_residual(experiment: Experiment, workdir: str, best_step: int) -> Residual:
    """What `weigh_residual` kept.

    Raises:
      CheckpointError: the run has not weighed it yet, or the fit is damaged.
    """
    dataset = experiment.dataset
    with _open(workdir, dataset) as checkpoints:
        params, facts = read_fit(checkpoints, dataset)
    if facts.get("best_step") != best_step:
        raise CheckpointError(
            f"{workdir}: the weight of residual.model = {experiment.config.residual.model} is chosen when training "
            f"ends, and it has not for step {best_step}. Give the run's training command again: it goes on from the "
            "last checkpoint"
        )
    return Residual(_model(experiment), params, facts["weight"])


def residual_metrics(experiment: Experiment, residual: Residual, scores: Scores) -> dict[str, float]:
    """Metrics of both scores, on validation, and on test where the run scores it."""
    settings, dataset = experiment.config.evaluation, experiment.dataset
    joined, ks = residual.join(scores, dataset), tuple(settings.ks)
    metrics: dict[str, float] = {}
    for split in scored_splits(settings, dataset):
        metrics |= scores_metrics(joined, dataset, split, ks, settings.block_size)
    return metrics


def _data_facts(dataset: Dataset) -> dict[str, Any]:
    return {"content_hash": dataset.content_hash, "sizes": data_sizes(dataset)}


def _open(workdir: str | os.PathLike, dataset: Dataset) -> Checkpoints:
    return open_fits(checkpoint_directory(workdir) / "residual", dataset)


def _model(experiment: Experiment) -> Fitted:
    assert experiment.residual
    return experiment.residual
