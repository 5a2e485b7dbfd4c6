"""A stray pair of quotes around records is refused where quotes are needed elsewhere; prose of many lines is read."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rearm_jax.errors import DataError
from tests.test_tables import read, write

ENDS = st.sampled_from(["\n", "\r\n"])
WORDS = st.text("abcdefghij", min_size=1, max_size=6)
PROSE = st.builds(str.join, st.sampled_from([" ", ", ", ","]), st.lists(WORDS, min_size=1, max_size=6))


def as_file(records, order, end):
    header = ("user_id", "item_id", "text")
    return end.join(",".join(record[i] for i in order) for record in [header, *records]) + end


@settings(deadline=None, max_examples=60)
@given(st.data(), st.permutations(range(3)), ENDS)
def test_swallowed_records_are_refused(tmp_path_factory, data, order, end):
    """A quote in the text of one record and another in that of a later one; blank or ragged lines between them."""
    num = data.draw(st.integers(6, 60))
    records = [(f"u{i}", f"B0{i}X", "ok") for i in range(num)]
    records[0] = ("u0", "B00X", '"a, b"')  # so that a reading without quotes does not fit
    first = data.draw(st.integers(2, num - 2))
    last = data.draw(st.integers(first + 1, num - 1))
    records[first] = (*records[first][:2], '"I loved it')
    records[last] = (*records[last][:2], 'me too"')
    lines = as_file(records, order, end).split(end)
    if last - first > 20:
        lines[first + 4] = data.draw(st.sampled_from(["", lines[first + 4], lines[first + 4].replace(",", "")]))
    path = write(tmp_path_factory.mktemp("swallowed") / "table", end.join(lines))
    with pytest.raises(DataError, match="quote"):
        read(path)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(PROSE, min_size=1, max_size=30), min_size=1, max_size=10), st.permutations(range(3)), ENDS)
def test_prose_is_read(tmp_path_factory, texts, order, end):
    records = [(f"u{i}", f"B0{i}X", "ok") for i in range(5)]
    texts = [end.join(lines) for lines in texts]
    records += [(f"u9{i}", f"B9{i}X", f'"{text}"') for i, text in enumerate(texts)]
    text = as_file(records, order, end)
    assume({line.count(",") for line in text.splitlines()} != {2})  # else each line may be a record, and it is refused
    rows = read(write(tmp_path_factory.mktemp("prose") / "table", text))[1]
    assert [row[order.index(2)] for row in rows[5:]] == texts
