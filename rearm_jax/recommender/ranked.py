"""Models whose ranking loss can be chosen: BPR as published, or a softmax over negatives that a batch shares."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rearm_jax.parallel.rows import Shard
from rearm_jax.recommender.contract import Batch, Recommender
from rearm_jax.recommender.objectives import (
    bpr_share,
    l2_norm_of_rows,
    l2_norm_share,
    l2_of_rows,
    l2_share,
    softmax_share,
)
from rearm_jax.recommender.search_space import Choice, LogUniform, SearchSpace
from rearm_jax.settings import NOT_NEGATIVE, POSITIVE, Setting, choice, integer

RANKING: Mapping[str, Setting] = {
    "loss.ranking": Setting(
        "bpr", choice("bpr", "softmax"), '"bpr": a negative for each pair; "softmax": many, shared by the batch'
    ),
    "loss.num_negatives": Setting(1024, integer(1), "softmax: negatives that the rows of a batch share, uniform"),
    "loss.similarity": Setting("cosine", choice("cosine", "dot"), "softmax: of a user and an item, in training"),
    "loss.ranking_temperature": Setting(0.2, POSITIVE, "softmax: divides the similarities"),
}
# Every learned model has the choice, so that none wins by the loss alone.
RANKING_SPACE: SearchSpace = {
    "loss.ranking": Choice(("bpr", "softmax")),
    "loss.similarity": Choice(("cosine", "dot")),
    "loss.ranking_temperature": LogUniform(0.05, 1.0),
}
L2: Mapping[str, Setting] = {
    "loss.l2_weight": Setting(1e-2, NOT_NEGATIVE, "of the L2 part, over the batch's ID embeddings"),
    "loss.l2_form": Setting(
        "protocol",
        choice("protocol", "squared", "norm"),
        '"squared": half the squared norm, mean over the batch; "norm": the published code\'s, norms that are not '
        'squared; "protocol": squared under "strict", norm under "reference"',
    ),
}
# What the first version did, which had no RANKING.
RANKING_BEFORE: Mapping[str, Any] = {name: setting.default for name, setting in RANKING.items()}


class Ranked(Recommender, kw_only=True):
    """A model that declares RANKING among its settings."""

    rates = {"ranking_temperature": np.float32}

    ranking: str = "bpr"
    num_negatives: int = 1024
    similarity: str = "cosine"
    ranking_temperature: float = 0.2

    @property
    def num_shared_negatives(self) -> int:
        return self.num_negatives if self.ranking == "softmax" else 0

    def ranking_share(self, users: jax.Array, items: jax.Array, batch: Batch, shard: Shard) -> jax.Array:
        """The ranking loss, float32 (); see `bpr_share` and `softmax_share`."""
        if self.ranking == "bpr":
            return bpr_share(users, items, batch, shard)
        return softmax_share(users, items, batch, shard, self.similarity, self.ranking_temperature)


def choose_l2_form(form: str, protocol: str) -> str:
    """What `loss.l2_form` means under a protocol: "squared" or "norm"."""
    return {"strict": "squared", "reference": "norm"}[protocol] if form == "protocol" else form


def choose_l2(form: str, protocol: str) -> Callable[..., jax.Array]:
    """The function of two tables that `loss.l2_form` names under a protocol."""
    return {"squared": l2_share, "norm": l2_norm_share}[choose_l2_form(form, protocol)]


def choose_l2_of_rows(form: str, protocol: str) -> Callable[..., jax.Array]:
    """Likewise of the batch's rows."""
    return {"squared": l2_of_rows, "norm": l2_norm_of_rows}[choose_l2_form(form, protocol)]
