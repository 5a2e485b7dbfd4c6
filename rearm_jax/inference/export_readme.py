"""The README of an export: its files, a program that uses them, and the metrics of the run."""

from collections.abc import Mapping
from typing import Any

from rearm_jax.inference.score_function import SCORE_DEPTH
from rearm_jax.inference.trained import Trained
from rearm_jax.training.run_folder import read_result
from rearm_jax.training.writer import versions


def export_readme(trained: Trained, width: int, has_index: bool) -> str:
    """The text.

    Args:
      trained: the run.
      width: of the vectors; 0 for a fitted model.
      has_index: whether there is an index of faiss.
    """
    experiment = trained.experiment
    dataset, labels = experiment.dataset, experiment.dataset.labels
    fitted = experiment.model if trained.is_fitted else experiment.residual
    params = trained.residual.params if trained.residual else trained.params if trained.is_fitted else {}
    result = read_result(trained.workdir) or {}
    origin = result.get("refit_of")
    metrics = {name: value for name, value in result.items() if name.startswith(("valid/", "test/"))}
    facts: Mapping[str, Any] = {
        "workdir": trained.workdir,
        "step": trained.step,
        "model": experiment.config.model.name,
        "fitted": fitted.title if fitted else "",
        "weight": trained.residual.weight if trained.residual else 0.0,
        "width": width,
        "num_users": dataset.num_users,
        "num_items": dataset.num_items,
        "names": "`name`, " if labels.item_names is not labels.item_ids else "",
        "depth": min(SCORE_DEPTH, dataset.num_items),
        "first": min(20, dataset.num_items),
        "alone": " alone, without the residual" if trained.residual else "",
        "arrays": list(params),
        "content_hash": dataset.content_hash,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "whose": f"of the run `{origin['run']}`, which has the settings, and not of this refit" if origin else "",
        "metrics": "\n".join(
            f"| {name} | {value:.4f} |" for name, value in (origin["metrics"] if origin else metrics).items()
        )
        or "| (the run has no result.json: it has not finished training) | |",
    }
    rows = [
        *(_VECTOR_FILES if width else ()),
        *([_INDEX_FILE] if has_index else ()),
        "| `user_ids.npy`, `item_ids.npy` | the ids of the rows |",
        "| `seen_indptr.npy`, `seen_items.npy` | what user u has already: `items[indptr[u]:indptr[u + 1]]` |",
        *(f"| `fit_{name}.npy` | {array.dtype} {array.shape} |" for name, array in params.items()),
        *(_HISTORY_FILES if fitted else ()),
    ]
    kind = "both" if fitted and width else "fit" if fitted else "vectors"
    template = "\n".join([_HEADS[kind], _TABLE, *rows, _SCORE_FILES[kind], _PROGRAMS[kind], _NOTES[kind], _FOOT])
    return template.format(**facts)


_TABLE = """| file | |
|---|---|"""
_VECTOR_FILES = (
    "| `user_vectors.npy` | float32 ({num_users}, {width}), a row a user |",
    "| `item_vectors.npy` | float32 ({num_items}, {width}), a row an item |",
    "| `users.parquet` | columns `id`, `vector` |",
    "| `items.parquet` | columns `id`, {names}`vector` |",
)
_INDEX_FILE = "| `items.faiss` | IndexFlatIP of faiss over the item vectors{alone}; ids are rows |"
_HISTORY_FILES = (
    "| `history_indptr.npy`, `history_items.npy` | train items of user u: `items[indptr[u]:indptr[u + 1]]` |",
)
_HEADS = {
    "vectors": """# Vectors of users and items

From the best checkpoint (step {step}) of the run `{workdir}`, model {model}. The score of a user and an item is the dot
product of their vectors.
""",
    "fit": """# A fitted model

The fit of {fitted} in the run `{workdir}`. It scores all items from the items that a user has had.
""",
    "both": """# Vectors of users and items, and a fitted model beside them

From the best checkpoint (step {step}) of the run `{workdir}`, model {model}, with {fitted} beside it. For a user, with
z the z-score over all items, the scores are z(dot products of the vectors) + {weight:g} z(scores of {fitted}, from the
items that the user has had).
""",
}
_SCORE_FILES = {
    "vectors": "| `score.stablehlo` | (user vectors, item vectors) -> the best {depth} items of each user and their "
    "scores |",
    "fit": "| `score.stablehlo` | (histories, fit) -> the best {depth} items of each user and their scores |",
    "both": "| `score.stablehlo` | (user vectors, item vectors, histories, fit) -> the best {depth} items of each user "
    "and their scores |",
}
_LOAD = """| `config.json` | the settings of the run |

```python
import numpy as np
from jax import export  # jax.export needs the package flatbuffers

item_ids = np.load("item_ids.npy")
with open("score.stablehlo", "rb") as file:
    score = export.deserialize(bytearray(file.read()))"""
_LOAD_VECTORS = """users, items = np.load("user_vectors.npy"), np.load("item_vectors.npy")"""
_LOAD_FIT = """fit = {{name: np.load(f"fit_{{name}}.npy") for name in {arrays}}}
indptr, items_had = np.load("history_indptr.npy"), np.load("history_items.npy")
histories = np.full((2, max(1, *np.diff(indptr[:3]))), -1, np.int32)  # of the first two users; any others will do
for user, history in enumerate(histories):
    history[: indptr[user + 1] - indptr[user]] = items_had[indptr[user] : indptr[user + 1]]"""
_SHOW = """seen_indptr, seen_items = np.load("seen_indptr.npy"), np.load("seen_items.npy")
for user, row in enumerate(np.asarray(rows)):  # the best {first} items of the first two users that they do not have
    new = row[~np.isin(row, [-1, *seen_items[seen_indptr[user] : seen_indptr[user + 1]]])]
    print(item_ids[new[:{first}]])
```
"""
_PROGRAMS = {
    "vectors": "\n".join([_LOAD, _LOAD_VECTORS, "rows, scores = score.call(users[:2], items)", _SHOW]),
    "fit": "\n".join([_LOAD, _LOAD_FIT, "rows, scores = score.call(histories, fit)", _SHOW]),
    "both": "\n".join(
        [_LOAD, _LOAD_VECTORS, _LOAD_FIT, "rows, scores = score.call(users[:2], items, histories, fit)", _SHOW]
    ),
}
_HISTORY_NOTE = """The items of a history are left out of its list; a place beyond the last item is -1. Histories are
what training saw; `seen` may hold more, and is to be left out, too, as the program does. The score function takes any
number of users, and histories of any length from 1 up, padded with -1; it was compiled for none and runs on CPU, CUDA,
ROCm and TPU.
"""
_NOTES = {
    "vectors": """Nothing is left out of the lists of the score function and of an index: ask for more places than you
need, and drop `seen`, as the program does. The score function takes any number of users, and any number of items from
{depth} up; it was compiled for none and runs on CPU, CUDA, ROCm and TPU.
""",
    "fit": _HISTORY_NOTE + "There is no index of faiss: the model has no vectors.\n",
    "both": _HISTORY_NOTE + "An index of faiss can hold the vectors alone, not both scores.\n",
}
_FOOT = """| metric | {whose} |
|---|---|
{metrics}

Hash of the data: {content_hash}. Versions: {versions}.
"""
