"""What a fitted model is: one in closed form, without gradients, seeds and vectors of users.

A fitted model is a file in rearm_jax/models/ with one subclass of `Fitted`, called `Model`: a frozen dataclass whose
fields are its settings. It is fitted on the host, and scores a block of users at a time from their train items, so that
no array of users x items ever exists.

`ItemWeights` is the base of those whose score is linear in the user's items: score(u) = A_u W, with A the matrix of
train interactions and W of items x items.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import ConfigError
from rearm_jax.graphs.relations import interaction_matrix
from rearm_jax.recommender.contract import Declaration, Inputs
from rearm_jax.settings import Setting, integer

Params = Mapping[str, np.ndarray]

KEPT_WEIGHTS = Setting(
    0, integer(0), "item weights kept of each item, those of largest magnitude; 0: all", at_most="items"
)
_BLOCK_ENTRIES = 2**22  # of a dense matrix, looked at at a time
_CHUNK = 128  # entries of a sparse row added at a time


@dataclasses.dataclass(frozen=True)
class Fitted(Declaration):
    """Base of the models in closed form."""

    by_row = False  # it is fitted on the host

    @classmethod
    def make(cls, config: ConfigDict, dataset: Dataset, section: str = "model") -> Self:
        """The model, its fields filled from the settings that it declares under `model.`.

        Args:
          config: the whole config, checked.
          dataset: the data.
          section: of the config, where the settings stand: "model", or "residual" (see rearm_jax/default.py).
        """
        fields = [name.removeprefix("model.") for name in cls.settings if name.startswith("model.")]
        return cls(**{field: config[section][field] for field in fields})

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        return {}

    def memory_bytes(self, dataset: Dataset) -> int:
        """About how much `fit` takes at most, beside the data; 0: not known, and the log does not say."""
        return 0

    def fit(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """The parameters, float32 and int32 arrays by name; the same data give the same ones.

        Raises:
          ConfigError: the settings do not work on these data.
        """
        raise NotImplementedError

    def scores(self, params: Params, history: scipy.sparse.csr_array) -> np.ndarray:
        """Scores of all items for a block of users, on the host: float32 (b, num_items).

        Args:
          params: of `fit`.
          history: float32 (b, num_items), ones where a user has a train interaction.
        """
        raise NotImplementedError

    def traced_scores(self, params: Mapping[str, jax.Array], histories: jax.Array) -> jax.Array:
        """`scores` as jax can trace it, for the exported score function: float32 (b, num_items).

        Args:
          params: of `fit`.
          histories: int32 (b, h), items of each user, padded with -1.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ItemWeights(Fitted):
    """Base of the models with score(u) = A_u W.

    The parameters are {"weights"}, float32 (num_items, num_items), or those of a CSR matrix: {"weights_data"} float32
    (n,), {"weights_indices"} int32 (n,), {"weights_indptr"} int32 (num_items + 1,).
    """

    kept_weights: int

    def item_weights(self, dataset: Dataset) -> np.ndarray | scipy.sparse.csr_array:
        """W, float32 (num_items, num_items), row i what item i says for the others; the diagonal is 0."""
        raise NotImplementedError

    def fit(self, dataset: Dataset) -> dict[str, np.ndarray]:
        weights = self.item_weights(dataset)
        if self.kept_weights:
            weights = _cut(weights, self.kept_weights)
        if isinstance(weights, np.ndarray):
            return {"weights": weights}
        if weights.nnz > np.iinfo(np.int32).max:
            raise ConfigError(
                f"{self.title} has {weights.nnz:,} item weights, more than fit: set kept_weights to some hundreds"
            )
        return {
            "weights_data": weights.data,
            "weights_indices": weights.indices.astype(np.int32),
            "weights_indptr": weights.indptr.astype(np.int32),
        }

    def scores(self, params: Params, history: scipy.sparse.csr_array) -> np.ndarray:
        if "weights" in params:
            return history @ params["weights"]
        parts = (params[f"weights_{part}"] for part in ("data", "indices", "indptr"))
        size = history.shape[1]
        return (history @ scipy.sparse.csr_array(tuple(parts), shape=(size, size))).toarray()

    def traced_scores(self, params: Mapping[str, jax.Array], histories: jax.Array) -> jax.Array:
        num_users, length = histories.shape
        if "weights" in params:
            num_items: Any = params["weights"].shape[1]

            def add_item(place: jax.Array, scores: jax.Array) -> jax.Array:
                item = histories[:, place]
                return scores + jnp.where(item[:, None] >= 0, params["weights"][item], 0)
        else:
            data, indices, indptr = (params[f"weights_{part}"] for part in ("data", "indices", "indptr"))
            num_items = indptr.shape[0] - 1
            users = jnp.arange(num_users)[:, None]

            def add_item(place: jax.Array, scores: jax.Array) -> jax.Array:
                item = histories[:, place]
                start = jnp.where(item >= 0, indptr[item], 0)
                stop = jnp.where(item >= 0, indptr[item + 1], 0)

                def add_chunk(chunk: jax.Array, scores: jax.Array) -> jax.Array:
                    entries = start[:, None] + chunk * _CHUNK + jnp.arange(_CHUNK)
                    columns = jnp.where(entries < stop[:, None], indices.at[entries].get(mode="clip"), num_items)
                    return scores.at[users, columns].add(data.at[entries].get(mode="clip"), mode="drop")

                return jax.lax.fori_loop(0, (jnp.max(stop - start) + _CHUNK - 1) // _CHUNK, add_chunk, scores)

        return jax.lax.fori_loop(0, length, add_item, jnp.zeros((num_users, num_items), jnp.float32))


def interactions(dataset: Dataset) -> scipy.sparse.csr_array:
    """A, float32 (num_users, num_items): 1 where a user has a train interaction."""
    return interaction_matrix(dataset.train, dataset.num_users, dataset.num_items).astype(np.float32)


def scores_of(model: Fitted, params: Params, dataset: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of users, int32 (b,) -> their scores, float32 (b, num_items): a `Scores` of rearm_jax/evaluation/scoring.py.

    The last user's stand for a user of -1, which is padding.
    """
    history = interactions(dataset)
    return lambda users: model.scores(params, history[users])


def keep_largest(matrix: scipy.sparse.csr_array, n: int) -> scipy.sparse.csr_array:
    """The n entries of largest magnitude in each row, ties by lower column; 0 entries are dropped."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -np.abs(matrix.data), rows))  # rows stay where they are
    place = np.arange(matrix.nnz) - matrix.indptr[rows]
    kept = np.sort(order[(place < n) & (matrix.data[order] != 0)])
    indptr = np.searchsorted(rows[kept], np.arange(matrix.shape[0] + 1))
    return scipy.sparse.csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def _cut(weights: np.ndarray | scipy.sparse.csr_array, n: int) -> scipy.sparse.csr_array:
    if not isinstance(weights, np.ndarray):
        return keep_largest(weights, n)
    blocks, num_rows = [], max(1, _BLOCK_ENTRIES // weights.shape[1])
    for start in range(0, len(weights), num_rows):
        block = weights[start : start + num_rows]
        # So that only the n best and what ties with them is sorted.
        least = np.partition(np.abs(block), -n, axis=1)[:, -n, None]
        blocks.append(keep_largest(scipy.sparse.csr_array(np.where(np.abs(block) >= least, block, 0)), n))
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))
