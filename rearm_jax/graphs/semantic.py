"""The graph of items alike by one modality, searched once for all models that read it, in any normalisation."""

from functools import partial

import scipy.sparse
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs import knn, relations
from rearm_jax.graphs.cache import cached_graph, graph_path


def semantic_graph(dataset: Dataset, modality: str, k: int, graph: ConfigDict) -> scipy.sparse.csr_array:
    """The k nearest items of each, itself included, from the cache where a model has built them; see `knn_graph`.

    Args:
      dataset: with the features of the modality.
      modality: its name.
      k: neighbours of an item.
      graph: config.graph, with `knn`, `ties` and `cache_dir`.

    Returns:
      float32 (num_items, num_items), cosine similarities divided by k.

    Raises:
      ValueError: k is not within 1 and the number of items.
      ConfigError: the search needs faiss, which is not installed.
    """
    relations.check_k(k, dataset.num_items)
    method = knn.choose_method(graph.knn, dataset.num_items)
    draws_ties = knn.are_ties_drawn(graph.ties, method)
    if method == "approx":
        knn.check_installed(graph.knn)
    # Name and settings are those of REARM's relation, which is then found, too.
    relation = f"item semantic ({modality})"
    build = partial(relations.knn_graph, dataset.features[modality], k, relation, method, draws_ties)
    path = graph_path(relation, dataset.content_hash, knn.search_settings(k, method, draws_ties), graph.cache_dir)
    return cached_graph(relation, build, dataset.num_items, path)
