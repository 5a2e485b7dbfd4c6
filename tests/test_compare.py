"""The comparison's engine: what it runs, in which order, and what is left when it is killed."""

import dataclasses
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from benchmarks.comparison import evaluations
from rearm_jax.compare import Prune, Row, Spec
from rearm_jax.compare import __main__ as command
from rearm_jax.compare import work as working
from rearm_jax.compare.gather import check_external, gather, parse_external, write_outputs
from rearm_jax.compare.plan import OUTCOME_FILE, Plan
from rearm_jax.compare.processes import in_processes
from rearm_jax.compare.results import read_results
from rearm_jax.compare.spec import load_spec
from rearm_jax.compare.work import Datasets, work
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.evaluation.user_metrics import read_user_metrics
from rearm_jax.experiment import build_experiment
from rearm_jax.recommender.search_space import Choice, LogUniform
from rearm_jax.training import loop, placement, step
from rearm_jax.training.lock import RunLock
from rearm_jax.training.run_folder import saved_config
from tests.conftest import tiny_config

ROOT = Path(__file__).parent.parent
SPACE = {"learning_rate": LogUniform(1e-3, 1e-1), "loss.l2_weight": LogUniform(1e-3, 1e-1)}
SMALL = {"model.embedding_dim": 8, "model.init_scale": 0.1}
TIMES = ("seconds", "seconds_to_best", "seconds_per_epoch", "peak_bytes")


def spec_of(**changes) -> Spec:
    rows = {"popular": Row("popular"), "ease": Row("ease"), "bpr": Row("bpr", SMALL, SPACE)}
    spec = Spec(
        data={"tiny": tiny_config(num_epochs=2)},
        rows=rows,
        reference="ease",
        tries=3,
        seeds=2,
        ks=(5, 10),
        metric="ndcg@10",
        select_by="recall@10",
        timing=False,
    )
    return dataclasses.replace(spec, **changes)


