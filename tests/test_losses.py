"""The losses against plain float64 versions, forward and gradient; masks; sharing out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.losses import (
    bpr_loss,
    contrastive_loss,
    first_among_pairs,
    first_occurrence,
    normalize_rows,
    orthogonal_loss,
)
from rearm_jax.parallel.blocks import BlockRows


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Without optimisation XLA's programs of float64 give NaN on a CPU (jax 0.10.2).
OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def in_float64(fn, *args):
    """fn of the arrays in float64, as numpy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(
            np.asarray, jax.jit(fn, compiler_options=OPTIMISED)(*(jnp.asarray(x, jnp.float64) for x in args))
        )


def value_and_gradients(loss, *args, **static):
    """The value and its gradients by the first two arguments."""
    return jax.jit(jax.value_and_grad(lambda *x: loss(*x, **static), (0, 1)))(*args)


def assert_close(found, expected, tolerance=1e-5):
    """Relative to the largest entry: single entries of a gradient may cancel."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


# BPR


def test_bpr_is_the_mean_log_sigmoid():
    positive, negative = 5 * normal(37), 5 * normal(37, seed=1)
    weights = np.full(37, 1 / 37, np.float32)
    difference = (positive - negative).astype(np.float64)
    value, (d_positive, d_negative) = value_and_gradients(bpr_loss, positive, negative, weights)
    np.testing.assert_allclose(value, -np.log(1 / (1 + np.exp(-difference))).mean(), rtol=1e-5)
    np.testing.assert_allclose(d_positive, -1 / (1 + np.exp(difference)) / 37, rtol=1e-4)
    np.testing.assert_allclose(d_negative, 1 / (1 + np.exp(difference)) / 37, rtol=1e-4)


def test_bpr_of_extreme_scores():
    value, gradient = jax.value_and_grad(bpr_loss)(jnp.array([-500.0, 500.0]), jnp.array([500.0, -500.0]), jnp.ones(2))
    np.testing.assert_allclose(value, 1000.0)
    np.testing.assert_allclose(gradient, [-1.0, 0.0])


# Contrastive


def contrastive_of_ids(first, second, ids, valid, temperature, **kwargs):
    """The loss over the distinct valid ids, as a training step calls it."""
    unique = first_occurrence(ids, valid, len(first))
    weights = unique / jnp.sum(unique).astype(jnp.float32)
    return contrastive_loss(first[ids], second[ids], jnp.arange(len(ids)), weights, unique, temperature, **kwargs)


def dense_infonce(first, second, ids, temperature):
    """The whole matrix of similarities of the distinct ids."""
    rows = np.unique(ids)
    a, b = (x[rows] / jnp.linalg.norm(x[rows], axis=1, keepdims=True) for x in (first, second))
    logits = a @ b.T / temperature
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))


def numpy_infonce(first, second, ids, temperature):
    total, rows = 0.0, sorted(set(ids.tolist()))
    unit = [[x[r].astype(np.float64) / np.linalg.norm(x[r].astype(np.float64)) for r in rows] for x in (first, second)]
    for i, a in enumerate(unit[0]):
        scores = [a @ b / temperature for b in unit[1]]
        total -= scores[i] - np.logaddexp.reduce(scores)
    return total / len(rows)


@pytest.mark.parametrize(("temperature", "block_size"), [(0.005, 256), (0.03, 16), (0.6, 1), (0.6, 61), (1.5, 60)])
def test_contrastive_equals_the_dense_loss(temperature, block_size):
    first, second = normal(50, 8), normal(50, 8, seed=1)
    second += first
    ids = np.random.default_rng(2).integers(0, 50, 61)
    valid = np.ones(61, bool)
    value, gradients = value_and_gradients(
        contrastive_of_ids,
        first,
        second,
        ids,
        valid,
        temperature=temperature,
        block_rows=BlockRows(block_size, block_size),
    )
    np.testing.assert_allclose(value, numpy_infonce(first, second, ids, temperature), rtol=1e-4, atol=1e-5)
    expected = in_float64(jax.grad(lambda a, b: dense_infonce(a, b, ids, temperature), (0, 1)), first, second)
    for found, wanted in zip(gradients, expected, strict=True):
        assert np.isfinite(found).all()
        assert_close(found, wanted, 1e-3 if temperature < 0.1 else 1e-4)


def test_contrastive_ignores_garbage_rows():
    """Rows of weight 0 and mask False, with huge values and wild targets, change neither value nor gradient."""
    anchors, candidates = normal(6, 4), normal(6, 4, seed=1)
    garbage = 1e6 * normal(5, 4, seed=2)
    targets, weights, mask = np.array([3, 1, 0, 5, 4, 2]), np.full(6, 1 / 6, np.float32), np.ones(6, bool)
    expected = value_and_gradients(contrastive_loss, anchors, candidates, targets, weights, mask, temperature=0.1)
    found = value_and_gradients(
        contrastive_loss,
        np.concatenate([anchors, garbage]),
        np.concatenate([candidates, garbage[::-1]]),
        np.append(targets, [7, 0, 10, 6, 9]),
        np.append(weights, np.zeros(5, np.float32)),
        np.append(mask, np.zeros(5, bool)),
        temperature=0.1,
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for f, e in zip(found[1], expected[1], strict=True):
        assert_close(f[:6], e)
        np.testing.assert_array_equal(f[6:], 0)


def test_contrastive_of_zero_rows_is_finite():
    """Zero rows (a cold user) have similarity 0 to everything."""
    zeros = jnp.zeros((4, 3))
    value, gradients = value_and_gradients(
        contrastive_loss, zeros, zeros, jnp.arange(4), jnp.full(4, 0.25), jnp.ones(4, bool), temperature=0.005
    )
    np.testing.assert_allclose(value, np.log(4), rtol=1e-6)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_shares_add_up(shards):
    first, second = jnp.array(normal(30, 6)), jnp.array(normal(30, 6, seed=1))
    ids = np.random.default_rng(2).integers(0, 30, 40)
    nodes = jnp.array(ids)
    unique = first_occurrence(nodes, np.arange(40) < 37, 30)
    weights = unique / jnp.sum(unique)

    def share(tables, rows):
        a, b = tables
        contrastive = contrastive_loss(a[nodes[rows]], b[nodes], rows, weights[rows], unique, 0.2)
        scores = jnp.sum(a[nodes[rows]] * b[nodes[rows]], axis=1)
        return contrastive + bpr_loss(scores, jnp.zeros_like(scores), weights[rows])

    def whole(tables):
        a, b = (x[np.unique(ids[:37])] for x in tables)
        return dense_infonce(*tables, ids[:37], 0.2) - jnp.mean(jax.nn.log_sigmoid(jnp.sum(a * b, axis=1)))

    share = jax.jit(jax.value_and_grad(share))
    shares = [share((first, second), rows) for rows in np.arange(40).reshape(shards, -1)]
    value, gradient = jax.tree.map(lambda *x: sum(np.asarray(y, np.float64) for y in x), *shares)
    expected_value, expected = in_float64(lambda a, b: jax.value_and_grad(whole)((a, b)), first, second)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for found, wanted in zip(gradient, expected, strict=True):
        assert_close(found, wanted, 1e-4)


# Orthogonal


def numpy_orthogonal(first, second):
    units = []
    for x in (first.astype(np.float64), second.astype(np.float64)):
        centred = x - x.mean(axis=0)
        units.append(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6))
    return np.mean((units[0].T @ units[1]) ** 2)


def orthogonal_of_constant_norms(first, second, norms):
    a, b = ((x - x.mean(axis=0)) / norm for x, norm in zip((first, second), norms, strict=True))
    return jnp.mean((a.T @ b) ** 2)


def test_orthogonal_value_and_gradient_with_detached_norms():
    first, second = normal(23, 5), 0.5 * normal(23, 5, seed=1) + 0.3 * normal(23, 5)
    norms = [
        np.linalg.norm(x - x.mean(axis=0), axis=1, keepdims=True).astype(np.float64) + 1e-6 for x in (first, second)
    ]
    value, gradients = value_and_gradients(orthogonal_loss, first, second, np.ones(23, bool))
    np.testing.assert_allclose(value, numpy_orthogonal(first, second), rtol=1e-5)
    expected = in_float64(
        lambda a, b: jax.grad(lambda *x: orthogonal_of_constant_norms(*x, norms), (0, 1))(a, b), first, second
    )
    for found, wanted in zip(gradients, expected, strict=True):
        assert_close(found, wanted, 1e-4)


def test_orthogonal_ignores_garbage_rows():
    first, second, garbage = normal(9, 4), normal(9, 4, seed=1), 1e3 * normal(4, 4, seed=2)
    mask = np.insert(np.ones(9, bool), [0, 3, 3, 9], False)
    expected = value_and_gradients(orthogonal_loss, first, second, np.ones(9, bool))
    garbled = (np.insert(x, [0, 3, 3, 9], garbage, axis=0) for x in (first, second))
    found = value_and_gradients(orthogonal_loss, *garbled, mask)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for f, e in zip(found[1], expected[1], strict=True):
        assert_close(f[mask], e)
        np.testing.assert_array_equal(f[~mask], 0)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_orthogonal_of_too_few_rows_is_zero(num_rows):
    mask = np.arange(3) < num_rows
    value, gradients = value_and_gradients(orthogonal_loss, normal(3, 4), normal(3, 4, seed=1), mask)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-12)


# Helpers


def test_first_occurrence_finds_each_valid_id_once():
    rng = np.random.default_rng(0)
    for size in (1, 2, 17, 200):
        ids, valid = rng.integers(0, 40, size), rng.random(size) < 0.7
        positions = np.flatnonzero(valid)
        _, first = np.unique(ids[valid], return_index=True)
        ids, valid = jnp.asarray(ids), jnp.asarray(valid)
        for found in (first_occurrence(ids, valid, 40), first_among_pairs(ids, valid)):
            np.testing.assert_array_equal(np.flatnonzero(found), np.sort(positions[first]))


def test_normalize_rows():
    x = normal(5, 3) * np.array([[1e-8], [1e-3], [1.0], [1e3], [1e8]], np.float32)
    np.testing.assert_allclose(normalize_rows(x), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-6)
    x[1] = 0
    out, pull = jax.vjp(normalize_rows, x)
    np.testing.assert_array_equal(out[1], 0)
    gradient = pull(jnp.ones_like(out))[0]
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[2]).max() > 0


def test_wrong_shapes_are_refused():
    x, ids, ones, mask = jnp.ones((4, 3)), jnp.arange(4), jnp.ones(4), jnp.ones(4, bool)
    for args in ((ones, ones[:3], ones), (ones, ones, ones[:1]), (x, ones, ones)):
        with pytest.raises(ValueError, match="shape"):
            bpr_loss(*args)
    for args in (
        (x, x[:, :2], ids, ones, mask),
        (x[0], x, ids, ones, mask),
        (x, x, ids[:3], ones, mask),
        (x, x, ids[:3], ones[:3], mask),
        (x, x, ids, ones, mask[:1]),
        (x, x, ids, ones, mask[:, None]),
    ):
        with pytest.raises(ValueError, match=r"shape|must be"):
            contrastive_loss(*args, 0.5)
    for args in ((x, x[:3], mask), (x, x[:, :2], mask), (x, x, mask[:3]), (ones, ones, mask)):
        with pytest.raises(ValueError, match=r"shape|must be"):
            orthogonal_loss(*args)
