"""What the comparison promises: many runs in one process are fast, and a model beside itself is a tie.

python -m benchmarks.comparison together      12 runs of the demo (4 learning rates x 3 seeds), in one process and in 12
python -m benchmarks.comparison alarms        configs/compare/demo.py on 20 data sets: how often the twins are not a tie
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import headline
from rearm_jax.compare.gather import gather
from rearm_jax.compare.plan import Plan
from rearm_jax.compare.results import read_results
from rearm_jax.compare.summary import summarise
from rearm_jax.compare.work import Datasets, work
from rearm_jax.configs.compare import demo

RATES, SEEDS, EPOCHS = (3e-4, 1e-3, 3e-3, 1e-2), (0, 1, 2), 2
_TOGETHER = """
import sys
from rearm_jax.compare.work import quietly
from rearm_jax.config import resolve
from rearm_jax.experiment import build_experiment
from rearm_jax.training.loop import train
from rearm_jax.configs import demo
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
with quietly():
    for name in sys.argv[3:]:
        config = demo.get_config()
        config.num_epochs = int(sys.argv[1].split()[1])
        config.learning_rate, config.seed = float(name.split()[0]), int(name.split()[1])
        config.log.progress = False
        train(build_experiment(config), f"{sys.argv[1].split()[0]}/{name.replace(' ', '-')}")
"""


def evaluations(file: Path) -> list[dict]:
    """The validation metrics of a run, epoch by epoch.

    Training metrics are left out: their sums are rounded as an epoch is cut into device calls, which goes by the clock.
    """
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("train/")} for line in lines]


def together() -> str:
    """Seconds of the 12 runs in one process and in 12, one after the other; their metrics are equal to the last bit.

    Both have a cache of compiled programs of their own, empty at the start: the second to the twelfth process find the
    first one's programs in it, as users' do.
    """
    names = [f"{rate} {seed}" for rate in RATES for seed in SEEDS]
    seconds, results = {}, {}
    for way, calls in (("one process", [names]), ("12 processes", [[name] for name in names])):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            for call in calls:
                words = [f"{folder} {EPOCHS}", f"{folder}/compiled", *call]
                subprocess.run([sys.executable, "-c", _TOGETHER, *words], check=True)
            seconds[way] = time.perf_counter() - start
            files = sorted(Path(folder).glob("*/metrics.jsonl"))
            results[way] = [evaluations(file) for file in files]
            assert len(files) == len(names)
    assert results["one process"] == results["12 processes"], "the runs differ"
    ratio = seconds["12 processes"] / seconds["one process"]
    lines = [f"{way}: {value:.1f} s" for way, value in seconds.items()]
    return "\n".join([*lines, f"{ratio:.1f} times as fast; metrics equal to the last digit"])


def alarms(num_data: int) -> str:
    """How many of the demo's comparisons, on data sets of other seeds, call the twins different."""
    verdicts = []
    for seed in range(num_data):
        spec = demo.get_spec()
        config = spec.data["demo"].copy_and_resolve_references()
        config.data.synthetic.seed = seed
        spec = dataclasses.replace(spec, data={"demo": config}, timing=False)
        with tempfile.TemporaryDirectory() as folder:
            plan = Plan(spec, Path(folder))
            work(plan)
            gather(plan, Datasets(plan), [])
            table = summarise(read_results([folder])).tables[0]
        rows = {row.name: row.verdict for row in table.rows}
        verdicts.append(rows)
        print(seed, json.dumps(rows), file=sys.stderr, flush=True)
    false = sum(rows["BPR-MF again"] != "tie" for rows in verdicts)
    order = sum(rows["most popular"] == "worse" and rows["EASE"] == "better" for rows in verdicts)
    return f"{num_data} data sets: {false} false alarms between the twins, the planted order found on {order}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("together", "alarms"))
    parser.add_argument("--data_sets", type=int, default=20)
    arguments = parser.parse_args()
    print(headline())
    print(together() if arguments.part == "together" else alarms(arguments.data_sets))


if __name__ == "__main__":
    main()
