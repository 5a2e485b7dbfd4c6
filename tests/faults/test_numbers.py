"""NaN and infinity put into every place where they can arise: the run stops, and what was saved stays good."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rearm_jax.errors import DataError, NonFiniteError
from rearm_jax.experiment import Optimizer, build_experiment
from rearm_jax.training import loop
from rearm_jax.training.checkpoint import Checkpoints
from tests.faults import processes
from tests.faults.tally import counts
from tests.test_dataset import example, write
from tests.test_loop import rearm

STEPS = 6  # an epoch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run folder, result) of one sound epoch."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    result, _ = loop.train(build_experiment(processes.config(num_epochs=1)), str(folder))
    return folder, result


class Poisoned:
    """A model whose output goes through `change` when it trains."""

    def __init__(self, model, change):
        self.model, self.change = model, change

    def split_rates(self):
        return self, {}

    def with_rates(self, rates):
        return self

    def __getattr__(self, name):
        return getattr(self.model, name)

    def apply(self, *args, train=False, **kwargs):
        out = self.model.apply(*args, train=train, **kwargs)
        return out._replace(users=self.change(out.users)) if train else out


@jax.custom_vjp
def nan_gradient(x):
    return x


nan_gradient.defvjp(lambda x: (x, None), lambda _, gradient: (gradient * jnp.nan,))


def poisoned_model(change):
    def poison(experiment, monkeypatch):
        return dataclasses.replace(experiment, model=Poisoned(experiment.model, change))

    return poison


def poisoned_metric(value):
    def poison(experiment, monkeypatch):
        class Evaluator(loop.Evaluator):
            def __call__(self, params, split):
                return super().__call__(params, split) | {f"{split}/recall@10": value}

        monkeypatch.setattr(loop, "Evaluator", Evaluator)
        return experiment

    return poison


def poisoned_update(experiment, monkeypatch):
    """The very last step of the epoch overflows: its loss and gradient are finite, its parameters are not."""

    class Overflowing(Optimizer):
        def transformation(self, model, rates):
            tx = super().transformation(model, rates)

            def update(grads, state, params, **extra):
                updates, state = tx.update(grads, state, params, **extra)
                last = state[0].count == 2 * STEPS
                return jax.tree.map(lambda x: jnp.where(last, jnp.inf, x), updates), state

            return tx._replace(update=update)

    optimizer = Overflowing(**dataclasses.asdict(experiment.optimizer))
    return dataclasses.replace(experiment, optimizer=optimizer)


FAULTS = {
    "loss is NaN": (poisoned_model(lambda x: x * jnp.nan), "step 7: bpr = nan"),
    "loss is infinite": (poisoned_model(lambda x: x + jnp.inf), "step 7: bpr = (nan|inf)"),
    "gradient is NaN": (poisoned_model(nan_gradient), "step 7: grad_norm = nan"),
    "update is infinite": (poisoned_update, "step 12: parameter item_id_table holds a NaN or an infinity"),
    "metric is NaN": (poisoned_metric(math.nan), "step 12: valid/recall@10 = nan"),
    "metric is infinite": (poisoned_metric(math.inf), "step 12: valid/recall@10 = inf"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_stops_names_step_and_part_and_saves_nothing(trained, tmp_path, monkeypatch, fault):
    folder, result = trained
    poison, message = FAULTS[fault]
    sound = build_experiment(processes.config(num_epochs=5))
    with Checkpoints(folder) as checkpoints:
        before = checkpoints.latest_step(), checkpoints.best_step()
    lines = (folder / "metrics.jsonl").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(NonFiniteError, match=f"^{message}"):
        loop.train(poison(sound, patch), str(folder))
    with Checkpoints(folder) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == before == (STEPS, STEPS)
    assert (folder / "metrics.jsonl").read_bytes() == lines
    found = loop.evaluate_run(sound, str(folder))
    assert found == {name: result[name] for name in found}
    assert json.loads((folder / "result.json").read_text()) == result
    counts["NaN and infinities put in, stopped"] += 1


def test_features_that_became_nan_behind_their_check_stop_the_first_step(tmp_path):
    experiment = rearm()
    name, table = next(iter(experiment.dataset.features.items()))
    table = table.copy()
    table[3, 1] = np.nan
    dataset = dataclasses.replace(experiment.dataset, features={**experiment.dataset.features, name: table})
    with pytest.raises(NonFiniteError, match=r"^step 1: bpr = nan"):
        loop.train(dataclasses.replace(experiment, dataset=dataset), str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()
    counts["NaN and infinities put in, stopped"] += 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_before_anything_is_written(tmp_path, value):
    table = example()["image_feat"].copy()
    table[0, 0] = value
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", image_feat=table)
    config = processes.config(
        data__source="folder",
        data__root=str(tmp_path / "data"),
        data__modalities=("image",),
        graph__cache_dir=str(tmp_path / "cache"),
    )
    with pytest.raises(DataError, match=r"image_feat\.npy, row 0, column 0"):
        build_experiment(config)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    counts["NaN and infinities put in, stopped"] += 1
