"""How well items that training did not see are ranked among themselves, against chance and content alone.

    REARM_DATA=FOLDER python -m benchmarks.held_out_items --data office --model lightgcn --model rearm

FOLDER holds office/ and ml-100k/ (docs/results.md). A fifth of the items is held out with all interactions; a model is
trained on the rest, and the items held out are represented from their features (rearm_jax/inference/new_items.py).
Recall@20 is that of each user's interactions with them, in a list of them alone, mean over the users who have any.

- random: what a list drawn at random finds on average.
- content: of the ten items of the catalogue with the most similar features, the similarities of those that the user
  has in train, summed; "content, all": of all items.

Prints a row for each model and seed; the seed chooses the items, too.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from rearm_jax import default
from rearm_jax.config import resolve
from rearm_jax.data.dataset import Dataset, group_by_user, load_dataset, make_dataset
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.ranking import make_blocks
from rearm_jax.evaluation.scoring import Scores, dot_products, each_block, rank_block
from rearm_jax.experiment import make_experiment
from rearm_jax.graphs.knn import nearest_exact
from rearm_jax.inference.new_items import represent_new_items
from rearm_jax.inference.trained import Trained
from rearm_jax.training.best_step import best_params
from rearm_jax.training.lock import RunLock
from rearm_jax.training.loop import train
from rearm_jax.training.placement import place

DATA = {"office": ("title", "description"), "ml-100k": ("text", "genres")}  # folder -> modalities
SHARE, K, NEIGHBOURS = 0.2, 20, 10
SETTINGS = {  # of runs on the whole of MovieLens
    "lightgcn": {"learning_rate": 1e-2},
    "rearm": {
        "weight_decay": 1e-2,
        "graph.user_knn_k": 20,
        "graph.item_knn_k": 10,
        "graph.user_cooccurrence_weight": 0.5,
        "graph.item_cooccurrence_weight": 0.5,
        "model.num_layers": 2,
        "model.self_dropout": 0.1,
        "model.cross_dropout": 0.1,
        "loss.contrastive_weight": 1e-2,
        "loss.temperature": 0.2,
        "loss.orthogonal_weight": 1e-4,
        "loss.l2_weight": 0.1,
    },
}


def hold_out(dataset: Dataset, seed: int) -> tuple[Dataset, dict[str, np.ndarray], np.ndarray]:
    """The data without a share of the items, the features of these, and who has which of them: int32 (n, 2)."""
    rng = np.random.default_rng(seed)
    is_new = np.zeros(dataset.num_items, bool)
    is_new[rng.permutation(dataset.num_items)[: int(SHARE * dataset.num_items)]] = True
    number = np.where(is_new, np.cumsum(is_new), np.cumsum(~is_new)) - 1  # among the new, or among the others
    splits = [getattr(dataset, split) for split in ("train", "valid", "test")]
    known = [np.stack([part[:, 0], number[part[:, 1]]])[:, ~is_new[part[:, 1]]] for part in splits]
    pairs = np.concatenate(splits)
    pairs = pairs[is_new[pairs[:, 1]]]
    rest = make_dataset(*known, {name: table[~is_new] for name, table in dataset.features.items()}, dataset.num_users)
    held_out = np.stack([pairs[:, 0], number[pairs[:, 1]]], axis=1).astype(np.int32)
    return rest, {name: table[is_new] for name, table in dataset.features.items()}, held_out


def trained_on(dataset: Dataset, config: ConfigDict) -> Trained:
    """The best checkpoint of a run."""
    experiment = make_experiment(config, dataset)
    with tempfile.TemporaryDirectory() as folder:
        workdir = os.path.join(folder, "run")
        with RunLock(workdir) as lock:
            train(experiment, workdir, lock)
        step, params = best_params(place(experiment), workdir)
    return Trained("", step, experiment, params)


def by_content(dataset: Dataset, features: dict[str, np.ndarray], neighbours: int) -> Scores:
    """Similarities of a new item's nearest items of the catalogue, summed over a user's own, and over modalities."""
    similar = np.zeros((len(next(iter(features.values()))), dataset.num_items), np.float32)
    for name, table in features.items():
        values, found = nearest_exact(dataset.features[name], neighbours, name, table)
        similar[np.arange(len(table))[:, None], found] += values
    has = np.zeros((dataset.num_users, dataset.num_items), np.float32)
    has[tuple(dataset.train.T)] = 1
    return lambda users: has[users] @ similar.T


def recall(scores: Scores, num_users: int, held_out: np.ndarray) -> float:
    """Recall@K of the held-out interactions within the new items."""
    nobody = np.zeros(num_users + 1, np.int32), np.zeros(0, np.int32)
    blocks = make_blocks(np.unique(held_out[:, 0]), nobody, 1024)
    lists = [rank_block(scores(np.asarray(block.users)), block, K)[0] for block in each_block(blocks)]
    found = split_metrics(np.stack(lists), np.asarray(blocks.users), group_by_user(held_out, num_users), (K,))
    return found[f"recall@{K}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, required=True)
    parser.add_argument("--model", action="append", required=True, help="may be given again")
    parser.add_argument("--epochs", type=int, default=60, help="at most; default %(default)s")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    root = Path(os.environ.get("REARM_DATA", "data")) / arguments.data
    whole = load_dataset(root, DATA[arguments.data])
    print("| model | seed | new items | random | content | content, all | model | epoch | minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.model:
        for seed in range(arguments.seeds):
            dataset, features, held_out = hold_out(whole, seed)
            config = default.get_config(name)
            changes = {"seed": seed, "num_epochs": arguments.epochs, "patience": 10, "batch_size": 1024}
            config.update_from_flattened_dict(changes | SETTINGS.get(name, {}))
            config.data.update(root=str(root), modalities=DATA[arguments.data])
            config.log.update(progress=False, tensorboard=False)
            start = time.monotonic()
            trained = trained_on(dataset, resolve(config))
            minutes = (time.monotonic() - start) / 60
            num_new = len(next(iter(features.values())))
            scores = [
                by_content(dataset, features, NEIGHBOURS),
                by_content(dataset, features, dataset.num_items),
                dot_products(trained.representations.users, represent_new_items(trained, features)),
            ]
            found = " | ".join(f"{recall(one, dataset.num_users, held_out):.4f}" for one in scores)
            epoch = trained.step // -(-len(dataset.train) // config.batch_size)
            print(
                f"| {name} | {seed} | {num_new} | {K / num_new:.4f} | {found} | {epoch} | {minutes:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
