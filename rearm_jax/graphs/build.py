"""Dataset -> Graphs: the relations combined as configured, on the device; the expensive ones are kept in a cache."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import scipy.sparse
from absl import logging
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import ConfigError
from rearm_jax.graphs import knn, relations
from rearm_jax.graphs.adjacency import Adjacency, make_adjacency

_FORMAT = 1  # raise it when the cache file or the meaning of a graph changes


@flax.struct.dataclass
class Graphs:
    """What every jitted function takes as its `graphs` argument.

    Attributes:
      user_item: users first, then items; symmetric, num_users + num_items nodes.
      user_user: co-occurrence and interest of users, num_users nodes.
      item_item: co-occurrence and semantic similarity of items, num_items nodes.
    """

    user_item: Adjacency
    user_user: Adjacency
    item_item: Adjacency


def build_graphs(dataset: Dataset, graph_config: ConfigDict, protocol: str, seed: int) -> Graphs:
    """Builds the three graphs, or loads user_user and item_item from the cache.

    user_user = w co-occurrence + (1 - w) interest, with w = user_cooccurrence_weight and interest the sum of the
    modalities' kNN graphs weighted by user_modality_weights; item_item likewise from the items' raw features. A part
    of weight 0 is not computed. A cache file that cannot be read is rebuilt with a warning.

    Args:
      dataset: the modalities of `features`, in order, are those of the modality weights.
      graph_config: `config.graph`.
      protocol: "strict", or "reference": popularity of users counts valid and test too, and short co-occurrence rows
        are padded at random.
      seed: of the padding; without effect under "strict".

    Raises:
      ValueError: a number of neighbours exceeds the number of nodes, the number of modality weights is not that of the
        modalities, or the protocol is unknown.
      ConfigError: a kNN graph needs approximate search (see knn.py), and faiss is not installed; or JAX_ENABLE_X64 is
        set, under which neither graphs nor models work.
    """
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ConfigError(
            "JAX_ENABLE_X64 is set, and everything here is float32: unset it, or work in `with jax.enable_x64(False):`"
        )
    if protocol not in ("strict", "reference"):
        raise ValueError(f'protocol must be "strict" or "reference", got {protocol!r}')
    sizes = dataset.num_users, dataset.num_items
    user_item = _timed("user-item", lambda: relations.user_item_graph(dataset.train, *sizes))
    path = _cache_path(dataset, graph_config, protocol, seed) if graph_config.cache_dir else None
    homography = _load(path, *sizes) if path else None
    if homography is None:
        homography = _build_homography(dataset, graph_config, protocol, seed)
        if path:
            _save(path, *homography)
    user_user, item_item = homography
    return Graphs(
        user_item=make_adjacency(user_item, symmetric=True),
        user_user=make_adjacency(user_user, symmetric=False),
        item_item=make_adjacency(item_item, symmetric=False),
    )


def _build_homography(
    dataset: Dataset, config: ConfigDict, protocol: str, seed: int
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """user_user (num_users, num_users) and item_item (num_items, num_items)."""
    methods = _knn_methods(dataset, config)
    if "approx" in methods.values():
        knn.check_installed(config.knn)
    interactions = relations.interaction_matrix(dataset.train, dataset.num_users, dataset.num_items)
    # One source for both graphs, users first: the order of the published code.
    padding = np.random.RandomState(seed) if protocol == "reference" else None
    counted = [dataset.train, dataset.valid, dataset.test] if protocol == "reference" else [dataset.train]
    seen = relations.interaction_matrix(np.concatenate(counted), dataset.num_users, dataset.num_items)
    user_popularity = np.diff(seen.indptr)
    item_popularity = np.bincount(dataset.train[:, 1], minlength=dataset.num_items)

    def user_cooccurrence() -> scipy.sparse.csr_array:
        name = "user co-occurrence"
        build = relations.cooccurrence_graph
        return _timed(name, lambda: build(interactions, config.user_knn_k, user_popularity, padding, name))

    def item_cooccurrence() -> scipy.sparse.csr_array:
        name = "item co-occurrence"
        build = relations.cooccurrence_graph
        return _timed(name, lambda: build(interactions.T.tocsr(), config.item_knn_k, item_popularity, padding, name))

    def user_interest(modality: str) -> scipy.sparse.csr_array:
        name = f"user interest ({modality})"
        features = relations.user_interest_features(dataset.train, dataset.num_users, dataset.features[modality])
        return _timed(name, lambda: relations.knn_graph(features, config.user_knn_k, name, methods["users"]))

    def item_semantic(modality: str) -> scipy.sparse.csr_array:
        name, features = f"item semantic ({modality})", dataset.features[modality]
        return _timed(name, lambda: relations.knn_graph(features, config.item_knn_k, name, methods["items"]))

    def over_modalities(
        weights: Sequence[float], graph_of_modality: Callable[[str], scipy.sparse.csr_array]
    ) -> scipy.sparse.csr_array:
        return relations.combine(weights, [partial(graph_of_modality, modality) for modality in dataset.features])

    w_user, w_item = config.user_cooccurrence_weight, config.item_cooccurrence_weight
    interest = partial(over_modalities, config.user_modality_weights, user_interest)
    semantic = partial(over_modalities, config.item_modality_weights, item_semantic)
    user_user = relations.combine((w_user, 1 - w_user), (user_cooccurrence, interest))
    item_item = relations.combine((w_item, 1 - w_item), (item_cooccurrence, semantic))
    return user_user, item_item


def _knn_methods(dataset: Dataset, config: ConfigDict) -> dict[str, str]:
    """ "exact" or "approx" for the kNN graphs of "users" and of "items", as far as their weights call for them."""
    sides = (
        ("users", dataset.num_users, config.user_cooccurrence_weight),
        ("items", dataset.num_items, config.item_cooccurrence_weight),
    )
    return {side: knn.choose_method(config.knn, n) for side, n, weight in sides if weight != 1}


def _timed(name: str, build: Callable[[], scipy.sparse.csr_array]) -> scipy.sparse.csr_array:
    start = time.perf_counter()
    graph = build()
    logging.info(
        "graph %s: %d nodes, %d entries, %.1f s", name, len(graph.indptr) - 1, graph.nnz, time.perf_counter() - start
    )
    return graph


def _cache_path(dataset: Dataset, config: ConfigDict, protocol: str, seed: int) -> Path:
    """The file whose name is a hash of everything that shapes user_user and item_item."""
    key = {
        "format": _FORMAT,
        "data": dataset.content_hash,
        "settings": {name: value for name, value in config.items() if name not in ("cache_dir", "knn")},
        "knn": _knn_methods(dataset, config),  # what is done, not what "auto" stands for today
        "protocol": protocol,
        "seed": seed if protocol == "reference" else None,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(os.path.expanduser(config.cache_dir)) / f"graphs-{digest[:32]}.npz"


def _save(path: Path, user_user: scipy.sparse.csr_array, item_item: scipy.sparse.csr_array) -> None:
    """Writes the file whole or not at all; a folder that cannot be written costs only a warning."""
    arrays: dict[str, Any] = {}
    for name, graph in (("user_user", user_user), ("item_item", item_item)):
        arrays |= {f"{name}_{part}": getattr(graph, part) for part in ("data", "indices", "indptr")}
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                np.savez(file, **arrays)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        logging.warning("The graphs could not be kept in %s (%s); the next run builds them again.", path, error)
        return
    logging.info("graphs kept in %s", path)


def _load(path: Path, num_users: int, num_items: int) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array] | None:
    """The graphs of a cache file; None if there is none, or (with a warning) if it is damaged."""
    try:
        # Opened here, because numpy leaves a file open whose zip directory is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            graphs = _read_graph(file, "user_user", num_users), _read_graph(file, "item_item", num_items)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged zip fails in a dozen ways; the graphs can always be built again
        logging.warning("The graph cache %s cannot be used (%s); building the graphs again.", path, error)
        return None
    logging.info("graphs loaded from %s: user-user %d entries, item-item %d entries", path, *[g.nnz for g in graphs])
    return graphs


def _read_graph(file: np.lib.npyio.NpzFile, name: str, n: int) -> scipy.sparse.csr_array:
    """Raises ValueError unless the arrays are a finite float32 (n, n) CSR matrix in canonical form."""
    data, indices, indptr = (file[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
    if data.dtype != np.float32 or indices.dtype != np.int32 or indptr.dtype != np.int32:
        raise ValueError(f"{name}: {data.dtype} data, {indices.dtype} indices, {indptr.dtype} row pointers")
    graph = scipy.sparse.csr_array((data, indices, indptr), shape=(n, n))
    graph.check_format(full_check=True)
    if len(data) != indptr[-1] or not graph.has_canonical_format or not np.isfinite(data).all():
        raise ValueError(f"{name}: the row pointers do not fit, columns are not sorted, or a value is not finite")
    return graph
