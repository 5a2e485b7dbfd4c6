"""A model from outside, as a person would write one: defined here, registered, and used like those that come along."""

import json

import flax.linen as nn
import numpy as np
import pytest

import rearm_jax
from rearm_jax import models
from rearm_jax.config import check_config
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import build_experiment
from rearm_jax.inference.export import export_run
from rearm_jax.inference.new_items import represent_new_items
from rearm_jax.inference.trained import load_trained
from rearm_jax.parallel.rows import ALL
from rearm_jax.recommender.contract import Representations
from rearm_jax.recommender.fitted import Fitted
from rearm_jax.recommender.objectives import bpr_share
from rearm_jax.settings import Setting, integer
from tests.conftest import tiny_config
from tests.test_loop import assert_same_runs, read_lines

NAME, D, EPOCHS = "matrix_factorisation", 8, 4


class MatrixFactorisation(rearm_jax.Recommender):
    """BPR-MF (Rendle et al., UAI 2009)."""

    title = "BPR-MF"
    settings = {"model.width": Setting(D, integer(1), "of the embeddings")}

    width: int

    @classmethod
    def relations(cls, dataset, config):
        return {}

    @nn.compact
    def __call__(self, inputs, users=ALL, items=ALL, train=False):
        init = nn.initializers.normal(0.1)
        user_ids = self.param("user_id_table", init, (users.num_held(self.num_users), self.width))
        item_ids = self.param("item_id_table", init, (items.num_held(self.num_items), self.width))
        return Representations(users.take(user_ids), items.take(item_ids))

    def losses(self, out, batch, shard):
        return {"pairs": bpr_share(out.users, out.items, batch, shard)}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    rearm_jax.register(NAME, MatrixFactorisation)
    yield
    del models._registered[NAME]  # a process that registers a model keeps it; the other tests shall not see it


def config(**changes):
    return tiny_config(model__name=NAME, learning_rate=1e-2, **{"num_epochs": EPOCHS} | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run folder, result) of all epochs."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, rearm_jax.train(config(), workdir)


def test_it_trains(run):
    workdir, result = run
    lines = read_lines(workdir)
    assert [set(line) & {"train/loss", "train/pairs", "train/bpr"} for line in lines] == [
        {"train/loss", "train/pairs"}
    ] * EPOCHS
    losses = [line["train/pairs"] for line in lines]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(np.log(2), rel=0.05)
    assert result["model"] == NAME
    assert json.loads((workdir / "config.json").read_text())["model"] == {"name": NAME, "width": D}


def test_it_resumes_to_the_last_bit(run, tmp_path):
    rearm_jax.train(config(num_epochs=1), tmp_path)
    rearm_jax.train(config(), tmp_path)
    assert_same_runs(build_experiment(config()), run[0], tmp_path)


def test_it_is_trained_by_row_to_the_same_numbers(run, tmp_path):
    result = rearm_jax.train(config(parallel="row"), tmp_path)
    names = [name for name in result if name.startswith(("valid/", "test/"))]
    assert {name: result[name] for name in names} == pytest.approx({name: run[1][name] for name in names})


def test_it_is_evaluated(run):
    workdir, result = run
    metrics = rearm_jax.evaluate(workdir)
    assert "test/recall@10" in metrics
    assert metrics == {name: result[name] for name in metrics}


def test_it_recommends(run):
    workdir, _ = run
    trained = load_trained(str(workdir))
    scores = np.asarray(trained.params["user_id_table"]) @ np.asarray(trained.params["item_id_table"]).T
    scores[tuple(trained.experiment.dataset.train.T)] = -np.inf
    lists = rearm_jax.recommend(workdir, users=[3, 17], k=5, seen="train")
    for user, found in zip((3, 17), lists, strict=True):
        assert [place["item"] for place in found["items"]] == np.argsort(-scores[user])[:5].tolist()


def test_it_is_exported(run, tmp_path):
    workdir, _ = run
    trained = load_trained(str(workdir))
    export_run(trained, tmp_path / "out")
    for side in ("user", "item"):
        vectors = np.load(tmp_path / "out" / f"{side}_vectors.npy", allow_pickle=False)
        np.testing.assert_array_equal(vectors, trained.params[f"{side}_id_table"])


def test_it_represents_new_items(run):
    """The features of item 7 come again: its neighbours are those of 7, of which it is the nearest itself."""
    trained = load_trained(str(run[0]))
    features = {name: table[7:8] for name, table in trained.experiment.dataset.features.items()}
    found = represent_new_items(trained, features)
    assert found.shape == (1, D)
    assert np.isfinite(found).all()


def test_it_builds_no_graph(tmp_path, built_graphs):
    experiment = build_experiment(config(graph__cache_dir=str(tmp_path)))
    assert (experiment.inputs, built_graphs(), list(tmp_path.iterdir())) == ({}, [], [])


def test_its_settings_are_checked():
    wrong = config().unlock()
    wrong.model.width = 0
    with pytest.raises(ConfigError, match=r"model.width = 0: must be an integer from 1"):
        check_config(wrong)
    wrong = config().unlock()
    wrong.model.rank = 3
    with pytest.raises(ConfigError, match=r"model.rank: is a setting of rearm, and model.name is matrix_factorisation"):
        check_config(wrong)


def test_a_run_of_a_model_that_is_not_known_here_says_so(run, monkeypatch):
    monkeypatch.delitem(models._registered, NAME)
    with pytest.raises(ConfigError) as caught:
        rearm_jax.evaluate(run[0])
    assert f"model.name = '{NAME}': must be the name of a model" in str(caught.value)
    assert "rearm_jax.register has made known" in str(caught.value)
    assert "model.width" not in str(caught.value)


def test_a_model_in_closed_form_needs_no_more_than_fit_and_scores(tmp_path, monkeypatch):
    class Oldest(Fitted):
        title = "Lowest number first"

        def fit(self, dataset):
            return {"worth": -np.arange(dataset.num_items, dtype=np.float32)}

        def scores(self, params, history):
            return np.broadcast_to(params["worth"], history.shape)

    monkeypatch.setitem(models._registered, "oldest", Oldest)
    rearm_jax.train(tiny_config(model__name="oldest"), tmp_path, progress=False)
    [user] = rearm_jax.load(tmp_path).recommend([3], k=2, seen="none")
    assert [place["item"] for place in user["items"]] == [0, 1]


@pytest.mark.parametrize(
    ("name", "message"), [("lightgcn", "there is a model 'lightgcn' already"), ("two words", "one word of letters")]
)
def test_a_name_that_is_taken_or_no_word_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        rearm_jax.register(name, MatrixFactorisation)
    rearm_jax.register(NAME, MatrixFactorisation)  # once more is no mistake
