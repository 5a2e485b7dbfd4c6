"""The path of a run folder, whatever is in its name: libraries take `lr[1]` for a pattern, a backslash for a slash."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from typing import Any

from etils.epath import gpath

from rearm_jax.errors import CheckpointError, RearmError

_ADDRESSES = ("gs", "s3", "az", "hf")  # that etils knows
_OPEN_FOLDERS = "/proc/self/fd"  # of Linux: has an entry for each folder that this process has open


class RunPath(gpath.PosixGPath):
    """A path of etils.epath whose `glob` takes the path as it stands, and its argument alone as a pattern.

    epath joins the two: Orbax, which globs in the folders that it writes, would find those of `lr1` for `lr[1]`. Paths
    that are made of a RunPath (`/`, `parent`) are RunPaths, too, and Orbax keeps them.
    """

    def glob(self, pattern: str) -> Iterator[Any]:
        return super(RunPath, type(self)(glob.escape(str(self)))).glob(pattern)


def run_path(workdir: str | os.PathLike) -> RunPath:
    """A run folder: local, or the address of one in a bucket (gs://...).

    Raises:
      CheckpointError: an address of an unknown kind, or a name that cannot be used on this system.
    """
    text = os.fspath(workdir)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme and scheme[1] not in _ADDRESSES:
        known = ", ".join(f"{name}://" for name in _ADDRESSES)
        raise CheckpointError(f"{text} is no address of a run folder: give a local path, or one of {known}")
    if not (_is_plain(os.path.abspath(text)) or os.path.isdir(_OPEN_FOLDERS)):
        raise CheckpointError(f"{text!r} has a backslash or no name in UTF-8, which cannot be used on this system")
    return RunPath(workdir)


def in_bucket(path: RunPath) -> bool:
    """Whether the path is the address of a bucket, whose objects cannot be appended to or locked."""
    return "://" in str(path)


@contextlib.contextmanager
def reached(folder: RunPath) -> Iterator[None]:
    """Turns what keeps the body from reading or writing in a run folder into a CheckpointError."""
    try:
        yield
    except RearmError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or in_bucket(folder)):
            raise
        if isinstance(error, ImportError):
            raise CheckpointError(
                f"{folder} needs a package that is not installed (gcsfs for gs://, s3fs for s3://, adlfs for az://): "
                f"{error}"
            ) from error
        # Of a bucket: credentials, the network.
        reason = f"{type(error).__name__}: {error}" if in_bucket(folder) else str(error)
        raise CheckpointError(
            f"{folder} cannot be read or written: {reason}. See that the folder may be used and the disk has room"
        ) from error


@contextlib.contextmanager
def plain_path(folder: RunPath) -> Iterator[RunPath]:
    """The folder by a name that TensorStore takes as it stands; it must be there, and absolute.

    TensorStore, which writes the arrays for Orbax, takes a backslash for a slash, and so another folder for this one;
    and it knows no names but in UTF-8.
    """
    if _is_plain(str(folder)):
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield RunPath(f"{_OPEN_FOLDERS}/{descriptor}")
    finally:
        os.close(descriptor)


def _is_plain(path: str) -> bool:
    return "\\" not in path and not re.search("[\ud800-\udfff]", path)  # half a surrogate pair stands for a byte
