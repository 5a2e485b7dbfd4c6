"""MostPopular: every user gets the items that occur most often in train.

score(u, i) = number of train interactions of i
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from rearm_jax.data.dataset import Dataset
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.recommender.fitted import Fitted, Params


@dataclasses.dataclass(frozen=True)
class Model(Fitted):
    """The counts, {"counts"} float32 (num_items,)."""

    title = "MostPopular"

    def memory_bytes(self, dataset: Dataset) -> int:
        return 4 * dataset.num_items

    def fit(self, dataset: Dataset) -> dict[str, np.ndarray]:
        return {"counts": most_popular_scores(dataset.train, dataset.num_items)}

    def scores(self, params: Params, history: scipy.sparse.csr_array) -> np.ndarray:
        return np.broadcast_to(params["counts"], history.shape)

    def traced_scores(self, params: Mapping[str, jax.Array], histories: jax.Array) -> jax.Array:
        return jnp.broadcast_to(params["counts"], (histories.shape[0], params["counts"].shape[0]))
