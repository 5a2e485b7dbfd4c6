"""The yardstick: REARM (arXiv 2508.13745) and its training step in plain PyTorch, as a good PyTorch user writes it.

Ready-made parts wherever there are any (nn.MultiheadAttention, torch.sparse, AdamW, DataLoader); where PyTorch offers
several ways, the one that was fastest on a CPU. Eager; `torch.compile(train_step)` is the compiled step.
"""

import dataclasses
import warnings
from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]
Output = tuple[torch.Tensor, torch.Tensor, Pair, Pair]


@dataclasses.dataclass(frozen=True)
class TorchGraphs:
    """Sparse CSR float32: user_item (users first, then items; symmetric), and the other two with their transposes."""

    user_item: torch.Tensor
    user_user: torch.Tensor
    item_item: torch.Tensor
    user_user_transposed: torch.Tensor
    item_item_transposed: torch.Tensor


def make_graphs(user_item, user_user, item_item, device: str = "cpu") -> TorchGraphs:
    """The graphs, scipy csr_array of float32 (user_item symmetric), as torch tensors on `device`."""

    directed = user_user, item_item, user_user.T.tocsr(), item_item.T.tocsr()
    return TorchGraphs(*(csr_tensor(graph, device) for graph in (user_item, *directed)))


def csr_tensor(graph: scipy.sparse.csr_array, device: str = "cpu") -> torch.Tensor:
    """A scipy csr_array of float32 on `device`."""
    # What jax gave may not be written to; torch wants to be able to.
    parts = (torch.from_numpy(np.require(part, requirements="W")) for part in (graph.indptr, graph.indices, graph.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(*parts, size=graph.shape, device=device, check_invariants=False)


class SparseProduct(torch.autograd.Function):
    """graph @ x with a stored transpose: torch's own backward of a CSR product transposes the graph at every step."""

    @staticmethod
    def forward(ctx, graph, transposed, x):
        ctx.transposed = transposed
        return graph @ x

    @staticmethod
    def backward(ctx, gradient):
        return None, None, ctx.transposed @ gradient


class TransformationMLP(nn.Module):
    """Linear d -> d r, PReLU, Linear, L2 normalise: one flattened d x r (or r x d) transformation a node."""

    def __init__(self, embedding_dim: int, rank: int):
        super().__init__()
        self.linear_pre = nn.Linear(embedding_dim, embedding_dim * rank)
        self.prl = nn.PReLU()
        self.linear_out = nn.Linear(embedding_dim * rank, embedding_dim * rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.linear_out(self.prl(self.linear_pre(x))))


class TorchREARM(nn.Module):
    """The model, with the parameter names of the original's state_dict; settings as in config.model.

    Those names call the modalities image and text: the first and second entry of `item_features` (modality -> float32
    (I, width)) and of `user_interests` (modality -> float32 (U, width), means over the users' items) take their places.
    `graphs` lie on the device that the model will be moved to.

    Raises:
      ValueError: there are not two modalities, or the two dicts differ in theirs.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        item_features: dict[str, np.ndarray],
        user_interests: dict[str, np.ndarray],
        graphs: TorchGraphs,
        embedding_dim: int,
        rank: int,
        num_layers: int,
        num_user_layers: int,
        num_item_layers: int,
        self_dropout: float,
        cross_dropout: float,
    ):
        super().__init__()
        if len(item_features) != 2 or list(item_features) != list(user_interests):
            raise ValueError(f"two modalities, the same for items and users: {[*item_features]}, {[*user_interests]}")
        d, self.embedding_dim, self.rank = embedding_dim, embedding_dim, rank
        self.num_users, self.num_items, self.graphs = num_users, num_items, graphs
        self.num_layers, self.num_user_layers, self.num_item_layers = num_layers, num_user_layers, num_item_layers
        first, second = (torch.tensor(table) for table in item_features.values())
        first_interest, second_interest = (torch.tensor(table) for table in user_interests.values())

        self.user_id_embedding, self.item_id_embedding = nn.Embedding(num_users, d), nn.Embedding(num_items, d)
        for embedding in (self.user_id_embedding, self.item_id_embedding):
            nn.init.normal_(embedding.weight, std=0.1)
        self.image_embedding = nn.Embedding.from_pretrained(first, freeze=False)
        self.text_embedding = nn.Embedding.from_pretrained(second, freeze=False)
        self.user_v_prefer, self.user_t_prefer = nn.Parameter(first_interest), nn.Parameter(second_interest)
        self.image_i_trs, self.image_u_trs = nn.Linear(first.shape[1], d), nn.Linear(first.shape[1], d)
        self.text_i_trs, self.text_u_trs = nn.Linear(second.shape[1], d), nn.Linear(second.shape[1], d)
        for linear in (self.image_i_trs, self.image_u_trs, self.text_i_trs, self.text_u_trs):
            nn.init.xavier_normal_(linear.weight)

        self.self_i_attn1 = nn.MultiheadAttention(1, 1, dropout=self_dropout, batch_first=True)
        self.self_i_attn2 = nn.MultiheadAttention(1, 1, dropout=self_dropout, batch_first=True)
        self.mutual_i_attn1 = nn.MultiheadAttention(1, 1, dropout=cross_dropout, batch_first=True)
        self.mutual_i_attn2 = nn.MultiheadAttention(1, 1, dropout=cross_dropout, batch_first=True)
        self.ly_norm, self.prl = nn.LayerNorm(d), nn.PReLU()
        self.meta_netu, self.meta_neti = nn.Linear(2 * d, d), nn.Linear(2 * d, d)
        self.mlp_u1, self.mlp_u2 = TransformationMLP(d, rank), TransformationMLP(d, rank)
        self.mlp_i1, self.mlp_i2 = TransformationMLP(d, rank), TransformationMLP(d, rank)

    def forward(self) -> Output:
        """(users (U, 3d), items (I, 3d), the users' two modal features (U, d), the items' two (I, d))."""
        users, items = self.homography(*self.project())
        user_ids, *user_modal = users.split(self.embedding_dim, dim=1)
        item_ids, *item_modal = items.split(self.embedding_dim, dim=1)
        user_modal = [self.prl(x) for x in user_modal]
        item_modal = self.item_attention(*item_modal)
        users, items = self.heterography(torch.cat([user_ids, *user_modal], 1), torch.cat([item_ids, *item_modal], 1))
        users, modal_users = self._represent(users, self.meta_netu, self.mlp_u1, self.mlp_u2)
        items, modal_items = self._represent(items, self.meta_neti, self.mlp_i1, self.mlp_i2)
        return users, items, modal_users, modal_items

    def project(self) -> Pair:
        """[IDs | first | second modality] of the users (U, 3d) and of the items (I, 3d)."""
        users = self.image_u_trs(self.user_v_prefer), self.text_u_trs(self.user_t_prefer)
        items = self.image_i_trs(self.image_embedding.weight), self.text_i_trs(self.text_embedding.weight)
        user_ids, item_ids = self.user_id_embedding.weight, self.item_id_embedding.weight
        return torch.cat([user_ids, *users], 1), torch.cat([item_ids, *items], 1)

    def homography(self, users: torch.Tensor, items: torch.Tensor) -> Pair:
        """Propagates (U, 3d) over user_user and (I, 3d) over item_item; the last layers, rows normalised."""
        for _ in range(self.num_user_layers):
            users = SparseProduct.apply(self.graphs.user_user, self.graphs.user_user_transposed, users)
        for _ in range(self.num_item_layers):
            items = SparseProduct.apply(self.graphs.item_item, self.graphs.item_item_transposed, items)
        return F.normalize(users), F.normalize(items)

    def item_attention(self, first: torch.Tensor, second: torch.Tensor) -> Pair:
        """Self-attention, then cross-attention, over the d coordinates of the items' two modal features (I, d)."""

        def attend(attention, query, x):
            source = x.unsqueeze(-1)
            attended, _ = attention(query.unsqueeze(-1), source, source, need_weights=False)
            return self.prl(self.ly_norm(x + attended.squeeze(-1)))

        first, second = attend(self.self_i_attn1, first, first), attend(self.self_i_attn2, second, second)
        return attend(self.mutual_i_attn1, second, first), attend(self.mutual_i_attn2, first, second)

    def heterography(self, users: torch.Tensor, items: torch.Tensor) -> Pair:
        """The mean over layers 0 to num_layers of user_item, of (U, 3d) and (I, 3d)."""
        x = total = torch.cat([users, items])
        for _ in range(self.num_layers):
            x = SparseProduct.apply(self.graphs.user_item, self.graphs.user_item, x)
            total = total + x
        return (total / (self.num_layers + 1)).split([self.num_users, self.num_items])

    def meta(self, modal: torch.Tensor, ids: torch.Tensor, net: nn.Linear, mlp_1: nn.Module, mlp_2: nn.Module):
        """What the modalities (n, 2d) share, as a transformation of the IDs (n, d) of users or of items: (n, d)."""
        with torch.no_grad():
            knowledge = net(modal)
        first, second = mlp_1(knowledge), mlp_2(knowledge)
        first = (first + first.mean(0)).view(-1, self.embedding_dim, self.rank).softmax(1)
        second = (second + second.mean(0)).view(-1, self.rank, self.embedding_dim).softmax(1)
        return (ids.unsqueeze(1) @ first @ second).squeeze(1)

    def _represent(self, x: torch.Tensor, net: nn.Linear, mlp_1: nn.Module, mlp_2: nn.Module):
        ids, modal = x[:, : self.embedding_dim], x[:, self.embedding_dim :]
        first, second = modal.split(self.embedding_dim, dim=1)
        shared = self.meta(modal, ids, net, mlp_1, mlp_2)
        return torch.cat([self.prl(part) + ids for part in (first, second, shared)], 1), (first, second)


def losses(out: Output, batch: Batch, contrastive_weight: float, temperature: float, orthogonal_weight: float):
    """(total loss, its weighted parts {bpr, contrastive, orthogonal}), scalars; batch: users, positives, negatives."""
    users, positives, negatives = batch
    all_users, all_items, modal_users, modal_items = out
    margin = (all_users[users] * (all_items[positives] - all_items[negatives])).sum(1)

    def contrastive(modal, ids):
        first, second = (F.normalize(x[ids]) for x in modal)
        return F.cross_entropy(first / temperature @ second.T, torch.arange(len(ids), device=ids.device))

    def orthogonal(modal, ids):
        centred = [x[ids] - x[ids].mean(0) for x in modal]
        first, second = (x / (x.detach().norm(dim=1, keepdim=True) + 1e-6) for x in centred)
        return (first.T @ second).square().mean()

    unique_users, unique_items = torch.unique(users), torch.unique(torch.cat([positives, negatives]))
    info_nce = contrastive(modal_users, unique_users) + contrastive(modal_items, unique_items)
    correlation = orthogonal(modal_users, users) + orthogonal(modal_items, positives)
    bpr = -F.logsigmoid(margin).mean()
    parts = {"bpr": bpr, "contrastive": contrastive_weight * info_nce, "orthogonal": orthogonal_weight * correlation}
    return sum(parts.values()), parts


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over all parameters; those without a gradient (the meta projections) are skipped, as in the original."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)


def train_step(model, optimizer, batch: Batch, contrastive_weight, temperature, orthogonal_weight) -> torch.Tensor:
    """One step on a batch (see `losses`) on the model's device; the total loss, detached."""
    optimizer.zero_grad()
    total, _ = losses(model(), batch, contrastive_weight, temperature, orthogonal_weight)
    total.backward()
    optimizer.step()
    return total.detach()


class Interactions(Dataset):
    """Train interactions, read a batch at a time: each comes with an item, drawn uniformly, that its user lacks."""

    def __init__(self, train_pairs: np.ndarray, num_users: int, num_items: int, device: str = "cpu"):
        if np.bincount(train_pairs[:, 0], minlength=num_users).max() >= num_items:
            raise ValueError("a user has every item: there is no negative to draw")
        self.users, self.items = torch.from_numpy(train_pairs.astype(np.int64)).to(device).T.contiguous()
        self.num_items = num_items
        self.keys = (self.users * num_items + self.items).sort().values

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: list[int] | torch.Tensor) -> Batch:
        users, positives = self.users[rows], self.items[rows]
        negatives, redrawn = torch.empty_like(users), torch.arange(len(users), device=users.device)
        while len(redrawn):
            negatives[redrawn] = torch.randint(self.num_items, redrawn.shape, device=users.device)
            keys = users[redrawn] * self.num_items + negatives[redrawn]
            place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
            redrawn = redrawn[self.keys[place] == keys]
        return users, positives, negatives


class DeviceLoader:
    """Batches of one shuffled epoch, as a DataLoader gives them, drawn on the device that holds the interactions."""

    def __init__(self, interactions: Interactions, batch_size: int):
        self.interactions, self.batch_size = interactions, batch_size

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.interactions), device=self.interactions.users.device)
        return (self.interactions[rows] for rows in order.split(self.batch_size))


