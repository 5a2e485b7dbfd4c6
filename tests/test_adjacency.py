"""Propagation against dense and scipy products, in every transformation that training puts it into."""

import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

from rearm_jax.graphs.adjacency import make_adjacency, propagate
from tests.conftest import with_devices

ROOT = pathlib.Path(__file__).parents[1]
CSR_KERNEL = "cpu_csr_sparse_dense"
# The operation in StableHLO and in HLO, or its name where a loop has taken its place; and no name of a function.
SCATTER = re.compile(r'\bscatter("?\(|-add")')


def random_graph(kind, n=23, seed=0):
    """float32 CSR (n, n) with empty rows and columns; "plain", "symmetric", "empty", or "single" (one entry)."""
    rng = np.random.default_rng(seed)
    dense = 0.3 * rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.2)
    dense[[0, 5, n - 1]] = 0
    dense[:, [0, 7]] = 0
    if kind == "symmetric":
        dense = dense + dense.T
    if kind == "empty":
        dense[:] = 0
    if kind == "single":
        dense[:] = 0
        dense[4, 2] = 1.5
    return scipy.sparse.csr_array(dense.astype(np.float32))


def random_features(n=23, width=6, seed=1):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


KINDS = ["plain", "symmetric", "empty", "single"]


@pytest.mark.parametrize("num_layers", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_gradient_equal_the_dense_ones(kind, num_layers):
    graph, x = random_graph(kind), random_features()
    adjacency = make_adjacency(graph, ("user",), symmetric=kind == "symmetric")
    weights = [random_features(seed=10 + layer) for layer in range(num_layers)]

    def objective(apply, x):
        return sum((jnp.sum(w * jnp.sin(y)) for w, y in zip(weights, apply(x), strict=True)), start=jnp.sum(x) * 0)

    def dense_layers(x):
        layers = []
        for _ in range(num_layers):
            x = jnp.matmul(graph.toarray(), x, precision="highest")
            layers.append(x)
        return layers

    found = propagate(adjacency, jnp.asarray(x), num_layers)
    assert len(found) == num_layers
    expected = x.astype(np.float64)
    for layer in found:
        expected = graph.astype(np.float64) @ expected
        assert layer.dtype == jnp.float32
        np.testing.assert_allclose(layer, expected, rtol=1e-5, atol=1e-5)

    gradient = jax.grad(lambda x: objective(lambda x: propagate(adjacency, x, num_layers), x))(x)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: objective(dense_layers, x))(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "symmetric"])
