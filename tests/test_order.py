"""The order of an epoch: every interaction once, no pattern; computed in the place of sorted where they are many."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rearm_jax.experiment import build_experiment
from rearm_jax.parallel.rows import ALONE
from rearm_jax.training import order as order_module
from rearm_jax.training.order import ComputedOrder, epoch_order, permute
from rearm_jax.training.sampling import make_sampler
from rearm_jax.training.step import TrainState, draw_order, train_steps
from tests.conftest import tiny_config

SORTED_AT_MOST = 2**24


def side_of(n: int) -> int:
    return next(side for side in range(1, 2**16) if side * side >= n)


def test_every_length_up_to_1000_is_a_bijection():
    compiled = jax.jit(permute)
    for n in range(1, 1001):
        positions = np.minimum(np.arange(1000), n - 1).astype(np.int32)
        places = np.asarray(compiled(jax.random.key(n), positions, n, side_of(n)))
        np.testing.assert_array_equal(np.sort(places[:n]), np.arange(n))


@pytest.mark.parametrize("n", [10_007, 2**17, 3 * 2**15 + 1])
def test_long_ones_are_bijections(n):
    places = ComputedOrder(jax.random.key_data(jax.random.key(n)), n)[jnp.arange(n, dtype=jnp.int32)]
    assert places.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(places, minlength=n), np.ones(n))


@pytest.mark.parametrize("n", [2**31 - 1, 2**31 - 46341, SORTED_AT_MOST + 1])
def test_the_longest_stay_inside_and_do_not_repeat(n):
    ends = np.concatenate([np.arange(50_000), np.arange(n - 50_000, n)]).astype(np.int32)
    places = np.asarray(ComputedOrder(jax.random.key_data(jax.random.key(0)), n)[ends])
    assert places.min() >= 0
    assert places.max() < n
    assert len(np.unique(places)) == len(ends)


@pytest.mark.parametrize("n", [9, 12, 13])  # a square, and lengths that need walks
def test_positions_and_pairs_of_neighbours_are_uniform_over_keys(n):
    keys = jax.random.split(jax.random.key(0), 20_000)
    places = jax.vmap(lambda key: permute(key, jnp.arange(n, dtype=jnp.int32), n, side_of(n)))(keys)
    places = np.asarray(places)
    pvalues = [scipy.stats.chisquare(np.bincount(column, minlength=n)).pvalue for column in places.T]
    off_diagonal = ~np.eye(n, dtype=bool)
    for position in range(n - 1):
        pairs = np.zeros((n, n))
        np.add.at(pairs, (places[:, position], places[:, position + 1]), 1)
        assert pairs.diagonal().sum() == 0
        pvalues.append(scipy.stats.chisquare(pairs[off_diagonal]).pvalue)
    assert min(pvalues) > 1e-3 / len(pvalues)


def test_positions_and_pairs_of_neighbours_are_uniform_within_one_order():
    n, cells = SORTED_AT_MOST + 5, 32
    order = epoch_order(jax.random.key(1), n)
    places = np.asarray(order[jnp.arange(200_000, dtype=jnp.int32)]).astype(np.int64) * cells // n
    assert scipy.stats.chisquare(np.bincount(places, minlength=cells)).pvalue > 1e-3
    pairs = np.bincount(places[::2] * cells + places[1::2], minlength=cells**2)  # of no position in common
    assert scipy.stats.chisquare(pairs).pvalue > 1e-3


def test_where_it_is_sorted_and_where_computed():
    kinds = [type(jax.eval_shape(lambda key, n=n: epoch_order(key, n), jax.random.key(0))) for n in (1, SORTED_AT_MOST)]
    assert kinds == [jax.ShapeDtypeStruct] * 2
    first, again, other = (epoch_order(jax.random.key(seed), SORTED_AT_MOST + 1) for seed in (1, 1, 2))
    positions = jnp.arange(100, dtype=jnp.int32)
    np.testing.assert_array_equal(first[positions], again[positions])
    assert (np.asarray(first[positions]) != np.asarray(other[positions])).sum() > 90
    assert len(first) == SORTED_AT_MOST + 1
    program = jax.jit(lambda key, positions: epoch_order(key, SORTED_AT_MOST + 1)[positions])
    text = program.lower(jax.random.key(0), positions).as_text()
    assert "stablehlo.sort" not in text
    assert f"tensor<{SORTED_AT_MOST + 1}" not in text


def test_an_epoch_that_is_cut_into_calls_has_one_computed_order(monkeypatch):
    monkeypatch.setattr(order_module, "_SORTED_AT_MOST", 10)
    experiment = build_experiment(tiny_config(model__name="lightgcn"))
    config, pairs = experiment.config, experiment.dataset.train
    tx, sampler = experiment.tx, jax.device_put(make_sampler(experiment.dataset, "strict"))
    params = experiment.model.initial_params(jax.random.key(0), experiment.inputs, experiment.dataset)
    state = TrainState(params, tx.init(params), jnp.int32(0), jax.random.key_data(jax.random.key(5)))
    draw = jax.jit(functools.partial(draw_order, len(pairs), config.batch_size, ALONE))
    steps = jax.jit(functools.partial(train_steps, experiment.model, tx, config.batch_size, ALONE))

    def run(state: TrainState, num_steps: int) -> TrainState:
        order = draw(state)
        assert isinstance(order, ComputedOrder)
        return steps(state, experiment.inputs, sampler, order, np.int32(num_steps))[0]

    total = math.ceil(len(pairs) / config.batch_size)
    assert total > 3
    jax.tree.map(np.testing.assert_array_equal, run(run(state, 2), total - 2), run(state, total))
    orders = [np.asarray(draw(state._replace(step=jnp.int32(step)))[jnp.arange(len(pairs))]) for step in (0, total)]
    assert (np.sort(orders[0]) == np.arange(len(pairs))).all()
    assert (orders[0] != orders[1]).mean() > 0.9
