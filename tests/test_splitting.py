"""Duplicates, k-core and splits against definitions written out plainly."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearm_jax.data.prepare.splitting import METHODS, TEST, TRAIN, VALID, deduplicate, k_core, split
from rearm_jax.errors import DataError

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 4)), min_size=1, max_size=60)
RATIOS = st.tuples(*[st.integers(1, 9)] * 3)


def columns(rows):
    users, items, times = np.array(rows).reshape(-1, 3).T
    return users, items, times.astype(float)


def unique_pairs(rows):
    return list({(user, item): (user, item, time) for user, item, time in rows}.values())


def by_row(rows, parts):
    return dict(zip(rows, parts.tolist(), strict=True))


@given(ROWS, st.sampled_from(["first", "last"]))
def test_deduplicate_keeps_the_first_or_last_of_each_pair(rows, keep):
    kept = deduplicate(*columns(rows), keep)
    pick = {"first": min, "last": max}[keep]
    expected = {pair: pick(row[2] for row in rows if row[:2] == pair) for pair in {row[:2] for row in rows}}
    assert {rows[i][:2]: rows[i][2] for i in kept} == expected
    assert len(kept) == len(expected)
    assert (np.diff(kept) > 0).all()


@given(ROWS)
def test_deduplicate_without_times(rows):
    users, items, _ = columns(rows)
    kept = deduplicate(users, items, None, "first")
    assert sorted(rows[i][:2] for i in kept) == sorted({row[:2] for row in rows})


@given(ROWS, st.integers(1, 4))
def test_k_core_is_the_largest_fixed_point(rows, k):
    rows = unique_pairs(rows)
    users, items, _ = columns(rows)
    kept = k_core(users, items, k)

    # One row at a time, until nothing is under k: whatever the order, this ends at the largest core.
    left = [row[:2] for row in rows]
    while under := [
        (user, item)
        for user, item in left
        if sum(other[0] == user for other in left) < k or sum(other[1] == item for other in left) < k
    ]:
        left.remove(under[0])
    assert [rows[i][:2] for i in kept] == left


@given(ROWS, st.sampled_from(METHODS), RATIOS, st.integers(0, 9), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_splits_do_not_depend_on_the_order_of_rows(rows, method, ratios, seed, random):
    rows = unique_pairs(rows)
    shuffled = random.sample(rows, len(rows))
    try:
        parts = split(*columns(rows), method, ratios, seed)
    except DataError:
        with pytest.raises(DataError, match="empty"):
            split(*columns(shuffled), method, ratios, seed)
        return
    assert set(parts.tolist()) == {TRAIN, VALID, TEST}
    assert by_row(rows, parts) == by_row(shuffled, split(*columns(shuffled), method, ratios, seed))


@given(ROWS, st.sampled_from(["random", "time", "leave-one-out"]), RATIOS)
@settings(max_examples=200)
def test_every_user_is_split_by_the_ratios(rows, method, ratios):
    rows = unique_pairs(rows) + [(9, item, item) for item in range(20)]  # so that no split is empty
    counts = Counter(zip(columns(rows)[0].tolist(), split(*columns(rows), method, ratios, 0).tolist(), strict=True))
    for user, total in Counter(row[0] for row in rows).items():
        train, valid, test = (counts[user, part] for part in (TRAIN, VALID, TEST))
        assert train + valid + test == total
        if total < 3:
            assert (train, valid, test) == (total, 0, 0)
        elif method == "leave-one-out":
            assert (valid, test) == (1, 1)
        else:
            assert min(train, valid, test) >= 1
            for count, ratio in ((valid, ratios[1]), (test, ratios[2])):
                exact = total * ratio / sum(ratios)
                assert abs(count - exact) < 1 or count == 1 or train == 1
            assert train >= total * ratios[0] / sum(ratios) - 2


@given(ROWS, st.sampled_from(["time", "leave-one-out"]))
def test_no_user_is_tested_on_the_past(rows, method):
    rows = unique_pairs(rows) + [(9, item, item) for item in range(3)]
    parts = split(*columns(rows), method, (2, 1, 1))
    for user in {row[0] for row in rows}:
        moments = [
            [(row[2], row[1]) for row, p in zip(rows, parts, strict=True) if row[0] == user and p == part]
            for part in range(3)
        ]
        for earlier, later in ((0, 1), (0, 2), (1, 2)):
            assert all(a < b for a in moments[earlier] for b in moments[later])  # equal times: by item


@given(ROWS, RATIOS)
def test_global_time_has_two_cuts(rows, ratios):
    rows = unique_pairs(rows)
    times, total = columns(rows)[2].tolist(), sum(ratios)
    first_cut, second_cut = (sorted(times)[len(rows) * share // total] for share in (ratios[0], ratios[0] + ratios[1]))
    expected = [TEST if time >= second_cut else VALID if time >= first_cut else TRAIN for time in times]
    if set(expected) == {TRAIN, VALID, TEST}:
        assert split(*columns(rows), "global-time", ratios).tolist() == expected
    else:
        with pytest.raises(DataError, match="empty"):
            split(*columns(rows), "global-time", ratios)


def test_global_time_by_the_ratios_where_moments_differ():
    times = np.random.default_rng(0).permutation(100)
    parts = split(times % 7, times, times.astype(float), "global-time")
    for part, moments in ((TRAIN, range(80)), (VALID, range(80, 90)), (TEST, range(90, 100))):
        assert sorted(times[parts == part]) == list(moments)


def test_global_time_keeps_a_moment_together():
    rows = [(user, 0, moment) for user, moment in enumerate([0] * 6 + [1] * 6 + [2] * 2)]
    parts = split(*columns(rows), "global-time")  # 8:1:1 would put rows of the moment 1 on both sides
    assert parts.tolist() == [TRAIN] * 6 + [VALID] * 6 + [TEST] * 2


def test_eight_one_one_of_thirty_is_exact():
    rows = [(0, item, item) for item in range(30)]
    for method in ("random", "time"):
        assert np.bincount(split(*columns(rows), method)).tolist() == [24, 3, 3]


def test_the_seed_decides_the_random_split():
    rows = [(user, item, 0) for user in range(20) for item in range(10)]
    same, again, other = (split(*columns(rows), "random", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()
    drawn = np.mean([split(*columns(rows), "random", seed=seed) == TEST for seed in range(200)], axis=0)
    assert abs(drawn - 0.1).max() < 0.1  # every row has its chance (standard deviation 0.02)


@pytest.mark.parametrize("method", METHODS)
def test_too_little_to_split(method):
    with pytest.raises(DataError, match=f"{method} leaves .* empty"):
        split(*columns([(0, 0, 0), (1, 1, 0)]), method)


def test_time_splits_need_times():
    with pytest.raises(DataError, match="needs times"):
        split(np.zeros(5, int), np.arange(5), None, "time")
