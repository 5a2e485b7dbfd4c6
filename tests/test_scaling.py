"""The scaling benchmark: catalogues of the promised shape, exponents, and parts that measure what they say."""

import json

import numpy as np
import pytest

from benchmarks.catalogue import MODALITIES, make_catalogue
from benchmarks.scaling import PARTS, fit_all, fit_exponent, measure_graph, to_table


def test_a_catalogue_has_the_promised_shape():
    data, again, other = make_catalogue(20_000), make_catalogue(20_000), make_catalogue(20_000, seed=1)
    assert data.content_hash == again.content_hash != other.content_hash
    assert (data.num_users, data.num_items) == (20_000, 4_000)
    assert len(data.train) / data.num_users == pytest.approx(8, rel=0.05)

    degrees = np.sort(np.bincount(data.train[:, 1], minlength=data.num_items))[::-1]
    law = (np.arange(1, 4_001) + 100) ** -0.96
    for share in (0.01, 0.1, 0.5):  # of the items, the most popular first
        top = int(share * 4_000)
        assert degrees[:top].sum() / degrees.sum() == pytest.approx(law[:top].sum() / law.sum(), rel=0.15)

    # Items that one user took are more alike than others: the user's category shows in the features.
    users, items = data.train.T
    for modality in MODALITIES:
        unit = data.features[modality] / np.linalg.norm(data.features[modality], axis=1, keepdims=True)
        together = np.sum(unit[items[:-1]] * unit[items[1:]], axis=1)[users[:-1] == users[1:]]
        assert together.mean() > 0.2
        assert abs(np.sum(unit[items[:-1]] * unit[np.roll(items, 999)[1:]], axis=1).mean()) < 0.1


def test_the_exponent_of_a_power_law():
    sizes = [10, 100, 1000]
    assert fit_exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert fit_exponent(sizes[:1], [3]) is None


def test_the_table_has_a_line_for_what_was_measured():
    costs = [{"seconds": 2e-3 * n, "cpu_seconds": 4e-3 * n, "peak_bytes": n**2} for n in (8e4, 8e5)]
    parts = [{"train step": cost, "kNN users approx": cost | {"recall": 0.987}} for cost in costs]
    sizes = [{"users": 10**e, "items": 2 * 10**e // 10, "interactions": 8 * 10**e} for e in (4, 5)]
    sizes = [size | {"parts": part, "killed": []} for size, part in zip(sizes, parts, strict=True)]
    sizes[1]["killed"] = ["evaluation"]
    exponents = fit_all(sizes)
    assert exponents["train step"]["seconds"] == pytest.approx(1)
    assert exponents["train step"]["peak_bytes_last_two"] == pytest.approx(2)
    assert exponents["evaluation"]["seconds"] is None
    machine = {"processor": "P", "cores": 2, "device": "1 x cpu"}
    table = to_table({"command": "c", "machine": machine, "sizes": sizes, "exponents": exponents})
    assert "| train step | 100,000 | 20,000 | 800,000 | 1.6e+03 | 3.2e+03 | 640,000 |  |" in table
    assert "| evaluation | 100,000 | 20,000 | 800,000 | killed" in table
    assert "recall 0.987" in table
    assert "| train step | 1.00 (1.00) | 1.00 (1.00) | 2.00 (2.00) |" in table
    assert "| evaluation | - | - | - |" in table


def test_relations_are_measured_and_kept(tmp_path):
    data = make_catalogue(1_000)
    degrees = np.bincount(data.train[:, 1]).astype(np.int64)
    for part in PARTS[:6]:
        costs = json.loads(json.dumps(measure_graph(part, data, tmp_path)))
        assert costs["seconds"] > 0
        assert costs["entries"] == np.load(tmp_path / f"{part}.npz")["data"].size
        if part == "co-occurrence users":
            assert costs["products"] == (degrees**2).sum()
        if part.endswith("approx"):
            assert costs["recall"] > 0.95
