"""The scalar attention against a dense softmax; the statistics of its dropout mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.models.rearm import attention
from rearm_jax.models.rearm.attention import DropRate, ScalarAttention, attend, dropout_mask, scalar_attention
from rearm_jax.parallel.blocks import BlockRows

SEED = jnp.uint32(11)
jitted_mask = jax.jit(dropout_mask, static_argnums=2)


def dense_attention(q, k, v, mask, rate):
    """The (n, d, d) weights written out; `mask` bool (n, d, d) says which of them stay."""
    weights = jax.nn.softmax(q[:, :, None] * k[:, None, :], axis=2)
    kept = jnp.where(mask, weights, 0.0) / (1 - rate) if rate < 1 else jnp.zeros_like(weights)
    return jnp.einsum("nij,nj->ni", kept, v)


def value_and_pullback(fn, q, k, v, g):
    """fn(q, k, v) and the gradients of <fn(q, k, v), g>."""

    def run(q, k, v):
        out, pull = jax.vjp(fn, q, k, v)
        return out, pull(g)

    return jax.jit(run)(q, k, v)


def random_inputs(n, d, seed=0, count=3):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((n, d)), jnp.float32) for _ in range(count)]


def mask_of(n, d, rate, seed=SEED):
    """bool (n, queries, keys)"""
    return np.asarray(jitted_mask(seed, jnp.arange(n, dtype=jnp.uint32), d, DropRate.of(rate))).swapaxes(1, 2)


def z_of_correlation(x, y):
    """Number of standard deviations that the correlation of two bool arrays is away from 0."""
    return abs(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1]) * np.sqrt(np.size(x))


@pytest.mark.parametrize(("n", "d"), [(1, 8), (127, 5), (128, 6), (300, 16), (3, 1)])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_equals_dense_attention_forward_and_gradient(n, d, rate):
    q, k, v, g = random_inputs(n, d, count=4)
    mask = mask_of(n, d, rate) if 0 < rate < 1 else np.ones((n, d, d), bool)
    out, gradients = value_and_pullback(lambda *args: scalar_attention(*args, SEED, rate), q, k, v, g)
    expected, expected_gradients = value_and_pullback(lambda *args: dense_attention(*args, mask, rate), q, k, v, g)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_under_jit_and_within_a_larger_function():
    q, k, v = random_inputs(140, 8)
    mask = mask_of(140, 8, 0.3)

    def loss(attend, scale):
        return jnp.sum(jnp.sin(attend(q * scale, k * scale**2, v + scale)))

    found = jax.jit(jax.value_and_grad(lambda s: loss(lambda *args: scalar_attention(*args, SEED, 0.3), s)))(0.7)
    expected = jax.value_and_grad(lambda s: loss(lambda *args: dense_attention(*args, mask, 0.3), s))(0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_large_scores_do_not_overflow(rate):
    """Scores of +-900, whose exponential is far beyond float32."""
    rng = np.random.default_rng(3)
    q, k = (30.0 * rng.choice([-1.0, 1.0], (20, 8)) * rng.uniform(0.9, 1.0, (20, 8)) for _ in range(2))
    v = rng.standard_normal((20, 8))
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    scores = q[:, :, None].astype(np.float64) * k[:, None, :]
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    kept = weights * (mask_of(20, 8, rate) if rate else 1.0) / (1 - rate)
    out, (d_q, d_k, d_v) = value_and_pullback(
        lambda *args: scalar_attention(*args, SEED, rate), q, k, v, np.ones_like(q)
    )
    np.testing.assert_allclose(out, np.einsum("nij,nj->ni", kept, v), atol=1e-3)
    np.testing.assert_allclose(d_v, kept.sum(axis=1), atol=1e-3)
    assert np.isfinite(d_q).all()
    assert np.isfinite(d_k).all()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_block_size_does_not_change_the_result(monkeypatch, block):
    inputs = random_inputs(150, 6, count=4)
    num_blocks = []
    real_map = jax.lax.map

    def counting_map(f, xs):
        num_blocks.append(len(xs[0]))
        return real_map(f, xs)

    def run():
        return value_and_pullback(lambda *args: scalar_attention(*args, SEED, 0.5), *inputs)

    expected = run()
    monkeypatch.setattr(attention, "_BLOCK_NODES", BlockRows(block, block))
    monkeypatch.setattr(jax.lax, "map", counting_map)
    found = run()
    assert num_blocks == [-(-150 // block)] * 2  # forward and backward, traced anew with this block size
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_dropped_weights_are_zero_and_kept_ones_scaled():
    """Equal scores and v = one-hot j show single weights: 0 or 1 / (d (1 - rate)), as dropout_mask says."""
    n, d, rate = 130, 4, 0.4
    weights = np.stack(
        [scalar_attention(*jnp.zeros((2, n, d)), jnp.eye(d)[j] + jnp.zeros((n, d)), SEED, rate) for j in range(d)], 2
    )
    np.testing.assert_allclose(weights, mask_of(n, d, rate) / (d * (1 - rate)), atol=1e-6)


def test_rate_one_gives_zero_and_zero_gradients():
    inputs = random_inputs(5, 4)
    out, gradients = value_and_pullback(lambda *args: scalar_attention(*args, SEED, 1.0), *inputs, jnp.ones((5, 4)))
    for x in (out, *gradients):
        np.testing.assert_array_equal(x, 0)


def test_mean_over_seeds_is_the_undropped_result():
    q, k, v = random_inputs(3, 8)
    dropped = jax.jit(jax.vmap(lambda seed: scalar_attention(q, k, v, seed, 0.4)))(jnp.arange(4000, dtype=jnp.uint32))
    error = np.abs(dropped.mean(0) - scalar_attention(q, k, v, SEED, 0.0))
    assert (error < 4.5 * dropped.std(0) / np.sqrt(4000)).all()


def test_refuses_wrong_arguments():
    q, k, v = random_inputs(4, 3)
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="outside"):
            scalar_attention(q, k, v, SEED, rate)
    for wrong in ((q, k[:3], v), (q, k, v[:, :2]), (q[0], k[0], v[0])):
        with pytest.raises(ValueError, match="must be equal"):
            scalar_attention(*wrong, SEED, 0.0)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.4, 0.5, 0.6, 0.99])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_mask_keeps_the_right_share(rate, seed):
    mask = mask_of(64, 64, rate, jnp.uint32(seed))
    dropped, expected = mask.size - mask.sum(), rate * mask.size
    assert abs(dropped - expected) < 4.5 * np.sqrt(expected * (1 - rate))


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_mask_favours_no_position_and_no_node(rate):
    """Sums over nodes, over i, and over j are binomial: their z-scores have variance 1 and no outlier."""
    mask = mask_of(512, 32, rate)
    for axes in ((0,), (1,), (2,), (1, 2)):
        count = np.prod([mask.shape[a] for a in axes])
        z = (mask.sum(axis=axes) - (1 - rate) * count) / np.sqrt(rate * (1 - rate) * count)
        assert abs(z.var() - 1) < 6 * np.sqrt(2 / z.size)
        assert np.abs(z).max() < 6


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.6])
def test_mask_is_independent_across_positions_nodes_and_seeds(rate):
    a, b = mask_of(256, 32, rate, jnp.uint32(7)), mask_of(256, 32, rate, jnp.uint32(8))
    for shift in (1, 2, 4, 16):
        assert z_of_correlation(a[shift:], a[:-shift]) < 4.5  # nodes
        assert z_of_correlation(a[:, shift:], a[:, :-shift]) < 4.5  # i
        assert z_of_correlation(a[:, :, shift:], a[:, :, :-shift]) < 4.5  # j
        assert z_of_correlation(a[shift:], b[:-shift]) < 4.5
        assert z_of_correlation(a[:-shift], b[shift:]) < 4.5
    assert z_of_correlation(a, a.transpose(0, 2, 1)[:, ::-1]) < 4.5
    assert z_of_correlation(a, b) < 4.5
    for other in (0, 6, 7 + 2**16, 7 + 2**31):
        assert z_of_correlation(a, mask_of(256, 32, rate, jnp.uint32(other))) < 4.5


def test_mask_has_no_parity_over_rectangles():
    """Two nodes and two positions: the hash combines the two by XOR, which must not show in the bits."""
    sign = 1.0 - 2.0 * mask_of(512, 32, 0.5).reshape(512, -1)
    for nodes in (1, 8):
        for positions in (1, 32):
            products = sign[nodes:, positions:] * sign[:-nodes, positions:]
            products = products * sign[nodes:, :-positions] * sign[:-nodes, :-positions]
            assert abs(products.mean()) * np.sqrt(products.size) < 4.5


def test_mask_is_deterministic_and_belongs_to_the_node():
    nodes = jnp.arange(50, dtype=jnp.uint32)
    half = DropRate.of(0.5)
    whole = dropout_mask(SEED, nodes, 8, half)
    np.testing.assert_array_equal(whole, jitted_mask(SEED, nodes, 8, half))
    np.testing.assert_array_equal(whole[17:23], dropout_mask(SEED, nodes[17:23], 8, half))
    assert (whole != dropout_mask(SEED + 1, nodes, 8, half)).any()


def multihead_attention(query, context, in_weight, in_bias, out_weight, out_bias):
    """torch.nn.MultiheadAttention(embed_dim=1, num_heads=1) on (d, n, 1) sequences; scale 1/sqrt(1)."""
    out = np.empty(query.shape)
    for node in range(len(query)):
        q, k, v = (x[node][:, None] * in_weight[p] + in_bias[p] for p, x in enumerate((query, context, context)))
        scores = q @ k.T
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[node] = ((weights / weights.sum(axis=1, keepdims=True)) @ v)[:, 0] * out_weight + out_bias
    return out


def test_module_is_torch_multihead_attention():
    query, context = random_inputs(7, 6, count=2)
    params = {
        "in_weight": jnp.array([0.7, -1.1, 0.9]),
        "in_bias": jnp.array([0.1, 0.2, -0.3]),
        "out_weight": jnp.float32(1.3),
        "out_bias": jnp.float32(-0.4),
    }
    expected = multihead_attention(*(np.asarray(x, np.float64) for x in (query, context)), **params)
    attention = ScalarAttention().bind({"params": params})

    def attended(seed, dropout):
        return attend([(attention, query, context)], seed, dropout)[0]

    np.testing.assert_allclose(attended(None, 0.5), expected, atol=1e-5)
    trained = attended(SEED[None], 0.5)
    assert np.abs(trained - expected).max() > 0.01
    # All weights dropped: what is left is the output's bias.
    np.testing.assert_array_equal(attended(SEED[None], 1.0), np.full_like(expected, params["out_bias"]))


def test_calls_at_once_are_those_one_by_one(monkeypatch):
    monkeypatch.setattr(attention, "_BLOCK_NODES", BlockRows(4, 4))
    q, k, v = (x.reshape(2, 7, 6) for x in random_inputs(14, 6))
    seeds = jnp.array([3, 4], jnp.uint32)
    found = scalar_attention(q, k, v, seeds, 0.5, 9)
    for call in range(2):
        alone = scalar_attention(q[call], k[call], v[call], seeds[call], 0.5, 9)
        np.testing.assert_allclose(found[call], alone, atol=1e-6)
