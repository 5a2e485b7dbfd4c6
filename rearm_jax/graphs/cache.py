"""Built graphs are kept on the disk, each in a file of its own, found by the hash of all that shapes it."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from absl import logging

from rearm_jax.files import whole_file

_FORMAT = 2  # raise it when the cache file or the meaning of a graph changes


def graph_path(name: str, content_hash: str, settings: Mapping[str, Any], cache_dir: str) -> Path | None:
    """Where a graph is kept, or will be; None where nothing is.

    Args:
      name: of the relation, such as "user interest (text)".
      content_hash: of the data set.
      settings: whatever else shapes the graph, as JSON knows it.
      cache_dir: folder of the cache; "": nothing is kept.
    """
    if not cache_dir:
        return None
    key = {"format": _FORMAT, "name": name, "data": content_hash, "settings": dict(settings)}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(os.path.expanduser(cache_dir)) / f"graph-{digest[:32]}.npz"


def cached_graph(
    name: str, build: Callable[[], scipy.sparse.csr_array], num_nodes: int, path: Path | None
) -> scipy.sparse.csr_array:
    """The graph from the cache, or from `build`; a cache file that cannot be read is built again, with a warning.

    Args:
      name: of the relation, for the log.
      build: makes it, float32 (num_nodes, num_nodes) with sorted, unique int32 indices.
      num_nodes: n.
      path: from `graph_path`; its folder is made where it is missing.
    """
    if path is None:
        return timed_graph(name, build)
    graph = _load(path, name, num_nodes)
    if graph is None:
        graph = timed_graph(name, build)
        _save(path, graph)
    return graph


def timed_graph(name: str, build: Callable[[], scipy.sparse.csr_array]) -> scipy.sparse.csr_array:
    """build(), and a line in the log that says what was built."""
    start = time.perf_counter()
    graph = build()
    logging.info(
        "graph %s: %d nodes, %d entries, %.1f s", name, len(graph.indptr) - 1, graph.nnz, time.perf_counter() - start
    )
    return graph


def _save(path: Path, graph: scipy.sparse.csr_array) -> None:
    """Writes the file whole or not at all; a folder that cannot be written costs only a warning."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("xb") as file:
            np.savez(file, data=graph.data, indices=graph.indices, indptr=graph.indptr)
    except OSError as error:
        logging.warning("A graph could not be kept in %s (%s); the next run builds it again.", path, error)
        return
    logging.info("graph kept in %s", path)


def _load(path: Path, name: str, n: int) -> scipy.sparse.csr_array | None:
    """The graph of a cache file; None if there is none, or (with a warning) if it is damaged."""
    try:
        # Opened here, because numpy leaves a file open whose zip directory is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            graph = _read_graph(file, n)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged zip fails in a dozen ways; the graphs can always be built again
        logging.warning("The graph cache %s cannot be used (%s); building the graph again.", path, error)
        return None
    logging.info("graph %s loaded from %s: %d entries", name, path, graph.nnz)
    return graph


def _read_graph(file: np.lib.npyio.NpzFile, n: int) -> scipy.sparse.csr_array:
    """Raises ValueError unless the arrays are a finite float32 (n, n) CSR matrix in canonical form."""
    data, indices, indptr = (file[part] for part in ("data", "indices", "indptr"))
    if data.dtype != np.float32 or indices.dtype != np.int32 or indptr.dtype != np.int32:
        raise ValueError(f"{data.dtype} data, {indices.dtype} indices, {indptr.dtype} row pointers")
    graph = scipy.sparse.csr_array((data, indices, indptr), shape=(n, n))
    graph.check_format(full_check=True)
    if len(data) != indptr[-1] or not graph.has_canonical_format or not np.isfinite(data).all():
        raise ValueError("the row pointers do not fit, columns are not sorted, or a value is not finite")
    return graph
