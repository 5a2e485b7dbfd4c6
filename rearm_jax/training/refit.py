"""A refit: the settings and the length of a finished run, trained on the interactions of all its splits.

What is served should know the newest interactions, too. The run has chosen the settings and how long to train; the
refit takes these over and has nothing left to be scored on: its result carries the figures of the run, under
"refit_of", and none of its own. It is a run like any other, with a folder of its own.
"""

import os

from absl import logging
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset, all_in_train
from rearm_jax.default import is_fitted
from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.training.lock import RunLock
from rearm_jax.training.loop import train
from rearm_jax.training.run_data import keep_dataset, open_data, open_experiment
from rearm_jax.training.run_folder import check_run_folder, clear_run_folder, read_refit, read_result, write_refit
from rearm_jax.training.run_path import run_path
from rearm_jax.training.step import steps_per_epoch
from rearm_jax.training.watcher import OnEvaluation

REFIT_BY = ("epochs", "steps")


def refit(
    config: ConfigDict,
    workdir: str | os.PathLike,
    out: str | os.PathLike,
    by: str = "epochs",
    overwrite: bool = False,
    on_evaluation: OnEvaluation | None = None,
) -> tuple[dict | None, int | None]:
    """Trains the refit of a finished run, or goes on with it.

    Args:
      config: of the run, resolved.
      workdir: the run folder.
      out: folder of the refit.
      by: how long: "epochs", as many as the run's best checkpoint had; "steps", about as many optimiser steps, in whole
        epochs, which are longer here.
      overwrite: deletes the run that `out` holds.
      on_evaluation: as `rearm_jax.training.loop.train`.

    Returns:
      As `rearm_jax.training.loop.train`.

    Raises:
      ConfigError: `by` is none of REFIT_BY, or `out` is the run itself.
      CheckpointError: the run is not finished, was trained on all interactions itself, or on other data than those that
        are here now; `out` holds another run, or cannot be written.
    """
    if by not in REFIT_BY:
        raise ConfigError(f"refit_by is {by!r}: must be one of {', '.join(REFIT_BY)}")
    if run_path(workdir).resolve() == run_path(out).resolve():
        raise ConfigError(f"{out} is the run itself: name another folder for the refit")
    result = _finished(config, workdir)
    dataset = open_data(config, workdir)
    refitted = refit_config(config, result, dataset, by)
    origin = {"run": os.fspath(workdir), "by": by, **{name: result[name] for name in ("best_epoch", "best_step")}}
    origin |= {"content_hash": dataset.content_hash, "metrics": _metrics(result)}
    with RunLock(os.fspath(out)) as lock:
        if overwrite:
            clear_run_folder(out)
        check_run_folder(out, refitted)
        found = read_refit(out)
        if found is not None and found != origin:
            changed = ", ".join(name for name in origin if found.get(name) != origin[name])
            raise CheckpointError(
                f"{out} is a refit of another run, or of {workdir} as it was before ({changed} differ). Name another "
                "folder, or remove that refit (--overwrite does) to start anew"
            )
        if config.data.source == "run":
            keep_dataset(refitted, dataset, out)
        del dataset  # it is read again, as all runs read theirs
        experiment = open_experiment(refitted, out)
        write_refit(out, origin)
        logging.info("refit of %s: it has no figures of its own, as nothing is left to score", workdir)
        return train(experiment, os.fspath(out), lock, on_evaluation)


def refit_config(config: ConfigDict, result: dict, dataset: Dataset, by: str) -> ConfigDict:
    """The settings of the refit: those of the run, all interactions in train, as long as its best checkpoint had.

    Args:
      config: of the run, resolved.
      result: what its result.json holds.
      dataset: its data.
      by: one of REFIT_BY.
    """
    refitted = config.copy_and_resolve_references()
    refitted.data.train_on = "all"
    if not is_fitted(config.model.name):
        refitted.num_epochs = result["best_epoch"]
        if by == "steps":
            num_steps = steps_per_epoch(len(all_in_train(dataset).train), config.batch_size)
            refitted.num_epochs = max(1, round(result["best_step"] / num_steps))
    if config.residual.model:
        refitted.residual.weights = (result["residual"]["weight"],)
    return refitted


def _finished(config: ConfigDict, workdir: str | os.PathLike) -> dict:
    """What the run's result.json holds, of a run that can be refitted."""
    result = read_result(workdir)
    if result is None:
        raise CheckpointError(
            f"{workdir} has no result.json: the run is not finished. Give its training command again: it goes on from "
            "the last checkpoint"
        )
    if config.data.train_on == "all":
        raise CheckpointError(
            f"{workdir} was trained on all interactions already: refit the run that chose its settings"
        )
    if not _metrics(result):
        raise CheckpointError(f"{workdir} was never scored: it has chosen nothing that a refit could take over")
    if not is_fitted(config.model.name) and not result["best_epoch"]:
        raise CheckpointError(f"{workdir} was best before its first epoch: there is no training to repeat")
    return result


def _metrics(result: dict) -> dict[str, float]:
    return {name: value for name, value in result.items() if name.startswith(("valid/", "test/")) and "@" in name}
