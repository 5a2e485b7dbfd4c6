"""The user-item graph with some of its edges, drawn on the device."""

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO

from rearm_jax.graphs.adjacency import Adjacency

_EPSILON = 1e-7  # added to every degree, as in graphs.relations


def sample_edges(graph: Adjacency, num_users: int, num_kept: int, key: jax.Array) -> Adjacency:
    """Keeps some edges of the user-item graph, drawn without replacement, and normalises by the degrees that are left.

    The first edge is drawn with probability proportional to its value in `graph`, 1 / sqrt(d_u d_i), the next one
    likewise among the others, and so on (FREEDOM, Zhou & Shen, MM 2023, "degree-sensitive edge pruning"). That is what
    the largest values of log(1 / sqrt(d_u d_i)) + Gumbel noise are (Vieira, 2014; Kool et al., ICML 2019).

    Args:
      graph: of `user_item_adjacency`, users first.
      num_users: static.
      num_kept: static, 1 to the number of edges.
      key: random key.

    Returns:
      An Adjacency of the same nodes with 2 num_kept entries, sorted by row and column, symmetric.
    """
    num_nodes, num_edges = graph.matrix.shape[0], graph.matrix.nse // 2
    # The rows of the users hold each edge once.
    weights, edges = graph.matrix.data[:num_edges], graph.matrix.indices[:num_edges]
    _, kept = jax.lax.top_k(jnp.log(weights) + jax.random.gumbel(key, (num_edges,)), num_kept)
    users, items = edges[jnp.sort(kept)].T
    counts = jnp.zeros(num_nodes, jnp.int32).at[users].add(1).at[items].add(1)
    scale = 1 / jnp.sqrt(counts.astype(jnp.float32) + _EPSILON)
    values = scale[users] * scale[items]

    by_item = jnp.argsort(items, stable=True)  # and by user among those of an item, as they come sorted by user
    rows = jnp.concatenate([users, items[by_item]])
    columns = jnp.concatenate([items, users[by_item]])
    data = jnp.concatenate([values, values[by_item]])
    matrix = BCOO(
        (data, jnp.stack([rows, columns], axis=1)), shape=graph.matrix.shape, indices_sorted=True, unique_indices=True
    )
    indptr = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts)])
    return Adjacency(matrix, indptr, None, None, True, graph.nodes)
