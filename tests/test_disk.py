"""What a run says of the disk that it will take."""

import collections

import jax
import numpy as np
import pytest

from rearm_jax.experiment import build_experiment
from rearm_jax.training import disk
from rearm_jax.training.placement import place
from tests.conftest import tiny_config

Usage = collections.namedtuple("Usage", "total used free")


@pytest.mark.parametrize("keep", ["whole", "params"])
def test_bytes_are_those_of_the_arrays(keep):
    experiment = build_experiment(tiny_config(model__name="lightgcn", checkpoints__keep=keep))
    placement = place(experiment)
    state = placement.state()

    def nbytes(tree):
        return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))

    whole = nbytes(state)
    assert whole == pytest.approx(3 * nbytes(state.params), abs=100)  # two moments beside each parameter
    best = whole if keep == "whole" else nbytes(state.params)
    assert disk.checkpoint_bytes(placement) == (3 * whole + best, whole)


def test_what_is_said(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(disk, "checkpoint_bytes", lambda _: (5_760_000_000, 1_440_000_000))
    asked = []

    def usage(path):
        asked.append(path)
        return Usage(0, 0, 2_500_000_000)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    disk.say_disk(None, tmp_path / "runs" / "new", is_new=True)
    disk.say_disk(None, tmp_path, is_new=False)  # whose checkpoints take a part of it already
    disk.say_disk(None, "gs://bucket/run", is_new=True)
    assert asked == [tmp_path, tmp_path]  # the nearest folder that is there
    warned, said, bucket = caplog.records
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
    assert "1.4 GB each, at most 5.8 GB at a time in" in warned.getMessage()
    assert "only 2.5 GB are free there. config.checkpoints.keep=params takes less" in warned.getMessage()
    assert said.getMessage().endswith("; 2.5 GB are free there")
    assert bucket.getMessage().endswith("at a time in gs://bucket/run")


@pytest.mark.parametrize(("number", "text"), [(999, "999 bytes"), (1500, "1.5 kB"), (84_300_000, "84 MB")])
def test_sizes(number, text):
    assert disk._size(number) == text
