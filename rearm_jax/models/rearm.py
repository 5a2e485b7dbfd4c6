"""REARM (Ma et al., ACM MM 2025, arXiv 2508.13745): homography, attention, heterography, meta-network.

With two modalities this is exactly the published model; with M, the cross-attention of a modality averages over the
M - 1 others. A parameter whose name ends in `_table` has one row per user (`user_...`) or per item (`item_...`).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.graphs.build import Graphs
from rearm_jax.graphs.row_adjacency import RowAdjacency, propagate
from rearm_jax.losses import normalize_rows
from rearm_jax.models.attention import ScalarAttention
from rearm_jax.models.meta_network import MetaNetwork, torch_linear
from rearm_jax.models.representations import WHOLE, Representations, WholeTable, take_rows

# As PyTorch's xavier_normal_; Flax's own xavier_normal cuts the tails off at two standard deviations.
_xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


class REARM(nn.Module):
    """The model. Names of modalities and widths of their features are in the order of config.data.modalities."""

    num_users: int
    num_items: int
    feature_widths: tuple[tuple[str, int], ...]
    embedding_dim: int
    rank: int
    num_layers: int
    num_user_layers: int
    num_item_layers: int
    self_dropout: float
    cross_dropout: float
    train_meta_projection: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        graphs: Graphs,
        train: bool,
        users: jax.Array | None = None,
        items: jax.Array | None = None,
        user_rows: WholeTable = WHOLE,
        item_rows: WholeTable = WHOLE,
    ) -> Representations:
        """The forward pass.

        Args:
          graphs: the relations of the training interactions.
          train: switches the dropout on; needs the random stream "dropout".
          users: int (b_u,), rows of `Representations.users` that are wanted, or None for all.
          items: int (b_i,), likewise.
          user_rows, item_rows: how the rows of the node tables are reached. Where the tables are sharded by row, the
            parameters that end in `_table` are this device's shards, and `graphs` are of RowAdjacency.

        Returns:
          Representations whose `users` and `items` are (M + 1) d wide: one part a modality, then the shared part.
        """
        prelu = nn.PReLU(negative_slope_init=0.25, name="prelu")
        user_ids, *user_modal = self._inputs("user", user_rows.num_held(self.num_users))
        item_ids, *item_modal = self._inputs("item", item_rows.num_held(self.num_items))

        user_e, *user_f = self._homography(graphs.user_user, [user_ids, *user_modal], self.num_user_layers)
        item_e, *item_f = self._homography(graphs.item_item, [item_ids, *item_modal], self.num_item_layers)
        user_f = [prelu(f) for f in user_f]
        item_f = self._item_attention(item_f, prelu, train, item_rows.first_row)

        nodes = jnp.concatenate([jnp.concatenate([user_e, *user_f], 1), jnp.concatenate([item_e, *item_f], 1)])
        layers = propagate(graphs.user_item, nodes, self.num_layers)
        mean = sum(layers, start=nodes) / (self.num_layers + 1)

        def represent(
            side: str, side_mean: jax.Array, place: WholeTable, rows: jax.Array | None
        ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            e, f = side_mean[:, : self.embedding_dim], side_mean[:, self.embedding_dim :]
            meta_network = MetaNetwork(self.rank, self.train_meta_projection, self.dtype, name=f"{side}_meta")
            shared = meta_network(f, e, rows, place)
            modal = tuple(jnp.split(f, len(self.feature_widths), axis=1))
            chosen_e, *chosen = jnp.split(take_rows(side_mean, place, rows), 1 + len(modal), axis=1)
            parts = [prelu(m) + chosen_e for m in (*chosen, shared)]
            return jnp.concatenate(parts, axis=1), modal

        num_users = user_ids.shape[0]
        user_representations, modal_users = represent("user", mean[:num_users], user_rows, users)
        item_representations, modal_items = represent("item", mean[num_users:], item_rows, items)
        return Representations(user_representations, item_representations, modal_users, modal_items, user_ids, item_ids)

    def _inputs(self, side: str, num_rows: int) -> list[jax.Array]:
        """[ID embeddings, projected features of each modality], each float32 (num_rows, d)."""
        inputs = [self.param(f"{side}_id_table", nn.initializers.normal(0.1), (num_rows, self.embedding_dim))]
        for name, width in self.feature_widths:
            # Filled from the data by `with_features`; zeros here keep the features out of the module.
            table = self.param(f"{side}_{name}_table", nn.initializers.zeros, (num_rows, width))
            projection = torch_linear(
                self.embedding_dim, self.dtype, f"{side}_{name}_projection", _xavier_normal, width
            )
            inputs.append(projection(table).astype(jnp.float32))
        return inputs

    def _homography(
        self, adjacency: Adjacency | RowAdjacency, parts: list[jax.Array], num_layers: int
    ) -> list[jax.Array]:
        """Propagates the parts side by side over a homogeneous graph; the last layer, L2-normalised as one row."""
        nodes = jnp.concatenate(parts, axis=1)
        *_, last = (nodes, *propagate(adjacency, nodes, num_layers))
        return jnp.split(normalize_rows(last), len(parts), axis=1)

    def _item_attention(
        self, features: list[jax.Array], prelu: nn.Module, train: bool, first_node: jax.Array | int
    ) -> list[jax.Array]:
        """Self-attention within each modality, then cross-attention between them (step 3 of the forward pass)."""
        names = [name for name, _ in self.feature_widths]
        count = len(names)
        # One seed for each attention call, so that no two share a dropout mask.
        seeds: Any = jax.random.bits(self.make_rng("dropout"), (count, count), jnp.uint32) if train else None
        seed = (lambda m, other: seeds[m, other]) if train else (lambda m, other: None)
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="layer_norm")

        attended = []
        for m, (name, x) in enumerate(zip(names, features, strict=True)):
            attention = ScalarAttention(self.self_dropout, name=f"{name}_self_attention")
            attended.append(prelu(norm(x + attention(x, x, seed(m, m), first_node))))
        if count == 1:
            return attended

        crossed = []
        for m, (name, x) in enumerate(zip(names, attended, strict=True)):
            attention = ScalarAttention(self.cross_dropout, name=f"{name}_cross_attention")
            others = [attention(attended[o], x, seed(m, o), first_node) for o in range(count) if o != m]
            crossed.append(prelu(norm(x + sum(others) / len(others))))
        return crossed


def with_features(
    params: Mapping, item_features: Mapping[str, np.ndarray], user_interests: Mapping[str, np.ndarray]
) -> dict:
    """Parameters whose feature tables start from the data.

    Args:
      params: parameters of REARM.
      item_features: modality -> float32 (num_items, width), the raw features.
      user_interests: modality -> float32 (num_users, width), the mean features of each user's train items.

    Raises:
      ValueError: a table's shape differs from its parameter's.
    """
    tables = {f"item_{name}_table": table for name, table in item_features.items()}
    tables |= {f"user_{name}_table": table for name, table in user_interests.items()}
    for name, table in tables.items():
        if table.shape != params[name].shape:
            raise ValueError(f"{name}: the data has shape {table.shape}, the parameter {params[name].shape}")
    return {**params, **{name: jnp.asarray(table, jnp.float32) for name, table in tables.items()}}
