"""Statistics of runs against closed forms, scipy, statsmodels' numbers and simulated runs."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rearm_jax.evaluation import significance
from rearm_jax.evaluation.significance import all_pairs, compare, compare_and_pairs, holm, power, standard_error


def simulate(rng, num_seeds, num_users, shift=0.0, seed_sd=0.0, both_sd=0.1, users=0.0):
    """Runs of one model: `users` are its user effects."""
    seeds, both = rng.normal(0, seed_sd, (num_seeds, 1)), rng.normal(0, both_sd, (num_seeds, num_users))
    return shift + users + seeds + both


def some_runs(num_users=300):
    rng = np.random.default_rng(0)
    users = rng.normal(0, 0.2, num_users)
    return {
        "a": simulate(rng, 5, num_users, 0.30, 0.01, users=users),
        "b": simulate(rng, 3, num_users, 0.33, 0.02, users=users),
        "fitted": 0.2 + users[None],
    }


def variance_parts(a, b):
    """V_users, V_seeds and V_both of two models, and their degrees of freedom, one number at a time."""
    num_users = a.shape[1]
    differences = [
        sum(a[s, u] for s in range(len(a))) / len(a) - sum(b[s, u] for s in range(len(b))) / len(b)
        for u in range(num_users)
    ]
    mean = sum(differences) / num_users
    users = sum((d - mean) ** 2 for d in differences) / (num_users - 1) / num_users
    seeds, both = [], []
    for run in (a, b):
        n = len(run)
        if n == 1:
            continue
        row = [sum(run[s]) / num_users for s in range(n)]
        column = [sum(run[:, u]) / n for u in range(num_users)]
        total = sum(row) / n
        seeds.append((sum((r - total) ** 2 for r in row) / (n - 1) / n, n - 1))
        squares = sum(
            (run[s, u] - row[s] - column[u] + total) ** 2 for s, u in itertools.product(range(n), range(num_users))
        )
        both.append(squares / (n - 1) / (num_users - 1) / n / num_users)
    return users, seeds, both


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("a", "fitted"), ("b", "fitted")])
def test_the_bootstrap_has_the_variance_of_the_closed_form(first, second):
    runs = some_runs()
    users, seeds, both = variance_parts(runs[first], runs[second])
    excess = sum(part for part, _ in seeds) - sum(both)
    assert excess > 0
    found = compare(runs, second, num_resamples=20_000)[first].difference
    # The standard deviation of 20,000 numbers is off by 0.5%, its square by 1%.
    assert found.error**2 == pytest.approx(users + excess, rel=0.04)
    spread = users**2 / (runs[first].shape[1] - 1) + sum(part**2 / degrees for part, degrees in seeds)
    assert found.degrees == pytest.approx((users + excess) ** 2 / spread)
    assert found.value == pytest.approx(np.mean(runs[first]) - np.mean(runs[second]))


def test_without_an_effect_of_seeds_only_users_count():
    values = np.random.default_rng(1).normal(size=(4, 100))
    values -= values.mean(axis=1, keepdims=True)  # every seed has the same mean
    other = np.zeros((1, 100))
    found = compare({"a": values, "b": other}, "b", num_resamples=20_000)["a"].difference
    assert found.degrees == 99
    assert found.error == pytest.approx(values.mean(axis=0).std(ddof=1) / 10, rel=0.02)


def test_the_interval_and_p_are_students():
    found = compare(some_runs(), "a")["b"].difference
    low, high = scipy.stats.t.interval(0.95, found.degrees, found.value, found.error)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(2 * scipy.stats.t.cdf(-abs(found.value / found.error), found.degrees))
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


def test_rows():
    runs = some_runs()
    rows = compare(runs, "a")
    assert list(rows) == ["a", "b", "fitted"]
    assert rows["a"].difference is rows["a"].holm is None
    assert rows["b"].mean == pytest.approx(np.mean([np.mean(run) for run in runs["b"]]))
    assert rows["b"].sd == pytest.approx(np.std([np.mean(run) for run in runs["b"]], ddof=1))
    assert math.isnan(rows["fitted"].sd)
    assert [row.seeds for row in rows.values()] == [5, 3, 1]
    assert [rows["b"].holm, rows["fitted"].holm] == holm([rows["b"].difference.p, rows["fitted"].difference.p])


def test_the_same_seed_gives_the_same_whatever_stands_beside(monkeypatch):
    runs = some_runs()
    whole = compare(runs, "a", 500)
    assert compare({"b": runs["b"], "a": runs["a"]}, "a", 500)["b"].difference == whole["b"].difference
    assert compare(runs, "a", 500, seed=1)["b"].difference.error != whole["b"].difference.error
    assert compare(runs, "a", 500, seed=1)["b"].difference.value == whole["b"].difference.value
    monkeypatch.setattr(significance, "_BLOCK_DRAWS", 7 * runs["a"].shape[1])
    blocks = compare(runs, "a", 500)["b"].difference
    assert blocks == pytest.approx(whole["b"].difference, rel=1e-12)


def test_float32_is_added_up_in_float64():
    runs = {name: values.astype(np.float32) for name, values in some_runs().items()}
    wide = {name: values.astype(np.float64) for name, values in runs.items()}
    assert compare(runs, "a", 200)["b"].difference == pytest.approx(compare(wide, "a", 200)["b"].difference, rel=1e-9)


def test_equal_models_are_equal_and_a_constant_gap_is_none():
    values = np.random.default_rng(2).random((1, 50))
    rows = compare({"a": values, "twin": values, "above": values + 0.25}, "a")
    assert rows["twin"].difference[:4] == (0, 0, 0, 1)
    assert rows["above"].difference.value == pytest.approx(0.25)
    pair = all_pairs({"a": values, "twin": values})["a", "twin"]
    assert (pair.t_test, pair.wilcoxon) == (1, 1)


@pytest.mark.parametrize(
    ("runs", "reference", "word"),
    [
        ({"a": np.zeros((2, 5)), "b": np.zeros((2, 6))}, "a", r"b \(2, 6\)"),
        ({"a": np.zeros((2, 1))}, "a", "2 or more users"),
        ({"a": np.zeros(5)}, "a", "must be"),
        ({"a": np.zeros((0, 5))}, "a", "must be"),
        ({"a": np.full((1, 5), np.nan)}, "a", "a has NaN"),
        ({"a": np.zeros((2, 5))}, "c", "no model 'c'"),
    ],
)
def test_refused(runs, reference, word):
    with pytest.raises(ValueError, match=word):
        compare(runs, reference, 10)


def test_holm_against_statsmodels():
    """statsmodels.stats.multitest.multipletests(p, method="holm"), worked by hand from Holm's steps."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2, 0.6, 0.7]) == pytest.approx([0.6, 1, 1])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_holm_rejects_as_the_steps_of_the_paper(p):
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] * (len(p) - step) > level:
                break
            rejected.add(i)
        assert rejected == {i for i, value in enumerate(adjusted) if value <= level}


