"""The train step against numpy: the loss and its shares, AdamW, the frozen meta projections, schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.experiment import abstract_params, build_experiment, init_params, make_optimizer, optimizer_rates
from rearm_jax.models.rearm import REARM
from rearm_jax.parallel.rows import ALONE, Shard
from rearm_jax.recommender.contract import Batch
from rearm_jax.training.sampling import make_sampler
from rearm_jax.training.step import TrainState, draw_order, loss_share, steps_per_epoch, train_step, train_steps
from tests.conftest import tiny_config

PARTS = ("bpr", "contrastive", "orthogonal", "l2")
ONE_MODALITY = {
    "data__modalities": ("text",),
    "graph__user_modality_weights": (1.0,),
    "graph__item_modality_weights": (1.0,),
}
LOSS = {"loss__contrastive_weight": 0.02, "loss__orthogonal_weight": 0.3, "loss__l2_weight": 0.1}


@pytest.fixture(scope="module")
def rearm():
    return build_experiment(tiny_config(model__num_layers=1, weight_decay=0.1, learning_rate=1e-2, **LOSS))


def new_state(experiment, params=None) -> TrainState:
    params = init_params(experiment) if params is None else params
    key = jax.random.key_data(jax.random.key(experiment.config.seed))
    return TrainState(params, experiment.tx.init(params), jnp.int32(0), key)


def random_batch(experiment, size: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    dataset = experiment.dataset
    rows = rng.choice(len(dataset.train), size)  # with replacement: users and items repeat
    users, positives = dataset.train[rows].T
    mask = rng.random(size) < 0.8
    return Batch(users, positives, rng.integers(0, dataset.num_items, size, np.int32), mask)


def numpy_loss(config, out, batch: Batch) -> dict[str, float]:
    """The parts of the loss of a whole batch, written down once more (design: BPR, InfoNCE, orthogonality, L2)."""
    out = jax.tree.map(lambda x: np.asarray(x, np.float64), out)
    views = out.views
    users, positives, negatives = (ids[batch.mask] for ids in batch[:3])
    margin = np.sum(out.users[users] * (out.items[positives] - out.items[negatives]), axis=1)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def contrastive(tables, ids):
        first, second = (unit(table[np.unique(ids)]) for table in tables)
        logits = first @ second.T / config.temperature
        return np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))

    def orthogonal(tables, ids):
        first, second = (table[ids] - table[ids].mean(0) for table in tables)
        first, second = (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6) for x in (first, second))
        return np.mean((first.T @ second) ** 2)

    items = np.concatenate([positives, negatives])
    squares = sum(
        np.sum(table[ids] ** 2)
        for table, ids in ((views["user_ids"], users), (views["item_ids"], positives), (views["item_ids"], negatives))
    )
    return {
        "bpr": np.mean(np.log1p(np.exp(-margin))),
        "contrastive": config.contrastive_weight
        * (contrastive(views["modal_users"], users) + contrastive(views["modal_items"], items)),
        "orthogonal": config.orthogonal_weight
        * (orthogonal(views["modal_users"], users) + orthogonal(views["modal_items"], positives)),
        "l2": config.l2_weight / 2 * squares / len(users),
    }


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_shares_of_the_devices_add_up_to_the_loss(rearm, count):
    params, graphs, key = init_params(rearm), rearm.inputs, jax.random.key(7)
    batch = random_batch(rearm, 37)
    out = rearm.model.apply({"params": params}, graphs, train=True, rngs={"dropout": key})
    expected = numpy_loss(rearm.config.loss, out, batch)
    assert min(expected.values()) > 1e-3  # each part is there to be seen

    padded = jax.tree.map(Shard(0, count).pad, batch)
    assert padded.users.shape[0] % count == 0
    share = jax.jit(lambda index: loss_share(rearm.model, params, graphs, padded, key, Shard(index, count)))
    loss, parts = jax.tree.map(lambda *shares: sum(map(float, shares)), *map(share, range(count)))
    assert set(parts) == set(PARTS)
    for name, value in expected.items():
        np.testing.assert_allclose(parts[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-5)


def test_a_batch_without_a_valid_row_has_loss_zero(rearm):
    batch = random_batch(rearm, 8)._replace(mask=np.zeros(8, bool))
    share = jax.jit(
        jax.value_and_grad(lambda p: loss_share(rearm.model, p, rearm.inputs, batch, jax.random.key(0), ALONE)[0])
    )
    loss, grads = share(init_params(rearm))
    assert loss == 0
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def epoch_of(rearm):
    """(state, number of steps) -> (state, sums, last), as the loop calls it."""
    compiled = jax.jit(functools.partial(train_steps, rearm.model, rearm.tx, rearm.config.batch_size, ALONE))
    sampler = jax.device_put(make_sampler(rearm.dataset, "strict"))
    draw = jax.jit(functools.partial(draw_order, len(rearm.dataset.train), rearm.config.batch_size, ALONE))
    return lambda state, num_steps: compiled(state, rearm.inputs, sampler, draw(state), np.int32(num_steps))


def test_cutting_an_epoch_into_calls_changes_nothing(rearm, epoch_of):
    total = steps_per_epoch(len(rearm.dataset.train), rearm.config.batch_size)
    assert total == 6
    assert len(rearm.dataset.train) % rearm.config.batch_size  # the last batch is short
    state = new_state(rearm)
    whole, whole_sums, whole_last = epoch_of(state, total)
    first, first_sums, _ = epoch_of(state, 1)
    pieces, pieces_sums, pieces_last = epoch_of(first, total - 1)
    assert int(whole.step) == int(pieces.step) == total
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
    assert whole_last == pieces_last
    for name in whole_sums:
        np.testing.assert_allclose(first_sums[name] + pieces_sums[name], whole_sums[name], rtol=1e-5, err_msg=name)
    none, none_sums, _ = epoch_of(state, 0)
    jax.tree.map(np.testing.assert_array_equal, none, state)
    assert all(value == 0 for value in none_sums.values())


def test_metrics_of_a_step(rearm, epoch_of):
    _, sums, last = epoch_of(new_state(rearm), 1)
    assert set(sums) == {"loss", "grad_norm", *PARTS}
    np.testing.assert_allclose(last["loss"], sum(last[name] for name in PARTS), rtol=1e-6)
    assert sums == last


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, {"bpr", "contrastive", "orthogonal"}),
        ({"loss__contrastive_weight": 0.0}, {"bpr", "orthogonal"}),
        ({"loss__orthogonal_weight": 0.0, "loss__l2_weight": 1.0}, {"bpr", "contrastive", "l2"}),
        (ONE_MODALITY, {"bpr"}),
        ({"model__name": "lightgcn"}, {"bpr", "l2"}),
        ({"model__name": "lightgcn", "loss__l2_weight": 0.0}, {"bpr"}),
    ],
)
def test_a_part_of_weight_0_is_not_computed(changes, parts):
    experiment = build_experiment(tiny_config(**changes))
    args = abstract_params(experiment), experiment.inputs, random_batch(experiment, 8), jax.random.key(0)
    _, found = jax.eval_shape(lambda *args: loss_share(experiment.model, *args, ALONE), *args)
    assert set(found) == parts


def test_a_non_finite_step_ends_the_call(rearm, epoch_of):
    state = new_state(rearm)
    params = {**state.params, "user_id_table": state.params["user_id_table"].at[0, 0].set(np.inf)}
    after, _, last = epoch_of(state._replace(params=params), 6)
    assert int(after.step) == 1
    assert not np.isfinite(last["loss"])


def is_meta_projection(path) -> bool:
    return path[0].key in ("user_meta", "item_meta") and path[1].key == "projection"


def moved(before, after) -> dict[str, bool]:
    """Parameter -> whether any of its elements changed."""
    changes = jax.tree_util.tree_map_with_path(
        lambda path, a, b: ("meta" if is_meta_projection(path) else "other", bool(np.any(np.asarray(a) != b))),
        before,
        after,
    )
    leaves = jax.tree_util.tree_leaves_with_path(changes, is_leaf=lambda x: isinstance(x, tuple))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def test_meta_projections_neither_move_nor_decay(rearm, epoch_of):
    state = new_state(rearm)
    after, *_ = epoch_of(state, 2)
    changes = moved(state.params, after.params)
    assert sum(kind == "meta" for kind, _ in changes.values()) == 4  # kernel and bias, of users and of items
    assert {name for name, (kind, moves) in changes.items() if moves != (kind == "other")} == set()


def test_meta_projections_can_be_trained():
    experiment = build_experiment(tiny_config(model__num_layers=1, model__train_meta_projection=True))
    step = jax.jit(functools.partial(train_step, experiment.model, experiment.tx, shard=ALONE))
    state = new_state(experiment)
    after, _ = step(state, experiment.inputs, random_batch(experiment, 64))
    assert all(moves for _, moves in moved(state.params, after.params).values())


class NumpyAdamW:
    """AdamW as in PyTorch's documentation, in float64."""

    def __init__(self, params, rate, decay, clip=0.0):
        self.params = {name: np.asarray(p, np.float64) for name, p in params.items()}
        self.first = {name: np.zeros_like(p) for name, p in self.params.items()}
        self.second = {name: np.zeros_like(p) for name, p in self.params.items()}
        self.rate, self.decay, self.clip, self.t = rate, decay, clip, 0

    def step(self, grads):
        self.t += 1
        norm = np.sqrt(sum(np.sum(np.asarray(g, np.float64) ** 2) for g in grads.values()))
        scale = self.clip / norm if 0 < self.clip < norm else 1.0
        for name, p in self.params.items():
            g = np.asarray(grads[name], np.float64) * scale
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = 0.999 * self.second[name] + 0.001 * g**2
            first, second = self.first[name] / (1 - 0.9**self.t), self.second[name] / (1 - 0.999**self.t)
            p *= 1 - self.rate * self.decay
            p -= self.rate * first / (np.sqrt(second) + 1e-8)


