"""How many bytes each part of a train step must move and how many operations it must do, whoever computes it.

The floor of a part is the larger of bytes / copy bandwidth and operations / matmul rate. Bytes count every float32
input and output of the part once, forward and backward, as if the caches were infinite within the part; an exponential
counts as one operation. So 100% cannot be reached by work that is not a copy or a matrix product.
"""

from typing import NamedTuple


class Cost(NamedTuple):
    """Bytes moved and operations done."""

    bytes: float
    flops: float

    def floor(self, copy_bytes_per_s: float, matmul_flops_per_s: float) -> float:
        """Seconds that no program can beat on a machine of these rates."""
        return max(self.bytes / copy_bytes_per_s, self.flops / matmul_flops_per_s)


class Sizes(NamedTuple):
    """What the costs depend on; `widths` of the modalities, entries of the three graphs, `parameters` in all."""

    users: int
    items: int
    widths: tuple[int, ...]
    embedding_dim: int
    rank: int
    layers: tuple[int, int, int]  # user_user, item_item, user_item
    entries: tuple[int, int, int]
    batch: int
    parameters: int
    interactions: int  # in train
    ranked_users: int  # in an evaluation


def part_costs(sizes: Sizes) -> dict[str, Cost]:
    """Cost of each part, forward and backward, by the names of the benchmark's rows."""
    n, d, r, m = sizes.users + sizes.items, sizes.embedding_dim, sizes.rank, len(sizes.widths)
    wide = n * sum(sizes.widths)
    wide_features = Cost(4 * (3 * wide + 2 * n * m * d), 3 * 2 * wide * d)

    def propagation(graph, nodes):
        # A layer reads the matrix (value and column) and its input and writes its output; the same backwards.
        layers, entries, width = sizes.layers[graph], sizes.entries[graph], (m + 1) * d
        return Cost(2 * layers * (8 * entries + 4 * 2 * nodes * width), 2 * layers * 2 * entries * width)

    # Forward: score, shift, exp, dropout, sum, weighted sum. Backward: the weights again, five products, three sums.
    calls = m + m * (m - 1)
    attention = Cost(4 * calls * 10 * sizes.items * d, calls * sizes.items * d * d * (7 + 13))

    # Two MLPs on every node; the first layer needs no gradient of its input, which is detached.
    mlp = 2 * n * (2 * d * d * r + 3 * d * r * d * r)
    meta = Cost(4 * n * (2 * m * d + 2 * 2 * 2 * d * r), 2 * n * m * d * d + 2 * mlp)

    # InfoNCE: the similarities of batch users and 2 x batch items, made twice and used for two gradients.
    similarities = sum(2 * rows * rows * d for rows in (sizes.batch, 2 * sizes.batch))
    losses = Cost(4 * 3 * sizes.batch * ((m + 1) * d + m * d) * 2, 4 * similarities)

    parts = {
        "wide features": wide_features,
        "propagation user-user": propagation(0, sizes.users),
        "propagation item-item": propagation(1, sizes.items),
        "propagation user-item": propagation(2, n),
        "attention": attention,
        "meta-network": meta,
        "losses": losses,
        "optimiser": Cost(4 * 7 * sizes.parameters, 12 * sizes.parameters),
    }
    parts["step"] = Cost(sum(cost.bytes for cost in parts.values()), sum(cost.flops for cost in parts.values()))
    parts["sampling an epoch"] = Cost(4 * 4 * sizes.interactions, 0)
    scores = 2 * sizes.ranked_users * sizes.items * (m + 1) * d
    parts["ranking"] = Cost(4 * (sizes.ranked_users + sizes.items) * (m + 1) * d, scores)
    return parts
