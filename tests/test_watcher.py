"""`on_evaluation`: what it is told, how it stops a run, and that a stopped run goes on to the bit."""

import json
import threading

import jax
import numpy as np
import pytest

from rearm_jax import default_config, evaluate, refit, train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import build_experiment
from rearm_jax.inference.trained import load_trained
from rearm_jax.training import result as results
from rearm_jax.training.checkpoint import Checkpoints
from rearm_jax.training.placement import place
from tests.conftest import tiny_config


@pytest.fixture(autouse=True, scope="module")
def _without_random():
    """Compiling that yardstick takes longer than all else, and nobody looks at it here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "random_metrics", lambda *_, **__: {})
        yield


def config(model="bpr", **changes):
    return tiny_config(model__name=model, **{"learning_rate": 1e-2, "num_epochs": 4} | changes)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def metrics(result):
    return {name: value for name, value in result.items() if name.startswith(("valid/", "test/")) and "@" in name}


def state(workdir):
    """Every array of the latest checkpoint."""
    placement = place(build_experiment(config()))
    with Checkpoints(workdir, placement.table_rows) as checkpoints:
        params, rest, progress = checkpoints.restore(
            checkpoints.latest_step(), placement.like().params, placement.like().rest()
        )
    timing = {"seconds", "best_seconds", "step_seconds", "timed_steps"}
    return [np.asarray(leaf) for leaf in jax.tree.leaves((params, rest))], {
        name: value for name, value in progress.items() if name not in timing
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(run folder, result, what was told) of a run that nobody stopped."""
    workdir, told = tmp_path_factory.mktemp("whole") / "run", []
    return workdir, train(config(), workdir, progress=False, on_evaluation=told.append), told


def assert_goes_on_to(whole, workdir):
    assert metrics(train(config(), workdir, progress=False)) == metrics(whole[1])
    (arrays, progress), (expected, expected_progress) = state(workdir), state(whole[0])
    assert len(arrays) == len(expected) > 5
    for array, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, other)
    assert progress == expected_progress
    told = [{name: value for name, value in line.items() if not name.startswith("train/")} for line in lines(workdir)]
    assert told == [{n: v for n, v in line.items() if not n.startswith("train/")} for line in lines(whole[0])]


def test_it_is_told_the_lines_of_metrics(whole):
    workdir, _, told = whole
    assert told == lines(workdir)
    assert [(one["epoch"], one["step"]) for one in told] == [(1, 6), (2, 12), (3, 18), (4, 24)]
    assert all({"train/loss", "valid/recall@10"} <= set(one) for one in told)


def test_stop_saves_and_the_run_goes_on_to_the_bit(whole, tmp_path):
    told = []

    def second(one):
        told.append(one)
        return "stop" if one["epoch"] == 2 else None

    assert train(config(), tmp_path, progress=False, on_evaluation=second) is None
    assert told == lines(tmp_path)
    assert len(told) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints"}
    assert evaluate(tmp_path)["valid/recall@10"] == max(one["valid/recall@10"] for one in told)
    assert_goes_on_to(whole, tmp_path)


def test_a_thread_is_stopped(whole, tmp_path):
    enough, evaluated, answers = threading.Event(), threading.Event(), []

    def watch(_):
        evaluated.set()
        enough.wait()  # until the main thread says so
        return "stop"

    arguments = {"progress": False, "on_evaluation": watch}
    thread = threading.Thread(target=lambda: answers.append(train(config(), tmp_path, **arguments)))
    thread.start()
    assert evaluated.wait(timeout=300)
    enough.set()
    thread.join()
    assert answers == [None]
    assert len(lines(tmp_path)) == 1
    assert_goes_on_to(whole, tmp_path)


@pytest.mark.parametrize("error", [ValueError("of my own"), OSError(28, "No space left on my device")], ids=repr)
def test_its_errors_come_back_and_the_run_goes_on_to_the_bit(whole, tmp_path, error):
    def fail(one):
        if one["epoch"] == 3:
            raise error

    with pytest.raises(type(error)) as caught:
        train(config(), tmp_path, progress=False, on_evaluation=fail)
    assert caught.value is error
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 3]
    assert not (tmp_path / "training.lock").exists()
    assert_goes_on_to(whole, tmp_path)


@pytest.mark.parametrize("answer", [True, "Stop", 0, {}, np.zeros(2)], ids=str)
def test_other_answers_are_refused(whole, tmp_path, answer):
    with pytest.raises(ConfigError, match=r'^on_evaluation returned .*: must return "stop", or None to go on'):
        train(config(), tmp_path, progress=False, on_evaluation=lambda _: answer)
    assert len(lines(tmp_path)) == 1
    assert_goes_on_to(whole, tmp_path)


def test_a_run_at_its_end_ends_whatever_it_says(whole, tmp_path):
    assert metrics(train(config(num_epochs=1), tmp_path, progress=False, on_evaluation=lambda _: "stop"))
    assert json.loads((tmp_path / "result.json").read_text())["epochs"] == 1


def test_it_is_called_where_an_evaluation_is_due(tmp_path, whole):
    told = []
    train(config(num_epochs=5, eval_every=2), tmp_path / "a", progress=False, on_evaluation=told.append)
    assert [one["epoch"] for one in told] == [2, 4, 5]
    told.clear()
    refit(whole[0], tmp_path / "b", progress=False, on_evaluation=told.append)
    assert [one["epoch"] for one in told] == list(range(1, 1 + whole[1]["best_epoch"]))
    assert not any(name.startswith("valid/") for one in told for name in one)


def test_a_fitted_model_is_evaluated_once(tmp_path):
    told = []

    def stop(one):
        told.append(one)
        return "stop"

    result = train(config("itemknn"), tmp_path, progress=False, on_evaluation=stop)
    [one] = told
    assert one == {"step": 0, "epoch": 0} | {name: value for name, value in result.items() if name.startswith("valid/")}
    assert load_trained(str(tmp_path)).is_fitted


def test_what_cannot_be_called_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="on_evaluation = 'stop': must be a function"):
        train(config("popular"), tmp_path / "run", progress=False, on_evaluation="stop")
    dataset = make_synthetic(60, 40, 8, 6, seed=0, modalities=("image", "text"))
    with pytest.raises(ConfigError, match="on_evaluation = 3: must be a function"):
        train(default_config("popular"), tmp_path / "run", progress=False, on_evaluation=3, dataset=dataset)
    assert not (tmp_path / "run").exists()
