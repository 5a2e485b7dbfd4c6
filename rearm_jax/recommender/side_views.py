"""Models that add to LightGCN's representation a side of content, and hold both together by a contrastive loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rearm_jax.graphs.adjacency import Adjacency, items_to_users, propagate
from rearm_jax.losses import contrastive_loss
from rearm_jax.parallel.rows import Nodes, Shard
from rearm_jax.recommender.contract import Batch, Representations, used
from rearm_jax.recommender.featured import ITEM_KNN_K, KNN, TIES, TRAIN_FEATURES, UNIT_FEATURES, Featured
from rearm_jax.recommender.layers import id_init, xavier_uniform
from rearm_jax.recommender.objectives import l2_of_rows, row_weights
from rearm_jax.recommender.ranked import RANKING, RANKING_SPACE, Ranked
from rearm_jax.recommender.search_space import Choice, LogUniform, SearchSpace
from rearm_jax.settings import NOT_NEGATIVE, POSITIVE, Setting, integer

SIDE_VIEWS: Mapping[str, Setting] = {
    "learning_rate": Setting(1e-3, POSITIVE, "of AdamW; the peak where there is a schedule"),
    "graph.item_knn_k": ITEM_KNN_K,
    "graph.knn": KNN,
    "graph.ties": TIES,
    "model.embedding_dim": Setting(64, integer(1), "width of the embeddings"),
    "model.num_layers": Setting(2, integer(0), "of the user-item graph, for the ID embeddings"),
    "model.init_scale": Setting(
        0.0, NOT_NEGATIVE, "standard deviation of the ID embeddings at the start; 0: Xavier uniform, as published"
    ),
    "model.train_features": TRAIN_FEATURES,
    "model.unit_features": UNIT_FEATURES,
    "loss.contrastive_weight": Setting(0.01, NOT_NEGATIVE, "of the contrastive loss of content and ID embeddings"),
    "loss.temperature": Setting(0.2, POSITIVE, "of the contrastive loss"),
    "loss.l2_weight": Setting(1e-4, NOT_NEGATIVE, "of the L2 part, over the batch's representations"),
    **RANKING,
}
SIDE_VIEWS_SPACE: SearchSpace = {
    "learning_rate": LogUniform(3e-4, 1e-2),
    "graph.item_knn_k": Choice((5, 10, 20, 40)),
    "model.num_layers": Choice((1, 2, 3, 4)),
    "loss.contrastive_weight": LogUniform(1e-3, 1e-1),
    "loss.l2_weight": LogUniform(1e-5, 1.0),
    **RANKING_SPACE,
}


class SideViews(Ranked, Featured, kw_only=True):
    """A model that declares SIDE_VIEWS among its settings, and gives the views "side" and "shared" (see `losses`)."""

    by_row = False
    added_later = {"graph.ties": "lowest", "model.unit_features": False}
    rates = {**Ranked.rates, **dict.fromkeys(("contrastive_weight", "temperature", "l2_weight"), np.float32)}
    ranks_new_items = False  # a graph of the items for each modality is more than a new item's one row can stand in for

    embedding_dim: int
    num_layers: int
    init_scale: float
    contrastive_weight: float
    temperature: float
    l2_weight: float
    protocol: str
    batch_size: int
    dtype: Any

    def shared_view(self, user_item: Adjacency) -> tuple[jax.Array, jax.Array]:
        """LightGCN's representations of all nodes, users first, float32 (n, d), and E_I; inside of the forward pass."""
        init, d = id_init(self.init_scale, xavier_uniform), self.embedding_dim
        user_ids: Any = self.param("user_id_table", init, (self.num_users, d))
        item_ids: Any = self.param("item_id_table", init, (self.num_items, d))
        ids = jnp.concatenate([user_ids, item_ids])
        return sum(propagate(user_item, ids, self.num_layers), start=ids) / (self.num_layers + 1), item_ids

    def content_views(
        self, user_item: Adjacency, purified: Sequence[jax.Array], graphs: Sequence[Adjacency]
    ) -> tuple[jax.Array, jax.Array]:
        """The views side by side, one of each graph of the items, float32 (num_users, v d) and (num_items, v d).

        Args:
          user_item: the graph of users and items.
          purified: v tables of the items, float32 (num_items, d).
          graphs: v graphs of the items, over each of which its table is propagated once.
        """
        items = [propagate(graph, table, 1)[0] for graph, table in zip(graphs, purified, strict=True)]
        beside = jnp.concatenate(items, axis=1)
        return items_to_users(user_item, self.num_users, beside), beside

    def chosen(self, nodes: Nodes, shared: jax.Array, views: jax.Array) -> list[jax.Array]:
        """The wanted rows of the shared view and of each other: all that follows is row by row."""
        rows = nodes.take(jnp.concatenate([shared, views], axis=1))
        return jnp.split(rows, rows.shape[1] // self.embedding_dim, axis=1)

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        """The ranking loss, L2 of the representations, and the contrastive loss of content and ID embeddings.

        `out.views` has "side", the content of the wanted users and items, and "shared", the ID embeddings' view of all
        users and of all items.
        """
        parts = {self.ranking: self.ranking_share(out.users, out.items, batch, shard)}
        if used(self.l2_weight):
            weight: Any = self.l2_weight
            if self.protocol == "reference":  # the published code divides a short last batch by a full one's size, too
                weight *= jnp.sum(batch.mask) / self.batch_size
            parts["l2"] = weight * l2_of_rows(out.users, out.items, batch, shard)
        if used(self.contrastive_weight):
            (side_users, side_items), (shared_users, shared_items) = out.views["side"], out.views["shared"]
            weights = row_weights(batch, shard)
            targets = shard.rows(jnp.arange(len(batch.users), dtype=jnp.int32))

            def contrast(side: jax.Array, shared: jax.Array) -> jax.Array:
                # A user or item that the batch has twice is its own negative, as published.
                return contrastive_loss(side, shared, targets, weights, batch.mask, self.temperature)

            positives = side_items[: len(targets)]
            total = contrast(positives, shared_items[batch.positives]) + contrast(side_users, shared_users[batch.users])
            parts["contrastive"] = self.contrastive_weight * total
        return parts