def outcomes(plan: Plan) -> dict:
    """Run folder -> outcome, but for what a clock says."""
    files = sorted(plan.workdir.glob(f"*/*/*/*/{OUTCOME_FILE}"))
    found = {str(file.parent.relative_to(plan.workdir)): json.loads(file.read_text()) for file in files}
    return {name: {k: v for k, v in outcome.items() if k not in TIMES} for name, outcome in found.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Plan:
    plan = Plan(spec_of(), tmp_path_factory.mktemp("finished"))
    assert work(plan) is None
    return plan


def test_every_setting_is_tried_and_the_best_runs_with_each_seed(finished):
    found = outcomes(finished)
    search = {"popular": 0, "ease": 3, "bpr": 3}  # popular has nothing to search
    finals = {"popular": 1, "ease": 1, "bpr": 2}  # a closed form is the same with every seed
    for row in search:
        tried = {name: found[name]["valid"] for name in found if name.startswith(f"search/tiny/{row}/")}
        assert len(tried) == search[row]
        best = max(sorted(tried), key=tried.get)[-3:] if tried else "000"
        assert [name for name in found if name.startswith(f"final/tiny/{row}/")] == [
            f"final/tiny/{row}/{best}-{seed}" for seed in range(finals[row])
        ]


def test_progress(finished, tmp_path):
    assert finished.progress() == (10, 10)  # settings and seeds as above
    assert Plan(finished.spec, tmp_path).progress() == (0, 10)


def test_test_is_never_scored_while_settings_are_searched(finished):
    for folder in finished.workdir.glob("search/*/*/*"):
        assert not saved_config(folder).evaluation.test
        assert not [name for name in json.loads((folder / "result.json").read_text()) if name.startswith("test/")]
        assert "metrics" not in json.loads((folder / OUTCOME_FILE).read_text())
    for folder in finished.workdir.glob("final/*/*/*"):
        assert saved_config(folder).evaluation.test


def test_what_is_developed_is_compared_on_validation(tmp_path):
    rows = {"popular": Row("popular"), "ease": Row("ease", {"model.l2": 3.0})}
    plan = Plan(spec_of(rows=rows, tries=1, split="valid"), tmp_path)
    work(plan)
    gather(plan, Datasets(plan), [])
    write_outputs([tmp_path], tmp_path)
    settings = dict(read_results([tmp_path]).runs.select("row", "settings").rows())
    assert {row: json.loads(text) for row, text in settings.items()} == {"popular": {}, "ease": {"model.l2": 3.0}}
    assert set(read_results([tmp_path]).runs["device"]) == {jax.devices()[0].device_kind}
    assert not (tmp_path / "search").exists()  # one setting: there is nothing to choose
    for folder in tmp_path.glob("final/*/*/*"):
        result = json.loads((folder / "result.json").read_text())
        assert not [name for name in result if name.startswith("test/")]
        users = read_user_metrics(folder / "users.parquet")
        np.testing.assert_allclose(np.nanmean(users["ndcg@10"], dtype=np.float64), result["valid/ndcg@10"], atol=1e-7)
    assert "on validation; settings were" in (tmp_path / "table.md").read_text("utf-8")
    assert " on test" not in (tmp_path / "table.md").read_text("utf-8")


def test_a_residual_beside_what_another_row_trained(tmp_path, monkeypatch, caplog):
    both = {"residual.model": "itemknn"}
    space = {"residual.shrink": LogUniform(1.0, 100.0)}
    rows = {"bpr": Row("bpr", SMALL, SPACE), "bpr + knn": Row("bpr", both, space, trained="bpr")}
    plan = Plan(spec_of(rows=rows, reference="bpr"), tmp_path / "plan")
    assert plan.progress() == (0, 10)
    trained = []
    train_epoch = loop._run_epoch
    monkeypatch.setattr(loop, "_run_epoch", lambda *args: trained.append(args) or train_epoch(*args))
    assert work(plan) is None
    assert len(trained) == 2 * (3 + 2)  # the epochs of the row without
    assert plan.progress() == (10, 10)
    for task, alone in zip(plan.finals("tiny", "bpr + knn"), plan.finals("tiny", "bpr"), strict=True):
        found = json.loads((plan.folder(task) / "result.json").read_text())
        config = plan.config(task)
        assert (config.seed, config.learning_rate) == (alone.seed, plan.config(alone).learning_rate)
        assert config.residual.shrink == plan.best("tiny", "bpr + knn").tried.get("residual.shrink", 100.0)
        expected, _ = loop.train(build_experiment(config), str(tmp_path / str(task.number)))
        assert {k: found[k] for k in found if k not in TIMES} == {
            k: expected[k] for k in expected if k not in TIMES
        } | {"steps_per_second": found["steps_per_second"]}
    gather(plan, Datasets(plan), [])
    write_outputs([plan.workdir], plan.workdir)
    runs = read_results([plan.workdir]).runs
    for seeds, wanted, left_out in ((3, 2, 0), (1, 1, 2)):
        other = Plan(dataclasses.replace(plan.spec, seeds=seeds), plan.workdir)
        assert len(other.finals("tiny", "bpr + knn")) == wanted  # those of the seeds that there are
        caplog.clear()
        gather(other, Datasets(other), [])
        said = f"more seeds or settings than the spec has are left out of the tables: {left_out}, the first is "
        assert (said in caplog.text) == bool(left_out)
    settings = json.loads(runs.filter((pl.col("row") == "bpr + knn") & (pl.col("kind") == "final"))["settings"][0])
    assert settings.items() >= (SMALL | both).items()
    assert len(runs.filter(pl.col("row") == "bpr + knn")) == 3 + 2

    # Another setting is the best one now, as may be where more are tried: what stood beside the old one is of no use.
    better = next(task for task in plan.search("tiny", "bpr") if task.number != plan.best("tiny", "bpr").number)
    file = plan.folder(better) / OUTCOME_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"valid": 1.0}))
    again = r"bpr \+ knn stands beside what bpr trained(.|\n)*remove .*search.*bpr \+ knn and .*final.*bpr \+ knn"
    work(plan)
    with pytest.raises(CheckpointError, match=again):
        gather(plan, Datasets(plan), [])
    shutil.rmtree(plan.workdir / "search/tiny/bpr + knn/002")
    with pytest.raises(CheckpointError, match=again):
        work(plan)
    for kind in ("search", "final"):
        shutil.rmtree(plan.workdir / kind / "tiny" / "bpr + knn")
    work(plan)
    gather(plan, Datasets(plan), [])
    settings = read_results([plan.workdir]).runs.filter(kind="final")["settings"]
    assert {json.loads(text).get("learning_rate") for text in settings} == {better.tried.get("learning_rate")}


