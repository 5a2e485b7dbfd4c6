"""The losses: pure functions of arrays, with masks so that shapes are static.

A loss that couples the whole batch can be shared out over devices: each device passes its rows, weighted so that all
weights add up to 1 over all devices, and the results add up to the loss.
"""

import functools

import jax
import jax.numpy as jnp

from rearm_jax.parallel.blocks import BlockRows, in_blocks

_Gradients = tuple[jax.Array, jax.Array]  # with respect to anchors and candidates
_ANCHORS = BlockRows(256, elsewhere=4096)  # of InfoNCE in a block


def bpr_loss(positive_scores: jax.Array, negative_scores: jax.Array, weights: jax.Array) -> jax.Array:
    """Bayesian personalised ranking (Rendle et al., UAI 2009): -sum_b weights_b log sigmoid(positive_b - negative_b).

    Args:
      positive_scores: float (b,), scores of the observed interactions.
      negative_scores: float (b,), scores of the sampled negatives.
      weights: float (b,), 0 for rows that do not count; they add up to 1 for a mean.

    Raises:
      ValueError: the shapes differ.
    """
    _same_shape(positive_scores=positive_scores, negative_scores=negative_scores, weights=weights)
    return jnp.sum(weights * jax.nn.softplus(negative_scores - positive_scores))


def softmax_loss(
    positive_scores: jax.Array, negative_scores: jax.Array, counts: jax.Array, weights: jax.Array
) -> jax.Array:
    """Sampled softmax (Wu et al., arXiv 2201.02327), -sum_b weights_b log(exp(p_b) / (exp(p_b) + sum_j exp(n_bj))).

    Args:
      positive_scores: float (b,), p, scores of the observed interactions, divided by the temperature.
      negative_scores: float (b, n), scores of the negatives likewise.
      counts: bool (b, n), False for negatives that do not count in a row, such as the user's own items.
      weights: float (b,), 0 for rows that do not count; they add up to 1 for a mean.

    Raises:
      ValueError: the shapes do not fit.
    """
    _same_shape(positive_scores=positive_scores, weights=weights)
    _same_shape(negative_scores=negative_scores, counts=counts)
    if negative_scores.ndim != 2 or len(negative_scores) != len(positive_scores):
        raise ValueError(f"negative_scores {negative_scores.shape} must be ({len(positive_scores)}, n)")
    negative_scores = jnp.where(counts, negative_scores, -jnp.inf)
    highest = jnp.maximum(positive_scores, jnp.max(negative_scores, axis=1, initial=-jnp.inf))
    highest = jax.lax.stop_gradient(highest)
    total = jnp.exp(positive_scores - highest) + jnp.sum(jnp.exp(negative_scores - highest[:, None]), axis=1)
    return jnp.sum(weights * (highest + jnp.log(total) - positive_scores))


def contrastive_loss(
    anchors: jax.Array,
    candidates: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    candidate_mask: jax.Array,
    temperature: jax.Array | float,
    block_rows: BlockRows = _ANCHORS,
) -> jax.Array:
    """InfoNCE (van den Oord et al., 2018) between two views of the same nodes, REARM's contrastive loss.

    -sum_i weights_i log( exp(s_i,targets_i / t) / sum_j exp(s_ij / t) ) with s the cosine similarity and j over the
    candidates of the mask. Works in blocks of anchors: the (a, c) matrix of similarities never exists as a whole.
    Differentiable in anchors and candidates, in reverse mode only.

    Args:
      anchors: float (a, d), rows of the first view.
      candidates: float (c, d), rows of the second view.
      targets: int (a,), for each anchor the row of `candidates` that is the same node.
      weights: float (a,), 0 for anchors that do not count; they add up to 1 for a mean.
      candidate_mask: bool (c,), False for candidates that do not count (repeated nodes, padding).
      temperature: t, positive; no gradient flows into it.
      block_rows: anchors in a block.

    Raises:
      ValueError: the widths or lengths do not fit.
    """
    if anchors.ndim != 2 or candidates.ndim != 2 or anchors.shape[1] != candidates.shape[1]:
        raise ValueError(f"anchors {anchors.shape} and candidates {candidates.shape} must be (a, d) and (c, d)")
    if not targets.shape == weights.shape == anchors.shape[:1] or candidate_mask.shape != candidates.shape[:1]:
        raise ValueError(
            f"targets {targets.shape} and weights {weights.shape} must be ({len(anchors)},), and "
            f"candidate_mask {candidate_mask.shape} ({len(candidates)},)"
        )
    anchors = normalize_rows(anchors)
    candidates = jnp.where(candidate_mask[:, None], normalize_rows(candidates), 0.0)
    # Anchors that count are brought to the front, so that blocks of the others are not computed at all.
    chosen = jnp.nonzero(weights > 0, size=len(anchors), fill_value=len(anchors))[0]
    anchors, targets, weights = (x.at[chosen].get(mode="fill", fill_value=0) for x in (anchors, targets, weights))
    positives = jnp.sum(anchors * candidates[targets], axis=1) * (1 / temperature)
    log_totals = _weighted_log_totals(anchors, candidates, weights, candidate_mask, temperature, block_rows)
    return log_totals - jnp.sum(weights * positives)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _weighted_log_totals(
    anchors: jax.Array,
    candidates: jax.Array,
    weights: jax.Array,
    candidate_mask: jax.Array,
    temperature: jax.Array | float,
    block_rows: BlockRows,
) -> jax.Array:
    """sum_i weights_i log sum_j exp(anchors_i candidates_j / t); anchors of weight 0 come last."""
    return _log_totals_forward(anchors, candidates, weights, candidate_mask, temperature, block_rows)[0]