def test_steps_of_lightgcn_match_numpy():
    config = tiny_config(
        model__name="lightgcn", model__num_layers=2, learning_rate=1e-2, weight_decay=0.1, loss__l2_weight=0.05
    )
    experiment = build_experiment(config)
    dataset, num_users = experiment.dataset, experiment.dataset.num_users
    size = num_users + dataset.num_items
    adjacency = np.zeros((size, size))
    adjacency[dataset.train[:, 0], num_users + dataset.train[:, 1]] = 1
    adjacency += adjacency.T
    degree = np.maximum(adjacency.sum(1), 1)
    adjacency /= np.sqrt(degree[:, None] * degree)
    mean = (np.eye(size) + adjacency + adjacency @ adjacency) / 3

    def loss_and_grads(params, batch):
        """By hand: d softplus(n - p) = sigmoid(n - p) (dn - dp), back through the constant matrix `mean`."""
        ids = np.concatenate([params["user_id_table"], params["item_id_table"]])
        out = mean @ ids
        u, p, n = (x[batch.mask] for x in (batch.users, num_users + batch.positives, num_users + batch.negatives))
        margin = np.sum(out[u] * (out[n] - out[p]), axis=1)
        slope = (1 / (1 + np.exp(-margin)) / len(u))[:, None]
        d_out, d_ids = np.zeros_like(out), np.zeros_like(ids)
        np.add.at(d_out, u, slope * (out[n] - out[p]))
        np.add.at(d_out, n, slope * out[u])
        np.add.at(d_out, p, -slope * out[u])
        for nodes in (u, p, n):
            np.add.at(d_ids, nodes, 0.05 * ids[nodes] / len(u))
        loss = np.mean(np.log1p(np.exp(margin))) + 0.025 * sum(np.sum(ids[x] ** 2) for x in (u, p, n)) / len(u)
        grads = mean.T @ d_out + d_ids
        return loss, {"user_id_table": grads[:num_users], "item_id_table": grads[num_users:]}

    state = new_state(experiment)
    reference = NumpyAdamW(state.params, rate=1e-2, decay=0.1)
    step = jax.jit(functools.partial(train_step, experiment.model, experiment.tx, shard=ALONE))
    for seed in range(4):
        batch = random_batch(experiment, 64, seed)
        loss, grads = loss_and_grads(reference.params, batch)
        state, metrics = step(state, experiment.inputs, batch)
        reference.step(grads)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    for name, expected in reference.params.items():
        np.testing.assert_allclose(state.params[name], expected, atol=1e-5, err_msg=name)  # a step moves by 1e-2


