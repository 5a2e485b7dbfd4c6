"""A run of several processes: how they find each other, what only the first does, and what all must agree on.

Processes that share a run make the same calls in the same order; where one would decide by what it alone knows (a
signal, a clock, a file), it asks the others first.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from rearm_jax.config import to_json
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.experiment import Experiment
from rearm_jax.training.writer import versions

COORDINATOR, NUM_PROCESSES, PROCESS_ID = "REARM_COORDINATOR", "REARM_NUM_PROCESSES", "REARM_PROCESS_ID"
# In which processes of one run may differ: where each finds its files, and how loud it is.
_MAY_DIFFER = (("data", "root"), ("graph", "cache_dir"), ("log", "progress"), ("log", "tensorboard"))
_HOST_BYTES = 64
_SECONDS_TO_APPEAR = 60  # for a file that another host wrote: NFS clients remember for a while that it was missing


def initialize(detect: bool) -> None:
    """Joins this process to the others of its run, if it is told of any; before anything else is asked of jax.

    The variables REARM_COORDINATOR (host:port where process 0 listens), REARM_NUM_PROCESSES and REARM_PROCESS_ID tell
    it, one process being legal, too. Of another process than the first, the log shows warnings and errors alone.

    Args:
      detect: without these variables, leave it to jax, which knows SLURM, Cloud TPU and GKE.

    Raises:
      ConfigError: the variables are incomplete or impossible, or jax does not know this cluster.
    """
    names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if not given and not detect:
        return
    arguments = _arguments(given) if given else {}
    _keep_stdout()
    try:
        jax.distributed.initialize(**arguments)
    except ValueError as error:
        raise ConfigError(
            f"--distributed: jax knows no cluster here ({error}). Without SLURM, Cloud TPU or GKE set "
            f"{', '.join(names)}, or use launch/local.sh"
        ) from error
    # jax has put its own handler there, which would swallow the signal until the loop asks for it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not is_first():
        logging.set_verbosity(logging.WARNING)


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def abandon(code: int) -> int:
    """The exit code of a process that met an error, to be returned; among several processes, its end.

    At a normal exit jax waits minutes for the other processes, which wait for this one.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def first_only(action: Callable, *args: Any) -> None:
    """Process 0 runs action(*args); no process returns before it is done."""
    if is_first():
        action(*args)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(action.__name__)


def agree(stop_signal: int | None, call_steps: int) -> tuple[int | None, int]:
    """What all processes do next: whether they stop, and how many steps they take otherwise.

    Args:
      stop_signal: number of the signal that asked this process to stop, or None.
      call_steps: steps that this process would take.

    Returns:
      The signal that any process got (the highest number), and the steps of process 0.
    """
    if jax.process_count() == 1:
        return stop_signal, call_steps
    wishes = multihost_utils.process_allgather(np.array([stop_signal or 0, call_steps], np.int32))
    return int(wishes[:, 0].max()) or None, int(wishes[0, 1])


def check_same(experiment: Experiment) -> None:
    """Refuses to start unless all processes have the same data, settings, graphs and packages as process 0.

    Raises:
      DataError: on every process; names those that differ, their hosts, and both hashes.
    """
    if jax.process_count() == 1:
        return
    settings = json.loads(to_json(experiment.config))
    for section, name in _MAY_DIFFER:
        del settings[section][name]
    facts = {
        "data": experiment.dataset.content_hash,
        "settings": _hash(json.dumps(settings, sort_keys=True).encode()),
        "graphs": _hash(*[np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(experiment.inputs)]),
        "packages": _hash(repr(versions()).encode()),
    }
    host = socket.gethostname().encode()[:_HOST_BYTES].ljust(_HOST_BYTES)
    everyone = multihost_utils.process_allgather(
        np.frombuffer(host + b"".join(bytes.fromhex(fact) for fact in facts.values()), np.uint8)
    )
    hosts = [bytes(row[:_HOST_BYTES]).decode(errors="replace").strip() for row in everyone]
    hashes = everyone[:, _HOST_BYTES:].reshape(len(everyone), len(facts), -1)
    problems = [
        f"process {process} on {hosts[process]} has other {name} than process 0 on {hosts[0]}: hash "
        f"{bytes(hashes[process, fact]).hex()} there, {bytes(hashes[0, fact]).hex()} on process 0"
        for fact, name in enumerate(facts)
        for process in range(1, len(everyone))
        if not np.array_equal(hashes[process, fact], hashes[0, fact])
    ]
    if problems:
        raise DataError(
            "\n".join(problems) + "\nGive every process the same files, flags and packages; where only the graphs "
            "differ, the same kind of processor, or one graph.cache_dir for all"
        )


def check_shared(path: epath.Path) -> None:
    """Refuses a run folder that this process does not share with process 0.

    Args:
      path: a file that process 0 has written in it.

    Raises:
      CheckpointError: this process does not see the file.
    """
    deadline = time.monotonic() + _SECONDS_TO_APPEAR
    while not path.exists():
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"process {jax.process_index()} on {socket.gethostname()} does not see {path.resolve()}, which process "
                "0 has written. Put the run folder where all processes read and write: gs://, NFS, or one machine"
            )
        time.sleep(1)


def _arguments(given: dict[str, str]) -> dict:
    missing = [name for name in (COORDINATOR, NUM_PROCESSES, PROCESS_ID) if name not in given]
    if missing:
        raise ConfigError(f"{', '.join(given)} set without {', '.join(missing)}: set all three, or none")
    numbers = [given[NUM_PROCESSES], given[PROCESS_ID]]
    if not all(number.isdecimal() for number in numbers) or int(numbers[1]) >= int(numbers[0]):
        raise ConfigError(
            f"{NUM_PROCESSES} = {numbers[0]!r}, {PROCESS_ID} = {numbers[1]!r}: must be the number of processes and the "
            "number of this one, from 0 to one less"
        )
    host, _, port = given[COORDINATOR].rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{COORDINATOR} = {given[COORDINATOR]!r}: must be host:port of process 0")
    return {
        "coordinator_address": given[COORDINATOR],
        "num_processes": int(numbers[0]),
        "process_id": int(numbers[1]),
    }


def _keep_stdout() -> None:
    # Gloo reports its connections on the file descriptor of standard output, which is for results.
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)


def _hash(*chunks: bytes) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
