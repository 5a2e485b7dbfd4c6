"""Runs of the models in closed form through the public doors: trained, evaluated, recommended, exported, reported."""

import dataclasses
import json
import re

import numpy as np
import pytest
import scipy.sparse

from rearm_jax import evaluate, models, recommend, train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import CheckpointError, ConfigError, DataError, NonFiniteError, RearmError
from rearm_jax.experiment import build_experiment, make_experiment
from rearm_jax.inference.export import export_run
from rearm_jax.inference.new_items import NewItems, read_new_items
from rearm_jax.inference.recommend import recommend as recommend_lists
from rearm_jax.inference.seen import find_seen
from rearm_jax.inference.trained import load_trained
from rearm_jax.recommender.fitted import Fitted
from rearm_jax.report.visualize import write_report
from rearm_jax.training import result as results
from rearm_jax.training.loop import evaluate_run
from rearm_jax.training.loop import train as train_experiment
from tests.conftest import tiny_config

NAMES = ("popular", "itemknn", "ease")
OWN = {"popular": {}, "itemknn": {"model__shrink": 2.0}, "ease": {"model__l2": 5.0}}


def config(name: str, **changes):
    return tiny_config(model__name=name, **OWN[name] | changes)


@pytest.fixture(scope="module", params=NAMES)
def run(request, tmp_path_factory):
    """(name, folder, result)"""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, folder, train(config(request.param), folder)


@pytest.fixture
def without_random(monkeypatch):
    """For runs whose result nobody looks at: compiling that yardstick takes longer than all else."""
    monkeypatch.setattr(results, "random_metrics", lambda *_, **__: {})


def train_matrix(dataset) -> np.ndarray:
    matrix = np.zeros((dataset.num_users, dataset.num_items), np.float32)
    matrix[tuple(dataset.train.T)] = 1
    return matrix


def all_scores(trained) -> np.ndarray:
    """By the whole matrix of interactions at once; what a user has had is minus infinity."""
    matrix = train_matrix(trained.experiment.dataset)
    scores = trained.experiment.model.scores(trained.params, scipy.sparse.csr_array(matrix))
    return np.where(matrix > 0, -np.inf, scores)


def ranking(scores: np.ndarray, k: int) -> list[list[int]]:
    return [sorted(range(len(row)), key=lambda item: (-row[item], item))[:k] for row in scores]


def test_the_result_has_what_those_of_learned_models_have(run):
    name, folder, result = run
    assert json.loads((folder / "result.json").read_text()) == result
    yardstick = result["yardsticks"]["most_popular"]
    metrics = {key: result[key] for key in yardstick}
    assert len(metrics) == 20
    assert (metrics == yardstick) == (name == "popular")
    if name != "popular":
        assert result["test/recall@10"] > yardstick["test/recall@10"]
    expected = {"model": name, "best_step": 0, "steps": 0, "epochs": 0, "best_epoch": 0, "steps_per_second": None}
    assert {key: result[key] for key in expected} == expected
    assert result["seconds"] >= 0
    assert {"seed", "protocol", "content_hash", "split_hash", "devices", "versions"} <= set(result)
    positives = sum(group["positives"] for group in result["test_by_popularity"])
    found = sum(group["found"] for group in result["test_by_popularity"])
    dataset = build_experiment(config(name)).dataset
    assert positives == len(dataset.test)
    lists = ranking(all_scores(load_trained(str(folder))), 10)
    assert found == sum(item in lists[user] for user, item in dataset.test.tolist())


def test_evaluates_to_the_last_digit(run):
    _, folder, result = run
    metrics = evaluate(folder)
    assert metrics == {key: result[key] for key in metrics}
    assert len(metrics) == 20


def test_recommends_what_sorting_gives(run):
    name, folder, _ = run
    expected = ranking(all_scores(load_trained(str(folder))), 7)
    lists = recommend(folder, k=7, seen="train")
    assert [[place["item"] for place in one["items"]] for one in lists] == expected
    for one in lists:
        scores = [place["score"] for place in one["items"]]
        assert scores == sorted(scores, reverse=True)
    trained = load_trained(str(folder))
    first, *others = ranking(all_scores(trained), 8)[3]
    seen = find_seen(trained.experiment.dataset, "train")
    _, blocks = recommend_lists(trained, users=[3], k=7, never=[first], seen=seen)
    assert next(blocks).items[0].tolist() == others
    assert [one["source"] for one in recommend(folder, [99, 3], 2, unknown="popular")] == ["model", "popular"]
    with pytest.raises(DataError, match="not in the catalogue: 99"):
        recommend(folder, [99])
    assert name in models.names()


