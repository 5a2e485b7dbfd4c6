"""The data and settings of a comparison, written to a folder so that both sides start from the same files."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import scipy.sparse
from ml_collections import ConfigDict

from rearm_jax.config import from_json, to_json
from rearm_jax.configs import baby, clothing, sports
from rearm_jax.data.dataset import Dataset, load_dataset, make_dataset
from rearm_jax.data.labels import make_labels
from rearm_jax.default import get_config
from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.graphs.relations import cooccurrence_graph, interaction_matrix, knn_graph, user_interest_features
from rearm_jax.models import find
from rearm_jax.models.rearm import REARM

PRESETS = {
    "tiktok": "real interactions and features (image 128, audio 128), settings of configs/baby.py",
    "baby": "real interactions, random features (image 4096, text 384)",
    "sports": "real interactions, random features (image 4096, text 384)",
    "clothing": "real interactions, random features (image 4096, text 384)",
}
_RANDOM_WIDTHS = {"image": 4096, "text": 384}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a side of the comparison loads."""

    config: ConfigDict
    dataset: Dataset
    graphs: dict[str, scipy.sparse.csr_array]
    interests: dict[str, np.ndarray]

    @property
    def width(self) -> int:
        """Of the representations."""
        parts = len(self.dataset.features) + 1 if self.config.model.name == "rearm" else 1
        return parts * self.config.model.embedding_dim


def make_problem(preset: str, data: Path, folder: Path) -> tuple[Problem, dict[str, float]]:
    """Reads or makes the data, builds the graphs, and writes all of it into `folder`.

    Args:
      preset: one of PRESETS.
      data: the folder that holds tiktok/, baby/, ... with their train.npy, valid.npy and test.npy.
      folder: exists and is empty.

    Returns:
      The problem, and seconds: "graphs cold", "graphs cached", "co-occurrence" (users' and items'), "knn" (items by
      their first modality) and "knn flops" (operations in its product).
    """
    config = {"tiktok": baby, "baby": baby, "sports": sports, "clothing": clothing}[preset].get_config()
    config.protocol = "strict"
    config.graph.cache_dir = str(folder / "graphs")
    config.log.tensorboard = config.log.progress = False
    config.evaluation.ks = (20,)  # the cut-off of the yardstick's evaluation
    if preset == "tiktok":
        config.data.modalities = ("image", "audio")
    dataset = read_data(preset, data)
    seconds = {}
    for name in ("graphs cold", "graphs cached"):
        start = time.perf_counter()
        graphs = REARM.relations(dataset, config)
        seconds[name] = time.perf_counter() - start
    interests = {
        name: user_interest_features(dataset.train, dataset.num_users, table)
        for name, table in dataset.features.items()
    }
    problem = Problem(config, dataset, scipy_graphs(graphs), interests)
    write_problem(problem, folder)
    return problem, seconds | _time_relations(problem)


def make_baseline_problem(model: str, preset: str, data: Path, folder: Path) -> Problem:
    """The same for LightGCN, FREEDOM or MGCN, with their default settings.

    Args:
      model: "lightgcn", "freedom" or "mgcn".
      preset, data, folder: as for `make_problem`.
    """
    config = get_config(model)
    config.data.root = preset
    config.graph.cache_dir = ""
    config.log.tensorboard = config.log.progress = False
    config.evaluation.ks = (20,)
    dataset = read_data(preset, data)
    config.data.modalities = tuple(dataset.features)
    problem = Problem(config, dataset, scipy_graphs(find(model).relations(dataset, config)), {})
    write_problem(problem, folder)
    return problem


def read_data(preset: str, data: Path) -> Dataset:
    """The data of a preset; its features are real or random, as PRESETS says."""
    if preset == "tiktok":
        return load_dataset(str(data / preset), ("image", "audio"))
    splits = [np.load(data / preset / f"{split}.npy", allow_pickle=False).T for split in ("train", "valid", "test")]
    num_items = int(max(split[:, 1].max() for split in splits)) + 1
    random = np.random.default_rng(0)
    features = {m: random.standard_normal((num_items, w), np.float32) for m, w in _RANDOM_WIDTHS.items()}
    return make_dataset(*splits, features)


def load_problem(folder: Path) -> Problem:
    """What was written."""
    config = from_json((folder / "config.json").read_text())
    sizes = json.loads((folder / "sizes.json").read_text())
    array = {path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in folder.glob("*.npy")}
    names = config.data.modalities
    dataset = Dataset(
        **{split: array[split] for split in ("train", "valid", "test")},
        features={name: array[f"features-{name}"] for name in names},
        **sizes,
        labels=make_labels({}, sizes["num_users"], sizes["num_items"]),
    )
    graphs = {}
    for name in (stem.removesuffix("-indptr") for stem in array if stem.endswith("-indptr")):
        data, indices, indptr = (array[f"{name}-{part}"] for part in ("data", "indices", "indptr"))
        graphs[name] = scipy.sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(indptr) - 1))
    interests = {name: array[f"interests-{name}"] for name in names if f"interests-{name}" in array}
    return Problem(config, dataset, graphs, interests)


def _time_relations(problem: Problem) -> dict[str, float]:
    dataset, graph = problem.dataset, problem.config.graph
    interactions = interaction_matrix(dataset.train, dataset.num_users, dataset.num_items)
    table = next(iter(dataset.features.values()))

    def cooccurrence() -> None:
        for matrix, k in ((interactions, graph.user_knn_k), (interactions.T.tocsr(), graph.item_knn_k)):
            cooccurrence_graph(matrix, k, np.diff(matrix.indptr), None, "co-occurrence")

    return {
        "co-occurrence": _median_seconds(cooccurrence),
        "knn": _median_seconds(lambda: knn_graph(table, graph.item_knn_k, "kNN")),
        "knn flops": 2 * table.shape[0] ** 2 * table.shape[1],
    }


def _median_seconds(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def scipy_graphs(graphs: Mapping[str, object]) -> dict[str, scipy.sparse.csr_array]:
    """The graphs among the inputs as float32 matrices on the host."""
    found = {}
    for name, graph in graphs.items():
        if not isinstance(graph, Adjacency):
            continue
        columns = np.asarray(graph.matrix.indices[:, 1])
        arrays = np.asarray(graph.matrix.data), columns, np.asarray(graph.indptr)
        found[name] = scipy.sparse.csr_array(arrays, shape=graph.matrix.shape)
    return found


def write_problem(problem: Problem, folder: Path) -> None:
    """Writes what `load_problem` reads."""
    dataset = problem.dataset
    arrays = {split: getattr(dataset, split) for split in ("train", "valid", "test")}
    arrays |= {f"features-{name}": table for name, table in dataset.features.items()}
    arrays |= {f"interests-{name}": table for name, table in problem.interests.items()}
    for name, graph in problem.graphs.items():
        arrays |= {f"{name}-{part}": getattr(graph, part) for part in ("data", "indices", "indptr")}
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    (folder / "config.json").write_text(to_json(problem.config))
    sizes = {name: getattr(dataset, name) for name in ("num_users", "num_items", "split_hash", "content_hash")}
    (folder / "sizes.json").write_text(json.dumps(sizes))
