"""REARM's settings. The defaults are the paper's for Baby, but for the modality weights."""

from rearm_jax.recommender.featured import KNN, TIES, UNIT_FEATURES
from rearm_jax.recommender.ranked import RANKING, RANKING_BEFORE, RANKING_SPACE
from rearm_jax.recommender.search_space import Choice, LogUniform, Uniform
from rearm_jax.settings import (
    FRACTION,
    MODALITY_WEIGHTS,
    NOT_NEGATIVE,
    POSITIVE,
    SWITCH,
    JointRule,
    Setting,
    choice,
    integer,
    one_weight_each,
)

RELATIONS = {
    "user_cooccurrence": "user co-occurrence",
    "user_interest": "user interest",
    "item_cooccurrence": "item co-occurrence",
    "item_semantic": "item semantic",
}
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
        (), MODALITY_WEIGHTS, "of each modality in the user interest graph; (): equal shares"
    ),
    "graph.item_modality_weights": Setting(
        (), MODALITY_WEIGHTS, "of each modality in the item semantic graph; (): equal shares"
    ),
    "graph.knn": KNN,
    "graph.ties": TIES,
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
    **{
        f"graph.{relation}": Setting(True, SWITCH, f"whether the {name} graph is part of the homography")
        for relation, name in RELATIONS.items()
    },
    "model.attention": Setting(
        "full",
        choice("full", "norm", "none"),
        'of items; "norm": its output is left out, layer norm and PReLU stay; "none": as for users, PReLU alone',
    ),
    "model.meta_network": Setting(True, SWITCH, "whether representations have the modal-shared part"),
    "model.heterography": Setting(True, SWITCH, "whether features, too, are propagated over the user-item graph"),
    "model.id_embeddings": Setting(True, SWITCH, "whether users and items have ID embeddings"),
    "model.train_features": Setting(
        True, SWITCH, "whether raw features are trained; else they are neither updated nor part of checkpoints"
    ),
    "model.unit_features": UNIT_FEATURES,
    **RANKING,
    "loss.contrastive_weight": Setting(5e-6, NOT_NEGATIVE, "of the contrastive loss between modalities"),
    "loss.temperature": Setting(0.6, POSITIVE, "of the contrastive loss"),
    "loss.orthogonal_weight": Setting(5e-5, NOT_NEGATIVE, "of the constraint that keeps modalities apart"),
    "loss.l2_weight": Setting(
        0.0, NOT_NEGATIVE, "half the squared norm of the batch's ID embeddings, mean over the batch"
    ),
}
SEARCH_SPACE = {
    "learning_rate": LogUniform(1e-4, 5e-3),
    "weight_decay": LogUniform(1e-3, 3.0),
    "graph.user_knn_k": Choice((10, 20, 40)),
    "graph.item_knn_k": Choice((5, 10, 20, 40)),
    "graph.user_cooccurrence_weight": Uniform(0.0, 1.0),
    "graph.item_cooccurrence_weight": Uniform(0.0, 1.0),
    "model.num_layers": Choice((1, 2, 3, 4)),
    "model.self_dropout": Uniform(0.0, 0.7),
    "model.cross_dropout": Uniform(0.0, 0.7),
    "loss.contrastive_weight": LogUniform(1e-6, 1e-1),
    "loss.temperature": LogUniform(0.1, 1.0),
    "loss.orthogonal_weight": LogUniform(1e-5, 1e-3),
    "loss.l2_weight": LogUniform(1e-2, 10.0),
    **RANKING_SPACE,
}
JOINT_RULES = (
    one_weight_each("graph.user_modality_weights"),
    one_weight_each("graph.item_modality_weights"),
    JointRule(
        "model.meta_network",
        "model.id_embeddings",
        "false without ID embeddings, which the meta-network transforms",
        lambda meta_network, id_embeddings: id_embeddings or not meta_network,
    ),
    JointRule(
        "loss.l2_weight",
        "model.id_embeddings",
        "0 without ID embeddings, whose norm it is",
        lambda weight, id_embeddings: id_embeddings or weight == 0,
    ),
)
# Switches that runs of the first version lack: the published model.
ADDED_LATER = {
    "graph.ties": "lowest",
    "model.init_scale": 0.1,
    **RANKING_BEFORE,
    **{f"graph.{relation}": True for relation in RELATIONS},
    "model.attention": "full",
    "model.meta_network": True,
    "model.heterography": True,
    "model.id_embeddings": True,
    "model.train_features": True,
    "model.unit_features": False,
}
