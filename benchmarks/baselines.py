"""LightGCN, FREEDOM and MGCN beside plain PyTorch: python -m benchmarks.baselines --model lightgcn --preset tiktok

Both sides run in processes of their own and take turns, part by part: A B, B A, A B, ... A ratio is of two measurements
that follow each other. Prints a Markdown table for each model and preset: median seconds, and the median of the ratios
with the smallest and the largest. Needs requirements-bench.txt.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import headline
from benchmarks.problem import PRESETS, make_baseline_problem
from benchmarks.run import Side, use_device

MODELS = ("lightgcn", "freedom", "mgcn")
SIDES = ("jax_baselines", "torch_baselines")
PARTS = (
    "epoch",
    "step",
    "evaluation",
    "propagation user-item",
    "propagation item-item",
    "projections",
    "losses",
    "optimiser",
    "sampling an epoch",
    "pruning an epoch",
    "ranking",
)


def compare(model: str, preset: str, data: Path, rounds: int, parts: tuple[str, ...]) -> dict[str, list[tuple]]:
    """Part -> for each round (seconds of rearm_jax, seconds of PyTorch); the parts that the model has.

    Args:
      model: of MODELS.
      preset: of PRESETS.
      data: the folder that holds <preset>/train.npy, ...
      rounds: measurements of each part, after a warm-up.
      parts: of PARTS, those to measure.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        make_baseline_problem(model, preset, data, Path(folder))
        sides = []
        for name in SIDES:
            sides.append(Side(name, Path(folder), {}))
            stack.callback(sides[-1].close)
        return in_turns(sides, [part for part in parts if part in sides[0].parts], rounds)


def in_turns(sides: Sequence[Side], parts: Sequence[str], rounds: int) -> dict[str, list[tuple]]:
    """Part -> for each round the seconds of each side, which go A B, B A, A B, ... after a round to warm up."""
    measured: dict[str, list[tuple]] = {part: [] for part in parts}
    for part in parts:
        print(f"  {part}", file=sys.stderr, flush=True)
        for turn in range(rounds + 1):
            seconds = {side: side.ask(run=part)["seconds"] for side in (sides if turn % 2 else sides[::-1])}
            if turn:
                measured[part].append(tuple(seconds[side] for side in sides))
        for side in sides:
            side.ask(drop=part)
    return measured


def markdown(measured: dict[str, list[tuple]], sides: tuple[str, str] = ("rearm_jax", "PyTorch")) -> str:
    """The table of what `in_turns` gives of two sides; a ratio is of the second to the first."""
    lines = [f"| | {' | '.join(sides)} | ratio |", "|---|---|---|---|"]
    for part, rounds in measured.items():
        ours, theirs = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
        ratios = [torch / jax for jax, torch in rounds]
        spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} - {max(ratios):.2f})"
        lines.append(f"| {part} | {ours * 1e3:.3g} ms | {theirs * 1e3:.3g} ms | {spread} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=MODELS, help="may be repeated; default all")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated; default tiktok and baby")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("REARM_DATA", "data"), help="folder of the data sets"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; default all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    presets = arguments.preset or ["tiktok", "baby"]
    for preset in presets:
        if not (arguments.data / preset / "train.npy").exists():
            parser.error(f"{arguments.data / preset} holds no train.npy: name the folder of the data sets with --data")
    use_device(arguments.device)
    print(headline())
    for model in arguments.model or MODELS:
        for preset in presets:
            measured = compare(model, preset, arguments.data, arguments.rounds, tuple(arguments.part or PARTS))
            print(f"\n## {model}, {preset}\n\n{markdown(measured)}", flush=True)


if __name__ == "__main__":
    main()
