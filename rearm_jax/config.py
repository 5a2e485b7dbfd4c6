"""What every setting may be, how the command line is read, and how settings are saved and compared.

`SCHEMA` has a rule for every field of configs/default.py, `JOINT_RULES` those between two fields. An int is accepted
where a float is meant (`--config.loss.temperature=1`) and saved as a float; a bool is no number, a float no int.
"""

import difflib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from rearm_jax.errors import ConfigError, RearmError

_INT_MAX = 2**31 - 1  # whatever counts or indexes is int32
_FLOAT_MIN, _FLOAT_MAX = 1.2e-38, 3.4e38  # normal float32, in which everything is computed


class Rule(NamedTuple):
    """What a field may hold: `kind` (a tuple of `kind` if `many`) such that `accepts(value)`."""

    kind: type  # bool, int, float or str
    allowed: str  # for people, to follow "must be"
    accepts: Callable[[Any], bool] = lambda value: True
    many: bool = False


def _integer(low: int) -> Rule:
    return Rule(int, f"an integer from {low} to {_INT_MAX}", lambda value: low <= value <= _INT_MAX)


def _choice(*names: str) -> Rule:
    return Rule(str, "one of " + ", ".join(f'"{name}"' for name in names), lambda value: value in names)


def _unique(values: tuple) -> bool:
    return 0 < len(values) == len(set(values))


_SWITCH = Rule(bool, "true or false")
_TEXT = Rule(str, "a text")
_FRACTION = Rule(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
_NOT_NEGATIVE = Rule(float, "a finite number of at least 0", lambda value: 0 <= value <= _FLOAT_MAX)
_POSITIVE = Rule(float, "a finite number above 0 (as float32)", lambda value: _FLOAT_MIN <= value <= _FLOAT_MAX)
_MODALITIES = Rule(
    str,
    'a tuple of different names such as ("image", "text"): letters, digits (not first) and underscores, and not "id"',
    # The ID embeddings are the parameters user_id_table and item_id_table: a modality "id" would collide with them.
    lambda names: _unique(names) and all(re.fullmatch("(?!id$)[A-Za-z_][A-Za-z0-9_]*", name) for name in names),
    many=True,
)
_MODALITY_WEIGHTS = Rule(
    float,
    "a tuple of numbers from 0 to 1 that sum to 1, such as (0.2, 0.8)",
    lambda weights: all(0 <= w <= 1 for w in weights) and abs(math.fsum(weights) - 1) <= 1e-6,
    many=True,
)
_CUT_OFFS = Rule(
    int,
    f"a tuple of different integers from 1 to {_INT_MAX}, such as (10, 20)",
    lambda ks: _unique(ks) and all(1 <= k <= _INT_MAX for k in ks),
    many=True,
)
_METRIC = Rule(
    str,
    'one of recall, ndcg, precision, map and hitrate, then "@" and a cut-off, such as "recall@20"',
    lambda value: re.fullmatch("(recall|ndcg|precision|map|hitrate)@[1-9][0-9]{0,9}", value) is not None,
)

SCHEMA = {
    "protocol": _choice("strict", "reference"),
    "seed": _integer(0),
    "num_epochs": _integer(1),
    "batch_size": _integer(1),
    "eval_every": _integer(1),
    "patience": _integer(0),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "schedule.name": _choice("constant", "cosine"),
    "schedule.warmup_epochs": _integer(0),
    "schedule.decay_epochs": _integer(0),
    "gradient_clip_norm": _NOT_NEGATIVE,
    "parallel": _choice("data", "row"),
    "compute_dtype": _choice("float32", "bfloat16"),
    "data.source": _choice("folder", "synthetic"),
    "data.root": _TEXT,
    "data.modalities": _MODALITIES,
    "data.num_users": _integer(0),
    "data.synthetic.num_users": _integer(1),
    "data.synthetic.num_items": _integer(3),
    "data.synthetic.interactions_per_user": _integer(3),
    "data.synthetic.feature_width": _integer(1),
    "data.synthetic.modalities": _MODALITIES,
    "data.synthetic.seed": _integer(0),
    "graph.user_knn_k": _integer(1),
    "graph.item_knn_k": _integer(1),
    "graph.user_cooccurrence_weight": _FRACTION,
    "graph.item_cooccurrence_weight": _FRACTION,
    "graph.user_modality_weights": _MODALITY_WEIGHTS,
    "graph.item_modality_weights": _MODALITY_WEIGHTS,
    "graph.knn": _choice("auto", "exact", "approx"),
    "graph.cache_dir": _TEXT,
    "model.name": _choice("rearm", "lightgcn"),
    "model.embedding_dim": _integer(1),
    "model.rank": _integer(1),
    "model.num_layers": _integer(0),
    "model.num_user_layers": _integer(0),
    "model.num_item_layers": _integer(0),
    "model.self_dropout": _FRACTION,
    "model.cross_dropout": _FRACTION,
    "model.train_meta_projection": _SWITCH,
    "loss.contrastive_weight": _NOT_NEGATIVE,
    "loss.temperature": _POSITIVE,
    "loss.orthogonal_weight": _NOT_NEGATIVE,
    "loss.l2_weight": _NOT_NEGATIVE,
    "evaluation.ks": _CUT_OFFS,
    "evaluation.metric": _METRIC,
    "evaluation.block_size": _integer(1),
    "log.progress": _SWITCH,
    "log.tensorboard": _SWITCH,
}
_SECTIONS = {"data.synthetic", *(name.split(".")[0] for name in SCHEMA if "." in name)}

# (field, another field, what the first must be, whether the two values go together)
JOINT_RULES = (
    ("graph.user_modality_weights", "data.modalities", "one number for each modality", lambda w, m: len(w) == len(m)),
    ("graph.item_modality_weights", "data.modalities", "one number for each modality", lambda w, m: len(w) == len(m)),
    ("evaluation.metric", "evaluation.ks", "at one of the cut-offs", lambda m, ks: int(m.split("@")[1]) in ks),
    ("data.root", "data.source", "the folder of the data", lambda root, source: root != "" or source != "folder"),
    ("data.synthetic.interactions_per_user", "data.synthetic.num_items", "at most the number of items", operator.le),
    ("schedule.decay_epochs", "schedule.name", "at least 1 for cosine", lambda d, name: d > 0 or name != "cosine"),
    ("schedule.warmup_epochs", "schedule.decay_epochs", "less than the decay", lambda w, decay: w < decay or not decay),
)

# What a resumed run may change, because no training step depends on it.
MAY_DIFFER = (
    "num_epochs",  # how long: a finished run can be trained on
    "patience",  # how long
    "log.progress",  # how loudly
    "log.tensorboard",  # how loudly
    "graph.cache_dir",  # where: cached graphs are found by the hash of what they are made of
    "data.root",  # where: the content hash guards what is in the folder
    "evaluation.block_size",  # how much memory: the metrics do not depend on it
    "parallel",  # how much memory on each device: checkpoints move from one to the other
)


def check_config(config: ConfigDict) -> None:
    """Refuses settings that are unknown, missing, of the wrong type or impossible. Changes nothing.

    Raises:
      ConfigError: names every such field, its value and what is allowed, one a line.
    """
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"the configuration must be a ConfigDict, found {type(config).__name__}")
    _check(_flatten(config))


