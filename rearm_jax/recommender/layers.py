"""Dense layers as PyTorch's, which the published models are made of."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rearm_jax.parallel.rows import Nodes

# As PyTorch's xavier_normal_; Flax's own xavier_normal cuts the tails off at two standard deviations.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
xavier_uniform = nn.initializers.xavier_uniform()


def id_init(scale: float, published: Callable) -> Callable:
    """The initialiser of ID embeddings: normal with standard deviation `scale`, or if that is 0 the published one."""
    return nn.initializers.normal(scale) if scale else published


def torch_linear(
    features: int,
    dtype: DTypeLike,
    name: str,
    kernel_init: Callable | None = None,
    fan_in: int = 0,
    use_bias: bool = True,
) -> nn.Dense:
    """A Dense layer initialised as PyTorch's Linear: weight and bias uniform in +-1/sqrt(fan_in).

    Args:
      features: output width.
      dtype: of the product; parameters are float32 and so is the sum inside it.
      name: of the layer.
      kernel_init: replaces the weight's initialiser.
      fan_in: input width, for the uniform initialiser.
      use_bias: whether there is a bias.
    """
    bound = fan_in**-0.5

    def uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel_init = kernel_init or uniform
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        name=name,
        kernel_init=kernel_init,
        bias_init=uniform,
        dot_general=_dense_product,
    )


def drop_rows(key: jax.Array, nodes: Nodes, rows: jax.Array, rate: jax.Array | float) -> jax.Array:
    """Inverted dropout (Srivastava et al., JMLR 2014) of some rows of a table, as if the whole table were dropped out.

    What is dropped of a row follows from the key and the row's number alone: a row that is there twice is dropped
    alike, whatever device has it.

    Args:
      key: random key.
      nodes: whose rows they are.
      rows: float (b, c), the wanted ones, or all that this device holds.
      rate: share that is dropped; 1 drops all.
    """
    if isinstance(rate, (int, float)) and rate in (0, 1):
        return jnp.zeros_like(rows) if rate else rows
    ids = nodes.rows.first_row + jnp.arange(len(rows)) if nodes.wanted is None else nodes.wanted
    keep = jax.vmap(lambda row: jax.random.bernoulli(jax.random.fold_in(key, row), 1 - rate, rows.shape[1:]))(ids)
    # A rate just below 1 is 1 in float32: nothing is kept, and the gradient of what is not must be finite.
    return jnp.where(keep, rows / jnp.maximum(1 - rate, 2.0**-24), 0)


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
    return g @ kernel.T, jax.lax.platform_dependent(x, g, cpu=_turned_product, default=lambda x, g: x.T @ g)


def _turned_product(x: jax.Array, g: jax.Array) -> jax.Array:
    """x.T @ g, which with the long side of the result last is three times as fast on a CPU; the barrier keeps the
    compiler from turning it round again."""
    return jax.lax.optimization_barrier(g.T @ x).T


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)
