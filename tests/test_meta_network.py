"""The meta-network against a version that writes out the transformation of every node."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.models.rearm.meta_network import MetaNetwork
from rearm_jax.parallel import rows
from rearm_jax.parallel.blocks import BlockRows
from rearm_jax.parallel.rows import ALL, Nodes

N, D, RANK = 5, 4, 3


def inputs(num_modalities=2):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((N, width)), jnp.float32) for width in (num_modalities * D, D)]


def make(train_projection=False, num_modalities=2):
    model = MetaNetwork(RANK, train_projection, jnp.float32)
    params = jax.jit(lambda key: model.init(key, *inputs(num_modalities), ALL))(jax.random.key(0))["params"]
    return model, params


def dense(params, modal, embeddings):
    """Node after node, with torch's formulas and the gradient through everything."""

    def linear(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def softmax_of_columns(w):
        e = jnp.exp(w - w.max(axis=0))
        return e / e.sum(axis=0)

    def transformations(mlp):
        def of_node(k):
            x = linear(mlp["pre"], linear(params["projection"], k))
            x = linear(mlp["out"], jnp.maximum(x, 0) + mlp["prelu"]["negative_slope"] * jnp.minimum(x, 0))
            return x / jnp.sqrt(jnp.sum(x**2))

        rows = jax.vmap(of_node)(modal)
        return rows + sum(rows) / N

    def shared(first, second, embedding):
        w1 = softmax_of_columns(first.reshape(D, RANK))
        w2 = softmax_of_columns(second.reshape(RANK, D))
        return (embedding @ w1) @ w2

    return jax.vmap(shared)(transformations(params["mlp_1"]), transformations(params["mlp_2"]), embeddings)


# Without optimisation XLA's programs of float64 give NaN on a CPU (jax 0.10.2).
OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


def in_float64(fn, *args):
    with jax.enable_x64(True):
        return jax.tree.map(
            np.asarray,
            jax.jit(fn, compiler_options=OPTIMISED)(
                *jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), args)
            ),
        )


def assert_trees_close(found, expected):
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, atol=1e-6, rtol=1e-4), found, expected)


@pytest.mark.parametrize("block_rows", [2, 5, 2048])
@pytest.mark.parametrize(("num_modalities", "wanted"), [(2, None), (2, [4, 0, 3, 3]), (1, [3]), (3, None)])
def test_equals_the_dense_version(num_modalities, wanted, block_rows, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_ROWS", BlockRows(block_rows, block_rows))
    model, params = make(True, num_modalities)
    modal, embeddings = inputs(num_modalities)
    nodes = ALL if wanted is None else Nodes(wanted=jnp.array(wanted))
    g = np.random.default_rng(1).standard_normal((N if wanted is None else len(wanted), D)).astype(np.float32)

    def weighted(apply):
        def value(p, m, e):
            out = apply(p, m, e)
            return jnp.sum(out * g), out

        return jax.grad(value, (0, 1, 2), has_aux=True)

    gradients, out = jax.jit(weighted(lambda p, m, e: model.apply({"params": p}, m, e, nodes)))(
        params, modal, embeddings
    )
    chosen = np.arange(N) if wanted is None else np.asarray(wanted)
    expected_gradients, expected = in_float64(
        weighted(lambda p, m, e: dense(p, m, e)[chosen]), params, modal, embeddings
    )
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert_trees_close(gradients, expected_gradients)
    assert np.abs(gradients[0]["projection"]["kernel"]).max() > 1e-6  # it is trained here


def test_rows_are_those_of_the_whole():
    model, params = make()
    wanted = jnp.array([2, 2, 4])
    whole = model.apply({"params": params}, *inputs(), ALL)
    some = model.apply({"params": params}, *inputs(), Nodes(wanted=wanted))
    np.testing.assert_allclose(some, whole[wanted], atol=1e-6)


def test_frozen_projection_and_what_stands_before_it_get_no_gradient():
    """Everything behind the projection is trained as if the projection's output were data."""
    model, params = make(train_projection=False)
    trained, _ = make(train_projection=True)

    def gradient(model):
        loss = lambda p, m, e: jnp.sum(jnp.sin(3 * model.apply({"params": p}, m, e, ALL)))  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2)))(params, *inputs())

    (frozen, modal, embeddings), (expected, expected_modal, expected_embeddings) = gradient(model), gradient(trained)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), (frozen.pop("projection"), modal))
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves((expected.pop("projection"), expected_modal)))
    assert_trees_close(frozen, expected)
    np.testing.assert_allclose(embeddings, expected_embeddings, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 4, 6, 7])
def test_only_the_first_rows_are_summed(count, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_ROWS", BlockRows(3, 3))
    table = np.random.default_rng(2).standard_normal((7, 2)).astype(np.float32)
    table[count:] = np.inf  # whose transformation is NaN

    def total(table):
        return jnp.sum(rows.sum_rows(lambda x: jnp.exp(x) * jnp.cos(x), table, count))

    value, gradient = jax.jit(jax.value_and_grad(total))(table)
    used = table[:count].astype(np.float64)
    np.testing.assert_allclose(value, np.sum(np.exp(used) * np.cos(used)), atol=1e-5)
    np.testing.assert_allclose(gradient[:count], np.exp(used) * (np.cos(used) - np.sin(used)), atol=1e-5)
