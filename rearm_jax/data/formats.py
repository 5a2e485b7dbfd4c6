"""The layouts of data folders that are understood. What is in a folder says which one it is.

Original: `train.npy`, `valid.npy`, `test.npy` hold [user, item] ids, and `<modality>_feat.npy` one row of features per
item. A split of two interactions lies as the other splits do, or, in a folder that prepare.py made, (n, 2).

MMRec (Zhou, 2023, arXiv 2302.03497): `NAME.inter`, tab-separated, with a header that has the columns userID, itemID
and x_label (0 train, 1 validation, 2 test), and the same feature files. `u_id_mapping.csv` and `i_id_mapping.csv`,
which its preparation leaves behind, give the original ids.

RecBole (Zhao et al., CIKM 2021): atomic files `NAME.train.inter`, `NAME.valid.inter` and `NAME.test.inter`,
tab-separated, with a typed header that has `user_id:token` and `item_id:token`. Every row is an interaction; ratings
are not looked at. Items are numbered, and have their features,
  - as in `item_ids.npy` (row i names item i), row i of `<modality>_feat.npy` being its features; or without that file
  - in the order of `NAME.item`, with the columns `item_id:token` and `<modality>:float_seq`, numbers between spaces.
Users are numbered as in `user_ids.npy` or, without it, in the order in which train, then valid, then test name them.

In every layout `user_ids.npy`, `item_ids.npy` and `item_names.npy` (labels.py) may name users and items.
"""

import array
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from rearm_jax.data import tsv
from rearm_jax.data.folder import REPORT_FILE
from rearm_jax.data.labels import check_labels, read_labels
from rearm_jax.data.npy import open_npy
from rearm_jax.errors import DataError

SPLITS = ("train", "valid", "test")
_MMREC_MAPPINGS = {"user_ids": ("u_id_mapping.csv", "userID"), "item_ids": ("i_id_mapping.csv", "itemID")}


class Table(NamedTuple):
    """An array and where it was read, for messages. `lines`, of a text file: the line of every row, counted from 1."""

    array: np.ndarray
    file: str
    lines: Sequence[int] | None = None

    def where(self, row: int) -> str:
        return f"{self.file}, row {row}" if self.lines is None else f"{self.file}, line {self.lines[row]}"


class Folder(NamedTuple):
    """What was read, not checked yet but for the layout.

    Attributes:
        splits: "train", "valid", "test" -> (2, n) or (n, 2), users and items.
        features: modality -> (num_items, d_m), in the order asked for.
        labels: any of "user_ids", "item_ids", "item_names" -> (n,).
        by_row: whether splits are (n, 2), so that (2, 2) can be told; None: the folder does not say.
    """

    splits: dict[str, Table]
    features: dict[str, Table]
    labels: dict[str, Table]
    by_row: bool | None = None


def read_folder(root: str, modalities: Sequence[str]) -> Folder:
    """Reads a folder in the layout that its files have.

    Args:
        root: the folder.
        modalities: names, checked by checks.check_modalities.

    Raises:
        DataError: no layout, two, files missing, or a file that cannot be read.
    """
    if not root:
        raise DataError("data.root is empty: set it to the folder that holds the data, such as train.npy, ...")
    try:
        present = sorted(os.listdir(root))
    except OSError as error:
        raise DataError(f"{root}: cannot be read as a folder ({error.strerror}); check data.root") from error

    arrays = [f"{split}.npy" for split in SPLITS if f"{split}.npy" in present]
    inter = [name for name in present if name.endswith(".inter")]
    typed = [name for name in inter if any(":" in column for column in tsv.header(os.path.join(root, name)))]
    plain = [name for name in inter if name not in typed]
    kinds = (("the original's", arrays), ("MMRec's", plain), ("RecBole's", typed))
    found = [f"{', '.join(names)} ({layout} layout)" for layout, names in kinds if names]
    if len(found) > 1:
        raise DataError(f"{root} holds two data sets: {' and '.join(found)}. Keep one, and move the other elsewhere")
    if not found:
        raise DataError(
            f"{root} holds no data set: train.npy, valid.npy, test.npy missing (and no .inter file of MMRec or "
            f"RecBole); the folder holds {_listed(present)}. Check data.root"
        )
    labels = {stem: Table(names, os.path.join(root, f"{stem}.npy")) for stem, names in read_labels(root).items()}
    if plain:
        return _read_mmrec(root, present, plain, modalities, labels)
    if typed:
        return _read_recbole(root, present, typed, modalities, labels)
    tables = _open_tables(root, present, (*SPLITS, *_feature_stems(modalities)))
    features = dict(zip(modalities, tables[len(SPLITS) :], strict=True))
    by_row = True if REPORT_FILE in present else None
    return Folder(dict(zip(SPLITS, tables, strict=False)), features, labels, by_row)


