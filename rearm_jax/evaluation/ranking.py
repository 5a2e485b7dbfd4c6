"""Full ranking of all items on the device, in blocks of users.

Make the blocks of a split once, on the host; rank them after every forward pass:

    users = np.unique(dataset.valid[:, 0])
    blocks = make_blocks(users, group_by_user(dataset.train, dataset.num_users), block_size=1024)
    top_items, scores = jax.jit(rank_items, static_argnames="k")(user_vectors, item_vectors, blocks, k=50)
    metrics = split_metrics(top_items, blocks.users, group_by_user(dataset.valid, dataset.num_users), ks=(10, 20, 50))
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_GROUP = 16  # neighbouring items that `_best_of_groups` first looks at as one


class UserBlocks(NamedTuple):
    """Users to rank, in blocks of equal size, with the items that each block must leave out.

    `rank_items` takes any number of blocks along the leading axis, so for D devices reshape every field to
    (D, num_blocks / D, ...) and map over the first axis; flattened, the results are in the order of `users` again.

    Attributes (numpy arrays on the host):
      users: int32 (num_blocks, block), in the order given; -1 pads the end.
      excluded_rows: int32 (num_blocks, m), row in the block of each excluded pair; `block`, which is out of bounds and
        so dropped, pads each row.
      excluded_items: int32 (num_blocks, m), item of each excluded pair; 0 where `excluded_rows` is padding.
    """

    users: jax.Array | Any
    excluded_rows: jax.Array | Any
    excluded_items: jax.Array | Any


def make_blocks(
    users: np.ndarray, exclude: tuple[np.ndarray, np.ndarray], block_size: int, num_devices: int = 1
) -> UserBlocks:
    """Cuts `users` into blocks of at most `block_size` (2 if it is 1); host only, vectorised.

    The size of a block depends on the number of users and `block_size`, never on `num_devices`, so that every number
    of devices computes products of the same shape; more devices only append blocks of padding.

    Args:
      users: int (n,), the users to rank.
      exclude: `(indptr (num_users + 1,), items)` from `group_by_user`, the pairs never to recommend (train positives).
      block_size: largest number of users ranked at a time; memory is block_size x num_items x 4 bytes on each device.
      num_devices: `num_blocks` is a multiple of it.

    Returns:
      `UserBlocks` of numpy arrays.

    Raises:
      ValueError: no users, a user outside 0..num_users-1, or a size below 1.
    """
    indptr, items = exclude
    users = np.asarray(users)
    num_users = len(indptr) - 1
    if users.ndim != 1 or len(users) == 0:
        raise ValueError(f"users must be a non-empty vector, got shape {users.shape}")
    if users.min() < 0 or users.max() >= num_users:
        raise ValueError(f"users must be in 0..{num_users - 1}, got {users.min()}..{users.max()}")
    if block_size < 1 or num_devices < 1:
        raise ValueError(f"block_size and num_devices must be at least 1, got {block_size} and {num_devices}")

    # Blocks of equal size pad least. Two rows at least: one row alone is computed as a matrix-vector product, which
    # sums in another order than the matrix product of every other size, and last bits can decide a rank.
    num_blocks = -(-len(users) // max(block_size, 2))
    block = max(-(-len(users) // num_blocks), 2)
    num_blocks = -(-num_blocks // num_devices) * num_devices

    padded_users = np.full(num_blocks * block, -1, np.int32)
    padded_users[: len(users)] = users

    counts = (indptr[users + 1] - indptr[users]).astype(np.int64)
    row = np.repeat(np.arange(len(users)), counts)  # of each excluded pair, over all blocks
    pair = np.arange(len(row))
    offset = pair - np.repeat(np.cumsum(counts) - counts, counts)  # of the pair within its user
    pairs_per_block = np.bincount(row // block, minlength=num_blocks)
    column = pair - (np.cumsum(pairs_per_block) - pairs_per_block)[row // block]

    width = max(pairs_per_block.max(), 1)  # never 0: reshape(D, -1, 0), which callers may write, is ambiguous
    excluded_rows = np.full((num_blocks, width), block, np.int32)
    excluded_items = np.zeros_like(excluded_rows)
    excluded_rows[row // block, column] = row % block
    excluded_items[row // block, column] = items[indptr[users[row]] + offset]
    return UserBlocks(padded_users.reshape(num_blocks, block), excluded_rows, excluded_items)


def rank_items(
    user_vectors: jax.Array, item_vectors: jax.Array, blocks: UserBlocks, k: int
) -> tuple[jax.Array, jax.Array]:
    """The `k` best items of each user by dot product, excluded items left out; pure, for `jit` or `pmap` (k static).

    Holds block x num_items scores at a time. The result does not depend on the block size (on accelerators whose
    matrix product sums in a shape-dependent order, up to the last bits of the scores).

    Args:
      user_vectors: float (num_users, c).
      item_vectors: float (num_items, c).
      blocks: from `make_blocks`.
      k: number of items in a list.

    Returns:
      items: int32 (num_blocks, block, k), best first, ties by lower item id; -1 where there is nothing to recommend
        (a list that ran out of candidates, a score that is NaN, a padded user).
      scores: float32 (num_blocks, block, k), -inf where the list ran out of candidates.

    Raises:
      ValueError: k is below 1 or larger than the number of items.
    """

    def rank_block(block: UserBlocks) -> tuple[jax.Array, jax.Array]:
        return rank_scores(block_scores(user_vectors, item_vectors, block.users), block, k)

    return jax.lax.map(rank_block, blocks)


def block_scores(user_vectors: jax.Array, item_vectors: jax.Array, users: jax.Array) -> jax.Array:
    """Dot products of some users, int32 (b,), with all items: float32 (b, num_items). See `rank_items`."""
    # HIGHEST: by default a TPU multiplies in bfloat16 and a GPU may in TF32. With 2-3 digits neighbouring items tie or
    # swap, and a checkpoint evaluates differently on each platform. The product is a small part of a run.
    return jnp.matmul(
        user_vectors[users],  # a padded user, -1, reads the last row; its list is discarded
        item_vectors.T,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def rank_scores(scores: jax.Array, block: UserBlocks, k: int) -> tuple[jax.Array, jax.Array]:
    """The `k` best items of one block of users from their scores; see `rank_items`.

    Args:
      scores: float32 (block, num_items).
      block: one block, that is `UserBlocks` without the leading axis.
      k: number of items in a list.

    Returns:
      items int32 (block, k) and scores float32 (block, k), as in `rank_items`.

    Raises:
      ValueError: k is below 1 or larger than the number of items.
    """
    num_items = scores.shape[1]
    if not 1 <= k <= num_items:
        raise ValueError(f"k must be between 1 and the number of items, {num_items}, got {k}")
    top_scores, items = best_of_rows(without_excluded(scores, block), k)
    is_candidate = (top_scores > -jnp.inf) & (block.users >= 0)[:, None]  # False for NaN
    return jnp.where(is_candidate, items, -1), top_scores


def without_excluded(scores: jax.Array, block: UserBlocks) -> jax.Array:
    """The scores of one block, float32 (block, num_items), with -inf for what each user must not have."""
    return scores.at[block.excluded_rows, block.excluded_items].set(-jnp.inf, mode="drop")


def best_of_rows(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest scores of each row, float32 (b, k), and where they stand, int32 (b, k); of equal ones the first."""
    num_items = scores.shape[1]
    # Measured on a CPU with 2,000 to 23,000 items: from here on, groups are faster. In an exported program the number
    # of items may be a symbol.
    in_groups = isinstance(num_items, int) and num_items >= 8 * k * _GROUP
    return _best_of_groups(scores, k) if in_groups else jax.lax.top_k(_without_sign(scores), k)


