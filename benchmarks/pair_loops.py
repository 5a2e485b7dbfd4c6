"""Co-occurrence graphs by plain Python loops over pairs, what the graph building of rearm_jax is measured against."""

import itertools
from collections import Counter

import numpy as np
import scipy.sparse


def cooccurrence_by_pair_loops(
    train_pairs: np.ndarray, num_users: int, num_items: int, k: int
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """The user and the item co-occurrence graph, counted by loops over all pairs that share a counterpart.

    Each node's k neighbours of largest count (ties: the pair met first), weighted by the softmax of the counts. A node
    without neighbours takes the k most popular nodes, weighted by the softmax of their share, as in the published code.

    Args:
      train_pairs: int (n, 2), unique (user, item).

    Returns:
      float32 (U, U) and (I, I).
    """
    users, items = train_pairs[:, 0].tolist(), train_pairs[:, 1].tolist()
    return _graph(users, items, num_users, k), _graph(items, users, num_items, k)


def _graph(nodes: list[int], counterparts: list[int], num_nodes: int, k: int) -> scipy.sparse.csr_array:
    groups = {}
    for node, counterpart in zip(nodes, counterparts, strict=True):
        groups.setdefault(counterpart, []).append(node)
    counts = [Counter() for _ in range(num_nodes)]
    for group in groups.values():
        for first, second in itertools.combinations(group, 2):
            counts[first][second] += 1
            counts[second][first] += 1

    popular = Counter(nodes).most_common(k)
    total = sum(count for _, count in popular)
    fallback = [(node, count / total) for node, count in popular]
    rows, columns, weights = [], [], []
    for node, counter in enumerate(counts):
        neighbours, scores = zip(*(counter.most_common(k) or fallback), strict=True)
        exponentials = np.exp(np.array(scores) - max(scores))
        rows += [node] * len(neighbours)
        columns += neighbours
        weights += (exponentials / exponentials.sum()).tolist()
    return scipy.sparse.csr_array((np.array(weights, np.float32), (rows, columns)), shape=(num_nodes, num_nodes))
