"""The data of a run folder: opening an experiment on them, and refusing others before anything is built."""

import os
from collections.abc import Mapping

from absl import logging
from ml_collections import ConfigDict

from rearm_jax.config import check_against_data, resolve
from rearm_jax.data.dataset import Dataset, summary
from rearm_jax.errors import CheckpointError
from rearm_jax.experiment import Experiment, load_data, make_experiment
from rearm_jax.training.checkpoint import checkpoint_directory
from rearm_jax.training.records import Records


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
    dataset = load_data(config.data)
    _check_latest(workdir, dataset)
    check_against_data(config, dataset.num_users, dataset.num_items)
    return dataset


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
        "Bring the old data back, or name their folder (--config FILE --config.data.root=FOLDER). To train on those "
        "that are here, name another --workdir, or train with --overwrite, which deletes that run"
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
