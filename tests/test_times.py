"""Dates against datetime.fromisoformat; numbers and dates in columns of interactions."""

import datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearm_jax.data.prepare.interactions import read_interactions
from rearm_jax.data.prepare.times import TIME, parse_iso
from rearm_jax.errors import DataError

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MOMENTS = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))


def micros(text):
    """Microseconds since 1970 by the standard library, and whether the date has an offset."""
    date = datetime.datetime.fromisoformat(text)
    in_utc = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    return (in_utc - EPOCH) // datetime.timedelta(microseconds=1), date.tzinfo is not None


@st.composite
def iso_dates(draw):
    """A moment in any form of ISO 8601 that the standard library knows, too, but for weeks."""
    moment, extended = draw(MOMENTS), draw(st.booleans())
    date = f"{moment:%Y-%m-%d}" if draw(st.booleans()) else f"{moment:%Y%m%d}"
    clock = draw(st.sampled_from(["", "%H", "%H:%M", "%H:%M:%S", "%H:%M:%S", "fraction"]))
    if not clock:
        return date
    text = f"{date}{draw(st.sampled_from('T t'))}{moment.strftime('%H:%M:%S' if clock == 'fraction' else clock)}"
    if clock == "fraction":
        text += draw(st.sampled_from(".,")) + draw(st.text("0123456789", min_size=1, max_size=12))
    offset = draw(st.sampled_from(["", "Z", "%H", "%H:%M", "%H:%M:%S"]))
    if offset not in ("", "Z"):
        offset = draw(st.sampled_from("+-")) + draw(st.times()).strftime(offset)
    if not extended:
        text, offset = text[:10] + text[10:].replace(":", ""), offset.replace(":", "")
    return text + offset


@given(st.lists(iso_dates(), min_size=1, max_size=30))
@settings(max_examples=300, deadline=None)
def test_dates_in_any_mixture_of_forms(texts):
    found = parse_iso(pl.Series(texts)).struct.unnest()
    assert list(found.iter_rows()) == [micros(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (" 2014-05-03T12:00:00Z ", "2014-05-03T12:00:00Z"),
        ("2014-05-03 12:00:00 +0200", "2014-05-03T12:00:00+02:00"),  # of git, Ruby
        ("2014-05-03 12:00:00.25 UTC", "2014-05-03T12:00:00.25Z"),  # of BigQuery
        ("2014-05-03 12:00:00+05", "2014-05-03T12:00:00+05:00"),  # of PostgreSQL
        ("2014-05-03T12:00:00z", "2014-05-03T12:00:00Z"),
    ],
)
def test_forms_that_programs_write(text, same):
    assert list(parse_iso(pl.Series([text])).struct.unnest().iter_rows()) == [micros(same)]