def _log_totals_forward(
    anchors: jax.Array,
    candidates: jax.Array,
    weights: jax.Array,
    candidate_mask: jax.Array,
    temperature: jax.Array | float,
    block_rows: BlockRows,
) -> tuple[jax.Array, _Gradients]:
    # The gradient is made here, while a block's probabilities are at hand, and only scaled in the backward pass.
    given = anchors, candidates, weights, candidate_mask, temperature
    return in_blocks(_log_totals_in_blocks, block_rows, len(anchors), *given)


def _log_totals_in_blocks(
    block_size: int,
    anchors: jax.Array,
    candidates: jax.Array,
    weights: jax.Array,
    candidate_mask: jax.Array,
    temperature: jax.Array | float,
) -> tuple[jax.Array, _Gradients]:
    num_anchors = len(anchors)
    anchors = jnp.pad(anchors, ((0, -num_anchors % block_size), (0, 0)))
    weights = jnp.pad(weights, (0, -num_anchors % block_size))

    def add_block(block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        loss, d_anchors, d_candidates = carry
        rows = jax.lax.dynamic_slice_in_dim(anchors, block * block_size, block_size)
        row_weights = jax.lax.dynamic_slice_in_dim(weights, block * block_size, block_size)
        logits = jnp.where(candidate_mask, rows @ candidates.T * (1 / temperature), -jnp.inf)
        highest = jnp.max(logits, axis=1)
        exponentials = jnp.exp(logits - highest[:, None])
        totals = jnp.sum(exponentials, axis=1)
        d_logits = exponentials * (row_weights / (temperature * totals))[:, None]
        d_anchors = jax.lax.dynamic_update_slice_in_dim(d_anchors, d_logits @ candidates, block * block_size, 0)
        # As (d, c): with the long side last, this product is several times as fast on a CPU.
        return loss + jnp.sum(row_weights * (highest + jnp.log(totals))), d_anchors, d_candidates + rows.T @ d_logits

    num_blocks = -(-jnp.sum(weights > 0) // block_size)
    carry = jnp.zeros((), anchors.dtype), jnp.zeros_like(anchors), jnp.zeros_like(candidates.T)
    if len(anchors) == block_size > _ANCHORS.cpu:  # spares a loop whose length a GPU has to tell the host
        loss, d_anchors, d_candidates = add_block(jnp.int32(0), carry)
    else:
        loss, d_anchors, d_candidates = jax.lax.fori_loop(0, num_blocks, add_block, carry)
    return loss, (d_anchors[:num_anchors], d_candidates.T)


def _log_totals_backward(
    block_rows: BlockRows, residuals: _Gradients, g: jax.Array
) -> tuple[jax.Array, jax.Array, None, None, None]:
    d_anchors, d_candidates = residuals
    return g * d_anchors, g * d_candidates, None, None, None


_weighted_log_totals.defvjp(_log_totals_forward, _log_totals_backward)


def orthogonal_loss(first: jax.Array, second: jax.Array, mask: jax.Array) -> jax.Array:
    """REARM's orthogonal constraint: what two modalities keep apart should not correlate.

    The mean of the squared entries of A^T B, where A and B are the two views, centred over the rows of the mask and
    divided by (row norm + 1e-6); no gradient flows through the norms.

    Args:
      first: float (b, d), rows of the first modality.
      second: float (b, d), the same nodes in the second modality.
      mask: bool (b,), rows that count.

    Raises:
      ValueError: the shapes differ.
    """
    if first.ndim != 2 or first.shape != second.shape or mask.shape != first.shape[:1]:
        raise ValueError(f"first {first.shape}, second {second.shape}, mask {mask.shape} must be (b, d), (b, d), (b,)")
    counted = mask.astype(first.dtype)[:, None]

    def centred_unit_rows(x: jax.Array) -> jax.Array:
        x = (x - jnp.sum(x * counted, axis=0) / jnp.maximum(jnp.sum(counted), 1.0)) * counted
        norm = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(x) ** 2, axis=1, keepdims=True))
        return x / (norm + 1e-6)

    correlation = centred_unit_rows(first).T @ centred_unit_rows(second)
    return jnp.mean(correlation**2)


def normalize_rows(x: jax.Array) -> jax.Array:
    """Divides each row of x (n, d) by its Euclidean norm; a zero row stays zero, with gradient zero instead of NaN."""
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jnp.where(squares > 0, jax.lax.rsqrt(jnp.maximum(squares, 1e-24)), 0.0)


def first_occurrence(ids: jax.Array, valid: jax.Array, num_ids: int) -> jax.Array:
    """Marks each distinct id once: bool (b,), True where ids[b] is valid and stands for the first time.

    Args:
      ids: int (b,), in [0, num_ids).
      valid: bool (b,), False for padding.
      num_ids: size of the id space.
    """
    position = jnp.arange(ids.shape[0], dtype=jnp.int32)
    late = jnp.where(valid, position, ids.shape[0])
    first = jnp.full((num_ids,), ids.shape[0], jnp.int32).at[ids].min(late)
    return valid & (first[ids] == position)


def first_among_pairs(ids: jax.Array, valid: jax.Array) -> jax.Array:
    """What `first_occurrence` marks, by comparing all pairs on the fly: no memory by the largest id, nothing sorted.

    Args:
      ids: int (b,).
      valid: bool (b,), False for padding.
    """
    position = jnp.arange(ids.shape[0], dtype=jnp.int32)
    earlier = (ids[:, None] == ids) & valid & (position < position[:, None])
    return valid & ~jnp.any(earlier, axis=1)


def _same_shape(**arrays: jax.Array) -> None:
    if len({x.shape for x in arrays.values()}) > 1:
        raise ValueError("shapes differ: " + ", ".join(f"{name} {x.shape}" for name, x in arrays.items()))
