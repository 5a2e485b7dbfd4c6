"""Where the arrays of a run lie, and how its functions run there: `config.parallel`.

"data": everything is whole on every device, and the devices share the batch.
"row": node tables, their optimiser state, the graphs and the sampler are also cut by row over the devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging

from rearm_jax.experiment import Experiment, abstract_params, init_params
from rearm_jax.graphs.build import Graphs
from rearm_jax.graphs.row_adjacency import RowAdjacency, shard_adjacency
from rearm_jax.training.parallel import (
    AXIS,
    RowCounts,
    data_parallel,
    is_table,
    place_rows,
    replicate,
    row_parallel,
    sharded_like,
)
from rearm_jax.training.sampling import Sampler, cut_sampler
from rearm_jax.training.step import TrainState

_LEAST_FILLED = 0.3  # share of entries among the places of a graph's blocks, below which a warning is due


def run_parallel(experiment: Experiment, fn: Callable, donate: int | None = None) -> Callable:
    """Runs fn(shard, *args) on every device, args placed by the functions below. See `parallel`.

    Args:
      experiment: its config says how.
      fn: its results must be equal on all devices, but for a state that takes the place of a donated one.
      donate: position among args of one whose buffers fn's first result may reuse.

    Returns:
      A function of args, compiled at its first call.
    """
    if experiment.config.parallel == "data":
        return data_parallel(fn, donate)
    compiled: dict[int, Callable] = {}

    def call(*args: Any) -> Any:
        if len(args) not in compiled:
            compiled[len(args)] = row_parallel(fn, row_counts(experiment), args, donate)
        return compiled[len(args)](*args)

    return call


def place_graphs(experiment: Experiment) -> Graphs:
    """The experiment's graphs on the devices; by row, of `RowAdjacency`."""
    if experiment.config.parallel == "data":
        return replicate(experiment.graphs)
    users, items, _ = row_counts(experiment)
    kinds = {"user_item": (users, items), "user_user": (users,), "item_item": (items,)}
    placed = {}
    for name, numbers in kinds.items():
        blocks = shard_adjacency(getattr(experiment.graphs, name), numbers, jax.device_count(), AXIS)
        _warn_if_uneven(name, blocks)
        placed[name] = place_rows(blocks)
    return Graphs(**placed)


def place_sampler(experiment: Experiment, sampler: Sampler) -> Sampler:
    """The sampler on the devices."""
    if experiment.config.parallel == "data":
        return replicate(sampler)
    cut = place_rows(cut_sampler(sampler, jax.device_count())._replace(num_items=None))
    return cut._replace(num_items=replicate(sampler.num_items))


def first_state(experiment: Experiment) -> TrainState:
    """The state before training, the same whatever `config.parallel` and the number of devices are."""
    key = jax.random.key_data(jax.random.key(experiment.config.seed))
    params = init_params(experiment)
    if experiment.config.parallel == "data":
        return replicate(TrainState(params, experiment.tx.init(params), np.int32(0), key))
    # The whole tables go by the default device and the host; the optimiser's state is made where it lies.
    params = jax.tree_util.tree_map_with_path(lambda path, x: place_rows(x) if is_table(path) else replicate(x), params)
    shardings = jax.tree.map(lambda x: x.sharding, state_like(experiment).opt_state)
    opt_state = jax.jit(experiment.tx.init, out_shardings=shardings)(params)
    return TrainState(params, opt_state, replicate(np.int32(0)), replicate(key))


def state_like(experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the train state."""
    params = abstract_params(experiment)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    state = TrainState(params, jax.eval_shape(experiment.tx.init, params), jax.ShapeDtypeStruct((), np.int32), key)
    if experiment.config.parallel == "row":
        return sharded_like(state)
    sharding = replicate(np.zeros(())).sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def row_counts(experiment: Experiment) -> RowCounts:
    """Rows of the tables that "row" cuts, without padding."""
    dataset = experiment.dataset
    return RowCounts(dataset.num_users, dataset.num_items, len(dataset.train))


def table_rows(experiment: Experiment) -> dict[str, int]:
    """Kind of node ("user", "item": how the names of its tables begin) -> rows of its tables, without padding."""
    return {"user": experiment.dataset.num_users, "item": experiment.dataset.num_items}


def _warn_if_uneven(name: str, adjacency: RowAdjacency) -> None:
    filled = np.count_nonzero(adjacency.blocks.data) / adjacency.blocks.data.size
    if filled < _LEAST_FILLED and adjacency.blocks.data.nbytes > 2**20:
        logging.warning(
            "graph %s, cut for %d devices: its entries fill %.0f%% of the memory that the fullest block dictates, and "
            "devices wait for each other. Number the users and items in random order when you prepare the data",
            name,
            jax.device_count(),
            100 * filled,
        )
