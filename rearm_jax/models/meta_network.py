"""The meta-network: distils what the modalities share into a transformation of each node's ID embedding."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rearm_jax.losses import normalize_rows
from rearm_jax.models.representations import WHOLE, WholeTable, take_rows


def torch_linear(
    features: int, dtype: DTypeLike, name: str, kernel_init: Callable | None = None, fan_in: int = 0
) -> nn.Dense:
    """A Dense layer initialised as PyTorch's Linear: weight and bias uniform in +-1/sqrt(fan_in).

    Args:
      features: output width.
      dtype: of the product; parameters are float32 and so is the sum inside it.
      name: of the layer.
      kernel_init: replaces the weight's initialiser.
      fan_in: input width, for the bias.
    """
    bound = fan_in**-0.5

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel_init = kernel_init or uniform
    return nn.Dense(
        features, dtype=dtype, name=name, kernel_init=kernel_init, bias_init=uniform, dot_general=_dense_product
    )


def _dense_product(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any) -> jax.Array:
    """The product of a Dense layer; `dimension_numbers` and `precision` are those that it always passes."""
    return _product(x, kernel)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _product_backward(residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    if x.shape[1] < g.shape[1]:
        return g @ kernel.T, x.T @ g
    # With the long side of the kernel's gradient last, its product is three times as fast on a CPU; the barrier keeps
    # the compiler from turning it round again.
    return g @ kernel.T, jax.lax.optimization_barrier(g.T @ x).T


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)


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

    Call with the nodes' modal features float (n, M d), their propagated ID embeddings float (n, d), `rows`, int (b,)
    or None: the nodes whose shared features are wanted, and how the rows of the nodes are reached. Returns float32
    (b, d), or (n, d) without rows. Only the mean of the transformations needs every node; each node's own, softmax and
    products are computed for the rows.
    """

    rank: int
    train_projection: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, modal: jax.Array, embeddings: jax.Array, rows: jax.Array | None, place: WholeTable = WHOLE
    ) -> jax.Array:
        d = embeddings.shape[1]
        knowledge = torch_linear(d, jnp.float32, "projection", fan_in=modal.shape[1])(modal)
        if not self.train_projection:
            knowledge = jax.lax.stop_gradient(knowledge)

        def transformation(name: str, shape: tuple[int, int]) -> jax.Array:
            mlp = TransformationMLP(self.rank, self.dtype, name=name)
            wanted = mlp(take_rows(knowledge, place, rows))
            unbound = TransformationMLP(self.rank, self.dtype, parent=None)
            mean = place.mean(lambda x: jnp.asarray(unbound.apply(mlp.variables, x)), knowledge)
            return nn.softmax((wanted + mean).reshape(-1, *shape), axis=1)

        first = transformation("mlp_1", (d, self.rank))
        second = transformation("mlp_2", (self.rank, d))
        hidden = jnp.einsum("nd,ndr->nr", take_rows(embeddings, place, rows), first)
        return jnp.einsum("nr,nrd->nd", hidden, second)
