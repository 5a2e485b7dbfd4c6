"""The folder of a run: what it holds, and whether this config may go on in it."""

import json
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rearm_jax.config import differences, from_json, resolve, to_json
from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.files import replace_text
from rearm_jax.training.checkpoint import checkpoint_directory
from rearm_jax.training.run_path import reached, run_path
from rearm_jax.training.writer import EVENTS_PREFIX, METRICS_FILE, write_json

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
REFIT_FILE = "refit.json"


def saved_config(workdir: str | os.PathLike) -> ConfigDict:
    """The config that a run was started with.

    Raises:
      CheckpointError: the folder holds no run.
      ConfigError: its config.json is damaged; the message names it.
    """
    path = run_path(workdir) / CONFIG_FILE
    with reached(run_path(workdir)):
        if not path.exists():
            raise CheckpointError(
                f"{workdir} is not a run folder: it has no {CONFIG_FILE}. Train first, or check the path"
            )
        content = path.read_bytes()
    try:
        return from_json(content.decode())
    except (ConfigError, ValueError) as error:  # ValueError: it is no UTF-8
        raise ConfigError(f"{path} is damaged or of another version: {error}") from error


def check_run_folder(workdir: str | os.PathLike, config: ConfigDict) -> None:
    """Refuses to go on with a run that was started with other settings.

    Raises:
      CheckpointError: names the fields that differ, with both values.
    """
    if not (run_path(workdir) / CONFIG_FILE).exists():
        return
    saved, config = saved_config(workdir), resolve(config)
    fields = differences(saved, config)
    if fields:
        lines = [f"  {name}: {_field(saved, name)!r} there, {_field(config, name)!r} here" for name in fields]
        raise CheckpointError(
            f"{workdir} holds a run with other settings:\n" + "\n".join(lines) + "\n"
            "Name another run folder, or remove that run (--overwrite does) to start anew"
        )


def clear_run_folder(workdir: str | os.PathLike) -> None:
    """Deletes the files of a run, and nothing else that may lie in the folder."""
    folder = run_path(workdir)
    directory = checkpoint_directory(folder)
    if directory.exists():
        directory.rmtree()
    for path in folder.iterdir() if folder.exists() else ():
        if path.name in (CONFIG_FILE, RESULT_FILE, REFIT_FILE, METRICS_FILE) or path.name.startswith(EVENTS_PREFIX):
            path.unlink()


def write_config(workdir: str | os.PathLike, config: ConfigDict) -> None:
    """Creates the folder and saves the resolved config in it."""
    folder = run_path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / CONFIG_FILE, to_json(config) + "\n")


def read_result(workdir: str | os.PathLike) -> dict | None:
    """The result of a finished run, or None.

    Raises:
      CheckpointError: the file is damaged.
    """
    return _read_object(workdir, RESULT_FILE)


def write_result(workdir: str | os.PathLike, result: Mapping) -> None:
    """Saves the result of a finished run."""
    write_json(run_path(workdir) / RESULT_FILE, dict(result))


def read_refit(workdir: str | os.PathLike) -> dict | None:
    """What a refit says of the run whose settings it has, or None. Raises CheckpointError where the file is damaged."""
    return _read_object(workdir, REFIT_FILE)


def write_refit(workdir: str | os.PathLike, origin: Mapping) -> None:
    """Creates the folder and saves what `read_refit` gives."""
    run_path(workdir).mkdir(parents=True, exist_ok=True)
    write_json(run_path(workdir) / REFIT_FILE, dict(origin))


def _read_object(workdir: str | os.PathLike, file: str) -> dict | None:
    path = run_path(workdir) / file
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Remove it: the same command makes it anew") from error
    return content


def _field(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config