def check_against_data(config: ConfigDict, num_users: int, num_items: int) -> None:
    """Refuses neighbourhoods and cut-offs that are larger than the data. `config` has passed `check_config`.

    Raises:
      ConfigError: names every such field, its value and the limit, one a line.
    """
    sizes = (
        ("graph.user_knn_k", config.graph.user_knn_k, num_users, "users"),
        ("graph.item_knn_k", config.graph.item_knn_k, num_items, "items"),
        *(("evaluation.ks", k, num_items, "items") for k in config.evaluation.ks),
    )
    _raise_if_any([f"{n} = {k}: too large, the data has {limit} {what}" for n, k, limit, what in sizes if k > limit])


def to_json(config: ConfigDict) -> str:
    """The settings as sorted, indented JSON: tuples as lists, an int in a float field as a float.

    Raises:
      ConfigError: see `check_config`.
    """
    check_config(config)
    return json.dumps(_nest(_flatten(config)), indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The settings that `to_json` wrote, tuples restored, locked.

    Raises:
      ConfigError: the text is not a JSON object, or see `check_config`.
    """
    try:
        values = _flatten(json.loads(text))
    except (ValueError, RecursionError, AttributeError) as error:
        raise ConfigError(f"the saved configuration is not a JSON object: {error}") from error
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    _check(values)
    return ConfigDict(_nest(values)).lock()


def differences(saved: ConfigDict, current: ConfigDict) -> list[str]:
    """Dotted names of the fields in which two checked configs differ, but for MAY_DIFFER, in the order of SCHEMA."""
    saved, current = _flatten(saved), _flatten(current)
    return [name for name in SCHEMA if name not in MAY_DIFFER and saved[name] != current[name]]


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line and checks the config: `app.run(main, flags_parser=parse_flags)`, with a flag `config`.

    absl and ml_collections show a traceback, or no field name, for many mistakes. Here each is a ConfigError. `argv` is
    sys.argv, where ml_collections looks for the overrides, whatever absl is given. Returns argv without the flags.
    """
    overrides = [match[1] for match in map(re.compile(r"--?(?:no)?config\.([^=]+)").match, argv[1:]) if match]
    _raise_if_any([_unknown(name) for name in overrides if name not in SCHEMA])
    try:
        remaining = flags.FLAGS(argv)
        if flags.FLAGS.config is not None:
            flags.FLAGS.config.items()  # a file that was not found raises only when it is used
            check_config(flags.FLAGS.config)
        return remaining
    except RearmError:
        raise
    except flags.UnrecognizedFlagError as error:
        hint = "; give --config=FILE, too" if error.flagname.startswith("config.") else ""
        raise ConfigError(f"{error}{hint}") from error
    except flags.Error as error:
        first, *rest = str(error).splitlines()  # a mistake in the config file brings its traceback along
        field = re.match(r"flag --config\.([\w.]+)=", first)
        allowed = f"; must be {SCHEMA[field[1]].allowed}" if field else ""
        raise ConfigError(" ".join([first, *rest[-1:]]) + allowed) from error
    except Exception as error:  # a config file is a program: anything can go wrong in it
        given = next((argument for argument in argv if re.match("--?config=", argument)), "--config")
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise ConfigError(f"{given}: {type(error).__name__}: {reason}") from error


def _check(values: Mapping[str, Any]) -> None:
    """Raises ConfigError with all problems of the flattened settings."""
    good = {name: value for name, value in values.items() if name in SCHEMA and _possible(value, SCHEMA[name])}
    bad = [name for name in SCHEMA if name in values and name not in good]
    problems = _name_problems(values) + [f"{n} = {values[n]!r}: must be {SCHEMA[n].allowed}" for n in bad]
    for name, other, allowed, fits in JOINT_RULES:
        if name in good and other in good and not fits(good[name], good[other]):
            problems.append(f"{name} = {good[name]!r}: must be {allowed} ({other} = {good[other]!r})")
    _raise_if_any(problems)


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


def _possible(value: Any, rule: Rule) -> bool:
    elements = value if rule.many else (value,)
    kinds = (int, float) if rule.kind is float else rule.kind
    return (
        isinstance(elements, tuple)
        and all(isinstance(e, kinds) and isinstance(e, bool) == (rule.kind is bool) for e in elements)
        and rule.accepts(value)
    )


def _name_problems(values: Mapping[str, Any]) -> list[str]:
    unknown = [name for name in values if name not in SCHEMA]
    replaced = tuple(f"{name}." for name in unknown)  # a value in the place of a section is one problem, not many
    missing = [name for name in SCHEMA if name not in values and not name.startswith(replaced)]
    return [_unknown(name) for name in unknown] + [f"{n}: missing; must be {SCHEMA[n].allowed}" for n in missing]


def _unknown(name: str) -> str:
    if name in _SECTIONS:
        return f"{name}: is a section, not a field; give its fields one by one"
    same_leaf = [field for field in SCHEMA if field.split(".")[-1] == name.split(".")[-1]]
    close = same_leaf or difflib.get_close_matches(name, SCHEMA, n=1)
    return f"{name}: unknown field" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _flatten(section: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value; whatever is not in the place of a section is a value."""
    values = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        value = value.to_dict() if isinstance(value, ConfigDict) else value  # a ConfigDict's repr has many lines
        is_section = isinstance(value, dict) and name in _SECTIONS
        values |= _flatten(value, f"{name}.") if is_section else {name: value}
    return values


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_flatten` for checked values; every number becomes of the kind that SCHEMA names."""
    root = {}
    for name, value in values.items():
        *sections, leaf = name.split(".")
        section = root
        for key in sections:
            section = section.setdefault(key, {})
        rule = SCHEMA[name]
        section[leaf] = tuple(map(rule.kind, value)) if rule.many else rule.kind(value)
    return root
