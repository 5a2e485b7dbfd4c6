"""TikTok (the DiffMM release, image and audio features, no text), protocol "strict": REARM and its yardstick LightGCN.

    python -m rearm_jax.main --config=configs/tiktok.py --workdir=runs/tiktok
    python -m rearm_jax.main --config=configs/tiktok.py:lightgcn --workdir=runs/tiktok_lightgcn

Data: data/tiktok with train.npy, valid.npy, test.npy, image_feat.npy and audio_feat.npy (each 128 wide).
Time: 8.8 s an epoch of REARM on 2 cores of an AMD EPYC, 0.33 s of LightGCN.
Score: test Recall@20 0.089 +- 0.006 and 0.0979 +- 0.0007 (three seeds; docs/results.md).
"""

from ml_collections import ConfigDict

from rearm_jax import default
from rearm_jax.errors import ConfigError


def get_config(variant: str = "") -> ConfigDict:
    """REARM, or with variant "lightgcn" the yardstick."""
    if variant == "":
        config = default.get_config()
        config.patience = 15
        config.learning_rate = 1e-3
        config.weight_decay = 3.0
        config.graph.user_cooccurrence_weight = 0.9
        config.graph.item_cooccurrence_weight = 0.9
        config.graph.user_knn_k = 40
        config.graph.item_knn_k = 10
        config.model.self_dropout = 0.1
        config.model.cross_dropout = 0.1
        config.loss.contrastive_weight = 0.03
        config.loss.temperature = 0.2
        config.loss.orthogonal_weight = 1e-4
        config.loss.l2_weight = 10.0
    elif variant == "lightgcn":
        config = default.get_config("lightgcn")
        config.patience = 100  # its validation curve has long plateaus, and an epoch takes half a second
        config.learning_rate = 3e-3
        config.weight_decay = 0.0
        config.loss.l2_weight = 0.1
        config.model.init_scale = 0.1
    else:
        raise ConfigError(
            f'configs/tiktok.py has no variant "{variant}": choose "lightgcn" (configs/tiktok.py:lightgcn), '
            "or none (configs/tiktok.py) for REARM"
        )
    config.data.root = "data/tiktok"
    config.data.modalities = ("image", "audio")
    config.model.num_layers = 2
    return config
