"""`config.parallel = "row"` on 1, 2, 4, 8 virtual devices: bytes on a device, and bytes that it sends in a train step.

    python -m benchmarks.devices [--users 100000] [--devices 1 2 4 8]

Each number of devices is a process of its own, whose XLA makes that many devices of the CPU. Memory is XLA's account of
the compiled train step; traffic is counted in its optimised program, and beside it stands what the formula of
docs/scaling.md says. Random interactions (8 a user, popularity of items as 1/rank^0.8), random graphs, features of the
paper's sizes: only sizes matter here. Writes benchmarks/results/devices.json and .md.
"""

import argparse
import functools
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import scipy.sparse

from benchmarks.machine import describe
from rearm_jax.configs import baby
from rearm_jax.data.dataset import make_dataset
from rearm_jax.experiment import Experiment, abstract_params, make_optimizer
from rearm_jax.graphs.adjacency import Adjacency, make_adjacency, user_item_adjacency
from rearm_jax.models.rearm import REARM
from rearm_jax.parallel.rows import is_table
from rearm_jax.training.placement import RowPlacement, place
from rearm_jax.training.sampling import make_sampler
from rearm_jax.training.step import steps_with_rates

RESULTS = Path(__file__).parent / "results"
_WIDTH = 128  # of the features of each of the two modalities
_INTERACTIONS = 8  # of a user, on average
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute")


def random_experiment(num_users: int, num_items: int) -> Experiment:
    """REARM with the settings of configs/baby.py, on data and graphs drawn at random."""
    config = baby.get_config()
    config.parallel = "row"
    config.protocol = "strict"
    random = np.random.default_rng(0)
    weights = random.permutation(np.arange(1, num_items + 1) ** -0.8)
    users = np.repeat(np.arange(num_users), _INTERACTIONS)
    items = random.choice(num_items, len(users), p=weights / weights.sum())
    pairs = np.unique(np.stack([users, items], axis=1), axis=0).astype(np.int32)
    held_out = random.choice(len(pairs), 2000, replace=False)
    features = {name: random.standard_normal((num_items, _WIDTH), np.float32) for name in config.data.modalities}
    train = np.delete(pairs, held_out, axis=0)
    dataset = make_dataset(train, pairs[held_out[:1000]], pairs[held_out[1000:]], features, num_users)
    graphs = {
        "user_item": user_item_adjacency(dataset.train, num_users, num_items),
        "user_user": _random_graph(random, "user", num_users, 2 * config.graph.user_knn_k),
        "item_item": _random_graph(random, "item", num_items, 2 * config.graph.item_knn_k),
    }
    model = REARM.make(config, dataset)
    return Experiment(config, dataset, graphs, model, make_optimizer(config, len(dataset.train)))


def compile_step(placement: RowPlacement) -> tuple[jax.stages.Compiled, tuple]:
    """The train step by row, compiled for a state that is never made: (the program, its arguments or their shapes)."""
    experiment = placement.experiment
    model, rates = experiment.split_rates()
    sampler = placement.sampler(make_sampler(experiment.dataset, experiment.config.protocol))
    order = placement.whole(np.zeros(len(experiment.dataset.train), np.int32))
    args = (placement.like(), placement.inputs(), sampler, order, np.int32(0), rates)
    steps = functools.partial(steps_with_rates, model, experiment.optimizer, experiment.config.batch_size)
    return placement.lower(steps, args, donate=True).compile(), args


