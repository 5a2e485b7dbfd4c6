"""LightGCN (He et al., SIGIR 2020): ID embeddings and the user-item graph alone. The yardstick."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rearm_jax.graphs.build import Graphs
from rearm_jax.graphs.row_adjacency import propagate
from rearm_jax.models.representations import WHOLE, Representations, WholeTable, take_rows


class LightGCN(nn.Module):
    """Mean over layers 0..num_layers of the propagated ID embeddings."""

    num_users: int
    num_items: int
    embedding_dim: int
    num_layers: int

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
        """See `REARM`. `train` changes nothing: the model has no dropout."""
        init = nn.initializers.normal(0.1)
        num_users = user_rows.num_held(self.num_users)
        user_ids = self.param("user_id_table", init, (num_users, self.embedding_dim))
        item_ids = self.param("item_id_table", init, (item_rows.num_held(self.num_items), self.embedding_dim))
        ids = jnp.concatenate([user_ids, item_ids])
        mean = sum(propagate(graphs.user_item, ids, self.num_layers), start=ids) / (self.num_layers + 1)
        return Representations(
            users=take_rows(mean[:num_users], user_rows, users),
            items=take_rows(mean[num_users:], item_rows, items),
            modal_users=(),
            modal_items=(),
            user_ids=user_ids,
            item_ids=item_ids,
        )
