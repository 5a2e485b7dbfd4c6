"""The library's front door, for programs and notebooks; `rearm_jax` exports what stands here.

    config = default_config(root="data/mine", modalities=("image", "text"))
    result = train(config, "runs/mine")
    evaluate("runs/mine")
    model = load("runs/mine")
    model.recommend(users=[3, 17], k=10)

Errors that the caller can mend are RearmErrors (rearm_jax/errors.py). The log is absl's. `train` shows it; otherwise it
says little until `absl.logging.set_verbosity(absl.logging.INFO)`.
"""

import os
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from rearm_jax.config import for_its_model
from rearm_jax.data.dataset import Dataset
from rearm_jax.default import get_config, is_fitted
from rearm_jax.errors import ConfigError, shown
from rearm_jax.inference.arguments import check_options, given_users
from rearm_jax.inference.model import TrainedModel
from rearm_jax.inference.rules import NO_RULES, Rules, check_rules
from rearm_jax.inference.seen import check_seen
from rearm_jax.inference.trained import load_trained, run_config
from rearm_jax.training import loop
from rearm_jax.training import refit as refits
from rearm_jax.training.display import log_shown
from rearm_jax.training.distributed import first_only
from rearm_jax.training.lock import RunLock
from rearm_jax.training.outcome import say_weaknesses
from rearm_jax.training.precision import without_x64
from rearm_jax.training.run_data import keep_dataset, open_experiment, with_dataset
from rearm_jax.training.run_folder import check_run_folder
from rearm_jax.training.watcher import OnEvaluation, check_on_evaluation


def default_config(model: str = "rearm", residual: str = "", **data: Any) -> ConfigDict:
    """Every setting of a model at its default, locked: fields can be changed, and none added by mistake.

    Args:
      model: its name, such as "lightgcn".
      residual: the name of a fitted model that stands beside it, such as "ease", with its settings in
        `config.residual`; "" for none.
      data: fields of `config.data` to start with, such as root="data/mine" and modalities=("text",).

    Raises:
      ConfigError: there is no such model, config.data has no such field, or its value is of another type.
    """
    if residual and not is_fitted(residual):
        raise ConfigError(f'residual = {shown(residual)}: must be the name of a fitted model, such as "ease"')
    config = get_config(model, residual).lock()
    if unknown := [name for name in data if name not in config.data]:
        raise ConfigError(f"config.data has no field {', '.join(unknown)}; it has {', '.join(config.data)}")
    try:
        config.data.update(data)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"config.data: {error.args[0]}") from error
    return config


@without_x64()
def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    progress: bool = True,
    dataset: Dataset | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> dict[str, Any] | None:
    """Trains, or goes on with the run that the folder holds, as `python -m rearm_jax.main` does.

    In the main thread, Ctrl-C and SIGTERM stop it at the next step, which is saved; in another they are the caller's,
    and `on_evaluation` can stop the run.

    Args:
      config: the settings.
      workdir: run folder, made where it is missing; ~ stands for the home folder, here and below.
      progress: shows the log as the command line does: the data, how far an epoch is, the metrics after each. False:
        warnings alone.
      dataset: what is trained on, such as `Dataset.from_tables` gives; None: what config.data names. It is written into
        the run folder, where resuming and every use of the run find it.
      on_evaluation: called after each evaluation (without validation: after each epoch where one would be due), with
        {"step": 40, "epoch": 2, "train/loss": 0.5, "valid/recall@20": 0.1, ...}; of a model in closed form once, with
        step and epoch 0 and no loss. Where it returns "stop", a run that is not at its end is saved and stops; None
        goes on. What it raises stops the run likewise, and is raised again.

    Returns:
      What result.json holds: {"test/recall@20": ..., "best_epoch": ..., "yardsticks": ..., ...}; None where Ctrl-C or
      `on_evaluation` stopped the run: the same call goes on with it.

    Raises:
      ConfigError: a setting is unknown, of the wrong type or impossible; before anything is read. Or `on_evaluation`
        returned something else than it may.
      DataError: the data cannot be used.
      CheckpointError: the folder holds a run with other settings, cannot be resumed or written, or is being trained.
      NonFiniteError: training met a NaN or an infinity; the checkpoints stay.
    """
    check_on_evaluation(on_evaluation)
    config = for_its_model(config if dataset is None else with_dataset(config, dataset))
    folder = _folder(workdir)
    with log_shown(progress), RunLock(folder) as lock:
        check_run_folder(folder, config)
        if dataset is not None:
            first_only(keep_dataset, config, dataset, folder)
        result, _ = loop.train(open_experiment(config, folder), folder, lock, on_evaluation)
        if result is not None:
            say_weaknesses(result, config.evaluation.metric)
    return result


