"""Packages that only some outputs need: the message where one is missing names commands that work."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from rearm_jax.errors import ConfigError, how_to_install
from rearm_jax.inference.extras import import_extra

ROOT = Path(__file__).parent.parent
SOURCES = {path: path.read_text() for path in (ROOT / "rearm_jax").rglob("*.py")}


def test_a_message_names_what_works_from_a_checkout_and_from_a_wheel():
    checkout, wheel = re.findall(r"pip install '([^']+)'", how_to_install("encode"))
    assert checkout == ".[encode]"
    assert wheel.endswith(".whl[encode]")


def test_no_message_names_a_package_that_no_index_has():
    assert [str(path) for path, source in SOURCES.items() if re.search(r"rearm.jax\[", source)] == []


def test_every_extra_that_is_named_is_one():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for source in SOURCES.values():
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            arguments = {"how_to_install": slice(0, 1), "import_extra": slice(1, 2)}.get(getattr(call.func, "id", ""))
            named |= (
                {node.value for node in call.args[arguments] if isinstance(node, ast.Constant)} if arguments else set()
            )
    assert {"encode", "export", "faiss", "report"} <= named
    assert named <= set(extras)


def test_import_extra(monkeypatch):
    assert import_extra("json", "export", "what is read") is sys.modules["json"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"^Parquet: pyarrow cannot be imported .*'\.\[export\]'.*\.whl\[export\]'"):
        import_extra("pyarrow", "export", "Parquet")
