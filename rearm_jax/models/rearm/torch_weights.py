"""The original's PyTorch state_dict (as numpy arrays; no torch needed) to REARM's parameters, and back."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def from_torch(state: Mapping[str, np.ndarray], modalities: Sequence[str]) -> dict:
    """Parameters of REARM from the original's state_dict.

    Args:
      state: name -> array, the names of the original's state_dict.
      modalities: the two names of config.data.modalities; the first takes the place of the original's image.

    Raises:
      ValueError: an entry is missing or unknown, or there are not two modalities.
    """
    names = _torch_names(modalities)
    missing, unknown = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or unknown:
        raise ValueError(f"not a state_dict of REARM: missing {missing}, unknown {unknown}")
    params = {}
    for name, path in names.items():
        array = np.asarray(state[name], np.float32)
        if path[-1] == "kernel":
            array = array.T
        elif path[-1] in ("negative_slope", "out_weight", "out_bias") and array.size == 1:
            array = array.reshape(())
        elif path[-1] == "in_weight":
            array = array.ravel()
        params[path] = array
    return unflatten_dict(params)


def to_torch(params: Mapping, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    """The original's state_dict from parameters of REARM; the inverse of `from_torch`.

    Raises:
      ValueError: there are not two modalities.
    """
    flat = flatten_dict(jax.device_get(params))
    state = {}
    for name, path in _torch_names(modalities).items():
        array = np.asarray(flat[path])
        if path[-1] == "kernel":
            array = array.T
        elif path[-1] == "in_weight":
            array = array.reshape(3, 1)
        elif path[-1] == "out_weight":
            array = array.reshape(1, 1)
        elif path[-1] in ("negative_slope", "out_bias"):
            array = array.reshape(1)
        state[name] = np.ascontiguousarray(array)
    return state


def _torch_names(modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name in the original's state_dict -> path in REARM's parameters."""
    if len(modalities) != 2:
        raise ValueError(f"the original has two modalities, not {tuple(modalities)}")
    names = {
        "user_id_embedding.weight": ("user_id_table",),
        "item_id_embedding.weight": ("item_id_table",),
        "ly_norm.weight": ("layer_norm", "scale"),
        "ly_norm.bias": ("layer_norm", "bias"),
        "prl.weight": ("prelu", "negative_slope"),
    }
    for modality, word, letter, number in zip(modalities, ("image", "text"), ("v", "t"), ("1", "2"), strict=True):
        names[f"{word}_embedding.weight"] = (f"item_{modality}_table",)
        names[f"user_{letter}_prefer"] = (f"user_{modality}_table",)
        for side, short in (("user", "u"), ("item", "i")):
            names |= _linear(f"{word}_{short}_trs", (f"{side}_{modality}_projection",))
        for torch_name, kind in ((f"self_i_attn{number}", "self"), (f"mutual_i_attn{number}", "cross")):
            block = f"{modality}_{kind}_attention"
            names[f"{torch_name}.in_proj_weight"] = (block, "in_weight")
            names[f"{torch_name}.in_proj_bias"] = (block, "in_bias")
            names[f"{torch_name}.out_proj.weight"] = (block, "out_weight")
            names[f"{torch_name}.out_proj.bias"] = (block, "out_bias")
    for side, short in (("user", "u"), ("item", "i")):
        names |= _linear(f"meta_net{short}", (f"{side}_meta", "projection"))
        for number in ("1", "2"):
            path = (f"{side}_meta", f"mlp_{number}")
            names |= _linear(f"mlp_{short}{number}.linear_pre", (*path, "pre"))
            names |= _linear(f"mlp_{short}{number}.linear_out", (*path, "out"))
            names[f"mlp_{short}{number}.prl.weight"] = (*path, "prelu", "negative_slope")
    return names


def _linear(torch_name: str, path: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {f"{torch_name}.weight": (*path, "kernel"), f"{torch_name}.bias": (*path, "bias")}
