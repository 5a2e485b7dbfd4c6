"""ItemKNN (Sarwar et al., WWW 2001), cosine with shrinkage: items alike by who interacted with them.

With a_i the column of item i in the matrix A of train interactions, and h the shrinkage, which counts for less what few
interactions say (Ferrari Dacrema et al., RecSys 2019, find it to matter as much as the choice of the model):

    W_ij = a_i . a_j / (|a_i| |a_j| + h) for i != j,   W_jj = 0,   score(u) = A_u W

Of each column j, only the k largest weights are kept: the nearest neighbours of item j.
"""

import dataclasses

import numpy as np
import scipy.sparse

from rearm_jax.data.dataset import Dataset
from rearm_jax.recommender.fitted import KEPT_WEIGHTS, ItemWeights, interactions, keep_largest
from rearm_jax.recommender.search_space import Choice, LogUniform
from rearm_jax.settings import NOT_NEGATIVE, Setting, integer

_BYTES = 8  # of an entry: its value and its column
_BLOCK_ITEMS = 4096


@dataclasses.dataclass(frozen=True)
class Model(ItemWeights):
    """Item weights, sparse."""

    title = "ItemKNN"
    settings = {
        "model.shrink": Setting(100.0, NOT_NEGATIVE, "h, added to the denominator of the cosine"),
        "model.neighbours": Setting(0, integer(0), "k, nearest items kept of each item; 0: all", at_most="items"),
        "model.kept_weights": KEPT_WEIGHTS,
    }
    search_space = {"model.shrink": LogUniform(1.0, 3000.0), "model.neighbours": Choice((0, 20, 50, 100, 200))}

    shrink: float
    neighbours: int

    def memory_bytes(self, dataset: Dataset) -> int:
        # A user with d items joins d^2 pairs of items, which may be the same pairs as another's.
        lengths = np.bincount(dataset.train[:, 0]).astype(np.int64)
        items = dataset.num_items
        kept = min(int((lengths**2).sum()), items * (self.neighbours or items))
        block = min(_BLOCK_ITEMS, items) * items if self.neighbours else kept
        return _BYTES * (2 * kept + 2 * min(block, int((lengths**2).sum())))

    def item_weights(self, dataset: Dataset) -> scipy.sparse.csr_array:
        history = interactions(dataset)
        by_item = history.T.tocsr()
        norms = np.sqrt(np.diff(by_item.indptr)).astype(np.float32)
        blocks = []
        for start in range(0, dataset.num_items, _BLOCK_ITEMS):
            common = (by_item[start : start + _BLOCK_ITEMS] @ history).tocsr()
            common.sort_indices()
            items = start + np.repeat(np.arange(common.shape[0]), np.diff(common.indptr))
            cosines = common.data / (norms[items] * norms[common.indices] + np.float32(self.shrink))
            common.data = np.where(items == common.indices, np.float32(0), cosines)
            common.eliminate_zeros()
            blocks.append(keep_largest(common, self.neighbours) if self.neighbours else common)
        # Row j has the neighbours of item j; W has them in column j.
        return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr").T.tocsr())
