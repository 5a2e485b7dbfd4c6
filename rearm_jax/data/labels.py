"""What users and items are called outside: the ids of the catalogue they come from, and names for people.

A folder of data may hold `user_ids.npy`, `item_ids.npy` and `item_names.npy`: row i belongs to id i of the splits, as
text (numpy's `<U`) or integers. Without them users and items are called by their numbers.
"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from rearm_jax.data.npy import open_npy
from rearm_jax.errors import DataError

LABEL_FILES = ("user_ids", "item_ids", "item_names")
_LAST_CODE_POINT, _SURROGATES = 0x10FFFF, (0xD800, 0xDFFF)  # of Unicode; surrogates are no characters


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Names of the rows. Text or integers; the ids of a side are unique, names of items may repeat.

    Attributes:
        user_ids: (num_users,).
        item_ids: (num_items,).
        item_names: (num_items,); the ids again where a catalogue has no names.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    item_names: np.ndarray


def read_labels(root: str | os.PathLike) -> dict[str, np.ndarray]:
    """The label files that a folder holds, by stem ("user_ids", ...); what is in them is not checked yet.

    Raises:
        DataError: a file cannot be read as a .npy array without running code.
    """
    paths = {stem: os.path.join(os.fspath(root), f"{stem}.npy") for stem in LABEL_FILES}
    return {stem: open_npy(path) for stem, path in paths.items() if os.path.lexists(path)}


def make_labels(
    given: Mapping[str, np.ndarray], num_users: int, num_items: int, files: Mapping[str, str] | None = None
) -> Labels:
    """Checks labels and fills in those that are not given.

    Args:
        given: any of "user_ids", "item_ids", "item_names".
        num_users, num_items: how many rows there must be.
        files: what each of the given is called in messages; without it "user_ids.npy", ...

    Raises:
        DataError: names file and row of the first label that is wrong.
    """
    files = files or {}
    checked = {}
    for stem, labels in given.items():
        size, what = (num_users, "users") if stem == "user_ids" else (num_items, "items")
        file = files.get(stem, f"{stem}.npy")
        checked[stem] = check_labels(labels, file, unique=stem != "item_names")
        if len(checked[stem]) != size:
            raise DataError(
                f"{file}: the shape is {np.shape(labels)}, and must be ({size},): one label a row, for {size} {what}"
            )
    user_ids = checked.get("user_ids", np.arange(num_users))
    item_ids = checked.get("item_ids", np.arange(num_items))
    return Labels(user_ids, item_ids, checked.get("item_names", item_ids))


def check_labels(labels: np.ndarray, file: str, unique: bool) -> np.ndarray:
    """A read-only copy of labels, text or integers, (n,); `file` is named in messages.

    Raises:
        DataError: another type or shape, text that is no Unicode, or, where they must be unique, a label twice or one
            that is empty (or nothing but blanks).
    """
    labels = np.array(labels)
    if labels.dtype.kind not in "Uiu":
        raise DataError(f"{file}: the dtype is {labels.dtype}; labels are text (numpy's <U) or integers")
    if labels.ndim != 1:
        raise DataError(f"{file}: the shape is {labels.shape}, and must have one dimension: one label a row")
    if labels.dtype.kind == "U" and labels.size and labels.dtype.itemsize:
        codes = labels.astype(labels.dtype.newbyteorder("=")).view(np.uint32).reshape(len(labels), -1)
        bad = (codes > _LAST_CODE_POINT) | ((codes >= _SURROGATES[0]) & (codes <= _SURROGATES[1]))
        if bad.any():
            row, column = divmod(int(np.argmax(bad)), codes.shape[1])
            raise DataError(f"{file}, row {row}: character {column} is {codes[row, column]:#x}, which is no Unicode")
    if unique:
        empty = labels.dtype.kind == "U" and np.strings.strip(labels) == ""
        if np.any(empty):
            raise DataError(f"{file}, row {np.argmax(empty)}: the id is empty; give every row one")
        _, first, counts = np.unique(labels, return_index=True, return_counts=True)
        if (counts > 1).any():
            row = int(first[counts > 1].min())
            again = int(np.flatnonzero(labels == labels[row])[1])
            raise DataError(f"{file}, rows {row} and {again}: both are {labels[row].item()!r}; ids must be unique")
    labels.flags.writeable = False
    return labels
