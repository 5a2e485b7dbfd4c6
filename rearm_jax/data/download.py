"""Downloads the data sets of the paper from the Hugging Face hub.

    python -m rearm_jax.data.download baby|sports|clothing [--root data] [--revision R]

Files arrive in FOLDER.partial, where a later call goes on with what an interrupted one left, in the middle of a file,
too. Only when all of them are there and verified is it renamed to FOLDER; nothing is ever written into a folder that
exists. A lock, FOLDER.lock, lets one process of a machine download while the others wait. HF_ENDPOINT, HF_HUB_OFFLINE
and the login of the `hf` command work as everywhere.
"""

import contextlib
import hashlib
import logging as standard_logging
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from absl import logging

from rearm_jax.data.formats import SPLITS
from rearm_jax.data.npy import open_npy
from rearm_jax.data.options import download_parser
from rearm_jax.errors import DataError
from rearm_jax.program import DONE, INTERRUPTED, run_program

_TIMEOUT = 30  # seconds for the list of files


class HubFile(NamedTuple):
    """What a file must be: of this SHA-256, or, where a shape is given, at least of this shape and dtype."""

    sha256: str
    shape: tuple[int, ...] | None = None
    dtype: str = ""


class HubDataset(NamedTuple):
    """A dataset repository of the hub, and its files by name, wherever in the repository they lie."""

    repository: str
    files: dict[str, HubFile]


def _paper_dataset(repository: str, num_items: int, splits: tuple[str, str, str], image: str, text: str) -> HubDataset:
    files = {f"{split}.npy": HubFile(sha256) for split, sha256 in zip(SPLITS, splits, strict=True)}
    # The hashes of the features are those of the files that the field passes around; other copies may differ in detail.
    files["image_feat.npy"] = HubFile(image, (num_items, 4096), "float64")
    files["text_feat.npy"] = HubFile(text, (num_items, 384), "float32")
    return HubDataset(repository, files)


DATASETS = {
    "baby": _paper_dataset(
        "MrShouxingMa/Baby",
        7050,
        (
            "6d4c495814d61a1ea84b756f11096d468cc07113d05aecbabcef8de9cf7a1387",
            "388bd7922d74311e6afc6fbc9f6299cc85b32310109f7d67939ef90e097babb2",
            "b890fa339aca21fac9c17c27a9f1ea163ff8df9a6e4caf353c7f7cf7d689c745",
        ),
        image="36c3be592b98506189a7d5de71b21577cf626f0293b539d861534673b3e9fd70",
        text="6667f2ad655c9ecc97cb3383f58988864ef51ec0b39c158b15986c66769f2dc4",
    ),
    "sports": _paper_dataset(
        "MrShouxingMa/Sports",
        18357,
        (
            "f1f8c7a04efd251941083dd25bff7c154e2e2ff7bc3ccc240d45bd11f906fbf2",
            "a27b2d104aef08582fbf241dc3c77b9ce7fc0788962ec6f36eb9b8c0dafba649",
            "e9396ff247c58b918a915bc95f19574492c0cf3f8ae104b77ac2447b15f77970",
        ),
        image="222f924a0694b6c7e2bc26ea4bc2ef4ec89f7045aa5105ef463af8455c7a7695",
        text="27d6087f0d8644b8245c60052425530c6446dffe61024b8126db0009ad94de84",
    ),
    "clothing": _paper_dataset(
        "MrShouxingMa/Clothing",
        23033,
        (
            "685fe396e4a8d3c6cf465a9e8421e1fa07b7d187e7fa1dc996578f11a7de896a",
            "3f8c581fa0680e5886d4781a4a551868d47138c9b2d4d1cbe886d17cef3fedcd",
            "272ba8177a70a973842bc30eafe0d7ae7d641c5117600a0f23b24319c7ad7a61",
        ),
        image="050ea2d0d05bdd441053cc4d9ac38fd570c9611cc49357f442c1c7b8c9943fbc",
        text="17d9e036514283fb0a0dda71789fe56d0c128b60d8f350e7b7ab83ac4c5960dd",
    ),
}


def download(name: str, folder: str | os.PathLike, revision: str = "main") -> None:
    """Makes sure that `folder` holds the data set, verified; downloads it if there is no such folder.

    Interactions must have the known SHA-256. Features must have the known shape and dtype, and another SHA-256 is a
    warning. Several processes may call this at once for the same folder: one downloads, the others wait and verify.

    Args:
        name: one of DATASETS.
        folder: where the files shall be, such as "data/baby".
        revision: branch, tag or commit of the repository.

    Raises:
        DataError: the hub cannot be reached or lacks a file, or a file (also one that is there) is not the known one.
    """
    folder = os.path.normpath(os.fspath(folder))
    if os.path.lexists(folder) or not _download_once(name, folder, revision):
        try:
            _verify(DATASETS[name], folder)
        except DataError as error:
            raise DataError(
                f"{folder} exists, and is not the data set {name}: {error}. Nothing was changed; move it elsewhere, or "
                "choose another folder"
            ) from error
        logging.info("%s is complete and verified: nothing to download", folder)


