"""The state of a run that is used after training: the best on validation, or without validation the last."""

from rearm_jax.errors import CheckpointError
from rearm_jax.experiment import Experiment
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.placement import Placement
from rearm_jax.training.run_data import check_data


def best_params(placement: Placement, workdir: str) -> tuple[int, dict]:
    """(step, parameters) of a run's best checkpoint, as they are placed; of its last, where validation is empty.

    Raises:
      CheckpointError: there is no such checkpoint, or it belongs to other data.
    """
    with Checkpoints(workdir, placement.table_rows) as checkpoints:
        step = step_to_use(checkpoints, placement.experiment)
        if step is None and not len(placement.experiment.dataset.valid):
            raise CheckpointError(
                f"{workdir} has not ended its training, and without validation its last epoch is the one to use. Give "
                "the run's training command again: it goes on from the last checkpoint"
            )
        if step is None:
            raise CheckpointError(f"{workdir} holds no evaluated checkpoint. Train first, or check the path")
        check_data(workdir, checkpoints.read_progress(step), placement.experiment.dataset)
        return step, checkpoints.restore_params(step, placement.like().params)


def step_to_use(checkpoints: Checkpoints, experiment: Experiment) -> int | None:
    """The step that is best on validation; where that is empty, the last of all epochs. None where it is not there."""
    if len(experiment.dataset.valid):
        return checkpoints.best_step()
    step = checkpoints.latest_step()
    is_last = step is not None and checkpoints.read_progress(step)["epoch"] >= experiment.config.num_epochs
    return step if is_last else None
