"""How settings and paths are read from the command line: every mistake is a ConfigError that names the flag."""

import os
import re
import shlex
import shutil
import sys

from absl import flags
from ml_collections import ConfigDict

from rearm_jax.config import check_config, check_names, everything, flatten, with_model
from rearm_jax.default import chosen
from rearm_jax.errors import ConfigError, RearmError
from rearm_jax.shipped import find_file


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
    flag = flags.FLAGS["config"]
    inner = flag.parser.inner if isinstance(flag.parser, _ForModel) else flag.parser
    flag.parser = _ForModel(inner, argv)
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
        known = everything()
        allowed = f"; must be {known[field[1]].rule.allowed}" if field and field[1] in known else ""
        raise ConfigError(" ".join([first, *rest[-1:]]) + allowed) from error
    except Exception as error:  # a config file is a program: anything can go wrong in it
        given = next((argument for argument in argv if re.match("--?config=", argument)), "--config")
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise ConfigError(f"{given}: {type(error).__name__}: {reason}") from error


def run_name(config_file: str) -> str:
    """What a run of a config is called: configs/tiktok.py:lightgcn -> tiktok-lightgcn."""
    name = "-".join(part for part in re.sub(r"\.py(:|$)", r"\1", config_file.rsplit("/", 1)[-1]).split(":") if part)
    return name.strip(".") or "run"  # a name such as ".." would lead out of runs/


def program_name() -> str:
    """How this program was called, without its arguments: `.venv/bin/python -m rearm_jax.main`, or `rearm_jax`."""
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    script = os.path.basename(words[-1])
    return script if shutil.which(script) == words[-1] else shlex.join(words)


class _ForModel(flags.ArgumentParser):
    """Reads a config file for the model that the command line or the file names, before the overrides are read."""

    def __init__(self, inner: flags.ArgumentParser, argv: list[str]):
        self.inner, self._argv = inner, argv

    def parse(self, argument: str) -> ConfigDict:
        config = self.inner.parse(find_file("config", argument))
        values = flatten(config)  # a file that was not found raises only when it is used
        for name in ("model.name", "residual.model"):
            named = [m[1] for m in map(re.compile(rf"--?config\.{name}=(.*)").fullmatch, self._argv[1:]) if m]
            values |= {name: named[-1]} if named else {}
        model, residual = chosen(values)
        overrides = [m[1] for m in map(re.compile(r"--?(?:no)?config\.([^=]+)").match, self._argv[1:]) if m]
        check_names(values, overrides)
        return with_model(config, model, residual) if model else config

    def flag_type(self) -> str:
        return self.inner.flag_type()