WRONG = [
    "2014-02-30",
    "2014-13-01",
    "2014-5-3",
    "2014-05",
    "2014/05/03",
    "2014-05-03T",
    "2014-05-03T24:00",
    "2014-05-03T12:60",
    "2014-05-03T12:00:60",
    "2014-05-03T12:00.5",
    "2014-05-03T1",
    "2014-05-03T12:00:00+24:00",
    "2014-05-03T12:00:00+",
    "2014-05-03T12:00:00ZZ",
    "2014-05-03Z",
    "2014-05-03T12:00:00 CET",
    "1399118400",
    "٢٠١٤-05-03",
    "yesterday",
    "",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_date(text):
    assert parse_iso(pl.Series([text, None])).to_list() == [{"time": None, "has_offset": None}] * 2


@given(st.lists(st.text("0123456789-+:.,TtZzUTC ", max_size=30) | st.text(max_size=9) | st.none(), max_size=9))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_finite_time_or_none(texts):
    found = parse_iso(pl.Series(texts, dtype=pl.String))
    assert found.dtype == TIME
    times = found.struct.unnest()
    assert times["time"].is_finite().all()
    assert (times["time"].is_null() == times["has_offset"].is_null()).all()


# In files


def table(path, times, **more):
    pl.DataFrame({"user": ["a"] * len(times), "item": [f"i{i}" for i in range(len(times))], "time": times}).write_csv(
        path, **more
    )
    return path


def read(*paths):
    return read_interactions(paths, with_times=True)


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%d %H:%M:%S.250000", "%Y-%m-%dT%H:%M"])
def test_a_column_of_one_form(tmp_path, form):
    moments = [datetime.datetime(2014, 5, 3, 12, minute) for minute in range(30)]
    texts = [moment.strftime(form) for moment in moments]
    found = read(table(tmp_path / "log.csv", texts))
    assert sorted(found.times.tolist()) == [micros(text)[0] for text in texts]
    assert found.num_naive == 0


def test_dates_without_an_offset_beside_some_with_one_are_told(tmp_path, caplog):
    mixed = ["2014-05-03T12:00:00+02:00", "2014-05-03T12:00:00", "2014-05-03"]
    for paths in (
        [table(tmp_path / "log.csv", mixed)],
        [table(tmp_path / "a.csv", mixed[:1]), table(tmp_path / "b.csv", mixed[1:])],
    ):
        caplog.clear()
        found = read(*paths)
        assert sorted(found.times.tolist()) == sorted(micros(text)[0] for text in mixed)
        assert found.num_naive == 2
        assert "2 times have no offset from UTC, where 1 have one: taken as UTC" in caplog.text
    caplog.clear()
    assert read(table(tmp_path / "log.csv", mixed[:1])).num_naive == 0
    assert not caplog.records


def test_numbers_beside_dates_are_refused(tmp_path):
    numbers = table(tmp_path / "numbers.csv", [1399118400, 1399118401])
    dates = table(tmp_path / "dates.csv", ["2014-05-03"])
    assert read(numbers).times.tolist() == [1399118400, 1399118401]
    with pytest.raises(DataError, match=r"numbers\.csv has numbers as times, and .*dates\.csv has dates"):
        read(dates, numbers)
    with pytest.raises(DataError, match=r"line 3, column 'time': '1399118400' is not a finite number, nor a date"):
        read(table(tmp_path / "log.csv", ["2014-05-03", "1399118400"]))
    with pytest.raises(DataError, match=r"line 3, column 'time': '2014-05-03' is not a finite number, nor a date"):
        read(table(tmp_path / "log.csv", ["1399118400", "2014-05-03"]))


def test_whole_numbers_that_float64_would_round_are_refused(tmp_path):
    exact = [1_700_000_000_000_000_000, 1_700_000_001_000_000_000, 2**60, 5]
    assert read(table(tmp_path / "log.csv", exact)).times.tolist() == exact
    words = r"line 3, column 'time': '1700000000000000001' has more digits than float64 holds.*larger unit"
    with pytest.raises(DataError, match=words):
        read(table(tmp_path / "log.csv", [exact[0], exact[0] + 1]))
    with pytest.raises(DataError, match="more digits than float64 holds"):
        read(table(tmp_path / "log.csv", [2**64 - 1]))


@pytest.mark.parametrize(
    ("times", "units"),
    [
        ([1_400_000_000, 0, 1_400_000_001_000], ["line 2 has 1400000000, seconds", "line 4 has 1400000001000, millis"]),
        ([1_400_000_000, 1_500_000_000_000, -1], ["line 2 has 1400000000, seconds", "line 3 .*milliseconds"]),
        ([1_400_000_000_000, 1_400_000_001_000_000_000], ["line 2 has 1400000000000, milli", "line 3 .*nanoseconds"]),
        ([1_400_000_000_000_000, 1_500_000_000], ["line 3 has 1500000000, seconds", "line 2 .*microseconds"]),
    ],
)
def test_epochs_in_several_units_are_refused(tmp_path, times, units):
    with pytest.raises(DataError, match=".*".join(["times in several units", *units])):
        read(table(tmp_path / "log.csv", times))
    files = [table(tmp_path / f"{i}.csv", [time]) for i, time in enumerate(times)]
    with pytest.raises(DataError, match="times in several units"):
        read(*files)


@pytest.mark.parametrize(
    "times",
    [
        [1, 2, 1_000_000_000_000],  # a counter, or nanoseconds since the start
        [600_000_000, 20_000_000_000, 700_000_000_000],
        [0, 1_400_000_000, 1_500_000_000],
        ["1970-01-01T00:10:00", "2014-05-03"],  # microseconds since 1970, once read
    ],
)
def test_other_numbers_are_one_unit(tmp_path, times):
    assert len(read(table(tmp_path / "log.csv", times)).times) == len(times)


@pytest.mark.parametrize(
    "times", [[datetime.timedelta(1)] * 2, [datetime.time(1)] * 2, [[1], [2]]], ids=["duration", "time", "list"]
)
def test_columns_that_are_no_times(tmp_path, times):
    pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "time": times}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: column 'time' is .*; times must be numbers, dates, or text"):
        read(tmp_path / "log.parquet")


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_parquet(tmp_path, unit, zone, caplog):
    moments = [datetime.datetime(2014, 5, 3, hour, tzinfo=datetime.UTC) for hour in (1, 2, 3)]
    times = pl.Series("time", moments).dt.cast_time_unit(unit)
    times = times.dt.replace_time_zone(None) if zone is None else times.dt.convert_time_zone(zone)
    pl.DataFrame({"user": ["a"] * 3, "item": ["x", "y", "z"], "time": times}).write_parquet(tmp_path / "log.parquet")
    text = table(tmp_path / "log.csv", ["2014-05-03T12:00:00Z"])
    found = read(tmp_path / "log.parquet", text)
    assert sorted(found.times.tolist()) == [micros(f"2014-05-03T{hour:02}:00")[0] for hour in (1, 2, 3, 12)]
    assert found.num_naive == (0 if zone else 3)
    assert len(caplog.records) == (zone is None)
