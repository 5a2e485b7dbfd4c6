"""The steps from raw files to a data folder.

In this order: rows under min_rating are dropped, pairs that repeat are kept once, the k-core is taken, and what is
left is split (splitting.py tells how).
"""

import dataclasses
import importlib.metadata
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from rearm_jax.data.encode import encode_images, encode_texts
from rearm_jax.data.folder import NEW_ITEMS, write_folder
from rearm_jax.data.prepare.coded import Coded, one_hot, scaled
from rearm_jax.data.prepare.interactions import read_interactions
from rearm_jax.data.prepare.item_columns import find_pictures, join_texts, make_names, read_item_columns
from rearm_jax.data.prepare.item_features import read_features
from rearm_jax.data.prepare.new_items import find_new_items, split_new_items
from rearm_jax.data.prepare.reading import Account, Reading
from rearm_jax.data.prepare.settings import Settings, check
from rearm_jax.data.prepare.splitting import TEST, TRAIN, VALID, deduplicate, k_core, split
from rearm_jax.errors import DataError

_PACKAGES = ("numpy", "polars", "sentence-transformers", "transformers", "torch")


def prepare(settings: Settings) -> dict:
    """Makes the folder `settings.out`, whole or not at all.

    Returns:
        what prepare.json holds.

    Raises:
        ConfigError: settings do not go together, or a package is missing.
        DataError: a file cannot be used, or nothing is left; the message says where and why.
    """
    start = time.monotonic()
    modalities = check(settings)
    arrays, counts, columns, accounts = read_arrays(settings, modalities)
    report = {
        "settings": dataclasses.asdict(settings),
        "modalities": {name: int(arrays[f"{name}_feat"].shape[1]) for name in modalities},
        "columns": columns,
        "counts": counts,
        "lines": {account.path: account.as_dict() for account in accounts},
        "versions": versions(),
        "seconds": round(time.monotonic() - start, 1),
    }
    write_folder(settings.out, arrays, report, settings.overwrite)
    for account in accounts:
        logging.info("%s", account)
    log_counts(counts)
    flag = "".join(f'"{name}",' for name in modalities)
    logging.info(
        "%s: made in %.1f s; for python -m rearm_jax.main --config.data.modalities='(%s)'",
        settings.out,
        report["seconds"],
        flag,
    )
    return report


def read_arrays(
    settings: Settings, modalities: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, list[str]], list[Account]]:
    """What a folder holds of settings that were checked: arrays by the stems of their files; counts of what was kept
    and dropped; what the columns of modalities from categories and numbers stand for; the accounts of text files.

    Raises:
        DataError: as `prepare`.
    """
    counts: dict[str, int] = {}
    columns: dict[str, list[str]] = {}
    readings = settings.reading_interactions(), settings.reading_items()
    arrays = _interaction_arrays(settings, readings[0], counts)
    arrays.update(_arrays_of_all(settings, arrays["item_ids"], modalities, readings[1], counts, columns))
    return arrays, counts, columns, [found.account for reading in readings for found in reading.found.values()]


def log_counts(counts: Mapping[str, int]) -> None:
    """Says what was kept and dropped."""
    width = max(map(len, counts))
    logging.info("%s", "\n".join(f"{what:{width}}{number:>13,}" for what, number in counts.items()))


