"""What a trial of REARM costs, and what its dear parts bring: attention, trained features, batch size, ranking loss.

    REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/trial.py --workdir runs/trial --workers 2

Development, compared on validation: test is never scored. FOLDER holds tiktok/ and office/ (docs/results.md). One
setting for all rows, that of configs/tiktok.py, three seeds.
"""

import os
from typing import Any

from ml_collections import ConfigDict

from rearm_jax import default
from rearm_jax.compare import Row, Spec

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "weight_decay": 3.0,
    "graph.user_cooccurrence_weight": 0.9,
    "graph.item_cooccurrence_weight": 0.9,
    "model.num_layers": 2,
    "model.self_dropout": 0.1,
    "model.cross_dropout": 0.1,
    "loss.contrastive_weight": 0.03,
    "loss.temperature": 0.2,
    "loss.orthogonal_weight": 1e-4,
    "loss.l2_weight": 10.0,
}
SOFTMAX: dict[str, Any] = {"loss.ranking": "softmax"}
VARIANTS: dict[str, dict[str, Any]] = {
    "REARM": {},
    "attention norm": {"model.attention": "norm"},
    "attention none": {"model.attention": "none"},
    "features frozen": {"model.train_features": False},
    "batch 1024": {"batch_size": 1024},
    "batch 4096": {"batch_size": 4096},
    "softmax": SOFTMAX,
    "softmax, attention norm": {**SOFTMAX, "model.attention": "norm"},
}


def config_of(name: str, modalities: tuple[str, ...]) -> ConfigDict:
    config = default.get_config()
    config.data.root = os.path.join(os.environ.get("REARM_DATA", "data"), name)
    config.data.modalities = modalities
    config.num_epochs = 150
    config.patience = 10
    return config


def get_spec() -> Spec:
    return Spec(
        data={
            "Office": config_of("office", ("title", "description")),
            "TikTok": config_of("tiktok", ("image", "audio")),
        },
        rows={name: Row("rearm", SETTINGS | changes, space={}) for name, changes in VARIANTS.items()},
        reference="REARM",
        tries=1,
        seeds=3,
        split="valid",
    )
