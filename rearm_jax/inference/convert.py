"""The original's PyTorch weights to a run folder, and a run's parameters back to PyTorch.

    python -m rearm_jax.inference.convert to-run --weights original.pt --config configs/baby.py --workdir runs/original
    python -m rearm_jax.inference.convert from-run --workdir runs/baby --out baby.safetensors

The weights are the original's state_dict, as .safetensors or, with torch installed, .pt (read as tensors alone: no code
in the file is run). `to-run` needs the data of the config. It evaluates on validation; the folder then is that of a run
that stands before its first step: --mode=evaluate scores it, and --mode=train with the same config goes on from these
weights with a new optimiser, and keeps them as the best until an epoch is better.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from rearm_jax.command_line import PathParser, parse_flags
from rearm_jax.errors import ConfigError, DataError, RearmError
from rearm_jax.experiment import Experiment, abstract_params, build_experiment
from rearm_jax.inference.extras import import_extra
from rearm_jax.inference.output import check_output_file, check_output_folder, output_file, output_folder
from rearm_jax.inference.trained import Trained, load_trained
from rearm_jax.models.rearm.torch_weights import from_torch, to_torch
from rearm_jax.program import DONE, help_was_asked_for, run_program
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.loop import stopping_value
from rearm_jax.training.placement import place
from rearm_jax.training.precision import without_x64
from rearm_jax.training.progress import Progress
from rearm_jax.training.run_data import data_sizes
from rearm_jax.training.run_folder import write_config
from rearm_jax.training.tree_differences import tree_differences

SUFFIXES = (".safetensors", ".pt")
_SHOWN = 5  # differences in a message


def to_run(weights: str | os.PathLike, config: ConfigDict, workdir: str | os.PathLike) -> dict[str, float]:
    """Makes a run folder of the original's state_dict, whole or not at all.

    Args:
      weights: a file of SUFFIXES.
      config: of REARM with two modalities; its data must be there.
      workdir: must not be there yet, or be empty.

    Returns:
      The validation metrics, {"valid/recall@20": ...}.

    Raises:
      ConfigError: the config or the folder will not do, or a package is missing.
      DataError: the weights or the data cannot be used, or do not belong together.
    """
    check_output_folder(workdir)
    _check_model(config)
    state = read_state(weights)
    computed = config.copy_and_resolve_references()  # on one device, whatever the run shall do
    with computed.unlocked():
        computed.parallel = "data"
    experiment = build_experiment(computed)
    if not len(experiment.dataset.valid):
        raise DataError("validation is empty, and the weights are scored on it: use data with validation")
    placement = place(experiment)
    params = placement.whole(_fitting_params(state, experiment, weights))
    metrics = Evaluator(placement, placement.inputs())(params, "valid")
    value = stopping_value(metrics, config)
    progress = Progress(experiment.dataset.content_hash, sizes=data_sizes(experiment.dataset))
    progress.observe(value)
    rest = placement.state()._replace(opt_state=experiment.tx.init(params)).rest()
    with output_folder(workdir) as folder:
        write_config(folder, config)
        with Checkpoints(folder, placement.table_rows) as checkpoints:
            checkpoints.save(0, params, rest, dataclasses.asdict(progress), value)
    logging.info("run folder: %s (%s)", workdir, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return metrics


def from_run(trained: Trained, out: str | os.PathLike) -> None:
    """Writes a run's parameters as the original's state_dict; a file that is there is replaced.

    Args:
      trained: an opened run of REARM with two modalities.
      out: a file of SUFFIXES.

    Raises:
      ConfigError: the model is another, a package is missing, or the file cannot be written.
    """
    config = trained.experiment.config
    _check_model(config)
    check_state_file(out)
    check_output_file(out)
    state = to_torch(trained.params, config.data.modalities)
    with output_file(out) as path:
        if str(out).endswith(".pt"):
            torch = _torch()
            torch.save({name: torch.from_numpy(array.copy()) for name, array in state.items()}, path)
        else:
            _safetensors().save_file(state, path)
    logging.info("weights: %s", out)


def read_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """A state_dict from a file of SUFFIXES, as float32 arrays.

    Raises:
      ConfigError: the suffix is another, or a package is missing.
      DataError: the file cannot be read, or holds anything but finite floating-point tensors under names.
    """
    check_state_file(path)
    if not os.path.isfile(path):
        raise DataError(f"{path}: there is no such file")
    try:
        state = _load_pt(path) if str(path).endswith(".pt") else _safetensors().load_file(path)
    except RearmError:
        raise
    except Exception as error:  # damage surfaces as every kind of exception
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path} cannot be read as tensors: {type(error).__name__}: {reason}") from error
    for name, array in state.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise DataError(f"{path}: {name} is {array.dtype} {array.shape}, and must be finite floats")
    return {name: array.astype(np.float32) for name, array in state.items()}


def check_state_file(path: str | os.PathLike) -> None:
    """Raises ConfigError unless files of that suffix can be read and written."""
    if not str(path).endswith(SUFFIXES):
        raise ConfigError(f"{path}: the name must end in {' or '.join(SUFFIXES)}")
    _ = _torch() if str(path).endswith(".pt") else _safetensors()  # raises where it is missing


def _torch() -> ModuleType:
    return import_extra("torch", "convert", ".pt files")


def _safetensors() -> ModuleType:
    return import_extra("safetensors.numpy", "convert", ".safetensors files")


def _load_pt(path: str | os.PathLike) -> dict[str, np.ndarray]:
    torch = _torch()
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise DataError(f"{path} holds {type(state).__name__}, and must hold a state_dict: save model.state_dict()")
    return {str(name): tensor.detach().float().numpy() for name, tensor in state.items()}


def _fitting_params(state: Mapping[str, np.ndarray], experiment: Experiment, weights: str | os.PathLike) -> dict:
    """Parameters from the state_dict; raises DataError unless they are those of the experiment's model."""
    try:
        params = from_torch(state, experiment.config.data.modalities)
    except ValueError as error:
        raise DataError(f"{weights}: {error}") from error
    if different := tree_differences(params, abstract_params(experiment)):
        more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise DataError(
            f"{weights} does not fit the config and its data (here): {'; '.join(different[:_SHOWN])}{more}. Use the "
            "data and the settings of those weights"
        )
    return params


