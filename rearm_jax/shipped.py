"""The configs and specs that come with the package have names: baby is configs/baby.py, wherever the package lies."""

import ast
import difflib
import os
from pathlib import Path

from rearm_jax.errors import ConfigError

_CONFIGS = Path(__file__).parent / "configs"
_KINDS = {"config": _CONFIGS, "spec": _CONFIGS / "compare"}


def shipped(kind: str) -> dict[str, Path]:
    """Files of a kind, "config" or "spec", by name."""
    return {path.stem: path for path in sorted(_KINDS[kind].glob("*.py")) if path.stem != "__init__"}


def find_file(kind: str, given: str) -> str:
    """The file that is meant by a path, which stays as it is, or by the name of a shipped one.

    Args:
      kind: "config" or "spec"; the flag's name.
      given: of the command line. Whatever has a slash or ends in .py is a path; what follows a colon is for the config.

    Raises:
      ConfigError: there is no such file, or a name is none of a shipped one.
    """
    name, colon, rest = given.partition(":")
    path, files = os.path.expanduser(name), shipped(kind)
    if os.path.isfile(path):
        return path + colon + rest
    if os.sep in name or name.endswith(".py"):
        stem = Path(name).stem
        hint = f"; did you mean --{kind}={stem}{colon}{rest}, which comes with the package?" if stem in files else ""
        raise ConfigError(f"--{kind}={given}: there is no such file{hint}")
    if name not in files:
        near = difflib.get_close_matches(name, files, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--{kind}={given}: neither a file nor one of {', '.join(files)}{hint}")
    return str(files[name]) + colon + rest


def list_shipped() -> str:
    """What is there for --config and --spec, a line each."""
    lines = []
    for kind in _KINDS:
        lines.append(f"--{kind}")
        for name, path in shipped(kind).items():
            meaning = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
            lines.append(f"  {name:<12} {meaning}")
    return "\n".join(lines)
