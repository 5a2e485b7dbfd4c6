"""What the demo promises: REARM learns, and needs each modality."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rearm_jax.configs import demo
from rearm_jax.experiment import build_experiment
from rearm_jax.training.loop import train
from tests.conftest import as_users_have_them

ROOT = Path(__file__).parent.parent
MODALITIES = (("image", "text"), ("image",), ("text",))


def train_all(file: str, folder: str) -> None:
    """Trains with each of MODALITIES; writes their results."""
    results = []
    for modalities in MODALITIES:
        config = demo.get_config()
        config.num_epochs = 5
        config.graph.cache_dir = ""
        config.log.tensorboard = False
        config.data.modalities = modalities
        result, stopped_by = train(build_experiment(config), str(Path(folder, "-".join(modalities))))
        assert stopped_by is None
        results.append(result)
    Path(file).write_text(json.dumps(results))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    file = folder / "results.json"
    command = [sys.executable, "-m", "tests.test_demo", str(file), str(folder)]
    subprocess.run(command, cwd=ROOT, env=as_users_have_them(), check=True)
    return dict(zip(MODALITIES, json.loads(file.read_text()), strict=True))


def test_rearm_clearly_beats_the_yardsticks(results):
    full = results[MODALITIES[0]]
    for split in ("valid", "test"):
        metric = f"{split}/recall@20"
        assert full[metric] > 2 * full["yardsticks"]["most_popular"][metric]
        assert full["yardsticks"]["most_popular"][metric] > full["yardsticks"]["random"][metric]


@pytest.mark.parametrize("kept", ["image", "text"])
def test_dropping_a_modality_hurts(results, kept):
    # Same users, items and interactions; only the features of the other modality are hidden.
    full, reduced = results[MODALITIES[0]], results[(kept,)]
    assert reduced["split_hash"] == full["split_hash"]
    assert reduced["test/recall@20"] < 0.9 * full["test/recall@20"]


if __name__ == "__main__":
    train_all(*sys.argv[1:])
