"""REARM on Amazon Baby with the paper's settings and the published system's protocol ("reference").

    python -m rearm_jax.main --config=configs/baby.py --workdir=runs/baby

Data: data/baby with train.npy, valid.npy, test.npy, image_feat.npy (4096 wide) and text_feat.npy (384 wide),
downloaded on the first run (by hand: python -m rearm_jax.data.download baby).
Time: 41 s an epoch on 2 cores of an AMD EPYC, measured with random features of these widths (docs/speed.md).
Score: not measured: features not at hand.
"""

from ml_collections import ConfigDict

from rearm_jax import default


def get_config() -> ConfigDict:
    config = default.get_config()
    config.protocol = "reference"
    config.batch_size = 2048
    config.patience = 20
    config.learning_rate = 5e-5
    config.weight_decay = 5e-4
    config.data.root = "data/baby"
    config.data.name = "baby"
    config.data.modalities = ("image", "text")
    config.graph.user_knn_k = 40
    config.graph.item_knn_k = 10
    config.graph.user_cooccurrence_weight = 0.4
    config.graph.item_cooccurrence_weight = 0.2
    config.graph.user_modality_weights = (0.2, 0.8)
    config.graph.item_modality_weights = (0.0, 1.0)
    config.model.embedding_dim = 64
    config.model.rank = 3
    config.model.num_layers = 4
    config.model.num_user_layers = 1
    config.model.num_item_layers = 1
    config.model.self_dropout = 0.4
    config.model.cross_dropout = 0.6
    config.loss.contrastive_weight = 5e-6
    config.loss.temperature = 0.6
    config.loss.orthogonal_weight = 5e-5
    return config
