"""Messages of functions that Python and the command line both call name an option in a way that both understand."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rearm_jax"
# These define flags, or are for the command line alone.
OF_COMMANDS = {"main.py", "command_line.py", "program.py", "shipped.py", "data/options.py", "inference/convert.py"}
OF_COMMANDS |= {"training/distributed.py", *(str(p.relative_to(PACKAGE)) for p in PACKAGE.glob("compare/*.py"))}
OF_COMMANDS |= {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("__main__.py")}
BOTH_NAMED = {"--overwrite does", "--config FILE, too"}  # beside what to do in Python
FUNCTIONS_OF_COMMANDS = {"next_commands", "parse_max_per"}
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def flags_in_texts(source: str) -> list[str]:
    """Texts of a module that show a flag, but for docstrings, whole commands, and what is named for both."""
    tree, found = ast.parse(source), []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
    commands = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in FUNCTIONS_OF_COMMANDS]
    passed = docstrings | {id(node) for one in commands for node in ast.walk(one)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            parts = {id(part) for part in node.values}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text, parts = node.value, set()
        else:
            continue
        if id(node) in passed:
            continue
        passed |= parts
        for phrase in BOTH_NAMED:
            text = text.replace(phrase, "")
        if re.search(r"(?<![\w-])--[a-z]", text) and "python -m rearm_jax" not in text:
            found.append(text)
    return found


@pytest.mark.parametrize("file", [file for file in FILES if file not in OF_COMMANDS])
def test_no_message_for_both_shows_a_flag(file):
    assert flags_in_texts((PACKAGE / file).read_text()) == []


def test_the_rule_sees_what_it_is_for():
    source = """
def f(x):
    'Of --k.'
    raise E(f"{x}: lower --k_core to {x}" "or not")
    log("a-b -- c (--overwrite does)")
"""
    assert flags_in_texts(source) == ["X: lower --k_core to Xor not"]
    assert set(FILES) >= OF_COMMANDS
