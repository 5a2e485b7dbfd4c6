"""What every setting may be.

`SCHEMA` has a rule for every field of rearm_jax/default.py, `JOINT_RULES` those between two fields, and `MAY_DIFFER`
says what a resumed run may change. rearm_jax/config.py holds configs to them.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_INT_MAX = 2**31 - 1  # whatever counts or indexes is int32
_FLOAT_MIN, _FLOAT_MAX = 1.2e-38, 3.4e38  # normal float32, in which everything is computed


class Rule(NamedTuple):
    """What a field may hold: `kind` (a tuple of `kind` if `many`) such that `accepts(value)`."""

    kind: type  # bool, int, float or str
    allowed: str  # for people, to follow "must be"
    accepts: Callable[[Any], bool] = lambda value: True
    many: bool = False
    choices: tuple[str, ...] = ()  # all that there are, for "did you mean"


def _integer(low: int) -> Rule:
    return Rule(int, f"an integer from {low} to {_INT_MAX}", lambda value: low <= value <= _INT_MAX)


def _choice(*names: str) -> Rule:
    return Rule(str, "one of " + ", ".join(f'"{name}"' for name in names), lambda value: value in names, choices=names)


def _unique(values: tuple) -> bool:
    return 0 < len(values) == len(set(values))


_SWITCH = Rule(bool, "true or false")
_PATH = Rule(str, "a path, as text", lambda path: "\0" not in path)
_FRACTION = Rule(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
_NOT_NEGATIVE = Rule(float, "a finite number of at least 0", lambda value: 0 <= value <= _FLOAT_MAX)
_POSITIVE = Rule(float, "a finite number above 0 (as float32)", lambda value: _FLOAT_MIN <= value <= _FLOAT_MAX)
_MODALITIES = Rule(
    str,
    'a tuple of different names such as ("image", "text"): letters, digits (not first) and underscores, and not "id"',
    # The ID embeddings are the parameters user_id_table and item_id_table: a modality "id" would collide with them.
    lambda names: _unique(names) and all(re.fullmatch("(?!id$)[A-Za-z_][A-Za-z0-9_]*", name) for name in names),
    many=True,
)
_MODALITY_WEIGHTS = Rule(
    float,
    "a tuple of numbers from 0 to 1 that sum to 1, such as (0.2, 0.8)",
    lambda weights: all(0 <= w <= 1 for w in weights) and abs(math.fsum(weights) - 1) <= 1e-6,
    many=True,
)
_CUT_OFFS = Rule(
    int,
    f"a tuple of different integers from 1 to {_INT_MAX}, such as (10, 20)",
    lambda ks: _unique(ks) and all(1 <= k <= _INT_MAX for k in ks),
    many=True,
)
_METRIC = Rule(
    str,
    'one of recall, ndcg, precision, map and hitrate, then "@" and a cut-off, such as "recall@20"',
    lambda value: re.fullmatch("(recall|ndcg|precision|map|hitrate)@[1-9][0-9]{0,9}", value) is not None,
)

SCHEMA = {
    "protocol": _choice("strict", "reference"),
    "seed": _integer(0),
    "num_epochs": _integer(1),
    "batch_size": _integer(1),
    "eval_every": _integer(1),
    "patience": _integer(0),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "schedule.name": _choice("constant", "cosine"),
    "schedule.warmup_epochs": _integer(0),
    "schedule.decay_epochs": _integer(0),
    "gradient_clip_norm": _NOT_NEGATIVE,
    "parallel": _choice("data", "row"),
    "compute_dtype": _choice("float32", "bfloat16"),
    "data.source": _choice("folder", "synthetic"),
    "data.root": _PATH,
    "data.name": _choice("", "baby", "sports", "clothing"),
    "data.download": _SWITCH,
    "data.modalities": _MODALITIES,
    "data.num_users": _integer(0),
    "data.synthetic.num_users": _integer(1),
    "data.synthetic.num_items": _integer(3),
    "data.synthetic.interactions_per_user": _integer(3),
    "data.synthetic.feature_width": _integer(1),
    "data.synthetic.modalities": _MODALITIES,
    "data.synthetic.seed": _integer(0),
    "graph.user_knn_k": _integer(1),
    "graph.item_knn_k": _integer(1),
    "graph.user_cooccurrence_weight": _FRACTION,
    "graph.item_cooccurrence_weight": _FRACTION,
    "graph.user_modality_weights": _MODALITY_WEIGHTS,
    "graph.item_modality_weights": _MODALITY_WEIGHTS,
    "graph.knn": _choice("auto", "exact", "approx"),
    "graph.cache_dir": _PATH,
    "model.name": _choice("rearm", "lightgcn"),
    "model.embedding_dim": _integer(1),
    "model.rank": _integer(1),
    "model.num_layers": _integer(0),
    "model.num_user_layers": _integer(0),
    "model.num_item_layers": _integer(0),
    "model.self_dropout": _FRACTION,
    "model.cross_dropout": _FRACTION,
    "model.train_meta_projection": _SWITCH,
    "loss.contrastive_weight": _NOT_NEGATIVE,
    "loss.temperature": _POSITIVE,
    "loss.orthogonal_weight": _NOT_NEGATIVE,
    "loss.l2_weight": _NOT_NEGATIVE,
    "evaluation.ks": _CUT_OFFS,
    "evaluation.metric": _METRIC,
    "evaluation.block_size": _integer(1),
    "log.progress": _SWITCH,
    "log.tensorboard": _SWITCH,
}
SECTIONS = {"data.synthetic", *(name.split(".")[0] for name in SCHEMA if "." in name)}

# (field, another field, what the first must be, whether the two values go together)
JOINT_RULES = (
    ("graph.user_modality_weights", "data.modalities", "one number for each modality", lambda w, m: len(w) == len(m)),
    ("graph.item_modality_weights", "data.modalities", "one number for each modality", lambda w, m: len(w) == len(m)),
    ("evaluation.metric", "evaluation.ks", "at one of the cut-offs", lambda m, ks: int(m.split("@")[1]) in ks),
    ("data.root", "data.source", "the folder of the data", lambda root, source: root != "" or source != "folder"),
    ("data.synthetic.interactions_per_user", "data.synthetic.num_items", "at most the number of items", operator.le),
    ("schedule.decay_epochs", "schedule.name", "at least 1 for cosine", lambda d, name: d > 0 or name != "cosine"),
    ("schedule.warmup_epochs", "schedule.decay_epochs", "less than the decay", lambda w, decay: w < decay or not decay),
)

# What a resumed run may change, because no training step depends on it.
MAY_DIFFER = (
    "num_epochs",  # how long: a finished run can be trained on
    "patience",  # how long
    "log.progress",  # how loudly
    "log.tensorboard",  # how loudly
    "graph.cache_dir",  # where: cached graphs are found by the hash of what they are made of
    "data.root",  # where: the content hash guards what is in the folder
    "data.name",  # where from
    "data.download",  # where from
    "evaluation.block_size",  # how much memory: the metrics do not depend on it
    "parallel",  # how much memory on each device: checkpoints move from one to the other
)

# Fields that a config.json of an earlier version lacks, with the values that mean what that version did.
ADDED_LATER = {"data.name": "", "data.download": True}
