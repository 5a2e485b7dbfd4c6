"""What users have already, and are not recommended again: the interactions of the data, and purchases since then."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from rearm_jax.data.dataset import Dataset
from rearm_jax.data.prepare.interactions import read_interactions
from rearm_jax.data.prepare.reading import without_options
from rearm_jax.errors import ConfigError, DataError, shown
from rearm_jax.inference.arguments import Id, plain_ids, some_ids

SEEN = ("all", "train", "none")
_INTEGER = "-?[0-9]{1,18}"


class Seen(NamedTuple):
    """What is never recommended to whom.

    Attributes:
      pairs: int32 (n, 2), rows of users and items of the catalogue, or of new items behind it; pairs may repeat.
      of_strangers: user who is not in the catalogue -> rows of items.
    """

    pairs: np.ndarray
    of_strangers: Mapping[Id, set[int]]


def find_seen(
    dataset: Dataset,
    seen: str | os.PathLike,
    user_column: str | None = None,
    item_column: str | None = None,
    new_item_ids: Sequence[Id] = (),
) -> Seen:
    """What users of a data set have.

    Args:
      dataset: the data of the run.
      seen: "all", the interactions of all splits; "train", of train alone, as in evaluation; "none"; or a table of
        interactions by outside ids, in any format of data/prepare/tables.py, which are seen beside those of all splits.
        Users and items of the table who are not in the catalogue are counted in the log.
      user_column, item_column: of the table, where they are not recognised.
      new_item_ids: of new items that are ranked behind those of the catalogue, and may have been bought since.

    Raises:
      ConfigError: see `check_seen`.
      DataError: the table cannot be read, or has no item of the catalogue.
    """
    check_seen(seen, user_column, item_column)
    word = seen if isinstance(seen, str) else ""
    splits = {"none": (), "train": (dataset.train,)}.get(word, (dataset.train, dataset.valid, dataset.test))
    pairs, of_strangers = list(splits), dict[Id, set[int]]()
    if word not in SEEN:
        since, of_strangers = _of_table(
            dataset, seen, user_column, item_column, [*dataset.labels.item_ids.tolist(), *new_item_ids]
        )
        pairs.append(since)
    return Seen(np.concatenate([np.zeros((0, 2), np.int32), *pairs]), of_strangers)


def check_seen(seen: str | os.PathLike, user_column: str | None = None, item_column: str | None = None) -> None:
    """Raises ConfigError unless `seen` is one of SEEN, as text, or names a file, or where columns of a table are named
    that there is none of."""
    if isinstance(seen, str) and seen in SEEN:
        if user_column is not None or item_column is not None:
            name = "user_column" if item_column is None else "item_column"
            raise ConfigError(
                f"{name} is of the table that seen names, and seen = {shown(seen)} names none: leave it out"
            )
        return
    rule = f"must be one of {', '.join(map(repr, SEEN))}, as text, or a file of interactions"
    if not isinstance(seen, (str, os.PathLike)):
        raise ConfigError(f"seen = {shown(seen)}: {rule}")
    if not os.path.isfile(seen):
        word = os.fspath(seen)
        meant = f"; a path is always a file: did you mean seen={word!r}?" if word in SEEN else ""
        raise ConfigError(f"seen = {shown(seen)}: {rule}; there is no such file{meant}")


def _of_table(
    dataset: Dataset,
    path: str | os.PathLike,
    user_column: str | None,
    item_column: str | None,
    item_ids: list[Id],
) -> tuple[np.ndarray, dict[Id, set[int]]]:
    """Rows of the known pairs, int32 (n, 2); of users who are not in the catalogue, user -> rows of items."""
    with without_options():
        table = read_interactions([path], user_column=user_column, item_column=item_column)
    users = _rows(table.user_ids, dataset.labels.user_ids.tolist())
    items = _rows(table.item_ids, item_ids)
    if len(items) and (items < 0).all():
        known = some_ids(item_ids)
        raise DataError(
            f"{path}: none of its items is in the catalogue: {some_ids(table.item_ids.tolist())}. The catalogue has "
            f"{known}; check the file and its column of items"
        )
    known_item = items[table.items] >= 0
    known_pair = known_item & (users[table.users] >= 0)
    logging.info(
        "%s: %d rows, %d of users and items of the catalogue; %d users and %d items are not in it",
        path,
        len(table.users),
        known_pair.sum(),
        (users < 0).sum(),
        (items < 0).sum(),
    )
    of_strangers = defaultdict[str, set[int]](set)
    strangers = known_item & ~known_pair
    for user, item in zip(table.user_ids[table.users[strangers]].tolist(), items[table.items[strangers]], strict=True):
        of_strangers[user].add(int(item))
    pairs = np.stack([users[table.users[known_pair]], items[table.items[known_pair]]], axis=1)
    # Where ids are integers, a user who is none cannot be asked for.
    names = [user for user in of_strangers if dataset.labels.user_ids.dtype.kind == "U" or re.fullmatch(_INTEGER, user)]
    ids = plain_ids(names, dataset.labels.user_ids, "user")
    return pairs.astype(np.int32), {one: of_strangers[name] for one, name in zip(ids, names, strict=True)}


def _rows(ids: np.ndarray, catalogue: list[Id]) -> np.ndarray:
    """Row of each id, text (n,), in the catalogue, int64 (n,); -1 where it is not there."""
    row_of = {str(one): row for row, one in enumerate(catalogue)}
    return np.array([row_of.get(one, -1) for one in ids.tolist()], np.int64)
