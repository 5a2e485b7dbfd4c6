"""What each setting may be by itself: a wrong one is refused by its name, before anything is read."""

import difflib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rearm_jax.data.prepare.reading import BAD_ROWS
from rearm_jax.data.prepare.splitting import METHODS
from rearm_jax.errors import ConfigError, shown

CATALOGUES = ("interactions", "all")
DUPLICATES = ("first", "last", "refuse")


class Kind(NamedTuple):
    """A kind of values.

    Attributes:
        allowed: for people, to follow "must be".
        accepts: whether a value is of the kind.
        choices: all that there are, for "did you mean".
    """

    allowed: str
    accepts: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def check_kinds(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for the first setting that is not what it must be.

    Args:
        values: name of a setting -> value; None where it may be left open.
    """
    for name, value in values.items():
        kind = _KINDS[name]
        if (value is None and name in _MAY_BE_OPEN) or kind.accepts(value):
            continue
        near = difflib.get_close_matches(value, kind.choices, n=1) if isinstance(value, str) else []
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name} = {shown(value)}: must be {kind.allowed}{meant}")


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(low <= value < 2**63)


def _is_number(value: Any, low: float, high: float) -> bool:
    is_real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return is_real and bool(low <= value <= high) and math.isfinite(value)


def _is_path(value: Any) -> bool:
    return is_text(value) or isinstance(value, os.PathLike)


def _are(value: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and all(map(accepts, value))


def are_columns(value: Any) -> bool:
    """Whether a value is a list of different names, at least one."""
    return _are_different(value) and len(value) > 0


def _are_different(value: Any) -> bool:
    return _are(value, is_text) and len(value) == len(set(value))


def _are_pairs(value: Any, second: Callable[[Any], bool]) -> bool:
    return _are(
        value,
        lambda one: isinstance(one, (list, tuple)) and len(one) == 2 and isinstance(one[0], str) and second(one[1]),
    )


def _are_ratios(value: Any) -> bool:
    return _are(value, lambda one: _is_integer(one, 0) and one <= 1000) and len(value) == 3 and value[0] > 0


def _choice(choices: tuple[str, ...]) -> Kind:
    return Kind(f"one of {', '.join(map(repr, choices))}", lambda value: is_text(value) and value in choices, choices)


def _integer(low: int) -> Kind:
    return Kind(f"an integer from {low} on, below 2**63", lambda value: _is_integer(value, low))


_TEXT = Kind("text", is_text)
_COLUMN = Kind("the name of a column, as text", is_text)
_PATH = Kind("a path", _is_path)
_FILES = Kind("a list of files", lambda value: _are(value, _is_path))
_FILES_OF = Kind("a list of pairs (modality, file)", lambda value: _are_pairs(value, _is_path))
_COLUMNS_OF = Kind(
    "a list of pairs (modality, list of different columns)", lambda value: _are_pairs(value, are_columns)
)
_NAMES = Kind("a list of different names of columns, as text", are_columns)
_KINDS = {
    "interactions": _FILES,
    "out": _PATH,
    **dict.fromkeys(("user_column", "item_column", "rating_column", "time_column", "item_id_column"), _COLUMN),
    "min_rating": Kind("a finite number", lambda value: _is_number(value, -math.inf, math.inf)),
    "duplicates": _choice(DUPLICATES),
    "k_core": Kind("an integer from 1 (which keeps everything) on, below 2**63", lambda value: _is_integer(value, 1)),
    "split": _choice(METHODS),
    "ratios": Kind("three whole numbers up to 1000, such as 8:1:1 or (8, 1, 1), the first not 0", _are_ratios),
    "seed": _integer(0),
    "items": _FILES,
    "catalogue": _choice(CATALOGUES),
    "name_column": Kind(_NAMES.allowed, _are_different),
    **dict.fromkeys(("text", "category", "number"), _COLUMNS_OF),
    "category_separator": Kind("some text", is_text),
    "quantiles": Kind(
        "an integer from 2 on, below 2**63, or 0 for none", lambda value: _is_integer(value, 0) and value != 1
    ),
    **dict.fromkeys(("images", "text_model", "image_model", "cache"), _PATH),
    **dict.fromkeys(("features", "feature_ids"), _FILES_OF),
    "batch_size": _integer(1),
    "device": _TEXT,
    "overwrite": Kind("True or False", lambda value: isinstance(value, bool)),
    **dict.fromkeys(("interactions_header", "items_header"), _NAMES),
    "quote": Kind("a list of pairs (file or '', mode)", lambda value: _are_pairs(value, is_text)),
    "encoding": _TEXT,
    "bad_rows": _choice(BAD_ROWS),
    "bad_rows_limit": Kind("a share from 0 to 1", lambda value: _is_number(value, 0, 1)),
}
_MAY_BE_OPEN = {
    *("user_column", "item_column", "rating_column", "time_column", "item_id_column", "min_rating", "ratios"),
    *("category_separator", "images", "device", "interactions_header", "items_header", "encoding"),
}
