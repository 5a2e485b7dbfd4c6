"""Batches, drawn on the device: every interaction once an epoch, negatives exactly uniform."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rearm_jax.data.dataset import Dataset, group_by_user
from rearm_jax.parallel.blocks import BlockRows, in_blocks
from rearm_jax.parallel.rows import ALONE, WHOLE, Shard, WholeTable
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.order import ComputedOrder

_CHUNK_PAIRS = BlockRows(cpu=2**13, elsewhere=2**16)  # excluded items that `find_own` looks up at a time


class Sampler(NamedTuple):
    """The train interactions, and for each user the items that are never a negative.

    Sharded by row (`cut_sampler`), a device holds a run of the interactions, and the excluded items of its users.
    On the host these are numpy arrays.
    """

    users: jax.Array | Any  # int32 (n,)
    items: jax.Array | Any  # int32 (n,)
    indptr: jax.Array | Any  # int32 (num_users + 1,)
    excluded: jax.Array | Any  # int32 (m,), sorted within each user
    num_items: jax.Array | Any  # int32 (), that may be a negative
    # int32 (num_items,), ascending: the items that may be a negative, where not all may; `excluded` then has their
    # places in it.
    pool: jax.Array | Any = None


def make_sampler(dataset: Dataset, protocol: str, negatives: str = "all") -> Sampler:
    """The sampler of a data set.

    Args:
      dataset: the data.
      protocol: "strict" excludes a user's train items; "reference" also those of validation and test, as the published
        system does: its sampler knows the answers.
      negatives: "all" items may be one, or those with a "trained" interaction: others would only be pushed down;
        "leaking": all but the user's of any split under "strict", too.
    """
    pairs = dataset.train
    if protocol == "reference" or negatives == "leaking":
        pairs = np.concatenate([dataset.train, dataset.valid, dataset.test])
    num_items, pool, trained = dataset.num_items, None, np.unique(dataset.train[:, 1])
    if negatives == "trained" and len(trained) < num_items:
        num_items, pool = len(trained), trained
        place = np.full(dataset.num_items, -1, np.int32)
        place[pool] = np.arange(num_items)
        pairs = np.stack([pairs[:, 0], place[pairs[:, 1]]], axis=1)
        pairs = pairs[pairs[:, 1] >= 0]
    indptr, excluded = group_by_user(pairs, dataset.num_users)
    return Sampler(
        users=dataset.train[:, 0],
        items=dataset.train[:, 1],
        indptr=indptr,
        excluded=excluded,
        num_items=np.int32(num_items),
        pool=pool,
    )


def cut_sampler(sampler: Sampler, num_devices: int) -> Sampler:
    """The sampler of devices that hold equal runs of users, on the host: what to place by row, but for `num_items` and
    `pool`.

    Args:
      sampler: whole, on the host.
      num_devices: D.

    Returns:
      The same interactions; `indptr` int32 (D * (held + 1),) and `excluded` int32 (D * e,), a run for each device.
    """
    num_users = len(sampler.indptr) - 1
    held = -(-num_users // num_devices)
    indptr = sampler.indptr[np.minimum(np.arange(num_devices * held + 1), num_users)]  # padding has an empty list
    starts, stops = indptr[:-1:held], indptr[held::held]
    excluded = np.zeros((num_devices, max(int((stops - starts).max()), 1)), np.int32)
    pointers = np.zeros((num_devices, held + 1), np.int32)
    for device, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        excluded[device, : stop - start] = sampler.excluded[start:stop]
        pointers[device] = indptr[device * held : (device + 1) * held + 1] - start
    return sampler._replace(indptr=pointers.reshape(-1), excluded=excluded.reshape(-1))


def num_without_negative(sampler: Sampler) -> int:
    """How many train interactions have no possible negative, since their user's excluded set is all that may be one."""
    full = np.diff(np.asarray(sampler.indptr)) >= int(sampler.num_items)
    return int(full[np.asarray(sampler.users)].sum())