def make_loader(train_pairs: np.ndarray, num_users: int, num_items: int, batch_size: int, num_workers: int = 0):
    """DataLoader of one shuffled epoch of batches (users, positives, negatives), int64; the last may be shorter.

    Raises:
      ValueError: a user has every item.
    """
    interactions = Interactions(train_pairs, num_users, num_items)
    batches = BatchSampler(RandomSampler(interactions), batch_size, drop_last=False)
    return DataLoader(interactions, sampler=batches, batch_size=None, num_workers=num_workers)


@torch.no_grad()
def evaluate(
    user_representations: torch.Tensor,
    item_representations: torch.Tensor,
    train_pairs: np.ndarray,
    target_pairs: np.ndarray,
    k: int,
    block_size: int,
) -> float:
    """Recall@k over all items but the user's train items, averaged over the users with a target.

    Args:
      user_representations, item_representations: float (U, c) and (I, c), on one device.
      train_pairs, target_pairs: int (n, 2), unique (user, item).
      block_size: users scored at a time.
    """
    num_items, device = len(item_representations), item_representations.device
    train = torch.from_numpy(train_pairs[np.argsort(train_pairs[:, 0])].astype(np.int64)).to(device)
    train_users, train_items = train.T.contiguous()
    targets = torch.from_numpy(target_pairs.astype(np.int64)).to(device)
    users, num_targets = targets[:, 0].unique(return_counts=True)
    target_keys = (targets[:, 0] * num_items + targets[:, 1]).sort().values

    recalls = []
    for block, counts in zip(users.split(block_size), num_targets.split(block_size), strict=True):
        scores = user_representations[block] @ item_representations.T
        start, stop = torch.searchsorted(train_users, torch.stack([block[0], block[-1] + 1])).tolist()
        rows = torch.searchsorted(block, train_users[start:stop])
        seen = block[rows] == train_users[start:stop]
        scores[rows[seen], train_items[start:stop][seen]] = -torch.inf
        keys = block[:, None] * num_items + scores.topk(k).indices
        place = torch.searchsorted(target_keys, keys).clamp_max(len(target_keys) - 1)
        recalls.append((target_keys[place] == keys).sum(1) / counts.double())
    return torch.cat(recalls).mean().item()
