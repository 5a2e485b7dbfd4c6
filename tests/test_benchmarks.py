"""The parts that are not PyTorch's: every part of our side runs, and the tables say what the results say."""

import math

import numpy as np
import polars as pl

from benchmarks import baselines, jax_side, problem, run, seeds, significance, table, warm_start
from benchmarks.costs import Sizes, part_costs
from rearm_jax.data.dataset import SPLITS, make_dataset
from rearm_jax.experiment import build_experiment
from rearm_jax.graphs.relations import user_interest_features
from tests.conftest import tiny_config

SIZES = Sizes(
    users=60,
    items=40,
    widths=(6, 6),
    embedding_dim=8,
    rank=3,
    layers=(1, 1, 4),
    entries=(300, 200, 700),
    batch=64,
    parameters=5000,
    interactions=353,
    ranked_users=50,
)


def test_every_part_runs_from_the_files_of_a_problem(tmp_path):
    config = tiny_config(graph__cache_dir=str(tmp_path / "graphs"))
    experiment = build_experiment(config)
    dataset = experiment.dataset
    graphs = problem.scipy_graphs(experiment.inputs)
    interests = {
        name: user_interest_features(dataset.train, dataset.num_users, features)
        for name, features in dataset.features.items()
    }
    written = problem.Problem(config, dataset, graphs, interests)
    problem.write_problem(written, tmp_path)
    read = problem.load_problem(tmp_path)
    assert all((read.graphs[name] != graph).nnz == 0 for name, graph in graphs.items())
    assert read.dataset.content_hash == dataset.content_hash
    parts = jax_side.load_parts(str(tmp_path), "jax")
    for make in parts.values():
        make()()
    assert set(parts) == {*run.PARTS, "compilation"} == set(part_costs(SIZES)) | {"compilation", "epoch", "evaluation"}


def test_seeds_together_are_the_seeds_apart():
    # `ways` compares their parameters itself.
    experiment = build_experiment(tiny_config(model__name="bpr", batch_size=64))
    functions = seeds.ways(experiment, num_seeds=2, num_steps=2)
    assert seeds.medians(functions, 1).keys() == {"one after another", "together"}


def test_costs_against_a_count_by_hand():
    costs = part_costs(SIZES)
    # Tables of 100 rows, 12 numbers wide in all: read, read again for the kernel's gradient, and their own gradient.
    assert costs["wide features"].bytes == 4 * (3 * 100 * 12 + 2 * 100 * 2 * 8)
    assert costs["wide features"].flops == 3 * 2 * 100 * 12 * 8
    assert costs["ranking"].flops == 2 * 50 * 40 * 3 * 8
    assert costs["propagation user-item"].flops == 2 * 4 * 2 * 700 * 24
    assert costs["ranking"].floor(1e9, 1.0) == costs["ranking"].flops
    assert costs["optimiser"].floor(1.0, 1e12) == 4 * 7 * 5000


def test_the_table_ends_each_row_in_the_ratio():
    def measured(jax, torch):
        sides = {"jax": jax, "torch": torch}
        return {side: {"median": s, "min": s * 0.9, "max": s * 1.1} for side, s in sides.items()}

    costs = part_costs(SIZES)
    floors = {"copy_bytes_per_s": 1e9, "matmul_flops_per_s": 1e9}
    parts = {
        name: measured(0.5, 4.0) | cost._asdict() | {"floor": cost.floor(**floors)} for name, cost in costs.items()
    }
    result = {
        "data": "made up",
        "sizes": SIZES._asdict(),
        "floors": floors,
        "graphs": {
            "knn": 2.0,
            "knn flops": 1e9,
            "co-occurrence": 0.1,
            "co-occurrence by loops over sharing pairs": 2.0,
            "co-occurrence by loops over all pairs": 12.0,
            "graphs cold": 3.0,
            "graphs cached": 0.01,
        },
        "compilation": {"compiled": 5.0, "cached": 1.0},
        "peak memory": {"jax": 1e9, "torch": 3e9},
        "ranking memory": {"jax": 1e8, "torch": 2e8},
        "parts": parts,
    }
    machine = {"processor": "P", "cores": 2, "device": "1 x cpu", "python": "3.11", "versions": {"jax": "0.10"}}
    text = table.markdown({"command": "C", "machine": machine, "presets": {"tiktok": result}})
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["step"].endswith("| 8.0x |")
    assert "500 ms (450 ms - 550 ms)" in rows["attention"]
    assert rows["co-occurrence graphs, against loops over all pairs (1 in 20, scaled)"].endswith("| 120.0x |")
    assert rows["co-occurrence graphs, against loops over the pairs that share"].endswith("| 20.0x |")
    assert rows["peak memory of a run"].endswith("| 3.0x |")
    assert "50% of the matmul rate" in rows["kNN graph, items by the first modality"]


def test_ratios_are_of_measurements_that_follow_each_other():
    text = baselines.markdown({"step": [(0.1, 0.3), (0.2, 0.4), (0.1, 0.5)]})
    assert text.splitlines()[2] == "| step | 100 ms | 400 ms | 3.00x (2.00 - 5.00) |"


def test_simulated_tables_have_a_row_each(monkeypatch):
    monkeypatch.setattr(significance, "SEEDS", (3,))
    monkeypatch.setattr(significance, "USERS", 50)
    rows = [line for line in significance.report(2).splitlines() if line.startswith("| 3 ")]
    assert len(rows) == len(significance.EFFECTS) * (1 + len(significance.SHIFTS))
    # Seeds that matter far more than users: a test that knows of no other seeds finds a difference almost always.
    shares = significance.shares_found(0.0, 0.0, 0.5, 0.01, 3, 30)
    assert shares[1] > 0.8
    assert shares[0] < 0.3


def test_old_data_are_what_was_there_of_each_split():
    rng = np.random.default_rng(0)
    drawn = rng.permutation(12 * 9)[:60]
    pairs = np.stack([drawn // 9, drawn % 9], axis=1)
    labels = {"user_ids": np.array([f"u{n}" for n in range(12)]), "item_ids": np.array([f"i{n}" for n in range(9)])}
    features = rng.normal(size=(9, 3)).astype(np.float32)
    new = make_dataset(pairs[:40], pairs[40:50], pairs[50:], {"text": features}, labels=labels)
    known = {(f"u{user}", f"i{item}") for user, item in pairs[rng.random(60) < 0.3]}
    users, items = zip(*known, strict=True)
    old = warm_start.within(new, pl.DataFrame({"user_id": users, "item_id": items}))
    assert old.num_users == len({user for user, _ in known}) < 12
    for split in SPLITS:
        assert named(old, split) == named(new, split) & known
    for row, name in enumerate(old.labels.item_ids):
        assert np.array_equal(old.features["text"][row], features[int(name[1:])])


def named(dataset, split):
    """The interactions of a split, by outside ids."""
    ids = dataset.labels
    return {(str(ids.user_ids[user]), str(ids.item_ids[item])) for user, item in getattr(dataset, split)}


def test_epochs_to_a_value_are_those_to_the_first_as_good():
    assert warm_start.epochs_to(0.2, [0.1, 0.2, 0.1, 0.3]) == 2
    assert warm_start.epochs_to(0.4, [0.1, 0.2, 0.1, 0.3]) == math.inf
