"""A sparse product on an NVIDIA GPU whose sums have one order, and so the same bits in every run: a Triton kernel.

XLA adds up by atomics there, in whatever order threads arrive. Its flag --xla_gpu_deterministic_ops forbids that, and
sorts the entries again for every product, which made a step of TikTok eighty times as long; with the flag set, this
takes its place (docs/determinism.md). Pallas' way to Triton is deprecated from jax 0.11 on: before pyproject.toml
allows a jax without it, this has to go another way.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# Entries and columns that a program has in flight, and its warps: of ten such choices the fastest on an H100 for the
# user-item graphs of TikTok and Baby with 192 columns, or within a tenth of it.
_ENTRIES, _COLUMNS, _WARPS = 16, 64, 2


def product_in_order(
    data: jax.Array, columns: jax.Array, indptr: jax.Array, x: jax.Array, interpret: bool = False
) -> jax.Array:
    """The product of a CSR matrix (n, m) with x, the entries of a row added in one order.

    Args:
      data: float32 (nnz,).
      columns: int32 (nnz,).
      indptr: int32 (n + 1,).
      x: float32 or bfloat16 (m, c); the sums are float32.
      interpret: runs on a CPU, slowly.

    Returns:
      float32 (n, c).
    """
    num_rows, width = len(indptr) - 1, x.shape[1]
    return pl.pallas_call(
        functools.partial(_row, width),
        out_shape=jax.ShapeDtypeStruct((num_rows, width), jnp.float32),
        grid=(num_rows, pl.cdiv(width, _COLUMNS)),
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
        name="product_in_order",
    )(indptr, columns, data, x)


def _row(width: int, indptr: Any, columns: Any, data: Any, x: Any, out: Any) -> None:
    """A program of the grid: some columns of one row of the product, from references to the whole arrays."""
    row = pl.program_id(0)
    mine = pl.program_id(1) * _COLUMNS + jnp.arange(_COLUMNS)
    inside = mine < width
    start, stop = triton.load(indptr.at[row]), triton.load(indptr.at[row + 1])

    def add(step: jax.Array, sums: jax.Array) -> jax.Array:
        entries = start + step * _ENTRIES + jnp.arange(_ENTRIES)
        some = entries < stop
        weights = triton.load(data.at[entries], mask=some, other=0.0)
        sources = triton.load(columns.at[entries], mask=some, other=0)
        rows = x.at[sources[:, None], mine[None, :]]
        values = triton.load(rows, mask=some[:, None] & inside[None, :], other=0.0)
        return sums + weights[:, None] * values.astype(jnp.float32)

    steps = (stop - start + _ENTRIES - 1) // _ENTRIES
    sums = jax.lax.fori_loop(0, steps, add, jnp.zeros((_ENTRIES, _COLUMNS), jnp.float32))
    triton.store(out.at[row, mine], sums.sum(axis=0), mask=inside)
