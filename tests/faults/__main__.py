"""Runs every fault in full and prints what was tried. Takes a while: python -m tests.faults [arguments of pytest]"""

import importlib
import os
import sys
import time
from pathlib import Path

import pytest


def main() -> int:
    os.environ["REARM_FAULTS"] = "full"  # for tests.faults.tally
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # programs as users have them
    start = time.monotonic()
    code = pytest.main([str(Path(__file__).parent), "-p", "no:cacheprovider", *sys.argv[1:]])
    counts = importlib.import_module("tests.faults.tally").counts  # pytest wants to be the first to import it
    width = max(map(len, counts), default=0)
    for name, count in sorted(counts.items()):
        print(f"{name:<{width}}  {count:>6,}")
    print(f"{'all held' if code == 0 else 'NOT ALL HELD'}, {time.monotonic() - start:.0f} s")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
