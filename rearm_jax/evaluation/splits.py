"""What the evaluation of a split needs: its users in blocks, without their train items, and their positives."""

import numpy as np
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset, group_by_user
from rearm_jax.evaluation.ranking import UserBlocks, make_blocks


def scored_splits(settings: ConfigDict, dataset: Dataset) -> tuple[str, ...]:
    """The splits that a run scores: validation, and test unless `config.evaluation.test` is off; no empty ones.

    Args:
      settings: `config.evaluation`.
      dataset: the data.
    """
    sizes = {"valid": len(dataset.valid), "test": len(dataset.test) if settings.test else 0}
    return tuple(split for split, size in sizes.items() if size)


def blocks_and_positives(
    dataset: Dataset, split: str, block_size: int, num_devices: int = 1
) -> tuple[UserBlocks, tuple[np.ndarray, np.ndarray]]:
    """`make_blocks` of the users of a split, their train items excluded, and `group_by_user` of its pairs.

    Args:
      dataset: the data.
      split: "valid" or "test".
      block_size, num_devices: as in `make_blocks`.
    """
    pairs = {"valid": dataset.valid, "test": dataset.test}[split]
    seen = group_by_user(dataset.train, dataset.num_users)
    blocks = make_blocks(np.unique(pairs[:, 0]), seen, block_size, num_devices)
    return blocks, group_by_user(pairs, dataset.num_users)
