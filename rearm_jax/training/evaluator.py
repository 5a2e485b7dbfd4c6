"""Full ranking of a split with a model: one forward pass, then all items for every user of the split."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.popularity import found_by_popularity
from rearm_jax.evaluation.ranking import UserBlocks
from rearm_jax.evaluation.splits import blocks_and_positives, scored_splits
from rearm_jax.parallel.rows import Nodes, Shard
from rearm_jax.recommender.contract import Inputs, Recommender
from rearm_jax.training.placement import Placement


def rank_blocks(
    model: Recommender,
    rank: Callable,
    k: int,
    shard: Shard,
    params: dict,
    inputs: Inputs,
    blocks: UserBlocks,
    rates: dict[str, Any],
) -> jax.Array:
    """The k best items of each user of the blocks, int32 (num_blocks, block, k), inside of a function of a placement.

    Args:
      model: without its rates.
      rank: of the placement.
      k: places in a list.
      shard: which share.
      params: the model's parameters.
      inputs: its graphs and frozen tables.
      blocks: users, and the items that are left out.
      rates: the model's.
    """
    out: Any = model.with_rates(rates).apply({"params": params}, inputs, Nodes(shard.users), Nodes(shard.items))
    return rank(shard, out, blocks, k)


class Evaluator:
    """Holds the splits' user blocks on the devices and the compiled ranking."""

    def __init__(self, placement: Placement, inputs: Inputs):
        """Args: the placement of an experiment, and the model's inputs as they lie on the devices."""
        experiment = placement.experiment
        settings = experiment.config.evaluation
        self._inputs, self._dataset = inputs, experiment.dataset
        self._ks = tuple(settings.ks)
        self._k = int(settings.metric.split("@")[1])  # of the lists that are looked at by popularity
        self._splits = {}
        for split in scored_splits(settings, experiment.dataset):
            blocks, positives = blocks_and_positives(
                experiment.dataset, split, settings.block_size, placement.num_block_shares
            )
            self._splits[split] = (placement.whole(blocks), blocks.users, positives)

        model, rates = experiment.split_rates()
        self._rates = rates["model"]
        self._rank = placement.run(rank_blocks, model, placement.rank, max(settings.ks))

    def __call__(self, params: dict, split: str, by_popularity: bool = False) -> dict[str, Any]:
        """Metrics of a split, `{"valid/recall@20": ...}`, averaged over its users; train items are left out.

        Args:
          params: the model's parameters.
          split: "valid" or "test", one of `scored_splits`.
          by_popularity: adds "test_by_popularity", see `found_by_popularity`, at the cut-off of evaluation.metric.
        """
        top_items, users, positives = self.lists(params, split)
        metrics = split_metrics(top_items, users, positives, self._ks)
        named: dict[str, Any] = {f"{split}/{name}": value for name, value in metrics.items()}
        if by_popularity:
            lists = top_items[..., : self._k]
            named[f"{split}_by_popularity"] = found_by_popularity(self._dataset, split, users, lists)
        return named

    def lists(self, params: dict, split: str) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The lists of a split's users, in blocks, the users, and their positives: what `split_metrics` takes."""
        blocks, users, positives = self._splits[split]
        return jax.device_get(self._rank(params, self._inputs, blocks, self._rates)), np.asarray(users), positives
