"""config.model.unit_features: only the direction of an item's features counts, whatever their scale in the data."""

import dataclasses

import numpy as np
import pytest

from rearm_jax.data.synthetic import make_synthetic
from rearm_jax.experiment import init_params, make_experiment
from rearm_jax.inference.new_items import extended_representations
from rearm_jax.inference.trained import Trained
from tests.conftest import tiny_config

MODELS = ("bm3", "freedom", "mgcn", "rearm", "smore", "vbpr")
MODALITIES = ("image", "text")
UNIT = make_synthetic(31, 23, 7, 6, seed=0, modalities=MODALITIES)


def scaled() -> dict[str, np.ndarray]:
    """The features of UNIT, each row of another length, two of which a float32 has no square for; one has none."""
    lengths = np.random.default_rng(0).uniform(0.1, 50, (23, 1))
    lengths[[3, 4, 5], 0] = 1e30, 1e-30, 0
    return {name: (table * lengths).astype(np.float32) for name, table in UNIT.features.items()}


def experiment_of(model: str, features: dict[str, np.ndarray], **changes):
    config = tiny_config(model__name=model, data__modalities=MODALITIES, **changes)
    return make_experiment(config, dataclasses.replace(UNIT, features=features))


def tables_of(experiment) -> dict[str, np.ndarray]:
    """The tables of features, trained or not, by name."""
    values = {**init_params(experiment), **experiment.inputs}
    names = [f"{side}_{name}_table" for side in ("user", "item") for name in MODALITIES]
    return {name: np.asarray(values[name]) for name in names if name in values}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_reads_rows_of_length_one(model, trained):
    settings = {"model__train_features": trained, "model__unit_features": True}
    found = tables_of(experiment_of(model, scaled(), **settings))
    by_hand = {name: table / np.linalg.norm(table, axis=1, keepdims=True) for name, table in UNIT.features.items()}
    for table in by_hand.values():
        table[5] = 0
    expected = tables_of(experiment_of(model, by_hand, model__train_features=trained))
    assert found.keys() == expected.keys()
    assert len(found) in (2, 4)
    for name, table in found.items():
        np.testing.assert_allclose(table, expected[name], atol=1e-6, err_msg=name)


def test_new_items_are_read_likewise():
    experiment = experiment_of("vbpr", UNIT.features, model__unit_features=True)
    trained = Trained("", 0, experiment, init_params(experiment))
    new = {name: table[[7, 2]] for name, table in UNIT.features.items()}
    as_given = extended_representations(trained, new).items
    longer = extended_representations(trained, {name: 40 * table for name, table in new.items()}).items
    np.testing.assert_allclose(longer, as_given, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(as_given[-2:, 8:], as_given[[7, 2], 8:], rtol=1e-5, atol=1e-6)  # behind the ID's part