def test_a_start_takes_the_place_of_the_defaults():
    spec = spec_of(rows={"bpr": Row("bpr", SMALL, SPACE), "from": Row("bpr", SMALL, SPACE, {"learning_rate": 0.5})})
    spec = dataclasses.replace(spec, reference="bpr")
    first, *others = spec.settings_tried("tiny", "from")
    assert first == {"learning_rate": 0.5}
    assert [{}, *others] == spec.settings_tried("tiny", "bpr")
    beyond = Row("bpr", SMALL, SPACE, {"model.embedding_dim": 4})
    with pytest.raises(ConfigError, match=r"row from: start has model\.embedding_dim, and its space has not"):
        dataclasses.replace(spec, rows=spec.rows | {"from": beyond}).check()


@pytest.mark.parametrize("name", ["evaluation.test", "seed", "evaluation.ks", "data.train_on", "data.synthetic.seed"])
def test_no_spec_can_ask_for_what_the_comparison_sets(name):
    for row in (Row("bpr", {name: True}), Row("bpr", space={name: Choice((1, 2))})):
        with pytest.raises(ConfigError, match=f"row bpr: {name} is set by the comparison"):
            spec_of(rows={"bpr": row}, reference="bpr").check()


def test_rows_of_other_budgets_or_data_do_not_join(finished, tmp_path):
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    plan = Plan(finished.spec, tmp_path)
    plan.begin(Datasets(plan))
    for changes, message in [
        ({"data": {"tiny": tiny_config(num_epochs=6)}}, "tiny: num_epochs was 2 when its runs were made, and is 6 now"),
        ({"data": {"tiny": tiny_config(num_epochs=2, patience=1)}}, "tiny: patience was 1000"),
        ({"prune": Prune(1, 0.5)}, r"prune was None when its runs were made, and is \[1, 0.5\] now"),
        ({"split": "valid"}, "split was test"),
    ]:
        other = Plan(spec_of(**changes), tmp_path)
        with pytest.raises(ConfigError, match=message):
            other.begin(Datasets(other))
    other_data = Datasets(Plan(spec_of(data={"tiny": tiny_config(num_epochs=2, data__synthetic__seed=5)}), tmp_path))
    with pytest.raises(ConfigError, match="tiny: content_hash was"):
        plan.begin(other_data)


def test_data_on_which_nothing_can_be_compared_are_refused_before_any_run(finished, tmp_path):
    dataset = Datasets(finished)("tiny")
    plan = Plan(finished.spec, tmp_path / "w")
    for split in ("valid", "test"):
        for rows in (0, 1):
            with pytest.raises(DataError, match=f"data set tiny: fewer than two users have a {split} interaction"):
                plan.begin(lambda name: dataclasses.replace(dataset, **{split: dataset.test[:rows]}))  # noqa: B023
    with pytest.raises(ConfigError, match="data set tiny has 40 items"):
        Plan(spec_of(ks=(10, 41)), tmp_path / "w").begin(lambda name: dataset)
    assert not (tmp_path / "w").exists()