@without_x64()
def refit(
    workdir: str | os.PathLike,
    out: str | os.PathLike,
    by: str = "epochs",
    progress: bool = True,
    on_evaluation: OnEvaluation | None = None,
) -> dict[str, Any] | None:
    """Trains a finished run's settings on the interactions of all splits, for what is served; or goes on with that.

    Args:
      workdir: folder of the run.
      out: folder of the refit.
      by: how long: "epochs", as many as the run's best checkpoint had; or "steps", about as many optimiser steps.
      progress: as `train`.
      on_evaluation: as `train`, with the losses alone.

    Returns:
      As `train`; without metrics, as nothing is left to score. "refit_of" has those of the run.

    Raises:
      CheckpointError: the run is not finished, its data have changed, or `out` holds another run.
      ConfigError: `by` is unknown, or `out` is the run itself.
      DataError: its data are not there.
    """
    folder, target = _folder(workdir), _folder(out)
    with log_shown(progress):
        return refits.refit(run_config(folder), folder, target, by, on_evaluation=on_evaluation)[0]


@without_x64()
def evaluate(workdir: str | os.PathLike) -> dict[str, float]:
    """Metrics of a run's best checkpoint, {"valid/recall@20": ..., "test/recall@20": ..., ...}; those of test unless
    config.evaluation.test is off.

    Raises:
      CheckpointError: the folder holds no evaluated run, or its data have changed.
      ConfigError: its config.json is damaged.
      DataError: its data are not there.
    """
    folder = _folder(workdir)
    return loop.evaluate_run(open_experiment(run_config(folder), folder, brief=True), folder)


@without_x64()
def load(workdir: str | os.PathLike) -> TrainedModel:
    """Opens a run at its best checkpoint: a model to ask for lists, similar items, scores and vectors.

    Raises:
      CheckpointError, ConfigError, DataError: as `evaluate`.
    """
    return TrainedModel(load_trained(_folder(workdir)))


def recommend(
    workdir: str | os.PathLike,
    users: Iterable[str | int] | None = None,
    k: int = 20,
    unknown: str = "refuse",
    seen: str | os.PathLike = "all",
    rules: Rules = NO_RULES,
) -> list[dict[str, Any]]:
    """`load(workdir).recommend(users, k, unknown, seen, rules)`: the k best items of each user.

    Every call opens the run. For millions of users or new items take rearm_jax/inference/recommend.py, which streams.

    Raises:
      CheckpointError, ConfigError, DataError: as `load` and `TrainedModel.recommend`.
    """
    folder = _folder(workdir)
    users = given_users(users)
    check_options(k, unknown)  # before the run is opened, which takes longer
    check_seen(seen)
    check_rules(rules)
    return load(folder).recommend(users, k, unknown, seen, rules)


def _folder(workdir: Any) -> str:
    """The path of the run folder as text, ~ expanded; raises ConfigError where it is none."""
    path = os.fspath(workdir) if isinstance(workdir, os.PathLike) else workdir
    if isinstance(path, str) and path and "\0" not in path and _can_be_written(path):
        return os.path.expanduser(path)
    meant = f"; did you mean {os.fsdecode(path)!r}?" if isinstance(path, bytes) else ""
    raise ConfigError(f'workdir = {shown(workdir)}: must be a path, such as "runs/mine"{meant}')


def _can_be_written(path: str) -> bool:
    """Whether the file system has a name for the text; half a surrogate pair has none."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True
