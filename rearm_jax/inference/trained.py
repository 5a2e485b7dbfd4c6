"""A trained run, opened: what every mode after training starts from."""

import dataclasses
import functools

import jax
from absl import logging
from ml_collections import ConfigDict

from rearm_jax.evaluation.scoring import Scores, dot_products
from rearm_jax.experiment import Experiment, in_precision
from rearm_jax.recommender.contract import Representations
from rearm_jax.recommender.fitted import Fitted, scores_of
from rearm_jax.training.best_step import best_params
from rearm_jax.training.fit import STEP, saved_fit
from rearm_jax.training.placement import place
from rearm_jax.training.residual import Residual, saved_residual
from rearm_jax.training.run_data import open_experiment
from rearm_jax.training.run_folder import check_run_folder, saved_config


@dataclasses.dataclass(frozen=True)
class Trained:
    """The best checkpoint of a run and what it was trained on.

    Attributes:
      workdir: the run folder.
      step: train steps that the parameters have seen.
      experiment: data, inputs, model; `experiment.dataset.labels` has the outside ids.
      params: the model's parameters; of a fitted model, arrays on the host.
      residual: a fitted model beside the learned one, or None.
    """

    workdir: str
    step: int
    experiment: Experiment
    params: dict
    residual: Residual | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether the model is one in closed form, which has no representations."""
        return isinstance(self.experiment.model, Fitted)

    @functools.cached_property
    def scores(self) -> Scores:
        """What is ranked."""
        if self.is_fitted:
            return scores_of(self.experiment.model, self.params, self.experiment.dataset)
        scores = dot_products(self.representations.users, self.representations.items)
        return self.residual.join(scores, self.experiment.dataset) if self.residual else scores

    @functools.cached_property
    def representations(self) -> Representations:
        """A learned model's output for all users and items, computed once, on the default device."""
        model, precision = self.experiment.model, self.experiment.config.matmul_precision
        forward = in_precision(precision, lambda params, inputs: model.apply({"params": params}, inputs))
        return jax.jit(forward)(self.params, self.experiment.inputs)


def run_config(workdir: str, config: ConfigDict | None = None) -> ConfigDict:
    """The config of a run, or `config` if it describes the same run (another folder of the same data, say).

    Raises:
      CheckpointError: the folder holds no run, or one with other settings.
      ConfigError: its config.json is damaged.
    """
    saved = saved_config(workdir)
    if config is None:
        return saved
    check_run_folder(workdir, config)
    return config


def load_trained(workdir: str, config: ConfigDict | None = None) -> Trained:
    """Opens a run at its best checkpoint, or its fit; reads the parameters alone, on one device.

    Args:
      workdir: the run folder.
      config: as in `run_config`.

    Raises:
      CheckpointError, ConfigError: as `run_config` and `best_params`.
      DataError: the data that the config names cannot be used.
    """
    config = run_config(workdir, config).copy_and_resolve_references()
    with config.unlocked():
        config.parallel = "data"
    experiment = open_experiment(config, workdir, brief=True)
    if isinstance(experiment.model, Fitted):
        step, (params, _) = STEP, saved_fit(workdir, experiment.dataset)
    else:
        step, params = best_params(place(experiment), workdir)
    logging.info("step %d of %s", step, workdir)
    residual = saved_residual(experiment, workdir, step) if experiment.residual else None
    return Trained(workdir, step, experiment, params, residual)
