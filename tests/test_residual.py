"""A fitted model's score beside a learned model's own: settings, z-scores, the weight, and whole runs.

Learned is LightGCN, which compiles fastest; nothing here depends on the model.
"""

import json
import re

import jax
import numpy as np
import pytest
import scipy.sparse
from absl.testing import flagsaver
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ml_collections import ConfigDict

from rearm_jax import default, default_config, evaluate, main, models, recommend, train
from rearm_jax.config import check_config, differences, for_its_model, from_json, to_json, with_model
from rearm_jax.errors import CheckpointError, ConfigError
from rearm_jax.evaluation.scoring import standardised
from rearm_jax.experiment import build_experiment
from rearm_jax.inference.export import export_run
from rearm_jax.inference.new_items import NewItems
from rearm_jax.inference.recommend import recommend as recommend_lists
from rearm_jax.inference.trained import load_trained
from rearm_jax.training import loop
from rearm_jax.training.best_step import best_params
from rearm_jax.training.placement import place
from rearm_jax.training.residual import weigh_residual
from tests.conftest import TINY

WEIGHTS = (0.0, 0.5, 2.0)
CHANGES = {"learning_rate": 1e-2, "num_epochs": 2, "residual.weights": WEIGHTS, "residual.l2": 5.0}


def tiny(model="lightgcn", residual="ease", **changes) -> ConfigDict:
    """The settings of tests/conftest.py, with a residual; dots in names become `__`."""
    config = default.get_config(model, residual)
    changes = TINY | CHANGES | {name.replace("__", "."): value for name, value in changes.items()}
    declared = default.declared(model, residual)
    config.update_from_flattened_dict({name: value for name, value in changes.items() if name in declared})
    return config.lock()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, result)"""
    folder = tmp_path_factory.mktemp("residual") / "run"
    return folder, train(tiny(), folder)


def leaves(config) -> dict:
    return {
        f"{section}.{name}": value
        for section, fields in config.to_dict().items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    }


# Settings


@pytest.mark.parametrize("residual", ["popular", "itemknn", "ease"])
def test_the_settings_of_the_chosen_one_exist_and_no_others(residual):
    own = {name.removeprefix("model."): setting for name, setting in models.find(residual).settings.items()}
    config = tiny(residual=residual)
    check_config(config)
    assert set(config.residual) == {"model", "weights", *own}
    for name, setting in own.items():
        if name != "l2":
            assert config.residual[name] == setting.default
        assert default.declared("lightgcn", residual)[f"residual.{name}"] == setting
    assert set(tiny(residual="").residual) == {"model", "weights"}
    assert from_json(to_json(config)) == for_its_model(config)


def test_its_settings_are_fields_in_python():
    config = default_config("lightgcn", residual="ease")
    config.residual.l2 = 20.0
    assert config.residual.to_dict() == default.get_config("lightgcn", "ease").residual.to_dict() | {"l2": 20.0}
    config = default_config("lightgcn", root="data").unlock()
    config.residual.model, config.residual.l2 = "ease", 20.0  # and what is not said has its default
    assert for_its_model(config).residual.kept_weights == default.get_config("lightgcn", "ease").residual.kept_weights
    with pytest.raises(ConfigError, match="residual = 'bpr': must be the name of a fitted model"):
        default_config("lightgcn", residual="bpr")


def test_old_configs_have_no_residual():
    config = tiny(residual="")
    tree = json.loads(to_json(config))
    del tree["residual"]
    assert from_json(json.dumps(tree)).residual.to_dict() == {
        "model": "",
        "weights": default.SETTINGS["residual.weights"].default,
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"residual__l2": 0.0}, r"residual\.l2 = 0\.0: must be a finite number above 0"),
        ({"residual__kept_weights": -1}, r"residual\.kept_weights = -1"),
        ({"residual__weights": (0.5, 0.5)}, r"residual\.weights = \(0\.5, 0\.5\): must be a tuple of different"),
    ],
)
def test_rules_are_those_of_the_fitted_model(changes, words):
    with pytest.raises(ConfigError, match=words):
        check_config(tiny(**changes))


def test_a_fitted_model_has_no_residual():
    with pytest.raises(ConfigError, match=r"residual\.model = 'ease': must be \"\" beside a model that is fitted"):
        check_config(tiny("itemknn", "ease"))


def test_more_weights_than_items_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"residual\.kept_weights = 41: too large, the data has 40 items"):
        train(tiny(residual__kept_weights=41), tmp_path / "run")


def test_in_python_the_chosen_one_gets_its_defaults():
    config = tiny(residual="")
    config.residual.model = "itemknn"
    assert for_its_model(config).residual.shrink == 100
    with config.unlocked():
        config.residual.shrink = 7
        config.residual.neighbours = config.residual.kept_weights = 0
    assert for_its_model(config).residual.shrink == 7
    config.residual.model = "ease"  # shrink was set, and is not EASE's
    with pytest.raises(ConfigError, match=r"residual\.shrink: is a setting of itemknn, and residual\.model is ease"):
        for_its_model(config)
    config.residual.shrink = 100  # as it comes: left out without a word
    assert set(for_its_model(config).residual) == {"model", "weights", "l2", "kept_weights"}


def test_a_config_file_for_another_one_is_left_out(caplog):
    caplog.set_level("INFO", "absl")
    found = with_model(tiny(), "lightgcn", "itemknn")
    check_config(found)
    assert set(found.residual) == {"model", "weights", "shrink", "neighbours", "kept_weights"}
    assert found.residual.weights == WEIGHTS
    assert "residual.l2" in caplog.text
    assert with_model(tiny(), "lightgcn", "ease").residual.l2 == 5
    assert differences(tiny(), tiny(residual="popular")) == ["residual.model"]
    assert differences(tiny(), tiny(residual__l2=6.0)) == ["residual.l2"]


@pytest.fixture
def parsed(monkeypatch):
    """The config that `main` reads from flags."""

    def parse(*arguments: str):
        monkeypatch.setattr(main.sys, "argv", ["main", "--config=configs/demo.py", *arguments])
        main.parse_flags(main.sys.argv)
        return main._CONFIG.value

    with flagsaver.flagsaver():
        yield parse


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_on_the_command_line(parsed):
    config = parsed("--config.residual.l2=7", "--config.residual.model=ease", "--config.residual.weights=(0.0,1.0)")
    assert (config.residual.model, config.residual.l2, config.residual.weights) == ("ease", 7, (0, 1))
    assert config.model.name == "rearm"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config.residual.l2=7",), r"residual\.l2: is a setting of ease, and residual\.model is none"),
        (("--config.residual.model=easy",), r"residual\.model = 'easy': must be \"\", or the name of a fitted model: "),
        (("--config.residual.model=ease", "--config.residual.shrink=7"), r"residual\.shrink: is a setting of itemknn"),
        (("--config.model.name=ease", "--config.residual.model=ease"), r"residual\.model = 'ease': must be \"\""),
    ],
)
def test_what_the_command_line_refuses(parsed, arguments, words):
    with pytest.raises(ConfigError, match=words):
        parsed(*arguments)


# Scores


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        (3, 7),
        elements=st.sampled_from([0.0, -0.0, 1.0, -3.5, 1e-20, 1e-38, 2e10, 7.25]),
    )
)
def test_z_scores(scores):
    found = np.asarray(standardised(scores))
    assert found.dtype == np.float32
    for row, ours in zip(scores.astype(np.float64), found, strict=True):
        spread = row.std()
        expected = (row - row.mean()) / spread if row.max() > row.min() else np.zeros(7)
        if np.ptp(row) > 1e-30:  # below, float32 may take the row for a constant
            np.testing.assert_allclose(ours, expected, atol=2e-5)
        assert np.isfinite(ours).all()


def brute_scores(folder, weight) -> np.ndarray:
    """z(dot products) + weight z(EASE) in float64, over all items; what a user has had is minus infinity after that."""
    trained = load_trained(str(folder))
    out, dataset = trained.representations, trained.experiment.dataset
    history = np.zeros((dataset.num_users, dataset.num_items))
    history[tuple(dataset.train.T)] = 1
    gram = history.T @ history
    inverse = np.linalg.inv(gram + 5.0 * np.eye(len(gram)))
    weights = -inverse / inverse.diagonal()
    np.fill_diagonal(weights, 0)
    parts = np.asarray(out.users, np.float64) @ np.asarray(out.items, np.float64).T, history @ weights
    z = [(part - part.mean(axis=1, keepdims=True)) / part.std(axis=1, keepdims=True) for part in parts]
    return np.where(history > 0, -np.inf, z[0] + weight * z[1])


def ranking(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")


def recall(dataset, split: str, scores: np.ndarray, k: int) -> float:
    lists, found = ranking(scores)[:, :k], {}
    for user, item in getattr(dataset, split).tolist():
        found.setdefault(user, []).append(item in lists[user])
    return float(np.mean([np.mean(hits) for hits in found.values()]))


# Runs


def test_every_weight_is_tried_on_validation_and_the_best_is_kept(run):
    folder, result = run
    dataset = build_experiment(tiny()).dataset
    about = result["residual"]
    values = {weight: recall(dataset, "valid", brute_scores(folder, weight), 10) for weight in WEIGHTS}
    assert about["model"] == "ease"
    assert about["valid/recall@10"] == pytest.approx({str(weight): value for weight, value in values.items()})
    best = max(WEIGHTS, key=lambda weight: (values[weight], -weight))
    assert about["weight"] == best
    assert best > 0  # on these data; else much of what follows would say nothing
    assert result["valid/recall@10"] == pytest.approx(values[best])
    assert result["test/recall@10"] == pytest.approx(recall(dataset, "test", brute_scores(folder, best), 10))
    assert sum(group["found"] for group in result["test_by_popularity"]) > 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    alone = [line["valid/recall@10"] for line in lines if line["epoch"] == result["best_epoch"]]
    assert alone == [about["valid/recall@10"]["0.0"]]  # early stopping goes by the model alone


def test_evaluates_to_the_last_digit(run):
    folder, result = run
    metrics = evaluate(folder)
    assert metrics == {key: result[key] for key in metrics}
    assert len(metrics) == 20


def test_recommends_by_both(run):
    folder, result = run
    scores = brute_scores(folder, result["residual"]["weight"])
    lists = recommend(folder, k=9, seen="train")
    for user, one in enumerate(lists):
        items = [place["item"] for place in one["items"]]
        given = np.array([place["score"] for place in one["items"]])
        np.testing.assert_allclose(given, -np.sort(-scores[user])[: len(items)], atol=1e-4)
        np.testing.assert_allclose(scores[user, items], given, atol=1e-4)


def test_w_0_is_the_model_alone(tmp_path):
    alone = train(tiny(residual=""), tmp_path / "alone")
    both = train(tiny(residual__weights=(0.0,)), tmp_path / "both")
    assert {k: v for k, v in both.items() if k.startswith(("valid/", "test/"))} == {
        k: v for k, v in alone.items() if k.startswith(("valid/", "test/"))
    }
    first, second = recommend(tmp_path / "alone", k=5), recommend(tmp_path / "both", k=5)
    items = [[[place["item"] for place in one["items"]] for one in lists] for lists in (first, second)]
    assert items[0] == items[1]


def test_the_same_command_says_that_it_is_finished(run, monkeypatch, caplog):
    folder, result = run
    monkeypatch.setattr(models.find("ease"), "fit", lambda *_: pytest.fail("fitted again"))
    caplog.set_level("INFO", "absl")
    assert train(tiny(), folder) == result
    assert "is finished" in caplog.text
    with pytest.raises(CheckpointError, match=r"residual\.l2: 5\.0 there, 6\.0 here"):
        train(tiny(residual__l2=6.0), folder)
    with pytest.raises(CheckpointError, match=r"residual\.model: 'ease' there, '' here"):
        train(tiny(residual=""), folder)


def test_stopped_and_gone_on_with(run, tmp_path, monkeypatch):
    """A run that is killed when training has ended, before the weight is chosen."""
    _, result = run

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "weigh_residual", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), tmp_path)
    for action in (evaluate, recommend):
        with pytest.raises(CheckpointError, match="is chosen when training ends"):
            action(tmp_path)
    monkeypatch.setattr(models.find("ease"), "fit", lambda *_: pytest.fail("fitted again"))
    again = train(tiny(), tmp_path)
    assert again["residual"] == result["residual"]
    assert {k: v for k, v in again.items() if k.startswith("test")} == {
        k: v for k, v in result.items() if k.startswith("test")
    }
    # A longer run may have another best step: the weight of the old one is not taken for it.
    with monkeypatch.context() as patch:
        patch.setattr(loop, "weigh_residual", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(num_epochs=6), tmp_path)
    longer = train(tiny(num_epochs=6), tmp_path)
    assert evaluate(tmp_path)["test/recall@10"] == longer["test/recall@10"]


def test_a_damaged_fit_is_never_used(tmp_path):
    train(tiny(num_epochs=1), tmp_path)
    folder = tmp_path / "checkpoints" / "residual" / "checkpoints" / "0" / "params"
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for action in (evaluate, recommend):
        with pytest.raises(CheckpointError, match="is damaged"):
            action(tmp_path)
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        train(tiny(num_epochs=2), tmp_path)


def test_new_items_are_refused_by_name(run):
    trained = load_trained(str(run[0]))
    features = {key: table[:1] for key, table in trained.experiment.dataset.features.items()}
    with pytest.raises(ConfigError, match="new items: EASE knows an item by its train interactions alone"):
        recommend_lists(trained, [3], 5, new_items=NewItems(np.array([100]), None, features))


def test_the_export_scores_by_both(run, tmp_path, monkeypatch, caplog, capsys):
    folder, result = run
    weight, out = result["residual"]["weight"], tmp_path / "out"
    caplog.set_level("INFO", "absl")
    export_run(load_trained(str(folder)), out)
    assert "the index for faiss is of the vectors alone, without the residual" in caplog.text
    readme = (out / "README.md").read_text("utf-8")
    assert f"z(dot products of the vectors) + {weight:g} z(scores of EASE" in readme
    assert "over the item vectors alone, without the residual" in readme
    listed = set(re.findall(r"`([a-z_]+\.[a-z]+)`", readme.split("```")[0])) | {"README.md"}
    assert listed == {path.name for path in out.iterdir()}
    monkeypatch.chdir(out)
    names: dict = {}
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(program, "README.md", "exec"), names)
    rows, scores = np.asarray(names["rows"]), np.asarray(names["scores"])
    expected = brute_scores(folder, weight)
    for user in (0, 1):
        left = int(np.isfinite(expected[user]).sum())
        np.testing.assert_allclose(scores[user, :left], -np.sort(-expected[user])[:left], atol=1e-4)
        np.testing.assert_allclose(expected[user, rows[user, :left]], scores[user, :left], atol=1e-4)
        assert (rows[user, left:] == -1).all()
    assert capsys.readouterr().out


def test_the_report_names_both(run):
    for library in ("jinja2", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    from rearm_jax.report.visualize import write_report

    folder, result = run
    write_report(load_trained(str(folder)))
    page = (folder / "report.html").read_text()
    assert f"LightGCN + {result['residual']['weight']:g} EASE · a trained run" in page


def test_popularity_as_a_residual_counts_once_for_all(tmp_path):
    """A score that is the same for every user; and users whose own EASE score is constant get the model alone."""
    result = train(tiny(residual="popular", residual__weights=(1.0,)), tmp_path)
    trained = load_trained(str(tmp_path))
    dataset = trained.experiment.dataset
    counts = np.bincount(dataset.train[:, 1], minlength=dataset.num_items).astype(np.float64)
    own = np.asarray(trained.representations.users, np.float64) @ np.asarray(trained.representations.items).T
    z = (own - own.mean(axis=1, keepdims=True)) / own.std(axis=1, keepdims=True)
    scores = z + (counts - counts.mean()) / counts.std()
    scores[tuple(dataset.train.T)] = -np.inf
    assert result["test/recall@10"] == pytest.approx(recall(dataset, "test", scores, 10))
    history = scipy.sparse.csr_array((2, dataset.num_items), dtype=np.float32)
    ease = models.find("ease")(l2=1.0, kept_weights=0)
    assert not np.asarray(standardised(ease.scores(ease.fit(dataset), history))).any()


def test_the_first_of_equal_weights_is_kept(tmp_path):
    """With the model's own scores on both sides, every weight ranks alike."""
    experiment = build_experiment(tiny(residual="popular", residual__weights=(0.3, 0.0, 2.0)))
    loop.fit_residual(experiment, str(tmp_path))
    counts = np.bincount(experiment.dataset.train[:, 1], minlength=40).astype(np.float32)
    result = weigh_residual(experiment, str(tmp_path), 0, lambda users: np.tile(counts, (len(users), 1)))
    assert result["residual"]["weight"] == 0.3
    assert len(set(result["residual"]["valid/recall@10"].values())) == 1


@pytest.mark.parametrize("parallel", ["data", "row"])
def test_vectors_are_whole_whatever_the_placement(run, parallel):
    folder, _ = run
    trained = load_trained(str(folder))
    config = tiny(parallel=parallel)
    placement = place(build_experiment(config))
    _, params = best_params(placement, str(folder))
    users, items = placement.representations(params, placement.inputs())
    out = jax.device_get(trained.representations)
    np.testing.assert_allclose(users, out.users, atol=1e-6)
    np.testing.assert_allclose(items, out.items, atol=1e-6)
    assert loop.evaluate_run(build_experiment(config), str(folder)) == evaluate(folder)
