"""The data of an experiment: interactions in three splits and item features, checked before anything else happens.

Folder layout (the original's): `train.npy`, `valid.npy`, `test.npy` hold [user, item] ids, and `<modality>_feat.npy`
one row of features per item; labels.py has the files of names that may lie beside them. Every error is a `DataError`
that names file, row and value. Rows are counted from 0, as numpy does; a row of a split is one interaction, whichever
way round its array lies in the file.
"""

import dataclasses
import hashlib
import itertools
import os
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging

from rearm_jax.data.labels import Labels, make_labels, read_labels
from rearm_jax.errors import DataError

SPLITS = ("train", "valid", "test")
_MAX_ID = 2**31 - 2  # so that the number of users or items fits int32, too
_CHUNK_ROWS = 1024  # features are converted and checked this many rows at a time: temporaries stay small


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Validated data; `make_dataset` is the way to get one. All arrays are read-only.

    Attributes:
        train, valid, test: int32 (n, 2), [user, item], unique and sorted by (user, item); no pair is in two splits.
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


def load_dataset(root: str | os.PathLike, modalities: Sequence[str], num_users: int = 0) -> Dataset:
    """Reads a folder in the original's layout. Pickles inside the files are refused, never run.

    Args:
        root: folder with train.npy, valid.npy, test.npy and one <modality>_feat.npy per modality.
        modalities: names, in the order they shall have everywhere.
        num_users: number of users; 0 takes as many as user_ids.npy has, or else the largest user id of the splits + 1.

    Raises:
        DataError: a file is missing or is no .npy file, or `make_dataset` refuses what it holds.
    """
    check_modalities(modalities)
    root = os.fspath(root)
    if not root:
        raise DataError("data.root is empty: set it to the folder that holds train.npy, valid.npy and test.npy")
    try:
        present = sorted(os.listdir(root))
    except OSError as error:
        raise DataError(f"{root}: cannot be read as a folder ({error.strerror}); check data.root") from error

    stems = (*SPLITS, *(f"{modality}_feat" for modality in modalities))
    missing = [f"{stem}.npy" for stem in stems if f"{stem}.npy" not in present]
    if missing:
        found = [name.removesuffix("_feat.npy") for name in present if name.endswith("_feat.npy")]
        raise DataError(
            f"{root}: {', '.join(missing)} missing; the folder holds {', '.join(present[:30]) or 'nothing'}. Add "
            f"the missing, or check data.root and data.modalities (modalities here: {', '.join(found) or 'none'})"
        )

    arrays = [_open_array(os.path.join(root, f"{stem}.npy")) for stem in stems]
    features = dict(zip(modalities, arrays[len(SPLITS) :], strict=True))
    return make_dataset(*arrays[: len(SPLITS)], features, num_users, root, read_labels(root))


