"""Work in blocks of rows, whose size goes by the device: chosen where a program is lowered for its platform."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class BlockRows(NamedTuple):
    """Rows of a block: as many as a CPU's cache holds; elsewhere, where every block costs launches, many more."""

    cpu: int
    elsewhere: int


def in_blocks(fn: Callable[..., Any], rows: BlockRows, num_rows: int, *args: Any) -> Any:
    """fn(size, *args) with the size of the platform's blocks, at most num_rows; it must change rounding alone.

    Args:
      fn: (rows of a block, *args) -> results.
      rows: of a block.
      num_rows: there are.
      args: arrays.
    """
    cpu, elsewhere = (min(size, num_rows) for size in rows)
    if cpu == elsewhere:
        return fn(cpu, *args)
    return jax.lax.platform_dependent(*args, cpu=functools.partial(fn, cpu), default=functools.partial(fn, elsewhere))
