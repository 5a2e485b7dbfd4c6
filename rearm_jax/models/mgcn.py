"""MGCN (Yu et al., MM 2023): views of each modality, purified by the ID embeddings, beside LightGCN.

With E the ID embeddings, users E_U above items E_I; A the symmetrically normalised user-item graph, R its block of
users by items; S_m the graph of each item's k nearest by the features X_m of modality m, itself included, with the
cosines w as w_ij / sqrt(r_i r_j), r the sums of the rows; M modalities; and * by element:

    C = mean over l = 0..L of A^l E                                        the shared view
    I_m = S_m (E_I * sigmoid(G_m(W_m(X_m)))),   V_m = [R I_m ; I_m]        that of a modality, purified
    alpha_m = softmax over m of w . tanh(W V_m + b),   common = sum over m of alpha_m V_m
    side = (common + sum over m of sigmoid(Q_m(C)) * (V_m - common)) / (M + 1)
    Z = C + side,   score(u, i) = z_u . z_i
    loss = mean over the batch's u, i, j of -log sigmoid(score(u, i) - score(u, j))
           + l2_weight / 2 (|z_u|^2 + |z_i|^2 + |z_j|^2)
           + contrastive_weight (InfoNCE(side_i, c_i) + InfoNCE(side_u, c_u))

with positives i and negatives j; W_m, G_m, Q_m affine; InfoNCE by the cosine and a temperature, among the rows of the
batch. The published code has two modalities, trains the features together with W_m (they begin as those of the data),
and lets the learning rate fall by 0.96 every 50 epochs. Under protocol "reference" the L2 part of a short last batch is
divided by the size of a full one, as there.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs.adjacency import make_adjacency, user_item_adjacency
from rearm_jax.graphs.relations import cosine_graph
from rearm_jax.graphs.semantic import semantic_graph
from rearm_jax.parallel.rows import ALL, Nodes
from rearm_jax.recommender.contract import Inputs, Representations
from rearm_jax.recommender.layers import torch_linear
from rearm_jax.recommender.side_views import SIDE_VIEWS, SIDE_VIEWS_SPACE, SideViews


class Model(SideViews):
    """The model; any number of modalities."""

    title = "MGCN"
    settings = SIDE_VIEWS
    search_space = SIDE_VIEWS_SPACE

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        """ "user_item", "item_item:MODALITY", and the features where they stay as they are.

        Raises:
          ConfigError: the kNN graphs need faiss, which is not installed.
        """
        inputs: dict[str, Any] = {"user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items)}
        for name in dataset.features:
            nearest = semantic_graph(dataset, name, config.graph.item_knn_k, config.graph)
            inputs[f"item_item:{name}"] = make_adjacency(cosine_graph(nearest), ("item",))
        return inputs | cls.frozen_features(dataset, config)

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        graphs: Any = inputs
        d, names = self.embedding_dim, [name for name, _ in self.feature_widths]
        shared, item_ids = self.shared_view(graphs["user_item"])

        purified = []
        for name, width in self.feature_widths:
            projection = torch_linear(d, self.dtype, f"{name}_projection", fan_in=width)
            gate = torch_linear(d, self.dtype, f"{name}_gate", fan_in=d)
            features = gate(projection(self.feature_table(name, width, inputs, items)))
            purified.append(item_ids * nn.sigmoid(features.astype(jnp.float32)))
        views = self.content_views(graphs["user_item"], purified, [graphs[f"item_item:{name}"] for name in names])

        query = torch_linear(d, self.dtype, "query", fan_in=d)
        score = torch_linear(1, self.dtype, "query_score", fan_in=d, use_bias=False)
        preferences = [torch_linear(d, self.dtype, f"{name}_preference", fan_in=d) for name in names]

        def fuse(shared: jax.Array, *views: jax.Array) -> jax.Array:
            """The side of some nodes, float32 (n, d)."""
            scores = jnp.concatenate([score(jnp.tanh(query(view))) for view in views], axis=1).astype(jnp.float32)
            shares = jnp.split(jax.nn.softmax(scores, axis=1), len(views), axis=1)
            common: Any = sum(share * view for share, view in zip(shares, views, strict=True))
            side = common
            for prefer, view in zip(preferences, views, strict=True):
                side += nn.sigmoid(prefer(shared).astype(jnp.float32)) * (view - common)
            return side / (len(views) + 1)

        shared_users, shared_items = jnp.split(shared, [self.num_users])
        user_rows = self.chosen(users, shared_users, views[0])
        item_rows = self.chosen(items, shared_items, views[1])
        sides = fuse(*user_rows), fuse(*item_rows)
        return Representations(
            user_rows[0] + sides[0],
            item_rows[0] + sides[1],
            {"side": sides, "shared": (shared_users, shared_items)},
        )
