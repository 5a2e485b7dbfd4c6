"""What a finished run says of itself, beside its metrics."""

import math
import os
from typing import Any

import jax

from rearm_jax.evaluation.baselines import most_popular_metrics, random_metrics
from rearm_jax.evaluation.splits import scored_splits
from rearm_jax.experiment import Experiment
from rearm_jax.training.progress import Progress
from rearm_jax.training.run_folder import read_refit
from rearm_jax.training.writer import versions

# Raised with every change that gives a CPU run other numbers.
# 1: the first version. 2: a softmax's similarities are multiplied by the inverse temperature, and REARM's attentions
# share a loop: by rounding. 3: neighbours in the item semantic graph are drawn among ties; without ties, not a bit.
# 4: attention adds up by matrix products, and the meta-network's mean goes by 1,024 rows: by rounding.
NUMERICS = 4
# Runs of versions since this one differ by rounding alone, as those of a CPU and of a GPU do. A comparison takes them
# for one version, this one, and refuses others.
ALIKE_SINCE = 3


def describe_run(experiment: Experiment, progress: Progress, params: Any, workdir: str | os.PathLike) -> dict:
    """What result.json tells beside the metrics: the run, the machine, the yardsticks on the same splits, and of a
    refit the run whose settings it has.

    Args:
      experiment: what was trained.
      progress: at its end.
      params: the model's, or their shapes; without padding.
      workdir: the run folder.

    Raises:
      CheckpointError: what the folder says of the refit is damaged.
    """
    config, dataset = experiment.config, experiment.dataset
    ks = tuple(config.evaluation.ks)
    yardsticks: dict[str, dict[str, float]] = {"most_popular": {}, "random": {}}
    refit_of = read_refit(workdir)
    for name, metrics in (("most_popular", most_popular_metrics), ("random", random_metrics)):
        for split in scored_splits(config.evaluation, dataset):
            values = metrics(dataset, split, ks, block_size=config.evaluation.block_size)
            yardsticks[name].update({f"{split}/{key}": value for key, value in values.items()})
    return {
        "model": config.model.name,
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seed": config.seed,
        "protocol": config.protocol,
        "content_hash": dataset.content_hash,
        "split_hash": dataset.split_hash,
        "seconds": progress.seconds,
        "seconds_to_best": progress.best_seconds,
        "steps_per_second": progress.timed_steps / progress.step_seconds if progress.step_seconds else None,
        "devices": [device.device_kind for device in jax.devices()],
        "versions": versions(),
        "numerics": NUMERICS,
        "yardsticks": yardsticks,
        "test_scored": "test" in scored_splits(config.evaluation, dataset),
        **({"refit_of": refit_of} if refit_of else {}),
    }
