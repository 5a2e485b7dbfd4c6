"""What users and items are called outside: the ids of the catalogue they come from, and names for people.

A folder of data may hold `user_ids.npy`, `item_ids.npy` and `item_names.npy`: row i belongs to id i of the splits, as
text (numpy's `<U`) or integers. Without them users and items are called by their numbers.
"""

import dataclasses
import os
import warnings

import numpy as np

from rearm_jax.errors import DataError

LABEL_FILES = ("user_ids", "item_ids", "item_names")


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
    found = {}
    for stem in LABEL_FILES:
        path = os.path.join(os.fspath(root), f"{stem}.npy")
        if not os.path.exists(path):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd headers: what matters about the array is checked afterwards
                found[stem] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError) as error:
            raise DataError(f"{path} cannot be read: {error}. Save text as numpy's <U, without pickle") from error
    return found


def make_labels(given: dict[str, np.ndarray], num_users: int, num_items: int, folder: str = "") -> Labels:
    """Checks labels and fills in those that are not given.

    Args:
        given: any of "user_ids", "item_ids", "item_names".
        num_users, num_items: how many rows there must be.
        folder: named in messages in front of the file names.

    Raises:
        DataError: names file and row of the first label that is wrong.
    """
    sizes = {"user_ids": num_users, "item_ids": num_items, "item_names": num_items}
    checked = {stem: _checked(np.asarray(array), sizes[stem], stem, folder) for stem, array in given.items()}
    user_ids = checked.get("user_ids", np.arange(num_users))
    item_ids = checked.get("item_ids", np.arange(num_items))
    return Labels(user_ids, item_ids, checked.get("item_names", item_ids))


def _checked(labels: np.ndarray, size: int, stem: str, folder: str) -> np.ndarray:
    """A read-only copy."""
    file = os.path.join(folder, f"{stem}.npy")
    if labels.dtype.kind not in "Uiu":
        raise DataError(f"{file}: the dtype is {labels.dtype}; labels are text (numpy's <U) or integers")
    if labels.shape != (size,):
        raise DataError(f"{file}: the shape is {labels.shape}, and must be ({size},): one label a row")
    if stem != "item_names":
        _, first, counts = np.unique(labels, return_index=True, return_counts=True)
        if (counts > 1).any():
            row = int(first[counts > 1].min())
            again = int(np.flatnonzero(labels == labels[row])[1])
            raise DataError(f"{file}, rows {row} and {again}: both are {labels[row].item()!r}; ids must be unique")
    labels = labels.copy()
    labels.flags.writeable = False
    return labels
