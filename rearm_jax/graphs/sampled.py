"""The user-item graph with some of its edges, drawn on the device."""

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from rearm_jax.graphs.adjacency import Adjacency

_EPSILON = 1e-7  # added to every degree, as in graphs.relations


def sample_edges(graph: Adjacency, by_item: jax.Array, num_users: int, num_kept: int, key: jax.Array) -> Adjacency:
    """Keeps some edges of the user-item graph, drawn without replacement, and normalises by the degrees that are left.

    The first edge is drawn with probability proportional to its value in `graph`, 1 / sqrt(d_u d_i), the next one
    likewise among the others, and so on (FREEDOM, Zhou & Shen, MM 2023, "degree-sensitive edge pruning"). That is what
    the largest values of log(1 / sqrt(d_u d_i)) + Gumbel noise are (Vieira, 2014; Kool et al., ICML 2019).

    Args:
      graph: of `user_item_adjacency`, users first.
      by_item: int32 (num_edges,), the edges in the order of (item, user); they are numbered in that of (user, item).
      num_users: static.
      num_kept: static, 1 to the number of edges.
      key: random key.

    Returns:
      An Adjacency of the same nodes with 2 num_kept entries, sorted by row and column, symmetric.
    """
    num_nodes, num_edges = graph.matrix.shape[0], graph.matrix.nse // 2
    # The rows of the users hold each edge once.
    weights, edges = graph.matrix.data[:num_edges], graph.matrix.indices[:num_edges]
    chosen = largest(jnp.log(weights) + jax.random.gumbel(key, (num_edges,)), num_kept)
    upper = edges[jnp.nonzero(chosen, size=num_kept)[0]]
    lower = edges[by_item[jnp.nonzero(chosen[by_item], size=num_kept)[0]]][:, ::-1]

    indices = jnp.concatenate([upper, lower])
    counts = jnp.zeros(num_nodes, jnp.int32).at[indices[:, 0]].add(1)
    scale = 1 / jnp.sqrt(counts.astype(jnp.float32) + _EPSILON)
    data = scale[indices[:, 0]] * scale[indices[:, 1]]
    matrix = BCOO((data, indices), shape=graph.matrix.shape, indices_sorted=True, unique_indices=True)
    indptr = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts)])
    return Adjacency(matrix, indptr, None, None, True, graph.nodes)


def largest(values: jax.Array, count: int) -> jax.Array:
    """Where the largest of some values lie, without sorting them.

    Args:
      values: float32 (n,), no NaN.
      count: static, 1 to n.

    Returns:
      bool (n,), true at `count` places; of equal values the first ones.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    ordered = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # as the floats are ordered

    def with_bit(number: jax.Array, least: jax.Array) -> jax.Array:
        larger = least + (jnp.int32(1) << (30 - number))
        return jnp.where(jnp.sum(ordered >= larger) >= count, larger, least)

    # The largest number that `count` of the values reach, from its sign to its last bit.
    sign = jnp.where(jnp.sum(ordered >= 0) >= count, 0, jnp.int32(-(2**31)))
    least = jax.lax.fori_loop(0, 31, with_bit, sign)
    above, equal = ordered > least, ordered == least
    return above | (equal & (jnp.cumsum(equal) <= count - jnp.sum(above)))
