"""What every command line of the package has in common: its exit codes, its log, and how it says what flags it has."""

import argparse
import logging as standard_logging
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from absl import flags, logging

from rearm_jax.errors import ConfigError, RearmError

DONE = 0
WORSE = 3  # what was reviewed is worse than a bound
EXPLAINED = 1  # an error that is explained, and that the same command would meet again
CRASHED = 70  # any other error
INTERRUPTED = 130  # by Ctrl-C

_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "--helpfull"}
# Else they list the backends and the processor's features that are not here, or each request.
_TALKATIVE = {"jax": "WARNING", "faiss": "WARNING", "httpx": "WARNING", "httpx2": "WARNING"}
_TALKATIVE |= {"sentence_transformers": "ERROR", "transformers": "ERROR"}


class Formatter(standard_logging.Formatter):
    """Messages without dates and file names; warnings say that they are."""

    def format(self, record: standard_logging.LogRecord) -> str:
        level = "" if record.levelno <= standard_logging.INFO else f"{record.levelname.lower()}: "
        return level + record.getMessage()


class Parser(argparse.ArgumentParser):
    """Of argparse, but a mistake is a ConfigError, and names of flags are not to be shortened."""

    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help tells which flags there are")


def run_program(body: Callable[[], int], after_error: Callable[[int], int] = int) -> int:
    """Runs the body of a command line with the log on standard error, and explains its errors there.

    Args:
      body: returns the exit code.
      after_error: what becomes of the code of an error.

    Returns:
      The exit code.
    """
    _show_log()
    try:
        return body()
    except RearmError as error:
        print(f"error: {error}", file=sys.stderr)
        return after_error(EXPLAINED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return after_error(CRASHED)


def underscored(arguments: Iterable[str]) -> list[str]:
    """Words of a command line, names of flags with underscores where they had hyphens: --k_core for --k-core."""
    return [_underscored(argument) for argument in arguments]


def _underscored(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument


def help_was_asked_for(prog: str, description: str, known: Iterable[flags.Flag]) -> bool:
    """Whether the command line asks for help, which is then printed: flags of absl look as those of a Parser."""
    if not _HELP.intersection(sys.argv[1:]):
        return False
    parser = Parser(prog, description)
    for flag in known:
        choices = getattr(flag.parser, "enum_values", None)
        kind = {"action": "store_true"} if flag.boolean else {"choices": choices}
        meaning = flag.help.removeprefix(f"<{'|'.join(choices or ())}>: ")
        default = f"; default {flag.default}" if flag.default else ""
        parser.add_argument(f"--{flag.name}", help=f"{meaning}{default}".replace("%", "%%"), **kind)
    parser.print_help()
    return True


def _show_log() -> None:
    """The log on standard error from INFO on, in plain lines."""
    flags.FLAGS.mark_as_parsed()  # absl's log has a line of its own about messages that come before flags are parsed
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(Formatter())
    logging.set_verbosity(logging.INFO)
    for name, level in _TALKATIVE.items():
        standard_logging.getLogger(name).setLevel(level)
