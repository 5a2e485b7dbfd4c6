"""Time and memory of graphs, train step and evaluation as the catalogue grows, with fitted exponents.

    python -m benchmarks.scaling [--max-users 1000000] [--out FILE]

Catalogues: see benchmarks/catalogue.py. Settings of configs/baby.py but for the protocol, strict, and the embeddings,
16 wide to save memory. The interest and semantic graphs use one modality (as the paper does for Baby's items), the
model both.

Each part of each size runs in a process of its own. Seconds are of the wall clock; CPU seconds count all threads and
suffer less from other programs. Memory is the peak of the process beyond what it held with imports and data loaded,
compilation included; Linux only. Writes FILE, by default benchmarks/results/scaling.json, and beside it the table, .md.
"""

import argparse
import importlib.metadata
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import scipy.sparse
from absl import logging

from benchmarks.catalogue import MODALITIES, make_catalogue
from benchmarks.machine import describe
from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from rearm_jax.configs import baby
from rearm_jax.data.dataset import Dataset, group_by_user, load_dataset
from rearm_jax.evaluation.ranking import make_blocks, rank_items
from rearm_jax.experiment import Experiment, init_params, make_optimizer
from rearm_jax.graphs import knn, relations
from rearm_jax.graphs.adjacency import make_adjacency, user_item_adjacency
from rearm_jax.models.rearm import REARM
from rearm_jax.parallel.rows import ALONE
from rearm_jax.training.sampling import make_sampler
from rearm_jax.training.step import TrainState, draw_order, train_steps

SIZES = (10_000, 31_623, 100_000, 316_228, 1_000_000)
PARTS = (
    "co-occurrence users",
    "co-occurrence items",
    "kNN users exact",
    "kNN users approx",
    "kNN items exact",
    "kNN items approx",
    "train step",
    "evaluation",
)
_RESULTS = Path(__file__).parent / "results" / "scaling.json"
_EMBEDDING_DIM = 16
_STEPS = 2  # train steps in one call; their mean is reported
_RANKED_USERS = 8192  # at most; evaluation ranks a sample of the users
_RECALL_ROWS = 256


def measure_graph(part: str, dataset: Dataset, folder: Path) -> dict:
    """Builds one relation and keeps it in the folder for the model's parts."""
    relation, side, *method = part.split()
    config = baby.get_config().graph
    k = config.user_knn_k if side == "users" else config.item_knn_k
    incidence = relations.interaction_matrix(dataset.train, dataset.num_users, dataset.num_items)
    if relation == "co-occurrence":
        incidence = incidence if side == "users" else incidence.T.tocsr()
        popularity = np.diff(incidence.indptr)
        graph, costs = _timed(lambda: relations.cooccurrence_graph(incidence, k, popularity, None, part))
        costs["products"] = int(np.sum(np.diff(incidence.T.tocsr().indptr).astype(np.int64) ** 2))
    else:
        features = dataset.features[MODALITIES[0]]
        if side == "users":
            features = relations.user_interest_features(dataset.train, dataset.num_users, features)
        graph, costs = _timed(lambda: relations.knn_graph(features, k, part, *method))
        if method == ["approx"]:
            costs["recall"] = _recall(graph, features, k)
    scipy.sparse.save_npz(folder / f"{part}.npz", graph, compressed=False)
    return costs | {"entries": graph.nnz}


def measure_step(dataset: Dataset, folder: Path) -> dict:
    """The mean of a few train steps in one call, compiled before."""
    experiment = _experiment(dataset, folder)
    config, params = experiment.config, init_params(experiment)
    key = jax.random.key_data(jax.random.key(0))
    state = TrainState(params, experiment.tx.init(params), np.int32(0), key)
    sampler = jax.device_put(make_sampler(experiment.dataset, config.protocol))
    steps = partial(train_steps, experiment.model, experiment.tx, config.batch_size, ALONE)
    run = jax.jit(steps, donate_argnums=0)
    del params
    order = jax.jit(partial(draw_order, len(experiment.dataset.train), config.batch_size, ALONE))(state)
    state, *_ = run(state, experiment.inputs, sampler, order, np.int32(0))
    (_, _, last), costs = _timed(lambda: run(state, experiment.inputs, sampler, order, np.int32(_STEPS)))
    if not np.isfinite(last["loss"]):
        raise SystemExit(f"the loss is {last['loss']}")
    return {name: value / _STEPS if "seconds" in name else value for name, value in costs.items()}


