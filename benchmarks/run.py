"""rearm_jax beside a plain PyTorch implementation of the same model: python -m benchmarks.run --preset tiktok

Both sides run in processes of their own and take turns, part by part, for several rounds after a warm-up, so that
whatever else the machine does falls on both. Writes benchmarks/results/<machine>.json and a Markdown table beside it,
and prints the table. Without PyTorch (requirements-bench.txt) its columns stay empty.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from benchmarks import table
from benchmarks.costs import Cost, Sizes, part_costs
from benchmarks.machine import describe, measure_floors
from benchmarks.pair_loops import cooccurrence_by_pair_loops, seconds_of_loops_over_all_pairs
from benchmarks.problem import PRESETS, Problem, make_problem

_START = time.perf_counter()
_EVERY_NODE = 20  # that the loops over all pairs are timed for
_RATES = ("copy_bytes_per_s", "matmul_flops_per_s")
# The epoch comes first: the peak memory of a run is read after it.
PARTS = (
    "epoch",
    "step",
    "evaluation",
    "wide features",
    "propagation user-user",
    "propagation item-item",
    "propagation user-item",
    "attention",
    "meta-network",
    "losses",
    "optimiser",
    "sampling an epoch",
    "ranking",
)
RESULTS = Path(__file__).parent / "results"


def use_device(device: str) -> None:
    """Has this process and the sides that it starts compute on `device`, "cpu" or "cuda"; before jax is used."""
    os.environ["JAX_PLATFORMS"] = device
    # On a GPU the sides share its memory, of which jax takes three quarters where it is not told otherwise.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class Side:
    """A worker process (benchmarks/worker.py) and its parts; `checkout` is the one that it is started in."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str], checkout: Path | None = None):
        command = [sys.executable, "-m", "benchmarks.worker", name, str(folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            cwd=checkout,
        )
        self.name = name
        self.parts = self._read()["parts"]

    def ask(self, **request) -> dict:
        """Sends a request and waits for its answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"error: the {self.name} side ended with code {self._process.wait()}; its error is above")
        return json.loads(line)


@contextlib.contextmanager
def _side(name: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Side]:
    side = Side(name, folder, environment)
    try:
        yield side
    finally:
        side.close()


def compare(preset: str, data: Path, rounds: int, with_torch: bool, parts: Sequence[str]) -> dict:
    """Every figure of one preset; see the module's docstring.

    Args:
      preset: one of PRESETS.
      data: the folder that holds <preset>/train.npy, ...
      rounds: measurements of each part, after the warm-up.
      with_torch: whether to run the yardstick.
      parts: of PARTS, those to measure.

    Returns:
      {"data", "sizes", "floors", "parts": {name: {side: {"median", "min", "max"}}}, ...}, seconds and bytes; what lies
      outside of the parts only if all are measured.
    """
    everything = tuple(parts) == PARTS
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "problem"
        folder.mkdir()
        _say(f"{preset}: data and graphs")
        problem, seconds = make_problem(preset, data, folder)
        floors = measure_floors()
        result = {"data": PRESETS[preset], "floors": floors, "graphs": seconds}
        sides = ["jax", *(["torch", "torch-compile"] if with_torch else [])]
        if everything:
            _time_pair_loops(problem, seconds)
            having = [side for side in sides if side != "torch-compile"]
            result["ranking memory"] = {side: _ranking_memory(side, folder) for side in having}
        # The programs that the rounds compile are kept there, for a second process to read.
        cache = str(Path(scratch) / "compiled")
        kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        measured, parameters = _rounds(sides, folder, rounds, parts, kept)
        result |= measured
        if everything:
            _say("compilation, from the cache")
            with _side("jax", folder, kept) as jax_side:
                result["compilation"]["cached"] = jax_side.ask(first="compilation")["seconds"]
        sizes = _sizes(problem, parameters)
        result["sizes"] = sizes._asdict()
        for name, cost in part_costs(sizes).items():
            if name in result["parts"]:
                result["parts"][name] |= cost._asdict()
    return result


def add_floors(presets: dict[str, dict]) -> None:
    """Adds the floor of each part, in place, at the best rates that any preset has met on this machine."""
    rates = {name: max(result["floors"][name] for result in presets.values()) for name in _RATES}
    for result in presets.values():
        result["floors"] = rates
        for part in result["parts"].values():
            if "bytes" in part:
                part["floor"] = Cost(part["bytes"], part["flops"]).floor(**rates)


def _time_pair_loops(problem: Problem, seconds: dict[str, float]) -> None:
    """Adds to `seconds` what the co-occurrence graphs take by loops."""
    _say("co-occurrence by pair loops")
    dataset, start = problem.dataset, time.perf_counter()
    sizes, k = (dataset.num_users, dataset.num_items), problem.config.graph.user_knn_k
    cooccurrence_by_pair_loops(dataset.train, *sizes, k)
    seconds["co-occurrence by loops over sharing pairs"] = time.perf_counter() - start
    every = seconds_of_loops_over_all_pairs(dataset.train, *sizes, _EVERY_NODE)
    seconds["co-occurrence by loops over all pairs"] = every


def _ranking_memory(side: str, folder: Path) -> int:
    """Bytes that ranking all users needs beyond what the process and its vectors hold."""
    _say(f"memory of ranking, {side}")
    with _side(side, folder, {}) as process:
        process.ask(make="ranking")
        before = process.ask(memory=True)["now"]
        process.ask(first="ranking")
        return process.ask(memory=True)["peak"] - before


def _rounds(
    names: list[str], folder: Path, rounds: int, parts: Sequence[str], environment: Mapping[str, str]
) -> tuple[dict, int]:
    """Parts in rounds, the sides in turn; the peak memory of each side is that of compilation and a whole epoch.

    Returns:
      What `compare` returns of them, and how many numbers are trained.
    """
    seconds, memory, others, on_gpu = {}, {}, {}, jax.default_backend() == "gpu"
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(_side(name, folder, environment)) for name in names]
        parameters = sides[0].ask(parameters=True)["parameters"]
        if tuple(parts) == PARTS:
            _say("compilation")
            others["compilation"] = {"compiled": sides[0].ask(first="compilation")["seconds"]}
            sides[0].ask(drop="compilation")
        for part in parts:
            _say(part)
            having = [side for side in sides if part in side.parts]
            # On a CPU an epoch is long, and many steps already: once, without a warm-up.
            once = part == "epoch" and not on_gpu
            first = {"make" if once else "run": part}
            with ThreadPoolExecutor() as together:  # what is to be compiled is compiled side by side
                list(together.map(lambda side, first=first: side.ask(**first), having))
            for _ in range(1 if once else rounds):
                for side in having:
                    taken = side.ask(run=part)["seconds"]
                    seconds.setdefault(part, {}).setdefault(side.name, []).append(taken)
            medians = {side: statistics.median(taken) for side, taken in seconds[part].items()}
            _say(f"{part}: " + ", ".join(f"{side} {median:.4g} s" for side, median in medians.items()))
            for side in having:
                if part == "epoch":
                    memory[side.name] = side.ask(memory=True)["peak"]
                side.ask(drop=part)
    summaries = {
        part: {
            side: {"median": statistics.median(taken), "min": min(taken), "max": max(taken)}
            for side, taken in by_side.items()
        }
        for part, by_side in seconds.items()
    }
    return {"parts": summaries, "peak memory": memory} | others, parameters


def _sizes(problem: Problem, parameters: int) -> Sizes:
    dataset, config = problem.dataset, problem.config
    model = config.model
    return Sizes(
        users=dataset.num_users,
        items=dataset.num_items,
        widths=tuple(table.shape[1] for table in dataset.features.values()),
        embedding_dim=model.embedding_dim,
        rank=model.rank,
        layers=(model.num_user_layers, model.num_item_layers, model.num_layers),
        entries=tuple(problem.graphs[name].nnz for name in ("user_user", "item_item", "user_item")),
        batch=config.batch_size,
        parameters=parameters,
        interactions=len(dataset.train),
        ranked_users=len(np.unique(dataset.test[:, 0])),
    )


def _say(text: str) -> None:
    minutes, seconds = divmod(round(time.perf_counter() - _START), 60)
    print(f"  {minutes}:{seconds:02} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="rearm_jax beside plain PyTorch")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated; default tiktok and baby")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("REARM_DATA", "data"), help="folder of the data sets"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", help="of the result files; default: processor and number of cores")
    arguments = parser.parse_args()
    presets = arguments.preset or ["tiktok", "baby"]
    for preset in presets:
        if not (arguments.data / preset / "train.npy").exists():
            parser.error(f"{arguments.data / preset} holds no train.npy: name the folder of the data sets with --data")
    use_device(arguments.device)
    with_torch = importlib.util.find_spec("torch") is not None
    machine = describe()
    name = arguments.name or re.sub(r"\W+", "-", f"{machine['processor']} {machine['cores']} cores").strip("-").lower()
    results = {
        "command": shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        "machine": machine,
        "presets": {
            preset: compare(preset, arguments.data, arguments.rounds, with_torch, arguments.part or PARTS)
            for preset in presets
        },
    }
    add_floors(results["presets"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table.markdown(results)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
