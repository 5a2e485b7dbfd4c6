"""Adds features of the items to a folder of data that is there.

Of a folder with a data set, in any layout of formats.py, the items are those of the data set, and the new items that
prepare kept beside them: both get their features, from the same tables and by the same coding. A folder of new items by
itself (docs/output.md) has their ids alone, and takes texts, pictures and ready features: what a category or a number
is worth shows beside those of a data set only.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from rearm_jax.data.dataset import load_dataset
from rearm_jax.data.folder import NEW_ITEMS, REPORT_FILE, report_text
from rearm_jax.data.formats import is_data_set
from rearm_jax.data.labels import check_labels
from rearm_jax.data.npy import open_npy
from rearm_jax.data.prepare.frames import Frame
from rearm_jax.data.prepare.pipeline import item_arrays, log_counts, versions
from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.settings import Settings, check_choices
from rearm_jax.data.prepare.tables import column_names, pick_column, readable, scan_table
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.files import whole_file

_ID = "the item of this row"  # a column beside those of the table


def add_modalities(settings: Settings, in_order: bool = False) -> dict[str, Any]:
    """Writes each modality that the settings name as `<modality>_feat.npy`: all of them, or none where that fails.

    Where prepare made the folder, its prepare.json says under "added" what was added.

    Args:
        settings: of prepare; what is about items, `out`, which is the folder, and `overwrite`.
        in_order: row i of the table of items is item i of the folder: no ids are read.

    Returns:
        what "added" gets.

    Raises:
        ConfigError: settings do not go together, a package is missing, or the folder has features of that name already.
        DataError: a file or the folder cannot be used; the message says where and why.
    """
    root = Path(settings.out)
    modalities = check_choices(settings)
    folders = [root, *(folder for folder in [root / NEW_ITEMS] if folder.is_dir())]
    files = [folder / f"{name}_feat.npy" for folder in folders for name in modalities]
    there = [str(file.relative_to(root)) for file in files if os.path.lexists(file)]
    if there and not settings.overwrite:
        raise ConfigError(f"{root} has {', '.join(there)}: give other names, or overwrite to replace them")
    report = _report(root / REPORT_FILE)
    ids = _item_ids(root, settings)
    new_ids = _ids_of_new(root / NEW_ITEMS, ids, in_order) if len(folders) > 1 else ids[:0]
    item_ids = np.concatenate([ids, new_ids])
    reading = settings.reading_items()
    placed = _by_place(settings, ids, reading) if in_order else settings
    counts: dict[str, int] = {}
    columns: dict[str, list[str]] = {}
    arrays = item_arrays(placed, item_ids, len(ids), reading, counts, columns)
    of_new = {f"{NEW_ITEMS}/{stem}": array[len(ids) :] for stem, array in arrays.items() if len(new_ids)}
    _refuse_bare(root, new_ids, of_new)
    widths = {name: int(arrays[f"{name}_feat"].shape[1]) for name in modalities}
    added = {
        "settings": dataclasses.asdict(settings) | {"in_order": in_order},
        "modalities": widths,
        "columns": columns,
        "counts": counts,
        "lines": {found.account.path: found.account.as_dict() for found in reading.found.values()},
        "versions": versions(),
    }
    pieces = {stem: array[: len(ids)] for stem, array in arrays.items()} | of_new
    try:
        # All is written before the first file takes its place, at the end of the block: those of new items first.
        with contextlib.ExitStack() as files_in_place:
            if report is not None:
                report.setdefault("added", []).append(added)
                temporary = files_in_place.enter_context(whole_file(root / REPORT_FILE))
                temporary.write_text(report_text(report), encoding="utf-8")
            for stem, array in pieces.items():
                temporary = files_in_place.enter_context(whole_file(root / f"{stem}.npy"))
                with temporary.open("xb") as file:
                    np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{root} cannot be written: {error.strerror} ({error.filename})") from error
    for found in reading.found.values():
        logging.info("%s", found.account)
    log_counts(counts)
    also = f", also for {len(new_ids):,} new items" if len(new_ids) else ""
    logging.info(
        "%s has %s%s", root, ", ".join(f"{name}_feat.npy, {width} wide" for name, width in widths.items()), also
    )
    return added


def _item_ids(root: Path, settings: Settings) -> np.ndarray:
    """The ids of the folder's items as text (num_items,)."""
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    if is_data_set(root):
        features = sorted(path.name.removesuffix("_feat.npy") for path in root.glob("*_feat.npy"))
        if features:
            return load_dataset(root, features[:1]).labels.item_ids.astype(np.str_)
    elif settings.category or settings.number:
        raise ConfigError(f"{root} has no data set: category and number have no meaning for items by themselves")
    return _ids_of_file(root)


