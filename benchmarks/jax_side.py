"""The parts of rearm_jax, each a function that computes once, forward and backward, and waits for the result."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problem import Problem, load_problem
from rearm_jax.data.dataset import group_by_user
from rearm_jax.evaluation.metrics import split_metrics
from rearm_jax.evaluation.ranking import make_blocks, rank_items
from rearm_jax.experiment import Experiment, abstract_params, init_params, make_experiment
from rearm_jax.graphs.adjacency import propagate
from rearm_jax.models.rearm import REARM
from rearm_jax.models.rearm.meta_network import MetaNetwork
from rearm_jax.parallel.rows import ALONE, Nodes
from rearm_jax.recommender.contract import Batch, Representations
from rearm_jax.recommender.layers import torch_linear
from rearm_jax.training.epoch import compile_steps
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.loop import CALL_SECONDS
from rearm_jax.training.order import epoch_order
from rearm_jax.training.placement import place
from rearm_jax.training.sampling import draw_batch, make_sampler
from rearm_jax.training.step import steps_per_epoch


def load_parts(folder: str, side: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """Name of a part -> what makes it: a function of nothing that runs it once. `side` is "jax"."""
    problem = load_problem(Path(folder))
    experiment = functools.cache(lambda: make_experiment(problem.config, problem.dataset))
    along = functools.partial(propagation, width=problem.width)
    makers = COMMON | {
        "wide features": _wide_features,
        "propagation user-user": functools.partial(along, graph="user_user"),
        "propagation item-item": functools.partial(along, graph="item_item"),
        "propagation user-item": functools.partial(along, graph="user_item"),
        "attention": _attention,
        "meta-network": _meta_network,
        "losses": _losses,
    }
    parts = {name: functools.partial(lambda make: make(experiment()), make) for name, make in makers.items()}
    return parts | {"ranking": lambda: ranking(problem)}


def count_parameters(folder: str) -> int:
    """Numbers that are trained."""
    problem = load_problem(Path(folder))
    params = abstract_params(make_experiment(problem.config, problem.dataset))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def timed(function: Callable, *args, donate: tuple[int, ...] = ()) -> Callable[[], object]:
    """Runs `function` compiled, until the device is done."""
    compiled = jax.jit(function, donate_argnums=donate)
    return lambda: jax.block_until_ready(compiled(*args))


def forward_backward(function: Callable, *inputs) -> Callable[[], object]:
    """Runs `function` and its gradient with respect to every input, for a random incoming gradient."""
    outputs = jax.eval_shape(function, *inputs)
    cotangents = jax.tree.map(lambda out: random(out.shape), outputs)

    def run(inputs, cotangents):
        out, backward = jax.vjp(function, *inputs)
        return out, backward(cotangents)

    return timed(run, inputs, cotangents)


def random(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    """Small normal numbers."""
    return 0.1 * jax.random.normal(jax.random.key(seed), shape)


def _training(experiment: Experiment):
    """(placement, inputs as they are placed, function of state and number of steps, new state)."""
    placement = place(experiment)
    inputs = placement.inputs()
    return placement, inputs, compile_steps(placement, inputs), jax.block_until_ready(placement.state())


def compilation(experiment: Experiment) -> Callable[[], object]:
    """What comes before the first step: a call of no steps."""
    *_, run, state = _training(experiment)
    return lambda: jax.block_until_ready(run(state, 0))


def step(experiment: Experiment) -> Callable[[], object]:
    """As many steps as the training loop does in a call; one a call would pay for fresh memory each time."""
    placement, _, run, state = _training(experiment)
    state, *_ = jax.block_until_ready(run(state, 1))
    start = time.perf_counter()
    state, *_ = jax.block_until_ready(run(state, 1))
    count = max(1, round(CALL_SECONDS / (time.perf_counter() - start)))
    count = min(count, len(experiment.dataset.train) // experiment.config.batch_size)  # a call ends with the epoch
    holder = [state._replace(step=placement.whole(np.int32(0)))]

    def steps():
        state, *_ = run(holder.pop(), count)
        # Always an epoch's first steps: the last is short.
        holder.append(jax.block_until_ready(state._replace(step=placement.whole(np.int32(0)))))

    steps.count = count
    return steps


def epoch(experiment: Experiment) -> Callable[[], object]:
    """A whole epoch: sampling, every step, and the validation metrics."""
    placement, inputs, run, state = _training(experiment)
    evaluate = Evaluator(placement, inputs)
    total = steps_per_epoch(len(experiment.dataset.train), experiment.config.batch_size)
    state, *_ = run(state, 0)  # compiles
    evaluate(state.params, "valid")
    holder = [state]

    def epoch():
        state, *_ = run(holder.pop(), total)
        evaluate(state.params, "valid")
        holder.append(state)

    return epoch


def evaluation(experiment: Experiment) -> Callable[[], object]:
    placement = place(experiment)
    params, evaluate = placement.whole(init_params(experiment)), Evaluator(placement, placement.inputs())
    return lambda: evaluate(params, "valid")


def ranking(problem: Problem) -> Callable[[], object]:
    """All users of the test split against all items, from representations that are already there."""
    dataset, settings = problem.dataset, problem.config.evaluation
    users, items = random((dataset.num_users, problem.width)), random((dataset.num_items, problem.width), 1)
    seen, positives = (group_by_user(pairs, dataset.num_users) for pairs in (dataset.train, dataset.test))
    blocks = make_blocks(np.unique(dataset.test[:, 0]), seen, settings.block_size)
    on_device = jax.device_put(blocks)
    rank = jax.jit(rank_items, static_argnames="k")
    return lambda: split_metrics(np.asarray(rank(users, items, on_device, k=20)[0]), blocks.users, positives, (20,))


def _wide_features(experiment: Experiment) -> Callable[[], object]:
    dataset, d = experiment.dataset, experiment.config.model.embedding_dim
    sizes = [(n, table.shape[1]) for n in (dataset.num_users, dataset.num_items) for table in dataset.features.values()]
    tables = [random(size, seed) for seed, size in enumerate(sizes)]
    params = [{"kernel": random((width, d)), "bias": random((d,))} for _, width in sizes]

    def project(tables, params):
        layer = torch_linear(d, jnp.float32, "projection", fan_in=1)
        return [layer.apply({"params": param}, table) for table, param in zip(tables, params, strict=True)]

    return forward_backward(project, tables, params)


def propagation(experiment: Experiment, graph: str, width: int) -> Callable[[], object]:
    model, adjacency = experiment.config.model, experiment.inputs[graph]
    layers = {"user_user": "num_user_layers", "item_item": "num_item_layers", "user_item": "num_layers"}[graph]
    x = random((adjacency.matrix.shape[0], width))

    def run(adjacency, x, cotangent):
        out, backward = jax.vjp(lambda x: sum(propagate(adjacency, x, model[layers])), x)
        return out, backward(cotangent)

    return timed(run, adjacency, x, x)


class _ItemAttention(REARM):
    @nn.compact
    def __call__(self, features):
        return self._item_attention(features, nn.PReLU(negative_slope_init=0.25, name="prelu"), True, 0)


def _attention(experiment: Experiment) -> Callable[[], object]:
    model, dataset = experiment.model, experiment.dataset
    block = _ItemAttention.make(experiment.config, dataset)
    features = [random((dataset.num_items, model.embedding_dim), seed) for seed in range(len(dataset.features))]
    key = jax.random.key(0)
    params = block.init({"params": key, "dropout": key}, features)

    def attend(params, features):
        return block.apply(params, features, rngs={"dropout": key})

    return forward_backward(attend, params, features)


def _meta_network(experiment: Experiment) -> Callable[[], object]:
    """Users' and items', at the rows of a batch."""
    config, dataset = experiment.config, experiment.dataset
    network = MetaNetwork(config.model.rank, False, jnp.float32)
    d, m, b = config.model.embedding_dim, len(dataset.features), config.batch_size
    wanted = [Nodes(wanted=np.arange(b) % dataset.num_users), Nodes(wanted=np.arange(2 * b) % dataset.num_items)]
    nodes = [(random((n, m * d), 0), random((n, d), 1)) for n in (dataset.num_users, dataset.num_items)]
    params = network.init(jax.random.key(0), *nodes[0], wanted[0])

    def run(params, nodes):
        return [network.apply(params, *inputs, some) for inputs, some in zip(nodes, wanted, strict=True)]

    return forward_backward(run, params, nodes)


def _losses(experiment: Experiment) -> Callable[[], object]:
    config, dataset = experiment.config, experiment.dataset
    d, m, b = config.model.embedding_dim, len(dataset.features), config.batch_size
    batch = first_batch(experiment)
    users, items = dataset.num_users, dataset.num_items
    out = Representations(
        random((b, (m + 1) * d)),
        random((2 * b, (m + 1) * d)),
        {
            "modal_users": tuple(random((users, d), seed) for seed in range(m)),
            "modal_items": tuple(random((items, d), seed) for seed in range(m)),
            "user_ids": random((users, d)),
            "item_ids": random((items, d)),
        },
    )

    def run(batch, out):
        return jax.value_and_grad(lambda out: sum(experiment.model.losses(out, batch, ALONE).values()))(out)

    return timed(run, batch, out)


def first_batch(experiment: Experiment) -> Batch:
    """A full batch with its negatives."""
    dataset, config = experiment.dataset, experiment.config
    sampler = jax.device_put(make_sampler(dataset, config.protocol))
    return draw_batch(sampler, jnp.arange(len(dataset.train)), 0, jax.random.key(0), config.batch_size)


def optimiser(experiment: Experiment) -> Callable[[], object]:
    params = init_params(experiment)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 1e-3), params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt_state, gradients):
        updates, opt_state = experiment.tx.update(gradients, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state

    holder = [(params, experiment.tx.init(params))]

    def run():
        holder.append(jax.block_until_ready(update(*holder.pop(), gradients)))

    return run


def sampling(experiment: Experiment) -> Callable[[], object]:
    """The order of an epoch and the negatives of all its batches."""
    dataset, batch_size = experiment.dataset, experiment.config.batch_size
    sampler = jax.device_put(make_sampler(dataset, experiment.config.protocol))
    steps = steps_per_epoch(len(dataset.train), batch_size)

    @jax.jit
    def epoch(sampler, key):
        order = epoch_order(key, len(dataset.train))

        def batch(total, step):
            drawn = draw_batch(sampler, order, step * batch_size, jax.random.fold_in(key, step), batch_size)
            return total + drawn.negatives.sum(), None

        return jax.lax.scan(batch, jnp.int32(0), jnp.arange(steps))[0]

    return lambda: jax.block_until_ready(epoch(sampler, jax.random.key(0)))


COMMON = {  # parts of every learned model
    "compilation": compilation,
    "epoch": epoch,
    "step": step,
    "evaluation": evaluation,
    "optimiser": optimiser,
    "sampling an epoch": sampling,
}
