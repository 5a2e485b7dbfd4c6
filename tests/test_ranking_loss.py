"""The ranking losses and L2: against loops over the rows, with masks, over shares of devices; and who owns what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.losses import softmax_loss
from rearm_jax.parallel.blocks import BlockRows
from rearm_jax.parallel.rows import ALONE, AXIS, Shard
from rearm_jax.recommender.contract import Batch
from rearm_jax.recommender.objectives import batch_items, bpr_share, l2_norm_share, l2_share, softmax_share
from rearm_jax.training import sampling
from rearm_jax.training.sampling import Sampler, draw_batch, find_own

B, N, D = 8, 7, 5
NUM_USERS, NUM_ITEMS = 9, 12


def random_batch(shared: bool, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    negatives = rng.integers(0, NUM_ITEMS, N if shared else B)
    own = jnp.asarray(rng.random((B, N)) < 0.3) if shared else None
    users, positives = rng.integers(0, NUM_USERS, B), rng.integers(0, NUM_ITEMS, B)
    mask = np.arange(B) < B - 2
    return Batch(*(jnp.asarray(x) for x in (users, positives, negatives, mask)), own)


@functools.cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(NUM_USERS, D)).astype(np.float32), rng.normal(size=(NUM_ITEMS, D)).astype(np.float32)


def softmax_by_loops(users, positives, negatives, own, counted, cosine, temperature) -> float:
    """The formula, a row and an item at a time, in float64."""

    def score(u, i):
        u, i = u.astype(np.float64), i.astype(np.float64)
        return u @ i / (np.linalg.norm(u) * np.linalg.norm(i) if cosine else 1) / temperature

    total = 0.0
    for row in np.flatnonzero(counted):
        others = [score(users[row], item) for item, mine in zip(negatives, own[row], strict=True) if not mine]
        positive = score(users[row], positives[row])
        total -= np.log(np.exp(positive) / (np.exp(positive) + np.sum(np.exp(others))))
    return total / counted.sum()


def shares(share, num_devices: int) -> list[float]:
    each = jax.vmap(lambda device: share(Shard(device, num_devices, AXIS)), axis_name=AXIS)
    return jax.jit(each)(jnp.arange(num_devices)).tolist()


def rows_of(batch: Batch, shard: Shard) -> tuple:
    mine = batch.map_rows(shard.rows)
    users, items = (jnp.asarray(table) for table in tables())
    return users[mine.users], items[jnp.concatenate([mine.positives, mine.negatives])]


@pytest.mark.parametrize("num_devices", [1, 2, 4])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_softmax_is_that_of_the_loops_and_devices_add_up(similarity, num_devices):
    batch, (users, items) = random_batch(shared=True), tables()
    args = users[batch.users], items[batch.positives], items[batch.negatives], np.asarray(batch.own)
    expected = softmax_by_loops(*args, np.asarray(batch.mask), similarity == "cosine", 0.3)
    found = shares(lambda shard: softmax_share(*rows_of(batch, shard), batch, shard, similarity, 0.3), num_devices)
    np.testing.assert_allclose(sum(found), expected, rtol=1e-5)


def test_an_item_of_the_user_has_no_gradient_and_the_others_have_the_softmax():
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(size=4).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    counts, weights = rng.random((4, 6)) < 0.5, np.array([0.5, 0.25, 0.25, 0], np.float32)
    counts[1] = False  # all negatives are the user's own
    d_positive, d_negative = jax.jit(jax.grad(softmax_loss, (0, 1)))(positive, negative, jnp.asarray(counts), weights)
    exponentials = np.where(counts, np.exp(negative), 0)
    expected = weights[:, None] * exponentials / (np.exp(positive) + exponentials.sum(1))[:, None]
    np.testing.assert_allclose(d_negative, expected, atol=1e-6)
    np.testing.assert_allclose(d_positive, -expected.sum(1), atol=1e-6)


def test_large_scores_neither_overflow_nor_vanish():
    positive, negative = jnp.array([1000.0, -1000.0]), jnp.array([[999.0], [0.0]])
    loss = jax.jit(softmax_loss)(positive, negative, jnp.ones((2, 1), bool), jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(loss, np.log1p(np.exp(-1.0)) + 1000, rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"counts": (4, 5)}, {"weights": (3,)}, {"negative_scores": (6,), "counts": (6,)}])
def test_softmax_refuses_shapes_that_do_not_fit(wrong):
    shapes = {"positive_scores": (4,), "negative_scores": (4, 6), "counts": (4, 6), "weights": (4,)} | wrong
    with pytest.raises(ValueError, match=r"shapes differ|must be \(4, n\)"):
        softmax_loss(**{name: jnp.ones(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize("num_devices", [1, 4])
def test_bpr_is_the_mean_over_the_rows_that_count(num_devices):
    batch, (users, items) = random_batch(shared=False), tables()
    margins = np.sum(users[batch.users] * (items[batch.positives] - items[batch.negatives]), axis=1)
    expected = np.mean(np.log1p(np.exp(-margins.astype(np.float64)))[np.asarray(batch.mask)])
    found = shares(lambda shard: bpr_share(*rows_of(batch, shard), batch, shard), num_devices)
    np.testing.assert_allclose(sum(found), expected, rtol=1e-5)


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_both_forms_of_l2(shared, num_devices):
    batch, (users, items) = random_batch(shared), tables()
    mask = np.asarray(batch.mask)
    negatives = items[batch.negatives] if shared else items[batch.negatives][mask]
    u, i, j = users[batch.users][mask], items[batch.positives][mask], negatives
    squared = (np.mean(np.sum(u**2, 1)) + np.mean(np.sum(i**2, 1)) + np.mean(np.sum(j**2, 1))) / 2
    norm = (np.linalg.norm(u) + np.linalg.norm(i) + np.linalg.norm(j)) / len(u)
    for share, expected in ((l2_share, squared), (l2_norm_share, norm)):
        found = shares(
            lambda shard, share=share: share(jnp.asarray(users), jnp.asarray(items), batch, shard), num_devices
        )
        np.testing.assert_allclose(sum(found), expected, rtol=1e-5)


def test_the_gradient_of_a_norm_is_a_unit_pull_and_zero_at_zero():
    batch, (users, items) = random_batch(shared=False), tables()
    gradient_of = jax.jit(jax.grad(lambda users: l2_norm_share(users, jnp.asarray(items), batch, ALONE)))
    gradient = gradient_of(jnp.asarray(users))
    mask = np.asarray(batch.mask)
    times = np.bincount(np.asarray(batch.users)[mask], minlength=NUM_USERS)[:, None]  # a duplicate counts again
    norm = np.linalg.norm(users[np.asarray(batch.users)[mask]])
    np.testing.assert_allclose(gradient, times * users / norm / mask.sum(), atol=1e-6)
    np.testing.assert_array_equal(gradient_of(jnp.zeros((NUM_USERS, D))), 0)


def test_batch_items_count_every_shared_negative():
    batch = random_batch(shared=True)
    ids, counts = batch_items(batch)
    np.testing.assert_array_equal(ids, np.concatenate([batch.positives, batch.negatives]))
    np.testing.assert_array_equal(counts, np.concatenate([batch.mask, np.ones(N, bool)]))


# Who owns which of the shared negatives


def sampler_of(items_of: list[list[int]]) -> Sampler:
    users = np.repeat(np.arange(len(items_of)), [len(items) for items in items_of]).astype(np.int32)
    items = np.array([item for items in items_of for item in sorted(items)], np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(items) for items in items_of])]).astype(np.int32)
    return jax.device_put(Sampler(users, items, indptr, items, np.int32(NUM_ITEMS)))


@pytest.mark.parametrize("chunk", [1, 3, 2**13])
def test_own_items_are_found_also_when_they_or_users_are_drawn_twice(chunk, monkeypatch):
    monkeypatch.setattr(sampling, "_CHUNK_PAIRS", BlockRows(chunk, chunk))
    rng = np.random.default_rng(chunk)
    items_of = [rng.choice(NUM_ITEMS, size, replace=False).tolist() for size in (0, 1, 5, NUM_ITEMS, 2, 0)]
    users = jnp.array([3, 0, 2, 2, 5, 1, 4, 3, 0, 3])
    find = jax.jit(functools.partial(find_own, sampler_of(items_of), users))
    for _ in range(5):
        negatives = jnp.asarray(np.sort(rng.integers(0, NUM_ITEMS, 9)).astype(np.int32))
        found = find(negatives)
        expected = [[item in items_of[user] for item in np.asarray(negatives)] for user in np.asarray(users)]
        np.testing.assert_array_equal(found, expected)


def test_a_drawn_batch_shares_uniform_negatives():
    rng = np.random.default_rng(0)
    items_of = [rng.choice(NUM_ITEMS, 3, replace=False).tolist() for _ in range(NUM_USERS)]
    sampler = sampler_of(items_of)
    order = jnp.arange(3 * NUM_USERS)
    draw = jax.jit(lambda key: draw_batch(sampler, order, 3 * NUM_USERS - 5, key, 8, ALONE, 200))
    counts = np.zeros(NUM_ITEMS)
    for seed in range(30):
        batch = draw(jax.random.key(seed))
        assert batch.negatives.shape == (200,)
        counts += np.bincount(batch.negatives, minlength=NUM_ITEMS)
    np.testing.assert_array_equal(batch.mask, [True] * 5 + [False] * 3)
    expected = [[item in items_of[user] for item in np.asarray(batch.negatives)] for user in np.asarray(batch.users)]
    np.testing.assert_array_equal(batch.own, expected)
    assert np.abs(counts / 500 - 1).max() < 0.2  # 500 are expected, with a standard deviation of 21
