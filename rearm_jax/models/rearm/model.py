"""REARM (Ma et al., ACM MM 2025, arXiv 2508.13745): homography, attention, heterography, meta-network.

With two modalities this is exactly the published model; with M, the cross-attention of a modality averages over the
M - 1 others. A parameter whose name ends in `_table` has one row per user (`user_...`) or per item (`item_...`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs.relations import user_interest_features
from rearm_jax.graphs.row_adjacency import propagate
from rearm_jax.losses import normalize_rows, orthogonal_loss
from rearm_jax.models.rearm.attention import DropRate, ScalarAttention, attend
from rearm_jax.models.rearm.meta_network import MetaNetwork
from rearm_jax.models.rearm.relations import build_relations
from rearm_jax.models.rearm.settings import ADDED_LATER, JOINT_RULES, SEARCH_SPACE, SETTINGS
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Representations, used
from rearm_jax.recommender.featured import item_tables
from rearm_jax.recommender.layers import torch_linear, xavier_normal
from rearm_jax.recommender.objectives import batch_items, contrastive_share, l2_share
from rearm_jax.recommender.ranked import Ranked


class Model(Ranked):
    """The model. Names of modalities and widths of their features are in the order of config.data.modalities.

    `Representations.users` and `items` have one part of width d a modality, then the shared part. `views` has
    "modal_users" and "modal_items", for each modality float (n, d), and "user_ids" and "item_ids", float (n, d), the ID
    embeddings before any propagation. The collection "shown" has, for the report, "user features: KIND" and "item
    features: KIND", float (n, d), KIND a modality or "shared", and "attention: USE", query and context float (n, d).
    """

    title = "REARM"
    settings = SETTINGS
    search_space = SEARCH_SPACE
    joint_rules = JOINT_RULES
    added_later = ADDED_LATER
    leaking_negatives = True
    rates = {
        **Ranked.rates,
        **dict.fromkeys(("self_dropout", "cross_dropout"), DropRate.of),
        **dict.fromkeys(("contrastive_weight", "temperature", "orthogonal_weight", "l2_weight"), np.float32),
    }

    feature_widths: tuple[tuple[str, int], ...]
    embedding_dim: int
    rank: int
    num_layers: int
    num_user_layers: int
    num_item_layers: int
    self_dropout: float | DropRate
    cross_dropout: float | DropRate
    contrastive_weight: float
    temperature: float
    orthogonal_weight: float
    l2_weight: float
    init_scale: float = 0.1
    train_meta_projection: bool = False
    attention: str = "full"
    meta_network: bool = True
    heterography: bool = True
    id_embeddings: bool = True
    train_features: bool = True
    unit_features: bool = False
    dtype: DTypeLike = jnp.float32

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        inputs: dict[str, Any] = dict(build_relations(dataset, config))
        if config.model.train_features:
            return inputs
        return inputs | feature_tables(dataset, config.model.unit_features)

    def data_tables(self, dataset: Dataset) -> dict[str, np.ndarray]:
        return feature_tables(dataset, self.unit_features) if self.train_features else {}

    def decays(self, path: tuple[str, ...]) -> bool:
        # The frozen meta projections get no gradient, and the original's AdamW skips them.
        return self.train_meta_projection or not (path[0].endswith("_meta") and "projection" in path)

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        names = [name for name, _ in self.feature_widths]
        prelu = nn.PReLU(negative_slope_init=0.25, name="prelu")
        user_ids, user_modal = self._node_inputs("user", users.num_held(self.num_users), inputs)
        item_ids, item_modal = self._node_inputs("item", items.num_held(self.num_items), inputs)

        user_e, user_f = self._homography(inputs.get("user_user"), user_ids, user_modal, self.num_user_layers)
        item_e, item_f = self._homography(inputs.get("item_item"), item_ids, item_modal, self.num_item_layers)
        user_f = [prelu(f) for f in user_f]
        item_f = self._item_attention(item_f, prelu, train, items.rows.first_row)

        nodes = jnp.concatenate([jnp.concatenate([*user_e, *user_f], 1), jnp.concatenate([*item_e, *item_f], 1)])
        mean = self._heterography(inputs["user_item"], nodes)

        def represent(side: str, side_mean: jax.Array, nodes: Nodes) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            width = self.embedding_dim if self.id_embeddings else 0
            e, f = side_mean[:, :width], side_mean[:, width:]
            modal = tuple(jnp.split(f, len(names), axis=1))
            for name, features in zip(names, modal, strict=True):
                self.sow("shown", f"{side} features: {name}", features)
            chosen = jnp.split(nodes.take(side_mean), len(modal) + self.id_embeddings, axis=1)
            chosen_e, chosen_f = (chosen[0], chosen[1:]) if self.id_embeddings else (0.0, chosen)
            if self.meta_network:
                meta_network = MetaNetwork(self.rank, self.train_meta_projection, self.dtype, name=f"{side}_meta")
                chosen_f.append(meta_network(f, e, nodes))
                self.sow("shown", f"{side} features: shared", chosen_f[-1])
            return jnp.concatenate([prelu(m) + chosen_e for m in chosen_f], axis=1), modal

        num_users = user_modal[0].shape[0]
        user_representations, modal_users = represent("user", mean[:num_users], users)
        item_representations, modal_items = represent("item", mean[num_users:], items)
        views: dict[str, Any] = {"modal_users": modal_users, "modal_items": modal_items}
        if self.id_embeddings:
            views |= {"user_ids": user_ids, "item_ids": item_ids}
        return Representations(user_representations, item_representations, views)

    def _node_inputs(self, side: str, num_rows: int, inputs: Any) -> tuple[Any, list[jax.Array]]:
        """ID embeddings (None without), and the projected features of each modality, each float32 (num_rows, d)."""
        ids, projected = None, []
        if self.id_embeddings:
            ids = self.param(
                f"{side}_id_table", nn.initializers.normal(self.init_scale), (num_rows, self.embedding_dim)
            )
        for name, width in self.feature_widths:
            table_name = f"{side}_{name}_table"
            if self.train_features:
                # Filled from the data by `data_tables`; zeros here keep the features out of the module.
                table = self.param(table_name, nn.initializers.zeros, (num_rows, width))
            else:
                table = inputs[table_name]
            projection = torch_linear(self.embedding_dim, self.dtype, f"{side}_{name}_projection", xavier_normal, width)
            projected.append(projection(table).astype(jnp.float32))
        return ids, projected

    def _homography(
        self, adjacency: Any, ids: Any, modal: list[jax.Array], num_layers: int
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Propagates IDs and features side by side over a homogeneous graph; the last layer, L2-normalised as one row.

        Without a graph (adjacency None) it is the layer before any propagation.
        """
        parts = modal if ids is None else [ids, *modal]
        nodes = jnp.concatenate(parts, axis=1)
        *_, last = (nodes, *(propagate(adjacency, nodes, num_layers) if adjacency is not None else ()))
        split = jnp.split(normalize_rows(last), len(parts), axis=1)
        return split[: len(parts) - len(modal)], split[len(parts) - len(modal) :]

    def _heterography(self, user_item: Any, nodes: jax.Array) -> jax.Array:
        """The mean over the layers of the user-item graph; of the features only where `heterography` says so."""
        width = self.embedding_dim if self.id_embeddings else 0
        moving = nodes if self.heterography else nodes[:, :width]
        if not moving.shape[1]:
            return nodes
        mean = sum(propagate(user_item, moving, self.num_layers), start=moving) / (self.num_layers + 1)
        return mean if self.heterography else jnp.concatenate([mean, nodes[:, width:]], axis=1)

    def _item_attention(
        self, features: list[jax.Array], prelu: nn.Module, train: bool, first_node: jax.Array | int
    ) -> list[jax.Array]:
        """Self-attention within each modality, then cross-attention between them (step 3 of the forward pass)."""
        if self.attention == "none":
            return [prelu(x) for x in features]
        names = [name for name, _ in self.feature_widths]
        count = len(names)
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="layer_norm")
        if self.attention == "norm":
            attended = [prelu(norm(x)) for x in features]
            return attended if count == 1 else [prelu(norm(x)) for x in attended]

        # One seed for each attention call, so that no two share a dropout mask.
        seeds = jax.random.bits(self.make_rng("dropout"), (count, count), jnp.uint32) if train else None

        def attend_all(kind: str, uses: list[tuple[int, int]], features: list[jax.Array], rate: Any) -> dict:
            """(modality, the one that asks) -> what the modality's attention answers."""
            blocks = [ScalarAttention(name=f"{name}_{kind}_attention") for name in names]
            calls = [(blocks[m], features[o], features[m]) for m, o in uses]
            for (m, o), (_, query, context) in zip(uses, calls, strict=True):
                asks = f", {names[o]} asks" if kind == "cross" and count > 2 else ""
                self.sow("shown", f"attention: {names[m]} {kind}{asks}", (query, context))
            chosen = None if seeds is None else seeds[tuple(np.transpose(uses))]
            return dict(zip(uses, attend(calls, chosen, rate, first_node), strict=True))

        answers = attend_all("self", [(m, m) for m in range(count)], features, self.self_dropout)
        attended = [prelu(norm(x + answers[m, m])) for m, x in enumerate(features)]
        if count == 1:
            return attended
        others = {m: [o for o in range(count) if o != m] for m in range(count)}
        uses = [(m, o) for m in others for o in others[m]]
        answers = attend_all("cross", uses, attended, self.cross_dropout)
        means = [sum(answers[m, o] for o in others[m]) / len(others[m]) for m in others]
        return [prelu(norm(x + mean)) for x, mean in zip(attended, means, strict=True)]

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        """The ranking loss, the contrastive and the orthogonal loss between each pair of modalities, and L2 of the IDs.

        Every device knows the whole batch's node numbers: the ranking and the contrastive loss are split by rows of the
        batch; the orthogonal loss couples all rows and is divided.
        """
        parts = {self.ranking: self.ranking_share(out.users, out.items, batch, shard)}
        count = len(self.feature_widths)
        pairs = [(a, b) for b in range(count) for a in range(b)]
        if pairs and (used(self.contrastive_weight) or used(self.orthogonal_weight)):
            ids, item_mask = batch_items(batch)
            tables = out.views["modal_users"], out.views["modal_items"]
            modal_users = shard.users.lookup(lambda places: [table[places] for table in tables[0]], batch.users)
            modal_items = shard.items.lookup(lambda places: [table[places] for table in tables[1]], ids)
        if pairs and used(self.contrastive_weight):
            nodes = [(modal_users, batch.users, batch.mask), (modal_items, ids, item_mask)]
            contrastive: Any = sum(
                contrastive_share(views[a], views[b], node_ids, mask, self.temperature, shard)
                for views, node_ids, mask in nodes
                for a, b in pairs
            )
            parts["contrastive"] = self.contrastive_weight / len(pairs) * contrastive
        if pairs and used(self.orthogonal_weight):
            positives = [view[: len(batch.positives)] for view in modal_items]
            orthogonal: Any = sum(
                orthogonal_loss(v[a], v[b], batch.mask) for v in (modal_users, positives) for a, b in pairs
            )
            parts["orthogonal"] = self.orthogonal_weight / len(pairs) / shard.count * orthogonal
        if used(self.l2_weight):
            parts["l2"] = self.l2_weight * l2_share(out.views["user_ids"], out.views["item_ids"], batch, shard)
        return parts


def feature_tables(dataset: Dataset, unit: bool) -> dict[str, np.ndarray]:
    """The features as tables: "item_MODALITY_table" float32 (num_items, width), raw or with rows of length 1, and
    "user_MODALITY_table" float32 (num_users, width), the mean of each user's train items.
    """
    tables = item_tables(dataset.features, unit)
    for name in dataset.features:
        interests = user_interest_features(dataset.train, dataset.num_users, tables[f"item_{name}_table"])
        tables[f"user_{name}_table"] = interests
    return tables
