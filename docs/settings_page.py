"""Fills docs/settings.md with what rearm_jax/default.py, the models and configs/ declare.

python -m docs.settings_page     # after a change of these; tests/test_docs.py fails until it is done
"""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rearm_jax import models
from rearm_jax.default import JOINT_RULES, MAY_DIFFER, SETTINGS, declared
from rearm_jax.settings import JointRule, Setting

PAGE = Path(__file__).with_name("settings.md")
CONFIGS = ("demo", "movielens", "tiktok", "tiktok:lightgcn", "baby", "sports", "clothing")


def main() -> None:
    """The command line."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def fill(markdown: str) -> str:
    """settings.md with what is generated between its pairs of marks, in the place of what stood there."""
    marks = {
        "settings of every run": common_settings,
        "settings of each model": model_settings,
        "configs": configs_table,
    }
    for mark, generate in marks.items():
        first, last = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
        before, begun, rest = markdown.partition(first)
        _, ended, after = rest.partition(last)
        if not begun or not ended:
            raise ValueError(f"docs/settings.md lacks {first.strip()} or {last.strip()}")
        markdown = f"{before}{first}\n{generate().strip()}\n\n{last}{after}"
    return markdown


def common_settings() -> str:
    """A table for each section of the settings of every run, and the rules between them."""
    sections: dict[str, dict[str, Setting]] = {}
    for name, setting in SETTINGS.items():
        sections.setdefault(name.rpartition(".")[0], {})[name] = setting
    blocks = []
    for section, settings in sections.items():
        heading = f"### `config.{section}`" if section else "### Training"
        blocks += [heading, _table(settings)]
    return "\n\n".join([*blocks, "### Rules between settings", _rules(JOINT_RULES)])


def model_settings() -> str:
    """A table for each model, and the rules between its settings."""
    blocks = []
    for name in models.names():
        model = models.find(name)
        blocks += [f'### {model.title}: `config.model.name = "{name}"`', _table(model.settings)]
        if model.joint_rules:
            blocks.append(_rules(model.joint_rules))
    return "\n\n".join(blocks)


def configs_table() -> str:
    """What each file of configs/ changes, beside the defaults of its model."""
    columns, names = {}, dict.fromkeys(SETTINGS)
    for config_name in CONFIGS:
        module, _, variant = config_name.partition(":")
        get_config = importlib.import_module(f"configs.{module}").get_config
        config = get_config(variant) if variant else get_config()
        columns[config_name] = _changes(config)
        names |= dict.fromkeys(declared(config.model.name))
    rows = [
        [f"`{name}`", *(changes.get(name, "-") for changes in columns.values())]
        for name in names
        if any(changes.get(name) for changes in columns.values())
    ]
    header = ["setting", *(f"`{name}`" for name in columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _changes(config: ConfigDict) -> dict[str, str]:
    """Setting of the config's model -> its value where that is not the default, else ""."""
    changes = {}
    for name, setting in declared(config.model.name).items():
        value: Any = config
        for part in name.split("."):
            value = value[part]
        changes[name] = "" if value == setting.default else f"`{_shown(value)}`"
    return changes


def _table(settings: Mapping[str, Setting]) -> str:
    rows = ["| setting | default | must be | meaning |", "|---|---|---|---|"]
    for name, setting in settings.items():
        allowed = setting.rule.allowed + (f"; at most the number of {setting.at_most}" if setting.at_most else "")
        later = " *May change when a run is resumed.*" if name in MAY_DIFFER else ""
        cells = f"`config.{name}`", f"`{_shown(setting.default)}`", allowed, _sentence(setting.meaning) + later
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _rules(rules: Iterable[JointRule]) -> str:
    return "\n".join(
        f"- `config.{rule.name}` must be {_cell(rule.allowed)} (looks at `config.{rule.other}`)." for rule in rules
    )


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value).replace("'", '"')


def _sentence(meaning: str) -> str:
    """A meaning as a sentence: a capital at the start unless it is a name in quotes, a stop at the end."""
    return meaning[0].upper() + meaning[1:] + ("" if meaning.endswith((".", ")")) else ".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
