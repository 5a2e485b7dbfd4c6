"""One worker: claims a run of the plan, trains it, and writes down what came of it; until nothing is left.

A run is claimed by the lock of its folder (training/lock.py): whoever is killed leaves it, and the next one resumes
from the last checkpoint. In one process, runs that differ in rates and seeds alone share their compiled programs.
"""

import contextlib
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from rearm_jax.compare.plan import USERS_FILE, Plan, Task
from rearm_jax.compare.processes import started_by_another
from rearm_jax.compare.results import sha256
from rearm_jax.compare.spec import KEPT_METRICS
from rearm_jax.config import check_against_data
from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import ConfigError, NonFiniteError
from rearm_jax.evaluation.popularity import found_by_popularity
from rearm_jax.evaluation.slices import by_history, list_measures
from rearm_jax.evaluation.user_metrics import user_metrics, write_user_metrics
from rearm_jax.experiment import Experiment, load_data, make_experiment
from rearm_jax.files import whole_file
from rearm_jax.training.checkpoint import checkpoint_directory
from rearm_jax.training.lists import split_lists
from rearm_jax.training.lock import RunHeld, RunLock
from rearm_jax.training.loop import train
from rearm_jax.training.placement import forget_programs
from rearm_jax.training.step import steps_per_epoch

_POLL_SECONDS = 5


def work(plan: Plan, sleep: Callable[[float], object] = time.sleep) -> int | None:
    """Works until search and final runs have ended.

    Args:
      plan: what is to do.
      sleep: waits for some seconds, while others hold all runs that are left.

    Returns:
      None, or the number of the signal that asked to stop: what was under way is saved.

    Raises:
      DataError: the data of a data set cannot be used.
      CheckpointError: a folder cannot be written, or holds a run with other settings.
    """
    datasets = Datasets(plan)
    last: tuple[str, str] | None = None
    waits = False
    while tasks := list(plan.open_tasks()):
        if started_by_another():
            logging.warning("the comparison that started this worker is gone: it ends, too")
            return signal.SIGTERM
        # Those of the row that this process knows first: their programs are compiled.
        tasks.sort(key=lambda task: (task.data, task.row) != last)
        for task in tasks:
            try:
                with claimed(plan, task) as lock:
                    if last != (task.data, task.row):
                        plan.check(task.data, task.row)
                    if last and last != (task.data, task.row):
                        forget_programs()
                    stopped_by = lock and run(plan, task, datasets, lock)
            except RunHeld:
                continue
            if stopped_by:
                return stopped_by
            last = task.data, task.row
            break
        else:
            if not waits:
                logging.info("waiting for runs of other workers, such as %s", tasks[0].title)
            waits = True
            sleep(_POLL_SECONDS)
    return None


class Datasets:
    """The data sets of a spec, each read once."""

    def __init__(self, plan: Plan):
        self._plan, self._name = plan, ""
        self._dataset: Dataset | None = None

    def __call__(self, name: str) -> Dataset:
        """A data set; the one before is forgotten, as it may be large."""
        if name != self._name or self._dataset is None:
            row = next(iter(self._plan.spec.rows))
            self._dataset = load_data(self._plan.spec.config(name, row, {}, 0, test=False).data)
            self._name = name
        return self._dataset


@contextlib.contextmanager
def claimed(plan: Plan, task: Task) -> Iterator[RunLock | None]:
    """Holds a run; gives None where another process has ended it in the meantime.

    Raises:
      RunHeld: another process has it.
    """
    with RunLock(plan.folder(task)) as lock:
        yield None if plan.outcome(task) is not None else lock


