"""How far a REARM's kinds of features lie apart, over seeds: what the paper's figure shows of one run.

    python -m benchmarks.separation --workdir runs/ablation --data Office "REARM" "REARM, no meta-network"

Takes the final runs of rows of a comparison, and prints a table: the silhouette of the kinds of features as clusters
(rearm_jax/report/features.py), of users and of items, mean and standard deviation over the row's seeds; before training
that of the first seed. "unique" are the features of the modalities, "all" these and what the meta-network shares.
"""

import argparse
from pathlib import Path

import numpy as np

from rearm_jax.experiment import init_params
from rearm_jax.inference.trained import load_trained
from rearm_jax.report.features import SHARED, Inside, look_inside, separation


def measured(inside: Inside) -> dict[str, float]:
    """Side and kinds -> silhouette."""
    found = {}
    for side in ("users", "items"):
        kinds = getattr(inside, side)
        found[f"{side}, unique"] = separation({name: table for name, table in kinds.items() if name != SHARED})
        if SHARED in kinds:
            found[f"{side}, all"] = separation(kinds)
    return found


def cell(values: np.ndarray | None) -> str:
    """Mean and standard deviation over seeds, the latter of two or more."""
    if values is None:
        return ""
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def table(workdir: Path, data: str, rows: list[str]) -> str:
    """The table of some rows, as Markdown."""
    columns = [f"{side}, {kinds}" for side in ("users", "items") for kinds in ("unique", "all")]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        runs = [load_trained(str(folder)) for folder in sorted((workdir / "final" / data / row).iterdir())]
        before = measured(look_inside(runs[0].experiment, init_params(runs[0].experiment)))
        after = [measured(look_inside(run.experiment, run.params)) for run in runs]
        first = [f"{before[column]:.2f}" if column in before else "" for column in columns]
        lines.append(f"| {row}, before training | " + " | ".join(first) + " |")
        values = [np.array([one[column] for one in after]) if column in before else None for column in columns]
        lines.append(f"| {row}, seeds: {len(runs)} | " + " | ".join(map(cell, values)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("rows", nargs="+")
    arguments = parser.parse_args()
    print(table(arguments.workdir, arguments.data, arguments.rows))
