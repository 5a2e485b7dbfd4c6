"""Another checkout of this repository beside this one: python -m benchmarks.versions --other FOLDER --preset tiktok

Each works in a process of its own, on data that it read and graphs that it built itself, and they take turns: A B, B A,
A B, ... Prints a Markdown table; a ratio above 1 says how much longer the other one takes.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.baselines import in_turns, markdown
from benchmarks.machine import headline
from benchmarks.problem import PRESETS
from benchmarks.run import Side

_MAKE = """
import sys
from pathlib import Path
from benchmarks.problem import make_problem

make_problem(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True, help="the other checkout")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="may be repeated; default tiktok and baby")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("REARM_DATA", "data"), help="folder of the data sets"
    )
    parser.add_argument("--part", action="append", help="of benchmarks.run; may be repeated; default step")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    checkouts = (Path(__file__).parent.parent, arguments.other.resolve())
    print(headline())
    for preset in arguments.preset or ["tiktok", "baby"]:
        with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
            sides = []
            for number, checkout in enumerate(checkouts):
                folder = Path(temporary) / str(number)
                folder.mkdir()
                command = [sys.executable, "-c", _MAKE, preset, str(arguments.data.resolve()), str(folder)]
                subprocess.run(command, cwd=checkout, check=True)
                sides.append(Side("jax", folder, {}, checkout))
                stack.callback(sides[-1].close)
            print(f"\n{preset}:\n")
            print(markdown(in_turns(sides, arguments.part or ["step"], arguments.rounds), ("this", "the other")))


if __name__ == "__main__":
    main()
