"""A graph on the device, and propagation along it: the one place that chooses how a sparse product is computed."""

import functools
import os
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.experimental.sparse import BCOO, BCSR

from rearm_jax.errors import ConfigError
from rearm_jax.graphs.cache import timed_graph
from rearm_jax.graphs.relations import user_item_graph


@flax.struct.dataclass
class Adjacency:
    """A weighted graph of n nodes as a pytree: pass it to jitted functions as an argument, never close over it.

    Attributes:
      matrix: BCOO (n, n), float32 data (nnz,), int32 indices (nnz, 2), sorted by row and column, unique.
      indptr: int32 (n + 1,), the row pointers of `matrix` (for the CSR kernel of the CPU).
      transposed: BCOO (n, n), the transpose of `matrix`, sorted and unique as well; None if `symmetric`.
      transposed_indptr: int32 (n + 1,), its row pointers; None if `symmetric`.
      symmetric: static; the backward pass multiplies by `matrix` itself.
      nodes: static; the kinds of its nodes, one after the other: "user", "item".
    """

    matrix: BCOO
    indptr: jax.Array
    transposed: BCOO | None
    transposed_indptr: jax.Array | None
    symmetric: bool = flax.struct.field(pytree_node=False)
    nodes: tuple[str, ...] = flax.struct.field(pytree_node=False)


def user_item_adjacency(train: np.ndarray, num_users: int, num_items: int) -> Adjacency:
    """The user-item graph on the device; see `relations.user_item_graph`."""
    graph = timed_graph("user-item", lambda: user_item_graph(train, num_users, num_items))
    return make_adjacency(graph, ("user", "item"), symmetric=True)


def make_adjacency(csr: scipy.sparse.csr_array, nodes: tuple[str, ...], symmetric: bool = False) -> Adjacency:
    """Puts a square scipy matrix on the device, with its transpose unless it is symmetric.

    Args:
      csr: (n, n); cast to float32.
      nodes: kinds of its nodes, one after the other.
      symmetric: whether it equals its transpose exactly.

    Raises:
      ValueError: `csr` is not square, has unsorted or repeated indices, or is not symmetric although declared so.
      ConfigError: JAX_ENABLE_X64 is set, under which neither graphs nor models work.
    """
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ConfigError(
            "JAX_ENABLE_X64 is set, and everything here is float32: unset it, or work in `with jax.enable_x64(False):`"
        )
    if csr.ndim != 2 or csr.shape[0] != csr.shape[1]:
        raise ValueError(f"an adjacency is square, got shape {csr.shape}")
    if not csr.has_canonical_format:
        raise ValueError("an adjacency has sorted, unique column indices in every row: call sum_duplicates() first")
    transposed = csr.T.tocsr()
    if symmetric:
        differing = (csr != transposed).nnz
        if differing:
            raise ValueError(f"declared symmetric, but {differing} entries differ from the transpose")
        return Adjacency(*_to_device(csr), None, None, True, nodes)
    return Adjacency(*_to_device(csr), *_to_device(transposed), False, nodes)


