"""A trained run as plain files: user and item vectors with outside ids, an index, a score function, a README."""

import functools
import importlib.util
import os
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from absl import logging

from rearm_jax.config import to_json
from rearm_jax.errors import RearmError, how_to_install
from rearm_jax.evaluation.ranking import UserBlocks, rank_scores
from rearm_jax.inference.extras import import_extra
from rearm_jax.inference.output import check_output_folder, output_folder
from rearm_jax.inference.trained import Trained
from rearm_jax.training.run_folder import read_result
from rearm_jax.training.writer import versions

INDEX_DEPTH = 20  # places of a list in which the index must agree with exact ranking
INDEX_USERS = 2048  # that are compared, spread over all; all where there are fewer
SCORE_DEPTH = 100  # places of the lists of the score function; all items where there are fewer
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_ROW_GROUP = 2**16
_CHECKED_USERS = 64  # at a time
_TIE = 1e-5  # relative difference of scores that rounding can turn round


def export_run(trained: Trained, out_dir: str | os.PathLike) -> None:
    """Writes a folder, whole or not at all; its README.md says what is in it.

    The index is left out, with a word in the log, where faiss is not installed.

    Args:
      trained: an opened run.
      out_dir: must not be there yet, or be empty.

    Raises:
      ConfigError: a package is missing, or the folder cannot be written.
      RearmError: the index does not rank as the vectors do.
    """
    check_export(out_dir)
    users, items = (np.asarray(x, np.float32) for x in (trained.representations.users, trained.representations.items))
    labels = trained.experiment.dataset.labels
    names = None if labels.item_names is labels.item_ids else labels.item_names
    has_index = importlib.util.find_spec("faiss") is not None
    with output_folder(out_dir) as folder:
        np.save(folder / "user_vectors.npy", users)
        np.save(folder / "item_vectors.npy", items)
        np.save(folder / "user_ids.npy", labels.user_ids)
        np.save(folder / "item_ids.npy", labels.item_ids)
        _write_parquet(folder / "users.parquet", labels.user_ids, None, users)
        _write_parquet(folder / "items.parquet", labels.item_ids, names, items)
        (folder / "score.stablehlo").write_bytes(serialized_score(*items.shape))
        if has_index:
            write_index(folder / "items.faiss", items)
            check_index(folder / "items.faiss", users, items)
        else:
            logging.info("no index for faiss, which is not installed: %s", how_to_install("faiss"))
        (folder / "config.json").write_text(to_json(trained.experiment.config) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(
            _readme(trained, users, items, names is not None, has_index), encoding="utf-8"
        )
    logging.info("exported: %s", out_dir)


def check_export(out_dir: str | os.PathLike) -> None:
    """Raises ConfigError unless `export_run` can write there: to be asked before a run is opened."""
    check_output_folder(out_dir)
    import_extra("pyarrow", "export", "Parquet files")
    import_extra("flatbuffers", "export", "the score function")  # for jax.export, which imports it only when it is due


def top_items(user_vectors: jax.Array, item_vectors: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k items of largest dot product: items int32 (b, k), ties by lower row, and scores float32 (b, k).

    Args:
      user_vectors: float32 (b, c).
      item_vectors: float32 (n, c), n at least k.
      k: static.
    """
    scores = jnp.matmul(user_vectors, item_vectors.T, precision=jax.lax.Precision.HIGHEST)
    nothing = jnp.zeros(0, jnp.int32)
    nobody_is_padding = jnp.zeros(user_vectors.shape[0], jnp.int32)
    return rank_scores(scores, UserBlocks(nobody_is_padding, nothing, nothing), k)


def serialized_score(num_items: int, width: int) -> bytes:
    """`top_items` as StableHLO for every platform, for `jax.export.deserialize`.

    The vectors are arguments, so that it has some kilobytes; numbers of users and items are free. k is min(SCORE_DEPTH,
    num_items): a shorter list is the front of a longer one.
    """
    k = min(SCORE_DEPTH, num_items)
    b, n = jax.export.symbolic_shape("b, n", constraints=[f"n >= {k}"])
    function = jax.jit(functools.partial(top_items, k=k))
    arguments = [jax.ShapeDtypeStruct((rows, width), jnp.float32) for rows in (b, n)]
    return bytes(jax.export.export(function, platforms=PLATFORMS)(*arguments).serialize())


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


def _write_parquet(path: Path, ids: np.ndarray, names: np.ndarray | None, vectors: np.ndarray) -> None:
    """Columns id, name (if any), vector (a list of fixed size of float32)."""
    pyarrow, parquet = (import_extra(name, "export", "Parquet files") for name in ("pyarrow", "pyarrow.parquet"))
    columns = {"id": pyarrow.array(ids)}
    if names is not None:
        columns["name"] = pyarrow.array(names.astype(str))
    columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
    parquet.write_table(pyarrow.table(columns), path, row_group_size=_ROW_GROUP)


def _readme(trained: Trained, users: np.ndarray, items: np.ndarray, has_names: bool, has_index: bool) -> str:
    result = read_result(trained.workdir) or {}
    metrics = {name: value for name, value in result.items() if name.startswith(("valid/", "test/"))}
    index_row = "| `items.faiss` | IndexFlatIP of faiss over the item vectors; ids are rows |\n" if has_index else ""
    return _README.format(
        model=trained.experiment.config.model.name,
        workdir=trained.workdir,
        step=trained.step,
        width=users.shape[1],
        num_users=len(users),
        num_items=len(items),
        names="`name`, " if has_names else "",
        depth=min(SCORE_DEPTH, len(items)),
        first=min(20, len(items)),
        index_row=index_row,
        content_hash=trained.experiment.dataset.content_hash,
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
        metrics="\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
        or "| (the run has no result.json: it has not finished training) | |",
    )


_README = """# Vectors of users and items

From the best checkpoint (step {step}) of the run `{workdir}`, model {model}. The score of a user and an item is the dot
product of their vectors.

| file | |
|---|---|
| `user_vectors.npy` | float32 ({num_users}, {width}), a row a user |
| `item_vectors.npy` | float32 ({num_items}, {width}), a row an item |
| `user_ids.npy`, `item_ids.npy` | the ids of the rows |
| `users.parquet` | columns `id`, `vector` |
| `items.parquet` | columns `id`, {names}`vector` |
{index_row}| `score.stablehlo` | (user vectors, item vectors) -> the best {depth} items of each user and their scores |
| `config.json` | the settings of the run |

```python
import numpy as np
from jax import export  # jax.export needs the package flatbuffers

users, items = np.load("user_vectors.npy"), np.load("item_vectors.npy")
item_ids = np.load("item_ids.npy")
with open("score.stablehlo", "rb") as file:
    score = export.deserialize(bytearray(file.read()))
rows, scores = score.call(users[:2], items)
print(item_ids[rows[:, :{first}]])  # the best {first} items of the first two users
```

Nothing is left out of these lists: drop the items that a user has had already. The score function takes any number of
users, and any number of items from {depth} up; it was compiled for none and runs on CPU, CUDA, ROCm and TPU.

| metric | |
|---|---|
{metrics}

Hash of the data: {content_hash}. Versions: {versions}.
"""
