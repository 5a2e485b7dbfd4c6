"""How settings are checked (against rearm_jax/schema.py), saved, compared, and read from the command line.

An int is accepted where a float is meant (`--config.loss.temperature=1`) and saved as a float; a bool is no number, a
float no int.
"""

import contextlib
import difflib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from rearm_jax.errors import ConfigError, RearmError
from rearm_jax.schema import ADDED_LATER, JOINT_RULES, MAY_DIFFER, SCHEMA, SECTIONS, Rule

_LONGEST = 200  # characters of a value in a message


def check_config(config: ConfigDict) -> None:
    """Refuses settings that are unknown, missing, of the wrong type or impossible. Changes nothing.

    Raises:
      ConfigError: names every such field, its value and what is allowed, one a line.
    """
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config = {shown(config)}: must be a ConfigDict, found {type(config).__name__}; did you mean "
            "default_config(), with fields changed?"
        )
    try:
        values = _flatten(config)
    except RequiredValueError as error:
        raise ConfigError(f"a field of the config has no value yet: {error}") from error
    _check(values)


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

    What an earlier version wrote lacks the fields of ADDED_LATER.

    Raises:
      ConfigError: the text is not a JSON object, or see `check_config`.
    """
    try:
        values = _flatten(json.loads(text))
    except (ValueError, RecursionError, AttributeError) as error:
        raise ConfigError(f"the saved configuration is not a JSON object: {error}") from error
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    values = ADDED_LATER | values
    _check(values)
    return ConfigDict(_nest(values)).lock()


def differences(saved: ConfigDict, current: ConfigDict) -> list[str]:
    """Dotted names of the fields in which two checked configs differ, but for MAY_DIFFER, in the order of SCHEMA."""
    saved, current = _flatten(saved), _flatten(current)
    return [name for name in SCHEMA if name not in MAY_DIFFER and saved[name] != current[name]]


def shown(value: Any) -> str:
    """A value in one line of a message, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a __repr__ may fail, and that of an integer of more than 4,300 digits does
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class PathParser(flags.ArgumentParser):
    """Of a flag that names a file or a folder: expands ~, which shells leave alone behind `--flag=`."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line and checks the config: `app.run(main, flags_parser=parse_flags)`, with a flag `config`.

    absl and ml_collections show a traceback, or no field name, for many mistakes. Here each is a ConfigError. `argv` is
    sys.argv, where ml_collections looks for the overrides, whatever absl is given. Returns argv without the flags.
    """
    overrides = [match[1] for match in map(re.compile(r"--?(?:no)?config\.([^=]+)").match, argv[1:]) if match]
    _raise_if_any([_unknown(name) for name in overrides if name not in SCHEMA])
    try:
        remaining = flags.FLAGS(_with_home(argv))
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


def _with_home(argv: list[str]) -> list[str]:
    """The arguments, ~ expanded in the file that --config names, a flag of ml_collections."""
    words = list(argv)
    for place, word in enumerate(argv):
        if name := re.match("--?config=", word):
            words[place] = name[0] + os.path.expanduser(word[name.end() :])
        elif place and argv[place - 1] in ("--config", "-config"):
            words[place] = os.path.expanduser(word)
    return words


def _check(values: Mapping[str, Any]) -> None:
    """Raises ConfigError with all problems of the flattened settings."""
    good = {name: value for name, value in values.items() if name in SCHEMA and _possible(value, SCHEMA[name])}
    bad = [name for name in SCHEMA if name in values and name not in good]
    problems = _name_problems(values) + [_refusal(n, values[n]) for n in bad]
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


def _refusal(name: str, value: Any) -> str:
    """The line of the message for a value that is not possible, with one that may have been meant."""
    rule = SCHEMA[name]
    near: list[Any] = difflib.get_close_matches(str(value), rule.choices, n=1) if isinstance(value, str) else []
    plain = value.tolist() if hasattr(value, "tolist") else value  # of numpy
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if rule.many:
            near.append(tuple(plain) if isinstance(plain, (list, set)) else (plain,))
        elif rule.kind is bool:
            near.append({"true": True, "1": True, "false": False, "0": False}.get(str(plain).lower()))
        elif rule.kind in (int, float):
            number = rule.kind(plain)
            near += [number] if isinstance(plain, str) or number == plain else []  # 3.0 is 3, and 2.5 no integer
    meant = next((f"; did you mean {one!r}?" for one in near if _possible(one, rule)), "")
    return f"{name} = {shown(value)}: must be {rule.allowed}{meant}"


def _name_problems(values: Mapping[str, Any]) -> list[str]:
    unknown = [name for name in values if name not in SCHEMA]
    replaced = tuple(f"{name}." for name in unknown)  # a value in the place of a section is one problem, not many
    missing = [name for name in SCHEMA if name not in values and not name.startswith(replaced)]
    return [_unknown(name) for name in unknown] + [f"{n}: missing; must be {SCHEMA[n].allowed}" for n in missing]


def _unknown(name: str) -> str:
    if name in SECTIONS:
        return f"{name}: is a section, not a field; give its fields one by one"
    same_leaf = [field for field in SCHEMA if field.split(".")[-1] == name.split(".")[-1]]
    close = same_leaf or difflib.get_close_matches(name, SCHEMA, n=1)
    return f"{name}: unknown field" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _flatten(section: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value; whatever is not in the place of a section is a value."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        value = value.to_dict() if isinstance(value, ConfigDict) else value  # a ConfigDict's repr has many lines
        is_section = isinstance(value, dict) and name in SECTIONS
        values |= _flatten(value, f"{name}.") if is_section else {name: value}
    return values


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_flatten` for checked values; every number becomes of the kind that SCHEMA names."""
    root: dict[str, Any] = {}
    for name, value in values.items():
        *sections, leaf = name.split(".")
        section = root
        for key in sections:
            section = section.setdefault(key, {})
        rule = SCHEMA[name]
        section[leaf] = tuple(map(rule.kind, value)) if rule.many else rule.kind(value)
    return root