def _download_once(name: str, folder: str, revision: str) -> bool:
    """Downloads while no other process does. False if another one has done it in the meantime."""
    from huggingface_hub.utils import WeakFileLock  # slow to import: only where it is needed

    for noisy in ("httpx", "httpx2"):
        standard_logging.getLogger(noisy).setLevel(standard_logging.WARNING)  # else every request is a line in the log
    partial = f"{folder}.partial"
    with _explained(name, folder, revision):
        os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
        with WeakFileLock(f"{folder}.lock"):
            was_there = os.path.lexists(folder)
            if not was_there:
                os.makedirs(partial, exist_ok=True)
                _fetch_all(DATASETS[name], partial, revision)
                _verify(DATASETS[name], partial)
                os.rename(partial, folder)
                logging.info("%s: %s downloaded and verified", folder, name)
            with contextlib.suppress(FileNotFoundError):
                os.remove(f"{folder}.lock")  # whoever waits, for this or a new one, will find the folder
    return not was_there


def _fetch_all(dataset: HubDataset, partial: str, revision: str) -> None:
    """Downloads what `partial` lacks, and removes everything else from it."""
    from huggingface_hub import HfApi, hf_hub_url

    info = HfApi().dataset_info(dataset.repository, revision=revision, files_metadata=True, timeout=_TIMEOUT)
    found = {name: [s for s in info.siblings or () if s.rfilename.split("/")[-1] == name] for name in dataset.files}
    for name, siblings in found.items():
        if len(siblings) != 1:
            there = ", ".join(s.rfilename for s in siblings or info.siblings or ()) or "nothing"
            raise DataError(f"{name} is {'ambiguous' if siblings else 'missing'} in {dataset.repository}: {there}")
    keep = set()
    for name, [sibling] in found.items():
        digest = (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest) or sibling.size is None:  # it becomes a file's name
            raise DataError(f"{dataset.repository} lists {sibling.rfilename} without size and hash")
        path = os.path.join(partial, name)
        if not (os.path.exists(path) and _is_blob(path, sibling.size, digest)):
            url = hf_hub_url(dataset.repository, sibling.rfilename, repo_type="dataset", revision=info.sha or revision)
            _fetch(url, path, sibling.size, digest)
        keep.add(name)
    for name in set(os.listdir(partial)) - keep:
        os.remove(os.path.join(partial, name))


def _fetch(url: str, path: str, size: int, digest: str) -> None:
    """Downloads to `path`, from where an earlier call for the same content was broken off."""
    from huggingface_hub.file_download import http_get  # hf_hub_download starts a file that broke off from its start
    from huggingface_hub.utils import build_hf_headers

    incomplete = f"{path}.{digest}.incomplete"  # by content: another revision must not be appended
    with open(incomplete, "ab") as file:
        if file.tell() > size:
            file.seek(0)
            file.truncate()
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers() | {"Accept-Encoding": "identity"},  # else the ranges are of compressed bytes
            expected_size=size,
            displayed_filename=os.path.basename(path),
        )
        file.flush()
        os.fsync(file.fileno())
    if not _is_blob(incomplete, size, digest):
        os.remove(incomplete)
        raise DataError(f"{os.path.basename(path)} arrived damaged, and was removed: try again")
    os.replace(incomplete, path)


def _is_blob(path: str, size: int, digest: str) -> bool:
    """Whether a file has the size and hash that the hub lists: SHA-256, or the SHA-1 of a git blob."""
    if os.path.getsize(path) != size:
        return False
    with open(path, "rb") as file:
        sha = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: sha).hexdigest() == digest


def _verify(dataset: HubDataset, folder: str) -> None:
    for name, expected in dataset.files.items():
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            raise DataError(f"{path} is missing")
        array = open_npy(path)
        if expected.shape and (array.shape, array.dtype) != (expected.shape, np.dtype(expected.dtype)):
            raise DataError(
                f"{path} holds {array.dtype} {array.shape}, and must hold {expected.dtype} {expected.shape}"
            )
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 == expected.sha256:
            continue
        if not expected.shape:
            raise DataError(f"{path} has the SHA-256 {sha256}, and must have {expected.sha256}")
        logging.warning(
            "%s has the SHA-256 %s, and the copy in common use %s: the shape is right, but numbers may differ from "
            "published ones",
            path,
            sha256,
            expected.sha256,
        )


@contextlib.contextmanager
def _explained(name: str, folder: str, revision: str) -> Iterator[None]:
    """Turns whatever goes wrong on the way into a DataError that says what to do."""
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/datasets/{DATASETS[name].repository}"
    try:
        yield
    except DataError as error:
        raise DataError(f"{page}, revision {revision}: {error}. Nothing was put into {folder}") from error
    except Exception as error:  # of the hub's library, of its HTTP library, of the disk, of JSON that is none
        raise DataError(
            f"{name} could not be downloaded from {page}: {_reason(error, revision)}. What has arrived is kept in "
            f"{folder}.partial, and the same command goes on from there. By hand: open {page}/tree/{revision}, and "
            f"save {', '.join(DATASETS[name].files)} in a new folder {folder}"
        ) from error


def _reason(error: Exception, revision: str) -> str:
    from huggingface_hub import errors

    first_line = (str(error).splitlines() or [""])[0]
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE is set)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"there is no revision {revision!r}"
    if isinstance(error, errors.GatedRepoError):
        return "its owner grants access on that page, after `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such data set, or it is private (then `hf auth login`)"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answered {error.response.status_code} ({first_line})"
    if isinstance(error, OSError):
        return str(error) if error.errno else f"the connection broke off ({first_line})"
    return f"no connection ({type(error).__name__}: {first_line})"


def main() -> int:
    """The command line; returns one of the exit codes of rearm_jax/program.py."""
    return run_program(_run)


def _run() -> int:
    options = download_parser(tuple(DATASETS)).parse_args()
    folder = os.path.join(options.root, options.name)
    try:
        download(options.name, folder, options.revision)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    print(folder)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