DAMAGED = ("[]", "{", "null", '{"status": "done"}', '{"status": "done", "valid": "1"}', '{"valid": 1}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_outcome_is_named(finished, tmp_path, text):
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    file = next(tmp_path.glob(f"search/*/bpr/*/{OUTCOME_FILE}"))
    file.write_text(text)
    with pytest.raises(DataError, match="the run is made anew"):
        work(Plan(finished.spec, tmp_path))


def test_metrics_of_users_that_are_not_those_of_the_run_are_refused(finished, tmp_path):
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    plan = Plan(finished.spec, tmp_path)
    file = next(tmp_path.glob("final/*/bpr/*/users.parquet"))
    pl.read_parquet(file).reverse().write_parquet(file)
    with pytest.raises(DataError, match="not what the run wrote"):
        gather(plan, Datasets(plan), [])


def test_only_final_runs_keep_checkpoints(finished, tmp_path):
    assert not list(finished.workdir.glob("search/*/*/*/checkpoints"))
    assert len(list(finished.workdir.glob("final/*/*/*/checkpoints"))) == 4


def test_metrics_of_users_are_those_of_the_run(finished):
    folders = list(finished.workdir.glob("final/*/*/*"))
    assert folders
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        users = read_user_metrics(folder / "users.parquet")
        assert set(users) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
        for name, values in users.items():
            assert len(values) == 60
            np.testing.assert_allclose(np.nanmean(values, dtype=np.float64), result[f"test/{name}"], atol=1e-7)


def test_seeds_of_rows_differ_and_a_model_has_one_list(tmp_path):
    spec = spec_of(rows={"a": Row("bpr", SMALL, SPACE), "b": Row("bpr", SMALL, SPACE)}, reference="a")
    assert spec.settings_tried("tiny", "a") == spec.settings_tried("tiny", "b")
    assert spec.settings_tried("tiny", "a")[0] == {}
    assert len({spec.final_seed("tiny", row, number) for row in "ab" for number in range(5)}) == 10
    longer = dataclasses.replace(spec, tries=7)
    assert longer.settings_tried("tiny", "a")[:3] == spec.settings_tried("tiny", "a")


def test_a_killed_comparison_ends_as_if_it_had_not_been(finished, tmp_path, monkeypatch):
    plan, calls = Plan(finished.spec, tmp_path), []

    def killed(experiment, workdir, lock):
        calls.append(workdir)
        if len(calls) % 3 == 0:
            raise KeyboardInterrupt
        return train(experiment, workdir, lock)

    train = working.train
    monkeypatch.setattr(working, "train", killed)
    interrupts = 0
    while True:
        try:
            work(plan)
            break
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts >= 4
    assert outcomes(plan) == outcomes(finished)


def test_a_run_that_another_process_holds_is_left_to_it(finished, tmp_path):
    plan = Plan(finished.spec, tmp_path)
    first = next(plan.open_tasks())
    waits = []

    def end_the_other(seconds):
        waits.append(seconds)
        lock.__exit__(None, None, None)

    lock = RunLock(plan.folder(first))
    lock.__enter__()
    # The others are worked at; then this one is waited for, and when it is free, done.
    work(plan, sleep=end_the_other)
    assert len(waits) == 1
    assert outcomes(plan) == outcomes(finished)


def test_settings_and_seeds_can_be_added_later(finished, tmp_path):
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    before = outcomes(finished)
    plan = Plan(dataclasses.replace(finished.spec, tries=4, seeds=3), tmp_path)
    plan.begin(Datasets(plan))
    work(plan)
    after = outcomes(plan)
    assert {name: after[name] for name in before} == before
    assert "search/tiny/bpr/003" in after
    best = plan.best("tiny", "bpr").setting
    assert f"final/tiny/bpr/{best:03}-2" in after


def test_a_workdir_of_another_spec_or_numerics_is_refused(finished, tmp_path):
    other = dataclasses.replace(finished.spec, rows={**finished.spec.rows, "ease": Row("ease", {"model.l2": 3.0})})
    other.check()
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        Plan(other, finished.workdir).begin(Datasets(finished))
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    file = next(tmp_path.glob(f"search/*/ease/*/{OUTCOME_FILE}"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"numerics": 1}))
    with pytest.raises(ConfigError, match="was run by numerics version 1"):
        work(Plan(finished.spec, tmp_path))


def test_a_setting_that_cannot_be_run_is_told_and_the_others_go_on(tmp_path):
    space = {"model.neighbours": Choice((3, 1000))}  # there are 40 items
    spec = spec_of(rows={"itemknn": Row("itemknn", {}, space)}, reference="itemknn", tries=8)
    plan = Plan(spec, tmp_path)
    work(plan)
    found = outcomes(plan)
    failed = [name for name, outcome in found.items() if outcome["status"] == "failed"]
    tried = spec.settings_tried("tiny", "itemknn")
    assert [int(name[-3:]) for name in failed] == [
        n for n, one in enumerate(tried) if one.get("model.neighbours") == 1000
    ]
    assert 0 < len(failed) < 8
    assert all("too large, the data has 40 items" in found[name]["error"] for name in failed)
    gather(plan, Datasets(plan), [])
    runs = read_results([tmp_path]).runs
    assert len(runs.filter(pl.col("status") == "failed")) == len(failed)


def test_pruning_keeps_the_best_share(tmp_path):
    spec = spec_of(rows={"bpr": Row("bpr", SMALL, SPACE)}, reference="bpr", tries=4, seeds=1, prune=Prune(1, 0.5))
    plan = Plan(spec, tmp_path)
    work(plan)
    found = {name: outcome for name, outcome in outcomes(plan).items() if name.startswith("search")}
    rungs = {name: json.loads((tmp_path / name / "rung.json").read_text())["valid"] for name in found}
    going_on = sorted(rungs, key=lambda name: (-rungs[name], name))[:2]
    assert sorted(name for name in found if found[name]["status"] == "done") == sorted(going_on)
    assert all(found[name]["epochs"] == 2 for name in going_on)
    assert [found[name]["status"] for name in found if name not in going_on] == ["pruned"] * 2
    assert not list(tmp_path.glob("search/*/*/*/checkpoints"))


