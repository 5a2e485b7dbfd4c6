"""The table of TikTok in docs/results.md; as configs/compare/office.py, with fewer settings and seeds.

REARM_DATA=FOLDER python -m rearm_jax.compare --spec configs/compare/tiktok.py --workdir runs/tiktok --workers 2
"""

import dataclasses

from rearm_jax.compare import Spec
from rearm_jax.configs.compare import office


def get_spec() -> Spec:
    config = office.config_of("tiktok", ("image", "audio"))
    config.num_epochs = 300
    config.patience = 30  # curves have long plateaus here
    return dataclasses.replace(office.get_spec(), data={"TikTok": config}, tries=8, seeds=3)
