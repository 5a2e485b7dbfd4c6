"""Which models differ: statistics of runs by user and seed, so that neither chance of a seed nor of a user is a result.

A model's runs are an array `values[seed, user]` of a metric, the users the same for all models. Over what users and
seeds might have been, it is taken as

    values[s, u] = mean + user effect[u] + seed effect[s] + seed-by-user effect[s, u],

the user effects of two models going together, their seeds being drawn apart. The difference of two models with means
over S_a and S_b seeds and U users has the variance

    V = V_users + max(0, V_seeds - V_both)

    V_users  variance of the users' differences (of means over seeds) / U: of users, and of seed-by-user effects
    V_seeds  sum over both models of variance of the seeds' means / S: of seeds, and of seed-by-user effects again
    V_both   sum over both models of the mean square of the seed-by-user effects / (S U), counted twice above

(Cameron, Gelbach & Miller 2011 for clusters in two ways). It is found by a two-way bootstrap (Owen 2007: users
resampled, the same for all models, and seeds of each model), in which seeds' deviations are scaled so that the
seed-by-user effects count once and the few seeds are not taken for all there are (Davison & Hinkley 1997, 3.8): the
plain one counts the first three times and has (S - 1) / S of the variance of the second. Intervals and p are those of
Student's t with Satterthwaite's degrees of freedom (1946), as few seeds know their own variance badly.

A model with one seed counts as one that has no other: right where it is fitted in closed form, else too sure.
"""

import itertools
import math
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

Runs = Mapping[str, np.ndarray]  # name of a model -> float (seeds, users)

_BLOCK_DRAWS = 2**19  # users drawn at a time


class Difference(NamedTuple):
    """A model's mean minus another's."""

    value: float
    low: float  # of the interval, not adjusted for other comparisons
    high: float
    p: float  # two-sided, of no difference; below .05 where an interval of 95% leaves out 0
    error: float  # standard error
    degrees: float  # of freedom


class Row(NamedTuple):
    """A model in a table."""

    seeds: int
    mean: float  # over seeds of the means over users
    sd: float  # over seeds, of a sample; NaN with one seed
    difference: Difference | None  # to the reference row; None there
    holm: float | None  # p, adjusted for all rows


class Pair(NamedTuple):
    """Two models, for an appendix: the usual tests of the users' means over seeds know nothing of other seeds."""

    difference: Difference
    t_test: float  # p of the paired t-test
    wilcoxon: float  # p of the signed-rank test, differences of 0 ranked as Pratt (1959) has it


def compare(runs: Runs, reference: str, num_resamples: int = 10_000, seed: int = 0) -> dict[str, Row]:
    """The rows of a table: each model's mean, and its difference to a reference.

    Args:
      runs: float (seeds, users) of each model; the same users in the same order, at least 2, without NaN.
      reference: name of the row that the others are compared with.
      num_resamples: of the bootstrap; 10,000 give standard errors to about 0.7%.
      seed: of the bootstrap. A model's difference does not depend on which other models there are.

    Raises:
      ValueError: no such reference, or arrays of other shapes or with NaN.
    """
    return _rows(_Bootstrap(runs, num_resamples, seed), runs, reference)


def all_pairs(runs: Runs, num_resamples: int = 10_000, seed: int = 0) -> dict[tuple[str, str], Pair]:
    """Every pair of models, the first minus the second, in their order.

    Args and Raises: as `compare`.
    """
    return _pairs(_Bootstrap(runs, num_resamples, seed), runs)


def compare_and_pairs(
    runs: Runs, reference: str, num_resamples: int = 10_000, seed: int = 0
) -> tuple[dict[str, Row], dict[tuple[str, str], Pair]]:
    """What `compare` and `all_pairs` give, in half of the time; Args and Raises are their own."""
    bootstrap = _Bootstrap(runs, num_resamples, seed)
    return _rows(bootstrap, runs, reference), _pairs(bootstrap, runs)


