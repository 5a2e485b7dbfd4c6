"""BPR-MF (Rendle et al., UAI 2009): matrix factorisation of ID embeddings, without biases.

    score(u, i) = e_u . e_i,
    loss = mean over the batch's u, i, j of -log sigmoid(score(u, i) - score(u, j))
           + l2_weight / 2 (|e_u|^2 + |e_i|^2 + |e_j|^2)

with positives i and negatives j. Under protocol "reference" as in MMRec: l2_weight (|E_u| + |E_i| + |E_j|) / b in the
place of the last part, with |.| the norm of all b rows of the batch together.
"""

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Representations, used
from rearm_jax.recommender.layers import id_init, xavier_normal
from rearm_jax.recommender.ranked import L2, RANKING, RANKING_SPACE, Ranked, choose_l2
from rearm_jax.recommender.search_space import LogUniform
from rearm_jax.settings import NOT_NEGATIVE, POSITIVE, Setting, integer


class Model(Ranked):
    """An embedding a user, an embedding an item."""

    title = "BPR-MF"
    settings = {
        "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
        "model.embedding_dim": Setting(64, integer(1), "width of the embeddings"),
        "model.init_scale": Setting(
            0.0, NOT_NEGATIVE, "standard deviation of the embeddings at the start; 0: Xavier normal, as published"
        ),
        **RANKING,
        **L2,
    }
    search_space = {
        "learning_rate": LogUniform(1e-4, 1e-2),
        "loss.l2_weight": LogUniform(1e-4, 1.0),  # squared; published grids of the norm form reach 2
        **RANKING_SPACE,
    }
    rates = {**Ranked.rates, "l2_weight": np.float32}

    embedding_dim: int
    init_scale: float
    l2_weight: float
    l2_form: str
    protocol: str

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        return {}

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        init = id_init(self.init_scale, xavier_normal)
        user_ids = self.param("user_id_table", init, (users.num_held(self.num_users), self.embedding_dim))
        item_ids = self.param("item_id_table", init, (items.num_held(self.num_items), self.embedding_dim))
        return Representations(users.take(user_ids), items.take(item_ids), {"user_ids": user_ids, "item_ids": item_ids})

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        parts = {self.ranking: self.ranking_share(out.users, out.items, batch, shard)}
        if used(self.l2_weight):
            share = choose_l2(self.l2_form, self.protocol)
            parts["l2"] = self.l2_weight * share(out.views["user_ids"], out.views["item_ids"], batch, shard)
        return parts
