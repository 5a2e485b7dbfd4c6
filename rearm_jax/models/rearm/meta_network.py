"""The meta-network: distils what the modalities share into a transformation of each node's ID embedding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rearm_jax.losses import normalize_rows
from rearm_jax.parallel.rows import Nodes
from rearm_jax.recommender.layers import torch_linear


class TransformationMLP(nn.Module):
    """Linear d -> d r, PReLU, Linear d r -> d r, L2 normalise: one row of a transformation for each node.

    Call with float (n, d); returns float32 (n, d r).
    """

    rank: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[1] * self.rank
        x = torch_linear(width, self.dtype, "pre", fan_in=x.shape[1])(x)
        x = nn.PReLU(negative_slope_init=0.25, name="prelu")(x)
        return normalize_rows(torch_linear(width, self.dtype, "out", fan_in=width)(x).astype(jnp.float32))


class MetaNetwork(nn.Module):
    """Modal-shared features of nodes (REARM, "modal-shared meta-network"; step 5 of the forward pass).

    Call with the nodes' modal features float (n, M d), their propagated ID embeddings float (n, d), and the nodes as
    they are reached. Returns float32 (b, d), a row for each wanted node. Only the mean of the transformations needs
    every node; each node's own, softmax and products are computed for those that are wanted.
    """

    rank: int
    train_projection: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, modal: jax.Array, embeddings: jax.Array, nodes: Nodes) -> jax.Array:
        d = embeddings.shape[1]
        knowledge = torch_linear(d, jnp.float32, "projection", fan_in=modal.shape[1])(modal)
        if not self.train_projection:
            knowledge = jax.lax.stop_gradient(knowledge)

        mlps = [TransformationMLP(self.rank, self.dtype, name=name) for name in ("mlp_1", "mlp_2")]
        wanted = [mlp(nodes.take(knowledge)) for mlp in mlps]
        unbound = TransformationMLP(self.rank, self.dtype, parent=None)

        def both(x: jax.Array) -> jax.Array:
            return jnp.concatenate([jnp.asarray(unbound.apply(mlp.variables, x)) for mlp in mlps], axis=1)

        means = jnp.split(nodes.rows.mean(both, knowledge), 2)
        shapes = (d, self.rank), (self.rank, d)
        first, second = (
            nn.softmax((rows + mean).reshape(-1, *shape), axis=1)
            for rows, mean, shape in zip(wanted, means, shapes, strict=True)
        )
        hidden = jnp.einsum("nd,ndr->nr", nodes.take(embeddings), first)
        return jnp.einsum("nr,nrd->nd", hidden, second)
