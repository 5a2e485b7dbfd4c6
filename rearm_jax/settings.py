"""What a setting is: declared once, with its default, the rule for its values, and its meaning.

rearm_jax/default.py declares those of every run; each model declares its own beside it. rearm_jax/config.py holds
configs to them.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_INT_MAX = 2**31 - 1  # whatever counts or indexes is int32
_FLOAT_MIN, _FLOAT_MAX = 1.2e-38, 3.4e38  # normal float32, in which everything is computed


class Rule(NamedTuple):
    """What a field may hold: `kind` (a tuple of `kind` if `many`) such that `accepts(value)`."""

    kind: type  # bool, int, float or str
    allowed: str  # for people, to follow "must be"
    accepts: Callable[[Any], bool] = lambda value: True
    many: bool = False
    choices: tuple[str, ...] = ()  # all that there are, for "did you mean"


class Setting(NamedTuple):
    """A field of the configuration, `config.` and its dotted name."""

    default: Any
    rule: Rule
    meaning: str  # for people, a sentence without its stop
    at_most: str = ""  # "users" or "items": the value may not exceed their number in the data


class JointRule(NamedTuple):
    """A rule between two fields; it holds where a config has both."""

    name: str
    other: str
    allowed: str  # what the first must be, to follow "must be"
    fits: Callable[[Any, Any], bool]  # (value of the first, value of the other)


def integer(low: int) -> Rule:
    """An int of at least `low`."""
    return Rule(int, f"an integer from {low} to {_INT_MAX}", lambda value: low <= value <= _INT_MAX)


def choice(*names: str) -> Rule:
    """One of some texts."""
    return Rule(str, "one of " + ", ".join(f'"{name}"' for name in names), lambda value: value in names, choices=names)


def _unique(values: tuple) -> bool:
    return 0 < len(values) == len(set(values))


SWITCH = Rule(bool, "true or false")
PATH = Rule(str, "a path, as text", lambda path: "\0" not in path)
# An address would be taken for a folder called "gs:".
LOCAL_PATH = Rule(
    str,
    'a path of a file system, as text, and no address such as "gs://..."',
    lambda path: "\0" not in path and "://" not in path,
)
FRACTION = Rule(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
NOT_NEGATIVE = Rule(float, "a finite number of at least 0", lambda value: 0 <= value <= _FLOAT_MAX)
POSITIVE = Rule(float, "a finite number above 0 (as float32)", lambda value: _FLOAT_MIN <= value <= _FLOAT_MAX)
MODALITIES = Rule(
    str,
    'a tuple of different names such as ("image", "text"): letters, digits (not first) and underscores, and not "id"',
    # The ID embeddings are the parameters user_id_table and item_id_table: a modality "id" would collide with them.
    lambda names: _unique(names) and all(re.fullmatch("(?!id$)[A-Za-z_][A-Za-z0-9_]*", name) for name in names),
    many=True,
)
MODALITY_WEIGHTS = Rule(
    float,
    "a tuple of numbers from 0 to 1 that sum to 1, such as (0.2, 0.8), or () for equal shares",
    lambda weights: not weights or (all(0 <= w <= 1 for w in weights) and abs(math.fsum(weights) - 1) <= 1e-6),
    many=True,
)
CUT_OFFS = Rule(
    int,
    f"a tuple of different integers from 1 to {_INT_MAX}, such as (10, 20)",
    lambda ks: _unique(ks) and all(1 <= k <= _INT_MAX for k in ks),
    many=True,
)
RESIDUAL_WEIGHTS = Rule(
    float,
    "a tuple of different finite numbers of at least 0, such as (0.0, 0.5, 1.0)",
    lambda weights: _unique(weights) and all(0 <= weight <= _FLOAT_MAX for weight in weights),
    many=True,
)
METRIC = Rule(
    str,
    'one of recall, ndcg, precision, map and hitrate, then "@" and a cut-off, such as "recall@20"',
    lambda value: re.fullmatch("(recall|ndcg|precision|map|hitrate)@[1-9][0-9]{0,9}", value) is not None,
)


def one_weight_each(name: str) -> JointRule:
    """The rule that a tuple of weights has one for each modality, or is open."""
    return JointRule(
        name, "data.modalities", "one number for each modality, or ()", lambda w, names: len(w) in (0, len(names))
    )


def modality_weights(weights: tuple, num_modalities: int) -> tuple:
    """`weights`, or equal shares where they are ()."""
    return weights or (1 / num_modalities,) * num_modalities
