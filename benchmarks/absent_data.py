"""Experiments of which only the shapes are known: what a run gives to the devices, as jax.ShapeDtypeStruct.

The sizes of TikTok, Baby and Clothing are those of their train splits and of the graphs that configs/ builds from them
(Baby's and Clothing's with random features of the true widths, which changes how many entries two relations have in
common, by less than 1%). `users=N` is the catalogue of docs/scaling.md: a tenth as many items, 8 interactions a user.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from ml_collections import ConfigDict

from rearm_jax.configs import baby, clothing, tiktok
from rearm_jax.data.dataset import Dataset
from rearm_jax.data.labels import make_labels
from rearm_jax.evaluation.ranking import UserBlocks
from rearm_jax.experiment import Experiment, make_optimizer
from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.graphs.row_adjacency import Blocks, RowAdjacency
from rearm_jax.models.rearm import REARM
from rearm_jax.parallel.mesh import by_row, replicated
from rearm_jax.parallel.rows import AXIS
from rearm_jax.recommender.contract import Inputs
from rearm_jax.training.placement import Placement
from rearm_jax.training.sampling import Sampler

NAMED = ("tiktok", "baby", "clothing")
_INTERACTIONS, _WIDTH, _RANKED_USERS = 8, 128, 8192  # of users=N: of a user, of a modality, in evaluation


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the shapes of all arrays follow from."""

    users: int
    items: int
    interactions: int
    widths: tuple[int, int]  # of the two modalities' features
    entries: dict[str, int]  # of the graphs of users and of items
    ranked_users: int
    excluded: int  # pairs that the fullest block of ranked users leaves out


_SIZES = {
    "tiktok": Sizes(9308, 6710, 59541, (128, 128), {"user_user": 912471, "item_item": 188966}, 3051, 13416),
    "baby": Sizes(19445, 7050, 118551, (4096, 384), {"user_user": 1681650, "item_item": 140547}, 19440, 8405),
    "clothing": Sizes(39387, 23033, 197338, (4096, 384), {"user_user": 3026521, "item_item": 664471}, 39380, 6277),
}


def sizes_of(preset: str) -> Sizes:
    """The sizes of a preset: one of NAMED, or users=N, as in users=10^6 or users=50000.

    Raises:
      SystemExit: there is no such preset, or it has more interactions than int32 can count.
    """
    if preset in _SIZES:
        return _SIZES[preset]
    found = re.fullmatch(r"users=(\d+)(?:\^(\d+))?", preset)
    if not found or (users := int(found[1]) ** int(found[2] or 1)) < 1000:
        raise SystemExit(f'"{preset}" is no preset: choose one of {", ".join(NAMED)}, or users=10^6 (1000 and more)')
    if _INTERACTIONS * users >= 2**31:
        raise SystemExit(f"{preset}: interactions are numbered by int32, and {_INTERACTIONS * users:,} are too many")
    items = users // 10
    entries = {"user_user": 80 * users, "item_item": 20 * items}
    ranked = min(users, _RANKED_USERS)
    return Sizes(users, items, _INTERACTIONS * users, (_WIDTH, _WIDTH), entries, ranked, 10 * 1024)


def config_of(preset: str, parallel: str, batch_size: int | None = None, ring_dtype: str = "float32") -> ConfigDict:
    """The settings of a preset.

    Args:
      preset: see `sizes_of`.
      parallel: config.parallel.
      batch_size: in the place of the preset's.
      ring_dtype: config.ring_dtype.
    """
    config: ConfigDict = {"tiktok": tiktok, "clothing": clothing}.get(preset, baby).get_config()
    config.protocol, config.parallel, config.ring_dtype = "strict", parallel, ring_dtype
    config.batch_size = batch_size or config.batch_size
    return config


