"""Compares rearm_jax with numbers of the original: `python -m tests.golden FILE...` prints a JSON object for each file.

A file holds data, graphs, a starting state_dict, five batches, and what the original (dropout off) made of them.
Keys of the object, all largest absolute errors unless said:
  graphs: over the relations without randomness; co-occurrence rows that the original padded at random, or whose k-th
    place is tied, are left out.
  representation, modal_features, losses (total and weighted parts of the five batches), representation_after (five
    AdamW steps).
  gradients: of the first batch, largest error of a parameter relative to its largest entry. Dead parameters (constants
    that LayerNorm or the softmax cancels; gradients that are zero) are compared absolutely: dead_gradients.
  top20_agree: share of the places in the top-20 lists, validation and test, that hold the original's item.
  metrics: of recall, precision, NDCG and MAP at 1..20; metrics_agree: whether that is below 1e-6.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from rearm_jax import default
from rearm_jax.data.dataset import Dataset, group_by_user, make_dataset
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.ranking import make_blocks, rank_items
from rearm_jax.experiment import in_precision, make_optimizer, optimizer_rates
from rearm_jax.graphs import relations
from rearm_jax.graphs.adjacency import make_adjacency
from rearm_jax.models.rearm import REARM
from rearm_jax.models.rearm.torch_weights import from_torch, to_torch
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.step import TrainState, loss_share, train_step

MODALITIES = ("image", "text")


def compare(path: str) -> dict:
    """The comparison described above, for one file; products in the precision of config.matmul_precision."""
    with np.load(path, allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    config = _config(json.loads(str(golden["config"])))
    return in_precision(config.matmul_precision, functools.partial(_compare, path, golden, config))()


def _compare(path: str, golden: dict, config) -> dict:
    dataset = _dataset(golden)
    graphs = {
        "user_item": make_adjacency(sp.csr_array(golden["graph/norm_adj"]), ("user", "item"), symmetric=True),
        "user_user": make_adjacency(sp.csr_array(golden["graph/user_user"]), ("user",)),
        "item_item": make_adjacency(sp.csr_array(golden["graph/item_item"]), ("item",)),
    }
    model = _without_dropout(REARM.make(config, dataset))
    params = jax.tree.map(jnp.asarray, from_torch(_section(golden, "state"), MODALITIES))
    forward = jax.jit(model.apply)
    out = forward({"params": params}, graphs)
    modal = np.concatenate([np.concatenate(out.views[f"modal_{side}"], 1) for side in ("users", "items")])

    batches = [
        Batch(*(golden[f"batch/{name}"][b].astype(np.int32) for name in ("users", "positives", "negatives")), mask)
        for b, mask in enumerate(np.ones(golden["batch/users"].shape, bool))
    ]
    losses, state, gradients = _train(config, model, params, graphs, batches, len(dataset.train))
    after = forward({"params": state.params}, graphs)
    live, dead = _gradient_errors(gradients, _section(golden, "grad"))
    top20, metrics = _ranking_errors(golden, dataset, after)
    return {
        "file": path,
        "graphs": _graph_error(golden, config, dataset),
        "representation": _error(np.concatenate([out.users, out.items]), golden["out/representation"]),
        "modal_features": _error(modal, golden["out/modal_features"]),
        "losses": _error(losses, golden["out/losses"]),
        "gradients": live,
        "dead_gradients": dead,
        "representation_after": _error(np.concatenate([after.users, after.items]), golden["out/representation_after"]),
        "top20_agree": top20,
        "metrics": metrics,
        "metrics_agree": metrics < 1e-6,
    }


def _config(original: dict):
    """The settings of the file in our names."""
    config = default.get_config()
    config.protocol = "reference"
    config.learning_rate = float(original["lr"])
    config.weight_decay = float(original["reg_weight"])
    config.data.modalities = MODALITIES
    config.graph.user_knn_k, config.graph.item_knn_k = original["user_knn_k"], original["item_knn_k"]
    config.graph.user_cooccurrence_weight = float(original["uu_co_weight"])
    config.graph.item_cooccurrence_weight = float(original["ii_co_weight"])
    for side, short in (("user", "u"), ("item", "i")):
        first = float(original[f"{short}_mm_image_weight"])
        config.graph[f"{side}_modality_weights"] = (first, 1.0 - first)
    config.model.embedding_dim, config.model.rank = original["embedding_dim"], original["rank"]
    config.model.num_layers = original["num_layer"]
    config.model.num_user_layers, config.model.num_item_layers = original["n_uu_layers"], original["n_ii_layers"]
    config.model.self_dropout, config.model.cross_dropout = float(original["s_drop"]), float(original["m_drop"])
    config.loss.contrastive_weight = float(original["cl_loss_weight"])
    config.loss.temperature = float(original["cl_tmp"])
    config.loss.orthogonal_weight = float(original["diff_loss_weight"])
    return config


def _dataset(golden: dict) -> Dataset:
    splits = [golden[f"data/{split}"].T for split in ("train", "valid", "test")]
    features = {name: golden[f"data/{name}_feat"] for name in MODALITIES}
    return make_dataset(*splits, features, num_users=len(golden["state/user_id_embedding.weight"]))


def _without_dropout(model):
    return model.clone(self_dropout=0.0, cross_dropout=0.0)


def _train(config, model, params, graphs, batches, num_interactions):
    """(losses (batches, 4), state after one step a batch, gradient of the first batch)."""
    tx = make_optimizer(config, num_interactions).transformation(model, optimizer_rates(config))
    state = TrainState(params, tx.init(params), jnp.int32(0), jax.random.key_data(jax.random.key(0)))
    share = functools.partial(loss_share, model)
    gradient = jax.jit(jax.grad(lambda p, batch: share(p, graphs, batch, jax.random.key(0), ALONE)[0]))
    gradients = gradient(params, batches[0])
    step = jax.jit(lambda state, batch: train_step(model, tx, state, graphs, batch, ALONE))
    losses = []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append([float(metrics.get(name, 0.0)) for name in ("loss", "bpr", "contrastive", "orthogonal")])
    return np.array(losses), state, gradients


def _gradient_errors(gradients: dict, golden: dict) -> tuple[float, float]:
    """(largest relative error of the live parameters, largest absolute error of the dead ones)."""
    live, dead = [0.0], [0.0]
    for name, found in to_torch(gradients, MODALITIES).items():
        expected = golden[name]
        if name.endswith("out_proj.bias") or np.abs(expected).max() == 0:
            dead.append(_error(found, expected))
            continue
        if name.endswith("in_proj_bias"):
            dead.append(_error(found[1:], expected[1:]))
            found, expected = found[:1], expected[:1]
        # What an attention block adds almost cancels in the LayerNorm behind it. Against float64, the original's own
        # float32 gradients of these scalars are wrong by up to 1e-8: below 1e-4 they are compared relative to 1e-4.
        floor = 1e-4 if "_attn" in name else 0.0
        live.append(_error(found, expected) / max(float(np.abs(expected).max()), floor))
    return max(live), max(dead)


def _ranking_errors(golden: dict, dataset: Dataset, out) -> tuple[float, float]:
    """(share of top-20 places that agree, largest error of a metric), over validation and test."""
    seen = group_by_user(dataset.train, dataset.num_users)
    depth = min(20, dataset.num_items)
    agree, errors = [], []
    for split, pairs in (("valid", dataset.valid), ("test", dataset.test)):
        blocks = make_blocks(golden[f"out/{split}_users"], seen, block_size=64)
        top_items, _ = rank_items(out.users, out.items, blocks, depth)
        is_user = blocks.users >= 0
        agree.append(np.asarray(top_items)[is_user] == golden[f"out/{split}_top20"][:, :depth])
        ks = range(1, depth + 1)
        metrics = split_metrics(top_items, blocks.users, group_by_user(pairs, dataset.num_users), ks)
        for name in ("precision", "recall", "ndcg", "map"):
            errors.append(_error([metrics[f"{name}@{k}"] for k in ks], golden[f"out/{split}_{name}"][:depth]))
    return float(np.mean(np.concatenate(agree))), max(errors)


def _graph_error(golden: dict, config, dataset: Dataset) -> float:
    """Largest error over the relations that involve neither randomness nor ties."""
    sizes = dataset.num_users, dataset.num_items
    errors = [_error(relations.user_item_graph(dataset.train, *sizes).toarray(), golden["graph/norm_adj"])]
    incidence = relations.interaction_matrix(dataset.train, *sizes)
    interests = {
        name: relations.user_interest_features(dataset.train, dataset.num_users, dataset.features[name])
        for name in MODALITIES
    }
    # Not graph/user_*_interest: those arrays are the original's parameters, and hold the values after five steps.
    for name, letter in zip(MODALITIES, "vt", strict=True):
        errors.append(_error(interests[name], golden[f"state/user_{letter}_prefer"]))

    for side, matrix, features, similarity in (
        ("user", incidence, interests, "user_interest"),
        ("item", incidence.T.tocsr(), dataset.features, "item_semantic"),
    ):
        k = config.graph[f"{side}_knn_k"]
        knn = relations.combine(
            config.graph[f"{side}_modality_weights"],
            [functools.partial(relations.knn_graph, features[name], k) for name in MODALITIES],
        )
        errors.append(_error(knn.toarray(), golden[f"graph/{similarity}"]))

        counts = (matrix @ matrix.T).toarray()
        np.fill_diagonal(counts, 0)
        errors.append(_error(counts, golden[f"graph/{side}_cooccurrence_counts"]))
        ordered = -np.sort(-counts, axis=1)
        certain = (ordered[:, k - 1] > 0) & (ordered[:, k - 1] > np.append(ordered, ordered[:, :1] * 0, axis=1)[:, k])
        popularity = np.asarray(matrix.sum(axis=1)).ravel()
        found = relations.cooccurrence_graph(matrix, k, popularity).toarray()
        errors.append(_error(found[certain], golden[f"graph/{side}_cooccurrence"][certain]))
    return max(errors)


def _section(golden: dict, prefix: str) -> dict:
    return {name.removeprefix(f"{prefix}/"): array for name, array in golden.items() if name.startswith(f"{prefix}/")}


def _error(found, expected) -> float:
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max(initial=0.0))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.golden FILE...")
    for file_path in sys.argv[1:]:
        print(json.dumps(compare(file_path)), flush=True)
