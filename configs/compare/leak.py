"""The leak in docs/results.md: negatives that avoid the items of validation and test, as published code draws them.

    REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/leak.py --workdir runs/leak --workers 2

FOLDER holds office/ and baby/ (docs/results.md). All else is strict; the settings are the same with and without.
"""

import dataclasses
from typing import Any

from rearm_jax.compare import Row, Spec
from rearm_jax.configs.compare import office
from rearm_jax.configs.compare.ablation import NORM, without

LIGHTGCN: dict[str, Any] = {"learning_rate": 3e-3, "model.num_layers": 3, "loss.l2_weight": 3e-3}
LEAK: dict[str, Any] = {"negatives": "leaking"}


def get_spec() -> Spec:
    data = {
        "Office": office.config_of("office", ("title", "description")),
        "Baby": office.config_of("baby", ("title",)),
    }
    rows = {
        "LightGCN": Row("lightgcn", LIGHTGCN, space={}),
        "LightGCN, leak": Row("lightgcn", LIGHTGCN | LEAK, space={}),
        NORM: without({}),
        f"{NORM}, leak": without(LEAK),
    }
    return dataclasses.replace(
        office.get_spec(), data=data, rows=rows, reference="LightGCN", tries=1, seeds=3, prune=None
    )
