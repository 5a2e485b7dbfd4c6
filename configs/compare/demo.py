"""Four rows on the demo's data, one of them a model twice: what a comparison looks like, in some minutes.

    python -m rearm_jax.compare --spec configs/compare/demo.py --workdir runs/compare-demo

The data have a planted signal, which EASE finds best, BPR-MF less, and most-popular hardly. "BPR-MF again" is the same
model with other seeds: whatever lies between the two is chance, and the table calls it a tie.
"""

from rearm_jax.compare import Row, Spec
from rearm_jax.configs import demo
from rearm_jax.recommender.search_space import LogUniform


def get_spec() -> Spec:
    config = demo.get_config()
    config.num_epochs = 20
    config.patience = 4
    space = {"learning_rate": LogUniform(3e-3, 3e-2), "loss.l2_weight": LogUniform(1e-3, 1e-1)}
    small = {"model.embedding_dim": 32}
    return Spec(
        data={"demo": config},
        rows={
            "most popular": Row("popular"),
            "EASE": Row("ease"),
            "BPR-MF": Row("bpr", small, space),
            "BPR-MF again": Row("bpr", small, space),
        },
        reference="BPR-MF",
        tries=4,
        seeds=3,
    )
