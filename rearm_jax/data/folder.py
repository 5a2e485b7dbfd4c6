"""Writes a data folder, whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping

import numpy as np

from rearm_jax.errors import ConfigError, DataError

REPORT_FILE = "prepare.json"


def check_out(out: str | os.PathLike, overwrite: bool) -> None:
    """Raises ConfigError if the folder is there and may not be replaced: only one that was written here ever may."""
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise ConfigError(f"{out} is there already: name another --out, or give --overwrite to replace it")
    if not os.path.isfile(os.path.join(out, REPORT_FILE)) or os.path.islink(out):
        raise ConfigError(f"{out} was not made by this command (it has no {REPORT_FILE}): remove it yourself")


def write_folder(
    out: str | os.PathLike, arrays: Mapping[str, np.ndarray], report: Mapping[str, object], overwrite: bool
) -> None:
    """Writes beside `out` under a temporary name, then renames; a folder that was there stays until then.

    Args:
        out: the folder; the ones above it are made.
        arrays: stem -> what `<stem>.npy` holds.
        report: what prepare.json holds.
        overwrite: whether a folder of an earlier command is replaced.

    Raises:
        ConfigError: as `check_out`.
        DataError: the folder cannot be written.
    """
    out = os.path.abspath(out)
    parent, name = os.path.split(out)
    temporary, old = (os.path.join(parent, f".{name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        os.makedirs(temporary)
        for stem, array in arrays.items():
            np.save(os.path.join(temporary, f"{stem}.npy"), array, allow_pickle=False)
        with open(os.path.join(temporary, REPORT_FILE), "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2, ensure_ascii=False)
            file.write("\n")
        check_out(out, overwrite)  # again: encoding may have taken hours
        if os.path.lexists(out):
            os.rename(out, old)
        os.rename(temporary, out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror} ({error.filename})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if os.path.lexists(out):
            shutil.rmtree(old, ignore_errors=True)
        elif os.path.lexists(old):
            os.rename(old, out)