def count_traffic(program: str, num_devices: int) -> dict[str, float]:
    """Bytes that a device sends in one step, by kind of collective, counted in an optimised HLO program.

    In a ring of D devices, an all-gather sends (D - 1) / D of its result, a reduce-scatter of its operand, and an
    all-reduce twice that; a collective-permute sends its operand. Inside a loop a collective counts as often as the
    loop's known trip count; the loop over the steps, whose count is not known, counts once.

    Args:
      program: `compiled.as_text()`.
      num_devices: D, all of which take part in every collective.

    Raises:
      ValueError: the program holds an asynchronous collective, which this does not count.
    """
    if re.search(rf"\b({'|'.join(_COLLECTIVES)})-start\(", program):
        raise ValueError("the program holds asynchronous collectives")
    bodies, entry = {}, None
    for header, body in re.findall(r"^((?:ENTRY )?%[^\n]*) \{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL):
        name = re.search(r"%([\w.\-]+)", header)[1]
        bodies[name] = body
        entry = name if header.startswith("ENTRY") else entry
    share = (num_devices - 1) / num_devices
    factor = {"all-gather": share, "all-reduce": 2 * share, "reduce-scatter": share * num_devices}

    def sent_by(name: str) -> dict[str, float]:
        sent = dict.fromkeys(_COLLECTIVES, 0.0)
        for line in bodies[name].splitlines():
            if found := re.match(rf"\s*(?:ROOT )?%[\w.\-]+ = (.*?) ({'|'.join(_COLLECTIVES)})\(", line):
                sent[found[2]] += _num_bytes(found[1]) * factor.get(found[2], 1)
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            repeats = int(trips[1]) if " while(" in line and trips else 1
            for inner in re.findall(r"(?:body|calls|to_apply|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)", line):
                for callee in re.findall(r"%([\w.\-]+)", inner):
                    sent = {kind: value + repeats * sent_by(callee)[kind] for kind, value in sent.items()}
        return sent

    return sent_by(entry)


def predict_traffic(experiment: Experiment, num_devices: int) -> dict[str, float]:
    """The formula of docs/scaling.md: bytes that a device sends in one step of REARM or LightGCN, by purpose."""
    dataset, model, loss = experiment.dataset, experiment.config.model, experiment.config.loss
    share = (num_devices - 1) / num_devices
    held_users, held_items = -(-dataset.num_users // num_devices), -(-dataset.num_items // num_devices)
    d, batch = model.embedding_dim, experiment.config.batch_size
    padded = -(-batch // num_devices) * num_devices
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(experiment))
    sizes = {jax.tree_util.keystr(path): x.size for path, x in leaves if not is_table(path)}
    rows, width, taken, knowledge, coupled = model.num_layers * (held_users + held_items), d, d, 0, 0
    if model.name == "rearm":
        num_modalities = len(dataset.features)
        rows += model.num_user_layers * held_users + model.num_item_layers * held_items
        width += num_modalities * d
        taken += (num_modalities + 1) * d
        knowledge = (1 + model.train_meta_projection) * d  # only a trained projection gets a gradient back
        coupled = num_modalities * d * (num_modalities > 1 and loss.contrastive_weight + loss.orthogonal_weight > 0)
        sizes["means of the meta-networks"] = 8 * d * model.rank
        if not model.train_meta_projection:
            sizes = {name: size for name, size in sizes.items() if "_meta']['projection']" not in name}
    taken += d * (loss.l2_weight > 0)
    return {
        "propagation": 2 * (num_devices - 1) * np.dtype(experiment.config.ring_dtype).itemsize * width * rows,
        "batch rows": share * 4 * 3 * padded * (2 * taken + knowledge + 4 * coupled + 1),
        "negatives": 2 * share * 4 * 4 * batch,
        "replicated parameters": 2 * share * 4 * sum(sizes.values()),
    }


def measure(num_users: int) -> dict:
    """What this process's devices say: bytes on each of the arrays and the program, and the traffic of a step."""
    count = jax.device_count()
    experiment = random_experiment(num_users, num_users // 5)
    start = time.perf_counter()
    compiled, (state, graphs, sampler, *_) = compile_step(place(experiment))
    stats = compiled.memory_analysis()
    entries = {name: graph.matrix.nse for name, graph in experiment.inputs.items()}
    return {
        "devices": count,
        "tables and optimiser": _bytes_on_a_device(state),
        "graphs": _bytes_on_a_device(graphs),
        "sampler": _bytes_on_a_device(sampler),
        "temporaries": stats.temp_size_in_bytes,
        "total": stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes,
        "graph blocks filled": {name: nse / graphs[name].blocks.data.size for name, nse in entries.items()},
        "counted traffic": count_traffic(compiled.as_text(), count),
        "predicted traffic": predict_traffic(experiment, count),
        "compile seconds": time.perf_counter() - start,
        "machine": describe(),
    }


def main() -> None:
    """Measures every number of devices and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000, help="users; items are a fifth of them")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    found = []
    for count in args.devices:
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        }
        command = [sys.executable, "-m", "benchmarks.devices", "--measure", str(args.users)]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{count} devices measured", file=sys.stderr)
    text = _table(args.users, found)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "devices.json").write_text(json.dumps({"users": args.users, "runs": found}, indent=2) + "\n")
    (RESULTS / "devices.md").write_text(text + "\n")


def _table(num_users: int, found: list[dict]) -> str:
    def mb(value: float) -> str:
        return f"{value / 1e6:,.1f}"

    one = found[0]
    lines = [
        f"REARM by row, {num_users:,} users and {num_users // 5:,} items, settings of configs/baby.py with features "
        f"of {_WIDTH} + {_WIDTH}; {one['machine']['processor']}, {one['machine']['cores']} cores, {platform.system()}, "
        f"jax {one['machine']['versions']['jax']}. MB (10^6 bytes) on each device; `python -m benchmarks.devices`.",
        "",
        "| devices | tables + optimiser | graphs | sampler | temporaries | total | total x devices | sent in a step, "
        "counted | formula | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in found:
        counted, predicted = sum(run["counted traffic"].values()), sum(run["predicted traffic"].values())
        columns = [mb(run[key]) for key in ("tables and optimiser", "graphs", "sampler", "temporaries", "total")]
        growth = run["total"] * run["devices"] / (one["total"] * one["devices"])
        ratio = f"{counted / predicted:.4f}x" if predicted else "-"
        columns += [f"{growth:.2f}x", mb(counted), mb(predicted), ratio]
        lines.append(" | ".join([f"| {run['devices']}", *columns]) + " |")
    return "\n".join(lines)


def _random_graph(random: np.random.Generator, kind: str, num_nodes: int, degree: int) -> Adjacency:
    columns = random.integers(0, num_nodes, num_nodes * degree, np.int32)
    rows = np.repeat(np.arange(num_nodes, dtype=np.int32), degree)
    values = np.full(len(rows), 1 / degree, np.float32)
    graph = scipy.sparse.csr_array((values, (rows, columns)), shape=(num_nodes, num_nodes))
    graph.sum_duplicates()
    return make_adjacency(graph, (kind,))


def _num_bytes(shapes: str) -> int:
    """ "(f32[2,3]{1,0}, s32[4]{0})" -> 40."""
    total = 0
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        total += _BYTES[kind] * int(np.prod([int(size) for size in dims.split(",") if size], dtype=np.int64))
    return total


def _bytes_on_a_device(tree) -> int:
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main()
