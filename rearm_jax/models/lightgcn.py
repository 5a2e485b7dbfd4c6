"""LightGCN (He et al., SIGIR 2020): ID embeddings, propagated over the user-item graph alone.

With E the embeddings of users and items one below the other, and A the symmetrically normalised user-item graph:

    Z = mean over l = 0..L of A^l E,   score(u, i) = z_u . z_i,
    loss = mean over the batch's u, i, j of -log sigmoid(score(u, i) - score(u, j))
           + l2_weight / 2 (|e_u|^2 + |e_i|^2 + |e_j|^2)

with positives i and negatives j. Under protocol "reference" as in MMRec: l2_weight (|E_u| + |E_i| + |E_j|) / b in the
place of the last part, with |.| the norm of all b rows of the batch together.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs.adjacency import user_item_adjacency
from rearm_jax.graphs.row_adjacency import propagate
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Representations, used
from rearm_jax.recommender.layers import id_init, xavier_uniform
from rearm_jax.recommender.ranked import L2, RANKING, RANKING_BEFORE, RANKING_SPACE, Ranked, choose_l2
from rearm_jax.recommender.search_space import Choice, LogUniform
from rearm_jax.settings import NOT_NEGATIVE, POSITIVE, SWITCH, Setting, integer


class Model(Ranked):
    """Mean over layers 0..num_layers of the propagated ID embeddings."""

    title = "LightGCN"
    settings = {
        "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
        "model.embedding_dim": Setting(64, integer(1), "width of the embeddings"),
        "model.num_layers": Setting(3, integer(0), "of the user-item graph"),
        "model.init_scale": Setting(
            0.0, NOT_NEGATIVE, "standard deviation of the embeddings at the start; 0: Xavier uniform, as published"
        ),
        "loss.leaking_negatives": Setting(
            False,
            SWITCH,
            'protocol "reference": items of validation and test are no negatives either, as in runs of the first '
            "version; the published code has no such leak",
        ),
        **RANKING,
        **L2,
    }
    search_space = {
        "learning_rate": LogUniform(3e-4, 1e-2),
        "model.num_layers": Choice((1, 2, 3, 4)),
        "loss.l2_weight": LogUniform(1e-4, 1.0),
        **RANKING_SPACE,
    }
    added_later = {
        "model.init_scale": 0.1,
        "loss.leaking_negatives": True,
        "loss.l2_form": "squared",
        **RANKING_BEFORE,
    }
    rates = {**Ranked.rates, "l2_weight": np.float32}

    embedding_dim: int
    num_layers: int
    init_scale: float
    l2_weight: float
    l2_form: str
    protocol: str
    leaking_negatives: bool = False

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        return {"user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items)}

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        init = id_init(self.init_scale, xavier_uniform)
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
        parts = {self.ranking: self.ranking_share(out.users, out.items, batch, shard)}
        if used(self.l2_weight):
            share = choose_l2(self.l2_form, self.protocol)
            parts["l2"] = self.l2_weight * share(out.views["user_ids"], out.views["item_ids"], batch, shard)
        return parts
