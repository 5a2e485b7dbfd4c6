"""FREEDOM (Zhou & Shen, MM 2023): LightGCN on a graph that is pruned anew every epoch, and a frozen graph of the items.

With E the ID embeddings, users E_U above items E_I; A the symmetrically normalised user-item graph, in training that of
the epoch's edges; B_m the graph of each item's k nearest by the features X_m of modality m, itself included, whose
entries are all 1/k; and w_m weights that sum to 1:

    Z = mean over l = 0..L of A^l E,   H = S^L' E_I with S = sum over m of w_m B_m,
    score(u, i) = z_u . (z_i + h_i),
    loss = BPR(z_u, z + h) + modality_weight * sum over m of BPR(z_u, W_m X_m)

with BPR(x_u, y) = mean over the batch's u, positives i, negatives j of -log sigmoid(x_u . y_i - x_u . y_j). An epoch
keeps floor((1 - edge_dropout) n) of the n edges (see graphs/sampled.py). Evaluation has all edges.

The published code has two modalities, trains the features together with W (they begin as those of the data), and adds
a bias to W_m X_m, which cancels in the difference. It knows no leak: both protocols are the same.
"""

import math
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import ConfigError
from rearm_jax.graphs import relations
from rearm_jax.graphs.adjacency import Adjacency, make_adjacency, propagate, user_item_adjacency
from rearm_jax.graphs.sampled import sample_edges
from rearm_jax.graphs.semantic import semantic_graph
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Representations, used
from rearm_jax.recommender.featured import ITEM_KNN_K, KNN, TIES, TRAIN_FEATURES, UNIT_FEATURES, Featured
from rearm_jax.recommender.layers import id_init, torch_linear, xavier_uniform
from rearm_jax.recommender.ranked import RANKING, RANKING_SPACE, Ranked
from rearm_jax.recommender.search_space import Choice, LogUniform
from rearm_jax.settings import (
    FRACTION,
    MODALITY_WEIGHTS,
    NOT_NEGATIVE,
    POSITIVE,
    Setting,
    integer,
    modality_weights,
    one_weight_each,
)


