"""Files and folders that people name for what is written: checked before any work, explained where they fail."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rearm_jax.errors import ConfigError
from rearm_jax.files import whole_file, whole_folder


def check_output_file(path: str | os.PathLike) -> None:
    """Raises ConfigError unless a file could be written (or replaced) at `path`."""
    _check_parent(path)
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder: name a file")


def check_output_folder(path: str | os.PathLike, mark: str = "") -> None:
    """Raises ConfigError unless a new folder could be made at `path`; an empty one may be there.

    With `mark`, one that holds a file of this name may be there, too, and is to be replaced.
    """
    _check_parent(path)
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ConfigError(f"{path} is there, and is no folder: name another")
    if path.exists() and any(path.iterdir()) and not (mark and (path / mark).is_file()):
        made = "was not made by this command" if mark else "is not empty"
        raise ConfigError(f"{path} is there, and {made}: name another folder, or remove it first")


@contextlib.contextmanager
def output_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives the name of a file beside `path` to write to; at the end it takes the place of `path`.

    Where the body fails, `path` stays as it was.

    Raises:
      ConfigError: the file cannot be written.
    """
    check_output_file(path)
    with _explained(path), whole_file(path) as temporary:
        yield temporary


@contextlib.contextmanager
def output_folder(path: str | os.PathLike, mark: str = "") -> Iterator[Path]:
    """Gives an empty folder beside `path` to write into; at the end it is renamed to `path`.

    Where the body fails, nothing is left, and a folder that was there stays as it was. `mark` is that of
    `check_output_folder`.

    Raises:
      ConfigError: `path` is taken, or cannot be written.
    """
    check_output_folder(path, mark)
    with _explained(path), whole_folder(path, replace=bool(mark)) as temporary:
        yield temporary


def _check_parent(path: str | os.PathLike) -> None:
    if "://" in os.fspath(path):  # as a path it would be a folder called "gs:"
        raise ConfigError(f"{os.fspath(path)} is an address: name a path of a file system")
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {parent}. Make it, or name another")


@contextlib.contextmanager
def _explained(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error}. See that the disk has room and the folder is writable"
        ) from error
