"""The library's front door, for programs and notebooks; `rearm_jax` exports what stands here.

config = default_config(source="synthetic")
result = train(config, "runs/mine")
evaluate("runs/mine")
recommend("runs/mine", users=[3, 17], k=10)
"""

import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from rearm_jax.default import get_config
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import build_experiment
from rearm_jax.inference import recommend as lists
from rearm_jax.inference.recommend_files import as_objects
from rearm_jax.inference.trained import load_trained, run_config
from rearm_jax.training import loop
from rearm_jax.training.run_folder import check_run_folder


def default_config(**data: Any) -> ConfigDict:
    """Every setting at its default (rearm_jax/default.py), to be changed field by field.

    Args:
      data: fields of `config.data` to start with, such as root="data/mine" and modalities=("text",). The weights of the
        modalities in the graphs become equal for as many as there are.

    Raises:
      ConfigError: `data` has no such field, or the type is another.
    """
    config = get_config()
    try:
        config.data.update(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"config.data: {error}") from error
    count = len(config.data.modalities)
    config.graph.user_modality_weights = config.graph.item_modality_weights = (1 / count,) * count
    return config


def train(config: ConfigDict, workdir: str | os.PathLike) -> dict | None:
    """Trains, or goes on with the run that the folder holds; what `python -m rearm_jax.main` does.

    Args:
      config: the settings.
      workdir: run folder, made where it is missing.

    Returns:
      What result.json holds: metrics of validation and test at the best step, yardsticks, versions, ...; None where
      Ctrl-C stopped the run (the same call goes on with it).

    Raises:
      ConfigError, DataError, CheckpointError, NonFiniteError: see rearm_jax/errors.py.
    """
    check_run_folder(workdir, config)
    result, _ = loop.train(build_experiment(config), os.fspath(workdir))
    return result


def evaluate(workdir: str | os.PathLike) -> dict[str, float]:
    """Metrics of a run's best checkpoint, {"valid/recall@20": ..., "test/recall@20": ..., ...}.

    Raises:
      CheckpointError: the folder holds no evaluated run, or its data have changed.
    """
    workdir = os.fspath(workdir)
    return loop.evaluate_run(build_experiment(run_config(workdir)), workdir)


def recommend(workdir: str | os.PathLike, users: Sequence[str | int] | None = None, k: int = 20) -> list[dict]:
    """The k best items of each user that are not among their train items.

    Args:
      workdir: run folder.
      users: outside ids (Dataset.labels); None: all.
      k: number of items in a list.

    Returns:
      {"user": id, "items": [{"item": id, "name": ..., "score": ...}, ...]} for each user, best item first.

    Raises:
      CheckpointError: the folder holds no evaluated run, or its data have changed.
      DataError: a user is unknown.
    """
    items, found = lists.recommend(load_trained(os.fspath(workdir)), users=users, k=k)
    return [user for some in found for user in as_objects(items, some)]