def test_a_declared_symmetry_changes_nothing_but_what_is_stored(kind):
    graph, x = random_graph(kind), random_features()
    stored = make_adjacency(graph, ("user",))
    np.testing.assert_array_equal(stored.transposed.todense(), graph.toarray().T)
    if kind == "symmetric":
        shared = make_adjacency(graph, ("user",), symmetric=True)
        assert shared.transposed is None
        gradients = [jax.grad(lambda x, a=a: jnp.sum(propagate(a, x, 2)[1] ** 3))(x) for a in (stored, shared)]
        np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_sorted_and_unique(kind):
    graph = random_graph(kind)
    adjacency = make_adjacency(graph, ("user",))
    for matrix, indptr, expected in (
        (adjacency.matrix, adjacency.indptr, graph),
        (adjacency.transposed, adjacency.transposed_indptr, graph.T.tocsr()),
    ):
        assert matrix.indices_sorted
        assert matrix.unique_indices
        assert (matrix.data.dtype, matrix.indices.dtype, indptr.dtype) == (jnp.float32, jnp.int32, jnp.int32)
        rows, columns = np.asarray(matrix.indices, np.int64).T
        assert (np.diff(rows * graph.shape[1] + columns) > 0).all()  # strictly: sorted, and nothing twice
        np.testing.assert_array_equal(indptr, np.searchsorted(rows, np.arange(graph.shape[0] + 1)))
        np.testing.assert_array_equal(matrix.todense(), expected.toarray())


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_by_rows_agrees_with_the_portable_one_by_entries(kind):
    graph, x = random_graph(kind), random_features()
    adjacency = make_adjacency(graph, ("user",))
    by_entries = BCOO(
        (adjacency.matrix.data, adjacency.matrix.indices), shape=graph.shape, indices_sorted=True, unique_indices=True
    )
    (by_rows,) = propagate(adjacency, x, 1)
    np.testing.assert_allclose(by_rows, by_entries @ x, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about the program for the CPU")
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_program_for_the_cpu_multiplies_in_the_csr_kernel_and_never_scatters(symmetric):
    adjacency = make_adjacency(random_graph("symmetric"), ("user",), symmetric)

    def forward(adjacency, x):
        return propagate(adjacency, x, 2)[-1]

    def backward(adjacency, x):
        return jax.grad(lambda x: jnp.sum(forward(adjacency, x) ** 2))(x)

    for function, products in ((forward, 2), (backward, 4)):
        lowered = jax.jit(function).lower(adjacency, random_features())
        for text in (lowered.as_text(), lowered.compile().as_text()):
            assert CSR_KERNEL in text
            assert not SCATTER.search(text)
        # A product is called from one place or several; the compiled program has inlined them all.
        assert lowered.compile().as_text().count(f'custom_call_target="{CSR_KERNEL}') == products

    portable = jax.jit(lambda matrix, x: matrix @ x).lower(adjacency.matrix, random_features())
    assert SCATTER.search(portable.as_text())  # so it would have been seen
    assert SCATTER.search(portable.compile().as_text())


def test_other_platforms_get_the_portable_product():
    adjacency = make_adjacency(random_graph("plain"), ("user",))
    traced = jax.jit(lambda a, x: propagate(a, x, 1)).trace(adjacency, random_features())
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert CSR_KERNEL not in text
    assert SCATTER.search(text)


def test_inside_jit_and_loops():
    graph, x = random_graph("plain"), random_features()
    adjacency = make_adjacency(graph, ("user",))
    power = np.linalg.matrix_power(graph.toarray().astype(np.float64), 4)

    @jax.jit
    def four_times(adjacency, x):
        return jax.lax.fori_loop(0, 4, lambda _, x: propagate(adjacency, x, 1)[0], x)

    @jax.jit
    def while_below_four(adjacency, x):
        def step(carry):
            return carry[0] + 2, propagate(adjacency, carry[1], 2)[1]

        return jax.lax.while_loop(lambda carry: carry[0] < 4, step, (0, x))[1]

    @jax.jit
    def gradient_of_scan(adjacency, x):
        def final(x):
            return jax.lax.scan(lambda x, _: (propagate(adjacency, x, 1)[0], None), x, length=4)[0]

        return jax.grad(lambda x: jnp.sum(final(x)))(x)

    np.testing.assert_allclose(four_times(adjacency, x), power @ x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(while_below_four(adjacency, x), power @ x, rtol=1e-4, atol=1e-5)
    expected = power.T @ np.ones_like(x)
    np.testing.assert_allclose(gradient_of_scan(adjacency, x), expected, rtol=1e-4, atol=1e-5)


def test_a_graph_of_the_same_shape_is_an_argument_and_not_compiled_in():
    first, second = random_graph("single"), random_graph("single")
    second.data[:] = -2.0
    x, compilations = random_features(), []

    @jax.jit
    def product(adjacency, x):
        compilations.append(1)
        return propagate(adjacency, x, 1)[0]

    for graph in (first, second):
        found = product(make_adjacency(graph, ("user",)), x)
        np.testing.assert_allclose(found, graph.toarray() @ x, rtol=1e-6)
    assert len(compilations) == 1


PMAP = """
import warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp, numpy as np
from rearm_jax.graphs.adjacency import make_adjacency, propagate
from tests.test_adjacency import random_features, random_graph

assert jax.local_device_count() == 2
graph = random_graph("plain")
adjacency = make_adjacency(graph, ("user",))
x = np.stack([random_features(seed=seed) for seed in (1, 2)])
dense = graph.toarray().astype(np.float64)

def value(adjacency, x):
    return jnp.sum(propagate(adjacency, x, 2)[1] ** 2)

values, gradients = jax.pmap(jax.value_and_grad(value, argnums=1), in_axes=(None, 0))(adjacency, x)
for device in range(2):
    output = dense @ dense @ x[device]
    np.testing.assert_allclose(values[device], np.sum(output**2), rtol=1e-5)
    np.testing.assert_allclose(gradients[device], 2 * dense.T @ dense.T @ output, rtol=1e-4, atol=1e-4)

replicated = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), adjacency)
summed = jax.pmap(lambda a, x: jax.lax.psum(propagate(a, x, 1)[0], "shards"), axis_name="shards")(replicated, x)
np.testing.assert_allclose(summed[0], dense @ (x[0] + x[1]), rtol=1e-4, atol=1e-5)
print("both devices agree")
"""


def test_on_two_devices_under_pmap():
    environment = with_devices(2) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PMAP], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "both devices agree\n"


@pytest.mark.parametrize(
    "x",
    [
        np.ones((22, 3), np.float32),
        np.ones((23,), np.float32),
        np.ones((23, 3, 1), np.float32),
        np.ones((23, 3), np.int32),
        jnp.ones((23, 3), jnp.bfloat16),
    ],
    ids=["rows", "1-d", "3-d", "int32", "bfloat16"],
)
def test_features_of_another_shape_or_dtype_are_refused(x):
    adjacency = make_adjacency(random_graph("plain"), ("user",))
    with pytest.raises(ValueError, match=r"float32 \(23, c\), got .*" + str(x.dtype)):
        propagate(adjacency, x, 1)


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"square, got shape \(2, 3\)"):
        make_adjacency(scipy.sparse.csr_array(np.ones((2, 3), np.float32)), ("user",))


@pytest.mark.parametrize("columns", [[2, 0], [1, 1]], ids=["unsorted", "repeated"])
def test_unsorted_or_repeated_entries_are_refused(columns):
    graph = scipy.sparse.csr_array((np.ones(2, np.float32), np.array(columns), np.array([0, 2, 2, 2])), shape=(3, 3))
    with pytest.raises(ValueError, match="sorted, unique"):
        make_adjacency(graph, ("user",))


@pytest.mark.parametrize("wrong", ["value", "pattern"])
def test_a_false_symmetry_is_refused(wrong):
    dense = random_graph("symmetric").toarray()
    row, column = np.argwhere(np.triu(dense, 1))[0]
    dense[row, column] = dense[row, column] * 1.001 if wrong == "value" else 0
    with pytest.raises(ValueError, match="declared symmetric, but 2 entries differ"):
        make_adjacency(scipy.sparse.csr_array(dense), ("user",), symmetric=True)


def test_float64_is_rounded_to_float32():
    dense = np.array([[0, 1 / 3], [1e-3, 0]])
    adjacency = make_adjacency(scipy.sparse.csr_array(dense), ("user",))
    np.testing.assert_array_equal(adjacency.matrix.todense(), dense.astype(np.float32))
