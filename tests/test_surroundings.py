"""What a process may find around it: JAX_ENABLE_X64, other threads, another encoding, a home folder."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rearm_jax import REARM, evaluate, load_dataset, recommend, train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.inference.recommend_files import parse_users
from tests.conftest import tiny_config

ROOT = Path(__file__).parent.parent
TINY = """
from tests.conftest import tiny_config


def get_config():
    return tiny_config(model__name="lightgcn", learning_rate=1e-2, num_epochs=1).unlock()
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Python with these arguments in `folder`; no person should ever see a traceback."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        timeout=300,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.returncode == 0, done.stderr.decode()
    return done


def lightgcn(**changes):
    return tiny_config(model__name="lightgcn", learning_rate=1e-2, **changes)


def numbers(result: dict) -> dict:
    return {name: value for name, value in result.items() if name.startswith(("valid/", "test/"))}


X64 = """
import json, sys
import jax.numpy as jnp
from absl import logging
from rearm_jax import REARM, evaluate, recommend, train
from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.errors import ConfigError
from tests.conftest import tiny_config

logging.set_verbosity(logging.INFO)
config = tiny_config(model__name="lightgcn", learning_rate=1e-2, num_epochs=1)
results = [train(config, "run")]
with config.unlocked():
    config.num_epochs = 2
results += [train(config, "run"), evaluate("run"), recommend("run", users=[3, 17], k=4)]
assert jnp.arange(3).dtype == "int64"  # the caller's own numbers stay as the caller wants them
data = make_synthetic(**config.data.synthetic.to_dict())
try:
    REARM.relations(data, tiny_config())
except ConfigError as error:
    results.append(str(error))
from rearm_jax.main import main
sys.argv = ["main", "--mode=evaluate", "--workdir=run"]
assert main() == 0
json.dump(results, open("results.json", "w"))
"""


def test_jax_enable_x64_changes_no_number(tmp_path):
    """In Python, on the command line, and where a run goes on."""
    done = run(tmp_path, "-c", X64, JAX_ENABLE_X64="1")
    first, second, evaluated, lists, refusal = json.loads((tmp_path / "results.json").read_text())
    assert numbers(second) == evaluated == json.loads(done.stdout)
    assert "JAX_ENABLE_X64 is set, and everything here is float32" in refusal
    assert b"JAX_ENABLE_X64 is set, and switched off for this run" in done.stderr

    config = lightgcn(num_epochs=1)
    assert numbers(train(config, tmp_path / "here")) == numbers(first)
    with config.unlocked():
        config.num_epochs = 2
    assert numbers(train(config, tmp_path / "here")) == numbers(second)
    assert recommend(tmp_path / "here", users=[3, 17], k=4) == lists


def test_two_threads_train_at_once_and_leave_signals_alone(tmp_path):
    """As Optuna, Ray Tune and web servers do. Each run is the one that it would be alone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    results = {}

    def work(name):
        results[name] = train(lightgcn(num_epochs=2, seed=int(name)), tmp_path / name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "01"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert results.keys() == {"0", "1"}
    for name in "01":
        alone = train(lightgcn(num_epochs=2, seed=int(name)), tmp_path / f"{name}-alone")
        assert numbers(results[name]) == numbers(alone) == evaluate(tmp_path / name)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A folder with data whose users and items have names beyond ASCII, and its run under `run`."""
    folder = tmp_path_factory.mktemp("named")
    data = make_synthetic(60, 40, 8, 6, 0, ("image", "text"))
    write_data(folder / "data", data)
    np.save(folder / "data" / "user_ids.npy", np.array([f"Zoë {user}" for user in range(60)]))
    np.save(folder / "data" / "item_ids.npy", np.array([f"品{item}" for item in range(40)]))
    train(lightgcn(num_epochs=1, data__source="folder", data__root=str(folder / "data")), folder / "run")
    return folder


def write_data(folder: Path, data) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        np.save(folder / f"{split}.npy", getattr(data, split))
    for name, table in data.features.items():
        np.save(folder / f"{name}_feat.npy", table)


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_standard_output_is_utf_8_whatever_the_locale_says(named, format):
    command = ("--mode=recommend", "--workdir=run", "--users=Zoë 3", "--k=2", f"--format={format}")
    # The arguments reach Python in UTF-8, PYTHONIOENCODING is for standard output alone.
    done = run(named, "-m", "rearm_jax.main", *command, PYTHONIOENCODING="ascii", LANG="C.UTF-8")
    text = done.stdout.decode("utf-8")
    expected = recommend(named / "run", users=["Zoë 3"], k=2)[0]
    assert "品" in text
    if format == "jsonl":
        assert json.loads(text) == expected
    else:
        items = [place["item"] for place in expected["items"]]
        assert [line.split(",")[:3] for line in text.splitlines()[1:]] == [
            ["Zoë 3", str(rank), item] for rank, item in enumerate(items, 1)
        ]


