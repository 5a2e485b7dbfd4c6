"""The record that marks a checkpoint as finished: what JSON holds of it, and a digest of every file beside it.

Orbax loads a value file with a flipped bit without a word, and takes an empty folder for a step. So the last thing
written into a step's folder is this record, and nothing is loaded whose files are not the ones that it names. Digests
of files rather than of arrays: they cover every byte that a restore reads, do not depend on how an array is spread
over devices and processes, and one process can compute them while the next epoch trains.
"""

import hashlib
import json

from etils import epath

from rearm_jax.errors import CheckpointError
from rearm_jax.files import replace_text

RECORD_FILE = "finished.json"
DELETED = {"deleted": True}  # the record of a step that is being deleted
GONE = ".deleted"  # after the number of a step of which nothing else is left
_CHUNK_BYTES = 1 << 22


def file_digests(folder: epath.Path) -> dict[str, str]:
    """SHA-256 (hex) of every file under `folder` but the record, by its path inside `folder`."""
    return {name: _sha256(folder / name) for name in sorted(_file_names(folder, "")) if name != RECORD_FILE}


def write_record(folder: epath.Path, record: dict) -> None:
    """Writes the record, all or nothing. What JSON can hold, and under "files" the `file_digests` of the folder."""
    replace_text(folder / RECORD_FILE, json.dumps({"sha256": _digest_of_record(record), "record": record}) + "\n")


def read_record(folder: epath.Path) -> dict | None:
    """The record of a step's folder, or None where there is none: its save was not finished.

    Raises:
      CheckpointError: it is damaged.
    """
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_bytes())
        record = content["record"]
        if content["sha256"] != _digest_of_record(record):
            raise ValueError("it is not what was written")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    return record


def delete_step(folder: epath.Path) -> None:
    """Deletes a step; where that is cut short, its record says that it was to be deleted, not that it is damaged."""
    write_record(folder, DELETED)
    for path in folder.iterdir():
        if path.is_dir():
            path.rmtree()
        elif path.name != RECORD_FILE:
            path.unlink()
    gone = folder.parent / f"{folder.name}{GONE}"  # in one stroke: without its record the folder would seem damaged
    folder.rename(gone)
    gone.rmtree()


def find_damage(folder: epath.Path, record: dict, item: str | None = None) -> str | None:
    """What is wrong with the files that the record names, or None.

    Args:
      folder: of the step.
      record: of the step.
      item: looks only at what a restore of this item reads; None at all.
    """
    for name, digest in record["files"].items():
        if item is not None and "/" in name and not name.startswith(f"{item}/"):
            continue
        try:
            found = _sha256(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error})"
        if found != digest:
            return f"{name} is not what was written"
    return None


def _file_names(folder: epath.Path, prefix: str) -> list[str]:
    names: list[str] = []
    for path in folder.iterdir():
        name = prefix + path.name
        names += _file_names(path, f"{name}/") if path.is_dir() else [name]
    return names


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_of_record(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
