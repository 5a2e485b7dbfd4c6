"""The data of an experiment: interactions in three splits and item features, checked before anything else happens.

formats.py has the layouts of folders. Every error is a `DataError` that names file, row and value. Rows of arrays are
counted from 0, as numpy does, lines of text files from 1, as editors do; a row of a split is one interaction, whichever
way round its array lies in the file.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from rearm_jax.data.checks import (
    MAX_ID,
    check_modalities,
    checked_features,
    checked_pairs,
    common_num_items,
    lie_by_row,
    refuse_beyond,
    refuse_leaks,
)
from rearm_jax.data.formats import SPLITS, Folder, Table, read_folder
from rearm_jax.data.labels import LABEL_FILES, Labels, make_labels
from rearm_jax.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Validated data, from `from_tables`, `load_dataset` or `make_dataset`. All arrays are read-only.

    Attributes:
        train, valid, test: int32 (n, 2), [user, item], unique and sorted by (user, item); no pair is in two splits.
            Validation and test may be empty.
        num_users: users have ids 0 to num_users - 1; some may have no interaction.
        num_items: number of feature rows; some items may have no interaction.
        features: modality name -> float32 (num_items, d_m), finite, in the order of `config.data.modalities`.
        split_hash: sha256 (hex) of the three splits and both sizes.
        content_hash: sha256 (hex) of `split_hash` and the names, order and values of the features.
        labels: what users and items are called outside.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    num_users: int
    num_items: int
    features: dict[str, np.ndarray]
    split_hash: str
    content_hash: str
    labels: Labels

    @staticmethod
    def from_tables(
        interactions: Any, items: Any = None, features: Mapping[str, Any] | None = None, **options: Any
    ) -> "Dataset":
        """Data from tables in memory, prepared as `python -m rearm_jax.data.prepare` prepares files.

        A table is a data frame of polars or pandas, whose index counts as columns where it has a name, or a dict of
        columns. Ids become text: 317 is the user "317".

        Args:
            interactions: a table with columns of users, items and, where they are looked at, ratings and times; an
                array (n, 2), [user, item]; or a matrix of scipy (users, items), whose values other than 0 are
                interactions.
            items: a table of items, for their names and for features from its columns.
            features: modality name -> a table with ids and a column of lists or columns of numbers; a pair
                (ids, array); or an array (n, d) of numpy or scipy, whose rows are those of `items` (without: the
                matrix's columns).
            options: those of `prepare` by their names, such as k_core=5, split="time", user_column="who",
                name_column="title". Those that take modalities are dicts: text={"text": ["title", "brand"]}.

        Raises:
            ConfigError: an option is unknown or impossible, or a table is of no kind that is understood.
            DataError: a table cannot be used, or nothing is left of the interactions.
        """
        from rearm_jax.data.prepare.in_memory import arrays_of_tables  # and polars with it, which others do not need

        return prepared_dataset(*arrays_of_tables(interactions, items, features, **options))


def load_dataset(root: str | os.PathLike, modalities: Sequence[str], num_users: int = 0) -> Dataset:
    """Reads a folder in any layout of formats.py. Pickles inside the files are refused, never run.

    Args:
        root: the folder; ~ stands for the home folder.
        modalities: names, in the order they shall have everywhere.
        num_users: number of users; 0 takes as many as there are user ids, or else the largest number of a user + 1.

    Raises:
        DataError: a file is missing or cannot be read, or `make_dataset` refuses what it holds.
    """
    check_modalities(modalities)
    return _validated(read_folder(os.path.expanduser(root), modalities), num_users)


def make_dataset(
    train: np.ndarray,
    valid: np.ndarray,
    test: np.ndarray,
    features: dict[str, np.ndarray],
    num_users: int = 0,
    labels: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """Validates arrays and makes a Dataset of copies of them.

    Duplicates inside a split are reported as a warning with their count, and one of each is kept. Users and items
    without interactions, zero feature rows, users who interacted with every item, and empty splits but for train are
    legal.

    Args:
        train, valid, test: integer (2, n) or (n, 2), [user, item]. A (2, 2) array lies as the others do; where they do
            not tell, it is refused unless both ways give the same pairs.
        features: modality name -> floating-point (num_items, d_m); row i belongs to item id i.
        num_users: number of users; 0 takes as many as `labels` names, or else the largest user id of the splits + 1.
        labels: any of "user_ids" (num_users,), "item_ids" and "item_names" (num_items,), text or integers.

    Raises:
        DataError: names file, row and value of the first thing that is wrong, as if the arrays were the files of a
            folder in the original's layout.
    """
    check_modalities(tuple(features))
    splits = zip(SPLITS, (train, valid, test), strict=True)
    folder = Folder(
        {split: Table(array, f"{split}.npy") for split, array in splits},
        {modality: Table(array, f"{modality}_feat.npy") for modality, array in features.items()},
        {stem: Table(array, f"{stem}.npy") for stem, array in (labels or {}).items()},
    )
    return _validated(folder, num_users)


def prepared_dataset(arrays: Mapping[str, np.ndarray], modalities: Sequence[str]) -> Dataset:
    """The data set of the arrays that a folder made by data/prepare holds, by the stems of its files.

    Raises:
        DataError: as `make_dataset`.
    """
    folder = Folder(
        {split: Table(arrays[split], f"{split}.npy") for split in SPLITS},
        {modality: Table(arrays[f"{modality}_feat"], f"{modality}_feat.npy") for modality in modalities},
        {stem: Table(arrays[stem], f"{stem}.npy") for stem in LABEL_FILES if stem in arrays},
        by_row=True,
    )
    return _validated(folder, 0)


def folder_arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    """What `prepared_dataset` takes."""
    arrays = {split: getattr(dataset, split) for split in SPLITS}
    arrays |= {f"{modality}_feat": table for modality, table in dataset.features.items()}
    labels = dataset.labels
    stems = [stem for stem in LABEL_FILES if stem != "item_names" or labels.item_names is not labels.item_ids]
    return arrays | {stem: getattr(labels, stem) for stem in stems}


def _validated(folder: Folder, num_users: int) -> Dataset:
    files = {split: table.file for split, table in folder.splits.items()}
    by_row = lie_by_row(folder)
    pairs = {split: checked_pairs(table, by_row) for split, table in folder.splits.items()}
    if not len(pairs["train"]):
        shape = np.shape(folder.splits["train"].array)
        raise DataError(f"{files['train']}: the split is empty (shape {shape}), and there is nothing to learn from")
    features = {modality: checked_features(table) for modality, table in folder.features.items()}
    num_items = common_num_items(features, folder.features)
    if not 0 <= num_users <= MAX_ID + 1:
        raise DataError(f"data.num_users is {num_users}: set it to a number from 1 to {MAX_ID + 1}, or to 0 to count")
    users_are = f"data.num_users is {num_users}"
    items_are = f"{next(iter(folder.features.values())).file} has {num_items} rows"
    if not num_users and "user_ids" in folder.labels:
        num_users = np.size(folder.labels["user_ids"].array)
        users_are = f"{folder.labels['user_ids'].file} names {num_users} users"
    num_users = int(num_users) or 1 + max(int(pairs[split][:, 0].max(initial=-1)) for split in SPLITS)
    for split in SPLITS:
        refuse_beyond(pairs[split][:, 0], num_users, folder.splits[split], "user", users_are)
        refuse_beyond(pairs[split][:, 1], num_items, folder.splits[split], "item", items_are)

    keys, first_rows = {}, {}
    for split in SPLITS:
        users, items = pairs[split].T
        keys[split], first_rows[split] = np.unique(users * num_items + items, return_index=True)
        num_duplicates = len(users) - len(keys[split])
        if num_duplicates:
            logging.warning("%s: %d duplicate interactions; one of each is kept", files[split], num_duplicates)
    refuse_leaks(keys, first_rows, num_items, folder.splits)

    label_arrays = {stem: table.array for stem, table in folder.labels.items()}
    label_files = {stem: table.file for stem, table in folder.labels.items()}
    labels = make_labels(label_arrays, num_users, num_items, label_files)
    splits = {split: pairs[split][first_rows[split]].astype(np.int32, order="C") for split in SPLITS}
    return _with_hashes(splits, num_users, num_items, features, labels)


def all_in_train(dataset: Dataset) -> Dataset:
    """The same data, with the interactions of all splits in train; validation and test are empty."""
    pairs = np.concatenate([getattr(dataset, split) for split in SPLITS])
    empty = np.zeros((0, 2), np.int32)
    splits = {"train": pairs[np.lexsort(pairs.T[::-1])], "valid": empty, "test": empty.copy()}
    return _with_hashes(splits, dataset.num_users, dataset.num_items, dataset.features, dataset.labels)


def _with_hashes(
    splits: dict[str, np.ndarray], num_users: int, num_items: int, features: dict[str, np.ndarray], labels: Labels
) -> Dataset:
    for array in (*splits.values(), *features.values()):
        array.flags.writeable = False
    split_hash = _sha256(f"{num_users} {num_items}", splits)
    content_hash = _sha256(split_hash, features)
    return Dataset(
        **splits,
        num_users=num_users,
        num_items=num_items,
        features=features,
        split_hash=split_hash,
        content_hash=content_hash,
        labels=labels,
    )


def group_by_user(pairs: np.ndarray, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Items of every user, as the row pointers and columns of a CSR matrix.

    Args:
        pairs: int32 (n, 2), [user, item], in any order; user ids below num_users.
        num_users: number of rows.

    Returns:
        indptr int32 (num_users + 1,) and items int32 (n,): user u has items[indptr[u] : indptr[u + 1]], ascending.
    """
    users, items = pairs.T
    indptr = np.zeros(num_users + 1, np.int32)
    np.cumsum(np.bincount(users, minlength=num_users), out=indptr[1:])
    return indptr, items[np.lexsort((items, users))].astype(np.int32)


def summary(dataset: Dataset, protocol: str) -> str:
    """The table printed at the start of a run; `protocol` is `config.protocol`."""
    num_interactions = sum(len(getattr(dataset, split)) for split in SPLITS)
    cold_users = dataset.num_users - len(np.unique(dataset.train[:, 0]))
    cold_items = dataset.num_items - len(np.unique(dataset.train[:, 1]))
    density = num_interactions / (dataset.num_users * dataset.num_items)
    rows = [
        ("users", f"{dataset.num_users:,}", f"{cold_users:,} cold (no train interaction)"),
        ("items", f"{dataset.num_items:,}", f"{cold_items:,} cold (no train interaction)"),
        *((split, f"{len(getattr(dataset, split)):,}", "interactions") for split in SPLITS),
        ("density", f"{density:.4%}", "of all user-item pairs, all splits"),
        *((modality, f"{table.shape[1]:,}", "features per item") for modality, table in dataset.features.items()),
        ("protocol", protocol, ""),
        ("split hash", dataset.split_hash[:12], ""),
    ]
    label_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{label:<{label_width}}  {value:>{value_width}}  {note}".rstrip() for label, value, note in rows)


def _sha256(prefix: str, arrays: dict[str, np.ndarray]) -> str:
    """Hex digest of the prefix and the names, dtypes, shapes, values and order of the arrays."""
    digest = hashlib.sha256(prefix.encode())
    for name, array in arrays.items():
        digest.update(f" {name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data)
    return digest.hexdigest()