def apply_updates(config, params, grads_of_steps, num_interactions=100):
    """Parameters after each step of make_optimizer's transformation."""
    model = REARM.make(config, make_synthetic(3, 3, 3, 2, 0, config.data.modalities))
    tx = make_optimizer(config, num_interactions).transformation(model, optimizer_rates(config))
    opt_state, path = tx.init(params), []
    for grads in grads_of_steps:
        updates, opt_state = tx.update(grads, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        path.append(params)
    return path


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_clipping_and_adamw_match_numpy(clip):
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.asarray(rng.normal(size=5), jnp.float32)}
    # Norms of about 0.04 and 40: only the large ones are clipped, which shows in how later steps weigh them.
    grads = [{k: np.float32(rng.normal(size=p.shape) * s) for k, p in params.items()} for s in (10, 0.01, 10, 0.01)]
    reference = NumpyAdamW(params, rate=0.1, decay=0.2, clip=clip)
    config = tiny_config(learning_rate=0.1, weight_decay=0.2, gradient_clip_norm=clip)
    for after, g in zip(apply_updates(config, params, grads), grads, strict=True):
        reference.step(g)
        for name in params:
            np.testing.assert_allclose(after[name], reference.params[name], atol=1e-5)  # a step moves by 0.1


def test_decay_skips_the_meta_projections_alone():
    params = {
        "user_meta": {"projection": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "mlp_1": {"pre": jnp.ones(2)}},
        "item_meta": {"projection": {"kernel": jnp.ones(2)}},
        "user_image_projection": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
        "item_id_table": jnp.ones(2),
    }
    config = tiny_config(learning_rate=0.1, weight_decay=0.5)
    (after,) = apply_updates(config, params, [jax.tree.map(jnp.zeros_like, params)])
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        np.testing.assert_allclose(leaf, 1.0 if is_meta_projection(path) else 0.95, rtol=1e-6, err_msg=str(path))


