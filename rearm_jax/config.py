"""How settings are checked against what default.py and the model declare, saved and compared.

An int is accepted where a float is meant (`--config.loss.temperature=1`) and saved as a float; a bool is no number, a
float no int. A config has the settings of one model, and of one fitted model beside it if `residual.model` names one;
those of others are refused, or left out where it was made for another one.
"""

import contextlib
import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from rearm_jax import models
from rearm_jax.default import (
    MAY_DIFFER,
    SETTINGS,
    added_later,
    chosen,
    declarations,
    declared_by,
    defaults,
    joint_rules,
    nest,
    residual_settings,
    settings_of_others,
)
from rearm_jax.errors import ConfigError, shown
from rearm_jax.settings import MODALITY_WEIGHTS, Rule, Setting, modality_weights


def check_config(config: ConfigDict) -> None:
    """Refuses settings that are unknown, missing, of the wrong type or impossible. Changes nothing.

    Raises:
      ConfigError: names every such field, its value and what is allowed, one a line.
    """
    _check(_values(config))


def for_its_model(config: ConfigDict) -> ConfigDict:
    """The config with the settings of its model alone, locked, and checked.

    A config that was made for one model and then given the name of another (`config.model.name = "lightgcn"`) has the
    settings of the first: those that were never changed are left out, and what the other model has beside gets its
    defaults, as do settings of a residual that are not there.

    Raises:
      ConfigError: a setting of another model was changed; or see `check_config`.
    """
    values = _values(config)
    foreign = _foreign(values)
    untouched = {name for name in foreign if values[name] in foreign[name]}
    if foreign.keys() == untouched:  # else `_check` names those that were changed
        values = {name: value for name, value in values.items() if name not in untouched}
        model, residual = chosen(values)
        if model and untouched:
            values = defaults(models.find(model).settings) | values
        values = defaults(residual_settings(residual)) | values
    _check(values)
    return ConfigDict(_with_kinds(_resolved(values))).lock()


def _values(config: Any) -> dict[str, Any]:
    """The fields of a config; raises ConfigError unless it is a ConfigDict whose fields all have values."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config = {shown(config)}: must be a ConfigDict, found {type(config).__name__}; did you mean "
            "default_config(), with fields changed?"
        )
    try:
        return flatten(config)
    except RequiredValueError as error:
        raise ConfigError(f"a field of the config has no value yet: {error}") from error


def with_model(config: ConfigDict, name: str, residual: str = "") -> ConfigDict:
    """What a config file gives to a run with the model `name` and the fitted model `residual` beside it: its settings
    of other models are left out, with a word in the log. Where the file is for another model, the model's own settings
    have their defaults; so have those of another fitted model.

    Raises:
      ConfigError: there is no such model.
    """
    values = flatten(config)
    own, beside = defaults(models.find(name).settings), defaults(residual_settings(residual))
    others = settings_of_others(name, residual)
    switched = own if values.get("model.name") != name else {}
    switched = switched | (beside if values.get("residual.model", "") != residual else {})
    left_out = [field for field in values if field in others and values[field] not in others[field]]
    left_out += [field for field in switched if field in values and _was_set(values, field)]
    if left_out:
        logging.info("model %s: left out of the config file, as set for another model: %s", name, ", ".join(left_out))
    kept = {field: value for field, value in values.items() if field not in others and field not in switched}
    named = {"model.name": name, "residual.model": residual}
    return ConfigDict(nest(own | beside | kept | named)).lock()


def check_against_data(config: ConfigDict, num_users: int, num_items: int) -> None:
    """Refuses neighbourhoods and cut-offs that are larger than the data. `config` has passed `check_config`.

    Raises:
      ConfigError: names every such field, its value, the limit, and what to set, one a line.
    """
    limits = {"users": num_users, "items": num_items}
    values, problems = flatten(config), []
    for name, setting in declared_by(values).items():
        if not setting.at_most:
            continue
        limit = limits[setting.at_most]
        numbers = values[name] if setting.rule.many else (values[name],)
        if beyond := [number for number in numbers if number > limit]:
            found = f"{name} = {', '.join(map(str, beyond))}: too large, the data has {limit} {setting.at_most}"
            fitting = tuple(number for number in numbers if number <= limit) or (limit,)
            instead = f"{name}={fitting}" if setting.rule.many else f"{name}={limit} or less"
            problems.append(f"{found}; set {instead}{_metric_instead(values, fitting, name)}")
    _raise_if_any(problems)


def _metric_instead(values: Mapping[str, Any], cut_offs: tuple[int, ...], name: str) -> str:
    """The metric that goes with other cut-offs, for a message; "" where the metric stays."""
    metric, _, at = values["evaluation.metric"].partition("@")
    stays = name != "evaluation.ks" or int(at) in cut_offs
    return "" if stays else f" and evaluation.metric={metric}@{max(cut_offs)}"


def resolve(config: ConfigDict) -> ConfigDict:
    """The settings as a run has them and saves them, locked: modality weights of () are equal shares.

    Raises:
      ConfigError: see `check_config`.
    """
    return from_json(to_json(config))


def to_json(config: ConfigDict) -> str:
    """The resolved settings as sorted, indented JSON: tuples as lists, an int in a float field as a float.

    Raises:
      ConfigError: see `check_config`.
    """
    check_config(config)
    return json.dumps(_with_kinds(_resolved(flatten(config))), indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The settings that `to_json` wrote, tuples restored, locked.

    What an earlier version wrote lacks the fields that were added later, and has settings of every model: those of
    others are left out.

    Raises:
      ConfigError: the text is not a JSON object, or see `check_config`.
    """
    try:
        values = flatten(json.loads(text))
    except (ValueError, RecursionError, AttributeError) as error:
        raise ConfigError(f"the saved configuration is not a JSON object: {error}") from error
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    model, residual = chosen(values)
    if model:
        others = settings_of_others(model, residual)
        values = {name: value for name, value in values.items() if name not in others}
        values = added_later(model) | values
    _check(values)
    return ConfigDict(_with_kinds(_resolved(values))).lock()


