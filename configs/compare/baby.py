"""The table of Baby in docs/results.md: the paper's interactions, with titles of 42% of the items as one modality.

REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/baby.py --workdir runs/baby --workers 2
"""

import dataclasses

from rearm_jax.compare import Spec
from rearm_jax.configs.compare import office


def get_spec() -> Spec:
    data = {"Baby": office.config_of("baby", ("title",), 4096)}
    rows = office.FITTED | office.PLUS | office.with_and_without(["LightGCN", "FREEDOM", "BPR-MF", "REARM"])
    return dataclasses.replace(office.get_spec(), data=data, rows=rows, tries=6, seeds=3)
