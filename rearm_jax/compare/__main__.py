"""Compares models on data sets, so that the answer can be trusted.

python -m rearm_jax.compare --spec configs/compare/demo.py --workdir runs/compare-demo
"""

import argparse
import contextlib
import gc
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from rearm_jax.compare.estimate import estimate
from rearm_jax.compare.gather import External, check_external, gather, parse_external, write_outputs
from rearm_jax.compare.plan import Plan
from rearm_jax.compare.processes import in_processes
from rearm_jax.compare.report import check_report
from rearm_jax.compare.spec import load_spec
from rearm_jax.compare.work import Datasets, claimed, run, work
from rearm_jax.data.options import compare_parser
from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.program import DONE, INTERRUPTED, run_program
from rearm_jax.training.interrupt import quit_on_interrupt
from rearm_jax.training.lock import RunHeld, RunLock
from rearm_jax.training.precision import without_x64
from rearm_jax.training.run_folder import clear_run_folder

_POLL_SECONDS = 5
# What does something else than comparing -> flags that have an effect beside it.
_BESIDE: dict[str, tuple[str, ...]] = {"mode=table": (), "timing": (), "worker": (), "dry_run": ("external", "workers")}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_program(lambda: _explained(argv))


def _explained(argv: Sequence[str] | None) -> int:
    try:
        return _run(argv)
    except OSError as error:
        raise CheckpointError(f"{error}: see that the disk has room and the folders can be written") from error


def _run(argv: Sequence[str] | None) -> int:
    arguments = compare_parser().parse_args(argv)
    _refuse_idle(arguments)
    if arguments.mode == "table":
        if arguments.spec:
            raise ConfigError("--spec: --mode=table needs none, the workdirs say all")
        check_report()
        write_outputs(arguments.workdir, arguments.out or arguments.workdir[0])
        return DONE
    if not arguments.spec or len(arguments.workdir) > 1 or arguments.out:
        raise ConfigError("--mode=run: needs --spec and one --workdir, and no --out")
    least = 1 if arguments.dry_run else 0
    if arguments.workers < least:
        raise ConfigError(f"--workers={arguments.workers}: must be at least {least}")
    if not arguments.workdir[0] or "://" in arguments.workdir[0]:
        raise ConfigError(f"--workdir={arguments.workdir[0]}: must be a folder of a file system")
    check_report()
    gc.freeze()
    with quit_on_interrupt(), _quit_on_sigterm(), without_x64():
        plan = Plan(load_spec(arguments.spec), Path(arguments.workdir[0]))
        external, datasets = parse_external(plan, arguments.external), Datasets(plan)
        check_external(plan, datasets, external)
        if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
            jax.config.update("jax_compilation_cache_dir", ".cache/compiled")
        if arguments.dry_run:
            plan.begin(datasets, write=False)
            print(estimate(plan, arguments.workers))
            return DONE
        plan.begin(datasets)
        if arguments.timing:
            return _time(plan, arguments.timing)
        if arguments.worker:
            stopped_by = work(plan)
            logging.info("this worker is done; the command without --worker makes the tables")
            return INTERRUPTED if stopped_by else DONE
        return _compare(plan, arguments.spec, arguments.workers, external)


def _refuse_idle(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for a flag that says nothing beside another one."""
    defaults: dict[str, Any] = {"timing": None, "worker": False, "dry_run": False, "external": [], "workers": 1}
    given = [name for name, default in defaults.items() if getattr(arguments, name) != default]
    chief = "mode=table" if arguments.mode == "table" else next((name for name in given if name in _BESIDE), None)
    idle = [name for name in given if chief and name != chief and name not in _BESIDE[chief]]
    if idle:
        raise ConfigError(f"--{idle[0]} says nothing with --{chief}: leave it out")


@contextlib.contextmanager
def _quit_on_sigterm() -> Iterator[None]:
    """SIGTERM, where nothing is to be saved, does as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _compare(plan: Plan, spec: str, workers: int, external: Sequence[External]) -> int:
    """Everything: search and final runs, then the runs that are timed, one at a time, then the outputs."""
    code = _run_all(plan, spec, workers) if workers else DONE
    gather(plan, Datasets(plan), external)
    write_outputs([plan.workdir], plan.workdir)
    is_open = any(True for _ in plan.open_tasks()) or any(plan.outcome(task) is None for task in plan.timings())
    if is_open:
        logging.warning(
            "the comparison is not at its end (%d of %d runs, those that are timed left out): the tables have what "
            "there is; the same command, with --workers of at least 1, goes on",
            *plan.progress(),
        )
    return code


def _run_all(plan: Plan, spec: str, workers: int) -> int:
    if workers == 1:
        code = INTERRUPTED if work(plan) else DONE
    else:
        code = in_processes([_command(plan, spec, "--worker")] * workers)
    for task in plan.timings() if code == DONE else ():
        if code == DONE and plan.outcome(task) is None:
            code = in_processes([_command(plan, spec, "--timing", f"{task.data}/{task.row}")])
    return code


def _command(plan: Plan, spec: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "rearm_jax.compare", "--spec", spec, "--workdir", str(plan.workdir), *more]


def _time(plan: Plan, name: str) -> int:
    """Makes the run of --timing, in this process alone."""
    data, _, row = name.partition("/")
    for task in plan.timings():
        if (task.data, task.row) == (data, row):
            with _alone(plan.workdir / "timing"), claimed(plan, task) as lock:
                clear_run_folder(plan.folder(task))  # a run that was cut off has not all of its time in one process
                return INTERRUPTED if lock and run(plan, task, Datasets(plan), lock) else DONE
    raise ConfigError(f"--timing={name}: there is no such final run to time; the comparison itself gives this flag")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process times a run."""
    while True:
        try:
            with RunLock(folder):
                yield
                return
        except RunHeld:
            logging.info("waiting for another comparison, which times its runs in %s", folder)
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
