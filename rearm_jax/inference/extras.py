"""Packages that only some outputs need."""

import importlib
from types import ModuleType

from rearm_jax.errors import ConfigError, how_to_install


def import_extra(module: str, extra: str, use: str) -> ModuleType:
    """An optional module.

    Args:
      module: its dotted name.
      extra: of pyproject.toml, which brings it.
      use: what needs it, for the message.

    Raises:
      ConfigError: it cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ConfigError(
            f"{use}: {package} cannot be imported ({error}). To install it: {how_to_install(extra)}"
        ) from error
