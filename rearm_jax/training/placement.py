"""Where the arrays of a run lie, and how its functions run there: chosen once, by `config.parallel`.

"data": everything is whole on every device, and the devices share the batch.
"row": node tables, their optimiser state, the graphs and the sampler are also cut by row over the devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from rearm_jax.evaluation.ranking import UserBlocks, rank_items
from rearm_jax.evaluation.ranking_by_row import rank_items_by_row
from rearm_jax.experiment import Experiment, abstract_params, in_precision, init_params
from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.graphs.row_adjacency import RowAdjacency, shard_adjacency
from rearm_jax.parallel.mesh import (
    Devices,
    data_parallel,
    data_parallel_program,
    place_rows,
    replicate,
    replicated,
    ring_order,
    row_parallel,
    sharded_like,
)
from rearm_jax.parallel.rows import AXIS, Nodes, RowCounts, Shard
from rearm_jax.recommender.contract import Inputs, Recommender, Representations, drawn_params
from rearm_jax.training.sampling import Sampler, cut_sampler
from rearm_jax.training.step import TrainState

_LEAST_FILLED = 0.3  # share of entries among the places of a graph's blocks, below which a warning is due


def place(experiment: Experiment, devices: Devices | None = None) -> "Placement":
    """The placement that config.parallel names.

    Args:
      experiment: the experiment.
      devices: of all processes; None: all that jax sees.
    """
    devices = tuple(jax.devices() if devices is None else devices)
    if experiment.config.parallel == "row":
        return RowPlacement(experiment, ring_order(devices))
    return Placement(experiment, devices)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Everything whole on every device."""

    experiment: Experiment
    devices: tuple[jax.Device, ...]

    @property
    def table_rows(self) -> dict[str, int]:
        """Kind of node ("user", "item": how the names of its tables begin) -> rows of its tables, without padding."""
        return {"user": self.experiment.dataset.num_users, "item": self.experiment.dataset.num_items}

    @property
    def num_block_shares(self) -> int:
        """Of how many devices each ranks blocks of users of its own."""
        return len(self.devices)

    def run(self, fn: Callable, *static: Hashable, donate: bool = False) -> Callable:
        """Runs fn(*static, shard, *args) on every device, args placed by the methods below.

        Args:
          fn: its results must be equal on all devices, but for a state that takes the place of a donated one. A
            function of a module, so that it is one program for all runs of this process that have equal `static`.
          static: what the program is made for.
          donate: whether fn's first result may reuse the buffers of the first of args.

        Returns:
          A function of args, compiled at its first call.
        """
        return _data_parallel(self.experiment.config.matmul_precision, fn, static, self.devices, donate)

    def lower(self, fn: Callable, args: tuple, donate: bool = False) -> jax.stages.Lowered:
        """The program of `run(fn, donate=donate)`, lowered for devices that may be absent.

        Args:
          fn, donate: as `run` has them.
          args: shapes, dtypes and shardings (jax.ShapeDtypeStruct).
        """
        fn = in_precision(self.experiment.config.matmul_precision, fn)
        return data_parallel_program(fn, self.devices, donate).lower(*args)

    def whole(self, tree: Any) -> Any:
        """Puts a tree on every device as it is."""
        return replicate(tree, self.devices)

    def inputs(self) -> Inputs:
        """The model's inputs."""
        return replicate(dict(self.experiment.inputs), self.devices)

    def sampler(self, sampler: Sampler) -> Sampler:
        """A sampler that is on the host."""
        return replicate(sampler, self.devices)

    def state(self) -> TrainState:
        """The state before training, the same whatever the placement and the number of devices are."""
        params = init_params(self.experiment)
        return replicate(TrainState(params, self.experiment.tx.init(params), np.int32(0), self._key()), self.devices)

    def like(self) -> TrainState:
        """Shapes, dtypes and shardings of the train state."""
        sharding = replicated(self.devices)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self._shapes())

    def representations(self, params: dict, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of all users and all items, on the host: float32 (num_users, c) and (num_items, c).

        Args:
          params: the model's, as they are placed.
          inputs: of `inputs`.
        """
        model, rates = self.experiment.split_rates()
        users, items = jax.device_get(self.run(_forward, model)(params, inputs, rates["model"]))
        return users[: self.experiment.dataset.num_users], items[: self.experiment.dataset.num_items]  # no padding

    @staticmethod
    def rank(shard: Shard, out: Representations, blocks: UserBlocks, k: int) -> jax.Array:
        """The k best items of each user of the blocks, int32 (num_blocks, block, k), inside of a function of `run`."""
        mine = jax.tree.map(shard.rows, blocks)
        return shard.gather(rank_items(out.users, out.items, mine, k)[0])

    def _key(self) -> jax.Array:
        return jax.random.key_data(jax.random.key(self.experiment.config.seed))

    def _shapes(self) -> TrainState:
        params = abstract_params(self.experiment)
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        opt_state = jax.eval_shape(self.experiment.tx.init, params)
        return TrainState(params, opt_state, jax.ShapeDtypeStruct((), np.int32), key)


class RowPlacement(Placement):
    """Tables, graphs and sampler cut by row."""

    @property
    def row_counts(self) -> RowCounts:
        """Rows of what is cut, without padding."""
        dataset = self.experiment.dataset
        return RowCounts(dataset.num_users, dataset.num_items, len(dataset.train))

    @property
    def num_block_shares(self) -> int:
        return 1  # all devices work on every block

    def run(self, fn: Callable, *static: Hashable, donate: bool = False) -> Callable:
        return _by_row(self.experiment.config.matmul_precision, fn, static, self.devices, self.row_counts, donate)

    def lower(self, fn: Callable, args: tuple, donate: bool = False) -> jax.stages.Lowered:
        fn = in_precision(self.experiment.config.matmul_precision, fn)
        return row_parallel(fn, self.devices, self.row_counts, args, donate).lower(*args)

    def inputs(self) -> Inputs:
        return {name: self._cut(name, value) for name, value in self.experiment.inputs.items()}

    def sampler(self, sampler: Sampler) -> Sampler:
        by_row = cut_sampler(sampler, len(self.devices))._replace(num_items=None, pool=None)
        whole = self.whole({"num_items": sampler.num_items, "pool": sampler.pool})
        return place_rows(by_row, self.devices)._replace(**whole)

    def state(self) -> TrainState:
        given = self.experiment.model.data_tables(self.experiment.dataset)
        params = self.lower_draw().compile()(np.asarray(self._key())) | place_rows(given, self.devices)
        shardings = jax.tree.map(lambda x: x.sharding, self.like().opt_state)
        opt_state = jax.jit(self.experiment.tx.init, out_shardings=shardings)(params)
        return TrainState(params, opt_state, self.whole(np.int32(0)), self.whole(self._key()))

    def lower_draw(self) -> jax.stages.Lowered:
        """The program that draws the parameters before training: (key data) -> parameters.

        Each device draws the rows of tables that it holds, and no whole table is ever made. They have the numbers of
        the whole drawing, of which a number depends on its place alone (jax_threefry_partitionable).
        """
        model, _ = self.experiment.split_rates()
        like = self.like().params

        def draw(key: jax.Array) -> dict:
            # No parameter depends on what the inputs hold; their shapes let the model be traced.
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(self.experiment.inputs))
            params = drawn_params(model, jax.random.wrap_key_data(key), zeros)
            return jax.tree.map(_padded, params, like)

        program = jax.jit(draw, out_shardings=jax.tree.map(lambda x: x.sharding, like))
        return program.lower(self._shapes().key)

    def like(self) -> TrainState:
        return sharded_like(self._shapes(), self.devices)

    @staticmethod
    def rank(shard: Shard, out: Representations, blocks: UserBlocks, k: int) -> jax.Array:
        return rank_items_by_row(shard, out.users, out.items, blocks, k)

    def _cut(self, name: str, value: Any) -> Any:
        if not isinstance(value, Adjacency):
            return place_rows(value, self.devices)
        sizes = {"user": self.row_counts.users, "item": self.row_counts.items}
        kinds, dtype = tuple(sizes[kind] for kind in value.nodes), self.experiment.config.ring_dtype
        blocks = shard_adjacency(value, kinds, len(self.devices), AXIS, dtype)
        _warn_if_uneven(name, blocks, len(self.devices))
        return place_rows(blocks, self.devices)


# What runs of one process share: as many programs as a comparison of models on one data set needs.
_shared = functools.lru_cache(maxsize=64)


def forget_programs() -> None:
    """Frees all compiled programs of this process.

    They hold memory mappings, of which Linux gives a process 65,530: one that trains many models in turn would crash.
    """
    _data_parallel.cache_clear()
    _by_row.cache_clear()
    jax.clear_caches()


@_shared
def _data_parallel(precision: str, fn: Callable, static: tuple, devices: tuple, donate: bool) -> Callable:
    return data_parallel(in_precision(precision, functools.partial(fn, *static)), devices, donate)


@_shared
def _by_row(precision: str, fn: Callable, static: tuple, devices: tuple, counts: RowCounts, donate: bool) -> Callable:
    fn = in_precision(precision, functools.partial(fn, *static))
    compiled: dict[Any, Callable] = {}

    def call(*args: Any) -> Any:
        structure = jax.tree.structure(args)
        if structure not in compiled:
            compiled[structure] = row_parallel(fn, devices, counts, args, donate)
        return compiled[structure](*args)

    return call


def _forward(
    model: Recommender, shard: Shard, params: dict, inputs: Inputs, rates: dict[str, Any]
) -> tuple[jax.Array, jax.Array]:
    out: Any = model.with_rates(rates).apply({"params": params}, inputs, Nodes(shard.users), Nodes(shard.items))
    return (shard.gather(out.users), shard.gather(out.items)) if shard.by_row else (out.users, out.items)


def _padded(x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    if x.shape == like.shape:
        return x
    return jnp.pad(x, [(0, wanted - size) for size, wanted in zip(x.shape, like.shape, strict=True)])


def _warn_if_uneven(name: str, adjacency: RowAdjacency, num_devices: int) -> None:
    filled = np.count_nonzero(adjacency.blocks.data) / adjacency.blocks.data.size
    if filled < _LEAST_FILLED and adjacency.blocks.data.nbytes > 2**20:
        logging.warning(
            "graph %s, cut for %d devices: its entries fill %.0f%% of the memory that the fullest block dictates, and "
            "devices wait for each other. Number the users and items in random order when you prepare the data",
            name,
            num_devices,
            100 * filled,
        )
