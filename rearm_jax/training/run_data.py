"""The data of a run folder: opening an experiment on them, and refusing others before anything is built."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rearm_jax.config import check_against_data, resolve
from rearm_jax.data.dataset import Dataset, folder_arrays, load_dataset, summary
from rearm_jax.data.folder import REPORT_FILE, write_folder
from rearm_jax.data.labels import LABEL_FILES
from rearm_jax.default import SETTINGS
from rearm_jax.errors import CheckpointError, ConfigError, DataError, shown
from rearm_jax.experiment import Experiment, as_trained_on, load_data, make_experiment
from rearm_jax.training.checkpoint import checkpoint_directory
from rearm_jax.training.records import Records
from rearm_jax.training.run_path import in_bucket, run_path

DATASET_FOLDER = "dataset"  # of a run that holds its own data, config.data.source "run"


def open_experiment(config: ConfigDict, workdir: str | os.PathLike, brief: bool = False) -> Experiment:
    """`build_experiment`, but that the data must be those of the run which the folder holds, if it holds one.

    Args:
      config: the settings.
      workdir: the run folder.
      brief: a line on the data, not the table.

    Raises:
      CheckpointError: the data have changed; before any graph is built.
      ConfigError, DataError: as `build_experiment`.
    """
    config = resolve(config)
    dataset = open_data(config, workdir)
    logging.info("%s", _in_brief(dataset) if brief else summary(dataset, config.protocol))
    return make_experiment(config, dataset)


def open_data(config: ConfigDict, workdir: str | os.PathLike) -> Dataset:
    """The data of a resolved config, which must fit it, and be those of the run that the folder holds, if any.

    Raises: as `open_experiment`.
    """
    dataset = _run_dataset(workdir, config.data) if config.data.source == "run" else load_data(config.data)
    _check_latest(workdir, dataset)
    check_against_data(config, dataset.num_users, dataset.num_items)
    return dataset


def with_dataset(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    """The config of a run that holds its own data; what is wrong with it otherwise is not looked at.

    Raises:
      ConfigError: config.data says something else than the data set does, or the data set is none.
    """
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"dataset = {shown(dataset)}: must be a Dataset; did you mean Dataset.from_tables(...)?")
    if not (isinstance(config, ConfigDict) and isinstance(config.get("data"), ConfigDict)):
        return config
    config, modalities = config.copy_and_resolve_references(), tuple(dataset.features)
    said: dict[str, tuple] = {
        name: (SETTINGS[f"data.{name}"].default,) for name in ("source", "root", "name", "num_users")
    }
    said |= {"source": ("folder", "run"), "modalities": (SETTINGS["data.modalities"].default, modalities)}
    for name, possible in said.items():
        if config.data.get(name, possible[0]) not in possible:
            raise ConfigError(
                f"config.data.{name} = {shown(config.data[name])}: leave it out where a data set is given, which has "
                f"the modalities {modalities}"
            )
    config.data.source, config.data.modalities = "run", modalities
    return config


def keep_dataset(config: ConfigDict, dataset: Dataset, workdir: str | os.PathLike) -> None:
    """Writes a data set into a run folder, in which nothing else is needed then; one that is there already stays.

    Args:
      config: checked, with data.source "run".
      dataset: as it was split.
      workdir: the run folder.

    Raises:
      CheckpointError: the run has been trained on other data, or on the same under other ids.
      ConfigError: the config does not fit the data, the folder is in a bucket, or holds another folder of that name.
      DataError: it cannot be written.
    """
    if in_bucket(run_path(workdir)):
        raise ConfigError(f"{workdir}: a bucket cannot hold the data; write them to a folder, and name it as data.root")
    _check_latest(workdir, as_trained_on(dataset, config.data))
    check_against_data(config, dataset.num_users, dataset.num_items)
    folder = _dataset_folder(workdir)
    if not _holds(folder, dataset):
        report = {"content_hash": dataset.content_hash, "sizes": data_sizes(dataset)}
        _refuse_foreign(folder, report)
        write_folder(folder, folder_arrays(dataset), report, overwrite=True)


def data_sizes(dataset: Dataset) -> dict[str, int]:
    """How large the data are, in words for people; saved with each checkpoint."""
    sizes = {"users": dataset.num_users, "items": dataset.num_items}
    sizes |= {f"{split} rows": len(getattr(dataset, split)) for split in ("train", "valid", "test")}
    return sizes | {f"{name} columns": table.shape[1] for name, table in dataset.features.items()}


def check_data(folder: str | os.PathLike, progress: Mapping, dataset: Dataset) -> None:
    """Refuses data on which the checkpoint with this `progress` was not trained.

    Raises:
      CheckpointError: says how large the data were then and are now, and what to do.
    """
    then, now = progress["content_hash"], dataset.content_hash
    if then == now:
        return
    old, new = progress.get("sizes") or {}, data_sizes(dataset)
    lines = [f"  {name}: {_number(old, name)} then, {_number(new, name)} now" for name in {**old, **new}]
    if old == new:
        lines.append(f"  so it is the values that differ: sha256 {then[:12]} then, {now[:12]} now")
    raise CheckpointError(
        f"{folder} was trained on other data than those that are here now:\n" + "\n".join(lines) + "\n"
        "Bring the old data back, or name their folder: config.data.root (in commands after training with --config "
        "FILE, too). To train on those that are here, name another run folder, or remove that run (--overwrite does)"
    )


def _run_dataset(workdir: str | os.PathLike, data: ConfigDict) -> Dataset:
    folder = _dataset_folder(workdir)
    if os.path.isdir(folder) and (lost := _lost_ids(folder)):
        raise DataError(
            f"{folder}: {lost} is missing, and with it which user or item is which. Bring it back, or train with the "
            "data set again in the same run folder: what is trained stays"
        )
    return as_trained_on(load_dataset(folder, tuple(data.modalities)), data)


def _lost_ids(folder: str) -> str:
    """The file of ids that a run wrote, and that is no longer there; "" where both are."""
    files = ("user_ids.npy", "item_ids.npy")
    return next((file for file in files if not os.path.exists(os.path.join(folder, file))), "")


def _dataset_folder(workdir: str | os.PathLike) -> str:
    return os.path.join(workdir, DATASET_FOLDER)


def _holds(folder: str, dataset: Dataset) -> bool:
    """Whether the folder has the data set; not where it is damaged. CheckpointError for the same one under other ids:
    what the run has said of a user would be another's.
    """
    try:
        found = load_dataset(folder, tuple(dataset.features))
    except DataError:
        return False
    if _lost_ids(folder) or found.content_hash != dataset.content_hash:
        return False
    alike = {stem: np.array_equal(getattr(found.labels, stem), getattr(dataset.labels, stem)) for stem in LABEL_FILES}
    for stem in ("user_ids", "item_ids"):
        if not alike[stem]:
            raise CheckpointError(
                f"{folder} holds the same data with other {stem.replace('_', ' ')}: name another run folder, or remove "
                "that one"
            )
    return all(alike.values())


def _refuse_foreign(folder: str, report: Mapping[str, Any]) -> None:
    """Raises ConfigError for a folder of data that no run has written, such as one of `prepare`."""
    try:
        found = json.loads(Path(folder, REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing is there, or `write_folder` sees what it is
    if not isinstance(found, dict) or found.keys() != report.keys():
        raise ConfigError(
            f"{folder} holds data that no run has written, and the run's own are to lie there: name another run "
            "folder, or move those data away"
        )


def _check_latest(workdir: str | os.PathLike, dataset: Dataset) -> None:
    try:
        found = Records(checkpoint_directory(workdir)).found
    except OSError:
        return  # what is wrong with the folder is said when its checkpoints are opened
    if found:
        record = found[max(found)]
        # A run of an earlier version knows its numbers of users and items alone.
        known = {f"{kind}s": rows for kind, rows in record["table_rows"].items()}
        check_data(workdir, {"sizes": known} | record["progress"], dataset)


def _in_brief(dataset: Dataset) -> str:
    train = len(dataset.train)
    return f"data: {dataset.num_users:,} users, {dataset.num_items:,} items, {train:,} train interactions"


def _number(sizes: Mapping[str, int], name: str) -> str:
    return f"{sizes[name]:,}" if name in sizes else "unknown"
