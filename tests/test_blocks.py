"""What goes by the platform, the size of blocks first: the choice, and that others give what a CPU gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax import losses
from rearm_jax.models.rearm import attention
from rearm_jax.parallel import rows
from rearm_jax.parallel.blocks import BlockRows, in_blocks

NODES, WIDTH = 9, 5


@pytest.mark.parametrize(("platform", "size"), [("cpu", 3), ("tpu", 7), ("cuda", 7), ("rocm", 7)])
def test_the_size_is_that_of_the_platform(platform, size):
    def scaled(x):
        return in_blocks(lambda size, x: x * size, BlockRows(3, elsewhere=7), NODES, x)

    text = jax.jit(scaled).trace(jnp.float32(1)).lower(lowering_platforms=(platform,)).as_text()
    assert f"dense<{size}.000000e+00>" in text
    assert f"dense<{10 - size}.000000e+00>" not in text


def test_no_block_is_longer_than_the_rows():
    assert in_blocks(lambda size: size, BlockRows(16, elsewhere=64), NODES) == NODES


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def attended(q, k, v):
    drop = attention.DropRate.of(0.3)
    return attention.scalar_attention(q, k, v, jnp.array([5, 6], jnp.uint32), drop, 2)


def contrasted(first, second):
    weights = jnp.where(jnp.arange(NODES) % 4 == 0, 0.0, 1 / 6)
    mask = jnp.arange(NODES) != 8
    return losses.contrastive_loss(first, second, jnp.arange(NODES), weights, mask, 0.4, losses._ANCHORS)


def summed(table):
    return rows.sum_rows(lambda x: jnp.exp(x) * jnp.cos(x), table, 7)


CASES = {
    "attention": (attention, "_BLOCK_NODES", attended, [normal(i, 2, NODES, WIDTH) for i in range(3)]),
    "contrastive loss": (losses, "_ANCHORS", contrasted, [normal(i, NODES, WIDTH) for i in range(2)]),
    "sum of rows": (rows, "_BLOCK_ROWS", summed, [normal(0, NODES, WIDTH)]),
}


@pytest.mark.parametrize("large", [5, 64], ids=["blocks", "one block"])
@pytest.mark.parametrize("case", CASES)
def test_an_accelerator_gives_what_a_cpu_gives(case, large, monkeypatch):
    module, constant, function, arrays = CASES[case]
    monkeypatch.setattr(module, constant, BlockRows(4, elsewhere=large))

    def value_and_gradients():
        def total(*arrays):
            return jnp.sum(function(*arrays) ** 2)

        return jax.jit(jax.value_and_grad(total, argnums=tuple(range(len(arrays)))))(*arrays)

    expected = value_and_gradients()
    # As if the program were lowered for an accelerator.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    found = value_and_gradients()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected)
