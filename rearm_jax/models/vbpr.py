"""VBPR (He & McAuley, AAAI 2016), as in MMRec: matrix factorisation, half of it over the items' projected features.

With e_i the ID embedding of an item, f_i its raw features of all modalities side by side, and p_u of twice the width:

    q_i = [e_i ; W f_i + b],   score(u, i) = p_u . q_i,
    loss = mean over the batch's u, i, j of -log sigmoid(score(u, i) - score(u, j))
           + l2_weight / 2 (|p_u|^2 + |q_i|^2 + |q_j|^2)

with positives i and negatives j. The paper has one modality, the image, and biases of items and of features, which
MMRec leaves out. Under protocol "reference" the last part is MMRec's: l2_weight (|P_u| + |Q_i| + |Q_j|) / b, with |.|
the norm of all b rows of the batch together.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Representations, used
from rearm_jax.recommender.featured import TRAIN_FEATURES, UNIT_FEATURES, Featured
from rearm_jax.recommender.layers import id_init, torch_linear, xavier_uniform
from rearm_jax.recommender.ranked import L2, RANKING, RANKING_SPACE, Ranked, choose_l2_of_rows
from rearm_jax.recommender.search_space import LogUniform
from rearm_jax.settings import NOT_NEGATIVE, POSITIVE, Setting, integer


class Model(Ranked, Featured):
    """ID embeddings beside projected features."""

    title = "VBPR"
    settings = {
        "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
        "model.embedding_dim": Setting(64, integer(1), "width of the ID embeddings, and again of the features"),
        "model.init_scale": Setting(
            0.0, NOT_NEGATIVE, "standard deviation of the embeddings at the start; 0: Xavier uniform, as published"
        ),
        "model.train_features": TRAIN_FEATURES._replace(default=False),
        "model.unit_features": UNIT_FEATURES,
        **RANKING,
        **L2,
        "loss.l2_weight": L2["loss.l2_weight"]._replace(meaning="of the L2 part, over the batch's representations"),
    }
    search_space = {
        "learning_rate": LogUniform(1e-4, 1e-2),
        "loss.l2_weight": LogUniform(1e-4, 1.0),
        **RANKING_SPACE,
    }
    added_later = {"model.unit_features": False}
    rates = {**Ranked.rates, "l2_weight": np.float32}

    embedding_dim: int
    init_scale: float
    l2_weight: float
    l2_form: str
    protocol: str
    dtype: DTypeLike

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        return cls.frozen_features(dataset, config)

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        d, init = self.embedding_dim, id_init(self.init_scale, xavier_uniform)
        user_table = self.param("user_id_table", init, (users.num_held(self.num_users), 2 * d))
        item_ids = self.param("item_id_table", init, (items.num_held(self.num_items), d))
        content: Any = self.param("features_bias", nn.initializers.zeros, (d,))
        # Xavier normal, of the one matrix that W is.
        start = nn.initializers.normal((2 / (sum(width for _, width in self.feature_widths) + d)) ** 0.5)
        for name, width in self.feature_widths:
            rows = items.take(self.feature_table(name, width, inputs, items))
            projection = torch_linear(d, self.dtype, f"{name}_projection", start, width, use_bias=False)
            content += projection(rows).astype(jnp.float32)
        return Representations(users.take(user_table), jnp.concatenate([items.take(item_ids), content], axis=1))

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        parts = {self.ranking: self.ranking_share(out.users, out.items, batch, shard)}
        if used(self.l2_weight):
            share = choose_l2_of_rows(self.l2_form, self.protocol)
            parts["l2"] = self.l2_weight * share(out.users, out.items, batch, shard)
        return parts