def make_dataset(
    train: np.ndarray,
    valid: np.ndarray,
    test: np.ndarray,
    features: dict[str, np.ndarray],
    num_users: int = 0,
    folder: str = "",
    labels: Mapping[str, np.ndarray] | None = None,
) -> Dataset:
    """Validates arrays and makes a Dataset of copies of them.

    Duplicates inside a split are reported as a warning with their count, and one of each is kept. Users and items
    without interactions, zero feature rows, and users who interacted with every item are legal.

    Args:
        train, valid, test: integer (2, n) or (n, 2), [user, item]. A (2, 2) array is taken as the original's (2, n):
            first row users, second row items.
        features: modality name -> floating-point (num_items, d_m); row i belongs to item id i.
        num_users: number of users; 0 takes as many as `labels` names, or else the largest user id of the splits + 1.
        folder: named in messages in front of the file names.
        labels: any of "user_ids" (num_users,), "item_ids" and "item_names" (num_items,), text or integers.

    Raises:
        DataError: names file, row and value of the first thing that is wrong.
    """
    check_modalities(tuple(features))
    split_files = {split: os.path.join(folder, f"{split}.npy") for split in SPLITS}
    feature_files = {modality: os.path.join(folder, f"{modality}_feat.npy") for modality in features}

    pairs = {
        split: _checked_pairs(array, split_files[split])
        for split, array in zip(SPLITS, (train, valid, test), strict=True)
    }
    features = {modality: _checked_features(array, feature_files[modality]) for modality, array in features.items()}
    num_items = _common_num_items(features, feature_files)
    if not 0 <= num_users <= _MAX_ID + 1:
        raise DataError(f"data.num_users is {num_users}: set it to a number from 1 to {_MAX_ID + 1}, or to 0 to count")
    labels = labels or {}
    named_users = np.size(labels.get("user_ids", ()))
    num_users = int(num_users) or named_users or 1 + max(int(pairs[split][:, 0].max()) for split in SPLITS)
    users_are = f"data.num_users is {num_users}"
    items_are = f"{next(iter(feature_files.values()))} has {num_items} rows"
    for split in SPLITS:
        _refuse_beyond(pairs[split][:, 0], num_users, split_files[split], "user", users_are)
        _refuse_beyond(pairs[split][:, 1], num_items, split_files[split], "item", items_are)

    keys, first_rows = {}, {}
    for split in SPLITS:
        users, items = pairs[split].T
        keys[split], first_rows[split] = np.unique(users * num_items + items, return_index=True)
        num_duplicates = len(users) - len(keys[split])
        if num_duplicates:
            logging.warning("%s: %d duplicate interactions; one of each is kept", split_files[split], num_duplicates)
    _refuse_leaks(keys, first_rows, num_items, split_files)

    splits = {split: pairs[split][first_rows[split]].astype(np.int32, order="C") for split in SPLITS}
    for array in (*splits.values(), *features.values()):
        array.flags.writeable = False
    split_hash = _sha256(f"{num_users} {num_items}", splits)
    return Dataset(
        **splits,
        num_users=num_users,
        num_items=num_items,
        features=features,
        split_hash=split_hash,
        content_hash=_sha256(split_hash, features),
        labels=make_labels(labels, num_users, num_items, folder),
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


def check_modalities(modalities: Sequence[str]) -> None:
    """Raises DataError unless the names are identifiers, unique, and at least one."""
    if isinstance(modalities, str) or not modalities:
        raise DataError(f"data.modalities is {modalities!r}: name at least one, as a tuple such as ('image', 'text')")
    for modality in modalities:
        # The name becomes part of a file name and of parameter names, so nothing but an identifier may pass.
        if not isinstance(modality, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", modality):
            raise DataError(f"data.modalities holds {modality!r}: use letters, digits and underscores, no digit first")
    if len(set(modalities)) < len(modalities):
        raise DataError(f"data.modalities is {tuple(modalities)!r}: every modality may be named once only")


def _open_array(path: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd headers: what matters about the array is checked afterwards
            # Maps the file, so that a wide float64 table never lies in memory whole, and cannot unpickle anything.
            return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy's header parser raises nearly anything on a damaged file
        raise DataError(
            f"{path}: not a complete .npy file of numbers ({error}); write it again with numpy.save"
        ) from error


def _checked_pairs(array: np.ndarray, file: str) -> np.ndarray:
    """Array as int64 (n, 2) with ids from 0 to _MAX_ID, not empty."""
    array = np.asarray(array)
    if array.ndim != 2 or 2 not in array.shape:
        raise DataError(f"{file}: the shape is {array.shape}, and must be (2, n) or (n, 2): user and item ids")
    pairs = array.T if array.shape[0] == 2 else array
    if not len(pairs):
        raise DataError(f"{file}: the split is empty (shape {array.shape}); every split needs an interaction")
    if pairs.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # of NaN
            row, column = divmod(int(np.argmax(np.trunc(pairs) != pairs)), 2)  # the first fraction or NaN, else row 0
        raise DataError(
            f"{file}, row {row}: {('user', 'item')[column]} id {pairs[row, column]} of dtype {pairs.dtype}; "
            "ids must be integers, so save the array with an integer dtype"
        )
    if pairs.dtype.kind not in "iu":
        raise DataError(f"{file}: the dtype is {pairs.dtype}; ids must be integers, so save it with an integer dtype")
    out_of_range = (pairs < 0) | (pairs > _MAX_ID)
    if out_of_range.any():
        row, column = divmod(int(np.argmax(out_of_range)), 2)
        raise DataError(
            f"{file}, row {row}: {('user', 'item')[column]} id {pairs[row, column]}; ids run from 0 to {_MAX_ID}"
        )
    return pairs.astype(np.int64)


def _checked_features(array: np.ndarray, file: str) -> np.ndarray:
    """Array as finite float32 (num_items, d) in row-major order; a copy."""
    array = np.asarray(array)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"{file}: the shape is {array.shape}, and must be (items, features), at least one of each")
    if array.dtype.kind != "f":
        raise DataError(f"{file}: the dtype is {array.dtype}; features must be floats, so save it as float32")
    features = np.empty(array.shape, np.float32)
    for start in range(0, len(array), _CHUNK_ROWS):
        chunk = slice(start, start + _CHUNK_ROWS)
        with np.errstate(all="ignore"):  # a value beyond float32 turns into inf here, and is refused below
            features[chunk] = array[chunk]
        finite = np.isfinite(features[chunk])
        if not finite.all():
            row, column = divmod(int(np.argmin(finite)), array.shape[1])
            value = array[start + row, column]
            reason = "is too large for float32" if np.isfinite(value) else "is not a finite number"
            raise DataError(f"{file}, row {start + row}, column {column}: {value} {reason}; mend the feature")
    return features


def _common_num_items(features: dict[str, np.ndarray], files: dict[str, str]) -> int:
    (first, table), *others = features.items()
    for modality, other in others:
        if len(other) != len(table):
            raise DataError(
                f"{files[first]} has {len(table)} rows, but {files[modality]} has {len(other)}: every modality needs "
                "one row per item"
            )
    return len(table)


def _refuse_beyond(ids: np.ndarray, limit: int, file: str, kind: str, why: str) -> None:
    row = int(np.argmax(ids >= limit))
    if ids[row] >= limit:
        raise DataError(f"{file}, row {row}: {kind} id {ids[row]}, but {why}, so ids run from 0 to {limit - 1}")


def _refuse_leaks(
    keys: dict[str, np.ndarray], first_rows: dict[str, np.ndarray], num_items: int, files: dict[str, str]
) -> None:
    """Raises DataError if two splits share a pair. keys: unique, user * num_items + item; first_rows: their rows."""
    for one, other in itertools.combinations(SPLITS, 2):
        shared, in_one, in_other = np.intersect1d(keys[one], keys[other], assume_unique=True, return_indices=True)
        if len(shared):
            first = np.argmin(first_rows[one][in_one])
            user, item = divmod(int(shared[first]), num_items)
            raise DataError(
                f"{files[one]}, row {first_rows[one][in_one[first]]} and {files[other]}, row "
                f"{first_rows[other][in_other[first]]}: user {user}, item {item} is in both splits ({len(shared)} "
                "shared pairs in all); this leaks answers, so keep each pair in one split only"
            )


def _sha256(prefix: str, arrays: dict[str, np.ndarray]) -> str:
    """Hex digest of the prefix and the names, dtypes, shapes, values and order of the arrays."""
    digest = hashlib.sha256(prefix.encode())
    for name, array in arrays.items():
        digest.update(f" {name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array)
    return digest.hexdigest()
