"""Writes a data folder, whole or not at all."""

import json
import os
from collections.abc import Mapping

import numpy as np

from rearm_jax.errors import ConfigError, DataError
from rearm_jax.files import whole_folder

REPORT_FILE = "prepare.json"
NEW_ITEMS = "new_items"  # folder of the items without interactions


def check_out(out: str | os.PathLike, overwrite: bool) -> None:
    """Raises ConfigError if the folder is there and may not be replaced: only one that was written here ever may."""
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise ConfigError(f"{out} is there already: name another out, or give overwrite to replace it")
    if not os.path.isfile(os.path.join(out, REPORT_FILE)) or os.path.islink(out):
        raise ConfigError(f"{out} was not made by this command (it has no {REPORT_FILE}): remove it yourself")


def write_folder(
    out: str | os.PathLike, arrays: Mapping[str, np.ndarray], report: Mapping[str, object], overwrite: bool
) -> None:
    """Writes the folder whole or not at all; one that was there stays until then.

    Args:
        out: the folder; the ones above it are made.
        arrays: stem -> what `<stem>.npy` holds; a stem may lie in a folder, as new_items/item_ids does.
        report: what prepare.json holds.
        overwrite: whether a folder of an earlier command is replaced.

    Raises:
        ConfigError: as `check_out`.
        DataError: the folder cannot be written.
    """
    out = os.path.abspath(out)
    try:
        os.makedirs(os.path.dirname(out), exist_ok=True)
        with whole_folder(out, replace=overwrite) as temporary:
            for stem, array in arrays.items():
                (temporary / stem).parent.mkdir(exist_ok=True)
                np.save(temporary / f"{stem}.npy", array, allow_pickle=False)
            (temporary / REPORT_FILE).write_text(report_text(report), encoding="utf-8")
            check_out(out, overwrite)  # again: encoding may have taken hours
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror} ({error.filename})") from error


def report_text(report: Mapping[str, object]) -> str:
    """What prepare.json holds; paths and numbers of numpy, as settings may have them in Python, are plain there."""
    plain = json.dumps(report, indent=2, ensure_ascii=False, default=_plain)
    return f"{plain}\n"


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else os.fspath(value)  # type: ignore[call-overload]
