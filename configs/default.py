"""The default settings as they are, for data of one's own; rearm_jax/default.py says what each means.

    python -m rearm_jax.main --config=configs/default.py --config.data.root=FOLDER --workdir=runs/mine

Time and score: those of the data; the end of a run says whether it beats the most popular items. The learning rate is
the paper's, for large data: on small data start with --config.learning_rate=1e-3.
"""

from rearm_jax.default import get_config

__all__ = ["get_config"]
