"""Runs with evaluation.test off never score test, and whatever reads them copes."""

import json

import pytest

from rearm_jax import default, evaluate, recommend, train
from rearm_jax.config import from_json, to_json
from rearm_jax.errors import CheckpointError
from rearm_jax.evaluation import baselines, scoring, splits
from rearm_jax.inference.export import export_run
from rearm_jax.inference.trained import load_trained
from rearm_jax.report.visualize import write_report
from rearm_jax.training import evaluator
from rearm_jax.training.outcome import table, weaknesses
from tests.conftest import TINY, tiny_config

METRIC = "recall@10"


def config(model, residual, **changes):
    settings = default.get_config(model, residual)
    values = TINY | {"num_epochs": 1, "residual.l2": 5.0, "residual.weights": (0.0, 1.0), "evaluation.test": False}
    declared = default.declared(model, residual)
    settings.update_from_flattened_dict({name: value for name, value in (values | changes).items() if name in declared})
    return settings.lock()


@pytest.fixture(scope="module", params=[("popular", ""), ("lightgcn", ""), ("lightgcn", "ease")], ids=" ".join)
def run(request, tmp_path_factory):
    """(config, folder, result, metrics of `evaluate`), made where asking for the positives of test is an error."""
    folder = tmp_path_factory.mktemp("unscored") / "run"

    def valid_alone(dataset, split, *args):
        assert split == "valid"
        return splits.blocks_and_positives(dataset, split, *args)

    with pytest.MonkeyPatch.context() as patch:
        for module in (baselines, scoring, evaluator):
            patch.setattr(module, "blocks_and_positives", valid_alone)
        settings = config(*request.param)
        return settings, folder, train(settings, folder), evaluate(folder)


def test_the_result_has_validation_alone_and_says_so(run):
    _, folder, result, _ = run
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["test_scored"] is False
    assert "test_by_popularity" not in result
    for metrics in (result, *result["yardsticks"].values()):
        assert {name for name in metrics if name.startswith("test/")} == set()
        assert sum(name.startswith("valid/") for name in metrics) == 10
    assert result["yardsticks"].keys() == {"most_popular", "random"}


def test_evaluates_validation_to_the_last_digit(run):
    _, _, result, metrics = run
    assert metrics == {name: value for name, value in result.items() if name.startswith("valid/")}


def test_what_it_says_of_itself(run):
    _, _, result, _ = run
    first, _, *rows = table(result, METRIC).splitlines()
    assert first.endswith("; test was not scored (it is empty, or config.evaluation.test is off)")
    assert [row.split()[0] for row in rows] == [
        f"valid/{name}@10" for name in ("recall", "ndcg", "precision", "hitrate")
    ]
    [said] = weaknesses(result | {f"valid/{METRIC}": 0.0, "model": "ease", "epochs": 0}, METRIC)
    assert f"valid/{METRIC} is 0.0000" in said


def test_recommends_and_exports(run, tmp_path):
    _, folder, result, _ = run
    assert len(recommend(folder, k=3)) == 60
    export_run(load_trained(str(folder)), tmp_path / "export")
    readme = (tmp_path / "export" / "README.md").read_text()
    assert f"{result[f'valid/{METRIC}']:.4f}" in readme
    assert "test/" not in readme


def test_a_report_which_scores_test_is_refused(run, tmp_path):
    for library in ("jinja2", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    _, folder, _, _ = run
    with pytest.raises(CheckpointError, match=r"evaluation\.test = False, and the report scores test"):
        write_report(load_trained(str(folder)), tmp_path / "report.html")
    assert not any(tmp_path.iterdir())


def test_the_same_run_is_not_scored_on_test_afterwards(run):
    settings, folder, result, _ = run
    assert train(settings, folder) == result
    other = settings.copy_and_resolve_references()
    other.evaluation.test = True
    with pytest.raises(CheckpointError, match=r"evaluation\.test: False there, True here"):
        train(other, folder)


def test_validation_is_the_same_with_and_without_test(tmp_path):
    without = train(config("popular", ""), tmp_path / "without")
    whole = train(config("popular", "", **{"evaluation.test": True}), tmp_path / "with")
    assert whole["test_scored"] is True
    valid = {name: value for name, value in whole.items() if name.startswith("valid/")}
    assert valid == {name: without[name] for name in valid}
    assert sum(name.startswith("test/") for name in whole) == 10


def test_older_runs_score_test():
    fields = json.loads(to_json(tiny_config(model__name="popular")))
    del fields["evaluation"]["test"]
    assert from_json(json.dumps(fields)).evaluation.test is True
