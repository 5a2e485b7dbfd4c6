"""Models that read the items' features: a table of each modality, trained with the rest or as it is in the data."""

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


class Featured(Recommender, kw_only=True):
    """A model that declares "model.train_features". Names of modalities and widths of their features are in the order
    of config.data.modalities."""

    feature_widths: tuple[tuple[str, int], ...] = ()
    train_features: bool = True

    @classmethod
    def frozen_features(cls, dataset: Dataset, config: ConfigDict) -> dict[str, Any]:
        """The part of the inputs that `feature_table` reads: "item_MODALITY_table"; none where features are trained."""
        return {} if config.model.train_features else jax.tree.map(jnp.asarray, _tables(dataset))

    def data_tables(self, dataset: Dataset) -> dict[str, np.ndarray]:
        return _tables(dataset) if self.train_features else {}

    def feature_table(self, name: str, width: int, inputs: Inputs, items: Nodes) -> Any:
        """X_m as far as this device holds it, float32 (num_items, width); inside of the forward pass."""
        key = f"item_{name}_table"
        if not self.train_features:
            return inputs[key]
        # Filled from the data by `data_tables`; zeros here keep the features out of the module.
        return self.param(key, nn.initializers.zeros, (items.num_held(self.num_items), width))


def _tables(dataset: Dataset) -> dict[str, np.ndarray]:
    return {f"item_{name}_table": table for name, table in dataset.features.items()}
