"""What the demo promises: REARM learns, and needs each modality."""

import pytest

from configs import demo
from rearm_jax.experiment import build_experiment
from rearm_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("optimised")


def demo_result(workdir, modalities):
    config = demo.get_config()
    config.num_epochs = 15
    config.graph.cache_dir = ""
    config.log.tensorboard = False
    config.data.modalities = modalities
    result, stopped_by = train(build_experiment(config), str(workdir))
    assert stopped_by is None
    return result


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return demo_result(tmp_path_factory.mktemp("full"), ("image", "text"))


def test_rearm_clearly_beats_the_yardsticks(full):
    for split in ("valid", "test"):
        metric = f"{split}/recall@20"
        assert full[metric] > 2 * full["yardsticks"]["most_popular"][metric]
        assert full["yardsticks"]["most_popular"][metric] > full["yardsticks"]["random"][metric]


@pytest.mark.parametrize("kept", ["image", "text"])
def test_dropping_a_modality_hurts(full, kept, tmp_path):
    # Same users, items and interactions; only the features of the other modality are hidden.
    reduced = demo_result(tmp_path, (kept,))
    assert reduced["split_hash"] == full["split_hash"]
    assert reduced["test/recall@20"] < 0.9 * full["test/recall@20"]