def test_the_same_command_says_that_it_is_finished(run, monkeypatch, caplog):
    name, folder, result = run
    monkeypatch.setattr(models.find(name), "fit", lambda *_: pytest.fail("fitted again"))
    caplog.set_level("INFO", "absl")
    assert train(config(name), folder) == result
    assert f"{folder} is finished" in caplog.text
    # What means nothing to a fitted model may differ as it may for a learned one.
    assert train(config(name, num_epochs=7, patience=1), folder) == result


def test_a_run_that_ended_before_its_result_is_not_fitted_again(run, monkeypatch):
    name, folder, result = run
    text = (folder / "result.json").read_text()
    (folder / "result.json").unlink()
    monkeypatch.setattr(models.find(name), "fit", lambda *_: pytest.fail("fitted again"))
    assert train(config(name), folder) == result
    assert (folder / "result.json").read_text() == text


def test_other_settings_and_other_data_are_refused(run):
    name, folder, _ = run
    with pytest.raises(CheckpointError, match=r"seed: 0 there, 1 here"):
        train(config(name, seed=1), folder)
    others = make_synthetic(60, 40, 8, 6, seed=1, shown=("image", "text"), modalities=("image", "text"))
    experiment = make_experiment(config(name), others)
    for action in (evaluate_run, train_experiment):
        with pytest.raises(CheckpointError, match="was trained on other data"):
            action(experiment, str(folder))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("without_random")
def test_a_damaged_fit_is_never_used(name, tmp_path):
    train(config(name), tmp_path)
    folder = tmp_path / "checkpoints" / "0" / "params"
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for action in (evaluate, recommend):
        with pytest.raises(CheckpointError, match="is damaged"):
            action(tmp_path)
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        train(config(name), tmp_path)
    assert file.exists()


def test_rows_of_what_is_on_the_host_are_not_cut(tmp_path):
    with pytest.raises(ConfigError, match=r"parallel = 'row': must be \"data\" .*model.name = 'ease'"):
        train(config("ease", parallel="row"), tmp_path / "run")


