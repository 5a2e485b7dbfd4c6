"""Features from columns of a catalogue, without an encoder: categories as 0 and 1, numbers scaled or in quantiles."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rearm_jax.errors import DataError

MOST_CATEGORIES = 4096  # columns of one modality: more is no category, but an id or a text


class Coded(NamedTuple):
    """One modality.

    Attributes:
        features: float32 (num_items, d), a zero row for an item without any value.
        columns: what each of the d columns stands for, such as "genre=Drama".
        num_absent: items without any value.
    """

    features: np.ndarray
    columns: list[str]
    num_absent: int


def one_hot(values: Mapping[str, Sequence[Sequence[str]]], separator: str | None) -> Coded:
    """1 for each value that an item has, in the order of the columns and of the alphabet.

    Args:
        values: column -> for each item the parts of its value, several where the table has lists.
        separator: between several values in one text; None: a text is one value.

    Raises:
        DataError: no item has a value, one has two spellings, or there are more than MOST_CATEGORIES different ones.
    """
    items = [_split(parts, separator) for parts in zip(*values.values(), strict=True)]
    names = [
        (column, value)
        for place, column in enumerate(values)
        for value in sorted({value for item in items for value in item[place]})
    ]
    listed = ", ".join(values)
    if not names:
        raise DataError(f"category {listed}: no item has a value there; check the column")
    if len(names) > MOST_CATEGORIES:
        raise DataError(
            f"category {listed}: {len(names):,} different values, such as {names[0][1]!r} and {names[1][1]!r}; at most "
            f"{MOST_CATEGORIES:,} can be told apart. Is it a category? Several values in one text need "
            "category_separator"
        )
    spelt: dict[tuple[str, str], str] = {}
    for column, value in names:
        other = spelt.setdefault((column, unicodedata.normalize("NFC", value)), value)
        if other != value:
            raise DataError(
                f"category {column}: {other!r} ({other!a}) and {value!r} ({value!a}) are one text in two spellings of "
                "Unicode. Write the values alike (unicodedata.normalize('NFC', value) does it)"
            )
    place_of = {name: place for place, name in enumerate(names)}
    features = np.zeros((len(items), len(names)), np.float32)
    for row, item in enumerate(items):
        for column, found in zip(values, item, strict=True):
            features[row, [place_of[column, value] for value in found]] = 1
    return Coded(features, [f"{column}={value}" for column, value in names], int((~features.any(axis=1)).sum()))


def scaled(values: Mapping[str, Sequence[str]], quantiles: int, item_ids: np.ndarray) -> Coded:
    """Numbers with mean 0 and standard deviation 1 over the items that have them; or 1 for the quantile they are in.

    An item without a number has 0: standardised, the mean. Equal numbers are in the same quantile, so that there may be
    fewer quantiles than asked for.

    Args:
        values: column -> texts of numbers, "" where there is none.
        quantiles: into how many equal parts the items are cut; 0: standardised.
        item_ids: (num_items,), for messages.

    Raises:
        DataError: a value is no finite number, or a column has fewer than two different ones.
    """
    parts, names = [], []
    for column, texts in values.items():
        numbers = np.array([_number(text, column, item) for text, item in zip(texts, item_ids.tolist(), strict=True)])
        known = ~np.isnan(numbers)
        if len(np.unique(numbers[known])) < 2:
            what = f"every item that has one has {numbers[known][0]:g}" if known.any() else "no item has one"
            raise DataError(f"number {column}: {what}, which tells no two items apart; leave the column out")
        if quantiles:
            different, place, counts = np.unique(numbers[known], return_inverse=True, return_counts=True)
            middles = (np.cumsum(counts) - counts / 2) / known.sum()  # the share of items below, equal ones by half
            _, quantile = np.unique((middles * quantiles).astype(int), return_inverse=True)
            part = np.zeros((len(numbers), 1 + quantile.max()))
            part[known, quantile[place]] = 1
            parts.append(part)
            ranges = [different[quantile == number] for number in range(part.shape[1])]
            names += [f"{column} from {numbers[0]:g} to {numbers[-1]:g}" for numbers in ranges]
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                middle, spread = numbers[known].mean(), numbers[known].std()
            if not (np.isfinite(spread) and spread > np.finfo(np.float64).tiny):
                raise DataError(
                    f"number {column}: from {numbers[known].min():g} to {numbers[known].max():g}, which cannot be "
                    "standardised; change its unit, or use quantiles"
                )
            part = (numbers - middle) / spread
            parts.append(np.where(known, part, 0)[:, None])
            names.append(column)
    absent = np.all([[text == "" for text in texts] for texts in values.values()], axis=0)
    return Coded(np.concatenate(parts, axis=1).astype(np.float32), names, int(absent.sum()))


def _split(parts: Sequence[Sequence[str]], separator: str | None) -> list[list[str]]:
    """The values of one item in each column."""
    if separator is not None:
        parts = [[value for part in column for value in part.split(separator)] for column in parts]
    return [[value.strip() for value in column if value.strip()] for column in parts]


def _number(text: str, column: str, item: str) -> float:
    """NaN where there is none."""
    try:
        number = np.nan if not text else np.inf if "_" in text else float(text)  # Python reads 1_000 as 1000
    except ValueError:
        number = np.inf
    if np.isinf(number) or (text and np.isnan(number)):
        raise DataError(
            f"number {column}: {text[:80]!r} of the item {item!r} is not a finite number; write digits, with a "
            "point before fractions, and nothing where there is none"
        )
    return number