def draw_batch(
    sampler: Sampler,
    order: jax.Array | ComputedOrder,
    position: jax.Array,
    key: jax.Array,
    batch_size: int,
    shard: Shard = ALONE,
    num_shared_negatives: int = 0,
) -> Batch:
    """The interactions order[position : position + batch_size], with a negative each or with negatives that they share;
    the last batch is masked.

    Args:
      sampler: of the data set.
      order: the epoch's, of `epoch_order`.
      position: int32 (), first of the batch.
      key: of the negatives.
      batch_size: b, static.
      shard: how the rows of the sampler are reached.
      num_shared_negatives: n, static; drawn uniformly from all that may be one, and the same item may come twice. 0: a
        negative each, from `draw_negatives`.
    """
    rows = position + jnp.arange(batch_size, dtype=jnp.int32)
    index = order[jnp.minimum(rows, len(order) - 1)]
    users, items = shard.interactions.lookup(lambda places: (sampler.users[places], sampler.items[places]), index)
    inside = rows < len(order)
    if not num_shared_negatives:
        negatives, possible = draw_negatives(sampler, users, key, shard.users)
        return Batch(users, items, negatives, inside & possible)
    # Sorted, so that an item is found among them by halving.
    negatives = jnp.sort(jax.random.randint(key, (num_shared_negatives,), 0, sampler.num_items, jnp.int32))
    own = shard.users.lookup(lambda places: find_own(sampler, places, negatives), users)
    return Batch(users, items, _from_pool(sampler, negatives), inside, own.astype(bool))


def draw_negatives(
    sampler: Sampler, users: jax.Array, key: jax.Array, user_rows: WholeTable = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """For each user an item drawn uniformly from those outside the excluded set.

    Rank selection: draw r uniformly below the number of free items; the answer is the free item of rank r, found by
    binary search, since e_j - j free items stand before the j-th excluded item e_j.

    Args:
      sampler: of the data set.
      users: int32 (b,).
      key: random key.
      user_rows: how the users' excluded items are reached.

    Returns:
      int32 (b,) items, and bool (b,), False for users without a free item (their item means nothing).
    """

    def draw(users: jax.Array) -> tuple[jax.Array, jax.Array]:
        start = sampler.indptr[users]
        count = sampler.indptr[users + 1] - start
        free = sampler.num_items - count
        rank = jax.random.randint(key, users.shape, 0, jnp.maximum(free, 1), jnp.int32)

        def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            entry = sampler.excluded[jnp.minimum(start + middle, sampler.excluded.shape[0] - 1)]
            right = (low < high) & (entry - middle <= rank)
            return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

        rounds = sampler.excluded.shape[0].bit_length()
        # Four in a body: on a GPU each round of the loop costs launches.
        skipped, _ = jax.lax.fori_loop(0, rounds, halve, (jnp.zeros_like(count), count), unroll=4)
        return rank + skipped, free

    items, free = user_rows.lookup(draw, users)
    return _from_pool(sampler, items), free > 0


def _from_pool(sampler: Sampler, places: jax.Array) -> jax.Array:
    """Items by their places among those that may be a negative."""
    return places if sampler.pool is None else sampler.pool[places]


def find_own(sampler: Sampler, users: jax.Array, negatives: jax.Array) -> jax.Array:
    """Which of the negatives are in the excluded set of each user, bool (b, n).

    The excluded items of all these users, one list after the other, are looked up among the negatives a chunk at a
    time: the work grows with how many there are, whoever has most of them. Who has many interactions is in a batch many
    times, and is looked up once.

    Args:
      sampler: of the data set.
      users: int32 (b,).
      negatives: int32 (n,), sorted; places in the pool, where there is one.
    """
    sorted_users = jnp.sort(users)
    is_first = jnp.diff(sorted_users, prepend=sorted_users[0] - 1) > 0
    start = sampler.indptr[sorted_users]
    count = jnp.where(is_first, sampler.indptr[sorted_users + 1] - start, 0)
    ends = jnp.cumsum(count)

    def mark_all(chunk_pairs: int, excluded: jax.Array, negatives: jax.Array) -> jax.Array:
        def mark(chunk: jax.Array, own: jax.Array) -> jax.Array:
            pair = chunk * chunk_pairs + jnp.arange(chunk_pairs, dtype=jnp.int32)
            row = jnp.searchsorted(ends, pair, side="right")  # b, and so dropped, behind the last pair
            item = excluded[start[row] + pair - ends[row] + count[row]]
            place = jnp.searchsorted(negatives, item)
            place = jnp.where(negatives[place] == item, place, len(negatives))
            return own.at[row, place].set(True, mode="drop")

        first_places = jnp.zeros((len(users), len(negatives)), bool)
        return jax.lax.fori_loop(0, -(-ends[-1] // chunk_pairs), mark, first_places)

    first_places = in_blocks(mark_all, _CHUNK_PAIRS, max(len(sampler.excluded), 1), sampler.excluded, negatives)
    # An item that was drawn again has the mark of its first place, and a user the row of its first one.
    columns, rows = jnp.searchsorted(negatives, negatives), jnp.searchsorted(sorted_users, users)
    return first_places[:, columns][rows]
