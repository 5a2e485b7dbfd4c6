"""How soon a warm start is as good as a cold start becomes, where a tenth of the interactions is new.

    python -m benchmarks.warm_start runs/own_data

The folder is that of examples/own_data.sh: raw/ holds MovieLens-100K's tables, data/ its features, which are used as
they are. The new data are of all ratings, the old ones lack the latest tenth. For each seed, a run on the old data is
followed by three on the new: a cold start, a warm start from the old run's best checkpoint, and one that takes over the
state of its optimiser, too.

- time: validation and test are each user's latest interactions, as in docs/results.md. The old data are what was there
  of each split, so that what was train stays train.
- global-time: both are prepared with this split. Most users of validation then have no train interactions: people used
  MovieLens for a few days each.

The metric is the one that chooses the checkpoint. Epochs are counted, of each run, until the cold start's best, and
until 95% of it, which is more than what an epoch's value goes up and down by; a run that does not get there counts as
infinite. An epoch of either start is the same work, so a warm start's epochs as a share of the cold start's are its
share of the time of training, whatever else the machine does.
"""

import argparse
import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from ml_collections import ConfigDict

import rearm_jax
from benchmarks.held_out_items import SETTINGS
from benchmarks.machine import headline
from rearm_jax import Dataset
from rearm_jax.configs import movielens
from rearm_jax.data.dataset import make_dataset

MODALITIES = "text", "genres"
WARM = {"warm": False, "warm, optimiser too": True}  # way -> config.init_optimizer
GOALS = 0.95, 1.0  # of the cold start's best


def old_and_new(folder: Path, split: str) -> tuple[Dataset, Dataset]:
    """The data without the latest tenth of the ratings, and all."""
    columns = "user_id", "item_id", "rating", "timestamp"
    ratings = pl.read_csv(folder / "raw" / "ml-100k.inter", separator="\t", skip_rows=1, new_columns=columns)
    ids = np.load(folder / "data" / "item_ids.npy")
    features = {name: (ids, np.load(folder / "data" / f"{name}_feat.npy")) for name in MODALITIES}
    known = ratings.filter(pl.col("timestamp") < pl.col("timestamp").quantile(0.9))
    new = prepared(ratings, features, split)
    return within(new, known) if split == "time" else prepared(known, features, split), new


def prepared(ratings: pl.DataFrame, features: dict, split: str) -> Dataset:
    """As examples/own_data.sh does, but for the split."""
    return Dataset.from_tables(ratings, features=features, min_rating=4.0, k_core=5, split=split)


def within(dataset: Dataset, ratings: pl.DataFrame) -> Dataset:
    """The interactions that are among some ratings, each in its split, with the users and items that they have."""
    pairs = set(zip(ratings["user_id"].cast(str), ratings["item_id"].cast(str), strict=True))
    labels = dataset.labels
    train, valid, test = (
        np.array([pair for pair in part if (labels.user_ids[pair[0]], labels.item_ids[pair[1]]) in pairs])
        for part in (dataset.train, dataset.valid, dataset.test)
    )
    users, items = (np.unique(np.concatenate([train, valid, test])[:, column]) for column in (0, 1))
    for part in (train, valid, test):
        part[:, 0], part[:, 1] = np.searchsorted(users, part[:, 0]), np.searchsorted(items, part[:, 1])
    features = {name: table[items] for name, table in dataset.features.items()}
    names = {"user_ids": labels.user_ids[users], "item_ids": labels.item_ids[items]}
    return make_dataset(train, valid, test, features, labels=names)


def config_of(model: str, seed: int) -> ConfigDict:
    """configs/movielens.py; of another model, its length and batches."""
    config = movielens.get_config()
    config.data = rearm_jax.default_config().data  # which are in memory
    if model != "rearm":
        shared = {name: config[name] for name in ("num_epochs", "patience", "batch_size")}
        config = rearm_jax.default_config(model)
        config.update_from_flattened_dict(shared | SETTINGS.get(model, {}))
    config.seed = seed
    return config


def curve(config: ConfigDict, workdir: Path, dataset: Dataset) -> tuple[list[float], dict]:
    """The metric that chooses the checkpoint after each epoch, and the run's result."""
    values: list[float] = []
    name = f"valid/{config.evaluation.metric}"
    result = rearm_jax.train(config, workdir, False, dataset, lambda found: values.append(found[name]))
    if result is None:
        raise SystemExit(f"{workdir}: stopped")
    return values, result


def epochs_to(goal: float, values: list[float]) -> float:
    """How many epochs it takes to get to a value; infinite where none does."""
    return next((epoch for epoch, value in enumerate(values, 1) if value >= goal), math.inf)


def runs_of(config: ConfigDict, old: Dataset, new: Dataset) -> dict[str, tuple[list[float], dict]]:
    """`curve` of the starts on the new data."""
    config = config.copy_and_resolve_references()
    with tempfile.TemporaryDirectory() as folder:
        curve(config, Path(folder, "old"), old)
        found = {"cold": curve(config, Path(folder, "cold"), new)}
        for way, with_optimizer in WARM.items():
            config.update(init_from=str(Path(folder, "old")), init_optimizer=with_optimizer)
            found[way] = curve(config, Path(folder, way), new)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", help="may be given again; default rearm and lightgcn")
    parser.add_argument("--split", choices=("time", "global-time"), default="time", help="default %(default)s")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    old, new = old_and_new(arguments.folder, arguments.split)
    print(headline())
    for name, data in (("old", old), ("new", new)):
        sizes = ", ".join(f"{len(getattr(data, split)):,} {split}" for split in ("train", "valid", "test"))
        have_train = np.isin(np.unique(data.valid[:, 0]), data.train[:, 0])
        print(f"{name}: {sizes}; of {len(have_train)} users in validation, {have_train.sum()} have train interactions")
    print("| model | seed | start | first epoch | best | best epoch | test | epochs to 95% | to the cold best |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for model in arguments.model or ("rearm", "lightgcn"):
        epochs: dict[str, list[list[float]]] = {}  # start -> seed -> epochs to each goal
        for seed in range(arguments.seeds):
            config = config_of(model, seed)
            found = runs_of(config, old, new)
            goals = [share * max(found["cold"][0]) for share in GOALS]
            for start, (values, result) in found.items():
                reached = [epochs_to(goal, values) for goal in goals]
                epochs.setdefault(start, []).append(reached)
                best = f"{max(values):.4f} | {result['best_epoch']} of {len(values)}"
                cells = [f"{values[0]:.4f}", best, f"{result[f'test/{config.evaluation.metric}']:.4f}", *reached]
                print(f"| {model} | {seed} | {start} |", " | ".join(map(str, cells)), "|", flush=True)
        for start in WARM:
            for goal, shares in zip(GOALS, (np.array(epochs[start]) / np.array(epochs["cold"])).T, strict=True):
                each = ", ".join(f"{share:.2f}" for share in sorted(shares))
                print(f"{model}, {start}, to {goal:.0%}: median share {statistics.median(shares):.2f} ({each})")


if __name__ == "__main__":
    main()
