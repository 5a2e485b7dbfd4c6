"""The relations between users and items that models read, as sparse matrices on the host.

Most are those of REARM (arXiv 2508.13745). A kNN graph is searched once, by `knn_graph`; other models' normalisations
of it are made from the result.

Every graph is a square scipy.sparse.csr_array of float32 with sorted, unique int32 column indices.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import scipy.sparse
from tqdm import tqdm

from rearm_jax.graphs.knn import nearest_approximate, nearest_exact

_EPSILON = 1e-7  # added to every degree, as in the original
_CHUNK_PRODUCTS = 2**21  # multiply-adds, and so at most as many counts, in a chunk of the co-occurrence product


def interaction_matrix(train: np.ndarray, num_users: int, num_items: int) -> scipy.sparse.csr_array:
    """A: 1 where the user interacted with the item. `train` is int32 (n, 2), unique; returns int32 (users, items)."""
    ones = np.ones(len(train), np.int32)
    return scipy.sparse.csr_array((ones, (train[:, 0], train[:, 1])), shape=(num_users, num_items))


def user_item_graph(train: np.ndarray, num_users: int, num_items: int) -> scipy.sparse.csr_array:
    """D^-1/2 [[0, A], [A^T, 0]] D^-1/2 with degrees + 1e-7; users first, then items.

    Args:
      train: int32 (n, 2), unique pairs (user, item).

    Returns:
      float32 (num_users + num_items, num_users + num_items), exactly symmetric.
    """
    users, items = train[:, 0], train[:, 1] + num_users
    size = num_users + num_items
    degrees = np.bincount(np.concatenate([users, items]), minlength=size) + _EPSILON
    weights = (1 / np.sqrt(degrees[users]) / np.sqrt(degrees[items])).astype(np.float32)
    upper = scipy.sparse.csr_array((weights, (users, items)), shape=(size, size))
    return _canonical(upper + upper.T)


def cooccurrence_graph(
    incidence: scipy.sparse.csr_array,
    k: int,
    popularity: np.ndarray,
    padding: np.random.RandomState | None = None,
    name: str = "co-occurrence",
) -> scipy.sparse.csr_array:
    """The k nodes that share most with each node, weighted by the softmax of the counts (rows sum to 1).

    Counts are B B^T without the diagonal; ties go to the lower id. A node with fewer than k neighbours keeps those, or,
    with `padding`, draws its own neighbours again uniformly until it has k, repeated ones adding up. A node without
    neighbours takes the k most popular nodes (ties: lower id; it may be one of them), weighted by the softmax of their
    popularity divided by the sum of theirs, as the published code does.

    Args:
      incidence: B, integer (n, m), 1 where node and counterpart interacted: A for users, A^T for items.
      k: neighbours of a node, 1 to n.
      popularity: integer (n,), number of interactions of each node.
      padding: source of the draws (protocol "reference"), consumed in order of the nodes; None draws nothing.
      name: shown by the progress bar.

    Returns:
      float32 (n, n).

    Raises:
      ValueError: k is not within 1 and n.
    """
    n = incidence.shape[0]
    check_k(k, n)
    neighbours, scores, lengths = _largest_counts(incidence, k, name)
    if padding is not None:
        # One draw a node, as the published code does it, so that an equal seed gives an equal graph.
        for node in np.flatnonzero((lengths > 0) & (lengths < k)):
            length = lengths[node]
            again = padding.randint(0, length, size=k - length)
            neighbours[node, length:] = neighbours[node, again]
            scores[node, length:] = scores[node, again]
            lengths[node] = k
    popular = np.argsort(-popularity, kind="stable")[:k]
    isolated = lengths == 0
    neighbours[isolated] = popular
    scores[isolated] = popularity[popular] / max(popularity[popular].sum(), 1)
    lengths[isolated] = k

    filled = np.arange(k) < lengths[:, None]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True), where=filled, out=np.zeros_like(scores))
    weights /= weights.sum(axis=1, keepdims=True)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return _canonical(scipy.sparse.csr_array((weights[filled], neighbours[filled], indptr), shape=(n, n)))


def user_interest_features(train: np.ndarray, num_users: int, features: np.ndarray) -> np.ndarray:
    """Mean of the raw features of each user's train items; zero for a user without any.

    Args:
      train: int32 (n, 2), unique pairs (user, item).
      features: float32 (num_items, d).

    Returns:
      float32 (num_users, d).
    """
    interactions = interaction_matrix(train, num_users, len(features))
    sums = interactions.astype(np.float32) @ features
    sums /= np.maximum(np.diff(interactions.indptr), 1).astype(np.float32)[:, None]
    return sums


def knn_graph(
    features: np.ndarray, k: int, name: str = "kNN", method: str = "exact", draws_ties: bool = False
) -> scipy.sparse.csr_array:
    """The k nodes of largest cosine similarity to each node, itself included, each value divided by k + 1e-7.

    (Every row has degree k: D^-1/2 S D^-1/2.) Ties go to the lower id, or are drawn (of approximate search: those that
    it finds first). The similarity to a zero row is 0; entries of value 0 are not stored.

    Args:
      features: float32 (n, d).
      k: neighbours of a node, 1 to n.
      name: shown by the progress bar and in the log.
      method: "exact" or "approx", see knn.py.
      draws_ties: of exact search, see `nearest_exact`.

    Returns:
      float32 (n, n).

    Raises:
      ValueError: k is not within 1 and n.
      ConfigError: the method is "approx", and faiss is not installed.
    """
    n = len(features)
    check_k(k, n)
    exact = partial(nearest_exact, draws_ties=draws_ties)
    values, neighbours = (exact if method == "exact" else nearest_approximate)(features, k, name)
    scale = np.float32((k + _EPSILON) ** -0.5)
    indptr = np.arange(n + 1) * k
    return _canonical(
        scipy.sparse.csr_array(((scale * values * scale).ravel(), neighbours.ravel(), indptr), shape=(n, n))
    )


def binary_graph(graph: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """D^-1/2 B D^-1/2 with B = 1 where the graph has an entry, and D the row sums of B (+ 1e-7), for both ends.

    Of a kNN graph in which every row has k neighbours, every value is 1 / k (FREEDOM, Zhou & Shen, MM 2023).

    Args:
      graph: float32 (n, n), such as `knn_graph` gives.

    Returns:
      float32 (n, n).
    """
    degrees = np.diff(graph.indptr) + _EPSILON
    values = 1 / np.sqrt(np.repeat(degrees, np.diff(graph.indptr))) / np.sqrt(degrees[graph.indices])
    return _canonical(scipy.sparse.csr_array((values, graph.indices, graph.indptr), shape=graph.shape))


def cosine_graph(graph: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """D^-1/2 W D^-1/2 with D the row sums of W for both ends, although W is directed (MGCN, Yu et al., MM 2023).

    A row whose sum is not positive, such as that of an item without features, has nothing, and is nobody's neighbour.

    Args:
      graph: W, float32 (n, n), such as `knn_graph` gives; a common factor of all its values cancels.

    Returns:
      float32 (n, n).
    """
    sums = np.asarray(graph.sum(axis=1, dtype=np.float64)).ravel()
    scale = np.where(sums > 0, 1 / np.sqrt(np.where(sums > 0, sums, 1)), 0)
    values = np.repeat(scale, np.diff(graph.indptr)) * graph.data * scale[graph.indices]
    return _canonical(scipy.sparse.csr_array((values, graph.indices, graph.indptr), shape=graph.shape))


def largest(graphs: Sequence[scipy.sparse.csr_array]) -> scipy.sparse.csr_array:
    """Each entry the largest of those of the graphs that have it; float32 (n, n).

    An entry that one graph lacks is not taken for a 0: where all that have it are negative, it is negative.
    """
    parts = [graph.tocoo() for graph in graphs]
    rows, columns, values = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "col", "data"))
    order = np.lexsort((-values, columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.append(True, (np.diff(rows) != 0) | (np.diff(columns) != 0))[: len(rows)]
    found = scipy.sparse.csr_array((values[first], (rows[first], columns[first])), shape=graphs[0].shape)
    return _canonical(found)


def combine(weights: Sequence[float], graphs: Sequence[Callable[[], scipy.sparse.csr_array]]) -> scipy.sparse.csr_array:
    """Weighted sum of graphs; a graph of weight 0 is not computed.

    Args:
      weights: one a graph, not all 0.
      graphs: functions that compute a float32 (n, n) graph.

    Raises:
      ValueError: all weights are 0, or there are not as many weights as graphs.
    """
    parts = [np.float32(weight) * graph() for weight, graph in zip(weights, graphs, strict=True) if weight != 0]
    if not parts:
        raise ValueError(f"no graph has a weight other than 0: {tuple(weights)}")
    return _canonical(sum(parts[1:], start=parts[0]))


def _largest_counts(incidence: scipy.sparse.csr_array, k: int, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k largest entries of each row of B B^T off the diagonal: ids (n, k), counts (n, k) float64, how many (n,)."""
    n = incidence.shape[0]
    transposed = incidence.T.tocsr()
    neighbours, counts, lengths = np.zeros((n, k), np.int32), np.zeros((n, k)), np.zeros(n, np.int64)
    highest = int(np.diff(incidence.indptr).max())  # no count is larger
    for start, stop in tqdm(_chunks(incidence, transposed), desc=name, unit="chunk", disable=None, leave=False):
        product = incidence[start:stop] @ transposed
        rows = np.repeat(np.arange(start, stop, dtype=np.int64), np.diff(product.indptr))
        others = rows != product.indices
        rows, columns, values = rows[others], product.indices[others], product.data[others].astype(np.int64)

        # Sorting one packed integer (row, -count, column) is several times as fast as a lexsort of the three.
        keys = ((rows - start) * (highest + 1) + (highest - values)) * n + columns
        keys.sort()
        sizes = np.bincount(rows - start, minlength=stop - start)
        ranks = np.arange(len(keys)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        top = ranks < k
        rows, ranks, keys = rows[top], ranks[top], keys[top]
        neighbours[rows, ranks] = keys % n
        counts[rows, ranks] = highest - keys // n % (highest + 1)
        lengths[start:stop] = np.minimum(sizes, k)
    return neighbours, counts, lengths


def _chunks(incidence: scipy.sparse.csr_array, transposed: scipy.sparse.csr_array) -> list[tuple[int, int]]:
    """Row ranges [start, stop) whose product with the transpose takes at most _CHUNK_PRODUCTS (or is one row)."""
    products_of_entry = np.diff(transposed.indptr)[incidence.indices]
    products_before_row = np.concatenate([[0], np.cumsum(products_of_entry, dtype=np.int64)])[incidence.indptr]
    n, start, chunks = incidence.shape[0], 0, []
    while start < n:
        limit = products_before_row[start] + _CHUNK_PRODUCTS
        stop = max(start + 1, int(np.searchsorted(products_before_row, limit, side="right")) - 1)
        chunks.append((start, stop))
        start = stop
    return chunks


def _canonical(graph: scipy.sparse.sparray) -> scipy.sparse.csr_array:
    """float32 data, int32 indices, duplicates added up (before rounding), sorted, without stored zeros."""
    graph = graph.tocsr()
    graph.sum_duplicates()
    graph = graph.astype(np.float32)
    graph.eliminate_zeros()
    graph.indices, graph.indptr = graph.indices.astype(np.int32), graph.indptr.astype(np.int32)
    return graph


def check_k(k: int, n: int) -> None:
    """Raises ValueError unless k neighbours can be found among n nodes."""
    if not 1 <= k <= n:
        raise ValueError(f"the number of neighbours must lie within 1 and the number of nodes, {n}; got {k}")
