"""Fills docs/settings.md with what rearm_jax/default.py, rearm_jax/schema.py and configs/ say.

python -m docs.settings_page     # after a change of these; tests/test_docs.py fails until it is done
"""

import ast
import importlib
import io
import tokenize
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rearm_jax import default
from rearm_jax.schema import JOINT_RULES, MAY_DIFFER, SCHEMA

PAGE = Path(__file__).with_name("settings.md")
CONFIGS = ("demo", "movielens", "tiktok", "tiktok:lightgcn", "baby", "sports", "clothing")


def main() -> None:
    """The command line."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def fill(markdown: str) -> str:
    """settings.md with what is generated between its pairs of marks, in the place of what stood there."""
    marks = {"every setting": settings_tables, "joint rules": joint_rules, "configs": configs_table}
    for mark, generate in marks.items():
        first, last = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
        before, begun, rest = markdown.partition(first)
        _, ended, after = rest.partition(last)
        if not begun or not ended:
            raise ValueError(f"docs/settings.md lacks {first.strip()} or {last.strip()}")
        markdown = f"{before}{first}\n{generate().strip()}\n\n{last}{after}"
    return markdown


def settings_tables() -> str:
    """A table for each section of the settings, in the order of schema.py, which is that of default.py."""
    comments = field_comments(Path(default.__file__).read_text(encoding="utf-8"))
    values = _flatten(default.get_config())
    tables: dict[str, list[str]] = {}
    for name, rule in SCHEMA.items():
        later = " *May change when a run is resumed.*" if name in MAY_DIFFER else ""
        meaning = f"{_sentence(comments[name])}{later}".strip()
        row = f"| `config.{name}` | `{_shown(values[name])}` | {_cell(rule.allowed)} | {_cell(meaning)} |"
        tables.setdefault(name.rpartition(".")[0], []).append(row)
    blocks = []
    for section, rows in tables.items():
        heading = f"## `config.{section}`\n\n{_sentence(comments[section])}" if section else "## Training"
        header = "| setting | default | must be | meaning |\n|---|---|---|---|"
        blocks.append("\n".join(["", heading.rstrip(), "", header, *rows]))
    return "\n".join(blocks)


def joint_rules() -> str:
    """A line for each rule between two settings."""
    return "\n".join(
        f"- `config.{name}` must be {_cell(allowed)} (looks at `config.{other}`)."
        for name, other, allowed, _ in JOINT_RULES
    )


def configs_table() -> str:
    """What each file of configs/ changes, beside the default."""
    defaults, columns = _flatten(default.get_config()), {}
    for name in CONFIGS:
        module, _, variant = name.partition(":")
        get_config = importlib.import_module(f"configs.{module}").get_config
        columns[name] = _flatten(get_config(variant) if variant else get_config())
    rows = [
        [
            f"`{name}`",
            *(f"`{_shown(values[name])}`" if values[name] != defaults[name] else "" for values in columns.values()),
        ]
        for name in SCHEMA
        if any(values[name] != defaults[name] for values in columns.values())
    ]
    header = ["setting", *(f"`{name}`" for name in columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def field_comments(source: str) -> dict[str, str]:
    """Dotted name of a field or section -> its comment: on the lines right above it and behind it."""
    lines = source.splitlines()
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row = token.start[0]
            comments[row] = token.string.removeprefix("#").strip()
            if lines[row - 1].lstrip().startswith("#"):
                alone.add(row)
    found = {}

    def walk(node: ast.Dict, prefix: str) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            assert isinstance(key, ast.Constant), f"line {node.lineno}: a key that is no text"
            first = key.lineno
            while first - 1 in alone:
                first -= 1
            name = f"{prefix}{key.value}"
            found[name] = " ".join(comments[row] for row in range(first, key.lineno + 1) if row in comments)
            if isinstance(value, ast.Dict):
                walk(value, f"{name}.")

    walk(next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict)), "")
    return found


def _flatten(section: ConfigDict, prefix: str = "") -> dict[str, Any]:
    values = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        values |= _flatten(value, f"{name}.") if isinstance(value, ConfigDict) else {name: value}
    return values


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value).replace("'", '"')


def _sentence(comment: str) -> str:
    """A comment as a sentence: capital at the start unless it is a name in quotes, a stop at the end."""
    if not comment:
        return ""
    return comment[0].upper() + comment[1:] + ("" if comment.endswith((".", ")")) else ".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
