"""Metrics of each user, in the data set's order: what tells whether two models differ (significance.py), and for whom.

A file of them holds one run on one split: a row a user, without ids, a float32 column a metric; null where the user has
no positive in the split.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from rearm_jax.errors import DataError
from rearm_jax.evaluation.metrics import hit_matrix, list_metrics, lists_of_users


def user_metrics(
    top_items: ArrayLike, users: ArrayLike, positives: tuple[np.ndarray, np.ndarray], ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """The metrics whose means over users `split_metrics` gives; of any model, with what `rank_split` gives.

    Args and Raises: as `split_metrics`; each user has one list.

    Returns:
      `{"recall@20": float64 (num_users,), ...}`, NaN for users without a list.
    """
    top_items, users = lists_of_users(top_items, users)
    num_positives = np.diff(positives[0])
    found = list_metrics(hit_matrix(top_items, users, positives), num_positives[users], ks)
    metrics = {}
    for name, values in found.items():
        metrics[name] = np.full(len(num_positives), np.nan)
        metrics[name][users] = values
    return metrics


def write_user_metrics(path: str | os.PathLike, metrics: Mapping[str, np.ndarray]) -> None:
    """Writes metrics of users, float (num_users,) each, to a Parquet file, as float32."""
    columns = {name: pl.Series(values.astype(np.float32)).fill_nan(None) for name, values in metrics.items()}
    pl.DataFrame(columns).write_parquet(os.fspath(path), compression="zstd", compression_level=10, statistics=False)


def read_user_metrics(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """What `write_user_metrics` wrote, float32 (num_users,) each, NaN for null.

    Raises:
      DataError: the file cannot be read, or holds something else.
    """
    try:
        table = pl.read_parquet(os.fspath(path), glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{os.fspath(path)}: metrics of users cannot be read: {error}") from error
    others = [f"{name} ({kind})" for name, kind in table.schema.items() if kind != pl.Float32]
    if others:
        raise DataError(f"{os.fspath(path)}: columns must be float32 metrics of users, found {', '.join(others)}")
    return {column.name: column.fill_null(np.nan).to_numpy() for column in table}