def _interaction_arrays(settings: Settings, reading: Reading, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Splits and ids, by the stems of their files."""
    read = read_interactions(
        settings.interactions,
        user_column=settings.user_column,
        item_column=settings.item_column,
        rating_column=settings.rating_column,
        time_column=settings.time_column,
        min_rating=settings.min_rating,
        with_times=settings.split != "random",
        reading=reading,
    )
    users, items, times = read.users, read.items, read.times
    counts["rows read"] = len(users) + read.num_blank + read.num_low
    counts["ids with blanks around them (cut)"] = read.num_cut
    if settings.split != "random":
        counts["times without an offset beside some with one (taken as UTC)"] = read.num_naive
    counts["dropped: blank rows"] = read.num_blank
    if settings.min_rating is not None:
        counts[f"dropped: rating below {settings.min_rating}"] = read.num_low
    keep = deduplicate(users, items, times, "last" if settings.duplicates == "last" else "first")
    if settings.duplicates == "refuse" and len(keep) < len(users):
        repeated = np.setdiff1d(np.arange(len(users)), keep)
        user, item = str(read.user_ids[users[repeated[0]]]), str(read.item_ids[items[repeated[0]]])
        raise DataError(f"user {user!r} has item {item!r} more than once ({len(repeated)} repeated rows in all)")
    counts["dropped: the same user and item again"] = len(users) - len(keep)
    core = keep[k_core(users[keep], items[keep], settings.k_core)]
    if not counts["rows read"]:
        raise DataError(f"{', '.join(map(str, settings.interactions))}: there is no interaction in")
    if not len(core):
        low = "" if settings.min_rating is None else f"{read.num_low} have a rating below {settings.min_rating}, and "
        raise DataError(
            f"no interaction is left: of {counts['rows read']} rows, {low}the {settings.k_core}-core of {len(keep)} "
            "interactions is empty; lower k_core"
        )
    counts[f"dropped: outside the {settings.k_core}-core"] = len(keep) - len(core)
    counts["dropped: users with no row left"] = len(read.user_ids) - len(np.unique(users[core]))
    counts["dropped: items with no row left"] = len(read.item_ids) - len(np.unique(items[core]))

    kept_users, users = np.unique(users[core], return_inverse=True)
    kept_items, items = np.unique(items[core], return_inverse=True)
    times = None if times is None else times[core]
    parts = split(users, items, times, settings.split, settings.ratios or (8, 1, 1), settings.seed)
    counts.update({"kept: interactions": len(users), "kept: users": len(kept_users), "kept: items": len(kept_items)})
    pairs = np.stack((users, items), axis=1).astype(np.int32)
    pairs_of = {}
    for stem, part in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        rows = pairs[parts == part]
        pairs_of[stem] = rows[np.lexsort(rows.T[::-1])]
        counts[f"kept: {stem}"] = len(rows)
    counts["users in train alone"] = len(kept_users) - len(np.unique(users[parts != TRAIN]))
    counts["users without train interactions"] = len(kept_users) - len(np.unique(users[parts == TRAIN]))
    counts["items without train interactions"] = len(kept_items) - len(np.unique(items[parts == TRAIN]))
    return {**pairs_of, "user_ids": read.user_ids[kept_users], "item_ids": read.item_ids[kept_items]}


def _arrays_of_all(
    settings: Settings,
    item_ids: np.ndarray,
    modalities: Sequence[str],
    reading: Reading,
    counts: dict[str, int],
    columns: dict[str, list[str]],
) -> dict[str, np.ndarray]:
    """`item_arrays`, and with catalogue="all" those of items without interactions, in a folder of their own."""
    if settings.catalogue != "all":
        return item_arrays(settings, item_ids, len(item_ids), reading, counts, columns)
    others = find_new_items(settings.items, item_ids, settings.item_id_column, reading)
    everything = np.concatenate([item_ids, others])
    arrays = item_arrays(settings, everything, len(item_ids), reading, counts, columns)
    kept, new, num_bare = split_new_items({**arrays, "item_ids": everything}, len(item_ids), modalities)
    counts["new items: of the tables of items, without interactions that were kept"] = len(others) - num_bare
    counts["dropped: listed items without interactions and features"] = num_bare
    return kept | {f"{NEW_ITEMS}/{stem}": array for stem, array in new.items()}


def item_arrays(
    settings: Settings,
    item_ids: np.ndarray,
    num_kept: int,
    reading: Reading,
    counts: dict[str, int],
    columns: dict[str, list[str]],
) -> dict[str, np.ndarray]:
    """Names and features, by the stems of their files. What is cheap to read is read first: errors come early.

    Args:
        settings: that were checked.
        item_ids: text (num_items,).
        num_kept: the first so many items have interactions.
        reading: how text is read.
        counts: gets what was found and what is missing.
        columns: gets what the columns of modalities from categories and numbers stand for.
    """
    arrays: dict[str, np.ndarray] = {}
    pictures, num_others = None, 0
    if settings.images is not None:
        pictures, num_others = find_pictures(settings.images, item_ids)
    wanted = [*(column for _, named in (*settings.text, *settings.number) for column in named), *settings.name_column]
    texts: dict[str, list[str]] = {}
    if settings.items:
        texts, seen, has_row = read_item_columns(
            settings.items, list(dict.fromkeys(wanted)), item_ids, settings.item_id_column, reading
        )
        counts["items without a row in the tables of items"] = seen["absent"]
        if settings.catalogue != "all":
            counts["listed items of no interaction that was kept"] = seen["others"]
        counts["ids of listed items with blanks around them (cut)"] = seen["cut"]
        counts["dropped: blank rows of the tables of items"] = seen["blank"]
        counts["dropped: rows of the tables of items whose item had one"] = seen["again"]
        if not has_row[:num_kept].any():
            raise DataError(
                f"{', '.join(map(str, settings.items))}: none of the interactions' items is there; check the id columns"
            )
    if settings.name_column:
        names, unnamed, cut = make_names([texts[column] for column in settings.name_column], item_ids)
        arrays["item_names"] = names
        counts["items without a name (called by their id)"] = unnamed
        counts["names shortened to 200 characters"] = cut
    for name, path in settings.features:
        ids_path = dict(settings.feature_ids).get(name)
        arrays[f"{name}_feat"], seen = read_features(path, ids_path, item_ids, settings.item_id_column)
        counts[f"{name}: items without features (zero rows)"] = seen["absent"]
        counts[f"{name}: features of items without interactions that were kept"] = seen["others"]
        counts[f"{name}: ids with blanks around them (cut)"] = seen["cut"]
    for name, coded in _coded(settings, texts, item_ids, reading):
        arrays[f"{name}_feat"], columns[name], counts[f"{name}: items without a value (zero rows)"] = coded
    batch_size, device, cache = settings.batch_size, settings.device, settings.cache
    for name, named in settings.text:
        joined = join_texts([texts[column] for column in named])
        arrays[f"{name}_feat"], seen = encode_texts(joined, settings.text_model, batch_size, device, cache)
        counts[f"{name}: items without text (zero rows)"] = seen["empty"]
        counts[f"{name}: texts cut to what the model reads"] = seen["cut"]
    if pictures is not None:
        arrays["image_feat"], seen = encode_images(pictures, settings.image_model, batch_size, device, cache)
        counts["image: items without a picture (zero rows)"] = seen["missing"]
        counts["image: pictures of no item that was kept"] = num_others
    return arrays


def _coded(
    settings: Settings, texts: Mapping[str, list[str]], item_ids: np.ndarray, reading: Reading
) -> Iterator[tuple[str, Coded]]:
    """The modalities from categories and numbers."""
    listed = list(dict.fromkeys(column for _, named in settings.category for column in named))
    parts, *_ = (
        read_item_columns(settings.items, listed, item_ids, settings.item_id_column, reading, as_parts=True)
        if listed
        else ({},)
    )
    for name, named in settings.category:
        yield name, one_hot({column: parts[column] for column in named}, settings.category_separator)
    for name, named in settings.number:
        yield name, scaled({column: texts[column] for column in named}, settings.quantiles, item_ids)


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
