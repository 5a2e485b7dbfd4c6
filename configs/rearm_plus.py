"""REARM+: the parts of REARM that carry weight, frozen features of length 1, a softmax loss, and EASE beside it.

    python -m rearm_jax.main --config=configs/rearm_plus.py --config.data.root=FOLDER --workdir=runs/rearm_plus

Data: any folder of the usual form; --config.data.modalities names its modalities, one or several.
Settings: RECIPE is the same on all data. It is frozen: found on validation, before any test of docs/results.md was
scored. The rates and weights in START are where to begin, and SPACE is where to look for better ones on validation, as
`python -m rearm_jax.compare` does (docs/compare.md).
Time and score: those of the data; docs/results.md.
"""

from typing import Any

from ml_collections import ConfigDict

from rearm_jax import default
from rearm_jax.recommender.search_space import LogUniform, SearchSpace, Uniform

RECIPE: dict[str, Any] = {
    "graph.user_knn_k": 20,
    "graph.item_knn_k": 10,
    "loss.contrastive_weight": 0.0,
    "loss.orthogonal_weight": 0.0,
    "loss.ranking": "softmax",
    "loss.similarity": "dot",
    "model.attention": "norm",
    "model.meta_network": False,
    "model.num_layers": 2,
    "model.train_features": False,
    "model.unit_features": True,
}
BESIDE: dict[str, Any] = {"residual.model": "ease"}
START: dict[str, Any] = {
    "learning_rate": 1.5e-3,
    "weight_decay": 0.5,
    "graph.user_cooccurrence_weight": 0.6,
    "graph.item_cooccurrence_weight": 0.3,
    "loss.l2_weight": 3.0,
    "loss.ranking_temperature": 1.0,
}
SPACE: SearchSpace = {
    "learning_rate": LogUniform(7e-4, 4e-3),
    "weight_decay": LogUniform(0.05, 2.0),
    "graph.user_cooccurrence_weight": Uniform(0.2, 1.0),
    "graph.item_cooccurrence_weight": Uniform(0.05, 0.95),
    "loss.l2_weight": LogUniform(0.3, 10.0),
    "loss.ranking_temperature": LogUniform(0.4, 2.0),
}


def get_config() -> ConfigDict:
    config = default.get_config("rearm", BESIDE["residual.model"])
    config.num_epochs = 150
    config.patience = 12
    config.update_from_flattened_dict(RECIPE | BESIDE | START)
    return config
