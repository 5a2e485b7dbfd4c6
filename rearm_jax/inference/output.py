"""Files and folders that are written whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from rearm_jax.errors import ConfigError


def check_output_file(path: str | os.PathLike) -> None:
    """Raises ConfigError unless a file could be written (or replaced) at `path`."""
    _check_parent(Path(path))
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder: name a file")


def check_output_folder(path: str | os.PathLike) -> None:
    """Raises ConfigError unless a new folder could be made at `path`; an empty one may be there."""
    path = Path(path)
    _check_parent(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ConfigError(f"{path} is there, and is no folder: name another")
    if path.exists() and any(path.iterdir()):
        raise ConfigError(f"{path} is there, and is not empty: name another folder, or remove it first")


@contextlib.contextmanager
def output_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives the name of a file beside `path` to write to; at the end it takes the place of `path`.

    Where the body fails, `path` stays as it was.

    Raises:
      ConfigError: the file cannot be written.
    """
    path = Path(path)
    check_output_file(path)
    temporary = _beside(path)
    with _explained(path):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def output_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty folder beside `path` to write into; at the end it is renamed to `path`.

    Where the body fails, nothing is left.

    Raises:
      ConfigError: `path` is taken, or cannot be written.
    """
    path = Path(path)
    check_output_folder(path)
    temporary = _beside(path)
    with _explained(path):
        temporary.mkdir()
        try:
            yield temporary
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    path = path.absolute()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {parent}. Make it, or name another")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error}. See that the disk has room and the folder is writable"
        ) from error
