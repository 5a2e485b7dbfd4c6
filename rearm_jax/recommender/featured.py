"""Models that read the items' features: a table of each modality, trained with the rest or as it is in the data."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.parallel.rows import Nodes
from rearm_jax.recommender.contract import Inputs, Recommender
from rearm_jax.settings import SWITCH, Setting, choice, integer

ITEM_KNN_K = Setting(10, integer(1), "neighbours of an item in the graph of a modality", "items")
TIES = Setting(
    "drawn",
    choice("drawn", "lowest"),
    'which of equally similar items are neighbours in the item semantic graph, where not all can be: "drawn" for each '
    'item, always the same; "lowest" ids',
)
KNN = Setting(
    "auto",
    choice("auto", "exact", "approx"),
    '"exact", "approx" (needs faiss), or "auto": approx for more than 100,000 nodes',
)
TRAIN_FEATURES = Setting(True, SWITCH, "false: the features stay those of the data")
UNIT_FEATURES = Setting(
    False, SWITCH, "whether each item's features of a modality are divided by their length before the model reads them"
)


class Featured(Recommender, kw_only=True):
    """A model that declares "model.train_features" and "model.unit_features". Names of modalities and widths of their
    features are in the order of config.data.modalities."""

    feature_widths: tuple[tuple[str, int], ...] = ()
    train_features: bool = True
    unit_features: bool = False

    @classmethod
    def frozen_features(cls, dataset: Dataset, config: ConfigDict) -> dict[str, Any]:
        """The part of the inputs that `feature_table` reads: "item_MODALITY_table"; none where features are trained."""
        if config.model.train_features:
            return {}
        return jax.tree.map(jnp.asarray, item_tables(dataset.features, config.model.unit_features))

    def data_tables(self, dataset: Dataset) -> dict[str, np.ndarray]:
        return item_tables(dataset.features, self.unit_features) if self.train_features else {}

    def feature_table(self, name: str, width: int, inputs: Inputs, items: Nodes) -> Any:
        """X_m as far as this device holds it, float32 (num_items, width); inside of the forward pass."""
        key = f"item_{name}_table"
        if not self.train_features:
            return inputs[key]
        # Filled from the data by `data_tables`; zeros here keep the features out of the module.
        return self.param(key, nn.initializers.zeros, (items.num_held(self.num_items), width))


def item_tables(features: Mapping[str, np.ndarray], unit: bool) -> dict[str, np.ndarray]:
    """The features as a model starts from them, "item_MODALITY_table" float32 (n, width).

    Args:
      features: modality -> float32 (n, width).
      unit: whether each row is divided by its length; rows of zeros stay.
    """
    return {f"item_{name}_table": _unit_rows(table) if unit else table for name, table in features.items()}


def _unit_rows(table: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.einsum("ij,ij->i", table, table, dtype=np.float64))[:, None]
    return np.divide(table, lengths, where=lengths > 0, out=np.zeros_like(table), casting="same_kind")
