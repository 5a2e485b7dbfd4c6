"""The result does not depend on the devices: the same training with 1 device, with 8, and with 2 of 8.

`python -m tests.test_parallel FOLDER CASE...` trains and evaluates with those of the devices there are, and saves what
came out.
"""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rearm_jax.experiment import build_experiment, init_params
from rearm_jax.parallel.rows import ALONE, Shard
from rearm_jax.training import epoch
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.placement import place
from tests.conftest import tiny_config, with_devices

ROOT = Path(__file__).parent.parent
CASES = {"1": (1, 0, 1), "8": (8, 0, 8), "2 of 8": (8, 3, 5)}  # devices there are, those that are used
NUM_STEPS = 4  # of 101 rows: the first three are full, the last has 60 of the 363 interactions
NUM_USERS, NUM_ITEMS = 61, 43  # divisible by no number of devices
UNEVEN = {  # those of tests/test_row_parallel.py, too: the program for one device is compiled once
    "batch_size": 101,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "gradient_clip_norm": 1.0,
    "data__synthetic__num_users": NUM_USERS,
    "data__synthetic__num_items": NUM_ITEMS,
    "model__num_layers": 1,
    "model__self_dropout": 0.3,
    "model__cross_dropout": 0.5,
    "loss__contrastive_weight": 0.02,
    "loss__orthogonal_weight": 0.03,
    "loss__l2_weight": 0.1,
}


def train_and_save(folder: Path, case: str) -> None:
    _, first, stop = CASES[case]
    placement = place(build_experiment(tiny_config(**UNEVEN)), jax.devices()[first:stop])
    inputs, state = placement.inputs(), placement.state()
    run_steps = epoch.compile_steps(placement, inputs)
    results = {"devices": jax.device_count()}
    for step in range(NUM_STEPS):
        state, _, last = run_steps(state, 1)
        results |= {f"step{step}/{name}": value for name, value in last.items()}
    results["used"] = sorted(device.id for device in state.params["user_id_table"].sharding.device_set)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        results["params/" + jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    evaluate = Evaluator(placement, inputs)
    results |= evaluate(state.params, "valid") | evaluate(state.params, "test")
    np.savez(folder / f"{case}.npz", **results)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """Name of a case -> what `train_and_save` saved."""
    folder = tmp_path_factory.mktemp("parallel")
    train_and_save(folder, "1")
    process = subprocess.run(
        [sys.executable, "-m", "tests.test_parallel", str(folder), "8", "2 of 8"],
        cwd=ROOT,
        env=with_devices(8),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    found = {}
    for name in CASES:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            found[name] = dict(arrays)
    return found


def alive(name: str, value: np.ndarray) -> np.ndarray:
    # Without the dead parameters of the attention, which change no output: the softmax cancels the bias of the keys,
    # the LayerNorm that of the output. Their gradients are rounding errors, which Adam scales up to whole steps.
    if name.endswith("attention/out_bias"):
        return value[None][:0]
    return np.delete(value, 1) if name.endswith("attention/in_bias") else value


@pytest.mark.parametrize("case", ["8", "2 of 8"])
def test_devices_agree_on_losses_and_parameters(results, case):
    one, many = results["1"], results[case]
    count, first, stop = CASES[case]
    assert (one["devices"], many["devices"]) == (1, count)
    assert (one["used"].tolist(), many["used"].tolist()) == ([0], list(range(first, stop)))
    assert set(one) == set(many)
    compared = [name for name in one if name.startswith(("step", "params/"))]
    assert sum(name.endswith("/loss") for name in compared) == NUM_STEPS
    for name in compared:
        np.testing.assert_allclose(alive(name, many[name]), alive(name, one[name]), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["8", "2 of 8"])
def test_devices_agree_on_the_metrics(results, case):
    names = [name for name in results["1"] if name.startswith(("valid/", "test/"))]
    assert {"valid/recall@10", "test/ndcg@5"} <= set(names)
    assert {name: results[case][name] for name in names} == {name: results["1"][name] for name in names}


def test_training_changed_something(results):
    """Otherwise the comparisons above would hold for a step that does nothing."""
    config = tiny_config(**UNEVEN)
    before = init_params(build_experiment(config))["user_id_table"]
    assert np.abs(results["1"]["params/user_id_table"] - before).max() > 1e-3


def test_shards_cut_the_rows():
    x = np.arange(10).reshape(5, 2)
    shards = [Shard(index, 4) for index in range(4)]
    padded = shards[0].pad(x)
    assert padded.shape == (8, 2)
    np.testing.assert_array_equal(padded[5:], 0)
    np.testing.assert_array_equal(np.concatenate([shard.rows(padded) for shard in shards]), padded)
    assert ALONE.sum(x) is x
    assert ALONE.gather(x) is x


if __name__ == "__main__":
    for one in sys.argv[2:]:
        train_and_save(Path(sys.argv[1]), one)
