"""Full ranking of a split with a model: one forward pass, then all items for every user of the split."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from rearm_jax.data.dataset import group_by_user
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.popularity import found_by_popularity
from rearm_jax.evaluation.ranking import UserBlocks, make_blocks, rank_items, rank_scores
from rearm_jax.experiment import Experiment
from rearm_jax.graphs.build import Graphs
from rearm_jax.models.representations import Representations
from rearm_jax.training.parallel import RowShard, Shard, replicate
from rearm_jax.training.placement import run_parallel


class Evaluator:
    """Holds the splits' user blocks on the devices and the compiled ranking."""

    def __init__(self, experiment: Experiment, graphs: Graphs):
        """Args: the experiment, and its graphs as they lie on the devices."""
        dataset, settings = experiment.dataset, experiment.config.evaluation
        seen = group_by_user(dataset.train, dataset.num_users)
        self._graphs, self._dataset = graphs, dataset
        self._ks = tuple(settings.ks)
        self._k = int(settings.metric.split("@")[1])  # of the lists that are looked at by popularity
        by_row = experiment.config.parallel == "row"
        num_devices = 1 if by_row else jax.device_count()  # that share the blocks; by row, all work on every block
        self._splits = {}
        for split, pairs in (("valid", dataset.valid), ("test", dataset.test)):
            blocks = make_blocks(np.unique(pairs[:, 0]), seen, settings.block_size, num_devices)
            self._splits[split] = (replicate(blocks), blocks.users, group_by_user(pairs, dataset.num_users))

        def rank(shard: Shard, params: dict, graphs: Graphs, blocks: UserBlocks) -> jax.Array:
            out: Any = experiment.model.apply(
                {"params": params}, graphs, train=False, user_rows=shard.users, item_rows=shard.items
            )
            if shard.by_row:
                return _rank_by_row(shard, out, blocks, max(self._ks))
            mine = jax.tree.map(shard.rows, blocks)
            top_items, _ = rank_items(out.users, out.items, mine, max(self._ks))
            return shard.gather(top_items)

        self._rank = run_parallel(experiment, rank)

    def __call__(self, params: dict, split: str, by_popularity: bool = False) -> dict[str, Any]:
        """Metrics of a split, `{"valid/recall@20": ...}`, averaged over its users; train items are left out.

        Args:
          params: the model's parameters.
          split: "valid" or "test".
          by_popularity: adds "test_by_popularity", see `found_by_popularity`, at the cut-off of evaluation.metric.
        """
        blocks, users, positives = self._splits[split]
        top_items = jax.device_get(self._rank(params, self._graphs, blocks))
        metrics = split_metrics(top_items, users, positives, self._ks)
        named: dict[str, Any] = {f"{split}/{name}": value for name, value in metrics.items()}
        if by_popularity:
            lists = top_items[..., : self._k]
            named[f"{split}_by_popularity"] = found_by_popularity(self._dataset, split, np.asarray(users), lists)
        return named


def _rank_by_row(shard: Shard, out: Representations, blocks: UserBlocks, k: int) -> jax.Array:
    """`rank_items` where representations are sharded by row: every device ranks its own items for every user.

    The best of the devices' best are the best of all; a device holds block x num_items / devices scores at a time.

    Args:
      shard: this device's place.
      out: the rows that it holds.
      blocks: users and excluded items by their numbers in the whole tables.
      k: number of items in a list.

    Returns:
      int32 (num_blocks, block, k), as `rank_items` has it.
    """
    mine_rows = cast(RowShard, shard.items)
    first, held = mine_rows.first_row, out.items.shape[0]

    def rank_block(block: UserBlocks) -> jax.Array:
        users = shard.users.lookup(lambda places: out.users[places], block.users)
        scores = jnp.matmul(users, out.items.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
        excluded = block.excluded_items - first
        is_held = (excluded >= 0) & (excluded < held)
        mine = block._replace(
            excluded_rows=jnp.where(is_held, block.excluded_rows, len(block.users)),  # out of bounds: dropped
            excluded_items=jnp.where(is_held, excluded, 0),
        )
        items, scores = rank_scores(jnp.where(mine_rows.is_row, scores, -jnp.inf), mine, min(k, held))
        items = jnp.where(items >= 0, items + first, -1)
        # Equal scores keep the order of the devices, which is that of the items.
        all_items, all_scores = shard.gather(items.T).T, shard.gather(scores.T).T
        _, best = jax.lax.top_k(all_scores, k)
        return jnp.take_along_axis(all_items, best, axis=1)

    return jax.lax.map(rank_block, blocks)
