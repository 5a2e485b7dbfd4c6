"""The nearest nodes by cosine similarity: exactly, on the device, or approximately, with faiss on the host.

Exact search compares all pairs: 6.5 CPU seconds for 40,000 nodes of 64 features, and 4,000 for a million. Approximate
search groups the rows around about 4 sqrt(n) centres (IVF-Flat of faiss, https://github.com/facebookresearch/faiss)
and compares each row with the groups nearest to it only: about n^1.5. How many groups is found by trying, on rows that
are searched exactly as well.
"""

from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from rearm_jax.errors import ConfigError, how_to_install

EXACT_UP_TO = 100_000  # nodes that graph.knn = "auto" searches exactly; the paper's data sets stay below 40,000
LEAST_RECALL = 0.95  # an approximate search that finds less warns

_CHUNK_SIMILARITIES = 2**24  # entries in a chunk of the similarity matrix, in at most _CHUNK_ROWS rows
_CHUNK_ROWS = 512
_CHUNK_QUERIES = 2**14
_SAMPLE = 256  # rows that are searched exactly, to choose the number of groups, and again as many to measure the recall
_WANTED_RECALL = 0.97  # on the rows to choose with: some margin over LEAST_RECALL
_MOST_GROUPS = 256  # searched for a row; beyond it, exact search is not much slower
_SHORTEST, _LONGEST = 1e-8, 1e15  # of the largest number of a row
_SEED = 1  # of groups, samples and draws among ties


def choose_method(setting: str, n: int) -> str:
    """What `config.graph.knn` means for n nodes: "auto" is "exact" for up to EXACT_UP_TO nodes, else "approx"."""
    if setting != "auto":
        return setting
    return "exact" if n <= EXACT_UP_TO else "approx"


def are_ties_drawn(setting: str, method: str) -> bool:
    """Whether neighbours among ties are drawn; `setting` is config.graph.ties. Approximate search keeps what it has."""
    return setting == "drawn" and method == "exact"


def search_settings(k: int, method: str, draws_ties: bool) -> dict[str, Any]:
    """What shapes a kNN graph beside its features, for the cache."""
    return {"k": k, "method": method} | ({"ties": f"drawn, seed {_SEED}"} if draws_ties else {})


def check_installed(setting: str) -> None:
    """Raises ConfigError if faiss, which approximate search needs, is missing. `setting` is `config.graph.knn`."""
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        why = f" (more than {EXACT_UP_TO:,} nodes)" if setting == "auto" else ""
        raise ConfigError(
            f'graph.knn = "{setting}": approximate neighbours{why} need faiss, which cannot be imported ({error}). '
            f'To install it: {how_to_install("faiss")}. Or set graph.knn = "exact", whose time grows with the square '
            "of the number of nodes"
        ) from error