def is_data_set(root: str | os.PathLike) -> bool:
    """Whether a folder has files of interactions of any layout; they may be of no use yet."""
    return any(name in {f"{split}.npy" for split in SPLITS} or name.endswith(".inter") for name in os.listdir(root))


def _read_mmrec(
    root: str, present: list[str], inter: list[str], modalities: Sequence[str], labels: dict[str, Table]
) -> Folder:
    if len(inter) > 1:
        raise DataError(f"{root} holds {', '.join(inter)}: keep one, so that it is clear which data set is meant")
    path = os.path.join(root, inter[0])
    columns = ("userID", "itemID", "x_label")
    ids = [array.array("q") for _ in SPLITS]
    lines = [array.array("q") for _ in SPLITS]
    for line, fields in tsv.rows(path, columns):
        user, item, label = (tsv.number(field, path, line, name) for field, name in zip(fields, columns, strict=True))
        if label >= len(SPLITS):
            raise DataError(f"{path}, line {line}: x_label is {label}; 0 is train, 1 validation, 2 test")
        ids[label].extend((user, item))
        lines[label].append(line)
    splits = {
        split: Table(_pairs(ids[label]), f"{path} (x_label {label}: {split})", lines[label])
        for label, split in enumerate(SPLITS)
    }
    for stem, (name, column) in _MMREC_MAPPINGS.items():
        if name in present and stem not in labels:
            labels[stem] = _read_mapping(os.path.join(root, name), column)
    tables = _open_tables(root, present, _feature_stems(modalities))
    return Folder(splits, dict(zip(modalities, tables, strict=True)), labels, by_row=False)


def _read_mapping(path: str, column: str) -> Table:
    """Original ids from a file of two columns: them, and `column`, the numbers from 0 on in any order."""
    others = [name for name in tsv.header(path) if name != column]
    if len(others) != 1:
        raise DataError(f"{path}: the columns are {tsv.header(path)}, and must be {column} and the ids, tab-separated")
    ids = {}
    for line, (text, label) in tsv.rows(path, (column, others[0])):
        number = tsv.number(text, path, line, column)
        if number in ids:
            raise DataError(f"{path}, line {line}: {column} {number} is there already; every number has one id")
        ids[number] = tsv.label(label, path, line, others[0])
    missing = next((number for number in range(len(ids)) if number not in ids), None)
    if missing is not None:
        raise DataError(f"{path}: {column} {missing} is missing; the numbers run from 0 to {len(ids) - 1}")
    return Table(np.array([ids[number] for number in range(len(ids))], str), path)


