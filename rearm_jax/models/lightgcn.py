"""LightGCN (He et al., SIGIR 2020): ID embeddings, propagated over the user-item graph alone.

With E the embeddings of users and items one below the other, and A the symmetrically normalised user-item graph:

    Z = mean over l = 0..L of A^l E,   score(u, i) = z_u . z_i,
    loss = BPR(z) + l2_weight / 2 (|e_u|^2 + |e_i|^2 + |e_j|^2), mean over the batch's users u, positives i, negatives j
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs.adjacency import user_item_adjacency
from rearm_jax.graphs.row_adjacency import propagate
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Recommender, Representations
from rearm_jax.recommender.objectives import l2_share, ranking_share
from rearm_jax.settings import NOT_NEGATIVE, POSITIVE, Setting, integer


class Model(Recommender):
    """Mean over layers 0..num_layers of the propagated ID embeddings."""

    title = "LightGCN"
    settings = {
        "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
        "model.embedding_dim": Setting(64, integer(1), "width of the embeddings"),
        "model.num_layers": Setting(3, integer(0), "of the user-item graph"),
        "loss.l2_weight": Setting(
            1e-2, NOT_NEGATIVE, "half the squared norm of the batch's ID embeddings, mean over the batch"
        ),
    }

    embedding_dim: int
    num_layers: int
    l2_weight: float

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        return {"user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items)}

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        init = nn.initializers.normal(0.1)
        num_users = users.num_held(self.num_users)
        user_ids = self.param("user_id_table", init, (num_users, self.embedding_dim))
        item_ids = self.param("item_id_table", init, (items.num_held(self.num_items), self.embedding_dim))
        ids = jnp.concatenate([user_ids, item_ids])
        graph: Any = inputs["user_item"]
        mean = sum(propagate(graph, ids, self.num_layers), start=ids) / (self.num_layers + 1)
        return Representations(
            users.take(mean[:num_users]), items.take(mean[num_users:]), {"user_ids": user_ids, "item_ids": item_ids}
        )

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        parts = {"bpr": ranking_share(out, batch, shard)}
        if self.l2_weight:
            parts["l2"] = self.l2_weight * l2_share(out.views["user_ids"], out.views["item_ids"], batch, shard)
        return parts