def _ids_of_file(folder: Path) -> np.ndarray:
    path = folder / "item_ids.npy"
    if not path.exists():
        raise DataError(f"{folder} has neither features nor item_ids.npy: nothing says which items there are")
    return check_labels(open_npy(path), f"{path}", unique=True).astype(np.str_)


def _ids_of_new(folder: Path, item_ids: np.ndarray, in_order: bool) -> np.ndarray:
    """The ids of the new items beside items of a data set, as text (n,)."""
    new_ids = _ids_of_file(folder)
    if in_order:
        raise ConfigError(
            f"in_order says nothing about the {len(new_ids)} new items of {folder}: match the rows by their ids"
        )
    if known := np.intersect1d(new_ids, item_ids).tolist():
        raise DataError(f"{folder}/item_ids.npy: {known[0]!r} is an item of the data, too; remove it from one of them")
    return new_ids


def _refuse_bare(root: Path, new_ids: np.ndarray, of_new: Mapping[str, np.ndarray]) -> None:
    """Raises DataError where a new item would be left without features of any modality: it would resemble nothing."""
    if not len(new_ids):
        return
    paths = [path for path in (root / NEW_ITEMS).glob("*_feat.npy") if f"{NEW_ITEMS}/{path.stem}" not in of_new]
    has_features = np.any([table.any(axis=1) for table in of_new.values()], axis=0)
    for path in sorted(paths):
        table = open_npy(path)
        if table.ndim != 2 or len(table) != len(new_ids):
            raise DataError(f"{path}: the shape is {table.shape}, for {len(new_ids)} new items; bring it back")
        has_features |= np.any(table, axis=1)
    if not has_features.all():
        bare = new_ids[~has_features]
        raise DataError(
            f"{root / NEW_ITEMS}: {len(bare)} items, such as {bare[0].item()!r}, would have no features, and could not "
            "be ranked. Give features for them, too, or leave them out when the folder is prepared"
        )


def _by_place(settings: Settings, item_ids: np.ndarray, reading: Reading) -> Settings:
    """The settings with a table in the place of `items`, whose rows have the ids of the folder's items."""
    named = [column for _, group in (*settings.text, *settings.category, *settings.number) for column in group]
    if len(settings.items) != 1 or not named or settings.item_id_column is not None or settings.features:
        raise ConfigError(
            "in_order is about columns of one file of items, and goes with neither item_id_column nor features"
        )
    [path] = settings.items
    table = scan_table(path, reading, [(column,) for column in named])
    names = column_names(table, path)
    wanted = [pick_column(names, column, (), path, "", "") for column in dict.fromkeys(named)]
    with readable(path, reading):
        rows = table.select(wanted).collect(engine="streaming")
    if len(rows) != len(item_ids):
        raise DataError(
            f"{path} has {len(rows)} rows, for {len(item_ids)} items of {settings.out}: match them by their ids"
        )
    frame = Frame(os.fspath(path), rows.with_columns(**{_ID: item_ids}).lazy())
    return dataclasses.replace(settings, items=[frame], item_id_column=_ID)


def _report(path: Path) -> dict[str, Any] | None:
    """What prepare.json holds; None where there is none."""
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); bring it back") from error
    if not isinstance(report, Mapping) or not isinstance(report.get("added", []), list):
        raise DataError(f"{path} is not what prepare writes; bring it back")
    return dict(report)
