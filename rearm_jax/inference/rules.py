"""Rules for lists, as a shop has them: what may be listed at all, how many of a brand or a category, how much is fresh.

An item is fresh if it has few train interactions: the items of the catalogue below a number, and all new items.
"""

import csv
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from rearm_jax.data.prepare.item_columns import read_item_columns
from rearm_jax.data.prepare.reading import without_options
from rearm_jax.errors import ConfigError, DataError, shown
from rearm_jax.evaluation.limited_ranking import Limit, make_limit
from rearm_jax.inference.arguments import Id, given_ids, is_integer

ONLY = ("new",)
Path = str | os.PathLike
Pair = tuple[Id, Id]  # user and item


@dataclasses.dataclass(frozen=True)
class Rules:
    """What may stand in a list, beside what a user has already.

    Attributes:
      allow: of what lists are made: ids of items, or pairs of user id and item id, or a file of them for
        `read_items_or_pairs`. Who is in none of the pairs has an empty list. None: of everything.
      max_per: column of `items` -> how many items of the same value a list may hold, applied from the top of the
        ranking. Several columns hold together. An item without a value is not limited.
      items: file of the table of items, in any format of data/prepare/tables.py, that has these columns.
      item_id_column: of that table; None: the first that is recognised.
      fresh_share: of the k places, rounded to whole ones, so many go to fresh items, or as many as a user's candidates
        have; no more of them are listed. They are taken first, the best by their own scores; the others fill the rest,
        and the list is sorted by scores. None: fresh items are ranked as any others.
      fresh_below: an item is fresh with fewer train interactions.
      only: "new": lists are made of fresh items alone.
    """

    allow: Path | Sequence[Id] | Sequence[Pair] | None = None
    max_per: Mapping[str, int] = dataclasses.field(default_factory=dict)
    items: Path | None = None
    item_id_column: str | None = None
    fresh_share: float | None = None
    fresh_below: int = 5
    only: str | None = None


NO_RULES = Rules()


def check_rules(rules: Rules) -> None:
    """Raises ConfigError where rules are impossible in every run; before one is opened."""
    if not isinstance(rules, Rules):
        is_spelt = isinstance(rules, Mapping) and set(rules) <= {field.name for field in dataclasses.fields(Rules)}
        meant = f"; did you mean Rules(**{shown(dict(rules))})?" if is_spelt else ""
        raise ConfigError(f'rules = {shown(rules)}: must be rearm_jax.Rules, such as Rules(allow=["A17", "B4"]){meant}')
    if rules.allow is not None:
        _check_allow(rules.allow)
    if not isinstance(rules.max_per, Mapping):
        raise ConfigError(f'max_per = {shown(rules.max_per)}: must name columns and numbers, such as {{"brand": 2}}')
    for column, most in rules.max_per.items():
        if not isinstance(column, str) or not is_integer(most) or most < 1:
            raise ConfigError(
                f"max_per: {shown(column)} = {shown(most)}; must be the name of a column and an integer, 1 or more"
            )
    _check_table(rules)
    share = rules.fresh_share
    is_number = isinstance(share, (int, float, np.number)) and not isinstance(share, bool)
    if share is not None and not (is_number and 0 <= share <= 1):
        raise ConfigError(f"fresh_share = {shown(share)}: must be a part of the places, from 0 to 1")
    if not is_integer(rules.fresh_below) or rules.fresh_below < 1:
        raise ConfigError(f"fresh_below = {shown(rules.fresh_below)}: must be an integer, 1 or more")
    if rules.only is not None and not (isinstance(rules.only, str) and rules.only in ONLY):
        raise ConfigError(f"only = {shown(rules.only)}: must be one of {', '.join(map(repr, ONLY))}, or None")
    if rules.only == "new" and share is not None:
        raise ConfigError('fresh_share says nothing where only = "new": every item is a fresh one; leave one out')
    if rules.fresh_below != NO_RULES.fresh_below and share is None and rules.only is None:
        raise ConfigError('fresh_below says nothing without fresh_share or only = "new": give one, or leave it out')


def _check_allow(given: Any) -> None:
    if isinstance(given, (str, os.PathLike)):
        if not os.path.isfile(given):
            raise ConfigError(f"allow = {shown(given)}: there is no such file")
    else:
        _listed(given)