def run(plan: Plan, task: Task, datasets: Datasets, lock: RunLock) -> int | None:
    """Trains a claimed run, or goes on with it, and writes down its outcome; a number of a signal as `work`."""
    start, dataset, folder = time.perf_counter(), datasets(task.data), plan.folder(task)
    config = plan.config(task)
    try:
        check_against_data(config, dataset.num_users, dataset.num_items)
        if task.trained:
            take_trained(task.trained, folder)
        with quietly():
            experiment = make_experiment(config, dataset)
            result, stopped_by = train(experiment, str(folder), lock)
    except (NonFiniteError, ConfigError, MemoryError, jax.errors.JaxRuntimeError) as error:
        # This setting cannot be run; the others can. The table says how many failed.
        logging.warning("%s: failed: %s", task.title, error)
        plan.end(task, {"status": "failed", "error": str(error) or type(error).__name__})
        return None
    except Exception:
        logging.error("%s, in %s:", task.title, folder)
        raise
    if result is None:
        return stopped_by
    value = result[f"valid/{config.evaluation.metric}"]
    seconds = time.perf_counter() - start
    so_far = "" if task.num_epochs is None else f" after {task.num_epochs} epochs, where pruning decides"
    logging.info("%s: valid %s %.4f%s, %.0f s", task.title, config.evaluation.metric, value, so_far, seconds)
    if task.num_epochs is not None:
        plan.reached(task, value)
        return None
    outcome = {"status": "done", **described(experiment, result)}
    if task.kind != "search":
        outcome |= scored(experiment, folder, result, plan.spec.split)
    if task.kind == "timing":
        outcome |= timed(experiment, result)
    plan.end(task, outcome)
    if task.kind != "timing":
        logging.info("%d of %d runs are done", *plan.progress())
    return None


def take_trained(other: Path, folder: Path) -> None:
    """Gives a run folder the checkpoints of a finished run, from which training has nothing left to do."""
    checkpoints, partly = Path(checkpoint_directory(folder)), folder / ".partly"
    if not checkpoints.exists():
        shutil.rmtree(partly, ignore_errors=True)  # of a process that was killed
        shutil.copytree(checkpoint_directory(other), partly)
        partly.rename(checkpoints)


def described(experiment: Experiment, result: Mapping[str, Any]) -> dict[str, Any]:
    """What an outcome has of every run."""
    return {
        "valid": result[f"valid/{experiment.config.evaluation.metric}"],
        "epochs": result["epochs"],
        "best_epoch": result["best_epoch"],
        "seconds": result["seconds"],
        "device": result["devices"][0],
        "parameters": result["parameters"] + result.get("residual", {}).get("parameters", 0),
        "content_hash": experiment.dataset.content_hash,
        "split_hash": experiment.dataset.split_hash,
    }


def scored(experiment: Experiment, folder: Path, result: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What an outcome has of a run that is compared; writes the metrics of users beside it."""
    config, dataset = experiment.config, experiment.dataset
    ks = tuple(config.evaluation.ks)
    lists, users, positives = split_lists(experiment, str(folder), split)
    metrics = user_metrics(lists, users, positives, ks)
    metrics = {name: metrics[name] for name in metrics if name.split("@")[0] in KEPT_METRICS}
    for name, values in metrics.items():
        if not np.isclose(np.nanmean(values), result[f"{split}/{name}"], atol=1e-6):
            raise AssertionError(
                f"{folder}: {split}/{name} is {result[f'{split}/{name}']}, and its users' mean is another"
            )
    with whole_file(folder / USERS_FILE) as temporary:
        write_user_metrics(temporary, metrics)
    slices = {
        "by_history": by_history(metrics, dataset),
        "by_popularity": found_by_popularity(dataset, split, users, lists[..., : max(ks)]),
        "lists": {name: value for k in ks for name, value in list_measures(lists, users, dataset, k).items()},
    }
    named = {name.partition("/")[2]: value for name, value in result.items() if name.startswith(f"{split}/")}
    return {"metrics": named, "slices": slices, "users_sha256": sha256(folder / USERS_FILE)}


def timed(experiment: Experiment, result: Mapping[str, Any]) -> dict[str, Any]:
    """What an outcome has of a run that was alone: its times, and the most memory that this process ever had."""
    epoch = None
    if result["steps_per_second"]:
        steps = steps_per_epoch(len(experiment.dataset.train), experiment.config.batch_size)
        epoch = steps / result["steps_per_second"]
    best = result["seconds_to_best"]
    return {"seconds_per_epoch": epoch, "seconds_to_best": best, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory that this process has held."""
    with contextlib.suppress(OSError):  # getrusage of Linux counts the process that started this one, too
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on macOS in bytes


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps the log of a single run to warnings."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
