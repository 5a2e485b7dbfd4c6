"""The table of Sports in docs/results.md: the paper's interactions, with categories and keywords as texts.

REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/sports.py --workdir runs/sports --workers 2
"""

import dataclasses

from rearm_jax.compare import Row, Spec
from rearm_jax.configs.compare import office
from rearm_jax.configs.rearm_plus import START

SOFTMAX = {"loss.ranking": "softmax", "loss.similarity": "dot"}
# One setting alone, as it takes long: REARM+'s rates and weights, as far as REARM has them.
REARM = Row("rearm", START | SOFTMAX | {"model.unit_features": True}, space={})


def get_spec() -> Spec:
    data = {"Sports": office.config_of("sports", ("category", "keywords"), 8192)}
    fitted = {name: office.FITTED[name] for name in ("ItemKNN", "EASE")}
    rows = fitted | office.PLUS | office.with_and_without(["LightGCN", "FREEDOM", "MGCN"])
    rows |= {name: office.with_and_without([name])[name] for name in ("VBPR", "BM3", "SMORE")} | {"REARM": REARM}
    return dataclasses.replace(office.get_spec(), data=data, rows=rows, tries=4, seeds=5)
