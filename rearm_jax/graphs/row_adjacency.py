"""A graph whose nodes are sharded by row over the devices, and propagation along it as a ring.

Every device holds n / D of the nodes and its rows of the adjacency, cut into D blocks by the device of their columns.
A product takes D steps: the rows of x that are visiting meet their block and move on to the next device. They do so
in parts of some columns, of which a device never holds more than two shards; it receives (D - 1) / D of x.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from jax.typing import DTypeLike

from rearm_jax.graphs import adjacency as whole
from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.parallel.rows import pass_on

_PART_COLUMNS = 64  # that go round the ring together on a CPU, at most
_TILE_COLUMNS = (
    128  # elsewhere: a TPU keeps arrays in tiles of so many columns, and turns narrower ones round on the way
)


@flax.struct.dataclass
class Blocks:
    """The blocks of D devices: row `device * D + step` of each array is the block that a device meets at a step.

    At step s, device i meets A[nodes of i, nodes of (i + s) mod D]. On a device, the arrays are its D rows of these.

    Attributes (numpy arrays on the host):
      data: float32 (D * D, e), the entries, sorted by row and column; 0 pads blocks with fewer than e.
      rows: int32 (D * D, e), row in the block, 0..m-1; m where it is padding.
      columns: int32 (D * D, e), likewise.
    """

    data: jax.Array | Any
    rows: jax.Array | Any
    columns: jax.Array | Any


@flax.struct.dataclass
class RowAdjacency:
    """The counterpart of `Adjacency`, for use inside a function that is mapped over the devices.

    A device's m nodes are its rows of each kind of node, one kind after the other.

    Attributes:
      blocks: of the matrix.
      transposed: of its transpose, for the backward pass; None if the matrix is symmetric.
      num_held: static, m.
      axis: static, name of the mapped axis.
      ring_dtype: static, "float32" or "bfloat16": of the features of other devices' nodes; sums are float32.
    """

    blocks: Blocks
    transposed: Blocks | None
    num_held: int = flax.struct.field(pytree_node=False)
    axis: str = flax.struct.field(pytree_node=False)
    ring_dtype: str = flax.struct.field(pytree_node=False, default="float32")


def shard_adjacency(
    adjacency: Adjacency, kinds: tuple[int, ...], num_devices: int, axis: str, ring_dtype: str = "float32"
) -> RowAdjacency:
    """Cuts a graph into blocks, on the host.

    Args:
      adjacency: n nodes.
      kinds: numbers of nodes of each kind (users, items), adding up to n. Each kind is cut into equal runs of rows, one
        for each device, the last ones short or empty.
      num_devices: D.
      axis: name of the mapped axis.
      ring_dtype: see `RowAdjacency`.

    Returns:
      A RowAdjacency of numpy arrays, to be placed by row.

    Raises:
      ValueError: the kinds do not add up to n.
    """
    n = adjacency.matrix.shape[0]
    if sum(kinds) != n:
        raise ValueError(f"kinds {kinds} must add up to the {n} nodes of the adjacency")
    owners, places, num_held = [], [], 0
    for num_nodes in kinds:
        held = -(-num_nodes // num_devices)
        nodes = np.arange(num_nodes)
        owners.append(nodes // held)
        places.append(nodes % held + num_held)
        num_held += held
    owner, place = np.concatenate(owners), np.concatenate(places)
    blocks = _cut(adjacency.matrix, owner, place, num_devices, num_held)
    transposed = None  # symmetric
    if adjacency.transposed is not None:
        transposed = _cut(adjacency.transposed, owner, place, num_devices, num_held)
    return RowAdjacency(blocks, transposed, num_held, axis, ring_dtype)


def propagate(adjacency: Adjacency | RowAdjacency, x: jax.Array, num_layers: int) -> tuple[jax.Array, ...]:
    """Multiplies by the adjacency `num_layers` times; see `graphs.adjacency.propagate`.

    Args:
      adjacency: n nodes, or m held by this device.
      x: float32 (n, c) or (m, c), the node features (layer 0) that this device holds.
      num_layers: number of products, from 0 up.

    Returns:
      The outputs of layers 1 to num_layers, each of the shape of x.

    Raises:
      ValueError: x has another shape or is not float32.
    """
    if isinstance(adjacency, Adjacency):
        return whole.propagate(adjacency, x, num_layers)
    return whole.repeat(lambda x: _matmul(adjacency, x), x, adjacency.num_held, num_layers)


@jax.custom_vjp
def _matmul(adjacency: RowAdjacency, x: jax.Array) -> jax.Array:
    return _ring(adjacency, adjacency.blocks, x)


def _matmul_forward(adjacency: RowAdjacency, x: jax.Array) -> tuple[jax.Array, RowAdjacency]:
    return _matmul(adjacency, x), adjacency


def _matmul_backward(adjacency: RowAdjacency, g: jax.Array) -> tuple[None, jax.Array]:
    return None, _ring(adjacency, adjacency.blocks if adjacency.transposed is None else adjacency.transposed, g)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _ring(adjacency: RowAdjacency, blocks: Blocks, x: jax.Array) -> jax.Array:
    if blocks.data.shape[0] == 1:
        return _product(blocks, 0, x)
    width = max(w for w in range(1, _PART_COLUMNS + 1) if x.shape[1] % w == 0)
    return jax.lax.platform_dependent(
        blocks,
        x,
        cpu=functools.partial(_in_parts, adjacency, width, 1),
        # Two steps in a body: what arrives would be copied to where it was expected in the first place.
        default=functools.partial(_in_parts, adjacency, min(_TILE_COLUMNS, x.shape[1]), 2),
    )


def _in_parts(adjacency: RowAdjacency, width: int, unroll: int, blocks: Blocks, x: jax.Array) -> jax.Array:
    """The product in parts of `width` columns, the last with what is left, each replaced by its product: what visits,
    arrives and is added up is of one part alone.
    """

    def part(index: jax.Array, x: jax.Array) -> jax.Array:
        columns = jax.lax.dynamic_slice_in_dim(x, index * width, width, axis=1)
        product = _ring_part(adjacency, blocks, columns, unroll)
        return jax.lax.dynamic_update_slice_in_dim(x, product, index * width, axis=1)

    num_parts, rest = divmod(x.shape[1], width)
    x = jax.lax.fori_loop(0, num_parts, part, x)
    return x.at[:, -rest:].set(_ring_part(adjacency, blocks, x[:, -rest:], unroll)) if rest else x


def _ring_part(adjacency: RowAdjacency, blocks: Blocks, x: jax.Array, unroll: int) -> jax.Array:
    num_devices, axis = blocks.data.shape[0], adjacency.axis

    def body(step: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        visiting, total = carry
        arriving = pass_on(visiting, num_devices, axis)  # first, so that it can overlap with the product
        return arriving, total + _product(blocks, step, visiting)

    first = pass_on(x.astype(adjacency.ring_dtype), num_devices, axis), _product(blocks, 0, x)
    visiting, total = jax.lax.fori_loop(1, num_devices - 1, body, first, unroll=unroll)
    return total + _product(blocks, num_devices - 1, visiting)


def _product(blocks: Blocks, step: jax.Array | int, visiting: jax.Array) -> jax.Array:
    num_held = visiting.shape[0]
    data, rows, columns = (part[step] for part in (blocks.data, blocks.rows, blocks.columns))
    # Found anew for each product: kept, the row pointers of D blocks would take n numbers on every device.
    indptr = jnp.searchsorted(rows, jnp.arange(num_held + 1, dtype=jnp.int32)).astype(jnp.int32)
    matrix = BCOO((data, jnp.stack([rows, columns], axis=1)), shape=(num_held, num_held))
    return whole.sparse_product(matrix, indptr, visiting)


def _cut(matrix: BCOO, owner: np.ndarray, place: np.ndarray, num_devices: int, num_held: int) -> Blocks:
    rows, columns = np.asarray(matrix.indices).T
    block = owner[rows] * num_devices + (owner[columns] - owner[rows]) % num_devices
    order = np.lexsort((place[columns], place[rows], block))
    block = block[order]
    counts = np.bincount(block, minlength=num_devices**2)
    position = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = num_devices**2, max(int(counts.max()), 1)

    def fill(values: np.ndarray, padding: int, dtype: DTypeLike) -> np.ndarray:
        array = np.full(shape, padding, dtype)
        array[block, position] = values[order]
        return array

    return Blocks(
        data=fill(np.asarray(matrix.data), 0, np.float32),
        rows=fill(place[rows], num_held, np.int32),
        columns=fill(place[columns], num_held, np.int32),
    )
