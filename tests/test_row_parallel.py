"""Sharding by row: a run that moves between one device, 8 and 3 of 8, against the same run on one device all along.

Sizes are divisible by neither number of devices. `python -m tests.test_row_parallel FOLDER NUM_DEVICES NUM_STEPS
MODEL...` goes on with the models' runs in FOLDER, by row on the last of the devices there are, and saves what came out.
"""

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from benchmarks.devices import compile_step, count_traffic, predict_traffic
from rearm_jax.data.dataset import group_by_user
from rearm_jax.errors import CheckpointError
from rearm_jax.evaluation.ranking import make_blocks, rank_items
from rearm_jax.evaluation.ranking_by_row import rank_items_by_row
from rearm_jax.experiment import build_experiment
from rearm_jax.graphs.adjacency import make_adjacency
from rearm_jax.graphs.row_adjacency import propagate, shard_adjacency
from rearm_jax.parallel.mesh import place_rows, replicate, ring_order, row_parallel
from rearm_jax.parallel.rows import AXIS, RowCounts, is_table
from rearm_jax.training import epoch, loop
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.placement import Placement, place
from rearm_jax.training.sampling import cut_sampler, make_sampler
from tests.conftest import tiny_config, with_devices
from tests.test_parallel import NUM_ITEMS, NUM_USERS, UNEVEN, alive

ROOT = Path(__file__).parent.parent
MODELS = ("rearm", "lightgcn")
STAGES = (("data", 1, 1), ("row", 8, 2), ("row", 3, 1), ("data", 1, 1))  # parallel, devices, steps
DEVICES_THERE_ARE = 8
STAGES_OF = {"rearm": (0, 1, 3), "lightgcn": (0, 1, 2, 3)}  # REARM takes long to compile
EVERY_STAGE = [(model, stage) for model in MODELS for stage in STAGES_OF[model]]


@functools.cache
def placement_of(model: str, parallel: str, num_devices: int) -> Placement:
    lightgcn = {
        **{name: value for name, value in UNEVEN.items() if not name.startswith(("model__", "loss__"))},
        "model__name": "lightgcn",  # of two layers, where REARM has one
        "gradient_clip_norm": 0.01,
        "loss__l2_weight": 0.1,
        "data__synthetic__interactions_per_user": 5,
        "negatives": "trained",  # three items have none
    }
    config = tiny_config(parallel=parallel, **{"rearm": UNEVEN, "lightgcn": lightgcn}[model])
    return place(build_experiment(config), jax.devices()[-num_devices:])


@functools.cache
def compiled(model: str, parallel: str, num_devices: int) -> tuple:
    """(run_steps, evaluate), compiled once for all runs of this process."""
    placement = placement_of(model, parallel, num_devices)
    inputs = placement.inputs()
    return epoch.compile_steps(placement, inputs), Evaluator(placement, inputs)


