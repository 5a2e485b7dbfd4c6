"""The default settings as they are, for data of one's own; rearm_jax/default.py says what each means.

python -m rearm_jax.main --config=configs/default.py --config.data.root=FOLDER
"""

from rearm_jax.default import get_config

__all__ = ["get_config"]
