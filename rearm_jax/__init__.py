"""REARM (ACM MM 2025), multi-modal recommendation, in JAX. What is exported here is explained in rearm_jax/api.py."""

import importlib

_HOMES = {
    "REARM": "rearm_jax.models.rearm",
    "build_graphs": "rearm_jax.graphs.build",
    "default_config": "rearm_jax.api",
    "evaluate": "rearm_jax.api",
    "load_dataset": "rearm_jax.data.dataset",
    "recommend": "rearm_jax.api",
    "train": "rearm_jax.api",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Imports what is asked for and no more: preparing data, say, needs no jax."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
