"""REARM (Ma et al., ACM MM 2025, arXiv 2508.13745)."""

from rearm_jax.models.rearm.model import Model

REARM = Model

__all__ = ["REARM", "Model"]
