"""Processes that share the cores of this machine."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from types import FrameType

from rearm_jax.program import CRASHED, DONE, INTERRUPTED

_PARENT = "REARM_COMPARE_PARENT"
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def started_by_another() -> bool:
    """Whether this is a process of `in_processes` whose starter has died: nobody would make tables of what it does."""
    return int(os.environ.get(_PARENT, os.getppid())) != os.getppid()


def in_processes(commands: Sequence[Sequence[str]]) -> int:
    """Runs commands side by side, each on its share of the cores and of a GPU's memory, until all have ended.

    The first Ctrl-C or SIGTERM becomes a SIGTERM for each of them, so that they save what is under way; a second one
    kills them.

    Returns:
      The exit code: DONE, INTERRUPTED after a signal, or that of the first command that ended otherwise.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    environment, processes = os.environ | {_PARENT: str(os.getpid())}, list[subprocess.Popen]()
    if len(commands) > 1:
        # On a GPU, the first would take most of its memory at its start, whether it needs that or not.
        environment.setdefault(_PREALLOCATE, "false")
    try:
        for number, command in enumerate(commands):
            # A process has the cores of the one that started it: jax asks for their number when it begins.
            if len(commands) <= len(cores):
                os.sched_setaffinity(0, cores[number :: len(commands)])
            processes.append(subprocess.Popen(command, start_new_session=True, env=environment))
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    with _passed_on(processes) as signals:
        codes = [process.wait() for process in processes]
    if signals:
        return INTERRUPTED
    ended = [CRASHED if code < 0 else code for code in codes]  # below 0: killed by a signal
    return next((code for code in ended if code != DONE), DONE)


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen]) -> Iterator[list[int]]:
    """Signals that ask this process to stop go to the others, which it then waits for; gives those that came."""
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if came else signal.SIGTERM)
        came.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
