"""The data of a run folder: others than those that it was trained on are refused."""

import os
from collections.abc import Mapping

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import CheckpointError


def check_data(folder: str | os.PathLike, progress: Mapping, dataset: Dataset) -> None:
    """Raises CheckpointError where the checkpoint with this `progress` was trained on other data."""
    there, here = progress["content_hash"], dataset.content_hash
    if there != here:
        raise CheckpointError(f"{folder} was trained on other data: its hash {there}, here {here}")
