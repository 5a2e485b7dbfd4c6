"""Items that were not there in training: represented from their features alone, without retraining.

The model is applied to its graphs with rows for the new items behind those of the catalogue. A new item reads from the
catalogue, and nothing reads from it: the representations of users and items of the catalogue stay what they are, and
those of a new item do not depend on which others come along.

- Item-item graph: the item's row is that of the semantic graph (REARM, arXiv 2508.13745, "item semantic"): itself and
  the config.graph.item_knn_k - 1 items of the catalogue of largest cosine similarity of raw features, by modality,
  weighted by config.graph.item_modality_weights. Where the model's graph has one value for all neighbours, the row has
  it, too. Nothing is known of the item's co-occurrence, so the semantic part takes that weight as well. The same
  neighbours, weighted by similarity (sum 1), stand in for the item below.
- User-item graph: the weighted mean of its neighbours' rows, as if their users had interacted with it.
- Features: the raw ones, through the trained projection. ID embedding: the weighted mean of the neighbours'.
- Meta-network: its mean over all items stays that over the catalogue.

Left without a row in the user-item graph, new items rank equally well among themselves, but their representations are
so short that they never reach a list beside items of the catalogue.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from absl import logging

from rearm_jax.data.folder import NEW_ITEMS
from rearm_jax.data.labels import check_labels
from rearm_jax.data.npy import open_npy
from rearm_jax.errors import ConfigError, DataError
from rearm_jax.experiment import in_precision
from rearm_jax.graphs.adjacency import Adjacency, make_adjacency
from rearm_jax.graphs.knn import nearest_exact
from rearm_jax.inference.trained import Trained
from rearm_jax.parallel.rows import Nodes, WholeTable
from rearm_jax.recommender.contract import Representations
from rearm_jax.recommender.featured import item_tables
from rearm_jax.settings import modality_weights

_EPSILON = 1e-7  # added to every degree, as in graphs.relations
_NEIGHBOURS = 10  # of a new item, itself included, where the model has no setting for it


@dataclasses.dataclass(frozen=True, eq=False)
class NewItems:
    """Items outside the catalogue.

    Attributes:
      ids: (n,), text or integers as those of the catalogue, unique, none of them in it.
      names: (n,), or None.
      features: modality -> float32 (n, width), the modalities and widths of the training data.
      vectors: what `represent_new_items` makes of the features; None: yet to be computed.
    """

    ids: np.ndarray
    names: np.ndarray | None
    features: dict[str, np.ndarray]
    vectors: jax.Array | None = None


def own_new_items(trained: Trained) -> NewItems | None:
    """The items without interactions that `prepare --catalogue all` kept in the folder of the run's data.

    Returns:
      As `read_new_items`; None where the folder has none or, with a warning, where the model cannot rank them.

    Raises:
      DataError: as `read_new_items`.
    """
    data = trained.experiment.config.data
    folder = os.path.join(os.path.expanduser(data.root), NEW_ITEMS)
    if data.source != "folder" or not os.path.isdir(folder):
        return None
    try:
        check_new_items(trained)
    except ConfigError as error:
        logging.warning("the items of %s, which have no interactions, are in no list: %s", folder, error)
        return None
    return read_new_items(folder, trained)


def read_new_items(folder: str | os.PathLike, trained: Trained) -> NewItems:
    """Reads `item_ids.npy`, `<modality>_feat.npy` for every modality of the run, and `item_names.npy` if it is there.

    Raises:
      ConfigError: the model cannot rank new items.
      DataError: a file is missing or no array, does not fit the run's features, or an id is in the catalogue.
    """
    check_new_items(trained)
    dataset = trained.experiment.dataset
    files = {stem: os.path.join(folder, f"{stem}.npy") for stem in ("item_ids", "item_names")}
    feature_files = {modality: os.path.join(folder, f"{modality}_feat.npy") for modality in dataset.features}
    missing = [file for file in (files["item_ids"], *feature_files.values()) if not os.path.isfile(file)]
    if missing:
        raise DataError(f"{', '.join(missing)} missing: new items need ids, and features of every modality of the run")
    ids, names = check_labels(open_npy(files["item_ids"]), files["item_ids"], unique=True), None
    _check_ids(ids, dataset.labels.item_ids, files["item_ids"])
    if os.path.lexists(files["item_names"]):
        names = check_labels(open_npy(files["item_names"]), files["item_names"], unique=False)
        if len(names) != len(ids):
            raise DataError(f"{files['item_names']} has {len(names)} rows, {files['item_ids']} {len(ids)}")
    features = {
        modality: _read_features(file, len(ids), dataset.features[modality].shape[1])
        for modality, file in feature_files.items()
    }
    return NewItems(ids, names, features)


def check_new_items(trained: Trained) -> None:
    """Raises ConfigError where the model cannot rank new items."""
    fitted = trained.experiment.model if trained.is_fitted else trained.experiment.residual
    if fitted:
        raise ConfigError(
            f"new items: {fitted.title} knows an item by its train interactions alone, and new items have none. Leave "
            'them out, or train a model with vectors and without a residual, such as rearm with residual.model = ""'
        )
    model = trained.experiment.model
    if not model.ranks_new_items:
        raise ConfigError(
            f"new items: {model.title} has no rows for them in its graphs of items. Leave them out, or train a model "
            "that takes them, such as rearm"
        )


def represent_new_items(trained: Trained, features: Mapping[str, np.ndarray]) -> jax.Array:
    """Representations of new items alone, float32 (n, c); see `extended_representations`."""
    return extended_representations(trained, features).items[trained.experiment.dataset.num_items :]


def extended_representations(trained: Trained, features: Mapping[str, np.ndarray]) -> Representations:
    """The model's output with new items behind those of the catalogue.

    Args:
      trained: an opened run.
      features: modality -> float32 (n, width), raw, as in the training data.

    Returns:
      Users and the first num_items items as `trained.representations` has them (up to rounding), then n new items.

    Raises:
      ConfigError: the model cannot rank new items.
      DataError: an item resembles no item of the catalogue.
    """
    check_new_items(trained)
    experiment = trained.experiment
    dataset = experiment.dataset
    settings = experiment.config.get("graph", {})
    semantic, counted, itself = _semantic_rows(dataset.features, features, settings)
    neighbours = _stand_ins(semantic)
    num_new = len(itself)
    tables = item_tables(features, experiment.config.model.get("unit_features", False))

    def extended(name: str, value: Any) -> Any:
        if not isinstance(value, Adjacency):
            return jnp.concatenate([value, tables[name]]) if name in tables else value
        if value.nodes == ("user",):
            return value
        if value.nodes == ("item",):
            rows = counted if experiment.model.counts_neighbours else semantic
            own = scipy.sparse.diags_array(itself)
        else:
            rows = neighbours @ _scipy(value)[dataset.num_users :]
            own = scipy.sparse.csr_array((num_new, num_new))
        graph = scipy.sparse.block_array([[_scipy(value), None], [rows, own]])
        return make_adjacency(_canonical(graph), value.nodes)

    params = dict(trained.params)
    for name, table in {"item_id_table": None, **tables}.items():
        if name in params:  # a model without modalities has no feature tables
            trained_rows = np.asarray(params[name])
            new_rows = neighbours @ trained_rows if table is None else table
            params[name] = jnp.concatenate([trained_rows, jnp.asarray(new_rows, jnp.float32)])

    model = experiment.model.clone(num_items=dataset.num_items + num_new)
    catalogue = _Catalogue(dataset.num_items)
    forward = in_precision(
        experiment.config.matmul_precision,
        lambda params, inputs: model.apply({"params": params}, inputs, items=Nodes(catalogue)),
    )
    return jax.jit(forward)(params, {name: extended(name, value) for name, value in experiment.inputs.items()})


class _Catalogue(WholeTable):
    """Whole tables with rows of new items at the end, which means over all items leave out."""

    def __init__(self, num_items: int):
        self._num_items = num_items

    def mean(self, transform: Callable[[jax.Array], jax.Array], table: jax.Array) -> jax.Array:
        return super().mean(transform, table[: self._num_items])


def _semantic_rows(
    catalogue: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array, np.ndarray]:
    """Rows of the item semantic graph, with similarities and with the same value for each neighbour of a modality:
    float32 (n, num_items) both, and the weight of each item to itself, float32 (n,)."""
    k = settings.get("item_knn_k", _NEIGHBOURS)
    weights = modality_weights(settings.get("item_modality_weights", ()), len(catalogue))
    others = max(k - 1, 1)  # without any, nothing would stand in for the item
    similar, alike, itself = list[Any](), list[Any](), 0.0
    for weight, (modality, known) in zip(weights, catalogue.items(), strict=True):
        if weight == 0:
            continue
        table = features[modality]
        similarities, neighbours = nearest_exact(known, others, f"new items ({modality})", table)
        scale = weight / (k + _EPSILON)
        indptr = np.arange(len(table) + 1) * others
        shape = len(table), len(known)
        for values, parts in ((similarities, similar), (similarities != 0, alike)):
            parts.append(scipy.sparse.csr_array((scale * values.ravel(), neighbours.ravel(), indptr), shape=shape))
        itself = itself + scale * table.any(axis=1)  # the similarity of a zero row, also to itself, is 0
    rows = [_canonical(sum(parts[1:], start=parts[0])) for parts in (similar, alike)]
    return rows[0], rows[1], np.asarray(itself, np.float32)


def _stand_ins(semantic: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """The neighbours of positive similarity, weighted so that each row sums to 1: float32 (n, num_items)."""
    weights = semantic.maximum(0).tocsr()
    totals = weights.sum(axis=1)
    if (totals == 0).any():
        row = int(np.argmin(totals))
        raise DataError(
            f"new item {row} (from 0) resembles no item of the catalogue: its features are zero, or have no positive "
            "cosine similarity to any. Mend its features, or leave it out"
        )
    return scipy.sparse.csr_array(scipy.sparse.diags_array(1 / totals) @ weights).astype(np.float32)


def _scipy(adjacency: Adjacency) -> scipy.sparse.csr_array:
    matrix = adjacency.matrix
    columns = np.asarray(matrix.indices)[:, 1]
    return scipy.sparse.csr_array((np.asarray(matrix.data), columns, np.asarray(adjacency.indptr)), shape=matrix.shape)


def _canonical(graph: scipy.sparse.sparray) -> scipy.sparse.csr_array:
    graph = scipy.sparse.csr_array(graph)
    graph.sum_duplicates()
    return graph


def _check_ids(ids: np.ndarray, catalogue: np.ndarray, file: str) -> None:
    if not len(ids):
        raise DataError(f"{file}: there is no item in it")
    if (ids.dtype.kind == "U") != (catalogue.dtype.kind == "U"):
        kinds = ["text" if array.dtype.kind == "U" else "integers" for array in (ids, catalogue)]
        raise DataError(f"{file}: the ids are {kinds[0]}, those of the catalogue {kinds[1]}; save them alike")
    known = np.flatnonzero(np.isin(ids, catalogue))
    if len(known):
        raise DataError(
            f"{file}, row {known[0]}: item {ids[known[0]].item()!r} is in the catalogue already ({len(known)} such "
            "rows); leave these items out, as they are ranked anyway"
        )


def _read_features(file: str, num_rows: int, width: int) -> np.ndarray:
    """Raises DataError unless the file holds finite floats (num_rows, width); returns float32."""
    features = np.asarray(open_npy(file))
    if features.shape != (num_rows, width) or features.dtype.kind != "f":
        raise DataError(
            f"{file}: {features.dtype} {features.shape}; must be floats ({num_rows}, {width}): a row for each of "
            "item_ids.npy, the width of the training data"
        )
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused
        features = features.astype(np.float32)
    finite = np.isfinite(features)
    if not finite.all():
        row, column = divmod(int(np.argmin(finite)), width)
        raise DataError(f"{file}, row {row}, column {column}: not a finite number (as float32); mend the feature")
    return features
