"""How fast lists of a shop's size are made and written, and in how much memory.

    python -m benchmarks.lists --users 1000000 --items 100000 --ranked 20480

Vectors of 64 numbers stand in for a trained run, drawn anew: what is measured does not depend on what was learned. A
user has 8 interactions, users and items have ids of text, items have names and one of 2,000 brands, a few of which are
far more frequent than most. Lists of 20 places are made for the first --ranked users by `recommend_run` and streamed to
Parquet, in three ways: all items; nine tenths of them in stock; at most two of a brand. Each way runs in a process of
its own, twice: for half of these users, which compiles, and for all, which is what is timed. Memory is the peak of the
process beyond what it held with the run in memory, for half and for all: it should not grow. CPU seconds count all
threads and suffer less from other programs. Prints a table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import polars as pl

from benchmarks.memory import peak_bytes, resident_bytes, restart_peak
from rearm_jax.config import resolve
from rearm_jax.data.dataset import make_dataset
from rearm_jax.default import get_config
from rearm_jax.experiment import Experiment
from rearm_jax.inference.recommend_files import recommend_run
from rearm_jax.inference.rules import Rules
from rearm_jax.inference.trained import Trained
from rearm_jax.models import find
from rearm_jax.recommender.contract import Representations

WAYS = ("all items", "in stock", "two of a brand")
WIDTH, PLACES, NUM_BRANDS, PER_USER = 64, 20, 2000, 8


def make_run(num_users: int, num_items: int) -> Trained:
    """A run that was never trained."""
    rng = np.random.default_rng(0)
    pairs = np.stack([np.repeat(np.arange(num_users), PER_USER), rng.integers(num_items, size=num_users * PER_USER)])
    held_out = [np.array([[user], [num_items - 1]]) for user in (0, 1)]
    pairs = pairs[:, pairs[1] < num_items - 1]
    labels = {
        "user_ids": np.char.add("customer-", np.arange(num_users).astype(np.str_)),
        "item_ids": np.char.add("P-", np.arange(num_items).astype(np.str_)),
        "item_names": np.char.add("A thing for the house, number ", np.arange(num_items).astype(np.str_)),
    }
    features = {"text": np.ones((num_items, 1), np.float32)}
    dataset = make_dataset(pairs, *held_out, features, num_users, labels)
    config = get_config("lightgcn")
    config.data.update(root="none", modalities=("text",))
    config = resolve(config)
    trained = Trained("", 0, Experiment(config, dataset, {}, find("lightgcn").make(config, dataset), None), {})
    vectors = [jnp.asarray(rng.standard_normal((size, WIDTH), np.float32)) for size in (num_users, num_items)]
    vars(trained)["representations"] = Representations(*vectors)  # as if it had been computed
    return trained


def rules_of(way: str, item_ids: np.ndarray, folder: Path) -> Rules:
    """The rules, and the files that they read."""
    rng = np.random.default_rng(1)
    if way == "in stock":
        kept = item_ids[rng.random(len(item_ids)) < 0.9]
        (folder / "stock.csv").write_text("\n".join(kept.tolist()))
        return Rules(allow=folder / "stock.csv")
    if way == "two of a brand":
        brands = (rng.pareto(1.0, len(item_ids)) * 10).astype(int) % NUM_BRANDS
        pl.DataFrame({"item_id": item_ids, "brand": [f"Brand {n}" for n in brands]}).write_csv(folder / "items.csv")
        return Rules(max_per={"brand": 2}, items=folder / "items.csv")
    return Rules()


def measure(way: str, num_users: int, num_items: int, ranked: int) -> dict:
    """Users a second, and bytes."""
    trained = make_run(num_users, num_items)
    labels = trained.experiment.dataset.labels
    with tempfile.TemporaryDirectory() as folder:
        rules, out = rules_of(way, labels.item_ids, Path(folder)), Path(folder) / "lists.parquet"
        held, peaks = resident_bytes(), []
        for count in (ranked // 2, ranked):
            restart_peak()
            start, cpu = time.perf_counter(), time.process_time()
            recommend_run(trained, labels.user_ids[:count].tolist(), PLACES, "parquet", out, rules=rules)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            peaks.append(peak_bytes() - held)
        size = out.stat().st_size
    found = {"users_a_second": ranked / seconds, "cpu_seconds_a_user": cpu / ranked}
    return found | {"peaks": peaks, "bytes_a_user": size / ranked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--ranked", type=int, default=20_480, help="users whose lists are made; default %(default)s")
    parser.add_argument("--way", choices=WAYS, help="measures one way, and prints what it found as JSON")
    arguments = parser.parse_args()
    sizes = arguments.users, arguments.items, min(arguments.ranked, arguments.users)
    if arguments.way:
        print(json.dumps(measure(arguments.way, *sizes)))
        return
    print("| lists of | users a second | all users | CPU-ms a user | GB beyond the run: half, all | bytes a user |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        flags = [f"--users={sizes[0]}", f"--items={sizes[1]}", f"--ranked={sizes[2]}", f"--way={way}"]
        command = [sys.executable, "-m", "benchmarks.lists", *flags]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rate, (half, whole) = found["users_a_second"], found["peaks"]
        columns = (
            way,
            f"{rate:,.0f}",
            f"{sizes[0] / rate / 60:.0f} min",
            f"{1000 * found['cpu_seconds_a_user']:.2f}",
            f"{half / 1e9:.2f}, {whole / 1e9:.2f}",
            f"{found['bytes_a_user']:.0f}",
        )
        print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