class Model(Ranked, Featured):
    """LightGCN over the edges of an epoch, and the frozen graph of the items."""

    title = "FREEDOM"
    added_later = {"graph.ties": "lowest", "model.unit_features": False}
    settings = {
        "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
        "graph.item_knn_k": ITEM_KNN_K,
        "graph.item_modality_weights": Setting(
            (), MODALITY_WEIGHTS, "of each modality's graph of items; the paper's are (0.1, 0.9) for image and text"
        ),
        "graph.knn": KNN,
        "graph.ties": TIES,
        "graph.edge_dropout": Setting(0.8, FRACTION, "share of the user-item edges that an epoch leaves out"),
        "model.embedding_dim": Setting(64, integer(1), "width of the embeddings"),
        "model.num_layers": Setting(2, integer(0), "of the user-item graph"),
        "model.num_item_layers": Setting(1, integer(0), "of the graph of items"),
        "model.init_scale": Setting(
            0.0, NOT_NEGATIVE, "standard deviation of the ID embeddings at the start; 0: Xavier uniform, as published"
        ),
        "model.train_features": TRAIN_FEATURES,
        "model.unit_features": UNIT_FEATURES,
        "loss.modality_weight": Setting(1e-3, NOT_NEGATIVE, "of the ranking loss of each modality's features"),
        **RANKING,
    }
    search_space = {
        "learning_rate": LogUniform(3e-4, 1e-2),
        "weight_decay": LogUniform(1e-4, 1.0),  # it has no L2, which the other models are tuned by
        "graph.item_knn_k": Choice((5, 10, 20, 40)),
        "graph.edge_dropout": Choice((0.0, 0.5, 0.8, 0.9)),
        "model.num_layers": Choice((1, 2, 3)),
        "loss.modality_weight": LogUniform(1e-5, 1e-1),
        **RANKING_SPACE,
    }
    joint_rules = (one_weight_each("graph.item_modality_weights"),)
    by_row = False
    counts_neighbours = True
    rates = {**Ranked.rates, "modality_weight": np.float32}

    embedding_dim: int
    num_layers: int
    num_item_layers: int
    edge_dropout: float
    init_scale: float
    modality_weight: float
    dtype: DTypeLike

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        """ "user_item", "item_item", "edges_by_item" where edges are left out, and the features where they are read and
        stay as they are.

        Raises:
          ConfigError: edge_dropout leaves no edge, or the kNN graphs need faiss, which is not installed.
        """
        if not _num_kept(len(dataset.train), config.graph.edge_dropout):
            raise ConfigError(
                f"graph.edge_dropout = {config.graph.edge_dropout}: leaves none of the {len(dataset.train)} edges"
            )
        item_item = _item_graph(dataset, config.graph)
        inputs: dict[str, Any] = {
            "user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items),
            "item_item": make_adjacency(item_item, ("item",)),
        }
        if config.graph.edge_dropout:
            inputs["edges_by_item"] = jnp.asarray(np.argsort(dataset.train[:, 1], kind="stable").astype(np.int32))
        return inputs | cls.frozen_features(dataset, config) if config.loss.modality_weight else inputs

    def epoch_inputs(self, inputs: Inputs, key: jax.Array) -> Inputs:
        if not self.edge_dropout:
            return {}
        graph, by_item = cast(Adjacency, inputs["user_item"]), cast(jax.Array, inputs["edges_by_item"])
        num_kept = _num_kept(len(by_item), self.edge_dropout)
        return {"user_item": sample_edges(graph, by_item, self.num_users, num_kept, key)}

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        graphs: Any = inputs
        init = id_init(self.init_scale, xavier_uniform)
        user_ids = self.param("user_id_table", init, (self.num_users, self.embedding_dim))
        item_ids = self.param("item_id_table", init, (self.num_items, self.embedding_dim))
        ids = jnp.concatenate([user_ids, item_ids])
        mean = sum(propagate(graphs["user_item"], ids, self.num_layers), start=ids) / (self.num_layers + 1)
        *_, similar = (item_ids, *propagate(graphs["item_item"], item_ids, self.num_item_layers))
        represented = mean[self.num_users :] + similar
        projected = tuple(self._projected(name, width, inputs, items) for name, width in self._features_read())
        return Representations(users.take(mean[: self.num_users]), items.take(represented), {"projected": projected})

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        parts = {self.ranking: self.ranking_share(out.users, out.items, batch, shard)}
        if used(self.modality_weight):
            shares = [self.ranking_share(out.users, features, batch, shard) for features in out.views["projected"]]
            parts["modalities"] = self.modality_weight * sum(shares, start=jnp.float32(0))
        return parts

    def data_tables(self, dataset: Dataset) -> dict[str, np.ndarray]:
        return super().data_tables(dataset) if self._features_read() else {}

    def _features_read(self) -> tuple[tuple[str, int], ...]:
        return self.feature_widths if used(self.modality_weight) else ()

    def _projected(self, name: str, width: int, inputs: Inputs, items: Nodes) -> jax.Array:
        """W_m X_m of the wanted items, float32 (b, d)."""
        table = self.feature_table(name, width, inputs, items)
        projection = torch_linear(self.embedding_dim, self.dtype, f"{name}_projection", fan_in=width, use_bias=False)
        return projection(items.take(table)).astype(jnp.float32)


def _num_kept(num_edges: int, edge_dropout: float) -> int:
    return math.floor(num_edges * (1 - edge_dropout))


def _item_graph(dataset: Dataset, graph: ConfigDict) -> scipy.sparse.csr_array:
    """S, float32 (num_items, num_items)."""

    def nearest(name: str) -> scipy.sparse.csr_array:
        return relations.binary_graph(semantic_graph(dataset, name, graph.item_knn_k, graph))

    weights = modality_weights(graph.item_modality_weights, len(dataset.features))
    return relations.combine(weights, [partial(nearest, name) for name in dataset.features])
