"""From tables in memory to a data set: the steps of pipeline.py, without a folder."""

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import scipy.sparse

from rearm_jax.data.dataset import Dataset, prepared_dataset
from rearm_jax.data.prepare.frames import Frame, as_frame, features_frame, interactions_frame
from rearm_jax.data.prepare.pipeline import log_counts, read_arrays
from rearm_jax.data.prepare.settings import Settings, check_choices
from rearm_jax.data.prepare.tables import ITEM_COLUMNS, column_names, pick_column
from rearm_jax.errors import ConfigError, RearmError

_OF_FILES = {"catalogue", "interactions_header", "items_header", "quote", "encoding", "bad_rows", "bad_rows_limit"}
_GIVEN = {"interactions", "items", "features", "feature_ids", "out", "overwrite"}
OPTIONS = tuple(field.name for field in dataclasses.fields(Settings) if field.name not in _OF_FILES | _GIVEN)


def dataset_from_tables(
    interactions: Any, items: Any = None, features: Mapping[str, Any] | None = None, **options: Any
) -> Dataset:
    """`Dataset.from_tables`, which says what everything is."""
    if unknown := [name for name in options if name not in OPTIONS]:
        near = difflib.get_close_matches(unknown[0], OPTIONS, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(OPTIONS)}"
        raise ConfigError(f"{unknown[0]} is no option{meant}")
    table = interactions_frame(interactions)
    described = [] if items is None else [as_frame(items, "items")]
    with _flags_as_arguments():
        id_column = options.get("item_id_column")
        rows = _items_of_rows(interactions, described, id_column)
        tables = [
            (name, features_frame(given, f"features[{name!r}]", id_column or ITEM_COLUMNS[0], rows))
            for name, given in (features or {}).items()
        ]
        grouped = {name: _named_columns(options[name]) for name in _NAMED_COLUMNS if name in options}
        if isinstance(options.get("name_column"), str):
            grouped["name_column"] = (options["name_column"],)
        settings = Settings([table], out="", items=described, features=tables, **options | grouped)
        modalities = check_choices(settings)
        arrays, counts, *_ = read_arrays(settings, modalities)
    log_counts(counts)
    return prepared_dataset(arrays, modalities)


_NAMED_COLUMNS = ("text", "category", "number")


def _named_columns(given: Any) -> Sequence[tuple[str, Sequence[str]]]:
    """{"text": "title"} or {"text": ["title", "brand"]} as the command line has it."""
    if not isinstance(given, Mapping):
        raise ConfigError(f'{given!r}: must be a dict from modalities to columns, such as {{"text": ["title"]}}')
    return [(name, (columns,) if isinstance(columns, str) else tuple(columns)) for name, columns in given.items()]


def _items_of_rows(interactions: Any, items: Sequence[Frame], id_column: str | None) -> Sequence[Any] | None:
    """The ids that the rows of an array of features belong to: those of `items`, or else a matrix's columns."""
    if items:
        names = column_names(items[0].table, items[0])
        column = pick_column(names, id_column, ITEM_COLUMNS, items[0], "items", "--item_id_column")
        return items[0].table.select(column).collect().to_series().to_list()
    return range(interactions.shape[1]) if scipy.sparse.issparse(interactions) else None


@contextlib.contextmanager
def _flags_as_arguments() -> Iterator[None]:
    """What messages call --k_core is k_core here."""
    try:
        yield
    except RearmError as error:
        raise type(error)(re.sub("--([a-z_]+)", r"\1", str(error))) from error
