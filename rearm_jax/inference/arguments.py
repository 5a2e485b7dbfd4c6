"""What `recommend` is given: ids of users and items, k and `unknown`, checked before any work is done."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from absl import logging

from rearm_jax.errors import ConfigError, DataError, shown

Id = str | int
UNKNOWN = ("refuse", "popular")
_SHOWN = 5  # ids in a message
_MAX_INTEGER = 2**63 - 1


def given_users(users: Any, name: str = "users") -> list[Id] | None:
    """`given_ids`, but None stays None."""
    return None if users is None else given_ids(users, name)


def given_ids(users: Any, name: str) -> list[Id]:
    """The ids as a list.

    Args:
      users: what was given.
      name: of the argument.

    Raises:
      ConfigError: these are no ids, text or integers, in a list; says what may be meant.
    """
    rule = "must be a list of ids, text or integers"
    if isinstance(users, str):
        raise ConfigError(f"{name} is the text {users!r}: give a list of ids, such as [{users!r}]")
    if is_integer(users):
        raise ConfigError(f"{name} = {shown(users)}: {rule}; did you mean {name}=[{shown(users)}]?")
    if is_frame(users):
        raise ConfigError(f"{name} is a {type(users).__name__}: {rule}; give one of its columns")
    if isinstance(users, (bytes, Mapping)) or not isinstance(users, Iterable):
        raise ConfigError(f"{name} = {shown(users)}: {rule}")
    try:
        ids = list(users)
    except TypeError as error:  # an array without dimensions
        raise ConfigError(f"{name} = {shown(users)}: {rule}") from error
    for place, one in enumerate(ids):
        is_id = isinstance(one, str) or (is_integer(one) and abs(one) <= _MAX_INTEGER)
        if not is_id:
            raise ConfigError(f"{name}[{place}] = {shown(one)}: must be text or an integer{_integer_meant(one)}")
    return ids


def given_pairs(pairs: Any) -> list[tuple[Id, Id]]:
    """The pairs (user, item), of ids that are not looked at yet, as a list that has one at least.

    Raises:
      ConfigError: these are no pairs in a sequence; of a data frame, say, the columns would be taken for them.
    """
    rule = "must be a list of (user, item)"
    if is_frame(pairs):
        raise ConfigError(f"pairs is a {type(pairs).__name__}: {rule}, such as list(zip(users, items))")
    unordered = (str, bytes, Mapping, Set)
    try:
        found = [None if isinstance(pair, unordered) else tuple(pair) for pair in pairs]
    except TypeError as error:
        raise ConfigError(f"pairs = {shown(pairs)}: {rule}") from error
    if isinstance(pairs, unordered) or any(pair is None or len(pair) != 2 for pair in found):
        raise ConfigError(f"pairs = {shown(pairs)}: {rule}")
    if not found:
        raise ConfigError("no pairs are given; give one (user, item) at least")
    return [(user, item) for user, item in found]  # type: ignore[misc]


def is_frame(given: Any) -> bool:
    """Whether this is a table of polars or pandas, which is read by column where a row is meant."""
    return hasattr(type(given), "columns")


def check_options(k: Any, unknown: Any) -> None:
    """Raises ConfigError where k or `unknown` is impossible in every run; says what may be meant."""
    if not is_integer(k) or k > _MAX_INTEGER:
        raise ConfigError(f"k = {shown(k)}: must be an integer, the places in a list{_integer_meant(k)}")
    if not isinstance(unknown, str) or unknown not in UNKNOWN:
        near = difflib.get_close_matches(str(unknown).lower(), UNKNOWN, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown = {shown(unknown)}: must be one of {', '.join(map(repr, UNKNOWN))}{meant}")


def plain_ids(given: Sequence[Id], like: np.ndarray, what: str) -> list[Id]:
    """Ids as Python's text or integers, whichever the catalogue's ids `like` are; "12" is the integer 12.

    Raises:
      DataError: an id is no integer where the catalogue's are.
    """
    if like.dtype.kind == "U":
        return [str(one) for one in given]
    wrong = [one for one in given if isinstance(one, bool) or not re.fullmatch("-?[0-9]{1,18}", str(one))]
    if wrong:
        raise DataError(f"{what}s of this catalogue are integers, and these are not: {some_ids(wrong)}")
    return [int(one) for one in given]


def item_rows(given: Sequence[Id], item_ids: np.ndarray, purpose: str) -> list[int | None]:
    """Row of each item, None where it is not there: these are counted in a warning.

    Args:
      given: ids of items.
      item_ids: (n,), of the rows.
      purpose: what the items are for, as messages say it: "to leave out".

    Raises:
      DataError: none is there.
    """
    if not len(given):
        return []
    row_of = {item: row for row, item in enumerate(item_ids.tolist())}
    plain = plain_ids(given, item_ids, "item")
    missing = list(dict.fromkeys(item for item in plain if item not in row_of))
    if missing and all(item not in row_of for item in plain):
        raise DataError(f"none of the items {purpose} is in the catalogue: {some_ids(missing)}. Check the list")
    if missing:
        logging.warning("%d items %s are not in the catalogue: %s", len(missing), purpose, some_ids(missing))
    return [row_of.get(item) for item in plain]


def pair_rows(
    given: Sequence[tuple[Id, Id]],
    item_ids: np.ndarray,
    user_ids: np.ndarray,
    row_of_user: Mapping[Id, int],
    purpose: str,
) -> np.ndarray:
    """Rows of pairs (user id, item id), int32 (n, 2), without those of users who have no row and of unknown items.

    Args:
      given: the pairs.
      item_ids, user_ids: of the catalogue.
      row_of_user: of users of the catalogue, and of others.
      purpose: as in `item_rows`.

    Raises:
      DataError: no item is there, or no user.
    """
    users = plain_ids([user for user, _ in given], user_ids, "user")
    known = set(user_ids.tolist())
    strangers, rows = dict[Id, None](), []
    for user, item in zip(users, item_rows([item for _, item in given], item_ids, purpose), strict=True):
        if item is not None and user not in known:
            strangers[user] = None
        if item is not None and user in row_of_user:
            rows.append((row_of_user[user], item))
    if strangers and not any(user in known or user in row_of_user for user in users):
        raise DataError(
            f"none of the users of the pairs {purpose} is in the catalogue: {some_ids(list(strangers))}. Check the "
            "list, whose lines are user id, item id"
        )
    if strangers:
        logging.warning(
            "%d users of the pairs %s are not in the catalogue: %s", len(strangers), purpose, some_ids(list(strangers))
        )
    return np.array(rows, np.int32).reshape(-1, 2)


def some_ids(ids: list) -> str:
    """The first ids of a message, and how many more."""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(repr(one) for one in ids[:_SHOWN]) + more


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python's or numpy's."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _integer_meant(value: Any) -> str:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, (bool, bytes, np.ma.MaskedArray)) and 0 <= int(value) == float(value) <= _MAX_INTEGER:
            return f"; did you mean {int(value)}?"
    return ""
