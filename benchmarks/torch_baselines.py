"""The yardstick of the baselines: LightGCN, FREEDOM and MGCN in plain PyTorch, as a good PyTorch user writes them.

What is the same as for REARM comes from benchmarks/torch_rearm.py: CSR products with a stored transpose, vectorised
sampling, fused AdamW, the evaluation. Settings as in config.model, config.graph and config.loss.
"""

import warnings

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_rearm import Batch, Pair, SparseProduct, csr_tensor


class TorchLightGCN(nn.Module):
    """LightGCN; `user_item` is a scipy csr_array of float32 (users first, then items; symmetric)."""

    def __init__(self, num_users: int, num_items: int, user_item, embedding_dim: int, num_layers: int, device: str):
        super().__init__()
        self.num_users, self.num_items, self.num_layers = num_users, num_items, num_layers
        self.user_id_embedding = nn.Embedding(num_users, embedding_dim)
        self.item_id_embedding = nn.Embedding(num_items, embedding_dim)
        for embedding in (self.user_id_embedding, self.item_id_embedding):
            nn.init.xavier_uniform_(embedding.weight)
        self.user_item = csr_tensor(user_item, device)

    def forward(self) -> Pair:
        """Representations of the users (U, d) and of the items (I, d)."""
        return self.propagate(self.user_item, self.user_id_embedding.weight, self.item_id_embedding.weight)

    def propagate(self, graph: torch.Tensor, users: torch.Tensor, items: torch.Tensor) -> Pair:
        """The mean over layers 0 to num_layers."""
        x = total = torch.cat([users, items])
        for _ in range(self.num_layers):
            x = SparseProduct.apply(graph, graph, x)
            total = total + x
        return (total / (self.num_layers + 1)).split([self.num_users, self.num_items])

    def losses(self, out: Pair, batch: Batch, l2_weight: float) -> dict[str, torch.Tensor]:
        """The weighted parts, {"bpr", "l2"}."""
        users, positives, negatives = batch
        rows = (
            self.user_id_embedding(users),
            self.item_id_embedding(positives),
            self.item_id_embedding(negatives),
        )
        squares = sum(row.square().sum() for row in rows)
        return {"bpr": bpr(*out, batch), "l2": l2_weight * squares / 2 / len(users)}


class TorchFREEDOM(TorchLightGCN):
    """FREEDOM; `item_item` is a scipy csr_array of float32, `item_features` are float32 (I, width) each, trained."""

    def __init__(
        self,
        num_users: int,
        num_items: int,
        user_item,
        item_item,
        item_features: dict[str, np.ndarray],
        embedding_dim: int,
        num_layers: int,
        num_item_layers: int,
        edge_dropout: float,
        device: str,
    ):
        super().__init__(num_users, num_items, user_item, embedding_dim, num_layers, device)
        self.num_item_layers = num_item_layers
        self.item_item = csr_tensor(item_item, device)
        self.item_item_transposed = csr_tensor(item_item.T.tocsr(), device)
        self.tables = nn.ModuleDict(
            {name: nn.Embedding.from_pretrained(torch.tensor(x), freeze=False) for name, x in item_features.items()}
        )
        # Without the bias of the published code, which cancels in the loss.
        self.projections = nn.ModuleDict(
            {name: nn.Linear(x.shape[1], embedding_dim, bias=False) for name, x in item_features.items()}
        )
        edges = scipy.sparse.coo_array(user_item[:num_users, num_users:])
        self.edges = torch.tensor(np.stack([edges.row, edges.col]), dtype=torch.int64, device=device)
        self.edge_weights = torch.tensor(edges.data, device=device)
        self.num_kept = int(len(edges.data) * (1 - edge_dropout))
        self.kept = self.user_item

    def prune(self) -> None:
        """Draws the edges of an epoch, and makes `kept` of them."""
        chosen = torch.multinomial(self.edge_weights, self.num_kept).sort().values
        users, items = self.edges[:, chosen]
        items = items + self.num_users
        num_nodes = self.num_users + self.num_items
        counts = torch.bincount(torch.cat([users, items]), minlength=num_nodes)
        scale = (counts + 1e-7).rsqrt()
        values = scale[users] * scale[items]
        by_item = items.argsort(stable=True)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        columns, values = torch.cat([items, users[by_item]]), torch.cat([values, values[by_item]])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            # int32, which MKL's product takes as it is.
            self.kept = torch.sparse_csr_tensor(
                starts.int(), columns.int(), values, size=(num_nodes, num_nodes), check_invariants=False
            )

    def forward(self) -> Pair:
        """As LightGCN's, in training over the kept edges; plus the items' propagation over item_item."""
        graph = self.kept if self.training else self.user_item
        users, items = self.propagate(graph, self.user_id_embedding.weight, self.item_id_embedding.weight)
        return users, items + self.similar(self.item_id_embedding.weight)

    def similar(self, items: torch.Tensor) -> torch.Tensor:
        """The last layer over item_item, (I, d)."""
        for _ in range(self.num_item_layers):
            items = SparseProduct.apply(self.item_item, self.item_item_transposed, items)
        return items

    def project(self, items: torch.Tensor) -> list[torch.Tensor]:
        """The projected features of some items (n,), (n, d) for each modality."""
        return [self.projections[name](table(items)) for name, table in self.tables.items()]

    def losses(self, out: Pair, batch: Batch, modality_weight: float) -> dict[str, torch.Tensor]:
        """The weighted parts, {"bpr", "modalities"}."""
        users, positives, negatives = batch
        projected = self.project(torch.cat([positives, negatives]))
        return {"bpr": bpr(*out, batch), "modalities": modality_weight * modality_loss(out[0][users], projected)}


