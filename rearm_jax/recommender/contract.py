"""What a model is. The training step, the loop, evaluation and what comes after know models by this file alone.

A model is a file or folder in rearm_jax/models/ with one subclass of `Recommender`, called `Model`. It says

- its `title`, and its `settings`, by dotted name; a field of the class whose name is a setting's last word is filled
  with that setting; its `search_space`, the ranges in which good ones are looked for;
- `relations`: the graphs and frozen tables that it reads, by name; what nobody asks for is not built;
- `data_tables`, which start from the data in the place of what `init` gives; by `decays`, which parameters weight decay
  spares;
- its forward pass, `__call__`, which gives `Representations`;
- its `losses`: named parts, of each the share of one device.

It may also ask for negatives that the rows of a batch share (`num_shared_negatives`), and change its inputs from epoch
to epoch (`epoch_inputs`).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.graphs.row_adjacency import RowAdjacency
from rearm_jax.parallel.rows import ALL, Nodes, Shard
from rearm_jax.recommender.search_space import SearchSpace
from rearm_jax.settings import JointRule, Setting

# Name -> a graph, or a table (its name ends in `_table`) float32 (num_users, w) or (num_items, w). Names begin with the
# kind of node, "user" or "item"; "user_item" has users first, then items.
Inputs = Mapping[str, Adjacency | RowAdjacency | jax.Array]


class Batch(NamedTuple):
    """A global batch. Rows whose mask is False are padding, or have no negative; they count in no loss.

    Each row has a negative of its own, or all rows share n of them (`Recommender.num_shared_negatives`).
    """

    users: jax.Array  # int32 (b,)
    positives: jax.Array  # int32 (b,)
    negatives: jax.Array  # int32 (b,), or (n,) where they are shared
    mask: jax.Array  # bool (b,)
    own: jax.Array | None = None  # bool (b, n): which of the shared negatives are items of the row's user

    def map_rows(self, fn: Callable[[jax.Array], jax.Array]) -> "Batch":
        """The batch with `fn` applied to each array that has a row for each interaction."""
        if self.own is None:
            return Batch(*map(fn, self[:4]))
        return Batch(fn(self.users), fn(self.positives), self.negatives, fn(self.mask), fn(self.own))


class Representations(NamedTuple):
    """What a model's forward pass gives. A score is the dot product of a row of `users` and a row of `items`.

    The rows of `users` and `items` are those that were wanted (see `Nodes`).
    """

    users: jax.Array  # float (b_u, c)
    items: jax.Array  # float (b_i, c)
    # What the losses and the report need beside, by name; the rows are all that this device holds.
    views: Mapping[str, Any] = {}


class Declaration:
    """What every model declares of itself."""

    title: ClassVar[str]  # for people, such as "LightGCN"
    settings: ClassVar[Mapping[str, Setting]] = {}
    joint_rules: ClassVar[Sequence[JointRule]] = ()
    # Where good settings are looked for (`search_list`); nothing is searched unless the model says so.
    search_space: ClassVar[SearchSpace] = {}
    # Settings that runs of earlier versions lack, with the values that mean what those versions did.
    added_later: ClassVar[Mapping[str, Any]] = {}
    by_row: ClassVar[bool] = True  # whether its tables can be cut by row over the devices

    @classmethod
    def make(cls, config: ConfigDict, dataset: Dataset) -> Any:
        """The model for a checked config and the sizes of the data."""
        raise NotImplementedError

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        """The graphs and frozen tables that the model reads.

        Args:
          dataset: the data.
          config: the whole config, checked.
        """
        raise NotImplementedError


class Recommender(nn.Module, Declaration):
    """Base of the models that learn by gradients: a Linen module."""

    num_users: int
    num_items: int

    # Fields that are numbers, such as weights of losses -> how one is given to a compiled program as an argument
    # (np.float32 for most). Runs that differ in these alone share a program; no code may branch on them, but by `used`.
    rates: ClassVar[Mapping[str, Callable[[float], Any]]] = {}
    # Whether the graph of the items has one value for all neighbours, instead of their similarities; new items ask.
    counts_neighbours = False
    # Whether items that were not there in training can be ranked by their features (inference/new_items.py).
    ranks_new_items = True
    # Whether under protocol "reference" a user's items of validation and test are no negatives either.
    leaking_negatives = False

    @classmethod
    def make(cls, config: ConfigDict, dataset: Dataset) -> Self:
        """The module for the sizes of the data, its fields filled from the settings that it declares."""
        fields: dict[str, Any] = {"num_users": dataset.num_users, "num_items": dataset.num_items}
        for name in cls.settings:
            *sections, leaf = name.split(".")
            if leaf in cls.__dataclass_fields__:
                section = config
                for key in sections:
                    section = section[key]
                fields[leaf] = section[leaf]
        if "feature_widths" in cls.__dataclass_fields__:
            fields["feature_widths"] = tuple((name, table.shape[1]) for name, table in dataset.features.items())
        if "dtype" in cls.__dataclass_fields__:
            fields["dtype"] = jnp.dtype(config.compute_dtype)
        for name in ("protocol", "batch_size"):
            if name in cls.__dataclass_fields__:
                fields[name] = config[name]
        return cls(**fields)

    def split_rates(self) -> tuple[Self, dict[str, Any]]:
        """The model without its `rates`, and these as a program's arguments. A rate of 0 or 1 remains with the model:
        such a one switches a part off or leaves it as it is."""
        values = {name: getattr(self, name) for name in self.rates}
        rates = {name: self.rates[name](value) for name, value in values.items() if value not in (0, 1)}
        # Should a program use what it was not given, its loss is not finite. (NaN would not be equal to itself.)
        return self.with_rates(dict.fromkeys(rates, math.inf)), rates

    def with_rates(self, rates: Mapping[str, Any]) -> Self:
        """The model of `split_rates` with rates again, inside of a program its arguments."""
        fields: Any = rates
        return self.clone(**fields) if rates else self

    @property
    def num_shared_negatives(self) -> int:
        """How many negatives, uniform over all items, the rows of a batch share; 0: each row has one of its own."""
        return 0

    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        """The forward pass.

        Args:
          inputs: of `relations`, as they lie on the device.
          users, items: how the rows of the node tables are reached, and which representations are wanted. Where tables
            are cut by row, parameters whose names end in `_table` are this device's rows.
          train: switches dropout on; needs the random stream "dropout".
        """
        raise NotImplementedError

    def data_tables(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """The tables that start from the data in the place of what `init` gives, by name, float32, on the host; none
        unless the model says so. Names end in `_table`."""
        return {}

    def initial_params(self, key: jax.Array, inputs: Inputs, dataset: Dataset) -> dict:
        """The parameters before training, a nested dict of float32 arrays.

        Raises:
          ValueError: a table of the data has another shape than the parameter: the model was made for other data.
        """
        params = drawn_params(self.split_rates()[0], key, inputs)
        tables = self.data_tables(dataset)
        for name, table in tables.items():
            if table.shape != params[name].shape:
                raise ValueError(f"{name}: the data has shape {table.shape}, the parameter {params[name].shape}")
        return {**params, **{name: jnp.asarray(table) for name, table in tables.items()}}

    def decays(self, path: tuple[str, ...]) -> bool:
        """Whether weight decay applies to the parameter at this path."""
        return True

    def epoch_inputs(self, inputs: Inputs, key: jax.Array) -> Inputs:
        """The inputs that an epoch of training has in the place of those of `relations`, by name; none unless the model
        says so. Evaluation has those of `relations`. A model that changes its inputs cannot be cut by row.

        Args:
          inputs: of `relations`, as they lie on the device.
          key: of the epoch: it depends on the root key and the number of the epoch alone.
        """
        return {}

    def losses(self, out: Representations, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
        """This device's share of each weighted part of the loss; the shares of all devices add up.

        Args:
          out: of this device's rows of the batch: `users` has a row for each of them, `items` those of the positives,
            then those of the negatives, or of all shared negatives.
          batch: the global batch.
          shard: which share.
        """
        raise NotImplementedError


@functools.partial(jax.jit, static_argnums=0)
def drawn_params(model: Recommender, key: jax.Array, inputs: Inputs) -> dict:
    """The parameters of `model.init`, one program for equal models."""
    return cast(dict, model.init(key, inputs)["params"])


def used(weight: Any) -> bool:
    """Whether a weight, one of a model's `rates` or a number, is not 0: an argument of a program never is."""
    return not isinstance(weight, (int, float)) or weight != 0
