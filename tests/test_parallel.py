"""The result does not depend on the number of devices: the same training with 1, 2 and 8 devices, each a process.

`python -m tests.test_parallel FILE` trains and evaluates with the devices there are, and saves what came out.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rearm_jax.training.parallel import Shard, replicate

from rearm_jax.experiment import build_experiment, init_params
from rearm_jax.training import loop
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.step import TrainState
from tests.conftest import tiny_config

ROOT = Path(__file__).parent.parent
NUM_STEPS = 4  # of 101 rows: the first three are full, the last has 50 of the 353 interactions


def train_and_save(file: str) -> None:
    config = tiny_config(
        batch_size=101,
        learning_rate=1e-3,
        weight_decay=0.01,
        model__num_layers=1,
        model__self_dropout=0.3,
        model__cross_dropout=0.5,
        loss__contrastive_weight=0.02,
        loss__orthogonal_weight=0.03,
        loss__l2_weight=0.1,
    )
    experiment = build_experiment(config)
    graphs = replicate(experiment.graphs)
    params = init_params(experiment)
    key = jax.random.key_data(jax.random.key(config.seed))
    state = replicate(TrainState(params, experiment.tx.init(params), np.int32(0), key))
    run_steps = loop.compile_steps(experiment, graphs)
    results = {"devices": jax.device_count()}
    for step in range(NUM_STEPS):
        state, _, last = run_steps(state, 1)
        results |= {f"step{step}/{name}": value for name, value in last.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        results["params/" + jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    evaluate = Evaluator(experiment, graphs)
    results |= evaluate(state.params, "valid") | evaluate(state.params, "test")
    np.savez(file, **results)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, dict[str, np.ndarray]]:
    """Number of devices -> what `train_and_save` saved."""
    folder = tmp_path_factory.mktemp("parallel")
    counts = (1, 2, 8)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.test_parallel", str(folder / f"{count}.npz")],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for count in counts
    ]
    found = {}
    for count, process in zip(counts, processes, strict=True):
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
        with np.load(folder / f"{count}.npz", allow_pickle=False) as arrays:
            found[count] = dict(arrays)
    return found


def alive(name: str, value: np.ndarray) -> np.ndarray:
    # Without the dead parameters of the attention, which change no output: the softmax cancels the bias of the keys,
    # the LayerNorm that of the output. Their gradients are rounding errors, which Adam scales up to whole steps.
    if name.endswith("attention/out_bias"):
        return value[None][:0]
    return np.delete(value, 1) if name.endswith("attention/in_bias") else value


@pytest.mark.parametrize("count", [2, 8])
def test_devices_agree_on_losses_and_parameters(results, count):
    one, many = results[1], results[count]
    assert (one["devices"], many["devices"]) == (1, count)
    assert set(one) == set(many)
    compared = [name for name in one if name.startswith(("step", "params/"))]
    assert sum(name.endswith("/loss") for name in compared) == NUM_STEPS
    for name in compared:
        np.testing.assert_allclose(alive(name, many[name]), alive(name, one[name]), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("count", [2, 8])
def test_devices_agree_on_the_metrics(results, count):
    names = [name for name in results[1] if name.startswith(("valid/", "test/"))]
    assert {"valid/recall@10", "test/ndcg@5"} <= set(names)
    assert {name: results[count][name] for name in names} == {name: results[1][name] for name in names}


def test_training_changed_something(results):
    """Otherwise the comparisons above would hold for a step that does nothing."""
    config = tiny_config(model__num_layers=1)
    before = init_params(build_experiment(config))["user_id_table"]
    assert np.abs(results[1]["params/user_id_table"] - before).max() > 1e-3


def test_shards_cut_the_rows():
    x = np.arange(10).reshape(5, 2)
    shards = [Shard(index, 4) for index in range(4)]
    padded = shards[0].pad(x)
    assert padded.shape == (8, 2)
    np.testing.assert_array_equal(padded[5:], 0)
    np.testing.assert_array_equal(np.concatenate([shard.rows(padded) for shard in shards]), padded)
    assert Shard().sum(x) is x
    assert Shard().gather(x) is x


if __name__ == "__main__":
    train_and_save(sys.argv[1])
