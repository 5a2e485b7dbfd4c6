"""What a REARM model computes on its way to the representations: modal-unique and modal-shared features, attention.

The paper's figure shows the two kinds of features before and after training. Here, for users and for items,

- modal-unique, one kind a modality: F_m, the modality's features after propagation, which the orthogonal loss pushes
  apart ("modal_users", "modal_items" of `Representations.views`);
- modal-shared: what the meta-network distils from all F_m, transforming the ID embeddings (its output).

"Before" is the model with the parameters of `init_params`, "after" with those of the best checkpoint; no dropout.
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from rearm_jax.experiment import Experiment, in_precision
from rearm_jax.recommender.contract import Inputs, Recommender

SHARED = "shared"  # the kind of features that the meta-network gives
SAMPLE_SIZE = 500  # users or items in a t-SNE plot; each is one point a kind of features
ATTENTION_SAMPLE = 1000  # items whose attention weights are measured
SEED = 0


class Embedding(NamedTuple):
    """Points of one t-SNE plot.

    Attributes:
      points: kind ("image", ..., "shared") -> float32 (n, 2).
      silhouette: of the kinds as clusters, in -1..1, in the space of the features (not of the plot).
    """

    points: dict[str, np.ndarray]
    silhouette: float


class AttentionBlock(NamedTuple):
    """One use of scalar attention, on a sample of n items.

    Attributes:
      name: "image self" or "image cross"; with more than two modalities "image cross, audio asks".
      focus: float (n * d,), exp of the entropy of each query's attention weights: how many of the d coordinates it
        attends to, 1 to d. At d the output is a constant, which the layer norm behind it cancels.
      contribution: float (n,), standard deviation over the coordinates of what attention adds, divided by that of what
        it is added to: 0 means that attention does nothing.
    """

    name: str
    focus: np.ndarray
    contribution: np.ndarray


class Inside(NamedTuple):
    """Features and attention of one set of parameters.

    Attributes:
      users: kind of features -> float32 (num_users, d).
      items: kind of features -> float32 (num_items, d).
      attention: one for each use of attention.
    """

    users: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    attention: list[AttentionBlock]


def look_inside(experiment: Experiment, params: Mapping) -> Inside:
    """Runs the model of `experiment`, a REARM, and keeps what lies on the way."""
    sample = sample_rows(experiment.dataset.num_items, ATTENTION_SAMPLE)
    forward = in_precision(experiment.config.matmul_precision, functools.partial(_shown, experiment.model))
    shown = jax.device_get(jax.jit(forward)(params, experiment.inputs))
    attention = []
    for use, (query, context) in _with_prefix(shown, "attention: ").items():
        name, kind = use.split(",")[0].rsplit(" ", 1)
        block = params[f"{name}_{kind}_attention"]
        attention.append(_measure(use, block, query[sample], context[sample]))
    return Inside(_with_prefix(shown, "user features: "), _with_prefix(shown, "item features: "), attention)


def sample_rows(num_rows: int, size: int) -> np.ndarray:
    """At most `size` different rows, sorted, always the same ones."""
    return np.sort(np.random.default_rng(SEED).choice(num_rows, min(num_rows, size), replace=False))


def embed(kinds: Mapping[str, np.ndarray]) -> Embedding:
    """t-SNE (van der Maaten & Hinton, JMLR 2008) of a sample of rows, all kinds in one plane.

    Args:
      kinds: kind of features -> float32 (num_rows, d), d at least 2.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    features = _directions(kinds)
    perplexity = min(30, (len(features) - 1) / 3)
    with threadpool_limits(1):  # so few points are slower on several threads, several times where the cores are busy
        plane = TSNE(init="pca", perplexity=perplexity, random_state=SEED).fit_transform(features)
    points = dict(zip(kinds, np.split(plane, len(kinds)), strict=True))
    return Embedding(points, separation(kinds))


def separation(kinds: Mapping[str, np.ndarray]) -> float:
    """How far kinds of features lie apart: the silhouette (Rousseeuw 1987) of the kinds as clusters, in -1..1.

    Args:
      kinds: two or more, as for `embed`.
    """
    from sklearn.metrics import silhouette_score

    features = _directions(kinds)
    return float(silhouette_score(features, np.repeat(np.arange(len(kinds)), len(features) // len(kinds))))


def _directions(kinds: Mapping[str, np.ndarray]) -> np.ndarray:
    """A sample of rows, the same of each kind, kind after kind; L2-normalised, as the contrastive loss does."""
    rows = sample_rows(len(next(iter(kinds.values()))), SAMPLE_SIZE)
    features = np.concatenate([table[rows] for table in kinds.values()]).astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def attention_scalars(params: Mapping, names: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """All that the scalars of an attention can do, as three numbers: "image self" -> (coupling, tilt, gain).

    A weight is the softmax over j of (coupling x_i + tilt) y_j, where y is what is attended to and x asks (in
    self-attention, y = x); what comes out is gain times the weighted mean of y, plus a constant that the layer norm
    cancels. coupling = w_q w_k, tilt = b_q w_k, gain = w_out w_v; the bias of k cancels in the softmax.

    Args:
      params: of REARM.
      names: of the modalities.
    """
    scalars = {}
    for kind in ("self", "cross"):
        for name in names:
            block = params.get(f"{name}_{kind}_attention")
            if block is not None:  # a single modality has no cross-attention
                (w_q, w_k, w_v), (b_q, _, _) = block["in_weight"], block["in_bias"]
                scalars[f"{name} {kind}"] = float(w_q * w_k), float(b_q * w_k), float(block["out_weight"] * w_v)
    return scalars


def _shown(model: Recommender, params: Mapping, inputs: Inputs) -> dict:
    """What the model's forward pass sows for the report, in the order in which it does.

    An OrderedDict, because jit gives a dict back with its names sorted.
    """
    _, state = model.apply({"params": params}, inputs, mutable=["shown"])
    return OrderedDict((name, sown) for name, (sown,) in state["shown"].items())


def _with_prefix(shown: Mapping, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in shown.items() if name.startswith(prefix)}


def _measure(name: str, params: Mapping, query: np.ndarray, context: np.ndarray) -> AttentionBlock:
    weight, bias = np.asarray(params["in_weight"]), np.asarray(params["in_bias"])
    q, k, v = (x * w + b for x, w, b in zip((query, context, context), weight, bias, strict=True))
    scores = q[:, :, None] * k[:, None, :]
    scores -= scores.max(axis=2, keepdims=True)
    weights = np.exp(scores)
    totals = weights.sum(axis=2, keepdims=True)
    weights /= totals
    entropy = np.log(totals[:, :, 0]) - (weights * scores).sum(axis=2)
    added = np.asarray(params["out_weight"]) * np.einsum("nij,nj->ni", weights, v)
    spread = np.maximum(context.std(axis=1), np.finfo(np.float32).tiny)
    return AttentionBlock(name, np.exp(entropy).ravel(), added.std(axis=1) / spread)