def holm(p: list[float]) -> list[float]:
    """The p-values adjusted so that the chance of any false one is kept (Holm 1979): the i-th smallest of n, times
    n + 1 - i, at least its predecessor and at most 1."""
    values = np.array(p, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted.tolist()


def power(difference: float, error: float, degrees: float, level: float = 0.05) -> float:
    """The chance that a true difference is found at a level, two-sided: by the noncentral t-distribution.

    Where seeds matter much, three find less than computed (.56 for .64; benchmarks/results/significance.md), five as
    much.

    Args:
      difference: the true one.
      error, degrees: as in `Difference`, or from `standard_error`.
      level: of the test.
    """
    shift, critical = difference / error, scipy.stats.t.isf(level / 2, degrees)
    # The symmetry keeps to the tail that scipy computes well.
    return float(scipy.stats.nct.sf(critical, degrees, shift) + scipy.stats.nct.sf(critical, degrees, -shift))


def standard_error(
    user_sd: float, seed_sd: float, both_sd: float, num_users: int, num_seeds: int
) -> tuple[float, float]:
    """Standard error and degrees of freedom to expect of the difference of two models, before there are runs.

    They hold what the test itself loses: its estimate of the seeds' effect is at least 0, and so too large on average.

    Args:
      user_sd: of the users' true differences between the models; 0 for a model and itself.
      seed_sd: of a model's means over all users, from seed to seed.
      both_sd: of seed-by-user effects, in one run of one model.
      num_users: U.
      num_seeds: S, of each model, at least 2.
    """
    users = (user_sd**2 + 2 * both_sd**2 / num_seeds) / num_users
    seeds = (seed_sd**2 + both_sd**2 / num_users) / num_seeds
    spread = 2 * seeds / math.sqrt(num_seeds - 1)  # standard deviation of V_seeds, the sum of two models' parts
    ratio = 2 * seed_sd**2 / num_seeds / spread if spread else 0.0
    excess = spread * float(ratio * scipy.stats.norm.cdf(ratio) + scipy.stats.norm.pdf(ratio))  # mean of max(0, normal)
    return math.sqrt(users + excess), _degrees(users, num_users, [(seeds, num_seeds)] * 2, excess)


def _rows(bootstrap: "_Bootstrap", runs: Runs, reference: str) -> dict[str, Row]:
    if reference not in runs:
        raise ValueError(f"there is no model {reference!r} to compare with; there are {', '.join(runs)}")
    differences = {name: bootstrap.difference(name, reference) for name in runs if name != reference}
    adjusted = dict(zip(differences, holm([found.p for found in differences.values()]), strict=True))
    rows = {}
    for name, values in runs.items():
        means = values.mean(axis=1, dtype=np.float64)
        sd = float(means.std(ddof=1)) if len(means) > 1 else math.nan
        rows[name] = Row(len(means), float(means.mean()), sd, differences.get(name), adjusted.get(name))
    return rows


def _pairs(bootstrap: "_Bootstrap", runs: Runs) -> dict[tuple[str, str], Pair]:
    pairs = {}
    for a, b in itertools.combinations(runs, 2):
        of_users = runs[a].mean(axis=0, dtype=np.float64) - runs[b].mean(axis=0, dtype=np.float64)
        pairs[a, b] = Pair(bootstrap.difference(a, b), *_usual_tests(of_users))
    return pairs


class _Bootstrap:
    """Resampled deviations of every model's mean, from users and from seeds, and the differences from them."""

    def __init__(self, runs: Runs, num_resamples: int, seed: int):
        _check(runs)
        self._means = {name: values.mean(axis=0, dtype=np.float64) for name, values in runs.items()}
        users = _resample_users(np.stack(list(self._means.values())), num_resamples, seed)
        self._users = dict(zip(runs, users, strict=True))
        self._seeds, self._parts = {}, {}
        for name, values in runs.items():
            # The stream is the name's own: it stays the same whichever other models there are.
            rng = np.random.default_rng((seed, 1, zlib.crc32(name.encode())))
            seeds, num_seeds = values.mean(axis=1, dtype=np.float64), len(values)
            drawn = rng.integers(num_seeds, size=(num_resamples, num_seeds))
            wider = math.sqrt(num_seeds / (num_seeds - 1)) if num_seeds > 1 else 0.0
            self._seeds[name] = wider * (seeds - seeds.mean())[drawn].mean(axis=1)
            self._parts[name] = _seed_parts(values)

    def difference(self, a: str, b: str, level: float = 0.05) -> Difference:
        of_users = self._means[a] - self._means[b]
        num_users = len(of_users)
        (seeds_a, both_a, num_a), (seeds_b, both_b, num_b) = self._parts[a], self._parts[b]
        excess = max(0.0, seeds_a + seeds_b - both_a - both_b)
        scale = math.sqrt(excess / (seeds_a + seeds_b)) if excess else 0.0
        wider = math.sqrt(num_users / (num_users - 1))
        drawn = wider * (self._users[a] - self._users[b]) + scale * (self._seeds[a] - self._seeds[b])
        value, error = float(of_users.mean()), float(drawn.std())
        seeds = [(seeds_a, num_a), (seeds_b, num_b)]
        degrees = _degrees(float(of_users.var(ddof=1)) / num_users, num_users, seeds, excess)
        margin = float(scipy.stats.t.isf(level / 2, degrees)) * error
        # Without an error, the difference is the same for every user and seed.
        p = float(2 * scipy.stats.t.sf(abs(value) / error, degrees)) if error else float(value == 0)
        return Difference(value, value - margin, value + margin, p, error, degrees)


def _check(runs: Runs) -> None:
    num_users = {values.shape[-1] for values in runs.values()}
    for name, values in runs.items():
        if values.ndim != 2 or len(values) < 1 or values.shape[1] < 2 or len(num_users) > 1:
            shapes = ", ".join(f"{other} {array.shape}" for other, array in runs.items())
            raise ValueError(f"runs must be (seeds, users) with the same 2 or more users, found {shapes}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has NaN or infinity: leave out users without positives")


def _resample_users(means: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Means over resampled users minus means over all: float64 (models, users) -> (models, num_resamples)."""
    num_users = means.shape[1]
    centred = means - means.mean(axis=1, keepdims=True)
    rng, drawn = np.random.default_rng((seed, 0)), np.empty((len(means), num_resamples))
    num_rows = max(1, _BLOCK_DRAWS // num_users)
    for start in range(0, num_resamples, num_rows):
        n = min(num_rows, num_resamples - start)
        users = rng.integers(num_users, size=(n, num_users)) + num_users * np.arange(n)[:, None]
        counts = np.bincount(users.ravel(), minlength=n * num_users).reshape(n, num_users)
        drawn[:, start : start + n] = (counts.astype(np.float64) @ centred.T).T / num_users
    return drawn


def _seed_parts(values: np.ndarray) -> tuple[float, float, int]:
    """A model's parts of V_seeds and V_both, and its number of seeds."""
    num_seeds, num_users = values.shape
    if num_seeds == 1:
        return 0.0, 0.0, 1
    seeds, users = (values.mean(axis=axis, dtype=np.float64) for axis in (1, 0))
    rest = sum(
        float(((row - users - (mean - seeds.mean())) ** 2).sum()) for row, mean in zip(values, seeds, strict=True)
    )
    both = rest / ((num_seeds - 1) * (num_users - 1))
    return float(seeds.var(ddof=1)) / num_seeds, both / (num_seeds * num_users), num_seeds


def _degrees(users: float, num_users: int, seeds: list[tuple[float, int]], excess: float) -> float:
    """Satterthwaite's degrees of freedom of V = users + excess, where seeds are (part of V_seeds, number of seeds)."""
    if not excess:
        return float(num_users - 1)
    spread = users**2 / (num_users - 1) + sum(part**2 / (n - 1) for part, n in seeds if n > 1)
    return (users + excess) ** 2 / spread


def _usual_tests(differences: np.ndarray) -> tuple[float, float]:
    """p of the paired t-test and of Wilcoxon's signed ranks, for the differences of users."""
    if (differences == differences[0]).all():  # scipy divides 0 by 0
        t_test = float(differences[0] == 0)
    else:
        t_test = float(scipy.stats.ttest_1samp(differences, 0).pvalue)
    if not differences.any():
        return t_test, 1.0
    ranks = scipy.stats.wilcoxon(differences, zero_method="pratt", correction=False, method="asymptotic")
    return t_test, float(ranks.pvalue)
