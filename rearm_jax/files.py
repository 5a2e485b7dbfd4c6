"""Files and folders that are written whole or not at all: whoever looks sees the old one or the new one.

Temporaries lie beside what they become, since renaming is one stroke only within a file system, and are made by a plain
open, so that they get the user's umask (tempfile would make them private).
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def replace_text(path: Any, text: str) -> None:
    """Writes a small file into a folder that one process at a time writes to, as a run folder is.

    The temporary has the same name every time: what a killed process left is written over by the next, and does not
    pile up.

    Args:
      path: pathlib's, or etils.epath's, which may be in a bucket.

    Raises:
      OSError: it cannot be written; the old file is still there.
    """
    temporary = path.parent / f"{path.name}.tmp"
    temporary.write_text(text)
    temporary.replace(path)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives the name of a file beside `path` to write to; at the end it takes the place of `path`.

    Where the body fails, `path` stays as it was. Any number of processes may write the same file at a time.

    Raises:
      OSError: it cannot be written.
    """
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike, replace: bool = False) -> Iterator[Path]:
    """Gives an empty folder beside `path` to write into; at the end it is renamed to `path`.

    Where the body fails, nothing is left, and a folder that was there stays as it was.

    Args:
      path: of the folder; the one above it must be there.
      replace: whether a folder that is there at the end is removed; else only an empty one may be there.

    Raises:
      OSError: it cannot be written, or is there.
    """
    temporary, old = _beside(path), _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if replace and os.path.lexists(path):
            os.rename(path, old)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if os.path.lexists(old) and not os.path.lexists(path):
            os.rename(old, path)
        shutil.rmtree(old, ignore_errors=True)


def _beside(path: str | os.PathLike) -> Path:
    path = Path(path).absolute()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
