"""A warm start: rows by outside ids against dictionaries, what is refused, and runs that go on as all runs do."""

import json

import jax
import numpy as np
import pytest

from rearm_jax import train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import CheckpointError, ConfigError, DataError
from rearm_jax.experiment import build_experiment
from rearm_jax.inference.trained import load_trained
from rearm_jax.training import loop
from rearm_jax.training import result as results
from rearm_jax.training.placement import place
from rearm_jax.training.warm_start import warm_state
from tests.conftest import tiny_config

GONE, NEW = 5, 7  # users and items without a row there, and without one here


@pytest.fixture(autouse=True, scope="module")
def _without_random():
    """Compiling that yardstick takes longer than all else, and nobody looks at it here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "random_metrics", lambda *_, **__: {})
        yield


def write(folder, user_ids, item_ids, train_pairs, held_out):
    """A data folder in which users and items have the numbers that their ids have in the lists. Pairs are of ids."""
    number = [{one: n for n, one in enumerate(ids)} for ids in (user_ids, item_ids)]
    folder.mkdir()
    for split, pairs in (("train", train_pairs), ("valid", held_out[::2]), ("test", held_out[1::2])):
        np.save(folder / f"{split}.npy", [(number[0][user], number[1][item]) for user, item in pairs])
    np.save(folder / "user_ids.npy", user_ids)
    np.save(folder / "item_ids.npy", item_ids)
    rng = np.random.default_rng(0)
    for name in ("image", "text"):
        np.save(folder / f"{name}_feat.npy", rng.normal(size=(len(item_ids), 6)).astype(np.float32))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Data of two weeks: in the second some users and items are gone, others new, and all numbers are others."""
    folder = tmp_path_factory.mktemp("weeks")
    data, rng = make_synthetic(60, 40, 8, 6, 0, ("image", "text")), np.random.default_rng(1)
    pairs = [[(f"u{u}", f"i{i}") for u, i in split.tolist()] for split in (data.train, data.valid, data.test)]
    users, items = [f"u{n}" for n in range(60)], [f"i{n}" for n in range(40)]

    def shared(rows):
        return [(u, i) for u, i in rows if int(u[1:]) < 60 - GONE and int(i[1:]) < 40 - GONE]

    write(folder / "one", users, items, pairs[0], pairs[1])
    users = rng.permutation(users[:-GONE] + [f"new{n}" for n in range(NEW)])
    items = rng.permutation(items[:-GONE] + [f"new{n}" for n in range(NEW)])
    more = [(f"new{n}", f"i{m}") for n in range(NEW) for m in range(5)] + [(f"u{n}", f"new{n}") for n in range(NEW)]
    write(folder / "two", users, items, shared(pairs[0] + pairs[1]) + more, shared(pairs[2]))
    # What the first run has seen is held out here:
    leaked = shared(pairs[0])[:9]
    write(folder / "leaks", users, items, shared(pairs[1]) + more, shared(pairs[2]) + leaked)
    train(config(folder / "one"), folder / "run")
    return folder


def config(root, **changes):
    model = changes.pop("model__name", "bpr")
    return tiny_config(model__name=model, data__source="folder", data__root=str(root), **changes)


def warm(folders, data="two", **changes):
    return config(folders / data, init_from=str(folders / "run"), **changes)


def rows_by_id(table, ids):
    return dict(zip(ids.tolist(), np.asarray(table), strict=True))


@pytest.mark.parametrize("keeps_optimizer", [False, True])
def test_rows_go_by_outside_ids(folders, caplog, keeps_optimizer):
    caplog.set_level("INFO", "absl")
    experiment = build_experiment(warm(folders, init_optimizer=keeps_optimizer))
    state = jax.device_get(warm_state(place(experiment)))
    cold = jax.device_get(place(experiment).state())
    old, old_ids = load_trained(str(folders / "run")), build_experiment(config(folders / "one")).dataset.labels
    for kind in ("user", "item"):
        here = getattr(experiment.dataset.labels, f"{kind}_ids")
        found = rows_by_id(state.params[f"{kind}_id_table"], here)
        before = rows_by_id(old.params[f"{kind}_id_table"], getattr(old_ids, f"{kind}_ids"))
        fresh = rows_by_id(cold.params[f"{kind}_id_table"], here)
        for one, row in found.items():
            np.testing.assert_array_equal(row, before.get(one, fresh[one]))
        assert len(found.keys() & before.keys()) == len(before) - GONE
        assert f"{len(before) - GONE} {kind}s are known, {NEW} new, {GONE} gone" in caplog.text
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    moments = {jax.tree_util.keystr(path): leaf for path, leaf in leaves if path[-1:] != ()}
    squares = next(leaf for name, leaf in moments.items() if ".nu" in name and "user_id_table" in name)
    by_id = rows_by_id(squares, experiment.dataset.labels.user_ids)
    assert any(by_id["u3"]) == keeps_optimizer
    assert not any(by_id["new3"])
    counts = [int(leaf) for leaf in moments.values() if np.ndim(leaf) == 0]
    assert all(count == old.step * keeps_optimizer for count in counts)
    assert (int(state.step), state.key.tolist()) == (0, cold.key.tolist())


def test_a_run_goes_on_where_it_was_killed(folders, tmp_path, monkeypatch):
    whole = train(warm(folders), tmp_path / "whole")
    assert json.loads((tmp_path / "whole/config.json").read_text())["init_from"] == str(folders / "run")
    assert train(config(folders / "two"), tmp_path / "cold")["valid/recall@10"] != whole["valid/recall@10"]
    saved = loop._save

    def killed(checkpoints, *args):
        saved(checkpoints, *args)
        checkpoints.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(warm(folders), tmp_path / "parts")
    monkeypatch.setattr(loop, "_save", saved)
    monkeypatch.setattr(loop, "warm_state", lambda *_: pytest.fail("started again"))
    train(warm(folders), tmp_path / "parts")
    one, other = (load_trained(str(tmp_path / name)).params for name in ("whole", "parts"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    with pytest.raises(CheckpointError, match="init_from: "):
        train(config(folders / "two"), tmp_path / "whole")


def test_a_run_that_knows_the_answers_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match=r"was trained on 9 of the \d+ interactions that are validation or test here"):
        train(warm(folders, "leaks"), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()


def test_what_does_not_fit_is_refused(folders, tmp_path):
    with pytest.raises(CheckpointError, match=r"other parameters: \['item_id_table'\]: \(8,\) there, \(4,\) here"):
        train(warm(folders, model__embedding_dim=4), tmp_path / "run")
    with pytest.raises(ConfigError, match="a run of bpr, and this is lightgcn"):
        train(warm(folders, model__name="lightgcn"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="is not a run folder"):
        train(config(folders / "two", init_from=str(tmp_path / "none")), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"init_from = .*: must be \"\" for a model that is fitted at once"):
        train(warm(folders, model__name="ease"), tmp_path / "run")
    with pytest.raises(ConfigError, match="init_optimizer = True: must be false without a run"):
        train(config(folders / "two", init_optimizer=True), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()
