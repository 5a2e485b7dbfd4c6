"""Fitted models in a run folder: fitted once, saved with the digest of a checkpoint, evaluated.

The fit is step 0 of the run, its only one.
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import CheckpointError, NonFiniteError
from rearm_jax.evaluation.scoring import scores_metrics
from rearm_jax.evaluation.splits import scored_splits
from rearm_jax.experiment import Experiment
from rearm_jax.recommender.fitted import Fitted, Params, scores_of
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.distributed import check_shared, first_only, is_first
from rearm_jax.training.interrupt import StopRequest
from rearm_jax.training.lock import RunLock
from rearm_jax.training.progress import Progress
from rearm_jax.training.result import describe_run
from rearm_jax.training.run_data import check_data, data_sizes
from rearm_jax.training.run_folder import CONFIG_FILE, read_result, write_config, write_result
from rearm_jax.training.run_path import run_path
from rearm_jax.training.watcher import Watcher

STEP = 0
_REST = {"step": np.int32(STEP)}  # a checkpoint has something beside the parameters


def train_fitted(experiment: Experiment, workdir: str, lock: RunLock | None, watcher: Watcher) -> dict:
    """Fits the model and evaluates it, unless the run folder has both; what result.json holds.

    Args: as `rearm_jax.training.loop.train`; the watcher is told of the one evaluation, and can stop nothing.

    Raises:
      NonFiniteError: the fit holds a NaN or an infinity; nothing is saved.
      CheckpointError: the run folder holds a damaged fit or other data, or cannot be written.
    """
    config, dataset, model = experiment.config, experiment.dataset, experiment.model
    with open_fits(workdir, dataset) as checkpoints:
        saved = None if checkpoints.resume_step() is None else read_fit(checkpoints, dataset)
        result = read_result(workdir)
        if saved and result and result["steps"] == STEP:
            logging.info("%s is finished (%s is fitted at once); nothing to do", workdir, model.title)
            return result

        first_only(write_config, workdir, config)
        check_shared(run_path(workdir) / CONFIG_FILE)
        if saved:
            params, progress = saved[0], Progress(**{f.name: saved[1][f.name] for f in dataclasses.fields(Progress)})
        else:
            start = time.perf_counter()
            params = fit(model, dataset)
            seconds = time.perf_counter() - start
            progress = Progress(dataset.content_hash, seconds=seconds, sizes=data_sizes(dataset))
        scored = scored_splits(config.evaluation, dataset)
        metrics = _metrics(experiment, params, "valid") if "valid" in scored else {}
        if not saved:
            if lock:
                lock.check()
            if metrics:
                progress.observe(metrics[f"valid/{config.evaluation.metric}"])
            save_fit(checkpoints, params, dataclasses.asdict(progress), progress.best_value)
        if metrics:
            watcher({"step": STEP, "epoch": 0} | metrics, StopRequest())
        if "test" in scored:
            metrics |= _metrics(experiment, params, "test", by_popularity=True)
    result = metrics | describe_run(experiment, progress, params, workdir) | {"best_step": STEP, "steps": STEP}
    if is_first():
        write_result(workdir, result)
    return result


def evaluate_fitted(experiment: Experiment, workdir: str) -> dict[str, float]:
    """Metrics of the fit in a run folder, on validation, and on test where the run scores it. Raises as `saved_fit`."""
    params, _ = saved_fit(workdir, experiment.dataset)
    metrics: dict[str, float] = {}
    for split in scored_splits(experiment.config.evaluation, experiment.dataset):
        metrics |= _metrics(experiment, params, split)
    return metrics


def fit(model: Fitted, dataset: Dataset) -> dict[str, np.ndarray]:
    """The model's parameters; the log says what they will take, and what they took.

    Raises:
      NonFiniteError: they are not finite.
    """
    if needed := model.memory_bytes(dataset):
        logging.info("fitting %s takes about %s of memory", model.title, _size(needed))
    start = time.perf_counter()
    params = model.fit(dataset)
    seconds = time.perf_counter() - start
    for name, array in params.items():
        if array.size and not np.isfinite((array.min(), array.max())).all():  # a NaN is both; no copy is made
            raise NonFiniteError(f"{model.title}: {name} holds a NaN or an infinity. Nothing was saved")
    logging.info("fitted %s in %.1f s: %s", model.title, seconds, _size(sum(array.nbytes for array in params.values())))
    return params


def open_fits(workdir: str | os.PathLike, dataset: Dataset) -> Checkpoints:
    """The checkpoints of a folder that holds a fit."""
    return Checkpoints(workdir, {"user": dataset.num_users, "item": dataset.num_items})


def save_fit(checkpoints: Checkpoints, params: Params, progress: Mapping[str, Any], metric: float | None) -> None:
    """Saves a fit, or where it is saved already, `progress` and `metric` in the place of those that are there.

    Args:
      checkpoints: of `open_fits`.
      params: of the fit.
      progress: what JSON can hold; "content_hash" among it.
      metric: on validation, or None where it is unknown.
    """
    arrays = {name: [array.dtype.name, *array.shape] for name, array in params.items()}
    checkpoints.save(STEP, dict(params), _REST, {**progress, "arrays": arrays}, np.nan if metric is None else metric)
    checkpoints.wait()


def read_fit(checkpoints: Checkpoints, dataset: Dataset) -> tuple[dict[str, np.ndarray], dict]:
    """The parameters and the `progress` that `save_fit` saved.

    Raises:
      CheckpointError: there is none, it is damaged, or of other data.
    """
    progress = checkpoints.read_progress(STEP)
    check_data(checkpoints.directory, progress, dataset)
    host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    like = {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=host)
        for name, (dtype, *shape) in progress.pop("arrays").items()
    }
    params = checkpoints.restore_params(STEP, like)
    return {name: np.asarray(array) for name, array in params.items()}, progress


def saved_fit(workdir: str | os.PathLike, dataset: Dataset) -> tuple[dict[str, np.ndarray], dict]:
    """`read_fit` of a run folder, where the fit has been evaluated, or there is nothing to evaluate it on. Raises
    CheckpointError as it does."""
    with open_fits(workdir, dataset) as checkpoints:
        if len(dataset.valid) and checkpoints.best_step() is None:
            raise CheckpointError(f"{workdir} holds no evaluated fit. Train first, or check the path")
        return read_fit(checkpoints, dataset)


def _metrics(experiment: Experiment, params: Params, split: str, by_popularity: bool = False) -> dict[str, Any]:
    settings = experiment.config.evaluation
    scores = scores_of(experiment.model, params, experiment.dataset)
    popularity_k = int(settings.metric.split("@")[1]) if by_popularity else 0
    return scores_metrics(scores, experiment.dataset, split, tuple(settings.ks), settings.block_size, popularity_k)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
