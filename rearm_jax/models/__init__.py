"""The models, each a file or a folder here that holds one subclass of `Recommender` (or of `Fitted`), called `Model`.

A model is found by the name of its file. Models from outside are made known by `register`.
"""

import importlib
import pkgutil

from rearm_jax.errors import ConfigError
from rearm_jax.recommender.contract import Declaration

_FILES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
_registered: dict[str, type[Declaration]] = {}


def names() -> tuple[str, ...]:
    """All that `model.name` can be."""
    return (*_FILES, *_registered)


def find(name: str) -> type[Declaration]:
    """The model of a name.

    Raises:
      ConfigError: there is none.
    """
    if name in _registered:
        return _registered[name]
    if name not in names():
        raise ConfigError(f"model.name = {name!r}: there is no such model; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}").Model


def register(name: str, model: type[Declaration]) -> None:
    """Makes a model from outside known under a name, for `model.name`; in this process alone.

    Raises:
      ConfigError: the name is taken, or is no plain word.
    """
    if not name.isidentifier():
        raise ConfigError(f"a model's name is one word of letters, digits and underscores, not {name!r}")
    if name in names() and _registered.get(name) is not model:
        raise ConfigError(f"there is a model {name!r} already")
    _registered[name] = model
