"""Processes that share the cores of this machine."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from types import FrameType

from rearm_jax.program import CRASHED, DONE


def in_processes(commands: Sequence[Sequence[str]]) -> int:
    """Runs commands side by side, each on its share of the cores, until all have ended.

    The first Ctrl-C or SIGTERM becomes a SIGTERM for each of them, so that they save what is under way.

    Returns:
      The exit code: DONE, or that of the first command that ended otherwise.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    processes = []
    try:
        for number, command in enumerate(commands):
            # A process has the cores of the one that started it: jax asks for their number when it begins.
            if len(commands) <= len(cores):
                os.sched_setaffinity(0, cores[number :: len(commands)])
            processes.append(subprocess.Popen(command, start_new_session=True))
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    with _passed_on(processes):
        codes = [process.wait() for process in processes]
    ended = [CRASHED if code < 0 else code for code in codes]  # below 0: killed by a signal
    return next((code for code in ended if code != DONE), DONE)


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Signals that ask this process to stop go to the others, which it then waits for."""

    def stop(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
