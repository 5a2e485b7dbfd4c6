"""Co-occurrence graphs by plain Python loops over pairs, what the graph building of rearm_jax is measured against."""

import itertools
import time
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


def seconds_of_loops_over_all_pairs(train_pairs: np.ndarray, num_users: int, num_items: int, every: int) -> float:
    """Seconds of the counting alone as the published code does it, for users and for items; see `count_shared`.

    Args:
      train_pairs: int (n, 2), unique (user, item).
      every: of that many nodes one is compared with all after it, and the time scaled up by the pairs left out.
    """
    seconds = 0.0
    for nodes, size in ((train_pairs, num_users), (train_pairs[:, ::-1], num_items)):
        neighbours = [set() for _ in range(size)]
        for node, counterpart in nodes.tolist():
            neighbours[node].add(counterpart)
        start = time.perf_counter()
        count_shared(neighbours, every)
        compared = sum(size - 1 - first for first in range(0, size, every))
        seconds += (time.perf_counter() - start) * (size * (size - 1) / 2) / compared
    return seconds


def count_shared(neighbours: list[set[int]], every: int = 1) -> dict[tuple[int, int], int]:
    """{(first, second): how many neighbours they share, if any} by intersecting the sets of any two nodes.

    Args:
      neighbours: of each node.
      every: only every so-many-th node is a first one.
    """
    counts = {}
    for first in range(0, len(neighbours), every):
        for second in range(first + 1, len(neighbours)):
            shared = len(neighbours[first] & neighbours[second])
            if shared:
                counts[first, second] = shared
    return counts


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
