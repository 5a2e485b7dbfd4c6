"""From raw files to a data folder: `prepare` in Python, `python -m rearm_jax.data.prepare` on the command line."""

from rearm_jax.data.prepare.pipeline import prepare
from rearm_jax.data.prepare.settings import Settings

__all__ = ["Settings", "prepare"]
