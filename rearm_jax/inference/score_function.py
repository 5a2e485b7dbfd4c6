"""The score function of an export as StableHLO for every platform, for `jax.export.deserialize`.

Vectors and fits are its arguments, so that it has some kilobytes. Its lists have k = min(SCORE_DEPTH, num_items)
places: a shorter list is the front of a longer one.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from rearm_jax.evaluation.ranking import UserBlocks, rank_scores
from rearm_jax.evaluation.scoring import standardised
from rearm_jax.recommender.fitted import Fitted, Params
from rearm_jax.training.residual import Residual

SCORE_DEPTH = 100  # places of the lists of the score function; all items where there are fewer
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def of_vectors(num_items: int, width: int) -> bytes:
    """(user vectors float32 (b, c), item vectors float32 (n, c)) -> `top_items`; any b, and any n from k up."""
    k = min(SCORE_DEPTH, num_items)
    b, n = jax.export.symbolic_shape("b, n", constraints=[f"n >= {k}"])
    vectors = [jax.ShapeDtypeStruct((rows, width), jnp.float32) for rows in (b, n)]
    return _serialized(functools.partial(top_items, k=k), *vectors)


def of_fit(model: Fitted, params: Params, num_items: int) -> bytes:
    """(histories int32 (b, h) padded with -1, fit) -> `unseen_items` by the fit; any b and h."""

    def score(histories: jax.Array, fit: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return unseen_items(model.traced_scores(fit, histories), histories, min(SCORE_DEPTH, num_items))

    b, h = jax.export.symbolic_shape("b, h")
    return _serialized(score, jax.ShapeDtypeStruct((b, h), jnp.int32), _like(params))


def of_both(residual: Residual, num_items: int, width: int) -> bytes:
    """(user vectors float32 (b, c), item vectors float32 (num_items, c), histories int32 (b, h) padded with -1, fit) ->
    `unseen_items` by z(dot product) + weight z(fit); any b and h.
    """

    def score(
        users: jax.Array, items: jax.Array, histories: jax.Array, fit: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        own, other = _dot_products(users, items), residual.model.traced_scores(fit, histories)
        scores = standardised(own) + residual.weight * standardised(other)
        return unseen_items(scores, histories, min(SCORE_DEPTH, num_items))

    b, h = jax.export.symbolic_shape("b, h")
    vectors = [jax.ShapeDtypeStruct((rows, width), jnp.float32) for rows in (b, num_items)]
    return _serialized(score, *vectors, jax.ShapeDtypeStruct((b, h), jnp.int32), _like(residual.params))


def top_items(user_vectors: jax.Array, item_vectors: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k items of largest dot product: items int32 (b, k), ties by lower row, and scores float32 (b, k).

    Args:
      user_vectors: float32 (b, c).
      item_vectors: float32 (n, c), n at least k.
      k: static.
    """
    nothing = jnp.zeros(0, jnp.int32)
    nobody_is_padding = jnp.zeros(user_vectors.shape[0], jnp.int32)
    return rank_scores(_dot_products(user_vectors, item_vectors), UserBlocks(nobody_is_padding, nothing, nothing), k)


def unseen_items(scores: jax.Array, histories: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k best items outside each history: items int32 (b, k), -1 where there are no more, and scores float32 (b, k).

    Args:
      scores: float32 (b, num_items).
      histories: int32 (b, h), items of each user, padded with -1.
      k: static, at most num_items.
    """
    num_users = histories.shape[0]
    rows = jnp.where(histories >= 0, jnp.arange(num_users)[:, None], num_users)  # padding: out of bounds, and dropped
    nobody_is_padding = jnp.zeros(num_users, jnp.int32)
    return rank_scores(scores, UserBlocks(nobody_is_padding, rows.ravel(), histories.ravel()), k)


def _dot_products(user_vectors: jax.Array, item_vectors: jax.Array) -> jax.Array:
    return jnp.matmul(user_vectors, item_vectors.T, precision=jax.lax.Precision.HIGHEST)


def _like(params: Params) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in params.items()}


def _serialized(function: Callable, *arguments: Any) -> bytes:
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