def test_runs_share_programs_and_give_the_bits_of_a_run_alone(finished, tmp_path, monkeypatch):
    traced = []
    real = step.train_steps

    def counted(*args):
        traced.append(1)
        return real(*args)

    monkeypatch.setattr(step, "train_steps", counted)
    rows = {"bpr": Row("bpr", SMALL | {"model.embedding_dim": 9}, SPACE)}
    spec = spec_of(rows=rows, reference="bpr")
    together = Plan(spec, tmp_path / "together")
    work(together)
    assert len(traced) == 1  # three settings and two seeds
    assert len({json.dumps(one) for one in spec.settings_tried("tiny", "bpr")}) == 3

    alone = Plan(spec, tmp_path / "alone")
    task = together.search("tiny", "bpr")[2]
    placement.forget_programs()
    with RunLock(alone.folder(task)) as lock:
        working.run(alone, task, Datasets(alone), lock)
    assert alone.outcome(task)["valid"] == together.outcome(task)["valid"]
    found = [evaluations(plan.folder(task) / "metrics.jsonl") for plan in (alone, together)]
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_gathered_results_make_tables_with_lists_from_outside(finished, tmp_path, caplog):
    dataset = Datasets(finished)("tiny")
    seen = {tuple(pair) for pair in dataset.train.tolist()}
    places = []
    for user in np.unique(dataset.test[:, 0]).tolist():
        free = [item for item in range(dataset.num_items) if (user, item) not in seen][:10]
        places += [(str(user), str(item), rank) for rank, item in enumerate(free, 1)]
    lists = tmp_path / "lists.parquet"
    pl.DataFrame(places, schema={"user": pl.String, "item": pl.String, "rank": pl.Int64}, orient="row").write_parquet(
        lists
    )
    plan = Plan(finished.spec, tmp_path)
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    gather(plan, Datasets(plan), parse_external(plan, [f"others={lists}"]))
    write_outputs([tmp_path], tmp_path)
    results = read_results([tmp_path])
    assert results.about["rows"] == ["popular", "ease", "bpr", "others"]
    positives = {
        user: set(dataset.test[dataset.test[:, 0] == user, 1].tolist()) for user in np.unique(dataset.test[:, 0])
    }
    recall = {}
    for user, item, _ in places:
        recall[int(user)] = recall.get(int(user), 0) + (int(item) in positives[int(user)]) / len(positives[int(user)])
    np.testing.assert_allclose(results.users["tiny"]["others"]["recall@10"][0], list(recall.values()), rtol=1e-6)
    for name in ("table.md", "table.tex", "report.html"):
        assert "others" in (tmp_path / name).read_text("utf-8")
    assert "left out" not in caplog.text
    gather(plan, Datasets(plan), [])
    assert "the row others is left out of the tables now" in caplog.text


@pytest.mark.parametrize("word", ["x", "=f", "x=", "x@nowhere=f", "ease=f", "again=f"])
def test_a_wrong_external_is_refused(finished, word):
    with pytest.raises(ConfigError, match="--external"):
        parse_external(finished, ["again=f", word])
    with pytest.raises(DataError, match=r"missing\.parquet"):  # before any run
        check_external(finished, Datasets(finished), parse_external(finished, ["x=missing.parquet"]))