class TorchMGCN(TorchLightGCN):
    """MGCN; `item_items` are scipy csr_arrays of float32 by modality, `item_features` float32 (I, width), trained."""

    def __init__(
        self,
        num_users: int,
        num_items: int,
        user_item,
        item_items: dict,
        item_features: dict[str, np.ndarray],
        embedding_dim: int,
        num_layers: int,
        temperature: float,
        device: str,
    ):
        super().__init__(num_users, num_items, user_item, embedding_dim, num_layers, device)
        d, self.temperature = embedding_dim, temperature
        block = user_item[:num_users, num_users:].tocsr()
        self.block, self.block_transposed = csr_tensor(block, device), csr_tensor(block.T.tocsr(), device)
        self.item_items = {
            name: (csr_tensor(graph, device), csr_tensor(graph.T.tocsr(), device)) for name, graph in item_items.items()
        }
        self.tables = nn.ModuleDict(
            {name: nn.Embedding.from_pretrained(torch.tensor(x), freeze=False) for name, x in item_features.items()}
        )
        self.projections = nn.ModuleDict({name: nn.Linear(x.shape[1], d) for name, x in item_features.items()})
        self.gates = nn.ModuleDict({name: nn.Linear(d, d) for name in item_features})
        self.preferences = nn.ModuleDict({name: nn.Linear(d, d) for name in item_features})
        self.query, self.query_score = nn.Linear(d, d), nn.Linear(d, 1, bias=False)

    def forward(self) -> Pair:
        """Representations; in training all views side by side, (U, (1 + M) d) and (I, (1 + M) d), for `fuse`."""
        shared = self.propagate(self.user_item, self.user_id_embedding.weight, self.item_id_embedding.weight)
        gates = self.project().values()
        views = self.views([self.item_id_embedding.weight * gate.sigmoid() for gate in gates])
        tables = tuple(torch.cat(pair, 1) for pair in zip(shared, views, strict=True))
        return tables if self.training else tuple(self.fuse(rows)[0] for rows in tables)

    def project(self) -> dict[str, torch.Tensor]:
        """Of each modality what its gates are the sigmoid of, (I, d)."""
        return {name: self.gates[name](self.projections[name](table.weight)) for name, table in self.tables.items()}

    def views(self, purified: list[torch.Tensor]) -> Pair:
        """Of purified features (I, d) of each modality their views side by side, (U, M d) and (I, M d)."""
        graphs = zip(self.item_items.values(), purified, strict=True)
        items = torch.cat([SparseProduct.apply(*graph, x) for graph, x in graphs], 1)
        return SparseProduct.apply(self.block, self.block_transposed, items), items

    def fuse(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of rows of all views (n, (1 + M) d): representation, side and the shared view, (n, d) each."""
        shared, *views = rows.chunk(1 + len(self.tables), 1)
        scores = torch.cat([self.query_score(self.query(view).tanh()) for view in views], 1)
        shares = scores.softmax(1).split(1, 1)
        common = sum(share * view for share, view in zip(shares, views, strict=True))
        gates = [prefer(shared).sigmoid() for prefer in self.preferences.values()]
        own = sum(gate * (view - common) for gate, view in zip(gates, views, strict=True))
        side = (own + common) / (1 + len(views))
        return shared + side, side, shared

    def losses(self, out: Pair, batch: Batch, weights: tuple[float, float]) -> dict[str, torch.Tensor]:
        """The weighted parts, {"bpr", "l2", "contrastive"}; weights of L2 and of the contrastive loss."""
        fused = [self.fuse(table[rows]) for table, rows in zip((*out, out[1]), batch, strict=True)]
        return mgcn_losses(fused, self.temperature, weights)


def mgcn_losses(fused: list, temperature: float, weights: tuple[float, float]) -> dict[str, torch.Tensor]:
    """The weighted parts, of what `fuse` gives of users, positives and negatives, (b, d) each."""
    (users, *of_users), (positives, *of_positives), (negatives, *_) = fused

    def info_nce(side: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        logits = F.normalize(side) / temperature @ F.normalize(shared).T
        return F.cross_entropy(logits, torch.arange(len(side), device=side.device))

    squares = sum(rows.square().sum() for rows in (users, positives, negatives))
    l2_weight, contrastive_weight = weights
    return {
        "bpr": -F.logsigmoid((users * (positives - negatives)).sum(1)).mean(),
        "l2": l2_weight * squares / 2 / len(users),
        "contrastive": contrastive_weight * (info_nce(*of_users) + info_nce(*of_positives)),
    }


def bpr(users: torch.Tensor, items: torch.Tensor, batch: Batch) -> torch.Tensor:
    """-log sigmoid of the margins, mean over the batch; users (U, d), items (I, d)."""
    rows, positives, negatives = batch
    return -F.logsigmoid((users[rows] * (items[positives] - items[negatives])).sum(1)).mean()


def modality_loss(users: torch.Tensor, projected: list[torch.Tensor]) -> torch.Tensor:
    """The sum over the modalities; users (b, d), projected (2b, d), positives first."""
    halves = [x.chunk(2) for x in projected]
    return sum(-F.logsigmoid((users * (x - y)).sum(1)).mean() for x, y in halves)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, weight) -> torch.Tensor:
    """One step on a batch on the model's device; `weight` as `losses` takes it. The loss, detached."""
    optimizer.zero_grad()
    total = sum(model.losses(model(), batch, weight).values())
    total.backward()
    optimizer.step()
    return total.detach()