def propagate(adjacency: Adjacency, x: jax.Array, num_layers: int) -> tuple[jax.Array, ...]:
    """Multiplies by the adjacency `num_layers` times: x_l = A x_{l-1}.

    Differentiable in x (reverse mode only); the entries of A are data and get no gradient.

    On the CPU a product runs in the CSR kernel (multi-threaded; 10 to 25 times as fast as gather and scatter-add);
    elsewhere it is a gather and a sum over the sorted rows, or on an NVIDIA GPU, where XLA_FLAGS asks for deterministic
    operations, a kernel of its own. The product of BCOO itself would forget that the rows are sorted, and sort them
    again for every product.

    Args:
      adjacency: n nodes.
      x: float32 (n, c), the node features (layer 0).
      num_layers: number of products, from 0 up.

    Returns:
      The outputs of layers 1 to num_layers, each float32 (n, c).

    Raises:
      ValueError: x is not float32 (n, c).
    """
    return repeat(lambda x: _matmul(adjacency, x), x, adjacency.matrix.shape[0], num_layers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def items_to_users(user_item: Adjacency, num_users: int, x: jax.Array) -> jax.Array:
    """What the users' rows of the user-item graph make of the items alone, at half the cost of `propagate`.

    Differentiable in x (reverse mode only).

    Args:
      user_item: of `user_item_adjacency`, users first.
      num_users: static.
      x: float32 (num_items, c).

    Returns:
      float32 (num_users, c), the sum over the user's items of x_i / sqrt(d_u d_i).
    """
    matrix, num_edges = user_item.matrix, user_item.matrix.nse // 2  # the users' rows hold each edge once
    indices = matrix.indices[:num_edges] - jnp.array([0, num_users], jnp.int32)
    upper = BCOO((matrix.data[:num_edges], indices), shape=(num_users, len(x)))
    return sparse_product(upper, user_item.indptr[: num_users + 1], x)


def _items_to_users_forward(user_item: Adjacency, num_users: int, x: jax.Array) -> tuple[jax.Array, Adjacency]:
    return items_to_users(user_item, num_users, x), user_item


def _items_to_users_backward(num_users: int, user_item: Adjacency, g: jax.Array) -> tuple[None, jax.Array]:
    matrix, num_edges = user_item.matrix, user_item.matrix.nse // 2
    indices = matrix.indices[num_edges:] - jnp.array([num_users, 0], jnp.int32)
    lower = BCOO((matrix.data[num_edges:], indices), shape=(matrix.shape[0] - num_users, num_users))
    return None, sparse_product(lower, user_item.indptr[num_users:] - num_edges, g)


items_to_users.defvjp(_items_to_users_forward, _items_to_users_backward)


def repeat(
    multiply: Callable[[jax.Array], jax.Array], x: jax.Array, num_nodes: int, num_layers: int
) -> tuple[jax.Array, ...]:
    """x_l = multiply(x_{l-1}) for l from 1 to num_layers, x_0 = x; raises ValueError unless float32 (num_nodes, c)."""
    if x.ndim != 2 or x.shape[0] != num_nodes or x.dtype != jnp.float32:
        raise ValueError(f"node features must be float32 ({num_nodes}, c), got {x.dtype} {x.shape}")
    layers = []
    for _ in range(num_layers):
        x = multiply(x)
        layers.append(x)
    return tuple(layers)


def sparse_product(matrix: BCOO, indptr: jax.Array, x: jax.Array) -> jax.Array:
    """matrix (n, m) times x (m, c), by the fastest means of the platform; its own derivative would be slow.

    Args:
      matrix: float32, sorted by row and column, unique.
      indptr: int32 (n + 1,), its row pointers.
      x: float32 or bfloat16 (m, c); the sums are float32.
    """
    flags: dict[str, Any] = {"shape": matrix.shape, "indices_sorted": True, "unique_indices": True}

    def by_rows(data: jax.Array, indices: jax.Array, indptr: jax.Array, x: jax.Array) -> jax.Array:
        return BCSR((data, indices[:, 1], indptr), **flags) @ x.astype(jnp.float32)

    def by_entries(data: jax.Array, indices: jax.Array, indptr: jax.Array, x: jax.Array) -> jax.Array:
        return sum_of_entries(data, indices, x, matrix.shape[0])

    def behind_a_barrier(data: jax.Array, indices: jax.Array, indptr: jax.Array, x: jax.Array) -> jax.Array:
        # A GPU's compiler may fuse the look-up with what x is made of, and keep an array of (nnz, c) for the sum.
        return by_entries(data, indices, indptr, jax.lax.optimization_barrier(x))

    def in_order(data: jax.Array, indices: jax.Array, indptr: jax.Array, x: jax.Array) -> jax.Array:
        from rearm_jax.graphs.rows_in_order import product_in_order  # Pallas takes half a second to import

        return product_in_order(data, indices[:, 1], indptr, x)

    # Decided when the program is lowered for its platform, so that the default backend does not matter.
    on_gpu = in_order if _must_be_deterministic() else behind_a_barrier
    ways = {"cpu": by_rows, "cuda": on_gpu, "default": by_entries}
    return jax.lax.platform_dependent(matrix.data, matrix.indices, indptr, x, **ways)


def _must_be_deterministic() -> bool:
    """Whether XLA_FLAGS forbids operations of a GPU whose result depends on the order of its threads."""
    flags = [flag.partition("=") for flag in os.environ.get("XLA_FLAGS", "").split()]
    values = [value for name, _, value in flags if name.removeprefix("--") == "xla_gpu_deterministic_ops"]
    return bool(values) and values[-1].lower() in ("", "true", "1")


def sum_of_entries(data: jax.Array, indices: jax.Array, x: jax.Array, num_rows: int) -> jax.Array:
    """The product by a gather and a sum over the sorted rows; one fused kernel on a TPU.

    Args:
      data: float32 (nnz,).
      indices: int32 (nnz, 2), sorted by row; rows beyond the last are dropped.
      x: float32 or bfloat16 (m, c); the sums are float32.
      num_rows: n.

    Returns:
      float32 (n, c).
    """
    entries = data[:, None] * x[indices[:, 1]]
    return jax.ops.segment_sum(entries, indices[:, 0], num_rows, indices_are_sorted=True)


@jax.custom_vjp
def _matmul(adjacency: Adjacency, x: jax.Array) -> jax.Array:
    return sparse_product(adjacency.matrix, adjacency.indptr, x)


def _matmul_forward(adjacency: Adjacency, x: jax.Array) -> tuple[jax.Array, Adjacency]:
    return _matmul(adjacency, x), adjacency


def _matmul_backward(adjacency: Adjacency, g: jax.Array) -> tuple[None, jax.Array]:
    # A^T g by rows of a stored transpose: differentiating the product itself would scatter.
    if adjacency.transposed is None or adjacency.transposed_indptr is None:  # symmetric
        return None, sparse_product(adjacency.matrix, adjacency.indptr, g)
    return None, sparse_product(adjacency.transposed, adjacency.transposed_indptr, g)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _to_device(csr: scipy.sparse.csr_array) -> tuple[BCOO, jax.Array]:
    rows = np.repeat(np.arange(csr.shape[0], dtype=np.int32), np.diff(csr.indptr))
    indices = np.stack([rows, csr.indices.astype(np.int32)], axis=1)
    data = jnp.asarray(csr.data.astype(np.float32))
    matrix = BCOO((data, jnp.asarray(indices)), shape=csr.shape, indices_sorted=True, unique_indices=True)
    return matrix, jnp.asarray(csr.indptr.astype(np.int32))
