"""Errors for people: each message says what was wrong, where, and what to do. `main` prints it without a traceback."""

from typing import Any

_LONGEST = 200  # characters of a value in a message


class RearmError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(RearmError):
    """A setting is unknown, of the wrong type or impossible; the message names the field."""


class DataError(RearmError):
    """An input file cannot be used; the message names file, row and value."""


class CheckpointError(RearmError):
    """A run folder cannot be resumed or evaluated; the message says why."""


class NonFiniteError(RearmError):
    """Training met a NaN or an infinity; the message names the step and the part of the loss."""


def how_to_install(extra: str) -> str:
    """The commands that bring an extra of pyproject.toml, for a message. No index has rearm_jax: a checkout or a file
    of a wheel has to be named."""
    return f"pip install '.[{extra}]' in a checkout of rearm_jax, or pip install 'FILE.whl[{extra}]' with its wheel"


def shown(value: Any) -> str:
    """A value in one line of a message, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a __repr__ may fail, and that of an integer of more than 4,300 digits does
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
