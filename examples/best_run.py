"""Prints the run folder whose checkpoint is best on validation: python examples/best_run.py METRIC RUN ..."""

import json
import sys
from pathlib import Path


def main(metric: str, *runs: str) -> None:
    """Args: such as recall@20, and folders of finished runs."""
    found = {run: json.loads(Path(run, "result.json").read_text())[f"valid/{metric}"] for run in runs}
    for run, value in found.items():
        print(f"{run}: valid/{metric} {value:.4f}", file=sys.stderr)
    print(max(found, key=lambda run: found[run]))


if __name__ == "__main__":
    main(*sys.argv[1:])
