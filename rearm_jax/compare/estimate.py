"""What a comparison will run, and how long and large it may become, from a short run of each row."""

import shutil
import tempfile
import time
from pathlib import Path

from absl import logging

from rearm_jax.compare.plan import Plan
from rearm_jax.compare.work import Datasets, quietly
from rearm_jax.config import check_against_data
from rearm_jax.experiment import make_experiment
from rearm_jax.training.loop import train


def estimate(plan: Plan, workers: int) -> str:
    """A table for people: for each data set and row an epoch of its defaults, and from that all its runs.

    The time is that of runs which use all their epochs; early stopping ends most of them sooner.
    """
    spec, datasets = plan.spec, Datasets(plan)
    lines = ["data set, row: settings tried + seeds + timed; seconds to begin, an epoch; at most in all, kept"]
    hours = gigabytes = 0.0
    for data, row in plan.groups():
        if spec.rows[row].trained:
            lines.append(f"{data}, {row}: the final runs of {spec.rows[row].trained}")
            continue
        begin, epoch, size, num_epochs = _short_run(plan, data, row, datasets)
        tries, seeds = len(plan.search(data, row)), spec.num_seeds(row)
        runs = tries + seeds + spec.timing
        this = runs * (begin + epoch * num_epochs) / 3600
        kept = (seeds + spec.timing) * size / 1e9
        hours, gigabytes = hours + this, gigabytes + kept
        lines.append(
            f"{data}, {row}: {tries} + {seeds} + {spec.timing:d}; {begin:.1f} s, {epoch:.2f} s; {this * 60:.1f} min, "
            f"{kept * 1e3:.0f} MB"
        )
        logging.info("%s", lines[-1])
    lines.append(
        f"in all at most {hours:.2f} h of one process, of which {workers} share the work; {gigabytes:.2f} GB are kept"
    )
    return "\n".join(lines)


def _short_run(plan: Plan, data: str, row: str, datasets: Datasets) -> tuple[float, float, int, int]:
    """(seconds to begin, seconds an epoch, bytes of the run folder, epochs of a whole run)."""
    spec, dataset = plan.spec, datasets(data)
    config = spec.config(data, row, {}, 0, test=False, num_epochs=1)
    check_against_data(config, dataset.num_users, dataset.num_items)
    folder = Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        with quietly():
            result, stopped_by = train(make_experiment(config, dataset), str(folder / "run"))
        if stopped_by:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    epoch = result["seconds"] if result and result["epochs"] else 0.0
    num_epochs = spec.config(data, row, {}, 0, test=False).num_epochs if epoch else 0
    return seconds - epoch, epoch, size, num_epochs
