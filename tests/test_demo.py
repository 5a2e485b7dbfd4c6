"""What the demo promises: REARM learns, and needs each modality."""

import pytest

from rearm_jax.configs import demo
from rearm_jax.experiment import build_experiment
from rearm_jax.training.loop import train

MODALITIES = (("image", "text"), ("image",), ("text",))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Modalities -> what three epochs with them alone came to."""
    found = {}
    for modalities in MODALITIES:
        config = demo.get_config()
        config.num_epochs = 3
        config.graph.cache_dir = ""
        config.log.tensorboard = False
        config.data.modalities = modalities
        folder = tmp_path_factory.mktemp("-".join(modalities))
        found[modalities], stopped_by = train(build_experiment(config), str(folder))
        assert stopped_by is None
    return found


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
