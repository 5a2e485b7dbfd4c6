"""Columns of times: numbers of any unit, or dates in ISO 8601."""

import os
from collections.abc import Sequence

import numpy as np
import polars as pl

from rearm_jax.data.prepare.reading import Reading
from rearm_jax.data.prepare.tables import readable
from rearm_jax.errors import DataError

TIME = pl.Struct({"time": pl.Float64, "has_offset": pl.Boolean})
_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_EPOCH = (5e8, 5e9)  # seconds since 1970, from 1985 to 2128
_SECONDS_A_DAY = 24 * 60 * 60
_CLOCK = "[0-9]{2}(?::[0-9]{2}){0,2}|[0-9]{4}|[0-9]{6}"  # seconds, and minutes with them, may be left out
_ISO_DATE = (
    "^(?<date>[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8})"
    f"(?:[Tt ](?<clock>{_CLOCK})(?:[.,](?<fraction>[0-9]+))? ?(?<offset>[Zz]|UTC|[-+](?:{_CLOCK}))?)?$"
)


def as_times(table: pl.LazyFrame, name: str, path: str | os.PathLike, reading: Reading | None = None) -> pl.Expr:
    """A column of times as a struct TIME; its first value decides between numbers and dates.

    Returns:
        "time": finite, null where the column holds something else, or a whole number beyond 2^53 that float64 does
        not hold; of dates microseconds since 1970 in UTC.
        "has_offset": whether a date says how far its clock is from UTC; null for numbers, and where "time" is.

    Raises:
        DataError: the file cannot be read.
    """
    column, dtype = pl.col(name), table.collect_schema()[name]
    if dtype.is_nested() or isinstance(dtype, (pl.Time, pl.Duration, pl.Object)):
        raise DataError(f"{path}: column {name!r} is {dtype}; times must be numbers, dates, or text of one kind")
    if dtype.is_temporal():
        has_offset = pl.lit(isinstance(dtype, pl.Datetime) and dtype.time_zone is not None)
        time = column.cast(pl.Datetime("us"), strict=False).dt.epoch("us").cast(pl.Float64)
        return pl.struct(time=time, has_offset=pl.when(time.is_not_null()).then(has_offset))
    text, number = column.cast(pl.String), as_number(name)
    with readable(path, reading):
        first = table.filter(column.is_not_null()).head(1).select(number).collect(engine="streaming")
    if first.to_series().has_nulls():
        return text.map_batches(parse_iso, return_dtype=TIME, is_elementwise=True)
    # Whole numbers that float64 would round, such as ids made of a time, might change places.
    whole = text.str.strip_chars().cast(pl.Int64, strict=False)
    is_rounded = (number.abs() >= 2.0**63) | (whole.is_not_null() & (whole != number.cast(pl.Int64, strict=False)))
    return pl.struct(time=pl.when(~is_rounded).then(number), has_offset=pl.lit(None, pl.Boolean))


def as_number(name: str) -> pl.Expr:
    """A column as float64, finite; null where it holds something else."""
    number = pl.col(name).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def parse_iso(texts: pl.Series) -> pl.Series:
    """Dates of ISO 8601, extended (2014-05-03T12:00:00.25+02:00) or basic (20140503T120000), as structs TIME.

    The clock may be left out, its seconds, and its minutes; a blank may stand for the T, "UTC" for the Z. Fractions may
    have any number of digits; those after the sixth do not count.
    """
    parts = pl.DataFrame({"parts": texts.str.strip_chars().str.extract_groups(_ISO_DATE)}).unnest("parts")
    clock, fraction, offset = pl.col("clock"), pl.col("fraction"), pl.col("offset")
    numbers = parts.select(
        days=pl.col("date").str.replace_all("-", "", literal=True).str.to_date("%Y%m%d", strict=False).dt.epoch("d"),
        clock=_digits(clock),
        micros=fraction.str.pad_end(6, "0").str.head(6).cast(pl.Int64).fill_null(0),
        shift=_digits(offset.str.strip_chars("+-ZzUTC")),
        sign=pl.when(offset.str.starts_with("-")).then(-1).otherwise(1),
        of_seconds=fraction.is_null() | clock.str.len_bytes().is_in([6, 8]),
        has_offset=offset.is_not_null(),
    )
    seconds = pl.col("days").cast(pl.Int64) * _SECONDS_A_DAY + _seconds("clock") - pl.col("sign") * _seconds("shift")
    micros = (seconds * 1_000_000 + pl.col("micros")).cast(pl.Float64)
    found = numbers.select("has_offset", time=pl.when("of_seconds").then(micros))
    return found.select("time", has_offset=pl.when(pl.col("time").is_not_null()).then("has_offset")).to_struct(
        texts.name
    )


def refuse_mixed_units(times: Sequence[np.ndarray], paths: Sequence[str | os.PathLike], reading: Reading) -> None:
    """Raises DataError for seconds since 1970 beside milliseconds, microseconds or nanoseconds: their order is wrong.

    It judges only where every number above 0 is a moment from 1985 to 2128 in one of these units: 0 and -1 are what
    programs write for a missing time.

    Args:
        times: float64 (n,) of each path, NaN where there is none.
    """
    units = [np.full(len(numbers), -1, np.int8) for numbers in times]
    for numbers, of_numbers in zip(times, units, strict=True):
        of_numbers[~(numbers > 0)] = -2  # which say nothing
        for unit in range(len(_UNITS)):
            low, high = (bound * 1000.0**unit for bound in _EPOCH)
            of_numbers[(numbers >= low) & (numbers < high)] = unit
    seen = set().union(*(np.unique(of_numbers).tolist() for of_numbers in units)) - {-2}
    if len(seen) < 2 or -1 in seen:
        return
    examples = []
    for unit in sorted(seen):
        part = next(part for part, of_numbers in enumerate(units) if (of_numbers == unit).any())
        row = int((units[part] == unit).argmax())
        examples.append(f"{reading.where(paths[part], row + 1)} has {times[part][row]:.0f}, {_UNITS[unit]}")
    raise DataError(f"times in several units: {'; '.join(examples)}. Give all in one unit")


def _digits(clock: pl.Expr) -> pl.Expr:
    """12, 12:30, 1230, 12:30:15, ... as the number of their six digits: 123015; 0 where there is none."""
    return clock.str.replace_all(":", "", literal=True).str.pad_end(6, "0").cast(pl.Int64).fill_null(0)


def _seconds(name: str) -> pl.Expr:
    """Six digits as seconds; null where no clock shows them."""
    digits = pl.col(name)
    hours, minutes, seconds = digits // 10_000, digits // 100 % 100, digits % 100
    legal = (hours < 24) & (minutes < 60) & (seconds < 60)
    return pl.when(legal).then(hours * 3600 + minutes * 60 + seconds)