def _check_table(rules: Rules) -> None:
    """Of `items` and its column of ids."""
    if rules.max_per and rules.items is None:
        raise ConfigError(f"max_per needs `items`, the table of items with the columns {', '.join(rules.max_per)}")
    if not rules.max_per and rules.items is not None:
        raise ConfigError("`items` is the table of items for max_per, which is not given")
    if rules.items is not None and not isinstance(rules.items, (str, os.PathLike)):
        raise ConfigError(f"items = {shown(rules.items)}: must be one file, the table of items for max_per")
    if rules.items is not None and not os.path.isfile(rules.items):
        raise ConfigError(f"items = {shown(rules.items)}: there is no such file")
    if rules.item_id_column is not None and not isinstance(rules.item_id_column, str):
        raise ConfigError(f"item_id_column = {shown(rules.item_id_column)}: must be the name of a column")
    if rules.item_id_column is not None and rules.items is None:
        raise ConfigError("item_id_column is of `items`, the table of items for max_per, which is not given")


def parse_max_per(texts: Sequence[str]) -> dict[str, int]:
    """`max_per` of Rules from texts COLUMN=N; raises ConfigError where one is not so, or a column comes again."""
    limits = {}
    for text in texts:
        column, _, most = text.rpartition("=")
        if not column or not most.isdecimal() or column in limits:
            again = " (that column is there already)" if column in limits else ""
            raise ConfigError(f"--max_per={text}: must be a column of --items and a number, such as brand=2{again}")
        limits[column] = int(most)
    return limits


def read_items_or_pairs(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Items, or users and items, from CSV without a header: item ids, one a line, or lines "user id,item id". Blanks
    around ids are cut.

    Returns:
      item ids and pairs, one of them empty.

    Raises:
      DataError: the file cannot be read, is empty, or has lines of another or of both kinds.
    """
    reader = csv.reader(read_text(path).splitlines(), strict=True)
    try:
        rows = [[value.strip() for value in row] for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}. It should be an item id, or a user id and an item id with a "
            "comma between; a quote that is opened has to be closed"
        ) from error
    if not rows:
        raise DataError(f"{path} is empty: it should hold item ids, or user ids and item ids")
    for number, row in enumerate(rows):
        if len(row) not in (1, 2) or len(row) != len(rows[0]):
            raise DataError(
                f"{path}, row {number} (from 0): {','.join(row)!r}; every row should be an item id, or every row a "
                "user id and an item id with a comma between"
            )
    if len(rows[0]) == 1:
        return [item for (item,) in rows], []
    return [], [(user, item) for user, item in rows]


def read_text(path: Path) -> str:
    """A file as text; DataError if it is not UTF-8, or cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8: {error}") from error


def allowed(rules: Rules) -> tuple[Sequence[Id], Sequence[Pair]]:
    """`rules.allow` as ids of items, and as pairs; one of them is empty.

    Raises:
      ConfigError: it is no list of either.
      DataError: as `read_items_or_pairs`.
    """
    given: Any = rules.allow
    return read_items_or_pairs(given) if isinstance(given, (str, os.PathLike)) else _listed(given)


def _listed(given: Any) -> tuple[Sequence[Id], Sequence[Pair]]:
    """A list of ids of items or of pairs, as both; raises ConfigError where it is neither."""
    rule = "must be a list of ids of items or of pairs (user id, item id), at least one, or a file"
    if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping, Iterator)):
        raise ConfigError(f"allow = {shown(given)}: {rule}")
    some = list(given)
    if files := [place for place, one in enumerate(some) if isinstance(one, os.PathLike)]:
        raise ConfigError(
            f"allow[{files[0]}] = {shown(some[files[0]])}: {rule}, which stands alone: allow={shown(some[files[0]])}"
        )
    num_pairs = sum(isinstance(one, (tuple, list)) and len(one) == 2 for one in some)
    if not some or num_pairs not in (0, len(some)):
        raise ConfigError(f"allow = {shown(given)}: {rule}")
    if not num_pairs:
        return given_ids(some, "allow"), []
    users, items = (given_ids([pair[side] for pair in some], "allow") for side in (0, 1))
    return [], list(zip(users, items, strict=True))


def find_limits(rules: Rules, item_ids: np.ndarray) -> list[Limit]:
    """The limits that `rules.max_per` sets for items, (n,) ids.

    Raises:
      DataError: the table cannot be read, has none of the items, or no value of a column.
    """
    if not rules.max_per:
        return []
    columns = list(rules.max_per)
    with without_options():
        values, counts, _ = read_item_columns(
            [rules.items or ""], columns, item_ids.astype(np.str_), rules.item_id_column
        )
    if counts["absent"] == len(item_ids):
        raise DataError(f"{rules.items}: none of the items of the catalogue is there; check the file and its ids")
    for column in columns:
        if not (without := values[column].count("")):
            continue
        if without == len(item_ids):
            raise DataError(f"{rules.items}: no item of the catalogue has a value in the column {column!r}")
        logging.warning("%d of %d items have no %s in %s: not limited", without, len(item_ids), column, rules.items)
    return [make_limit(values[column], most) for column, most in rules.max_per.items()]
