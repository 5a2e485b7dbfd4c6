"""The training loop: epochs on the device, evaluation, early stopping, checkpoints, and at the end the test split."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from rearm_jax.errors import CheckpointError
from rearm_jax.evaluation.scoring import dot_products
from rearm_jax.evaluation.splits import scored_splits
from rearm_jax.experiment import Experiment, abstract_params
from rearm_jax.recommender.fitted import Fitted
from rearm_jax.training.best_step import best_params, step_to_use
from rearm_jax.training.check_finite import check_numbers, check_state
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.disk import say_disk
from rearm_jax.training.display import EpochDisplay
from rearm_jax.training.distributed import agree, check_shared, first_only, is_first
from rearm_jax.training.epoch import compile_steps
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.fit import evaluate_fitted, train_fitted
from rearm_jax.training.interrupt import StopRequest, stop_on_signal
from rearm_jax.training.lock import RunLock
from rearm_jax.training.placement import Placement, place
from rearm_jax.training.progress import Progress
from rearm_jax.training.residual import fit_residual, residual_metrics, saved_residual, weigh_residual
from rearm_jax.training.result import describe_run
from rearm_jax.training.run_data import check_data, data_sizes
from rearm_jax.training.run_folder import CONFIG_FILE, read_result, write_config, write_result
from rearm_jax.training.run_path import run_path
from rearm_jax.training.step import TrainState, steps_per_epoch
from rearm_jax.training.warm_start import warm_state
from rearm_jax.training.watcher import OnEvaluation, Watcher
from rearm_jax.training.writer import RunWriter

# How long a device call should take, where an epoch takes longer: between calls signals and the bar are served.
CALL_SECONDS = 4.0


def train(
    experiment: Experiment, workdir: str, lock: RunLock | None = None, on_evaluation: OnEvaluation | None = None
) -> tuple[dict | None, int | None]:
    """Trains until early stopping or num_epochs, from where the run folder stands; fits a fitted model.

    Without validation there is no early stopping: num_epochs are trained, and the last state is the one to use.

    Args:
      experiment: what is trained.
      workdir: run folder, made where it is missing.
      lock: of the folder, held by the caller; where it is lost, nothing more is saved.
      on_evaluation: called after each evaluation that has been saved (without validation: where one would be), with
        what metrics.jsonl has of it; "stop" stops the run as SIGTERM does, and so does what it raises, which is raised
        in the end. In a run of several processes each calls its own.

    Returns:
      (result, None) of a finished run, or (None, number of the signal) of one that was asked to stop: the same command
      goes on with it.

    Raises:
      NonFiniteError: a loss, gradient, parameter or metric was NaN or infinite; the checkpoints stay.
      CheckpointError: the run folder cannot be resumed or written.
    """
    watcher = Watcher(on_evaluation)
    outcome: tuple[dict | None, int | None]
    with _disk_explained(workdir):
        if isinstance(experiment.model, Fitted):
            outcome = train_fitted(experiment, workdir, lock, watcher), None
        else:
            outcome = _train_learned(experiment, workdir, lock, watcher)
    watcher.raise_error()
    return outcome


def _train_learned(
    experiment: Experiment, workdir: str, lock: RunLock | None, watcher: Watcher
) -> tuple[dict | None, int | None]:
    config, placement = experiment.config, place(experiment)
    with Checkpoints(workdir, placement.table_rows, config.checkpoints.keep) as checkpoints:
        state, progress = _start(placement, checkpoints)
        is_over = functools.partial(progress.is_over, config.num_epochs, config.patience)
        result = read_result(workdir)
        if is_over() and result and result["steps"] == int(state.step):
            logging.info(
                "%s is finished (%d epochs, best %d); nothing to do", workdir, progress.epoch, result["best_epoch"]
            )
            return result, None

        if is_first():
            say_disk(placement, workdir, is_new=checkpoints.latest_step() is None)
        if not len(experiment.dataset.valid):
            logging.info("no validation: %d epochs are trained, and the last is the one to use", config.num_epochs)
        first_only(write_config, workdir, config)
        check_shared(run_path(workdir) / CONFIG_FILE)
        if experiment.residual:
            fit_residual(experiment, workdir)
        inputs = placement.inputs()
        evaluate = Evaluator(placement, inputs)
        run_steps = compile_steps(placement, inputs)
        if not is_over():
            start = time.perf_counter()
            state, *_ = run_steps(state, 0)  # compiles, and does no step
            logging.info("compiled the train step in %.1f s", time.perf_counter() - start)
        # Up to here there is nothing to save: a signal simply ends the process.
        with stop_on_signal() as request:
            with _open_writer(workdir, config, int(state.step)) as writer:
                while not is_over():
                    state, stopped_by = _run_epoch(run_steps, state, progress, experiment, checkpoints, request)
                    if lock:
                        lock.check()
                    if stopped_by is not None:
                        _save(checkpoints, state, progress, math.nan)
                        checkpoints.wait()
                        logging.warning("saved step %d; the same command goes on from there", int(state.step))
                        return None, stopped_by
                    metrics = _end_epoch(evaluate, state, progress, experiment, checkpoints, writer)
                    if metrics is not None:
                        watcher(metrics, request)

            best_step = step_to_use(checkpoints, experiment)
            if best_step is None:
                raise CheckpointError(f"{workdir}: no evaluation gave a finite {config.evaluation.metric}")
            params = checkpoints.restore_params(best_step, placement.like().params)
            if experiment.residual:
                scores = dot_products(*placement.representations(params, inputs))
                result = weigh_residual(experiment, workdir, best_step, scores)
            else:
                scored = scored_splits(config.evaluation, experiment.dataset)
                result = evaluate(params, "valid") if "valid" in scored else {}
                if "test" in scored:
                    result |= evaluate(params, "test", by_popularity=True)
            about = describe_run(experiment, progress, abstract_params(experiment), workdir)
            result |= about | {"best_step": best_step, "steps": int(state.step)}
            if is_first():
                write_result(workdir, result)
            return result, None


def evaluate_run(experiment: Experiment, workdir: str) -> dict[str, float]:
    """Metrics on validation, and on test where the run scores it, of the best checkpoint; reads the parameters alone.

    Raises:
      CheckpointError: there is no evaluated checkpoint, it belongs to other data, there is nothing to score, or the run
        has a residual and has not ended.
    """
    if not scored_splits(experiment.config.evaluation, experiment.dataset):
        raise CheckpointError(f"{workdir}: validation and test are empty, and there is nothing to score")
    if isinstance(experiment.model, Fitted):
        return evaluate_fitted(experiment, workdir)
    placement = place(experiment)
    step, params = best_params(placement, workdir)
    logging.info("evaluating step %d of %s", step, workdir)
    inputs = placement.inputs()
    if experiment.residual:
        residual = saved_residual(experiment, workdir, step)
        return residual_metrics(experiment, residual, dot_products(*placement.representations(params, inputs)))
    evaluate = Evaluator(placement, inputs)
    metrics: dict[str, float] = {}
    for split in scored_splits(experiment.config.evaluation, experiment.dataset):
        metrics |= evaluate(params, split)
    return metrics


def _start(placement: Placement, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """The state at the latest checkpoint, or a new one, which config.init_from may start from another run."""
    dataset, step = placement.experiment.dataset, checkpoints.resume_step()
    if step is None:
        state = warm_state(placement) if placement.experiment.config.init_from else placement.state()
        return state, Progress(dataset.content_hash, sizes=data_sizes(dataset))

    like = placement.like()
    params, rest, saved = checkpoints.restore(step, like.params, like.rest())
    try:
        progress = Progress(**saved)
    except TypeError as error:
        raise CheckpointError(f"step {step} of {checkpoints.directory} is of another version: {error}") from error
    check_data(checkpoints.directory, saved, dataset)
    progress.sizes = data_sizes(dataset)
    logging.info("resuming at step %d, after epoch %d", step, progress.epoch)
    return TrainState(params, **rest), progress


def stopping_value(metrics: Mapping[str, float], config: ConfigDict) -> float:
    """The validation metric that early stopping and the best checkpoint go by; `metrics` are those of "valid"."""
    value = metrics[f"valid/{config.evaluation.metric}"]
    # The published system compares the metric as it prints it, with four decimals.
    return round(value, 4) if config.protocol == "reference" else value


def _run_epoch(
    run_steps: Callable,
    state: TrainState,
    progress: Progress,
    experiment: Experiment,
    checkpoints: Checkpoints,
    request: StopRequest,
) -> tuple[TrainState, int | None]:
    """The rest of the epoch under way, or as much of it as a stop request leaves; adds to `progress`.

    Returns:
      The state, and the number of the signal that asks this process or another one to stop, or None.
    """
    config = experiment.config
    total = steps_per_epoch(len(experiment.dataset.train), config.batch_size)
    done = int(state.step) - progress.epoch * total
    speed = progress.timed_steps / progress.step_seconds if progress.step_seconds else 0.0
    with EpochDisplay(progress.epoch + 1, total, done, config.log.progress) as display:
        while True:
            call_steps = min(total - done, max(1, round(speed * CALL_SECONDS)))
            stopped_by, call_steps = agree(request.signal, call_steps)
            if stopped_by is not None or not call_steps:
                break
            checkpoints.raise_if_failed()
            start = time.perf_counter()
            state, sums, last = run_steps(state, call_steps)
            sums, last = jax.device_get((sums, last))
            seconds = time.perf_counter() - start
            check_numbers(last, int(state.step))
            progress.sums = {name: progress.sums.get(name, 0.0) + float(value) for name, value in sums.items()}
            progress.seconds += seconds
            progress.step_seconds += seconds
            progress.timed_steps += call_steps
            speed = call_steps / seconds
            done += call_steps
            display.update(call_steps)
    check_state(state)
    return state, stopped_by


def _end_epoch(
    evaluate: Evaluator,
    state: TrainState,
    progress: Progress,
    experiment: Experiment,
    checkpoints: Checkpoints,
    writer: RunWriter | None,
) -> dict[str, Any] | None:
    """Ends the epoch: evaluates where it is due (if there is validation), writes the metrics, and saves the state.

    Returns:
      The line of metrics.jsonl where an evaluation was due, else None.
    """
    config, step = experiment.config, int(state.step)
    total = steps_per_epoch(len(experiment.dataset.train), config.batch_size)
    progress.epoch += 1
    values: dict[str, Any] = {"epoch": progress.epoch}
    values |= {f"train/{name}": value / total for name, value in progress.sums.items()}
    progress.sums = {}
    is_due = progress.epoch % config.eval_every == 0 or progress.epoch >= config.num_epochs
    value, said = math.nan, ""
    if is_due and len(experiment.dataset.valid):
        start = time.perf_counter()
        values |= evaluate(state.params, "valid")
        progress.seconds += time.perf_counter() - start
        check_numbers(values, step)
        value = stopping_value(values, config)
        progress.observe(value)
        best = math.nan if progress.best_value is None else progress.best_value
        said = f"  valid/{config.evaluation.metric} {value:.4f}  best {best:.4f} at epoch {progress.best_epoch}"
        said += f"  {progress.seconds:.0f} s"
    elif is_due:
        progress.best_epoch = progress.epoch
        said = "  saved"
    if writer:
        writer.write(step, values)
    if is_due:
        _save(checkpoints, state, progress, value)
    logging.info("epoch %d  step %d  loss %.4f%s", progress.epoch, step, values["train/loss"], said)
    return {"step": step} | values if is_due else None


def _open_writer(workdir: str, config: ConfigDict, step: int) -> contextlib.AbstractContextManager[RunWriter | None]:
    """The writer of process 0; the others have none."""
    if not is_first():
        return contextlib.nullcontext()
    return RunWriter(workdir, config.log.tensorboard, resume_step=step)


@contextlib.contextmanager
def _disk_explained(workdir: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{workdir} cannot be written or read: {error}. See that the disk has room and the folder is writable; "
            "the same command goes on from the last checkpoint"
        ) from error


def _save(checkpoints: Checkpoints, state: TrainState, progress: Progress, metric: float) -> None:
    checkpoints.save(int(state.step), state.params, state.rest(), dataclasses.asdict(progress), metric)
