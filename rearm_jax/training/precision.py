"""Everything here is float32 and int32, whatever JAX_ENABLE_X64 says."""

import contextlib
from collections.abc import Iterator

import jax
from absl import logging


@contextlib.contextmanager
def without_x64() -> Iterator[None]:
    """Runs the body as if JAX_ENABLE_X64 were not set; other programs of the same process keep it.

    Under it, arrays that are made without a dtype would be of 64 bits, where float32 and int32 are meant.
    """
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        yield
        return
    logging.info("JAX_ENABLE_X64 is set, and switched off for this run: rearm_jax computes in float32")
    with jax.enable_x64(False):
        yield
