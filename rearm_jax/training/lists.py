"""The lists that the metrics of a finished run are made of."""

import numpy as np

from rearm_jax.evaluation.scoring import dot_products, rank_split
from rearm_jax.experiment import Experiment
from rearm_jax.recommender.fitted import Fitted, scores_of
from rearm_jax.training.best_step import best_params
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.fit import saved_fit
from rearm_jax.training.placement import place
from rearm_jax.training.residual import saved_residual

Lists = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]


def split_lists(experiment: Experiment, workdir: str, split: str) -> Lists:
    """The lists of a split's users, in blocks, the users, and their positives: what `split_metrics` takes.

    Args:
      experiment: of the run.
      workdir: run folder.
      split: "valid" or "test", one that the run scores.

    Raises:
      CheckpointError: the run has not ended, or is of other data.
    """
    dataset, settings = experiment.dataset, experiment.config.evaluation
    k, block_size = max(settings.ks), settings.block_size
    if isinstance(experiment.model, Fitted):
        params, _ = saved_fit(workdir, dataset)
        return rank_split(scores_of(experiment.model, params, dataset), dataset, split, k, block_size)
    placement = place(experiment)
    step, params = best_params(placement, workdir)
    inputs = placement.inputs()
    if not experiment.residual:
        return Evaluator(placement, inputs).lists(params, split)
    scores = dot_products(*placement.representations(params, inputs))
    joined = saved_residual(experiment, workdir, step).join(scores, dataset)
    return rank_split(joined, dataset, split, k, block_size)
