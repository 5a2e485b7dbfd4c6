"""Numbers of the report: recall by group with its uncertainty, statistics of the graphs, nearest neighbours."""

from typing import NamedTuple

import numpy as np

from rearm_jax.data.dataset import Dataset
from rearm_jax.evaluation.baselines import most_popular_scores
from rearm_jax.evaluation.metrics import hit_matrix
from rearm_jax.evaluation.popularity import quantile_groups
from rearm_jax.evaluation.scoring import Scores, each_block, rank_block
from rearm_jax.evaluation.splits import blocks_and_positives
from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.recommender.contract import Inputs

NUM_NEIGHBOURS = 5
NUM_SHOWN = 4  # items whose neighbours are shown, popular ones and rare ones
SEED = 0
_NORMAL_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


class Estimate(NamedTuple):
    """A mean and half the width of its 95 % interval, which is NaN where all values of the sample are equal."""

    value: float
    half_width: float


class Group(NamedTuple):
    """Test results of items of similar popularity, or of users of similar history.

    Attributes:
      lowest, highest: number of train interactions of its members.
      num_members: items or users.
      num_pairs: test interactions.
      model, popular: recall of the model and of most-popular.
    """

    lowest: int
    highest: int
    num_members: int
    num_pairs: int
    model: Estimate
    popular: Estimate


class GraphSide(NamedTuple):
    """One kind of nodes in one graph.

    Attributes:
      name: of the graph, and of the nodes where it has two kinds.
      nodes: "users" or "items".
      num_entries: stored entries of the adjacency that belong to these nodes.
      degrees: int (n,). In the user-item graph, train interactions; in the others, how many other nodes have the node
        among their neighbours.
      num_isolated: nodes without an entry that joins them to another, in either direction.
    """

    name: str
    nodes: str
    num_entries: int
    degrees: np.ndarray
    num_isolated: int


class Neighbours(NamedTuple):
    """An item and the items nearest to it: ids, and cosine similarities."""

    item: int
    neighbours: np.ndarray
    similarities: np.ndarray


def recall_by_group(dataset: Dataset, scores: Scores, k: int, block_size: int) -> tuple[list[Group], list[Group]]:
    """Recall@k on the test split, train items left out, by item popularity and by user history.

    Items: the share of a group's test interactions that are among the first k of their user. Users: the mean recall of
    a group's users, so that the mean over all of them is the run's recall@k. Groups have as equal a number of items
    (of test users) as equal counts allow. Groups without a test interaction are left out.

    Args:
      dataset: the data of the run.
      scores: of the best checkpoint.
      k: length of the lists.
      block_size: users ranked at a time.

    Returns:
      Groups of items and groups of users, from few train interactions to many.
    """
    users = np.unique(dataset.test[:, 0])
    blocks, positives = blocks_and_positives(dataset, "test", block_size)
    popularity = most_popular_scores(dataset.train, dataset.num_items)
    ranked: dict[str, Scores] = {
        "model": scores,
        "popular": lambda users: np.broadcast_to(popularity, (len(users), dataset.num_items)),
    }

    rows = np.searchsorted(users, dataset.test[:, 0])
    item_groups = quantile_groups(popularity.astype(np.int64))
    num_groups = item_groups.max() + 1
    pairs = _count(rows, item_groups[dataset.test[:, 1]], (len(users), num_groups))
    num_positives = pairs.sum(axis=1)
    by_items, by_users = {}, {}
    for name, some in ranked.items():
        lists = [rank_block(some(np.asarray(block.users)), block, k)[0] for block in each_block(blocks)]
        top_items = np.concatenate(lists)[: len(users)]
        hits = hit_matrix(top_items, users, positives)
        by_items[name] = _count(np.nonzero(hits)[0], item_groups[top_items[hits]], (len(users), num_groups))
        by_users[name] = hits.sum(axis=1) / num_positives

    def item_group(group: int) -> Group:
        members = popularity[item_groups == group]
        estimates = [ratio(by_items[name][:, group], pairs[:, group]) for name in ranked]
        return Group(int(members.min()), int(members.max()), len(members), int(pairs[:, group].sum()), *estimates)

    history = np.bincount(dataset.train[:, 0], minlength=dataset.num_users)[users]
    user_groups = quantile_groups(history)

    def user_group(group: int) -> Group:
        inside = user_groups == group
        estimates = [ratio(by_users[name][inside], np.ones(inside.sum())) for name in ranked]
        lengths, num_pairs = history[inside], num_positives[inside].sum()
        return Group(int(lengths.min()), int(lengths.max()), int(inside.sum()), int(num_pairs), *estimates)

    of_items = [item_group(group) for group in range(num_groups) if pairs[:, group].any()]
    return of_items, [user_group(group) for group in range(user_groups.max() + 1)]


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> Estimate:
    """sum of numerators / sum of denominators, with the normal 95 % interval of a ratio (linearised).

    Users are the sample: one of them gives one pair of numbers, however many interactions it has. Where all
    denominators are 1 it is the interval of a mean.

    Args:
      numerators, denominators: float (n,); a user with denominator 0 has numerator 0 and does not count.
    """
    counted = denominators > 0
    numerators, denominators = numerators[counted], denominators[counted]
    n, total = len(numerators), denominators.sum()
    value = numerators.sum() / total
    squares = np.sum((numerators - value * denominators) ** 2)
    if n < 2 or squares == 0:
        return Estimate(float(value), float("nan"))
    return Estimate(float(value), float(_NORMAL_95 * np.sqrt(n / (n - 1) * squares) / total))


