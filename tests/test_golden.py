"""Parity with the original's numbers (float32, dropout off)."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden import compare

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
LIMITS = {
    "graphs": 1e-6,
    "representation": 2e-6,
    "modal_features": 2e-6,
    "losses": 2e-6,
    "gradients": 1e-3,
    "dead_gradients": 1e-6,
    "representation_after": 1e-4,
    "metrics": 1e-6,
}


def test_there_are_golden_files():
    assert len(GOLDEN) >= 2


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_equals_the_original(path):
    result = compare(str(path))
    beyond = {name: result[name] for name, limit in LIMITS.items() if not result[name] <= limit}
    assert not beyond
    assert result["top20_agree"] == 1.0
    assert result["metrics_agree"]


def test_the_comparison_can_fail(tmp_path):
    """One weight of one MLP, one batch, one score list and one gradient changed: each shows where it should."""
    with np.load(GOLDEN[0], allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["state/mlp_u1.linear_out.weight"][0, 0] += 1.0
    arrays["out/losses"][4, 0] += 1e-3
    arrays["grad/image_i_trs.weight"] *= 1.01
    arrays["out/test_top20"][0] = arrays["out/test_top20"][0, ::-1]
    arrays["out/valid_recall"][9] += 1e-3
    arrays["graph/item_semantic"][0, 0] += 1e-3
    path = tmp_path / "changed.npz"
    np.savez(path, **arrays)
    result = compare(str(path))
    assert result["representation"] > 1e-4
    assert result["graphs"] > 9e-4
    assert result["losses"] > 9e-4
    assert result["gradients"] > 5e-3
    assert result["top20_agree"] < 1.0
    assert result["metrics"] > 9e-4
    assert not result["metrics_agree"]