SPEC_FILE = """
from rearm_jax import default
from rearm_jax.compare import Row, Spec
from rearm_jax.settings import *
def get_spec():
    config = default.get_config()
    config.data.source = "synthetic"
    return Spec(data={"d": config}, rows={%s}, reference=%r, tries=1, seeds=1)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("get_spec = 3", "TypeError: 'int' object is not callable"),
        ("", "must define get_spec"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def get_spec(): return 3", "must return a rearm_jax.compare.Spec, not int"),
        (SPEC_FILE % ('"a": Row("eas")', "a"), "there is no model 'eas'"),
        (SPEC_FILE % ('"a": Row("ease")', "b"), "reference = 'b': must be one of the rows, a"),
        (SPEC_FILE % ('"a/b": Row("ease")', "a/b"), "names are those of folders"),
        (SPEC_FILE % ('"a": Row("ease", {"loss.l2_weight": 1.0})', "a"), "row a on d: loss.l2_weight"),
        (SPEC_FILE % ('"a": Row("bpr", {"learning_rate": -1.0})', "a"), "row a on d: learning_rate = -1.0"),
        (SPEC_FILE % ('"a": Row("bpr", {"residual.model": "bpr"})', "a"), "residual.model = 'bpr'"),
        (SPEC_FILE % ('"a": Row("ease", {"model.name": "bpr"})', "a"), "which model it is, is said by Row(model)"),
        (SPEC_FILE % ('"a": Row("ease"), "A": Row("ease")', "a"), "names must differ by more than capitals"),
        (SPEC_FILE % ('"a": "ease"', "a"), "rows['a'] = 'ease': must be a name and a Row"),
        (SPEC_FILE % ('"a": Row("ease", space=[])', "a"), "must be a name and a Row"),
        (SPEC_FILE % ('"a": Row("ease", space={"model.l2": (1, 2)})', "a"), "Uniform, LogUniform or Choice"),
        (
            SPEC_FILE % ('"a": Row("bpr", {"residual.model": "ease"}, trained="b")', "a"),
            "must be the name of another row",
        ),
        (SPEC_FILE % ('"b": Row("bpr"), "a": Row("bpr", trained="b")', "b"), "must have a residual.model"),
        (
            SPEC_FILE
            % ('"b": Row("bpr"), "a": Row("bpr", {"residual.model": "ease", "learning_rate": 1.0}, trained="b")', "b"),
            "learning_rate is that row's",
        ),
        (SPEC_FILE % ('"a": Row("bpr", trained=3)', "a"), "must be a name and a Row"),
        ((SPEC_FILE % ('"a": Row("ease")', "a")).replace("tries=1", "tries='1'"), "tries = '1'"),
        ((SPEC_FILE % ('"a": Row("ease")', "a")).replace("tries=1", "tries=1, metric='ndcg'"), "metric = 'ndcg'"),
        ((SPEC_FILE % ('"a": Row("ease")', "a")).replace('{"d": config}', '{"a+b": config}'), "data set 'a+b'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def get_spec(): return {}['x']", "KeyError: 'x'"),
    ],
)
def test_a_wrong_spec_is_explained(tmp_path, text, message):
    file = tmp_path / "spec.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_spec(file)


def test_the_specs_that_are_shown_are_possible():
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/compare.md").read_text("utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(block, "docs/compare.md", "exec"), names)
    names["get_spec"]().check()
    files = [file for file in ROOT.glob("configs/compare/*.py") if file.name != "__init__.py"]
    assert files
    for file in files:
        load_spec(file)


def test_mistakes_on_the_command_line_are_explained(tmp_path, capsys):
    spec = tmp_path / "spec.py"
    spec.write_text(SPEC_FILE % ('"a": Row("ease")', "a"))
    for words, message in [
        (["--workdir", "x"], "needs --spec"),
        (["--workdir", "x", "--spec", "missing.py"], "there is no such file"),
        (["--workdir", "x", "--spec", str(spec), "--workers", "-1"], "--workers=-1: must be at least 0"),
        (["--workdir", "x", "--workdir", "y", "--spec", str(spec)], "one --workdir"),
        (["--mode", "table", "--workdir", str(tmp_path)], "compare.json"),
        (["--mode", "table", "--workdir", "x", "--dry_run"], "--dry_run says nothing with --mode=table"),
        (["--mode", "table", "--workdir", "x", "--workers", "2"], "--workers says nothing with --mode=table"),
        (["--mode", "table", "--workdir", "x", "--external", "a=b"], "--external says nothing with --mode=table"),
        (["--workdir", "x", "--spec", str(spec), "--worker", "--workers", "2"], "--workers says nothing with --worker"),
        (["--workdir", "x", "--spec", str(spec), "--worker", "--dry_run"], "--dry_run says nothing with --worker"),
        (["--workdir", "x", "--spec", str(spec), "--worker", "--external", "a=b"], "--external says nothing with"),
        (["--workdir", "x", "--spec", str(spec), "--timing", "a/b", "--worker"], "--worker says nothing with --timing"),
        (["--mode", "table", "--workdir", str(tmp_path), "--spec", str(spec)], "--mode=table needs none"),
    ]:
        assert command.main(words) == 1
        assert message in capsys.readouterr().err


def test_without_workers_the_tables_have_what_there_is(finished, tmp_path, monkeypatch, caplog):
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    [missing] = tmp_path.glob("final/tiny/bpr/*-1")
    shutil.rmtree(missing)
    words = ["--spec", "-", "--workdir", str(tmp_path), "--workers", "0"]
    monkeypatch.setattr(command, "load_spec", lambda path: spec_of())
    monkeypatch.setattr(sys, "argv", ["rearm_jax.compare", *words])
    assert command.main(words) == 0
    assert "not at its end (9 of 10 runs" in caplog.text
    assert not missing.exists()
    runs = read_results([tmp_path]).runs.filter(kind="final")
    assert sorted(runs.select("row", "number").rows()) == [("bpr", 0), ("ease", 0), ("popular", 0)]
    made_by = json.loads((tmp_path / "compare.json").read_text())["command"]
    assert made_by == f"python -m rearm_jax.compare --spec - --workdir {tmp_path}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": None}, "metrics is None"),
        ({"slices": {}}, "slices is {}"),
        ({"epochs": "two"}, "epochs is 'two'"),
        ({"device": 3}, "device is 3"),
    ],
)
def test_an_outcome_that_lacks_a_part_is_named(finished, tmp_path, changes, message):
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    [file] = tmp_path.glob(f"final/tiny/ease/*/{OUTCOME_FILE}")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    plan = Plan(finished.spec, tmp_path)
    with pytest.raises(DataError, match=rf"{re.escape(str(file))}: {message}. Remove .*: the run is made anew"):
        gather(plan, Datasets(plan), [])


def test_the_command_in_the_tables_compares_on_any_machine(finished, tmp_path, monkeypatch):
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    plan = Plan(finished.spec, tmp_path)
    for words in (["--workers", "2", "--workdir", "a --workers 3 b"], ["--workdir", "a --workers 3 b", "--workers=0"]):
        monkeypatch.setattr(sys, "argv", ["rearm_jax.compare", *words])
        gather(plan, Datasets(plan), [])
        said = json.loads((tmp_path / "compare.json").read_text())["command"]
        assert said == "python -m rearm_jax.compare --workdir 'a --workers 3 b'"


def test_dry_run_says_what_it_would_do_and_does_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "load_spec", lambda path: spec_of())
    assert command.main(["--spec", "-", "--workdir", str(tmp_path / "w"), "--dry_run", "--workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert "tiny, bpr: 3 + 2 + 0;" in printed
    assert "tiny, ease: 3 + 1 + 0;" in printed
    assert not (tmp_path / "w").exists()


def test_processes_share_the_cores_and_pass_their_codes_on(tmp_path):
    show = (
        f"import os, sys; open(os.path.join({str(tmp_path)!r}, sys.argv[1]), 'w').write(repr(os.sched_getaffinity(0)))"
    )
    assert in_processes([[sys.executable, "-c", show, name] for name in "ab"]) == 0
    cores = [cores_in(tmp_path / name) for name in "ab"]
    if len(os.sched_getaffinity(0)) >= 2:
        assert not cores[0] & cores[1]
        assert cores[0] | cores[1] == os.sched_getaffinity(0)
    code = "import sys; sys.exit(int(sys.argv[1]))"
    assert in_processes([[sys.executable, "-c", code, str(number)] for number in (0, 3, 0)]) == 3
    assert in_processes([[sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]]) == 70


@pytest.mark.parametrize("given", [None, "true"])
def test_processes_do_not_take_a_gpu_from_each_other(tmp_path, monkeypatch, given):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    show = f"import os, sys; open(sys.argv[1], 'w').write(os.environ.get({name!r}, 'not set'))"
    files = [tmp_path / word for word in ("first", "second", "alone")]
    commands = [[sys.executable, "-c", show, str(file)] for file in files]
    assert in_processes(commands[:2]) == in_processes(commands[2:]) == 0
    several = given or "false"
    assert [file.read_text() for file in files] == [several, several, given or "not set"]


def cores_in(path) -> set[int]:
    return {int(word) for word in path.read_text().strip("{}").split(",")}


def test_an_interval_is_of_the_space():
    spec = spec_of()
    for tried in spec.settings_tried("tiny", "bpr")[1:]:
        assert tried.keys() == SPACE.keys()
        assert all(math.isfinite(value) and 1e-3 <= value <= 1e-1 for value in tried.values())
