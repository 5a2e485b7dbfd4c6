"""Ranges, and the list of settings to try: its properties, and that every model takes what its space gives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearm_jax import default, models
from rearm_jax.config import check_config
from rearm_jax.recommender.search_space import Choice, LogUniform, Uniform, search_list

SPACE = {"b": Uniform(-1.0, 3.0), "a.rate": LogUniform(1e-4, 1e-1), "a.k": Choice((5, 10, "all"))}
TRIED = ("bm3", "bpr", "ease", "freedom", "itemknn", "lightgcn", "mgcn", "rearm", "smore", "vbpr")

numbers = st.floats(1e-30, 1e30)
shares = st.floats(0, 1)


@given(n=st.integers(1, 70), more=st.integers(0, 70), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_longer_list_begins_with_the_shorter(n, more, seed):
    tries = search_list(SPACE, n, seed)
    assert len(tries) == n
    assert tries[0] == {}
    assert search_list(dict(reversed(SPACE.items())), n + more, seed)[:n] == tries
    for values in tries[1:]:
        assert values.keys() == SPACE.keys()
        assert -1 <= values["b"] <= 3
        assert 1e-4 <= values["a.rate"] <= 1e-1
        assert values["a.k"] in (5, 10, "all")


def test_another_seed_is_another_list():
    assert search_list(SPACE, 9, 0) != search_list(SPACE, 9, 1)


def test_points_are_spread_as_sobols_are():
    """Each half, quarter ... sixteenth of every range has as many of 16 points, which chance would hardly give."""
    tries = search_list({"u": Uniform(0.0, 16.0), "l": LogUniform(1.0, 2.0**16), "c": Choice((0, 1, 2, 3))}, 17, 3)[1:]
    assert sorted(math.floor(values["u"]) for values in tries) == list(range(16))
    assert sorted(math.floor(math.log2(values["l"])) for values in tries) == list(range(16))
    assert np.bincount([values["c"] for values in tries]).tolist() == [4, 4, 4, 4]


def test_nothing_to_search_is_the_defaults():
    assert search_list({}, 5, 0) == [{}]
    assert search_list(SPACE, 1, 0) == [{}]
    with pytest.raises(ValueError, match="n = 0"):
        search_list(SPACE, 0, 0)


@given(low=numbers, high=numbers, share=shares, other=shares)
def test_ranges_keep_their_ends_and_their_order(low, high, share, other):
    low, high = min(low, high), max(low, high)
    for kind in (Uniform, LogUniform):
        if low == high:
            with pytest.raises(ValueError, match="low must be"):
                kind(low, high)
            continue
        one = kind(low, high)
        assert low <= one.at(share) <= high
        assert one.at(0) == low
        assert one.at(1) == pytest.approx(high)
        assert one.at(min(share, other)) <= one.at(max(share, other))
    if low < high:
        middle = math.sqrt(low) * math.sqrt(high)
        assert LogUniform(low, high).at(0.5) == pytest.approx(middle)
        assert Uniform(low, high).at(0.5) == pytest.approx((low + high) / 2)


@pytest.mark.parametrize("make", [lambda: LogUniform(0.0, 1.0), lambda: Choice((1,)), lambda: Choice((1, 1))])
def test_impossible_ranges(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize("name", models.names())
def test_every_model_takes_what_its_space_gives(name):
    space = models.find(name).search_space
    assert bool(space) == (name in TRIED)
    ends = [{setting: values.at(share)} for setting, values in space.items() for share in (0, 1)]
    for changes in search_list(space, 33, 0) + ends:
        config = default.get_config(name)
        config.data.root = "data"
        config.lock()  # a setting that there is not is refused
        config.update_from_flattened_dict(changes)
        check_config(config)


@pytest.mark.parametrize("name", TRIED)
def test_the_default_is_in_reach_of_the_space(name):
    """A space that the defaults are far outside of would look elsewhere than where people start."""
    declared = default.declared(name)
    for setting, values in models.find(name).search_space.items():
        value = declared[setting].default
        if isinstance(values, Choice):
            assert value in values.values, setting
        elif value:
            assert values.low / 3 <= value <= values.high * 3, setting
