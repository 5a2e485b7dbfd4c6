"""REARM on Amazon Sports with the paper's settings and the published system's protocol ("reference").

    python -m rearm_jax.main --config=configs/sports.py --workdir=runs/sports

Data: data/sports with train.npy, valid.npy, test.npy, image_feat.npy (4096 wide) and text_feat.npy (384 wide),
downloaded on the first run (by hand: python -m rearm_jax.data.download sports).
Time: not measured: features not at hand.
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
    config.weight_decay = 0.05
    config.data.root = "data/sports"
    config.data.name = "sports"
    config.data.modalities = ("image", "text")
    config.graph.user_knn_k = 25
    config.graph.item_knn_k = 5
    config.graph.user_cooccurrence_weight = 0.9
    config.graph.item_cooccurrence_weight = 0.2
    config.graph.user_modality_weights = (0.0, 1.0)
    config.graph.item_modality_weights = (0.2, 0.8)
    config.model.embedding_dim = 64
    config.model.rank = 7
    config.model.num_layers = 5
    config.model.num_user_layers = 2
    config.model.num_item_layers = 2
    config.model.self_dropout = 1.0  # no self-attention in training
    config.model.cross_dropout = 0.2
    config.loss.contrastive_weight = 1e-3
    config.loss.temperature = 1.5
    config.loss.orthogonal_weight = 5e-4
    return config
