"""The tables of Office and MovieLens-100K in docs/results.md: all models; those that learn with EASE beside them, too.

    REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/office.py --workdir runs/office --workers 2

FOLDER holds office-1/ and ml-100k/, made as docs/results.md says.
"""

import os

from ml_collections import ConfigDict

from rearm_jax import default
from rearm_jax.compare import Prune, Row, Spec
from rearm_jax.configs.rearm_plus import BESIDE, RECIPE, SPACE, START

FITTED = {"most popular": Row("popular"), "ItemKNN": Row("itemknn"), "EASE": Row("ease")}
PLUS = {
    "REARM+ without EASE": Row("rearm", RECIPE, SPACE, START),
    "REARM+": Row("rearm", BESIDE, trained="REARM+ without EASE"),
}
LEARNED = {
    "LightGCN": "lightgcn",
    "FREEDOM": "freedom",
    "BPR-MF": "bpr",
    "VBPR": "vbpr",
    "BM3": "bm3",
    "SMORE": "smore",
    "MGCN": "mgcn",
    "REARM": "rearm",
}
# What REARM+ has beyond its space, for the others: features of length 1, and the loss to begin with.
FEATURED = ("FREEDOM", "VBPR", "BM3", "SMORE", "MGCN", "REARM")
SOFTMAX = {"loss.ranking": "softmax"}
PRUNE = Prune(epochs=10, share=0.5)


def with_and_without(names: list[str]) -> dict[str, Row]:
    """Two rows for each of some models of LEARNED."""
    rows = {}
    for name in names:
        settings = {"model.unit_features": True} if name in FEATURED else {}
        rows[name] = Row(LEARNED[name], settings, start={} if name == "BM3" else SOFTMAX)  # BM3 has no ranking loss
        rows[f"{name} + EASE"] = Row(LEARNED[name], BESIDE, trained=name)
    return rows


def config_of(folder: str, modalities: tuple[str, ...], batch_size: int = 2048) -> ConfigDict:
    """What the runs on a data set share."""
    config = default.get_config()
    config.data.root = os.path.join(os.environ.get("REARM_DATA", "data"), folder)
    config.data.modalities = modalities
    config.batch_size = batch_size
    config.num_epochs = 150
    config.patience = 12
    return config


def get_spec() -> Spec:
    return Spec(
        data={
            "Office": config_of("office-1", ("title", "description")),
            "MovieLens": config_of("ml-100k", ("text", "genres")),
        },
        rows=FITTED | PLUS | with_and_without(list(LEARNED)),
        reference="REARM+",
        tries=10,
        seeds=5,
        prune=PRUNE,
        timing=False,
    )