def rates(config, num_steps: int) -> list[float]:
    """The learning rate of each step: with a constant gradient of 1, AdamW moves by exactly that much."""
    path = apply_updates(config, {"w": jnp.zeros(())}, [{"w": jnp.ones(())}] * num_steps)
    return (-np.diff([0.0, *(float(p["w"]) for p in path)])).tolist()


@pytest.mark.parametrize(
    ("name", "warmup", "decay"), [("constant", 0, 0), ("constant", 2, 0), ("cosine", 0, 4), ("cosine", 1, 4)]
)
def test_schedules(name, warmup, decay):
    config = tiny_config(
        learning_rate=0.5,
        weight_decay=0.0,
        batch_size=40,  # of 100 interactions: 3 steps an epoch
        schedule__name=name,
        schedule__warmup_epochs=warmup,
        schedule__decay_epochs=decay,
    )

    def expected(step):
        if step < 3 * warmup:
            return 0.5 * step / (3 * warmup)
        if name == "constant":
            return 0.5
        progress = min((step - 3 * warmup) / (3 * decay - 3 * warmup), 1.0)
        return 0.5 * (1 + np.cos(np.pi * progress)) / 2

    np.testing.assert_allclose(rates(config, 15), [expected(step) for step in range(15)], atol=1e-5)


def test_steps_per_epoch():
    assert [steps_per_epoch(n, 4) for n in (1, 3, 4, 5, 8, 9)] == [1, 1, 1, 2, 2, 3]