def _check_model(config: ConfigDict) -> None:
    if config.model.name != "rearm" or len(config.data.modalities) != 2:
        raise ConfigError(
            f"model.name is {config.model.name!r} with modalities {tuple(config.data.modalities)}: the original is "
            "REARM with two modalities, and nothing else can be converted"
        )


def main() -> int:
    """The command line; returns one of the exit codes of rearm_jax/program.py."""
    return run_program(_run)


def _run() -> int:
    config = config_flags.DEFINE_config_file("config", None, "to-run: configs/NAME.py", lock_config=True)
    weights = flags.DEFINE(PathParser(), "weights", None, "to-run: the state_dict, .safetensors or .pt")
    workdir = flags.DEFINE(PathParser(), "workdir", None, "the run folder")
    out = flags.DEFINE(PathParser(), "out", None, "from-run: the file to write, .safetensors or .pt")
    known = [flags.FLAGS[name] for name in ("config", "weights", "workdir", "out")]
    if help_was_asked_for("python -m rearm_jax.inference.convert", __doc__, known):
        return DONE
    command = parse_flags(sys.argv)[1:]
    with without_x64():
        if command == ["to-run"]:
            to_run(_given(weights), _given(config), _given(workdir))
        elif command == ["from-run"]:
            path = _given(out)
            check_state_file(path)
            check_output_file(path)
            from_run(load_trained(_given(workdir)), path)
        else:
            raise ConfigError(f"name one thing to do, to-run or from-run; found: {' '.join(command) or 'nothing'}")
    return DONE


def _given(flag: flags.FlagHolder) -> Any:
    """The value of a flag; raises ConfigError where it is missing."""
    if flag.value is None:
        raise ConfigError(f"--{flag.name} is missing; --help tells which flags there are")
    return flag.value


if __name__ == "__main__":
    sys.exit(main())
