"""Stops a run at the first NaN or infinity, before anything of that step is saved."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rearm_jax.errors import NonFiniteError
from rearm_jax.training.step import TrainState


def check_numbers(numbers: Mapping[str, float], step: int) -> None:
    """Refuses losses, norms and metrics that are not finite.

    Raises:
      NonFiniteError: names the step and every such number.
    """
    _raise_if_any([f"{name} = {value}" for name, value in numbers.items() if not math.isfinite(value)], step)


def check_state(state: TrainState) -> None:
    """Refuses parameters and optimiser states that are not finite.

    The loss and gradient of a step cannot tell that its update overflowed; those of the next step would, but the
    checkpoint lies between.

    Raises:
      NonFiniteError: names the step and every such array.
    """
    finite = jax.device_get(_is_finite({"parameter": state.params, "optimiser state": state.opt_state}))
    leaves = jax.tree_util.tree_leaves_with_path(finite)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, is_finite in leaves if not is_finite]
    _raise_if_any([f"{name.replace('/', ' ', 1)} holds a NaN or an infinity" for name in names], int(state.step))


@jax.jit
def _is_finite(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.isfinite(x).all(), tree)


def _raise_if_any(bad: list[str], step: int) -> None:
    if bad:
        raise NonFiniteError(
            f"step {step}: {', '.join(bad)}. Nothing of this step was saved; the checkpoints before it are sound. "
            "Lower learning_rate, set gradient_clip_norm, or raise loss.temperature"
        )