def test_all_pairs_beside_scipy_and_pratt_by_hand():
    runs = some_runs(40)
    runs["fitted"][:, :7] = runs["a"].mean(axis=0)[:7]  # differences of 0
    pairs = all_pairs(runs, 300)
    assert list(pairs) == [("a", "b"), ("a", "fitted"), ("b", "fitted")]
    for (first, second), pair in pairs.items():
        a, b = runs[first].mean(axis=0), runs[second].mean(axis=0)
        assert pair.t_test == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
        assert pair.difference == compare(runs, second, 300)[first].difference
        # Pratt: zeros are ranked with the others, then their ranks are left out.
        ranks, signs = scipy.stats.rankdata(abs(a - b)), np.sign(a - b)
        shift = sum(rank * sign for rank, sign in zip(ranks, signs, strict=True))
        deviation = math.sqrt(sum(rank**2 for rank, sign in zip(ranks, signs, strict=True) if sign))
        assert pair.wilcoxon == pytest.approx(2 * scipy.stats.norm.sf(abs(shift) / deviation))


def test_both_at_once_are_each_alone():
    runs = some_runs()
    rows, pairs = compare_and_pairs(runs, "b", 300, seed=4)
    assert repr(rows) == repr(compare(runs, "b", 300, seed=4))  # NaN, of the sd of one seed, is not equal to itself
    assert pairs == all_pairs(runs, 300, seed=4)
    with pytest.raises(ValueError, match="no model 'c'"):
        compare_and_pairs(runs, "c", 300)


def test_power_is_the_share_of_tests_that_find_it():
    rng = np.random.default_rng(3)
    for shift, n in ((0.5, 12), (1.0, 6), (0.0, 9)):
        found = scipy.stats.ttest_1samp(rng.normal(shift, 1, (20_000, n)), 0, axis=1).pvalue < 0.05
        assert power(shift, 1 / math.sqrt(n), n - 1) == pytest.approx(found.mean(), abs=0.012)
        assert power(-shift, 1 / math.sqrt(n), n - 1) == pytest.approx(power(shift, 1 / math.sqrt(n), n - 1))
    assert power(1.0, 0.01, 20_000) == pytest.approx(1)
    assert power(0.0, 1.0, 5, level=0.2) == pytest.approx(0.2)


# Standard deviations of the effects of seeds and of seeds by users: one, the other, both alike.
EFFECTS = [(0.02, 0.02), (0.0, 0.2), (0.01, 0.15)]
REPETITIONS = 400


def share_found(shift, user_sd, seed_sd, both_sd, num_users=200, num_seeds=5):
    """How often two models whose means differ by `shift` are found to differ; `user_sd` is of users' differences."""
    rng, found = np.random.default_rng(4), 0
    for _ in range(REPETITIONS):
        users = rng.normal(0.3, 0.2, num_users)
        other = users + rng.normal(0, user_sd, num_users)
        runs = {
            "a": simulate(rng, num_seeds, num_users, shift, seed_sd, both_sd, other),
            "b": simulate(rng, num_seeds, num_users, 0.0, seed_sd, both_sd, users),
        }
        found += compare(runs, "b", 200)["a"].difference.p < 0.05
    return found / REPETITIONS


@pytest.mark.parametrize(("seed_sd", "both_sd"), EFFECTS)
def test_a_model_under_other_seeds_is_a_tie(seed_sd, both_sd):
    assert 0.01 <= share_found(0.0, 0.0, seed_sd, both_sd) <= 0.08


@pytest.mark.parametrize(("seed_sd", "both_sd"), EFFECTS)
def test_an_effect_is_found_with_the_computed_power(seed_sd, both_sd):
    error, degrees = standard_error(0.1, seed_sd, both_sd, num_users=200, num_seeds=5)
    shift = 2.5 * error
    # Five seeds guess their own effect; 400 repetitions have a standard error of .023.
    assert share_found(shift, 0.1, seed_sd, both_sd) == pytest.approx(power(shift, error, degrees), abs=0.07)
