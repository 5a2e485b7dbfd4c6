"""BM3 (Zhou et al., WWW 2023): LightGCN and projected features, bootstrapped without negatives.

With E the ID embeddings, A the symmetrically normalised user-item graph, X_m the features of modality m, q one affine
map for all, [x] a dropped-out x through which no gradient flows, and c(a, b) the mean cosine over the batch's rows:

    H = mean over l = 0..L of A^l E, then h_i <- h_i + e_i for items;   F_m = W_m X_m + b_m
    score(u, i) = q(h_u) . q(h_i)
    loss = 2 - c(q(h_u), [h_i]) - c(q(h_i), [h_u])
           + modality_weight * sum over m of (2 - c(q(f_mi), [h_i]) - c(q(f_mi), [f_mi]))
           + l2_weight / 2 (|h_u|^2 + |h_i|^2)

over users u and their items i. Nothing repels: the map, the stopped gradient and the dropout alone hold a collapse off.
The published code has two modalities and trains the features together with W_m (they begin as those of the data).
Under protocol "reference" the last part is its: l2_weight (|H_users| + |H_items|) / (number of items), the norms of all
nodes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs.adjacency import user_item_adjacency
from rearm_jax.graphs.row_adjacency import propagate
from rearm_jax.losses import normalize_rows
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Representations, used
from rearm_jax.recommender.featured import TRAIN_FEATURES, UNIT_FEATURES, Featured
from rearm_jax.recommender.layers import drop_rows, id_init, torch_linear, xavier_normal, xavier_uniform
from rearm_jax.recommender.objectives import row_weights
from rearm_jax.recommender.ranked import L2, choose_l2_form
from rearm_jax.recommender.search_space import Choice, LogUniform
from rearm_jax.settings import FRACTION, NOT_NEGATIVE, POSITIVE, Setting, integer


class Model(Featured):
    """The model; any number of modalities."""

    title = "BM3"
    settings = {
        "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
        "model.embedding_dim": Setting(64, integer(1), "width of the embeddings"),
        "model.num_layers": Setting(1, integer(0), "of the user-item graph"),
        "model.dropout": Setting(0.5, FRACTION, "of what the losses aim at, in training"),
        "model.init_scale": Setting(
            0.0, NOT_NEGATIVE, "standard deviation of the ID embeddings at the start; 0: Xavier uniform, as published"
        ),
        "model.train_features": TRAIN_FEATURES,
        "model.unit_features": UNIT_FEATURES,
        "loss.modality_weight": Setting(2.0, NOT_NEGATIVE, "of the two losses of each modality's features"),
        **L2,
        "loss.l2_weight": L2["loss.l2_weight"]._replace(meaning="of the L2 part, over representations"),
    }
    search_space = {
        "learning_rate": LogUniform(3e-4, 1e-2),
        "model.num_layers": Choice((1, 2, 3)),
        "model.dropout": Choice((0.1, 0.3, 0.5)),
        "loss.modality_weight": LogUniform(0.1, 10.0),
        "loss.l2_weight": LogUniform(1e-4, 1.0),
    }
    added_later = {"model.unit_features": False}
    rates = dict.fromkeys(("dropout", "modality_weight", "l2_weight"), np.float32)

    embedding_dim: int
    num_layers: int
    dropout: float
    init_scale: float
    modality_weight: float
    l2_weight: float
    l2_form: str
    protocol: str
    dtype: DTypeLike

    @property
    def num_shared_negatives(self) -> int:
        return 1  # BM3 has no negatives: one for the whole batch is the least there is, and nothing reads it

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        inputs: Any = {"user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items)}
        return inputs | cls.frozen_features(dataset, config) if config.loss.modality_weight else inputs

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        d, init = self.embedding_dim, id_init(self.init_scale, xavier_uniform)
        num_users = users.num_held(self.num_users)
        user_ids = self.param("user_id_table", init, (num_users, d))
        item_ids = self.param("item_id_table", init, (items.num_held(self.num_items), d))
        ids = jnp.concatenate([user_ids, item_ids])
        graph: Any = inputs["user_item"]
        mean = sum(propagate(graph, ids, self.num_layers), start=ids) / (self.num_layers + 1)
        h_users, h_items = mean[:num_users], mean[num_users:] + item_ids
        user_rows, item_rows = users.take(h_users), items.take(h_items)

        predictor = torch_linear(d, self.dtype, "predictor", xavier_normal, d)

        def predict(rows: jax.Array) -> jax.Array:
            return predictor(rows).astype(jnp.float32)

        views: dict[str, Any] = {"nodes": (h_users, h_items), "rows": (user_rows, item_rows)}
        if used(self.modality_weight) and (train or self.is_initializing()):
            projected = []
            for name, width in self.feature_widths:
                projection = torch_linear(d, self.dtype, f"{name}_projection", xavier_normal, width)
                rows = items.take(self.feature_table(name, width, inputs, items))
                projected.append(projection(rows).astype(jnp.float32))
            views["predicted"] = tuple(map(predict, projected))
        if train:
            keys = jax.random.split(self.make_rng("dropout"), 2 + len(self.feature_widths))
            views["user_targets"] = drop_rows(keys[0], users, user_rows, self.dropout)
            views["item_targets"] = drop_rows(keys[1], items, item_rows, self.dropout)
            if used(self.modality_weight):
                views["targets"] = tuple(
                    drop_rows(key, items, rows, self.dropout) for key, rows in zip(keys[2:], projected, strict=True)
                )
        return Representations(predict(user_rows), predict(item_rows), views)

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        weights = row_weights(batch, shard)
        count, views = len(weights), out.views  # the rows of items end with the negative

        def apart(x: jax.Array, target: jax.Array) -> jax.Array:
            """1 - the mean cosine."""
            target = jax.lax.stop_gradient(target)
            return weights @ (1 - jnp.sum(normalize_rows(x[:count]) * normalize_rows(target[:count]), axis=1))

        parts = {"bootstrap": apart(out.users, views["item_targets"]) + apart(out.items, views["user_targets"])}
        if used(self.modality_weight):
            pairs = zip(views["predicted"], views["targets"], strict=True)
            modalities: Any = sum(apart(x, views["item_targets"]) + apart(x, own) for x, own in pairs)
            parts["modalities"] = self.modality_weight * modalities
        if used(self.l2_weight):
            if choose_l2_form(self.l2_form, self.protocol) == "squared":
                l2 = sum((weights @ jnp.sum(rows[:count] ** 2, axis=1) for rows in views["rows"]), jnp.float32(0)) / 2
            else:
                squares = jnp.stack([jnp.sum(nodes**2) for nodes in views["nodes"]])
                squares = shard.sum(squares) if shard.by_row else squares  # else every device has all nodes
                l2 = jnp.sum(jnp.sqrt(squares)) / self.num_items / shard.count
            parts["l2"] = self.l2_weight * l2
        return parts