def named_leaves(tree) -> dict[str, np.ndarray]:
    """Leaf by name; rows of padding behind a table must be zero, and are cut off."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name, array = jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf)
        if is_table(path):
            rows = NUM_USERS if path[-1].key.startswith("user") else NUM_ITEMS
            assert not array[rows:].any(), name
            array = array[:rows]
        named[name] = array
    return named


def go_on(
    model: str, parallel: str, num_devices: int, folder: Path, num_steps: int, save: bool = True
) -> dict[str, np.ndarray]:
    """The next steps of the run in `folder`: losses of each, the state after them, and the metrics of validation."""
    placement = placement_of(model, parallel, num_devices)
    with Checkpoints(folder, placement.table_rows) as checkpoints:
        state, progress = loop._start(placement, checkpoints)
        run_steps, evaluate = compiled(model, parallel, num_devices)
        results = {}
        for _ in range(num_steps):
            state, _, last = run_steps(state, 1)
            results |= {f"step{int(state.step)}/{name}": np.asarray(value) for name, value in last.items()}
        results |= named_leaves({"params": state.params, "opt_state": state.opt_state})
        results |= evaluate(state.params, "valid")
        if save:
            loop._save(checkpoints, state, progress, 0.5)
    return results


def by_row(folder: Path, num_devices: int, num_steps: int, models: list[str]) -> None:
    assert jax.device_count() == DEVICES_THERE_ARE
    for model in models:
        results = go_on(model, "row", num_devices, folder / model, num_steps)
        if num_devices == 8:
            placement = placement_of(model, "row", 8)
            first = placement.state()
            drawn = placement.lower_draw().compile().as_text()
            results["first whole tables"] = re.findall(rf"\[(?:{NUM_USERS}|{NUM_ITEMS}|64|48),\d+\]", drawn)
            results |= {f"first/{name}": leaf for name, leaf in named_leaves(first.params).items()}
            table = first.params["user_id_table"]
            results["bytes of a shard"] = table.addressable_shards[0].data.nbytes
            results["bytes of a shard of adam"] = {
                leaf.addressable_shards[0].data.nbytes
                for path, leaf in jax.tree_util.tree_leaves_with_path(first.opt_state)
                if jax.tree_util.keystr(path).endswith("['user_id_table']")
            }.pop()
            results["ranked"] = rank_by_row()
            results |= round_the_ring("float32") | round_the_ring("bfloat16")
            program = compile_step(placement)[0].as_text()
            results["traffic counted"] = sum(count_traffic(program, 8).values())
            results["traffic predicted"] = sum(predict_traffic(placement.experiment, 8).values())
        np.savez(folder / f"{model}-{num_devices}.npz", **results)


def ranking_problem() -> tuple:
    """Vectors of few different values, so that many scores are equal; users to rank, and items to leave out."""
    rng = np.random.default_rng(0)
    users, items = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (NUM_USERS, NUM_ITEMS))
    pairs = np.argwhere(rng.random((NUM_USERS, NUM_ITEMS)) < 0.3).astype(np.int32)
    blocks = make_blocks(np.arange(0, NUM_USERS, 2), group_by_user(pairs, NUM_USERS), 8)
    return users, items, blocks


def rank_by_row() -> np.ndarray:
    *tables, blocks = ranking_problem()

    def rank(shard, users, items, blocks):
        return rank_items_by_row(shard, users, items, blocks, 20)

    devices = jax.devices()
    args = (*place_rows(tables, devices), replicate(blocks, devices))
    return np.asarray(row_parallel(rank, devices, RowCounts(NUM_USERS, NUM_ITEMS, 1), args)(*args))


def ring_problem() -> tuple[np.ndarray, np.ndarray]:
    """An asymmetric graph of users and items, dense, and features of its nodes."""
    rng, n = np.random.default_rng(0), NUM_USERS + NUM_ITEMS
    graph = np.where(rng.random((n, n)) < 0.2, rng.standard_normal((n, n)), 0)
    return graph.astype(np.float32), rng.standard_normal((n, 24)).astype(np.float32)


def round_the_ring(dtype: str) -> dict[str, np.ndarray]:
    """Two products of the problem's graph by row, the gradient of the second's sum of squares, and what operations the
    program for a TPU applies to bfloat16."""
    dense, x = ring_problem()
    devices = jax.devices()
    graph = make_adjacency(scipy.sparse.csr_array(dense), ("user", "item"))
    graph = shard_adjacency(graph, (NUM_USERS, NUM_ITEMS), len(devices), AXIS, dtype)

    def products(shard, graph, users, items):
        def both(nodes):
            return [jnp.split(layer, [len(users)]) for layer in propagate(graph, nodes, 2)]

        def loss(nodes):
            return sum(jnp.sum(part**2) for part in both(nodes)[1])

        nodes = jnp.concatenate([users, items])
        return jax.tree.map(shard.gather, [*both(nodes), jnp.split(jax.grad(loss)(nodes), [len(users)])])

    args = (place_rows(graph, devices), *place_rows((x[:NUM_USERS], x[NUM_USERS:]), devices))
    program = row_parallel(products, devices, RowCounts(NUM_USERS, NUM_ITEMS, 1), args)
    found = [np.concatenate([users[:NUM_USERS], items[:NUM_ITEMS]]) for users, items in program(*args)]
    text = program.trace(*args).lower(lowering_platforms=("tpu",)).as_text()
    operations = re.findall(r"stablehlo\.(\w+)\"?\(?[^\n]*bf16", text)
    return {f"ring {dtype}": np.stack(found), f"ring {dtype} operations": np.array(sorted(set(operations)), "U")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rows")


def run_by_row(folder: Path, num_devices: int, num_steps: int, models: list[str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.test_row_parallel", str(folder), str(num_devices), str(num_steps), *models],
        cwd=ROOT,
        env=with_devices(DEVICES_THERE_ARE),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module")
def moved(folder) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Model -> stage -> results of the run that moves as STAGES says."""
    found = {model: {} for model in MODELS}
    for stage, (parallel, count, num_steps) in enumerate(STAGES):
        models = [model for model in MODELS if stage in STAGES_OF[model]]
        if parallel == "row":
            run_by_row(folder, count, num_steps, models)
        for model in models:
            if parallel == "row":
                with np.load(folder / f"{model}-{count}.npz", allow_pickle=False) as arrays:
                    found[model][stage] = dict(arrays)
            else:
                found[model][stage] = go_on(model, parallel, count, folder / model, num_steps, save=stage == 0)
    return found