def measure_evaluation(dataset: Dataset, folder: Path) -> dict:
    """The forward pass of all nodes, and the ranking of all items for a sample of the users."""
    experiment = _experiment(dataset, folder)
    config, params = experiment.config, init_params(experiment)
    forward = jax.jit(lambda params, graphs: experiment.model.apply({"params": params}, graphs)[:2])
    forward(params, experiment.inputs)
    (users, items), costs = _timed(lambda: forward(params, experiment.inputs))
    sample = np.random.default_rng(0).permutation(dataset.num_users)[:_RANKED_USERS]
    blocks = make_blocks(sample, group_by_user(dataset.train, dataset.num_users), config.evaluation.block_size)
    rank = jax.jit(rank_items, static_argnames="k")
    rank(users, items, blocks, k=20)
    _, ranking = _timed(lambda: rank(users, items, blocks, k=20))
    for name in ("seconds", "cpu_seconds"):
        costs[f"forward_{name}"], costs[f"ranking_{name}_per_user"] = costs[name], ranking[name] / len(sample)
        costs[name] = costs[name] / dataset.num_users + ranking[name] / len(sample)
    return costs | {"ranked_users": len(sample)}


def _experiment(dataset: Dataset, folder: Path) -> Experiment:
    """The data, graphs put together from the relations in the folder, model and optimiser."""
    config = baby.get_config()
    config.protocol, config.model.embedding_dim = "strict", _EMBEDDING_DIM

    def homogeneous(side, num_nodes, weight):
        method = knn.choose_method("auto", num_nodes)
        names = f"co-occurrence {side}", f"kNN {side} {method}"
        graphs = [partial(scipy.sparse.load_npz, folder / f"{name}.npz") for name in names]
        return make_adjacency(relations.combine((weight, 1 - weight), graphs), (side.removesuffix("s"),))

    graphs = {
        "user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items),
        "user_user": homogeneous("users", dataset.num_users, config.graph.user_cooccurrence_weight),
        "item_item": homogeneous("items", dataset.num_items, config.graph.item_cooccurrence_weight),
    }
    model = REARM.make(config, dataset)
    return Experiment(config, dataset, graphs, model, make_optimizer(config, len(dataset.train)))


def _timed(function: Callable) -> tuple[object, dict[str, float]]:
    start, cpu_start = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    return result, {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}


