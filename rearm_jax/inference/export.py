"""A trained run as plain files: vectors or a fit, outside ids, an index, a score function, a README."""

import importlib.util
import os
from pathlib import Path

import numpy as np
from absl import logging

from rearm_jax.config import to_json
from rearm_jax.data.dataset import Dataset, group_by_user
from rearm_jax.errors import ConfigError, RearmError, how_to_install
from rearm_jax.inference import score_function
from rearm_jax.inference.export_readme import export_readme
from rearm_jax.inference.extras import import_extra
from rearm_jax.inference.output import check_output_folder, output_folder
from rearm_jax.inference.seen import find_seen
from rearm_jax.inference.trained import Trained
from rearm_jax.recommender.fitted import Fitted, Params

INDEX_DEPTH = 20  # places of a list in which the index must agree with exact ranking
INDEX_USERS = 2048  # that are compared, spread over all; all where there are fewer
_MARK = "score.stablehlo"  # a folder with this file is an export
_ROW_GROUP = 2**16
_CHECKED_USERS = 64  # at a time
_TIE = 1e-5  # relative difference of scores that rounding can turn round


def export_run(
    trained: Trained,
    out_dir: str | os.PathLike,
    seen: str | os.PathLike = "all",
    user_column: str | None = None,
    item_column: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a folder, whole or not at all; its README.md says what is in it.

    The index is left out, with a word in the log, where faiss is not installed; a fitted model has none.

    Args:
      trained: an opened run.
      out_dir: must not be there yet, or be empty, but for `overwrite`.
      seen, user_column, item_column: what users have already, for `find_seen`; a table beside the vectors.
      overwrite: whether an export that is there is replaced, once the new one is whole.

    Raises:
      ConfigError: a package is missing, or the folder cannot be written.
      DataError: what users have cannot be read.
      RearmError: the index does not rank as the vectors do.
    """
    check_export(out_dir, overwrite)
    experiment = trained.experiment
    dataset, labels = experiment.dataset, experiment.dataset.labels
    fitted = experiment.model if trained.is_fitted else experiment.residual
    if fitted and type(fitted).traced_scores is Fitted.traced_scores:
        raise ConfigError(f"export: {fitted.title} has no `traced_scores`, which the score function is made of")
    bought = find_seen(dataset, seen, user_column, item_column).pairs
    width, has_index = 0, False
    with output_folder(out_dir, _MARK if overwrite else "") as folder:
        np.save(folder / "user_ids.npy", labels.user_ids)
        np.save(folder / "item_ids.npy", labels.item_ids)
        _write_items_of_users(folder, "seen", np.unique(bought, axis=0), dataset.num_users)
        if not trained.is_fitted:
            width, has_index = _write_vectors(folder, trained)
        if trained.is_fitted:
            _write_fit(folder, trained.params, dataset)
            score = score_function.of_fit(experiment.model, trained.params, dataset.num_items)
        elif trained.residual:
            _write_fit(folder, trained.residual.params, dataset)
            score = score_function.of_both(trained.residual, dataset.num_items, width)
        else:
            score = score_function.of_vectors(dataset.num_items, width)
        (folder / _MARK).write_bytes(score)
        (folder / "config.json").write_text(to_json(experiment.config) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(export_readme(trained, width, has_index), encoding="utf-8")
    logging.info("exported: %s", out_dir)


def check_export(out_dir: str | os.PathLike, overwrite: bool = False) -> None:
    """Raises ConfigError unless `export_run` can write there: to be asked before a run is opened."""
    check_output_folder(out_dir, _MARK if overwrite else "")
    import_extra("pyarrow", "export", "Parquet files")
    import_extra("flatbuffers", "export", "the score function")  # for jax.export, which imports it only when it is due


def write_index(path: Path, items: np.ndarray) -> None:
    """An exact inner-product index of faiss (IndexFlatIP) of the item vectors, float32 (n, c)."""
    faiss = import_extra("faiss", "faiss", "the index")
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(np.ascontiguousarray(items))
    faiss.write_index(index, str(path))


def check_index(path: Path, users: np.ndarray, items: np.ndarray) -> None:
    """Compares the best items of an index file with exact ranking, for up to INDEX_USERS users.

    Raises:
      RearmError: an item in a list scores less than the one that belongs there, beyond rounding.
    """
    faiss = import_extra("faiss", "faiss", "the index")
    index, k = faiss.read_index(str(path)), min(INDEX_DEPTH, len(items))
    rows = np.unique(np.linspace(0, len(users) - 1, INDEX_USERS).astype(int))
    ties = _TIE * np.linalg.norm(users, axis=1) * np.linalg.norm(items, axis=1).max()
    for block in np.array_split(rows, -(-len(rows) // _CHECKED_USERS)):
        _, listed = index.search(np.ascontiguousarray(users[block]), k)
        scores = users[block] @ items.T
        best = -np.sort(np.partition(-scores, k - 1)[:, :k])
        differs = np.abs(np.take_along_axis(scores, listed, 1) - best).max(axis=1) > ties[block]
        repeated = (np.diff(np.sort(listed), axis=1) == 0).any(axis=1)
        if (wrong := np.flatnonzero(differs | repeated | (listed < 0).any(axis=1))).size:
            raise RearmError(
                f"the index of faiss lists other items for user {block[wrong[0]]} than exact ranking: "
                f"{listed[wrong[0]].tolist()}. Nothing was written; another version of faiss may do better"
            )


def _write_vectors(folder: Path, trained: Trained) -> tuple[int, bool]:
    """The vectors, their tables and their index; returns their width, and whether there is an index."""
    users, items = (np.asarray(x, np.float32) for x in (trained.representations.users, trained.representations.items))
    labels = trained.experiment.dataset.labels
    np.save(folder / "user_vectors.npy", users)
    np.save(folder / "item_vectors.npy", items)
    _write_parquet(folder / "users.parquet", labels.user_ids, None, users)
    names = None if labels.item_names is labels.item_ids else labels.item_names
    _write_parquet(folder / "items.parquet", labels.item_ids, names, items)
    if importlib.util.find_spec("faiss") is None:
        logging.info("no index for faiss, which is not installed: %s", how_to_install("faiss"))
        return users.shape[1], False
    if trained.residual:
        logging.info("the index for faiss is of the vectors alone, without the residual")
    write_index(folder / "items.faiss", items)
    check_index(folder / "items.faiss", users, items)
    return users.shape[1], True


def _write_fit(folder: Path, params: Params, dataset: Dataset) -> None:
    """The arrays of the fit, and the train items of each user."""
    for name, array in params.items():
        np.save(folder / f"fit_{name}.npy", array)
    _write_items_of_users(folder, "history", dataset.train, dataset.num_users)


def _write_items_of_users(folder: Path, name: str, pairs: np.ndarray, num_users: int) -> None:
    indptr, items = group_by_user(pairs, num_users)
    np.save(folder / f"{name}_indptr.npy", indptr)
    np.save(folder / f"{name}_items.npy", items)


def _write_parquet(path: Path, ids: np.ndarray, names: np.ndarray | None, vectors: np.ndarray) -> None:
    """Columns id, name (if any), vector (a list of fixed size of float32)."""
    pyarrow, parquet = (import_extra(name, "export", "Parquet files") for name in ("pyarrow", "pyarrow.parquet"))
    columns = {"id": pyarrow.array(ids)}
    if names is not None:
        columns["name"] = pyarrow.array(names.astype(str))
    columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
    parquet.write_table(pyarrow.table(columns), path, row_group_size=_ROW_GROUP)
