"""REARM (ACM MM 2025), multi-modal recommendation, in JAX.

The functions are explained in rearm_jax/api.py, and the README shows them at work. `load_dataset` and `REARM` are what
those functions are made of; `Dataset.from_tables` takes data frames; `Recommender` and `register` are for models from
outside.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rearm_jax.version import VERSION

if TYPE_CHECKING:  # the same names as in _HOMES, for type checkers and editors
    from rearm_jax.api import default_config, evaluate, load, recommend, refit, train
    from rearm_jax.data.dataset import Dataset, load_dataset
    from rearm_jax.inference.rules import Rules
    from rearm_jax.models import register
    from rearm_jax.models.rearm import REARM
    from rearm_jax.recommender.contract import Recommender

__version__ = VERSION

__all__ = [
    "REARM",
    "Dataset",
    "Recommender",
    "Rules",
    "default_config",
    "evaluate",
    "load",
    "load_dataset",
    "recommend",
    "refit",
    "register",
    "train",
]

_HOMES = {
    "Dataset": "rearm_jax.data.dataset",
    "REARM": "rearm_jax.models.rearm",
    "Recommender": "rearm_jax.recommender.contract",
    "Rules": "rearm_jax.inference.rules",
    "default_config": "rearm_jax.api",
    "evaluate": "rearm_jax.api",
    "load": "rearm_jax.api",
    "load_dataset": "rearm_jax.data.dataset",
    "recommend": "rearm_jax.api",
    "refit": "rearm_jax.api",
    "register": "rearm_jax.models",
    "train": "rearm_jax.api",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for and no more (PEP 562): preparing data, say, needs no jax."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