def nearest_exact(
    features: np.ndarray, k: int, name: str, queries: np.ndarray | None = None, draws_ties: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of largest cosine similarity to each query; ties go to the lower id, or are drawn.

    The similarity to a zero row is 0. Computed on the device in chunks of queries; memory O(m k + (n + m) d + chunk n).

    Args:
      features: float32 (n, d).
      k: 1 to n.
      name: shown by the progress bar and in the log.
      queries: float32 (m, d), m > 0; None: the rows of `features`, each of which then finds itself, too.
      draws_ties: without queries: where more rows are as similar as the k-th (and that is not 0) than there are places,
        those that get one are drawn for each row anew, by a fixed seed; the row itself goes before them. Nothing else
        changes. Else items of one category, say, would all have the same few neighbours.

    Returns:
      Similarities float32 (m, k), largest first, and ids int32 (m, k).
    """
    normalised = _normalise(jnp.asarray(_in_range(features)))
    wanted = normalised if queries is None else _normalise(jnp.asarray(_in_range(queries)))
    m = len(wanted)
    rows = min(m, _CHUNK_ROWS, max(1, _CHUNK_SIMILARITIES // len(features)))
    values, neighbours = np.empty((m, k), np.float32), np.empty((m, k), np.int32)
    for start in tqdm(range(0, m, rows), desc=name, unit="chunk", disable=None, leave=False):
        start = min(start, m - rows)  # the last chunk overlaps the one before: one shape, one compilation
        found = _nearest(normalised, wanted, start, rows, k, draws_ties)
        values[start : start + rows], neighbours[start : start + rows] = found
    logging.info("neighbours %s: exact", name)
    return values, neighbours


def nearest_approximate(features: np.ndarray, k: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Like `nearest_exact`, but most of the k nearest rows only; the same input gives the same result on a machine.

    A row is nearest to itself as in the exact search, and zero rows have similarity 0 to all. Recall is the share of
    the rows found that are as similar as the k-th of the exact search, measured on a sample and written to the log,
    with a warning below LEAST_RECALL. Memory O(n k + n d).

    Returns:
      Similarities float32 (n, k), largest first, and ids int32 (n, k). Where fewer than k rows are found, or where
      zero rows come before them, similarities are 0 and ids mean nothing.

    Raises:
      ConfigError: faiss is not installed.
    """
    check_installed("approx")
    import faiss

    features = _in_range(features)
    n = len(features)
    values, neighbours = np.zeros((n, k), np.float32), np.zeros((n, k), np.int32)
    norms = np.linalg.norm(features, axis=1)
    # Zero rows are similar to none. In the index they would make one large group, which every search had to scan.
    used = np.flatnonzero(norms > 0)
    if not len(used):
        logging.info("neighbours %s: none, all features are zero", name)
        return values, neighbours
    normalised = features[used] / np.maximum(norms[used, None], 1e-12)
    index = _grouped(faiss, normalised)

    order = np.random.default_rng(_SEED).permutation(len(used))
    chosen_with, measured_on = order[:_SAMPLE], order[-_SAMPLE:]
    index.nprobe = min(8, index.nlist)
    while _recall(faiss, index, normalised, chosen_with, k) < _WANTED_RECALL and index.nprobe < _limit(index):
        index.nprobe = min(2 * index.nprobe, _limit(index))
    recall = _recall(faiss, index, normalised, measured_on, k)
    (logging.info if recall >= LEAST_RECALL else logging.warning)(
        "neighbours %s: approximate (faiss IVF-Flat, %d of %d groups searched), recall %.3f on %d rows%s",
        name,
        index.nprobe,
        index.nlist,
        recall,
        len(measured_on),
        "" if recall >= LEAST_RECALL else f', less than {LEAST_RECALL}; graph.knn = "exact" finds all, more slowly',
    )

    zeros = n - len(used)
    for start in tqdm(range(0, len(used), _CHUNK_QUERIES), desc=name, unit="chunk", disable=None, leave=False):
        rows = used[start : start + _CHUNK_QUERIES]
        found, ids = index.search(normalised[start : start + _CHUNK_QUERIES], min(k, len(used)))
        # faiss fills up with id -1. Exact search has the zero rows before those of negative similarity.
        counts = (ids >= 0) & ((found >= 0) | (np.arange(found.shape[1]) + zeros < k))
        values[rows, : found.shape[1]] = np.where(counts, found, 0)
        neighbours[rows, : found.shape[1]] = np.where(counts, used[ids], 0)
    return values, neighbours


def _grouped(faiss: ModuleType, normalised: np.ndarray) -> Any:
    """The rows in groups around centres that k-means finds on a part of them."""
    n, width = normalised.shape
    num_groups = max(1, min(round(4 * n**0.5), n // 8))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, num_groups, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter, index.cp.spherical = _SEED, 10, True
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
    index.train(normalised)
    index.add(normalised)
    return index


def _limit(index: Any) -> int:
    return min(_MOST_GROUPS, index.nlist)


def _recall(faiss: ModuleType, index: Any, normalised: np.ndarray, rows: np.ndarray, k: int) -> float:
    """Share of the neighbours found for some rows that are as near as the k-th nearest; equal rows count alike."""
    k = min(k, len(normalised))
    exact, _ = faiss.knn(normalised[rows], normalised, k, metric=faiss.METRIC_INNER_PRODUCT)
    found, ids = index.search(normalised[rows], k)
    return float(np.mean((ids >= 0) & (found >= exact[:, -1:] - 1e-6)))


def _in_range(features: np.ndarray) -> np.ndarray:
    """Rows of any scale, float32 (n, d), so that float32 holds the squares of their lengths: those that are far too
    long or short are multiplied by a power of two, which changes no direction; the others stay as they are."""
    features = np.asarray(features)
    largest = np.abs(features).max(axis=1, initial=0)
    far = (largest > 0) & ((largest < _SHORTEST) | (largest > _LONGEST))
    if not far.any():
        return features
    scaled = features.copy()
    scaled[far] = np.ldexp(features[far], -np.frexp(largest[far])[1][:, None])
    return scaled


@jax.jit
def _normalise(features: jax.Array) -> jax.Array:
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames=("rows", "k", "draws_ties"))
def _nearest(
    normalised: jax.Array, queries: jax.Array, start: int, rows: int, k: int, draws_ties: bool
) -> tuple[jax.Array, jax.Array]:
    chunk = jax.lax.dynamic_slice_in_dim(queries, start, rows)
    # HIGHEST: the default of GPUs and TPUs rounds the factors, and near neighbours would change places.
    similarities = jnp.einsum("rd,nd->rn", chunk, normalised, precision=jax.lax.Precision.HIGHEST)
    # Behind the barrier XLA does not see that `_drawn` wants a column of it, for which it would sort whole rows.
    values, neighbours = jax.lax.optimization_barrier(jax.lax.top_k(similarities, k))
    if draws_ties:
        neighbours = _drawn(similarities, values, neighbours, start + jnp.arange(rows))
    return values, neighbours


def _drawn(similarities: jax.Array, values: jax.Array, neighbours: jax.Array, nodes: jax.Array) -> jax.Array:
    """The neighbours int32 (rows, k), drawn where more tie with the last than have a place; `nodes` are the rows."""
    n, k = similarities.shape[1], values.shape[1]
    last = values[:, -1:]
    is_tied = similarities == last
    num_above = jnp.sum(values > last, axis=1, keepdims=True)
    is_contested = (jnp.sum(is_tied, axis=1, keepdims=True) > k - num_above) & (last != 0)

    def draw() -> jax.Array:
        key = jax.random.key(_SEED, impl="threefry2x32")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, nodes)  # of the node: chunks change nothing
        draws = jax.vmap(lambda own: jax.random.bits(own, (n,)))(keys)
        draws = (draws >> 1).astype(jnp.int32).at[jnp.arange(len(nodes)), nodes].set(jnp.iinfo(jnp.int32).max)
        _, order = jax.lax.top_k(jnp.where(is_tied, _as_floats(draws), -jnp.inf), k)
        place = jnp.arange(k) - num_above
        drawn = jnp.take_along_axis(order, jnp.maximum(place, 0), axis=1)
        return jnp.where(is_contested & (place >= 0), drawn, neighbours)

    return jax.lax.cond(jnp.any(is_contested), draw, lambda: neighbours)


def _as_floats(draws: jax.Array) -> jax.Array:
    """Different normal numbers for different integers from 0 on, in the same order: XLA's top-k on a CPU is one for
    floats, and sorts whole rows of anything else."""
    signed = draws - 2**30
    bits = jnp.where(signed < 0, -signed, signed) + 2**23  # of the least normal number, and on
    floats = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(signed < 0, -floats, floats)