def _recall(graph: scipy.sparse.csr_array, features: np.ndarray, k: int) -> float:
    """Share of the neighbours of some rows that are as near as the k-th nearest of an exhaustive search."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rows, found = np.random.default_rng(0).permutation(len(unit))[:_RECALL_ROWS], 0
    for row in rows:
        least = np.partition(unit @ unit[row], -k)[-k]
        found += np.sum(graph.data[graph.indptr[row] : graph.indptr[row + 1]] * k >= least - 1e-5)
    return float(found) / (k * len(rows))


def measure_size(num_users: int) -> dict:
    """All parts of one size, each in a process of its own; those that were killed (out of memory) are listed."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_catalogue(num_users)
        for name in ("train", "valid", "test"):
            np.save(Path(folder) / f"{name}.npy", getattr(dataset, name))
        for name, table in dataset.features.items():
            np.save(Path(folder) / f"{name}_feat.npy", table)
        size = {"users": num_users, "items": dataset.num_items, "interactions": len(dataset.train)}
        (Path(folder) / "sizes.json").write_text(json.dumps(size))
        del dataset
        parts, killed = {}, []
        for part in PARTS:
            nodes = size["users"] if "users" in part else size["items"]
            if part.endswith("exact") and nodes > knn.EXACT_UP_TO:
                continue
            command = [sys.executable, "-m", "benchmarks.scaling", "--measure", part, "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode < 0:
                logging.warning("%d users, %s: killed by signal %d", num_users, part, -done.returncode)
                killed.append(part)
                continue
            done.check_returncode()
            parts[part] = json.loads(done.stdout.splitlines()[-1])
            logging.info("%d users, %s: %s", num_users, part, parts[part])
        return size | {"parts": parts, "killed": killed}


def fit_exponent(sizes: list[float], costs: list[float]) -> float | None:
    """The slope of the least-squares line through the logarithms; None for fewer than two points."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]) if len(sizes) > 1 else None


def fit_all(sizes: list[dict]) -> dict[str, dict[str, float | None]]:
    """Exponents of every part's costs against train interactions, over all sizes and over the last two."""
    exponents = {}
    for part in PARTS:
        measured = [size for size in sizes if part in size["parts"]]
        x = [size["interactions"] for size in measured]
        exponents[part] = {}
        for name in ("seconds", "cpu_seconds", "peak_bytes"):
            y = [size["parts"][part][name] for size in measured]
            exponents[part] |= {name: fit_exponent(x, y), f"{name}_last_two": fit_exponent(x[-2:], y[-2:])}
    return exponents


def to_table(result: dict) -> str:
    """Markdown: costs of every part and size, then the exponents."""
    machine = result["machine"]
    lines = [f"`{result['command']}` on {machine['processor']}, {machine['cores']} cores, {machine['device']}", ""]
    lines += ["| part | users | items | interactions | s | CPU s | peak MB | |", "|---|---|---|---|---|---|---|---|"]
    for part in PARTS:
        for size in result["sizes"]:
            if part in size["killed"]:
                lines.append(
                    f"| {part} | {size['users']:,} | {size['items']:,} | {size['interactions']:,} | killed ||||"
                )
            if part not in size["parts"]:
                continue
            costs = size["parts"][part]
            unit, scale = (" (us a user)", 1e6) if part == "evaluation" else ("", 1)
            cells = [part + unit, *(f"{size[name]:,}" for name in ("users", "items", "interactions"))]
            cells += [f"{costs['seconds'] * scale:.3g}", f"{costs['cpu_seconds'] * scale:.3g}"]
            cells += [f"{costs['peak_bytes'] / 1e6:,.0f}", _remark(costs)]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Exponents against interactions, over all sizes (over the last two):", ""]
    lines += ["| part | seconds | CPU seconds | memory |", "|---|---|---|---|"]
    for part, fitted in result["exponents"].items():
        cells = [part]
        for name in ("seconds", "cpu_seconds", "peak_bytes"):
            whole, last = fitted[name], fitted[f"{name}_last_two"]
            cells.append("-" if whole is None else f"{whole:.2f} ({last:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _remark(costs: dict) -> str:
    if "recall" in costs:
        return f"recall {costs['recall']:.3f}"
    if "products" in costs:
        return f"{costs['products']:.2g} products"
    return f"{costs['ranked_users']:,} users ranked" if "ranked_users" in costs else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-users", type=int, default=SIZES[-1], help="largest size")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="JSON; the table goes beside it")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.set_verbosity(logging.INFO)
    if arguments.measure:
        _measure_here(arguments.measure, arguments.folder)
        return
    machine = describe()
    machine["versions"]["faiss-cpu"] = importlib.metadata.version("faiss-cpu")
    command = shlex.join(["python", "-m", "benchmarks.scaling", *sys.argv[1:]])
    result = {"command": command, "machine": machine, "sizes": []}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for num_users in (size for size in SIZES if size <= arguments.max_users):
        result["sizes"].append(measure_size(num_users))
        result["exponents"] = fit_all(result["sizes"])
        # After every size, so that a machine too small for the next one keeps what it has.
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(to_table(result))
    print(to_table(result))


def _measure_here(part: str, folder: Path) -> None:
    """Prints the costs of one part as JSON."""
    num_users = json.loads((folder / "sizes.json").read_text())["users"]
    dataset = load_dataset(folder, MODALITIES, num_users)
    jax.devices()
    restart_peak()
    before = resident_bytes()
    measure = {"train step": measure_step, "evaluation": measure_evaluation}.get(part, partial(measure_graph, part))
    costs = measure(dataset, folder)
    print(json.dumps(costs | {"peak_bytes": peak_bytes() - before}), flush=True)


if __name__ == "__main__":
    main()
