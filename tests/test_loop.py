"""Whole runs, tiny: what is written, exact resuming, interruption, early stopping, and what is refused.

Most runs are of LightGCN, which compiles fastest; nothing in the loop depends on the model.
"""

import dataclasses
import json
import math
import os
import signal

import jax
import numpy as np
import pytest

from rearm_jax.config import from_json
from rearm_jax.errors import CheckpointError, NonFiniteError
from rearm_jax.experiment import build_experiment
from rearm_jax.training import loop
from rearm_jax.training.check_finite import check_numbers
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.interrupt import stop_on_signal
from rearm_jax.training.loop import evaluate_run, train
from rearm_jax.training.placement import place
from rearm_jax.training.progress import Progress
from tests.conftest import tiny_config

STEPS = 6  # an epoch
METRICS = {
    f"{split}/{name}@{k}"
    for split in ("valid", "test")
    for name in ("recall", "ndcg", "precision", "map", "hitrate")
    for k in (5, 10)
}


def lightgcn(**changes):
    return build_experiment(tiny_config(model__name="lightgcn", learning_rate=1e-2, **changes))


def rearm(**changes):
    """With dropout, so that a resumed run must also go on with its random numbers."""
    changes = {"model__num_layers": 1, "model__self_dropout": 0.3, "model__cross_dropout": 0.5} | changes
    return build_experiment(tiny_config(learning_rate=1e-2, **changes))


