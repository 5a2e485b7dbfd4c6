"""Whether the arrays of a checkpoint are those that a model expects: names, shapes and dtypes."""

from typing import Any

import jax


def tree_differences(stored: Any, expected: Any) -> list[str]:
    """One sentence for each leaf that is missing or has another shape or dtype.

    Args:
      stored, expected: pytrees of whatever has a shape and a dtype: arrays, jax.ShapeDtypeStruct, metadata of Orbax.
    """
    stored, expected = _signatures(stored), _signatures(expected)
    differences = [f"{leaf} is not in the checkpoint" for leaf in expected if leaf not in stored]
    differences += [f"{leaf} is only in the checkpoint" for leaf in stored if leaf not in expected]
    differences += [
        f"{leaf} is {stored[leaf]} in the checkpoint and {expected[leaf]} here"
        for leaf in expected
        if leaf in stored and stored[leaf] != expected[leaf]
    ]
    return differences


def _signatures(tree: Any) -> dict[str, str]:
    # "params/dense/kernel" -> "float32(3, 4)". Orbax stores a typed key as its data.
    signatures = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        signatures[jax.tree_util.keystr(path, simple=True, separator="/")] = f"{leaf.dtype}{tuple(leaf.shape)}"
    return signatures