@pytest.mark.usefixtures("without_random")
def test_the_log_says_the_memory_first(tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    train(config("ease"), tmp_path)
    said = caplog.messages
    before, after = (next(i for i, line in enumerate(said) if line.startswith(word)) for word in ("fitting", "fitted"))
    assert before < after
    assert "EASE takes about 0.0 MB of memory" in said[before]


@pytest.mark.usefixtures("without_random")
def test_settings_of_training_do_no_harm(tmp_path):
    changes = {"learning_rate": 1.0, "num_epochs": 1, "batch_size": 1, "compute_dtype": "bfloat16", "seed": 3}
    plain, other = train(config("ease"), tmp_path / "a"), train(config("ease", **changes), tmp_path / "b")
    assert {k: v for k, v in plain.items() if k[:4] == "test"} == {k: v for k, v in other.items() if k[:4] == "test"}


def test_new_items_are_refused_by_name(run, tmp_path):
    name, folder, _ = run
    trained = load_trained(str(folder))
    words = f"new items: {models.find(name).title} knows an item by its train interactions alone"
    with pytest.raises(ConfigError, match=words):
        read_new_items(tmp_path, trained)
    features = {key: table[:1] for key, table in trained.experiment.dataset.features.items()}
    with pytest.raises(ConfigError, match=words):
        recommend_lists(trained, [3], 5, new_items=NewItems(np.array([100]), None, features))


@pytest.mark.parametrize("run", ["ease"], indirect=True)
def test_the_report_says_which_sections_need_vectors(run):
    for library in ("jinja2", "matplotlib", "sklearn"):
        pytest.importorskip(library)
    name, folder, _ = run
    write_report(load_trained(str(folder)))
    page, title = (folder / "report.html").read_text(), models.find(name).title
    for words in (
        "is fitted in closed form",
        "has no modal-shared and modal-unique features",
        "has no attention",
        "has no vectors of items",
    ):
        assert f"{title} {words}" in page
    assert {path.name for path in (folder / "report").iterdir()} == {"recall.png", "graphs.png"}
    assert "best epoch" not in page


def test_the_export_scores_as_recommend_does(run, tmp_path, monkeypatch, capsys):
    """Its README's program, word for word; then histories that nobody had in train."""
    _, folder, result = run
    trained, out = load_trained(str(folder)), tmp_path / "out"
    export_run(trained, out)
    readme = (out / "README.md").read_text("utf-8")
    assert "{" not in re.sub("```.*?```", "", readme, flags=re.DOTALL)
    assert "There is no index of faiss" in readme
    assert f"| test/recall@10 | {result['test/recall@10']:.4f} |" in readme
    listed = set(re.findall(r"`([a-z_]+\.[a-z]+)`", readme.split("```")[0])) | {"README.md"}
    assert listed == {path.name for path in out.iterdir()}
    assert not [path for path in out.iterdir() if "vectors" in path.name or "faiss" in path.name]

    monkeypatch.chdir(out)
    names: dict = {}
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(program, "README.md", "exec"), names)
    rows = np.asarray(names["rows"])
    expected = ranking(all_scores(trained), 40)
    matrix = train_matrix(trained.experiment.dataset)
    for user in (0, 1):
        left = 40 - int(matrix[user].sum())
        assert rows[user, :left].tolist() == expected[user][:left]
        assert (rows[user, left:] == -1).all()
    assert capsys.readouterr().out

    histories = np.array([[5, -1, 7, -1], [-1, -1, -1, -1], [1, 2, 3, 4]], np.int32)
    matrix = np.zeros((3, 40), np.float32)
    matrix[[0, 0, 2, 2, 2, 2], [5, 7, 1, 2, 3, 4]] = 1
    whole = trained.experiment.model.scores(trained.params, scipy.sparse.csr_array(matrix))
    rows, scores = names["score"].call(histories, names["fit"])
    for row, (items, user_scores) in enumerate(zip(np.asarray(rows), np.asarray(scores), strict=True)):
        items = items[items >= 0]
        assert sorted(items) == np.flatnonzero(matrix[row] == 0).tolist()
        np.testing.assert_allclose(user_scores[: len(items)], whole[row, items], atol=1e-6)
        assert (np.diff(user_scores[: len(items)]) <= 0).all()


@dataclasses.dataclass(frozen=True)
class Rarest(Fitted):
    """A model from outside: the items with the fewest train interactions first."""

    title = "Rarest"

    def memory_bytes(self, dataset):
        return 0

    def fit(self, dataset):
        return {"counts": np.bincount(dataset.train[:, 1], minlength=dataset.num_items).astype(np.float32)}

    def scores(self, params, history):
        return np.broadcast_to(-params["counts"], history.shape)


class Endless(Rarest):
    title = "Endless"

    def fit(self, dataset):
        return {"counts": np.full(dataset.num_items, np.nan, np.float32)}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    models.register("rarest", Rarest)
    models.register("endless", Endless)
    yield
    for name in ("rarest", "endless"):
        del models._registered[name]


@pytest.mark.usefixtures("without_random")
def test_a_fitted_model_from_outside(tmp_path):
    run = tmp_path / "run"
    result = train(tiny_config(model__name="rarest"), run)
    assert evaluate(run)["test/recall@10"] == result["test/recall@10"]
    counts = np.bincount(build_experiment(tiny_config(model__name="rarest")).dataset.train[:, 1], minlength=40)
    scores = np.where(train_matrix(load_trained(str(run)).experiment.dataset) > 0, -np.inf, -counts)
    assert [place["item"] for place in recommend(run, [7], 5, seen="train")[0]["items"]] == ranking(scores, 5)[7]
    with pytest.raises(RearmError, match=r"export: Rarest has no `traced_scores`"):
        export_run(load_trained(str(run)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fit_that_is_not_finite_is_not_saved(tmp_path):
    with pytest.raises(NonFiniteError, match="Endless: counts holds a NaN"):
        train(tiny_config(model__name="endless"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
