"""The graphs that REARM reads: user-item, and its four relations combined to one graph of users and one of items.

user_user = w co-occurrence + (1 - w) interest, with w = graph.user_cooccurrence_weight and interest the sum of the
modalities' kNN graphs weighted by graph.user_modality_weights; item_item likewise, from the items' raw features. A part
of weight 0 is not built.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs import knn, relations
from rearm_jax.graphs.adjacency import Adjacency, make_adjacency, user_item_adjacency
from rearm_jax.graphs.cache import cached_graph, graph_path
from rearm_jax.settings import modality_weights

_Build = Callable[[], scipy.sparse.csr_array]


def build_relations(dataset: Dataset, config: ConfigDict) -> dict[str, Adjacency]:
    """{"user_item": ..., "user_user": ..., "item_item": ...}, each relation built or taken from the cache.

    A side both of whose relations are switched off has no graph.

    Args:
      dataset: the modalities of `features`, in order, are those of the modality weights.
      config: the whole config. Under protocol "reference" the popularity of users counts valid and test too, and short
        co-occurrence rows are padded at random, with config.seed.

    Raises:
      ValueError: a number of neighbours exceeds the number of nodes, or the number of modality weights is not that of
        the modalities.
      ConfigError: a kNN graph needs approximate search (see graphs/knn.py), and faiss is not installed.
    """
    sides = [_Side(dataset, config, "user"), _Side(dataset, config, "item")]
    if any(side.knn_method == "approx" and side.must_search() for side in sides):
        knn.check_installed(config.graph.knn)
    graphs = {"user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items)}
    for side in sides:
        if side.is_off:
            continue
        graphs[f"{side.name}_{side.name}"] = make_adjacency(side.combined(), (side.name,))
    return graphs


class _Side:
    """The relations of the users or of the items."""

    def __init__(self, dataset: Dataset, config: ConfigDict, name: str):
        graph = config.graph
        self.name = name
        self._dataset, self._config = dataset, config
        self._num_nodes = {"user": dataset.num_users, "item": dataset.num_items}[name]
        self._k = graph[f"{name}_knn_k"]
        neighbours = {"user": "user_interest", "item": "item_semantic"}[name]
        cooccurrence, similarity = graph[f"{name}_cooccurrence"], graph[neighbours]
        self.is_off = not (cooccurrence or similarity)
        # Of a relation that is switched off, the other takes the weight.
        self._weight = graph[f"{name}_cooccurrence_weight"] if cooccurrence and similarity else float(cooccurrence)
        weights = modality_weights(graph[f"{name}_modality_weights"], len(dataset.features))
        self._modality_weights = dict(zip(dataset.features, weights, strict=True))
        self.has_neighbours = self._weight != 1 and not self.is_off
        self.has_cooccurrence = self._weight != 0 and not self.is_off
        self.knn_method = knn.choose_method(graph.knn, self._num_nodes)
        # Of users the lowest ids stay: their features are means, which are seldom equal.
        self._draws_ties = name == "item" and knn.are_ties_drawn(graph.ties, self.knn_method)
        relations.check_k(self._k, self._num_nodes)

    def combined(self) -> scipy.sparse.csr_array:
        """The weighted sum of the relations, float32 (n, n)."""
        parts = self._cooccurrence, self._over_modalities
        return relations.combine((self._weight, 1 - self._weight), parts)

    def must_search(self) -> bool:
        """Whether a kNN graph is needed that the cache does not hold."""
        used = [modality for modality, weight in self._modality_weights.items() if weight != 0]
        paths = [self._path(*self._neighbours_key(modality)) for modality in used]
        return self.has_neighbours and any(path is None or not os.path.exists(path) for path in paths)

    def _over_modalities(self) -> scipy.sparse.csr_array:
        parts = [partial(self._neighbours, modality) for modality in self._modality_weights]
        return relations.combine(tuple(self._modality_weights.values()), parts)

    def _cooccurrence(self) -> scipy.sparse.csr_array:
        reference = self._config.protocol == "reference"
        settings: dict[str, Any] = {"k": self._k}
        if reference:
            # The padding of items goes on where that of users has stopped: it depends on their settings, too.
            users = _Side(self._dataset, self._config, "user")
            settings["padding"] = [self._config.seed, users._k, users.has_cooccurrence]

        def build() -> scipy.sparse.csr_array:
            if not reference:
                return self._count(None)
            padding = np.random.RandomState(self._config.seed)
            # One source for both graphs, users first: the order of the published code.
            if self.name == "item" and users.has_cooccurrence:
                users._count(padding)
            return self._count(padding)

        return self._cached(f"{self.name} co-occurrence", build, settings)

    def _count(self, padding: np.random.RandomState | None) -> scipy.sparse.csr_array:
        dataset = self._dataset
        sizes = dataset.num_users, dataset.num_items
        incidence = relations.interaction_matrix(dataset.train, *sizes)
        popularity = np.bincount(dataset.train[:, 1], minlength=dataset.num_items)
        if self.name == "item":
            incidence = incidence.T.tocsr()
        else:
            counted = [dataset.train] if padding is None else [dataset.train, dataset.valid, dataset.test]
            popularity = np.diff(relations.interaction_matrix(np.concatenate(counted), *sizes).indptr)
        return relations.cooccurrence_graph(incidence, self._k, popularity, padding, f"{self.name} co-occurrence")

    def _neighbours(self, modality: str) -> scipy.sparse.csr_array:
        """User interest or item semantic graph of a modality."""
        dataset, features = self._dataset, self._dataset.features[modality]
        name, settings = self._neighbours_key(modality)

        def build() -> scipy.sparse.csr_array:
            table = features
            if self.name == "user":
                table = relations.user_interest_features(dataset.train, dataset.num_users, features)
            return relations.knn_graph(table, self._k, name, self.knn_method, self._draws_ties)

        return self._cached(name, build, settings)

    def _neighbours_key(self, modality: str) -> tuple[str, dict]:
        name = {"user": f"user interest ({modality})", "item": f"item semantic ({modality})"}[self.name]
        return name, knn.search_settings(self._k, self.knn_method, self._draws_ties)

    def _cached(self, name: str, build: _Build, settings: dict) -> scipy.sparse.csr_array:
        return cached_graph(name, build, self._num_nodes, self._path(name, settings))

    def _path(self, name: str, settings: dict) -> Path | None:
        return graph_path(name, self._dataset.content_hash, settings, self._config.graph.cache_dir)
