"""What the parts of REARM bring and cost: how REARM+ is found. Development, on validation: test is never scored.

    REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/trial.py --workdir runs/trial --workers 2

FOLDER holds office/, ml-100k/ and tiktok/ (docs/results.md). Each row differs from "REARM" in what its name says; one
setting for all, which was good on Office among seven tried for each loss; three seeds.
"""

import os
from typing import Any

from ml_collections import ConfigDict

from rearm_jax import default
from rearm_jax.compare import Row, Spec

SETTINGS: dict[str, Any] = {
    "loss.ranking": "softmax",
    "loss.ranking_temperature": 0.12,
    "learning_rate": 1e-3,
    "weight_decay": 0.5,
    "loss.l2_weight": 0.5,
    "graph.user_knn_k": 20,
    "graph.item_knn_k": 10,
    "graph.user_cooccurrence_weight": 0.9,
    "graph.item_cooccurrence_weight": 0.5,
    "model.num_layers": 2,
    "model.self_dropout": 0.1,
    "model.cross_dropout": 0.1,
    "loss.contrastive_weight": 0.03,
    "loss.temperature": 0.2,
    "loss.orthogonal_weight": 1e-4,
}
NORM: dict[str, Any] = {"model.attention": "norm"}
NO_CONTRAST: dict[str, Any] = {"loss.contrastive_weight": 0.0, "loss.orthogonal_weight": 0.0}
NO_META: dict[str, Any] = {"model.meta_network": False}
FROZEN: dict[str, Any] = {"model.train_features": False}
LEAN = NORM | NO_CONTRAST | NO_META | FROZEN
VARIANTS: dict[str, dict[str, Any]] = {
    "REARM": {},
    "BPR": {"loss.ranking": "bpr", "loss.l2_weight": 4.0, "weight_decay": 2.0, "learning_rate": 3e-3},
    "attention norm": NORM,
    "attention none": {"model.attention": "none"},
    "no contrastive loss": NO_CONTRAST,
    "no meta-network": NO_META,
    "features frozen": FROZEN,
    "batch 1024": {"batch_size": 1024},
    "batch 4096": {"batch_size": 4096},
    "lean": LEAN,
    "lean, features trained": LEAN | {"model.train_features": True},
    "lean, with EASE": LEAN | {"residual.model": "ease"},
}


def config_of(name: str, modalities: tuple[str, ...]) -> ConfigDict:
    config = default.get_config()
    config.data.root = os.path.join(os.environ.get("REARM_DATA", "data"), name)
    config.data.modalities = modalities
    config.num_epochs = 40
    config.patience = 5
    return config


def get_spec() -> Spec:
    return Spec(
        data={
            "Office": config_of("office", ("title", "description")),
            "MovieLens": config_of("ml-100k", ("text", "genres")),
            "TikTok": config_of("tiktok", ("image", "audio")),
        },
        rows={name: Row("rearm", SETTINGS | changes, space={}) for name, changes in VARIANTS.items()},
        reference="REARM",
        tries=1,
        seeds=3,
        split="valid",
    )