def abstract_experiment(config: ConfigDict, sizes: Sizes) -> Experiment:
    """REARM on data that are zeros and take no memory; its graphs are shapes."""
    features = {
        name: np.broadcast_to(np.float32(0), (sizes.items, width))
        for name, width in zip(config.data.modalities, sizes.widths, strict=True)
    }
    train = np.broadcast_to(np.int32(0), (sizes.interactions, 2))
    labels = make_labels({}, sizes.users, sizes.items)
    dataset = Dataset(train, train[:1], train[:1], sizes.users, sizes.items, features, "", "", labels)
    model = REARM.make(config, dataset)
    graphs = {name: _graph(nodes, entries, kinds) for name, nodes, entries, kinds in _graphs(sizes)}
    return Experiment(config, dataset, graphs, model, make_optimizer(config, len(train)))


def placed_inputs(placement: Placement, sizes: Sizes, filled: float) -> Inputs:
    """What `placement.inputs` gives, as shapes.

    Args:
      placement: of an `abstract_experiment`.
      sizes: of the same preset.
      filled: by row, share of entries among the places of a graph's blocks.
    """
    if placement.experiment.config.parallel == "data":
        return _with_sharding(dict(placement.experiment.inputs), replicated(placement.devices))
    count, sharding = len(placement.devices), by_row(placement.devices)
    placed = {}
    for name, _, entries, kinds in _graphs(sizes):
        block = -(-round(entries / filled) // count**2)
        held = sum(-(-{"user": sizes.users, "item": sizes.items}[kind] // count) for kind in kinds)
        blocks = Blocks(*(jax.ShapeDtypeStruct((count**2, block), t, sharding=sharding) for t in "fii"))
        transposed = None if name == "user_item" else blocks
        placed[name] = RowAdjacency(blocks, transposed, held, AXIS, placement.experiment.config.ring_dtype)
    return placed


def placed_sampler(placement: Placement, sizes: Sizes) -> Sampler:
    """What `placement.sampler` gives, as shapes."""
    whole = replicated(placement.devices)
    number = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
    if placement.experiment.config.parallel == "data":
        lengths, sharding = (sizes.interactions, sizes.interactions, sizes.users + 1, sizes.interactions), whole
    else:
        count, sharding = len(placement.devices), by_row(placement.devices)
        pairs = count * -(-sizes.interactions // count)
        lengths = (pairs, pairs, count * (-(-sizes.users // count) + 1), pairs)
    return Sampler(*(jax.ShapeDtypeStruct((n,), np.int32, sharding=sharding) for n in lengths), number)


def placed_blocks(placement: Placement, sizes: Sizes) -> UserBlocks:
    """The users of an evaluation in blocks, as shapes; see `make_blocks`."""
    shares, sharding = placement.num_block_shares, replicated(placement.devices)
    num_blocks = -(-sizes.ranked_users // placement.experiment.config.evaluation.block_size)
    block = -(-sizes.ranked_users // num_blocks)
    num_blocks = -(-num_blocks // shares) * shares
    columns = (block, sizes.excluded, sizes.excluded)
    return UserBlocks(*(jax.ShapeDtypeStruct((num_blocks, c), np.int32, sharding=sharding) for c in columns))


def _graphs(sizes: Sizes) -> list[tuple[str, int, int, tuple[str, ...]]]:
    """(name, nodes, entries, kinds of nodes) of each graph."""
    return [
        ("user_item", sizes.users + sizes.items, 2 * sizes.interactions, ("user", "item")),
        ("user_user", sizes.users, sizes.entries["user_user"], ("user",)),
        ("item_item", sizes.items, sizes.entries["item_item"], ("item",)),
    ]


def _graph(nodes: int, entries: int, kinds: tuple[str, ...]) -> Adjacency:
    def make() -> Adjacency:
        flags = {"shape": (nodes, nodes), "indices_sorted": True, "unique_indices": True}
        matrix = BCOO((jnp.zeros(entries), jnp.zeros((entries, 2), jnp.int32)), **flags)
        indptr = jnp.zeros(nodes + 1, jnp.int32)
        symmetric = len(kinds) == 2
        return Adjacency(matrix, indptr, None if symmetric else matrix, None if symmetric else indptr, symmetric, kinds)

    return jax.eval_shape(make)


def _with_sharding(tree: object, sharding: jax.sharding.Sharding) -> object:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
