"""A refit: a run's settings and length on all interactions, without figures of its own; and data without validation."""

import json

import numpy as np
import pytest

from rearm_jax import evaluate, recommend, refit, train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.experiment import build_experiment
from rearm_jax.inference.export import export_run
from rearm_jax.inference.trained import load_trained
from rearm_jax.report.visualize import write_report
from rearm_jax.training import loop
from rearm_jax.training import result as results
from rearm_jax.training.outcome import table, weaknesses
from rearm_jax.training.step import steps_per_epoch
from tests.conftest import tiny_config

EMPTY = np.zeros((0, 2), np.int32)


@pytest.fixture(autouse=True)
def _without_random(monkeypatch):
    """Compiling that yardstick takes longer than all else, and nobody looks at it here."""
    monkeypatch.setattr(results, "random_metrics", lambda *_, **__: {})


@pytest.fixture(scope="module")
def data():
    return make_synthetic(60, 40, 8, 6, 0, ("image", "text"))


@pytest.fixture(scope="module")
def merged(data, tmp_path_factory):
    """A folder with all interactions in train, made with numpy alone."""
    folder = tmp_path_factory.mktemp("merged")
    np.save(folder / "train.npy", np.concatenate([data.test, data.train, data.valid]))
    for split in ("valid", "test"):
        np.save(folder / f"{split}.npy", EMPTY)
    for name, features in data.features.items():
        np.save(folder / f"{name}_feat.npy", features)
    return folder


def config(model="bpr", **changes):
    return tiny_config(model__name=model, **changes)