def _read_recbole(
    root: str, present: list[str], inter: list[str], modalities: Sequence[str], labels: dict[str, Table]
) -> Folder:
    names = {
        name.removesuffix(f".{split}.inter") for name in inter for split in SPLITS if name.endswith(f".{split}.inter")
    }
    if not names:
        raise DataError(
            f"{root} holds {', '.join(inter)}, which is not split. Split it with `python -m rearm_jax.data.prepare "
            f"--interactions {os.path.join(root, inter[0])} --out FOLDER`, and use that folder"
        )
    name = min(names)
    others = [file for file in inter if file not in {f"{name}.inter", *(f"{name}.{split}.inter" for split in SPLITS)}]
    if others:
        raise DataError(f"{root} holds {', '.join(inter)}: keep one data set (not {', '.join(others)})")
    if missing := [f"{name}.{split}.inter" for split in SPLITS if f"{name}.{split}.inter" not in inter]:
        raise DataError(f"{root}: {', '.join(missing)} missing; the folder holds {_listed(present)}")
    if f"{name}.inter" in inter:
        logging.info("%s is not read: its splits lie beside it", os.path.join(root, f"{name}.inter"))

    if "item_ids" in labels:
        tables = _open_tables(root, present, _feature_stems(modalities))
        features = dict(zip(modalities, tables, strict=True))
    elif f"{name}.item" in present:
        labels["item_ids"], features = _read_item_file(os.path.join(root, f"{name}.item"), modalities)
    else:
        raise DataError(
            f"{root}: nothing says which item a row of features belongs to. Add item_ids.npy, with the item of each "
            f"row of {modalities[0]}_feat.npy, or {name}.item with the columns item_id:token and "
            f"{modalities[0]}:float_seq"
        )
    items = _numbers_of(labels["item_ids"])
    users_given = "user_ids" in labels
    users = _numbers_of(labels["user_ids"]) if users_given else {}

    splits = {}
    for split in SPLITS:
        path = os.path.join(root, f"{name}.{split}.inter")
        ids, lines = array.array("q"), array.array("q")
        for line, (user, item) in tsv.rows(path, ("user_id:token", "item_id:token")):
            if user not in users:
                if users_given:
                    raise _not_in(labels["user_ids"].file, path, line, "user_id", user)
                users[tsv.label(user, path, line, "user_id")] = len(users)
            if item not in items:
                raise _not_in(labels["item_ids"].file, path, line, "item_id", item)
            ids.extend((users[user], items[item]))
            lines.append(line)
        splits[split] = Table(_pairs(ids), path, lines)
    if not users_given:
        labels["user_ids"] = Table(np.array(list(users), str), f"the user_id column of {name}.*.inter")
    return Folder(splits, features, labels, by_row=False)


def _read_item_file(path: str, modalities: Sequence[str]) -> tuple[Table, dict[str, Table]]:
    """item_ids, text (n,), and float64 (n, d_m) of every modality, in the order of the file."""
    first_line: dict[str, int] = {}
    rows: dict[str, list[np.ndarray]] = {modality: [] for modality in modalities}
    columns = ("item_id:token", *(f"{modality}:float_seq" for modality in modalities))
    for line, (item, *fields) in tsv.rows(path, columns):
        if item in first_line:
            raise DataError(f"{path}, line {line}: item_id {tsv.shown(item)} is on line {first_line[item]} already")
        first_line[tsv.label(item, path, line, "item_id")] = line
        for modality, field in zip(modalities, fields, strict=True):
            try:
                row = np.array(field.split(" "), np.float64)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: {modality} is not numbers between spaces ({error})") from error
            if rows[modality] and len(row) != len(rows[modality][0]):
                raise DataError(
                    f"{path}, line {line}: {modality} has {len(row)} numbers, and {len(rows[modality][0])} before"
                )
            rows[modality].append(row)
    if not first_line:
        raise DataError(f"{path}: has no item; write a line for each")
    lines = tuple(first_line.values())
    features = {modality: Table(np.stack(rows[modality]), path, lines) for modality in modalities}
    return Table(np.array(list(first_line), str), path), features


def _open_tables(root: str, present: list[str], stems: Sequence[str]) -> list[Table]:
    """The .npy files of these stems. Raises DataError that names all that are missing."""
    missing = [f"{stem}.npy" for stem in stems if f"{stem}.npy" not in present]
    if missing:
        modalities = [name.removesuffix("_feat.npy") for name in present if name.endswith("_feat.npy")]
        raise DataError(
            f"{root}: {', '.join(missing)} missing; the folder holds {_listed(present)}. Add the missing, or check "
            f"data.root and data.modalities (modalities here: {', '.join(modalities) or 'none'})"
        )
    paths = [os.path.join(root, f"{stem}.npy") for stem in stems]
    return [Table(open_npy(path), path) for path in paths]


def _feature_stems(modalities: Sequence[str]) -> list[str]:
    return [f"{modality}_feat" for modality in modalities]


def _numbers_of(labels: Table) -> dict[str, int]:
    checked = check_labels(labels.array, labels.file, unique=True)
    return {str(label): number for number, label in enumerate(checked.tolist())}


def _pairs(ids: array.array) -> np.ndarray:
    """user, item, user, item, ... as int64 (2, n)."""
    return np.array(ids, np.int64).reshape(-1, 2).T


def _not_in(file: str, path: str, line: int, column: str, value: str) -> DataError:
    return DataError(f"{path}, line {line}: {column} {tsv.shown(value)} is not in {file}; add it, or leave the row out")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:30]) or "nothing"
