"""What a finished run says of itself, beside its metrics."""

import jax

from rearm_jax.evaluation.baselines import most_popular_metrics, random_metrics
from rearm_jax.evaluation.splits import scored_splits
from rearm_jax.experiment import Experiment
from rearm_jax.training.progress import Progress
from rearm_jax.training.writer import versions


def describe_run(experiment: Experiment, progress: Progress) -> dict:
    """What result.json tells beside the metrics: the run, the machine, and the yardsticks on the same splits."""
    config, dataset = experiment.config, experiment.dataset
    ks = tuple(config.evaluation.ks)
    yardsticks: dict[str, dict[str, float]] = {}
    for name, metrics in (("most_popular", most_popular_metrics), ("random", random_metrics)):
        for split in scored_splits(config.evaluation):
            values = metrics(dataset, split, ks, block_size=config.evaluation.block_size)
            yardsticks.setdefault(name, {}).update({f"{split}/{key}": value for key, value in values.items()})
    return {
        "model": config.model.name,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "seed": config.seed,
        "protocol": config.protocol,
        "content_hash": dataset.content_hash,
        "split_hash": dataset.split_hash,
        "seconds": progress.seconds,
        "steps_per_second": progress.timed_steps / progress.step_seconds if progress.step_seconds else None,
        "devices": [device.device_kind for device in jax.devices()],
        "versions": versions(),
        "yardsticks": yardsticks,
        "test_scored": config.evaluation.test,
    }
