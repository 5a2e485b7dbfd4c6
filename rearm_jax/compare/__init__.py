"""Comparisons of models. Specs import `Spec`, `Row` and `Prune` from here."""

from rearm_jax.compare.spec import Prune, Row, Spec

__all__ = ["Prune", "Row", "Spec"]