def test_the_home_folder_in_every_path_flag(tmp_path):
    """Shells expand ~ at the beginning of a word alone, and not behind `--flag=`."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    data = make_synthetic(60, 40, 8, 6, 0, ("image", "text"))
    write_data(home / "data", data)
    (home / "tiny.py").write_text(TINY)
    (home / "users.txt").write_text("3\n17\n")
    (home / "never.csv").write_text("0\n1\n")
    (home / "stock.csv").write_text("\n".join(map(str, range(1, 40))))
    (home / "items.csv").write_text("item_id,kind\n" + "".join(f"{item},{item % 2}\n" for item in range(40)))
    (home / "new").mkdir()
    np.save(home / "new" / "item_ids.npy", np.array([1000]))
    for name, table in data.features.items():
        np.save(home / "new" / f"{name}_feat.npy", table[:1])
    settings = ("--config.data.source=folder", "--config.data.root=~/data", "--config.graph.cache_dir=~/graphs")
    command = ("-m", "rearm_jax.main")
    (tmp_path / "temporary").mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(tmp_path / "temporary")}
    done = run(here, *command, "--config=~/tiny.py", "--workdir=~/runs/a", *settings, **environment)
    assert f" --workdir {home}/runs/a\n" in done.stderr.decode()
    evaluated = run(here, *command, "--mode=evaluate", "--workdir=~/runs/a", **environment)
    result = json.loads((home / "runs/a/result.json").read_text())
    assert json.loads(evaluated.stdout) == numbers(result)
    flags = ("--users=~/users.txt", "--exclude=~/never.csv", "--new_items=~/new", "--out=~/lists.jsonl", "--k=3")
    rules = ("--allow=~/stock.csv", "--max_per=kind=1", "--items=~/items.csv")
    run(here, *command, "--mode=recommend", "--workdir=~/runs/a", *flags, *rules, **environment)
    lists = [json.loads(line) for line in (home / "lists.jsonl").read_text().splitlines()]
    assert [one["user"] for one in lists] == [3, 17]
    assert not {place["item"] for one in lists for place in one["items"]} & {0, 1}
    assert [sorted(place["item"] % 2 for place in one["items"]) for one in lists] == [
        [0, 1],
        [0, 1],
    ]  # one of each kind
    run(here, *command, "--config", "~/tiny.py", "--workdir", "~/runs/a", *settings, **environment)  # as lists of words
    assert {path.name for path in here.iterdir()} <= {".cache"}  # of compiled programs
    given = {"data", "tiny.py", "users.txt", "never.csv", "stock.csv", "items.csv", "new"}
    made = {"runs", "lists.jsonl"}  # what the flags name; LightGCN's graph is not kept, and Python may have a cache
    assert set(os.listdir(home)) - {"__pycache__"} == made | given
    assert os.listdir(tmp_path / "temporary") == []


def test_the_home_folder_in_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    data = make_synthetic(60, 40, 8, 6, 0, ("image", "text"))
    write_data(tmp_path / "data", data)
    loaded = load_dataset("~/data", ("image", "text"))
    assert loaded.content_hash == load_dataset(tmp_path / "data", ("image", "text")).content_hash
    config = lightgcn(num_epochs=1, data__source="folder", data__root="~/data", graph__cache_dir="~/graphs")
    REARM.relations(loaded, tiny_config(graph__cache_dir="~/graphs"))
    assert len(list((tmp_path / "graphs").iterdir())) == 6  # co-occurrence and two modalities, of users and of items
    result = train(config, "~/runs/a")
    assert json.loads((tmp_path / "runs/a/result.json").read_text()) == result
    assert evaluate(Path("~/runs/a")) == numbers(result)
    assert len(recommend("~/runs/a", users=[3])) == 1
    (tmp_path / "users.txt").write_text("3\n")
    assert parse_users("~/users.txt") == ["3"]
    assert parse_users("~7,~8") == ["~7", "~8"]  # ids
    assert sorted(os.listdir(tmp_path)) == ["data", "graphs", "runs", "users.txt"]