def graph_sides(dataset: Dataset, inputs: Inputs) -> list[GraphSide]:
    """Statistics of the graphs that the model reads, the user-item graph once for users and once for items."""
    sides = []
    for column, (nodes, size) in enumerate((("users", dataset.num_users), ("items", dataset.num_items))):
        degrees = np.bincount(dataset.train[:, column], minlength=size)
        sides.append(GraphSide(f"user-item, {nodes}", nodes, len(dataset.train), degrees, int((degrees == 0).sum())))
    relations = {n: graph for n, graph in inputs.items() if isinstance(graph, Adjacency) and len(graph.nodes) == 1}
    return [*sides, *(_relation(name.replace("_", "-"), graph) for name, graph in relations.items())]


def shown_items(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most popular items, and some drawn from the rarest tenth of those that occur in train; no item is in both.

    Args:
      counts: int (num_items,), how often each occurs in train.

    Returns:
      Ids of NUM_SHOWN popular and NUM_SHOWN rare items, fewer where there are not as many.
    """
    occurring = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    popular, others = occurring[:NUM_SHOWN], occurring[NUM_SHOWN:]
    rarest = others[-max(NUM_SHOWN, len(occurring) // 10) :]
    rare = np.random.default_rng(SEED).choice(rarest, min(NUM_SHOWN, len(rarest)), replace=False)
    return popular, rare


def nearest_items(items: np.ndarray, vectors: np.ndarray) -> list[Neighbours]:
    """The NUM_NEIGHBOURS items of largest cosine similarity to each of `items`, without itself; ties by lower id.

    Args:
      items: int (n,).
      vectors: float (num_items, c), the representations; the similarity to a zero row is 0.
    """
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = []
    for item in items:
        similarities = vectors @ vectors[item]
        order = np.argsort(-similarities, kind="stable")
        nearest = order[order != item][:NUM_NEIGHBOURS]
        found.append(Neighbours(int(item), nearest, similarities[nearest]))
    return found


def _relation(name: str, adjacency: Adjacency) -> GraphSide:
    rows, columns = np.asarray(adjacency.matrix.indices).T
    n = adjacency.matrix.shape[0]
    joins = rows != columns
    degrees = np.bincount(columns[joins], minlength=n)
    isolated = (degrees == 0) & (np.bincount(rows[joins], minlength=n) == 0)
    return GraphSide(name, f"{adjacency.nodes[0]}s", len(rows), degrees, int(isolated.sum()))


def _count(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often each (row, column) occurs, int (shape)."""
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
