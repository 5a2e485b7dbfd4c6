"""Whether seeds of one setting train faster together (vmap) than one after another, on one device.

    python -m benchmarks.seeds [--data FOLDER --modalities image audio] [--models lightgcn rearm] [--seeds 4]

Without --data, the demo's. Prints a table of Markdown: seconds of as many steps of all seeds, each way, in turn, and
the ratio of the medians: above 1, together is faster. Compiling is not part of it.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rearm_jax import default
from rearm_jax.configs import demo
from rearm_jax.experiment import Experiment, build_experiment, in_precision, init_params
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.contract import Inputs
from rearm_jax.training.sampling import Sampler, make_sampler
from rearm_jax.training.step import TrainState, draw_order, train_steps


def experiment_of(model: str, data: str, modalities: list[str]) -> Experiment:
    """A model at its defaults on a folder of data, or on the demo's."""
    config = default.get_config(model)
    config.data = demo.get_config().data
    if data:
        config.data.source, config.data.root, config.data.modalities = "folder", data, tuple(modalities)
    else:
        config.batch_size = demo.get_config().batch_size
    return build_experiment(config)


def ways(experiment: Experiment, num_seeds: int, num_steps: int) -> dict[str, Callable[[], None]]:
    """Name -> a function that does as many steps of every seed, from the start."""
    config, model, tx = experiment.config, experiment.model, experiment.tx
    sampler = make_sampler(experiment.dataset, config.protocol, config.negatives)
    params = init_params(experiment)

    def start(seed: int) -> TrainState:
        return TrainState(params, tx.init(params), jnp.int32(0), jax.random.key_data(jax.random.key(seed)))

    def steps(state: TrainState, inputs: Inputs, sampler: Sampler) -> TrainState:
        order = draw_order(len(experiment.dataset.train), config.batch_size, ALONE, state)
        run = functools.partial(train_steps, model, tx, config.batch_size, ALONE)
        return run(state, inputs, sampler, order, jnp.int32(num_steps))[0]

    states = [start(seed) for seed in range(num_seeds)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    steps = in_precision(config.matmul_precision, steps)
    shared = jax.device_put((dict(experiment.inputs), sampler))
    one, all_at_once = jax.jit(steps), jax.jit(jax.vmap(steps, in_axes=(0, None, None)))
    together = jax.tree.map(np.asarray, all_at_once(stacked, *shared).params)
    for seed, state in enumerate(states):
        jax.tree.map(
            lambda whole, alone, seed=seed: np.testing.assert_allclose(whole[seed], alone, rtol=1e-3, atol=1e-3),
            together,
            one(state, *shared).params,
        )
    return {
        "one after another": lambda: jax.block_until_ready([one(state, *shared) for state in states]) and None,
        "together": lambda: jax.block_until_ready(all_at_once(stacked, *shared)) and None,
    }


def medians(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, A B B A."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds):
        for name in list(functions)[:: 1 if turn % 2 == 0 else -1]:
            begin = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a folder of data; without it the demo's")
    parser.add_argument("--modalities", nargs="+", default=["image", "text"])
    parser.add_argument("--models", nargs="+", default=["bpr", "lightgcn", "rearm"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    print(f"{arguments.seeds} seeds, {arguments.steps} steps each, on {jax.devices()[0].device_kind}\n")
    print("| model | one after another | together | ratio |\n|---|---|---|---|")
    for model in arguments.models:
        experiment = experiment_of(model, arguments.data, arguments.modalities)
        found = medians(ways(experiment, arguments.seeds, arguments.steps), arguments.rounds)
        apart, together = found["one after another"], found["together"]
        print(f"| {model} | {apart:.3g} s | {together:.3g} s | {apart / together:.2f} |", flush=True)


if __name__ == "__main__":
    main()
