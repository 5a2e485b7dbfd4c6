"""One training at a time in a run folder; only trainings lock it.

The holder signs the lock file every BEAT_SECONDS. Where the file system has locks, the operating system locks the file
for it, too: that lock is gone with the process, however it ends, so nobody waits for a dead process of this machine.
A signature of another machine (or any, in a bucket and where there are no locks) counts for STALE_SECONDS; an older one
is of a dead process, and is taken over. This asks that the clocks of the machines agree to some seconds, and of two
trainings on two machines that begin in the same second both may pass.

Processes and restarts of one job are one holder: process 0 alone has the lock, and a job takes what an earlier start of
its own has left. The variable REARM_JOB, which the launch scripts set, says which starts are of one job.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime

import jax
from absl import logging

from rearm_jax.errors import CheckpointError
from rearm_jax.files import replace_text
from rearm_jax.training.records import from_process_0
from rearm_jax.training.run_path import in_bucket, reached, run_path

LOCK_FILE = "training.lock"
JOB = "REARM_JOB"
BEAT_SECONDS = 15
STALE_SECONDS = 60
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_REMEDY = "Let it end or stop it, or name another run folder"


class RunHeld(CheckpointError):
    """Another training holds the lock."""


class RunLock:
    """Holds the lock of a run folder while the body of a `with` runs.

    The folder is made where it is missing, and removed again where nothing came into it. In a run of several processes
    every process makes a RunLock.

    Args:
      workdir: the run folder.
      clock: gives the seconds since 1970.

    Raises:
      RunHeld: another training holds the lock; its process, machine and start are named.
      CheckpointError: the folder cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike, clock: Callable[[], float] = time.time):
        self._folder = run_path(workdir)
        absolute = self._folder if in_bucket(self._folder) else self._folder.resolve()
        self._path = absolute / LOCK_FILE
        self._clock = clock
        self._made: list[str] = []  # folders, from the inside out
        self._file: int | None = None  # descriptor of the file that the system has locked
        self._released = threading.Event()
        self._beats: threading.Thread | None = None
        self._me = {
            "token": secrets.token_hex(8),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.fromtimestamp(clock()).astimezone().isoformat(sep=" ", timespec="seconds"),
            "job": os.environ.get(JOB, ""),
        }

    def __enter__(self) -> "RunLock":
        from_process_0(self._acquire)
        return self

    def __exit__(self, *exception: object) -> None:
        if jax.process_index() == 0:
            self._release()

    def check(self) -> None:
        """To be called before a step is saved: whether this training still has the lock.

        Raises:
          CheckpointError: it gave no sign of life for so long that another training took the folder over.
        """
        if self._beats and (other := self._other_holder()):
            raise CheckpointError(
                f"{self._folder} was taken over by {_who(other)}, because this training gave no sign of life for "
                f"{STALE_SECONDS} s. It ends here and saves nothing more"
            )

    def beat(self) -> None:
        """Signs the lock file again, unless another training has taken the folder over."""
        if not self._other_holder():
            self._sign()

    def _acquire(self) -> None:
        try:
            with reached(self._folder):
                if not in_bucket(self._folder):
                    self._made = _make_folder(str(self._path.parent))
                    self._file = self._lock_by_system()
                self._refuse_if_held()
                self._sign()
                if other := self._other_holder():
                    raise RunHeld(f"{self._folder} is being trained by {_who(other)}. {_REMEDY}")
        except CheckpointError:
            self._release()
            raise
        self._beats = threading.Thread(target=self._beat_until_released, daemon=True)
        self._beats.start()

    def _lock_by_system(self) -> int | None:
        """The descriptor of the locked file, or None where the file system has no locks."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(file)
                if error.errno in _NO_LOCKS:
                    return None
                if not isinstance(error, BlockingIOError):
                    raise
                holder = self._holder()
                if not (holder and self._is_of_my_job(holder)):
                    who = _who(holder) if holder else "another process"
                    raise RunHeld(f"{self._folder} is being trained by {who}. {_REMEDY}") from error
                self._path.unlink(missing_ok=True)  # a file server that has not noticed yet that the machine is gone
            else:
                if self._is_there(file):
                    return file
                os.close(file)  # whoever had the lock removed the file just now

    def _refuse_if_held(self) -> None:
        holder = self._holder()
        if holder is None or self._is_of_my_job(holder):
            return
        if self._file is not None and holder["host"] == self._me["host"]:
            return  # the system would have refused its lock if it were alive
        silent = self._clock() - holder["beat"]
        if silent < STALE_SECONDS:
            raise RunHeld(
                f"{self._folder} is being trained by {_who(holder)}, whose last sign of life is {silent:.0f} s old. "
                f"{_REMEDY}; if it is dead, give the same command again in {STALE_SECONDS - silent:.0f} s"
            )
        logging.warning("%s: taken over from %s, silent for %.0f s", self._folder, _who(holder), silent)

    def _sign(self) -> None:
        text = json.dumps(self._me | {"beat": self._clock()})
        if self._file is None:
            replace_text(self._path, text)
        else:  # in place, since the lock is on this very file; always as long, so that readers see it whole
            os.pwrite(self._file, text.encode().ljust(1024), 0)

    def _beat_until_released(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                self.beat()
            except Exception as error:  # of a bucket every kind; the next one may pass
                logging.warning("%s cannot be signed: %s: %s", self._path, type(error).__name__, error)

    def _release(self) -> None:
        self._released.set()
        if self._beats is not None:
            self._beats.join()
        try:
            if (self._file is not None or self._beats) and not self._other_holder():
                self._path.unlink(missing_ok=True)
        except Exception as error:  # of a bucket every kind
            logging.warning("%s cannot be removed: %s: %s", self._path, type(error).__name__, error)
        if self._file is not None:
            os.close(self._file)
        with contextlib.suppress(OSError):
            for folder in self._made:
                os.rmdir(folder)  # fails where something is in it

    def _holder(self) -> dict | None:
        """What the lock file says, or None where there is none, or nothing in it yet."""
        try:
            holder = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return holder if isinstance(holder, dict) and {*self._me, "beat"} <= holder.keys() else None

    def _other_holder(self) -> dict | None:
        holder = self._holder()
        return holder if holder and holder["token"] != self._me["token"] else None

    def _is_of_my_job(self, holder: dict) -> bool:
        return bool(self._me["job"]) and holder["job"] == self._me["job"]

    def _is_there(self, file: int) -> bool:
        """Whether the open file is the one that the path names."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        return False


def _who(holder: dict) -> str:
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _make_folder(folder: str) -> list[str]:
    """Makes a folder and those above it; returns the new ones, from the inside out."""
    made = []
    while not os.path.lexists(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    for new in reversed(made):
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(new)
    return made
