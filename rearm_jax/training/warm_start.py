"""A warm start: the state of another run, for data that have grown.

Rows of tables are matched by what users and items are called outside. Who is new has the row that a cold start gives;
who is gone is left out; everything else is taken over as it is.
"""

import functools
import os
from typing import Any

import jax
import numpy as np
from absl import logging

from rearm_jax.data.dataset import Dataset
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.experiment import Experiment
from rearm_jax.parallel.rows import is_table
from rearm_jax.training.best_step import step_to_use
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.placement import Placement, place
from rearm_jax.training.run_data import open_experiment
from rearm_jax.training.run_folder import saved_config
from rearm_jax.training.step import TrainState

_SHOWN = 5  # parameters in a message

# Kind of node ("user", "item") -> rows there, and the rows here that are the same users or items.
Matches = dict[str, tuple[np.ndarray, np.ndarray]]


def warm_state(placement: Placement) -> TrainState:
    """The state before training, from the best checkpoint of the run config.init_from: its parameters and, if
    config.init_optimizer is on, its optimiser's state.

    Args:
      placement: of the experiment that is to be trained.

    Raises:
      CheckpointError, ConfigError: that run cannot be opened, or its model is another.
      DataError: its data cannot be used, or it has seen what is validation or test here.
    """
    config, dataset = placement.experiment.config, placement.experiment.dataset
    if jax.process_count() > 1:
        raise ConfigError("init_from: a warm start is made by one process; train some steps in one, then go on in many")
    workdir = os.path.expanduser(config.init_from)
    other = _open(workdir, config.model.name)
    old, new = other.dataset.labels, dataset.labels
    matches = {"user": _same(old.user_ids, new.user_ids), "item": _same(old.item_ids, new.item_ids)}
    _refuse_answers(workdir, other.dataset, dataset, matches)
    source, fresh = place(other), placement.state()
    params, opt_state = _saved(workdir, source, with_optimizer=config.init_optimizer)
    _refuse_others(workdir, params, fresh.params)
    for kind, size in (("user", other.dataset.num_users), ("item", other.dataset.num_items)):
        there, here = matches[kind]
        num_new = getattr(dataset, f"num_{kind}s") - len(here)
        logging.info("warm start: %d %ss are known, %d new, %d gone", len(here), kind, num_new, size - len(there))
    take = functools.partial(_taken, matches)
    state = fresh._replace(params=jax.tree_util.tree_map_with_path(take, params, fresh.params))
    if config.init_optimizer:
        state = state._replace(opt_state=jax.tree_util.tree_map_with_path(take, opt_state, fresh.opt_state))
    return state


def _open(workdir: str, model: str) -> Experiment:
    config = saved_config(workdir).copy_and_resolve_references()
    if config.model.name != model:
        raise ConfigError(f"init_from = {workdir!r}: a run of {config.model.name}, and this is {model}")
    with config.unlocked():
        config.parallel = "data"
    return open_experiment(config, workdir, brief=True)


def _saved(workdir: str, source: Placement, with_optimizer: bool) -> tuple[Any, Any]:
    """Parameters and the optimiser's state (None unless asked for) of the run's best checkpoint, on the host."""
    like = source.like()
    with Checkpoints(workdir, source.table_rows) as checkpoints:
        step = step_to_use(checkpoints, source.experiment)
        if step is None:
            raise CheckpointError(f"init_from = {workdir!r} holds no checkpoint to start from. Train that run first")
        logging.info("warm start: from step %d of %s", step, workdir)
        if not with_optimizer:
            return jax.device_get(checkpoints.restore_params(step, like.params)), None
        params, rest, _ = checkpoints.restore(step, like.params, like.rest())
        return jax.device_get((params, rest["opt_state"]))


def _same(there: np.ndarray, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the ids that are in both, there and here."""
    _, rows_there, rows_here = np.intersect1d(there.astype(str), here.astype(str), True, return_indices=True)
    return rows_there, rows_here


def _refuse_answers(workdir: str, other: Dataset, dataset: Dataset, matches: Matches) -> None:
    """Raises DataError where the other run has trained on what is validation or test here."""
    rows = {kind: np.full(getattr(other, f"num_{kind}s"), -1, np.int64) for kind in matches}
    for kind, (there, here) in matches.items():
        rows[kind][there] = here
    users, items = rows["user"][other.train[:, 0]], rows["item"][other.train[:, 1]]
    known = (users >= 0) & (items >= 0)
    trained = users[known] * dataset.num_items + items[known]
    held_out = np.concatenate([dataset.valid, dataset.test]).astype(np.int64)
    seen = np.isin(held_out[:, 0] * dataset.num_items + held_out[:, 1], trained)
    if seen.any():
        first = held_out[np.argmax(seen)]
        user, item = dataset.labels.user_ids[first[0]].item(), dataset.labels.item_ids[first[1]].item()
        raise DataError(
            f"init_from = {workdir!r} was trained on {seen.sum():,} of the {len(seen):,} interactions that are "
            f"validation or test here, such as user {user!r}, item {item!r}: it knows the answers. Prepare the data "
            "with split=global-time, whose held-out interactions are the newest, and start from a run, no refit"
        )


def _refuse_others(workdir: str, params: Any, fresh: Any) -> None:
    """Raises CheckpointError where parameters have other names or shapes, but for the rows of tables."""
    there, here = _shapes(params), _shapes(fresh)
    differ = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differ:
        shown = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in differ[:_SHOWN])
        raise CheckpointError(
            f"init_from = {workdir!r} has other parameters: {shown}. Give the model the settings, and the data the "
            "features, of that run"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape, of tables without their rows."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape[is_table(path) :] for path, leaf in leaves}


def _taken(matches: Matches, path: tuple, there: np.ndarray, fresh: jax.Array) -> jax.Array:
    """A leaf of the other run, in the place and with the rows of this one's."""
    values = there
    if is_table(path):
        rows_there, rows_here = matches[path[-1].key.partition("_")[0]]
        values = np.array(jax.device_get(fresh))
        values[rows_here] = there[rows_there]
    return jax.device_put(values, fresh.sharding)
