"""EASE (Steck, WWW 2019): the linear model of items by items, in closed form.

With A the matrix of train interactions, W is the minimum of |A - A W|^2 + lambda |W|^2 (Frobenius norms) among those
with a zero diagonal:

    P = (A^T A + lambda I)^-1,   W_ij = -P_ij / P_jj for i != j,   W_jj = 0,   score(u) = A_u W
"""

import dataclasses

import numpy as np
from scipy.linalg import lapack

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import ConfigError
from rearm_jax.recommender.fitted import KEPT_WEIGHTS, ItemWeights, interactions
from rearm_jax.recommender.search_space import LogUniform
from rearm_jax.settings import POSITIVE, Setting

_BLOCK_ROWS = 512


@dataclasses.dataclass(frozen=True)
class Model(ItemWeights):
    """Item weights, dense unless cut."""

    title = "EASE"
    settings = {
        "model.l2": Setting(200.0, POSITIVE, "lambda; the best may be anywhere from 0.5 to 2,000"),
        "model.kept_weights": KEPT_WEIGHTS,
    }
    search_space = {"model.l2": LogUniform(0.5, 2000.0)}

    l2: float

    def memory_bytes(self, dataset: Dataset) -> int:
        return 4 * dataset.num_items**2

    def item_weights(self, dataset: Dataset) -> np.ndarray:
        history = interactions(dataset)
        # One dense array serves for all: LAPACK works in place on what lies column by column.
        matrix = (history.T @ history).toarray(order="F")
        matrix[np.diag_indices_from(matrix)] += np.float32(self.l2)
        matrix, failed = lapack.spotrf(matrix, lower=1, clean=0, overwrite_a=1)
        if not failed:
            matrix, failed = lapack.spotri(matrix, lower=1, overwrite_c=1)
        if failed:
            raise ConfigError(
                f"EASE: l2 = {self.l2} is too small for these data: A^T A + l2 I is not positive definite in float32. "
                "Raise it"
            )
        weights = matrix.T  # row by row; LAPACK has filled the upper triangle
        for start in range(0, len(weights), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            weights[rows, :start] = weights[:start, rows].T
            weights[rows, rows] = np.triu(weights[rows, rows]) + np.triu(weights[rows, rows], 1).T
        weights /= -weights.diagonal()
        np.fill_diagonal(weights, 0)
        return weights
