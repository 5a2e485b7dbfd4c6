"""What disk the checkpoints of a run take, said before they are written."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import jax
from absl import logging

from rearm_jax.training.placement import Placement


def checkpoint_bytes(placement: Placement) -> tuple[int, int]:
    """(most that all checkpoints of a run take at a time, what one of them takes), uncompressed.

    The latest two steps and the best are kept while another one is written (see checkpoint.py).
    """
    state = placement.like()
    params = _bytes(state.params)
    whole = params + _bytes(state.rest())
    best = whole if placement.experiment.config.checkpoints.keep == "whole" else params
    return 3 * whole + best, whole


def say_disk(placement: Placement, workdir: str | os.PathLike, is_new: bool) -> None:
    """Logs what disk the run will take and what is free; a warning where a new run has not enough."""
    most, whole = checkpoint_bytes(placement)
    text = f"checkpoints: {_size(whole)} each, at most {_size(most)} at a time in {workdir}"
    if "://" in os.fspath(workdir):  # a bucket
        logging.info("%s", text)
        return
    path = Path(workdir).absolute()
    free = shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.is_dir())).free
    if is_new and most > free:
        logging.warning(
            "%s, but only %s are free there. config.checkpoints.keep=params takes less; another run folder may have "
            "more room",
            text,
            _size(free),
        )
    else:
        logging.info("%s; %s are free there", text, _size(free))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _size(number: int) -> str:
    """Three digits at most: 842 MB, 1.4 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.{1 if number < 10 * size else 0}f} {unit}"
    return f"{number} bytes"
