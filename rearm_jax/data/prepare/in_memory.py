"""From tables in memory to the arrays of a data set: the steps of pipeline.py, without a folder."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from rearm_jax.data.prepare.frames import ITEM_COLUMNS, Frame, as_frame, features_frame, interactions_frame
from rearm_jax.data.prepare.kinds import are_columns, check_kinds, is_text
from rearm_jax.data.prepare.pipeline import log_counts, read_arrays
from rearm_jax.data.prepare.settings import Settings, check_choices
from rearm_jax.data.prepare.tables import column_names, pick_column, readable
from rearm_jax.errors import ConfigError, shown

_OF_FILES = {"catalogue", "interactions_header", "items_header", "quote", "encoding", "bad_rows", "bad_rows_limit"}
_GIVEN = {"interactions", "items", "features", "feature_ids", "out", "overwrite"}
_NAMED_COLUMNS = ("text", "category", "number")
OPTIONS = tuple(field.name for field in dataclasses.fields(Settings) if field.name not in _OF_FILES | _GIVEN)


def arrays_of_tables(
    interactions: Any, items: Any = None, features: Mapping[str, Any] | None = None, **options: Any
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What dataset.prepared_dataset takes; `Dataset.from_tables` says what everything given is."""
    if unknown := [name for name in options if name not in OPTIONS]:
        near = difflib.get_close_matches(unknown[0], OPTIONS, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(OPTIONS)}"
        raise ConfigError(f"{unknown[0]} is no option{meant}")
    given = options | {name: _named_columns(name, options[name]) for name in _NAMED_COLUMNS if name in options}
    if isinstance(given.get("name_column"), str):
        given["name_column"] = (given["name_column"],)
    check_kinds(given)
    if features is not None and not (isinstance(features, Mapping) and all(map(is_text, features))):
        raise ConfigError(
            f'features = {shown(features)}: must be a dict from modalities to tables, such as {{"text": ...}}'
        )
    table = interactions_frame(interactions)
    described = [] if items is None else [as_frame(items, "items")]
    id_column = given.get("item_id_column")
    rows = _items_of_rows(interactions, described, id_column)
    tables = [
        (name, features_frame(values, f"features[{name!r}]", id_column or ITEM_COLUMNS[0], rows))
        for name, values in (features or {}).items()
    ]
    settings = Settings([table], out="in memory", items=described, features=tables, **given)
    modalities = check_choices(settings)
    arrays, counts, *_ = read_arrays(settings, modalities)
    log_counts(counts)
    return arrays, modalities


def _named_columns(option: str, given: Any) -> list[tuple[str, tuple[str, ...]]]:
    """{"text": "title"} or {"text": ["title", "brand"]} as `Settings` has it."""
    pairs = list(given.items()) if isinstance(given, Mapping) else []
    grouped = [(name, (columns,) if is_text(columns) else columns) for name, columns in pairs]
    is_grouped = isinstance(given, Mapping) and all(is_text(name) and are_columns(columns) for name, columns in grouped)
    if not is_grouped:
        raise ConfigError(
            f"{option} = {shown(given)}: must be a dict from modalities to columns, each column once, such as "
            f'{{"{option}": ["title"]}}'
        )
    return [(name, tuple(columns)) for name, columns in grouped]


def _items_of_rows(interactions: Any, items: Sequence[Frame], id_column: str | None) -> Sequence[Any] | None:
    """The ids that the rows of an array of features belong to: those of `items`, or else a matrix's columns."""
    if items:
        names = column_names(items[0].table, items[0])
        column = pick_column(names, id_column, ITEM_COLUMNS, items[0], "items", "item_id_column")
        with readable(items[0]):
            return items[0].table.select(column).collect().to_series().to_list()
    return range(interactions.shape[1]) if scipy.sparse.issparse(interactions) else None
