"""REARM's settings. The defaults are the paper's for Baby, but for the modality weights."""

from rearm_jax.recommender.ranked import RANKING
from rearm_jax.settings import (
    FRACTION,
    MODALITY_WEIGHTS,
    NOT_NEGATIVE,
    POSITIVE,
    SWITCH,
    Setting,
    choice,
    integer,
    one_weight_each,
)

SETTINGS = {
    "learning_rate": Setting(5e-5, POSITIVE, "of AdamW; the peak where there is a schedule"),
    "weight_decay": Setting(5e-4, NOT_NEGATIVE, "AdamW, decoupled"),
    "graph.user_knn_k": Setting(
        40, integer(1), "neighbours of a user in the co-occurrence and interest graphs", "users"
    ),
    "graph.item_knn_k": Setting(
        10, integer(1), "neighbours of an item in the co-occurrence and semantic graphs", "items"
    ),
    "graph.user_cooccurrence_weight": Setting(0.4, FRACTION, "the rest is the weight of the interest graph"),
    "graph.item_cooccurrence_weight": Setting(0.2, FRACTION, "the rest is the weight of the semantic graph"),
    "graph.user_modality_weights": Setting(
        (0.5, 0.5), MODALITY_WEIGHTS, "of each modality in the user interest graph; sums to 1"
    ),
    "graph.item_modality_weights": Setting(
        (0.5, 0.5), MODALITY_WEIGHTS, "of each modality in the item semantic graph; sums to 1"
    ),
    "graph.knn": Setting(
        "auto",
        choice("auto", "exact", "approx"),
        '"exact", "approx" (needs faiss), or "auto": approx for more than 100,000 nodes',
    ),
    "model.embedding_dim": Setting(64, integer(1), "of the ID embeddings and of each modality"),
    "model.init_scale": Setting(0.1, POSITIVE, "standard deviation of the ID embeddings at the start"),
    "model.rank": Setting(3, integer(1), "of the meta-network's transformations"),
    "model.num_layers": Setting(4, integer(0), "of the user-item graph"),
    "model.num_user_layers": Setting(1, integer(0), "of the user-user graph"),
    "model.num_item_layers": Setting(1, integer(0), "of the item-item graph"),
    "model.self_dropout": Setting(0.4, FRACTION, "on the weights of self-attention; 1 zeroes it in training"),
    "model.cross_dropout": Setting(0.6, FRACTION, "on the weights of cross-attention"),
    "model.train_meta_projection": Setting(
        False, SWITCH, "the published system keeps the meta-network's projection frozen at random values"
    ),
    **RANKING,
    "loss.contrastive_weight": Setting(5e-6, NOT_NEGATIVE, "of the contrastive loss between modalities"),
    "loss.temperature": Setting(0.6, POSITIVE, "of the contrastive loss"),
    "loss.orthogonal_weight": Setting(5e-5, NOT_NEGATIVE, "of the constraint that keeps modalities apart"),
    "loss.l2_weight": Setting(
        0.0, NOT_NEGATIVE, "half the squared norm of the batch's ID embeddings, mean over the batch"
    ),
}
JOINT_RULES = (one_weight_each("graph.user_modality_weights"), one_weight_each("graph.item_modality_weights"))
