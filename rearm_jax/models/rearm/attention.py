"""Scalar attention: the feature coordinates are the sequence, and each token is one number.

PyTorch's MultiheadAttention with embed_dim 1 on a (d, n, 1) input: for every node, d query, key and value scalars,
scores q_i k_j, softmax over j. The (n, d, d) weights are never kept: blocks of nodes are computed in turn, and the
backward pass recomputes them from the log-sum-exp of each row, as in FlashAttention (Dao et al., NeurIPS 2022).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rearm_jax.parallel.blocks import BlockRows, in_blocks

_Arrays = tuple[jax.Array, ...]

_BLOCK_NODES = BlockRows(128, elsewhere=8192)  # 128 x 64 x 64 floats are 2 MB: a block lives in the cache


class DropRate(NamedTuple):
    """A share of the weights to drop, as a program takes it: as an argument, or as constants."""

    threshold: jax.Array | np.uint32  # uint32 (): a weight whose random bits are below is dropped
    kept: jax.Array | np.float32  # float32 (): 1 - share

    @classmethod
    def of(cls, share: float) -> Self:
        """That of a share in [0, 1), to a resolution of 2^-32."""
        return cls(np.uint32(min(round(share * 2**32), 2**32 - 1)), np.float32(1 - share))


class ScalarAttention(nn.Module):
    """Attention of width 1 and one head: its input and output projections, all scalars; `attend` calls it."""

    def setup(self) -> None:
        # Xavier-uniform over the stacked (3, 1) matrix, as MultiheadAttention initialises it.
        self.in_weight = self.param("in_weight", _symmetric_uniform(1.5**0.5), (3,))
        self.in_bias = self.param("in_bias", nn.initializers.zeros, (3,))
        self.out_weight = self.param("out_weight", _symmetric_uniform(1.0), ())
        self.out_bias = self.param("out_bias", nn.initializers.zeros, ())

    def project_in(self, query: jax.Array, context: jax.Array) -> _Arrays:
        """Queries, keys and values of query and context float (n, d), each float (n, d)."""
        weight, bias = self.in_weight, self.in_bias
        return query * weight[0] + bias[0], context * weight[1] + bias[1], context * weight[2] + bias[2]

    def project_out(self, x: jax.Array) -> jax.Array:
        """The output for what the attention made of them, float (n, d)."""
        return self.out_weight * x + self.out_bias


def attend(
    calls: Sequence[tuple[ScalarAttention, jax.Array, jax.Array]],
    seeds: jax.Array | None,
    dropout: float | DropRate,
    first_node: jax.Array | int = 0,
) -> list[jax.Array]:
    """Several attentions over the same nodes at once: one loop for all of them is compiled sooner than one for each.

    Args:
      calls: (attention, query, context), each of the two float (n, d).
      seeds: in training uint32 (calls,), else None: nothing is dropped.
      dropout: rate of all calls.
      first_node: number of the first row in the whole table.

    Returns:
      A float (n, d) for each call.
    """
    projected = [attention.project_in(query, context) for attention, query, context in calls]
    q, k, v = map(jnp.stack, zip(*projected, strict=True))
    rate = 0.0 if seeds is None else dropout
    seeds = jnp.zeros(len(calls), jnp.uint32) if seeds is None else seeds
    outputs = scalar_attention(q, k, v, seeds, rate, first_node)
    return [attention.project_out(x) for (attention, *_), x in zip(calls, outputs, strict=True)]


def scalar_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, seed: jax.Array, rate: float | DropRate, first_node: jax.Array | int = 0
) -> jax.Array:
    """o_i = sum_j M_ij softmax_j(q_i k_j) v_j for each node, with dropout mask M on the attention weights.

    Args:
      q, k, v: float32 (..., n, d), scalars of each node.
      seed: uint32 (...), chooses the dropout mask (see `dropout_mask`).
      rate: share of the weights that is dropped, in [0, 1], or a DropRate; the kept ones are divided by 1 - rate. At 1
        the result and all gradients are 0, as PyTorch's dropout has it.
      first_node: int (), number of the first row in the whole table, so that shards of it do not change the mask.

    Returns:
      float32 (..., n, d).

    Raises:
      ValueError: shapes differ, or rate is outside [0, 1].
    """
    if not q.shape == k.shape == v.shape or q.shape[:-2] != seed.shape or q.ndim < 2:
        raise ValueError(f"q {q.shape}, k {k.shape}, v {v.shape} must be equal (..., n, d), seed {seed.shape} (...)")
    drop: DropRate | None
    if isinstance(rate, DropRate):
        drop = rate
    elif not 0 <= rate <= 1:
        raise ValueError(f"dropout rate {rate} is outside [0, 1]")
    elif rate == 1:
        return jnp.zeros_like(q)
    else:
        drop = DropRate.of(rate) if rate else None
    return _attention(q, k, v, seed, jnp.asarray(first_node, jnp.uint32), drop)


def dropout_mask(seed: jax.Array, nodes: jax.Array, d: int, drop: DropRate) -> jax.Array:
    """Which attention weights stay: bool (n, keys, queries), True with probability 1 - rate (to a resolution of 2^-32).

    An integer hash of (seed, node, i, j), cheap enough to be computed again in the backward pass and fused into the
    softmax. Node and position are mixed well each on its own, combined, and mixed again; the multipliers are those of
    Wellons' lowbias32. Not cryptographic.

    Args:
      seed: uint32 ().
      nodes: uint32 (n,), index of each node in the whole table, so that blocks do not change the mask.
      d: tokens.
      drop: the rate.
    """
    position = _mix(jnp.arange(d * d, dtype=jnp.uint32) ^ _mix(seed + jnp.uint32(0x9E3779B9))).reshape(d, d).T
    node = _mix(nodes ^ _mix(seed))
    bits = (position ^ node[:, None, None]) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits >= drop.threshold


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


@jax.custom_vjp
def _attention(
    q: jax.Array, k: jax.Array, v: jax.Array, seed: jax.Array, first_node: jax.Array, drop: DropRate | None
) -> jax.Array:
    return _attention_forward(q, k, v, seed, first_node, drop)[0]


def _attention_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, seed: jax.Array, first_node: jax.Array, drop: DropRate | None
) -> tuple[jax.Array, tuple[Any, ...]]:
    d = q.shape[-1]

    def block(inputs: _Arrays) -> _Arrays:
        q, k, v, seed, nodes = inputs
        # The row maximum of q_i k_j is q_i times the largest or the smallest k.
        highest = jnp.where(q >= 0, q * k.max(axis=1, keepdims=True), q * k.min(axis=1, keepdims=True))
        weights = jnp.exp(k[:, :, None] * q[:, None, :] - highest[:, None, :])
        total = _sum_over_keys(weights, jnp.ones_like(k))
        kept_total = total
        if drop is not None:
            weights = jnp.where(dropout_mask(seed, nodes, d, drop), weights, 0.0)
            kept_total = drop.kept * total
        return _sum_over_keys(weights, v) / kept_total, highest + jnp.log(total)

    out, log_total = _map_blocks(block, seed, first_node, q, k, v)
    return out, (q, k, v, seed, first_node, drop, out, log_total)


def _attention_backward(residuals: tuple[Any, ...], g: jax.Array) -> tuple[Any, ...]:
    q, k, v, seed, first_node, drop, out, log_total = residuals
    d = q.shape[-1]

    def block(inputs: _Arrays) -> _Arrays:
        q, k, v, out, log_total, g, seed, nodes = inputs
        weights = jnp.exp(k[:, :, None] * q[:, None, :] - log_total[:, None, :])
        if drop is None:
            kept = weights * g[:, None, :]
        else:
            kept = weights * (g * (1 / drop.kept))[:, None, :]
            kept = jnp.where(dropout_mask(seed, nodes, d, drop), kept, 0.0)
        d_scores = kept * v[:, :, None] - weights * (g * out)[:, None, :]
        ones = jnp.ones_like(q)
        return _sum_over_keys(d_scores, k), _sum_over_queries(d_scores, q), _sum_over_queries(kept, ones)

    d_q, d_k, d_v = _map_blocks(block, seed, first_node, q, k, v, out, log_total, g)
    return d_q, d_k, d_v, None, None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _sum_over_keys(weights: jax.Array, x: jax.Array) -> jax.Array:
    """sum_j weights_nji x_nj, float (n, i)."""
    return _product(weights, x[:, :, None], "nji,njx->ni", 1)


def _sum_over_queries(weights: jax.Array, x: jax.Array) -> jax.Array:
    """sum_i weights_nji x_ni, float (n, j)."""
    return _product(weights, x[:, None, :], "nji,nxi->nj", 2)


def _product(weights: jax.Array, x: jax.Array, equation: str, axis: int) -> jax.Array:
    # A CPU's matrix product adds in many lanes, where a sum adds one number after the other; elsewhere a sum is fused
    # with the weights, which then never lie in memory.
    return jax.lax.platform_dependent(
        weights,
        x,
        cpu=lambda weights, x: jnp.einsum(equation, weights, x),
        default=lambda weights, x: jnp.sum(weights * x, axis=axis),
    )


def _map_blocks(
    block: Callable[[_Arrays], _Arrays], seed: jax.Array, first_node: jax.Array, *arrays: jax.Array
) -> _Arrays:
    """Maps `block` over blocks of rows of the (..., n, d) arrays, with the seed (...) and the nodes' indices of each.

    Returns:
      (..., n, d) arrays.
    """
    *_, n, d = shape = arrays[0].shape

    def map_blocks(size: int, seed: jax.Array, first_node: jax.Array, *arrays: jax.Array) -> _Arrays:
        padding = -n % size

        def split(x: jax.Array) -> jax.Array:
            return jnp.pad(x.reshape(-1, n, d), ((0, 0), (0, padding), (0, 0))).reshape(-1, size, d)

        nodes = (first_node + jnp.arange(n + padding, dtype=jnp.uint32)).reshape(-1, size)
        seeds = jnp.repeat(seed.reshape(-1), len(nodes))
        run = jax.vmap(block) if size == n > _BLOCK_NODES.cpu else functools.partial(jax.lax.map, block)
        outputs = run((*map(split, arrays), seeds, jnp.tile(nodes, (seed.size, 1))))
        return jax.tree.map(lambda x: x.reshape(-1, n + padding, d)[:, :n].reshape(shape), outputs)

    return in_blocks(map_blocks, _BLOCK_NODES, n, seed, first_node, *arrays)


def _symmetric_uniform(bound: float) -> Callable:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
