"""The steps of an epoch as programs of the devices."""

from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from rearm_jax.recommender.contract import Inputs
from rearm_jax.training.placement import Placement
from rearm_jax.training.sampling import make_sampler, num_without_negative
from rearm_jax.training.step import TrainState, draw_epoch, steps_per_epoch, steps_with_rates


def compile_steps(placement: Placement, inputs: Inputs) -> Callable:
    """The function that runs steps of an epoch in one device call, compiled at its first call.

    Args:
      placement: of an experiment.
      inputs: of the model, as they lie on the devices.

    Returns:
      (state, number of steps) -> (state, sums of the metrics, metrics of the last step); the state is donated.
    """
    experiment = placement.experiment
    config, num_interactions = experiment.config, len(experiment.dataset.train)
    model, rates = experiment.split_rates()
    protocol = config.protocol if model.leaking_negatives else "strict"
    sampler = make_sampler(experiment.dataset, protocol, config.negatives)
    if not model.num_shared_negatives and (full := num_without_negative(sampler)):
        logging.warning("%d train interactions have no possible negative and count in no loss", full)
    sampler = placement.sampler(sampler)
    run = placement.run(steps_with_rates, model, experiment.optimizer, config.batch_size, donate=True)
    draw = placement.run(draw_epoch, model, num_interactions, config.batch_size)
    # Kept for the epoch under way: sorting millions of numbers again for every call would take longer.
    drawn_epoch, order, changed = -1, None, dict[str, Any]()

    def run_steps(state: TrainState, num_steps: int) -> tuple[TrainState, dict, dict]:
        nonlocal drawn_epoch, order, changed
        epoch = int(state.step) // steps_per_epoch(num_interactions, config.batch_size)
        if epoch != drawn_epoch:
            drawn_epoch, (order, changed) = epoch, draw(state, inputs)
        return run(state, {**inputs, **changed}, sampler, order, np.int32(num_steps), rates)

    return run_steps
