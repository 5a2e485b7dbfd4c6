"""What a trial of REARM costs, in docs/results.md: the parts that take its time, and the sizes of a batch, on TikTok.

    REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/trial.py --workdir runs/trial --workers 2

FOLDER holds tiktok/ (docs/results.md). The rows are those of configs/compare/ablation.py, which has them on Office; on
validation.
"""

import dataclasses

from rearm_jax.compare import Row, Spec
from rearm_jax.configs.compare import ablation, office

PARTS = ("features frozen", "softmax", "batch 1024", "batch 4096")


def get_spec() -> Spec:
    rows = {name: Row("rearm", ablation.REARM | changes, space={}) for name, changes in ablation.ATTENTION.items()}
    rows |= {f"{ablation.NORM}, {name}": ablation.without(ablation.PARTS[name]) for name in PARTS}
    spec = ablation.on_validation({"TikTok": office.config_of("tiktok", ("image", "audio"))}, rows)
    return dataclasses.replace(spec, timing=True)