def on_folder(folder, model="bpr", **changes):
    return config(model, data__source="folder", data__root=str(folder), **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, result) of a run whose best epoch is not its last."""
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = config(num_epochs=8, learning_rate=0.3)
    settings.patience = 2
    result = train(settings, folder)
    assert 1 <= result["best_epoch"] < result["epochs"]
    return folder, result


def same_params(one, other):
    (_, a), (_, b) = ((load_trained(str(folder)).step, load_trained(str(folder)).params) for folder in (one, other))
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_a_refit_is_the_run_on_all_interactions(run, merged, data, tmp_path):
    folder, result = run
    final = refit(folder, tmp_path / "final")
    by_hand = train(on_folder(merged, num_epochs=result["best_epoch"], learning_rate=0.3), tmp_path / "by_hand")
    assert same_params(tmp_path / "final", tmp_path / "by_hand")
    assert final["best_epoch"] == final["epochs"] == result["best_epoch"]
    num_rows = len(data.train) + len(data.valid) + len(data.test)
    assert final["steps"] == final["best_step"] == result["best_epoch"] * steps_per_epoch(num_rows, 64)
    assert final["content_hash"] == by_hand["content_hash"]

    # It has no figures of its own, and carries those of the run.
    metrics = {name: value for name, value in result.items() if name.startswith(("valid/", "test/"))}
    assert len(metrics) == 20
    assert not metrics.keys() & final.keys()
    assert final["test_scored"] is False
    assert final["refit_of"]["metrics"] == metrics
    assert final["refit_of"]["run"] == str(folder)
    assert json.loads((tmp_path / "final/refit.json").read_text()) == final["refit_of"]
    assert json.loads((tmp_path / "final/config.json").read_text())["data"]["train_on"] == "all"
    shown = table(final, "recall@10")
    assert "nothing was scored" in shown
    assert f"test/recall@10{metrics['test/recall@10']:24.4f}" in shown
    assert weaknesses(final, "recall@10") == []
    with pytest.raises(CheckpointError, match="nothing to score"):
        evaluate(tmp_path / "final")
    with pytest.raises(CheckpointError, match="no validation or no test"):
        write_report(load_trained(str(tmp_path / "final")))

    # Nobody is recommended what they have.
    pairs = {(user, item) for split in (data.train, data.valid, data.test) for user, item in split.tolist()}
    lists = recommend(tmp_path / "final", k=20)
    assert len(lists) == 60
    assert not pairs & {(one["user"], place["item"]) for one in lists for place in one["items"]}
    export_run(load_trained(str(tmp_path / "final")), tmp_path / "export")
    assert "not of this refit" in (tmp_path / "export/README.md").read_text()


def test_a_refit_goes_on_where_it_was_killed(run, tmp_path, monkeypatch):
    folder, result = run
    refit(folder, tmp_path / "whole", by="steps")
    saved = loop._save

    def killed(checkpoints, state, progress, metric):
        saved(checkpoints, state, progress, metric)
        checkpoints.wait()
        raise KeyboardInterrupt

    if json.loads((tmp_path / "whole/config.json").read_text())["num_epochs"] > 1:
        monkeypatch.setattr(loop, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            refit(folder, tmp_path / "parts", by="steps")
        with pytest.raises(CheckpointError, match="has not ended its training"):
            load_trained(str(tmp_path / "parts"))
        monkeypatch.setattr(loop, "_save", saved)
    final = refit(folder, tmp_path / "parts", by="steps")
    assert same_params(tmp_path / "whole", tmp_path / "parts")
    assert abs(final["steps"] - result["best_step"]) <= final["steps"] / final["epochs"] / 2
    before = (tmp_path / "parts/result.json").read_bytes()
    assert refit(folder, tmp_path / "parts", by="steps") == final
    assert (tmp_path / "parts/result.json").read_bytes() == before


def test_what_cannot_be_refitted(run, tmp_path):
    folder, _ = run
    with pytest.raises(ConfigError, match="the run itself"):
        refit(folder, folder)
    with pytest.raises(ConfigError, match="refit_by is 'step'"):
        refit(folder, tmp_path / "out", by="step")
    train(config("popular"), tmp_path / "popular")
    refit(tmp_path / "popular", tmp_path / "final")
    with pytest.raises(CheckpointError, match="all interactions already"):
        refit(tmp_path / "final", tmp_path / "again")
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        refit(folder, tmp_path / "final")
    (tmp_path / "other").mkdir()
    (tmp_path / "popular").rename(tmp_path / "other/popular")
    with pytest.raises(CheckpointError, match=r"a refit of another run.*\(run differ\)"):
        refit(tmp_path / "other/popular", tmp_path / "final")
    (tmp_path / "other/popular/result.json").unlink()
    with pytest.raises(CheckpointError, match="is not finished"):
        refit(tmp_path / "other/popular", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_refit_of_changed_data_is_refused(data, merged, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in merged.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    np.save(folder / "train.npy", data.train)
    np.save(folder / "valid.npy", data.valid)
    assert "test/recall@10" not in train(on_folder(folder, "popular"), tmp_path / "run")
    np.save(folder / "train.npy", data.train[:-1])
    with pytest.raises(CheckpointError, match=r"train rows: \S+ then, \S+ now"):
        refit(tmp_path / "run", tmp_path / "final")


def test_a_fitted_model_is_fitted_on_all(merged, tmp_path):
    train(config("ease"), tmp_path / "run")
    refit(tmp_path / "run", tmp_path / "final")
    train(on_folder(merged, "ease"), tmp_path / "by_hand")
    assert same_params(tmp_path / "final", tmp_path / "by_hand")
    assert not same_params(tmp_path / "run", tmp_path / "final")


def test_a_residual_keeps_its_weight(merged, tmp_path):
    settings = config("bpr", num_epochs=2).unlock()
    settings = settings.copy_and_resolve_references()
    settings.residual.model = "popular"
    result = train(settings.lock(), tmp_path / "run")
    weight = result["residual"]["weight"]
    final = refit(tmp_path / "run", tmp_path / "final")
    assert final["residual"] == {"model": "popular", "weight": weight, "parameters": 40}
    trained = load_trained(str(tmp_path / "final"))
    assert trained.residual.weight == weight
    counts = np.bincount(np.load(merged / "train.npy")[:, 1], minlength=40)
    assert np.array_equal(trained.residual.params["counts"], counts)
    settings.data.update(source="folder", root=str(merged))
    with pytest.raises(ConfigError, match=r"residual\.weights = .*validation is empty and cannot choose"):
        build_experiment(settings)


def test_test_is_scored_without_validation(data, merged, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in merged.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    np.save(folder / "train.npy", data.train)
    np.save(folder / "test.npy", data.test)
    result = train(on_folder(folder, "bpr", num_epochs=3, eval_every=2), tmp_path / "run")
    assert (result["best_epoch"], result["epochs"]) == (3, 3)
    metrics = evaluate(tmp_path / "run")
    assert metrics == {name: result[name] for name in metrics}
    assert {name.split("/")[0] for name in metrics} == {"test"}
    del result["yardsticks"]["random"]  # see `_without_random`
    assert len(table(result, "recall@10").splitlines()) == 6