@pytest.fixture(scope="module")
def stayed(folder) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """The same of the run that stays on one device."""
    found = {model: {} for model in MODELS}
    for model, stage in EVERY_STAGE:
        found[model][stage] = go_on(model, "data", 1, folder / f"{model}-stays", STAGES[stage][2])
    return found


@pytest.mark.parametrize(("model", "stage"), EVERY_STAGE)
def test_losses_and_state_are_those_of_one_device(moved, stayed, model, stage):
    found, expected = moved[model][stage], stayed[model][stage]
    names = [name for name in expected if name.startswith(("step", "params/", "opt_state/"))]
    assert sum(name.endswith("/loss") for name in names) == STAGES[stage][2]
    assert {"params/user_id_table", "opt_state/1/0/mu/item_id_table"} <= set(names)
    for name in names:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(
            alive(name, found[name]), alive(name, expected[name]), rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("model", MODELS)
def test_the_settings_make_every_part_count(stayed, model):
    last = stayed[model][1]
    parts = {"rearm": ("bpr", "contrastive", "orthogonal", "l2"), "lightgcn": ("bpr", "l2")}[model]
    assert all(last[f"step2/{part}"] > 1e-3 for part in parts)
    clipped = {"rearm": 1.0, "lightgcn": 0.01}[model]
    assert last["step2/grad_norm"] > clipped
    assert np.abs(last["params/user_id_table"] - stayed[model][0]["params/user_id_table"]).max() > 1e-3


@pytest.mark.parametrize(("model", "stage"), EVERY_STAGE)
def test_metrics_are_those_of_one_device(moved, stayed, model, stage):
    expected = {name: value for name, value in stayed[model][stage].items() if name.startswith("valid/")}
    assert "valid/recall@10" in expected
    assert {name: float(moved[model][stage][name]) for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_first_state(moved, model):
    state = placement_of(model, "data", 1).state()
    for name, leaf in named_leaves(state.params).items():
        np.testing.assert_array_equal(moved[model][1][f"first/{name}"], leaf, err_msg=name)
    assert moved[model][1]["first whole tables"].size == 0
    rows = -(-NUM_USERS // 8)
    assert moved[model][1]["bytes of a shard"] == moved[model][1]["bytes of a shard of adam"] == rows * 8 * 4


def test_ranking_with_ties(moved):
    users, items, blocks = ranking_problem()
    expected, scores = jax.jit(rank_items, static_argnames="k")(users, items, blocks, k=20)
    assert (np.diff(scores[0, 0]) == 0).any()
    np.testing.assert_array_equal(moved["rearm"][1]["ranked"], expected)


@pytest.mark.parametrize("model", MODELS)
def test_traffic_of_a_step_is_what_the_formula_says(moved, model):
    assert moved[model][1]["traffic counted"] == pytest.approx(moved[model][1]["traffic predicted"], rel=0.01)


def test_bfloat16_on_the_ring_rounds_what_travels_and_nothing_else(moved):
    """Rounding to bfloat16 changes a number by 2^-8 of it at most; sums of rounded numbers are float32."""
    graph, x = (array.astype(np.float64) for array in ring_problem())
    size, unit = np.abs(graph), 2.0**-8
    layers = [graph @ x, graph @ graph @ x]
    exact = [*layers, 2 * graph.T @ graph.T @ layers[1]]
    errors = [unit * size @ np.abs(x)]
    errors.append(size @ (errors[0] + unit * (np.abs(layers[0]) + errors[0])))
    back = size.T @ (2 * errors[1] + unit * 2 * (np.abs(layers[1]) + errors[1]))
    errors.append(size.T @ (back + unit * (np.abs(graph.T @ (2 * layers[1])) + back)))
    found = moved["rearm"][1]
    for rounded, precise, wanted, error in zip(
        found["ring bfloat16"], found["ring float32"], exact, errors, strict=True
    ):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(precise, wanted, rtol=0, atol=1e-5 * scale)
        assert (np.abs(rounded - wanted) <= error + 1e-5 * scale).all()
        assert np.abs(rounded - wanted).max() > 1e-4 * scale
    assert found["ring float32 operations"].size == 0
    operations = set(found["ring bfloat16 operations"])
    assert "collective_permute" in operations
    assert not operations & {"add", "multiply", "scatter", "reduce", "dot_general"}


def test_traffic_is_counted_in_loops_and_by_kind():
    program = """HloModule jit_f, num_partitions=4

%body (a: f32[2,3]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %p = f32[2,3]{1,0} collective-permute(%a), channel_id=1, source_target_pairs={{0,3},{1,0},{2,1},{3,2}}
}

ENTRY %main (x: f32[2,3]) -> f32[2,3] {
  %x = f32[2,3]{1,0} parameter(0)
  %w = f32[2,3]{1,0} while(%x), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %s = (s32[4]{0}, f32[]) all-reduce(%i, %j), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %r = bf16[6]{0} reduce-scatter(%k), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
  ROOT %g = f32[8,3]{1,0} all-gather(%w), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
}

%add (b: f32[], c: f32[]) -> f32[] {
  %b = f32[] parameter(0)
  ROOT %c = f32[] parameter(1)
}
"""
    assert count_traffic(program, 4) == {
        "collective-permute": 5 * 24,
        "all-reduce": 2 * 0.75 * 20,
        "reduce-scatter": 3 * 12,
        "all-gather": 0.75 * 96,
    }
    with pytest.raises(ValueError, match="asynchronous"):
        count_traffic(program.replace("all-gather(", "all-gather-start("), 4)


def test_tables_of_other_sizes_are_refused(moved, folder):
    """61 and 64 users both take 8 rows on each of 8 devices."""
    state = placement_of("lightgcn", "data", 1).like()
    step = sum(steps for _, _, steps in STAGES[:3])
    with Checkpoints(folder / "lightgcn", {"user": 64, "item": NUM_ITEMS}) as checkpoints:
        other = {**state.params, "user_id_table": jax.ShapeDtypeStruct((64, 8), np.float32)}
        with pytest.raises(CheckpointError, match=r"user_id_table is float32\(61, 8\) .* and float32\(64, 8\) here"):
            checkpoints.restore_params(step, other)
    with Checkpoints(folder / "lightgcn") as checkpoints:
        assert checkpoints.restore_params(step, state.params)["user_id_table"].shape == (NUM_USERS, 8)


class Chip(NamedTuple):
    """What a TPU's device has of interest here."""

    id: int
    coords: list[int]


@pytest.mark.parametrize(
    ("width", "height", "far"),
    [(4, 4, 0), (2, 2, 0), (2, 4, 0), (4, 2, 0), (3, 4, 0), (16, 16, 0), (3, 3, 1), (4, 1, 1)],
)
def test_a_ring_goes_from_neighbour_to_neighbour(width, height, far):
    chips = [Chip(y * width + x, [x, y, 0]) for y in range(height) for x in range(width)]
    ring = ring_order(chips)
    assert sorted(ring) == chips
    steps = [np.abs(np.subtract(a.coords, b.coords)).sum() for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    assert sum(step != 1 for step in steps) == far


def test_devices_that_lie_on_no_grid_keep_their_order():
    cube = [Chip(4 * z + 2 * y + x, [x, y, z]) for z in range(2) for y in range(2) for x in range(2)]
    for devices in (jax.devices(), cube, cube[:3]):
        assert ring_order(devices) == tuple(devices)


@pytest.mark.parametrize("num_devices", [1, 3, 8])
def test_blocks_hold_the_graph(num_devices):
    kinds = (13, 5)
    dense = scipy.sparse.random_array((18, 18), density=0.3, rng=np.random.default_rng(1), dtype=np.float32).toarray()
    sharded = shard_adjacency(make_adjacency(scipy.sparse.csr_array(dense), ("user",)), kinds, num_devices, "x")
    held = [-(-kind // num_devices) for kind in kinds]
    padded = np.zeros((num_devices * sum(held),) * 2, np.float32)
    order = [
        device * sum(held) + place  # where the nodes of the first kind are, then those of the second
        for first, kind, size in zip((0, held[0]), kinds, held, strict=True)
        for device, place in [(node // size, first + node % size) for node in range(kind)]
    ]
    padded[np.ix_(order, order)] = dense
    size = sharded.num_held
    assert size == sum(held)
    for blocks, matrix in ((sharded.blocks, padded), (sharded.transposed, padded.T)):
        for device in range(num_devices):
            for step in range(num_devices):
                row = device * num_devices + step
                block = np.zeros((size + 1, size + 1), np.float32)  # padding goes behind the last row
                np.add.at(block, (blocks.rows[row], blocks.columns[row]), blocks.data[row])
                other = (device + step) % num_devices
                expected = matrix[device * size : (device + 1) * size, other * size : (other + 1) * size]
                np.testing.assert_array_equal(block[:size, :size], expected)
                assert (np.diff(blocks.rows[row].astype(np.int64) * (size + 1) + blocks.columns[row]) >= 0).all()
    with pytest.raises(ValueError, match="must add up to the 18 nodes"):
        shard_adjacency(make_adjacency(scipy.sparse.csr_array(dense), ("user",)), (13, 6), num_devices, "x")


@pytest.mark.parametrize("num_devices", [3, 8, 70])
def test_the_cut_sampler_holds_every_users_items(num_devices):
    sampler = make_sampler(placement_of("lightgcn", "data", 1).experiment.dataset, "strict", "trained")
    assert len(sampler.pool) == NUM_ITEMS - 3
    cut = cut_sampler(sampler, num_devices)
    held = -(-NUM_USERS // num_devices)
    pointers, excluded = cut.indptr.reshape(num_devices, held + 1), cut.excluded.reshape(num_devices, -1)
    for user in range(num_devices * held):
        device, place = divmod(user, held)
        found = excluded[device, pointers[device, place] : pointers[device, place + 1]]
        expected = sampler.excluded[slice(*sampler.indptr[user : user + 2])] if user < NUM_USERS else []
        np.testing.assert_array_equal(found, expected)


if __name__ == "__main__":
    by_row(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
