"""Propagation and a loss, compiled for a TPU that is not there: nothing is sorted, and no array of entries is kept."""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from benchmarks.absent_devices import absent_devices
from benchmarks.compiled_text import count, parse
from rearm_jax.graphs.adjacency import make_adjacency, propagate
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.objectives import contrastive_share

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: see requirements-tpu.txt"
)
NODES, COLUMNS = 2048, 128


@pytest.fixture
def compiled():
    """A function (fn, *arrays) -> the text of fn, compiled for one TPU."""
    before = dict(os.environ)
    devices, _ = absent_devices("tpu", "v5e:1x1")
    sharding = jax.sharding.SingleDeviceSharding(devices[0])

    def compile_text(fn, *arrays):
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arrays)
        with jax.default_matmul_precision("highest"):
            return jax.jit(fn).lower(*shapes).compile().as_text()

    yield compile_text
    os.environ.clear()
    os.environ.update(before)


def test_propagation(compiled):
    random = np.random.default_rng(0)
    matrix = scipy.sparse.random_array((NODES, NODES), density=0.01, rng=random, dtype=np.float32).tocsr()
    adjacency = make_adjacency(matrix, ("user",))

    def loss(x, adjacency):
        return sum(jnp.sum(layer**2) for layer in propagate(adjacency, x, 2))

    text = compiled(jax.grad(loss), jnp.ones((NODES, COLUMNS)), adjacency)
    counts = count(text)
    assert counts.sorts == 0
    assert counts.scatters == 4  # two layers, forward and backward
    computations, entry = parse(text)
    entries = f"[{matrix.nnz},{COLUMNS}]"
    assert [o.name for o in computations[entry].operations.values() if entries in o.shape] == []


def test_the_contrastive_loss(compiled):
    loss = functools.partial(contrastive_share, temperature=0.2, shard=ALONE)
    views = jnp.ones((512, 64)), jnp.ones((512, 64))
    counts = count(compiled(jax.grad(loss, argnums=(0, 1)), *views, jnp.arange(512), jnp.ones(512, bool)))
    assert counts.sorts == 0
    assert {precision for _, precision in counts.products} == {"highest"}