def _best_of_groups(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """What `jax.lax.top_k` of every row returns, with most entries only compared with their neighbours.

    Of two groups, the one with the greater maximum is better, of equal ones the first. An entry outside the k best
    groups is not among the k best entries: the maxima of those groups all come before it. So only they are ranked.
    """
    block, num_items = scores.shape
    # Keeps the compiler from fusing the exclusion into each of the two readers.
    scores = jax.lax.optimization_barrier(scores)
    whole = num_items // _GROUP * _GROUP
    maxima = [_without_sign(scores[:, :whole]).reshape(block, -1, _GROUP).max(axis=2)]
    if whole < num_items:
        maxima.append(_without_sign(scores[:, whole:]).max(axis=1, keepdims=True))
    _, groups = jax.lax.top_k(jnp.concatenate(maxima, axis=1), k)
    items = (jnp.sort(groups, axis=1)[:, :, None] * _GROUP + jnp.arange(_GROUP)).reshape(block, -1)
    candidates = jnp.take_along_axis(scores, items, axis=1, mode="fill", fill_value=-jnp.inf)
    top_scores, places = jax.lax.top_k(_without_sign(candidates), k)
    return top_scores, jnp.take_along_axis(items, places, axis=1)


def _without_sign(scores: jax.Array) -> jax.Array:
    """-0.0 as 0.0: top_k orders -0.0 below 0.0, but they are equal scores, hence a tie."""
    return jnp.where(scores == 0, 0.0, scores)
