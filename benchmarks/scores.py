"""Mean and standard deviation over seeds of finished runs: python -m benchmarks.scores RUN [RUN ...]

Runs of the same model are one row, however many seeds; the most popular items are the row beside them. Refuses runs
with different splits or protocols, and the same seed twice.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scores", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    arguments = parser.parse_args()
    results = [_read(run) for run in arguments.runs]
    for field in ("split_hash", "protocol"):
        if len(found := {result[field] for result in results}) > 1:
            sys.exit(f"error: the runs differ in their {field}: {sorted(found)}")
    print(table(results, arguments.split))


def table(results: list[dict], split: str) -> str:
    """A Markdown table, a row a model: mean +- standard deviation (of a sample, n - 1) of METRICS on `split`.

    Args:
      results: contents of result.json.
      split: "valid" or "test".
    """
    models = {}
    for result in results:
        models.setdefault(result["model"], []).append(result)
    lines = [
        f"| {split} | seeds | {' | '.join(METRICS)} | seconds an epoch |",
        "|---|---|" + "---|" * (len(METRICS) + 1),
    ]
    popular = [f"{results[0]['yardsticks']['most_popular'][f'{split}/{name}']:.4f}" for name in METRICS]
    lines.append(f"| most_popular | | {' | '.join(popular)} | |")
    for model, runs in models.items():
        seeds = sorted(run["seed"] for run in runs)
        if len(set(seeds)) < len(seeds):
            sys.exit(f"error: {model} has the same seed twice: {seeds}")
        cells = [_spread([run[f"{split}/{name}"] for run in runs]) for name in METRICS]
        seconds = statistics.median(run["seconds"] / run["epochs"] for run in runs)
        lines.append(f"| {model} | {', '.join(map(str, seeds))} | {' | '.join(cells)} | {seconds:.2g} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def _read(run: Path) -> dict:
    try:
        return json.loads((run / "result.json").read_text())
    except FileNotFoundError:
        sys.exit(f"error: {run} holds no result.json: the run is not finished, or the folder is another")


if __name__ == "__main__":
    main()