def differences(saved: ConfigDict, current: ConfigDict) -> list[str]:
    """Dotted names of the fields in which two checked configs differ, but for MAY_DIFFER, in the declared order."""
    saved, current = _resolved(flatten(saved)), _resolved(flatten(current))
    for name in ("model.name", "residual.model"):
        if saved[name] != current[name]:
            return [name]
    return [n for n in declared_by(current) if n not in MAY_DIFFER and saved[n] != current[n]]


def check_names(values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises ConfigError for names that are no settings of a run with the models that the values name."""
    settings = declared_by(values)
    _raise_if_any([_unknown(name, values, settings) for name in names if name not in settings])


def _check(values: Mapping[str, Any]) -> None:
    """Raises ConfigError with all problems of the flattened settings."""
    known, _ = chosen(values)
    settings = declared_by(values)
    good = {name: values[name] for name, s in settings.items() if name in values and _possible(values[name], s.rule)}
    # A model that is not known here may have any fields.
    named = {n: value for n, value in values.items() if known or n == "model.name" or not n.startswith("model.")}
    problems = _name_problems(named, settings, settings if known else everything())
    bad = [name for name in settings if name in values and name not in good]
    problems += [_refusal(name, values[name], settings[name].rule) for name in bad]
    for rule in joint_rules(known) if known else ():
        if rule.name in good and rule.other in good and not rule.fits(good[rule.name], good[rule.other]):
            problems.append(
                f"{rule.name} = {good[rule.name]!r}: must be {rule.allowed} ({rule.other} = {good[rule.other]!r})"
            )
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


def _refusal(name: str, value: Any, rule: Rule) -> str:
    """The line of the message for a value that is not possible, with one that may have been meant."""
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


def _name_problems(values: Mapping[str, Any], needed: Mapping[str, Setting], known: Mapping[str, Setting]) -> list[str]:
    unknown = [name for name in values if name not in known]
    replaced = tuple(f"{name}." for name in unknown)  # a value in the place of a section is one problem, not many
    missing = [name for name in needed if name not in values and not name.startswith(replaced)]
    problems = [_unknown(name, values, known) for name in unknown]
    return problems + [f"{name}: missing; must be {needed[name].rule.allowed}" for name in missing]


def _unknown(name: str, values: Mapping[str, Any], settings: Mapping[str, Setting]) -> str:
    if name in _sections(settings):
        return f"{name}: is a section, not a field; give its fields one by one"
    chooser = "residual.model" if name.startswith("residual.") else "model.name"
    owners = [model for key, model, own in declarations() if key == chooser and name in own]
    same_leaf = [field for field in settings if field.split(".")[-1] == name.split(".")[-1]]
    close = same_leaf or difflib.get_close_matches(name, settings, n=1)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if owners:
        return f"{name}: is a setting of {', '.join(owners)}, and {chooser} is {values.get(chooser) or 'none'}{hint}"
    return f"{name}: unknown field{hint}"


def _foreign(values: Mapping[str, Any]) -> dict[str, list]:
    """The fields that are of other models than the one that is named."""
    model, residual = chosen(values)
    if not model:
        return {}
    return {name: others for name, others in settings_of_others(model, residual).items() if name in values}


def _was_set(values: Mapping[str, Any], name: str) -> bool:
    """Whether a field has another value than the default of the model that the values are for."""
    settings = declared_by(values)
    return name not in settings or values[name] != settings[name].default


def everything() -> dict[str, Setting]:
    """Every setting that any run can have, by dotted name."""
    settings = dict(SETTINGS)
    for _, _, more in declarations():
        settings |= {name: setting for name, setting in more.items() if name not in settings}
    return settings


def _sections(settings: Iterable[str]) -> set[str]:
    """ "data", "data.synthetic", ...: what has fields below it."""
    return {name[:end] for name in settings for end, letter in enumerate(name) if letter == "."}


def flatten(section: Mapping | ConfigDict, prefix: str = "", sections: set[str] | None = None) -> dict[str, Any]:
    """Dotted name -> value; whatever is not a section is a value."""
    values: dict[str, Any] = {}
    sections = _sections(everything()) if sections is None else sections
    for key, value in section.items():
        name = f"{prefix}{key}"
        value = value.to_dict() if isinstance(value, ConfigDict) else value  # a ConfigDict's repr has many lines
        is_section = isinstance(value, dict) and name in sections
        values |= flatten(value, f"{name}.", sections) if is_section else {name: value}
    return values


def _resolved(values: Mapping[str, Any]) -> dict[str, Any]:
    """Checked values, open ones filled in."""
    settings, count = declared_by(values), len(values["data.modalities"])
    open_weights = [name for name, setting in settings.items() if setting.rule is MODALITY_WEIGHTS]
    return {**values, **{name: modality_weights(values[name], count) for name in open_weights}}


def _with_kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Checked values, nested; every number becomes of the kind that its rule names."""
    typed, settings = {}, declared_by(values)
    for name, value in values.items():
        rule = settings[name].rule
        typed[name] = tuple(map(rule.kind, value)) if rule.many else rule.kind(value)
    return nest(typed)
