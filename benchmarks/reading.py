"""How long a text table takes to read, against polars' own scan of the same columns of the same file.

python -m benchmarks.reading --rows 10000000

Ours looks at every line first: what quotes mean, whether each record has its fields, whether all is UTF-8. The two
take turns, and the ratio is that of each turn, so that what else the machine does falls on both; a ratio of processor
time, all threads together, is less disturbed by it. Each reads in a process of its own, as `prepare` does: a process
that has just read the same file holds the memory for it, and is faster by a quarter.

Measured with 10 million rows on 2 cores of an AMD EPYC, nothing else running (`--turns 5`): on the clock 1.4 times
polars for the plain file, 1.6 for the quoted one, 2.3 for that with texts; in processor time 1.2, 1.3 and 1.7. Most of
it is to find newlines and separators, and to prove that each record has as many; quotes want another search, and what
stands beside each; texts with newlines the line at which each record starts. Looking takes one thread: two wait for
each other's hold on Python, and gain a tenth.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.tables import scan_table

COLUMNS = ["userId", "movieId"]


def write_tables(folder: Path, rows: int) -> dict[str, Path]:
    """Ratings like MovieLens-20M's: without quotes; with quotes around two values of each row; with a text, every
    tenth of which is quoted and holds separators, doubled quotes and newlines."""
    rng = np.random.default_rng(0)
    ratings = pl.DataFrame(
        {
            "userId": rng.integers(0, 1_000_000, rows),
            "movieId": rng.integers(0, 200_000, rows),
            "rating": rng.integers(1, 11, rows) / 2,
            "timestamp": rng.integers(10**9, 15 * 10**8, rows),
        }
    )
    ids = ratings.with_columns(pl.col(COLUMNS).cast(pl.String))
    text = pl.when(pl.int_range(rows) % 10 == 0).then(pl.lit('good, "very"\ngood')).otherwise(pl.lit("good"))
    paths = {name: folder / f"{name}.csv" for name in ("plain", "quoted", "texts")}
    ratings.write_csv(paths["plain"])
    ids.write_csv(paths["quoted"], quote_style="non_numeric")
    ratings.with_columns(text=text).write_csv(paths["texts"])
    return paths


def read_by_polars(path: Path) -> pl.DataFrame:
    return pl.scan_csv(path, infer_schema=False).select(COLUMNS).collect(engine="streaming")


def read_by_us(path: Path) -> pl.DataFrame:
    reading = Reading()
    return scan_table(path, reading).select(COLUMNS).collect(engine="streaming")


def timed(read: Callable[[Path], pl.DataFrame], path: Path, rows: int) -> np.ndarray:
    """Seconds on the clock and of the processor."""
    start = np.array([time.perf_counter(), time.process_time()])
    assert len(read(path)) == rows
    return np.array([time.perf_counter(), time.process_time()]) - start


def in_a_process(read: Callable[[Path], pl.DataFrame], path: Path, rows: int) -> np.ndarray:
    """`timed` in a new process; what it imports is not counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(timed, (read, path, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, path in write_tables(Path(folder), arguments.rows).items():
            turns = []
            for _ in range(arguments.turns):
                theirs, ours = (in_a_process(read, path, arguments.rows) for read in (read_by_polars, read_by_us))
                turns.append([theirs, ours, ours / theirs])
            polars, own, ratio = np.median(turns, axis=0)
            print(f"{name:7} {path.stat().st_size / 1e6:6.0f} MB")
            for i, kind in enumerate(("clock", "processor")):
                print(f"  {kind:10} polars {polars[i]:.2f} s  ours {own[i]:.2f} s  ratio {ratio[i]:.2f}", flush=True)


if __name__ == "__main__":
    main()
