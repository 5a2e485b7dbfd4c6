"""The ablation in docs/results.md: REARM without each of its parts, and REARM+ with and without what sets it apart.

REARM's other parts are left out of REARM with attention: norm, the row NORM, which is faster and as good.

    REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/ablation.py --workdir runs/ablation --workers 2

FOLDER holds office/ and ml-100k/ (docs/results.md). On validation, as it belongs to development. A row differs from the
one that it follows in what its name says; the settings are the same in all: REARM's the best of seven on Office.
"""

from typing import Any

from ml_collections import ConfigDict

from rearm_jax.compare import Row, Spec
from rearm_jax.configs.compare import office
from rearm_jax.configs.rearm_plus import BESIDE, RECIPE, START

REARM: dict[str, Any] = {
    "learning_rate": 3e-3,
    "weight_decay": 2.0,
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
    "loss.l2_weight": 4.0,
}
SOFTMAX: dict[str, Any] = {"loss.ranking": "softmax", "loss.similarity": "dot", "loss.ranking_temperature": 1.0}
NORM = "REARM, attention norm"
ATTENTION: dict[str, dict[str, Any]] = {
    "REARM": {},
    NORM: {"model.attention": "norm"},
    "REARM, attention none": {"model.attention": "none"},
}
PARTS: dict[str, dict[str, Any]] = {
    "no contrastive loss": {"loss.contrastive_weight": 0.0},
    "no orthogonal loss": {"loss.orthogonal_weight": 0.0},
    "no meta-network": {"model.meta_network": False},
    "no user co-occurrence": {"graph.user_cooccurrence": False},
    "no user interest": {"graph.user_interest": False},
    "no item co-occurrence": {"graph.item_cooccurrence": False},
    "no item semantic": {"graph.item_semantic": False},
    "features not propagated": {"model.heterography": False},
    "features frozen": {"model.train_features": False},
    "softmax": SOFTMAX,
    "features of length 1": {"model.unit_features": True},
    "batch 1024": {"batch_size": 1024},
    "batch 4096": {"batch_size": 4096},
}
OF_PLUS: dict[str, dict[str, Any]] = {
    "BPR": {"loss.ranking": "bpr", **{name: REARM[name] for name in START if name in REARM}},
    "cosine": {"loss.similarity": "cosine", "loss.ranking_temperature": 0.12},
    "attention full": {"model.attention": "full", "model.self_dropout": 0.1, "model.cross_dropout": 0.1},
    # Without the layer norm, dot products are a fifth as large, and so is the temperature.
    "attention none": {"model.attention": "none", "loss.ranking_temperature": 0.2},
    "contrastive loss": {"loss.contrastive_weight": 0.03, "loss.temperature": 0.2},
    "meta-network": {"model.meta_network": True},
    "features trained": {"model.train_features": True},
    "features as given": {"model.unit_features": False},
    "no user graphs": {"graph.user_cooccurrence": False, "graph.user_interest": False},
    "no item co-occurrence": {"graph.item_cooccurrence": False},
    "no item semantic": {"graph.item_semantic": False},
    "features not propagated": {"model.heterography": False},
}


def get_spec() -> Spec:
    rows = {name: Row("rearm", REARM | changes, space={}) for name, changes in ATTENTION.items()}
    rows |= {f"{NORM}, {name}": without(changes) for name, changes in PARTS.items()}
    for name, changes in {"REARM+": {}, **{f"REARM+, {name}": changes for name, changes in OF_PLUS.items()}}.items():
        rows[f"{name}, without EASE"] = Row("rearm", RECIPE | START | changes, space={})
        rows[name] = Row("rearm", BESIDE, space={}, trained=f"{name}, without EASE")
    return on_validation(
        {
            "Office": office.config_of("office", ("title", "description")),
            "MovieLens": office.config_of("ml-100k", ("text", "genres")),
        },
        rows,
    )


def without(changes: dict[str, Any]) -> Row:
    """The row NORM with changes."""
    return Row("rearm", REARM | ATTENTION[NORM] | changes, space={})


def on_validation(data: dict[str, ConfigDict], rows: dict[str, Row]) -> Spec:
    """Three seeds of one setting a row, for at most 80 epochs: what they differ in is seen long before."""
    for config in data.values():
        config.num_epochs = 80
        config.patience = 8
    return Spec(
        data=data,
        rows=rows,
        reference=NORM,
        tries=1,
        seeds=3,
        split="valid",
        timing=False,
    )