def latest_state(experiment, workdir) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint: parameters, optimiser state, step and key."""
    with Checkpoints(workdir) as checkpoints:
        state, _ = loop._start(place(experiment), checkpoints)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def assert_same_runs(experiment, first, second):
    """The arrays are bit-identical, and the metrics; losses up to how their sums were cut into calls."""
    one, two = latest_state(experiment, first), latest_state(experiment, second)
    assert len(one) > 5
    assert set(one) == set(two)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    lines, others = read_lines(first), read_lines(second)
    assert len(lines) == len(others)
    for line, other in zip(lines, others, strict=True):
        losses = {name for name in line if name.startswith("train/")}
        assert {k: v for k, v in line.items() if k not in losses} == {k: v for k, v in other.items() if k not in losses}
        assert {k: line[k] for k in losses} == pytest.approx({k: other[k] for k in losses}, rel=1e-6)


def read_lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_result(workdir) -> dict:
    return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def rearm_run(tmp_path_factory):
    """(experiment, workdir, result) of four epochs of REARM."""
    workdir = tmp_path_factory.mktemp("runs") / "rearm"
    experiment = rearm(num_epochs=4, log__tensorboard=True)
    result, stopped_by = train(experiment, str(workdir))
    assert stopped_by is None
    return experiment, workdir, result


@pytest.fixture(scope="module")
def lightgcn_run(tmp_path_factory):
    """The same of LightGCN."""
    workdir = tmp_path_factory.mktemp("runs") / "lightgcn"
    experiment = lightgcn(num_epochs=4)
    result, _ = train(experiment, str(workdir))
    return experiment, workdir, result


def test_what_a_run_writes(rearm_run):
    experiment, workdir, result = rearm_run
    assert {path.name for path in workdir.iterdir() if "tfevents" not in path.name} == {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "checkpoints",
    }
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 1
    assert from_json((workdir / "config.json").read_text()).to_dict() == experiment.config.to_dict()
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {3 * STEPS, 4 * STEPS, result["best_step"]}

    written = read_result(workdir)
    assert written == result
    assert set(written) >= METRICS | {"best_step", "best_epoch", "seed", "protocol", "content_hash", "split_hash"}
    assert set(written) >= {"versions", "devices", "seconds", "steps_per_second", "yardsticks"}
    assert written["content_hash"] == experiment.dataset.content_hash
    assert (written["epochs"], written["steps"]) == (4, 4 * STEPS)
    assert written["best_step"] == STEPS * written["best_epoch"]
    for yardstick in ("most_popular", "random"):
        assert set(written["yardsticks"][yardstick]) == METRICS
    groups = written["test_by_popularity"]
    assert sum(group["positives"] for group in groups) == len(experiment.dataset.test)
    # Recall weighs users, the groups interactions: alike where every user has as many.
    assert 0 < sum(group["found"] for group in groups) <= sum(group["positives"] for group in groups)


def test_the_lines_of_a_run(rearm_run):
    _, workdir, result = rearm_run
    lines = read_lines(workdir)
    assert [(line["epoch"], line["step"]) for line in lines] == [(epoch, STEPS * epoch) for epoch in range(1, 5)]
    parts = ("bpr", "contrastive", "orthogonal")  # that of L2 has weight 0
    for line in lines:
        assert {key for key in line if key.startswith("train/")} == {
            f"train/{name}" for name in ("loss", "grad_norm", *parts)
        }
        assert {key for key in line if key.startswith("valid/")} == {key for key in METRICS if key.startswith("valid/")}
        assert not any(key.startswith("test/") for key in line)
        assert line["train/loss"] == pytest.approx(sum(line[f"train/{part}"] for part in parts), rel=1e-5)
    losses = [line["train/loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    best = lines[result["best_epoch"] - 1]
    assert best["valid/recall@10"] == max(line["valid/recall@10"] for line in lines)
    assert {key: result[key] for key in best if key.startswith("valid/")} == {
        key: value for key, value in best.items() if key.startswith("valid/")
    }


def test_evaluation_repeats_the_result_to_the_last_digit(rearm_run):
    experiment, workdir, _ = rearm_run
    assert evaluate_run(experiment, str(workdir)) == {key: read_result(workdir)[key] for key in METRICS}


def test_epochs_at_once_or_in_two_runs_are_the_same(rearm_run, tmp_path):
    experiment, workdir, result = rearm_run
    first, _ = train(rearm(num_epochs=1), str(tmp_path))
    assert first["epochs"] == 1
    second, _ = train(rearm(num_epochs=4), str(tmp_path))
    assert_same_runs(experiment, workdir, tmp_path)
    timing = {"seconds", "seconds_to_best", "steps_per_second"}
    assert {k: v for k, v in second.items() if k not in timing} == {k: v for k, v in result.items() if k not in timing}


@pytest.mark.parametrize(
    ("run", "call", "number"),
    [
        ("lightgcn_run", 3, signal.SIGINT),
        ("rearm_run", 7, signal.SIGTERM),
        ("lightgcn_run", 2 * STEPS, signal.SIGINT),
    ],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(run, call, number, tmp_path, monkeypatch, request):
    """In the middle of the first and of the second epoch, and behind the last step of the second."""
    experiment, workdir, _ = request.getfixturevalue(run)
    calls = []

    def check_and_interrupt(last, step):
        check_numbers(last, step)
        if "loss" not in last:  # the metrics of the epoch
            return
        calls.append(step)
        if len(calls) == call:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_numbers", check_and_interrupt)
        patch.setattr(loop, "CALL_SECONDS", 0.0)  # a step a call
        assert train(experiment, str(tmp_path)) == (None, number)
    assert calls == list(range(1, call + 1))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == call
        assert checkpoints.best_step() in (None, STEPS)
    assert not (tmp_path / "result.json").exists()
    result, stopped_by = train(experiment, str(tmp_path))
    assert stopped_by is None
    assert {key: result[key] for key in METRICS} == {key: read_result(workdir)[key] for key in METRICS}
    assert_same_runs(experiment, workdir, tmp_path)


def test_signals_are_handled_once_and_handed_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as request:
        assert request.signal is None
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # the second one quits
        assert signal.getsignal(signal.SIGTERM) not in before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def refuse(*args, **kwargs):
    raise AssertionError("must not be called")


def test_a_finished_run_says_so_and_can_be_trained_on(tmp_path, monkeypatch, log_text):
    result, _ = train(lightgcn(num_epochs=2), str(tmp_path))
    files = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile_steps", refuse)
        patch.setattr(loop, "Evaluator", refuse)
        again, stopped_by = train(lightgcn(num_epochs=2), str(tmp_path))
    assert (again, stopped_by) == (result, None)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json*")} == files
    assert "is finished (2 epochs" in log_text()

    longer, _ = train(lightgcn(num_epochs=3), str(tmp_path))
    assert "resuming at step 12, after epoch 2" in log_text()
    assert (longer["epochs"], longer["steps"]) == (3, 3 * STEPS)
    assert [line["epoch"] for line in read_lines(tmp_path)] == [1, 2, 3]
    assert json.loads((tmp_path / "config.json").read_text())["num_epochs"] == 3


def test_a_run_without_its_result_makes_it_again(tmp_path):
    """As after a crash between the last epoch and the test split."""
    result, _ = train(lightgcn(num_epochs=2), str(tmp_path))
    (tmp_path / "result.json").unlink()
    again, _ = train(lightgcn(num_epochs=2), str(tmp_path))
    assert {key: again[key] for key in METRICS} == {key: result[key] for key in METRICS}
    assert len(read_lines(tmp_path)) == 2


def test_evaluation_only_where_it_is_due(tmp_path, log_text):
    train(lightgcn(num_epochs=5, eval_every=2), str(tmp_path))
    evaluated = {line["epoch"]: "valid/recall@10" in line for line in read_lines(tmp_path)}
    assert evaluated == {1: False, 2: True, 3: False, 4: True, 5: True}  # and after the last
    assert [f"epoch {number}  step {STEPS * number}  loss " in log_text() for number in range(1, 6)] == [True] * 5


@pytest.fixture
def log_text(caplog):
    """A function that gives the log so far."""
    caplog.set_level("INFO", logger="absl")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def scripted(monkeypatch):
    """Replaces the evaluation: each call on validation takes the next of `values`; notes all calls."""

    class Script:
        values, calls = [], []

        def __init__(self, placement, inputs):
            self.ks = placement.experiment.config.evaluation.ks

        def __call__(self, params, split, by_popularity=False):
            Script.calls.append((split, float(np.sum(params["user_id_table"]))))
            value = Script.values.pop(0) if split == "valid" and Script.values else 0.0
            return {f"{split}/{name}@{k}": value for name in ("recall", "ndcg") for k in self.ks}

    monkeypatch.setattr(loop, "Evaluator", Script)
    monkeypatch.setattr(loop, "describe_run", lambda experiment, progress, *_: dataclasses.asdict(progress))
    return Script


def test_early_stopping_and_one_look_at_the_test_split(tmp_path, scripted):
    scripted.values[:] = [0.1, 0.3, 0.3, 0.0, 0.2, 0.9]
    scripted.calls.clear()
    result, _ = train(lightgcn(num_epochs=10, patience=2), str(tmp_path))
    # Epochs 3, 4 and 5 bring no strict gain: that is more than 2.
    assert (result["epoch"], result["best_epoch"], result["best_value"]) == (5, 2, 0.3)
    assert result["best_step"] == 2 * STEPS
    assert [split for split, _ in scripted.calls] == ["valid"] * 6 + ["test"]
    parameters = [value for _, value in scripted.calls]
    assert parameters[5] == parameters[6] == parameters[1]  # of the best checkpoint
    assert len(set(parameters)) == 5

    scripted.calls.clear()
    again, _ = train(lightgcn(num_epochs=10, patience=2), str(tmp_path))
    assert again["epoch"] == 5
    assert scripted.calls == []


def test_early_stopping_goes_on_counting_after_a_resume(tmp_path, scripted):
    scripted.values[:] = [0.3, 0.2]
    train(lightgcn(num_epochs=2, patience=2), str(tmp_path))
    scripted.values[:] = [0.2, 0.2, 0.9]
    result, _ = train(lightgcn(num_epochs=10, patience=2), str(tmp_path))
    assert (result["epoch"], result["best_epoch"]) == (4, 1)


@pytest.mark.parametrize(("protocol", "best_epoch"), [("strict", 2), ("reference", 1)])
def test_the_reference_protocol_compares_four_decimals(tmp_path, scripted, protocol, best_epoch):
    scripted.values[:] = [0.10001, 0.10004, 0.0]
    result, _ = train(lightgcn(num_epochs=3, protocol=protocol), str(tmp_path))
    assert result["best_epoch"] == best_epoch
    assert result["best_step"] == STEPS * best_epoch
    assert result["best_value"] == (0.1 if protocol == "reference" else 0.10004)


def test_a_best_value_of_zero_is_a_value(tmp_path, scripted, log_text):
    scripted.values[:] = [0.0]
    train(lightgcn(num_epochs=1), str(tmp_path))
    assert "best 0.0000 at epoch 1" in log_text()


def test_a_non_finite_loss_stops_the_run_and_the_checkpoint_stays(tmp_path):
    sound = lightgcn(num_epochs=1)
    train(sound, str(tmp_path))
    before, lines = latest_state(sound, tmp_path), read_lines(tmp_path)
    wild = build_experiment(tiny_config(model__name="lightgcn", learning_rate=1e30, num_epochs=3))
    with pytest.raises(NonFiniteError, match=r"^step 8: bpr = (nan|inf)"):
        train(wild, str(tmp_path))
    assert read_lines(tmp_path) == lines
    after = latest_state(sound, tmp_path)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    result = evaluate_run(sound, str(tmp_path))
    assert {key: read_result(tmp_path)[key] for key in METRICS} == result


@pytest.mark.parametrize("name", ["bpr", "contrastive", "orthogonal", "l2", "loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_every_part_is_watched(name, value):
    values = dict.fromkeys(("bpr", "contrastive", "orthogonal", "l2", "loss", "grad_norm"), 1.0)
    check_numbers(values, 3)
    with pytest.raises(NonFiniteError, match=f"^step 3: {name} = {value}"):
        check_numbers(values | {name: value}, 3)


def test_other_data_are_refused(tmp_path):
    train(lightgcn(num_epochs=1), str(tmp_path))
    other = lightgcn(num_epochs=2, data__synthetic__seed=1)
    for run in (train, evaluate_run):
        with pytest.raises(CheckpointError, match="other data"):
            run(other, str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["data"]["synthetic"]["seed"] == 0


def test_evaluation_of_a_folder_without_a_run(tmp_path):
    with pytest.raises(CheckpointError, match="holds no evaluated checkpoint"):
        evaluate_run(lightgcn(), str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("make_experiment", "everything"), [(rearm, False), (lightgcn, True)], ids=["cold", "user_with_every_item"]
)
def test_legal_oddities_of_the_data_train_without_nan(tmp_path, log_text, make_experiment, everything):
    """A user and an item without train interactions and a zero feature row; or a user with every item."""
    rng = np.random.default_rng(0)
    num_items = 10
    train_pairs = [(0, item) for item in range(num_items if everything else num_items - 1)]
    train_pairs += [(user, item) for user in range(1, 12) for item in rng.choice(8, 3, replace=False)]
    held_out = {"valid": [(12, 9), (12, 1), (1, 8)], "test": [(12, 3), (2, 8), (3, 9)]}
    for split, pairs in {"train": train_pairs, **held_out}.items():
        np.save(tmp_path / f"{split}.npy", np.array(pairs).T)
    for modality in ("image", "text"):
        features = rng.normal(size=(num_items, 4)).astype(np.float32)
        features[3] = 0
        np.save(tmp_path / f"{modality}_feat.npy", features)
    experiment = make_experiment(
        data__source="folder",
        data__root=str(tmp_path),
        batch_size=16,
        num_epochs=2,
        evaluation__ks=(5,),
        evaluation__metric="recall@5",
    )
    workdir = tmp_path / "run"
    result, _ = train(experiment, str(workdir))
    assert ("10 train interactions have no possible negative" in log_text()) == everything
    assert all(math.isfinite(value) for line in read_lines(workdir) for value in line.values())
    assert all(math.isfinite(result[f"{split}/{name}@5"]) for split in ("valid", "test") for name in ("recall", "ndcg"))
    with Checkpoints(workdir) as checkpoints:
        params = checkpoints.restore_params(checkpoints.latest_step(), place(experiment).like().params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_progress_counts_evaluations_without_a_gain():
    progress = Progress("hash")
    for epoch, value in enumerate([0.1, 0.1, 0.2, math.nan, math.inf, 0.2], start=1):
        progress.epoch = epoch
        progress.observe(value)
    assert (progress.best_value, progress.best_epoch, progress.evaluations_without_gain) == (0.2, 3, 3)
    assert not progress.is_over(num_epochs=7, patience=3)
    assert progress.is_over(num_epochs=7, patience=2)
    assert progress.is_over(num_epochs=6, patience=3)
