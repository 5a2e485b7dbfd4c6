"""What `recommend` is given: ids of users and items, k and `unknown`, checked before any work is done."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rearm_jax.config import shown
from rearm_jax.errors import ConfigError, DataError

Id = str | int
UNKNOWN = ("refuse", "popular")
_SHOWN = 5  # ids in a message
_MAX_INTEGER = 2**63 - 1


def given_users(users: Any, name: str = "users") -> list[Id] | None:
    """The ids as a list; None stays None.

    Args:
      users: what was given.
      name: of the argument.

    Raises:
      ConfigError: these are no ids, text or integers, in a list; says what may be meant.
    """
    if users is None:
        return None
    rule = "must be a list of ids, text or integers"
    if isinstance(users, str):
        raise ConfigError(f"{name} is the text {users!r}: give a list of ids, such as [{users!r}]")
    if _is_integer(users):
        raise ConfigError(f"{name} = {shown(users)}: {rule}; did you mean {name}=[{shown(users)}]?")
    if isinstance(users, (bytes, Mapping)) or not isinstance(users, Iterable):
        raise ConfigError(f"{name} = {shown(users)}: {rule}")
    try:
        ids = list(users)
    except TypeError as error:  # an array without dimensions
        raise ConfigError(f"{name} = {shown(users)}: {rule}") from error
    for place, one in enumerate(ids):
        is_id = isinstance(one, str) or (_is_integer(one) and abs(one) <= _MAX_INTEGER)
        if not is_id:
            raise ConfigError(f"{name}[{place}] = {shown(one)}: must be text or an integer{_integer_meant(one)}")
    return ids


def check_options(k: Any, unknown: Any) -> None:
    """Raises ConfigError where k or `unknown` is impossible in every run; says what may be meant."""
    if not _is_integer(k) or k > _MAX_INTEGER:
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


def some_ids(ids: list) -> str:
    """The first ids of a message, and how many more."""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(repr(one) for one in ids[:_SHOWN]) + more


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _integer_meant(value: Any) -> str:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, (bool, bytes)) and 0 <= int(value) == float(value) <= _MAX_INTEGER:
            return f"; did you mean {int(value)}?"
    return ""
