"""Compiling for devices that are not there: the shapes are those of a run, and what goes wrong is explained."""

import json
import re

import jax
import numpy as np
import pytest

from benchmarks import compile_for
from benchmarks.absent_data import (
    Sizes,
    abstract_experiment,
    config_of,
    placed_blocks,
    placed_inputs,
    placed_sampler,
    sizes_of,
)
from benchmarks.absent_devices import explain
from benchmarks.compile_for import PROGRAMS, compile_program, lower, report
from rearm_jax.evaluation.splits import blocks_and_positives
from rearm_jax.experiment import build_experiment
from rearm_jax.training.placement import place
from rearm_jax.training.sampling import make_sampler
from tests.conftest import tiny_config


def sizes_from(experiment):
    """The sizes of data that are there."""
    dataset, config = experiment.dataset, experiment.config
    blocks, _ = blocks_and_positives(dataset, "valid", config.evaluation.block_size)
    return Sizes(
        users=dataset.num_users,
        items=dataset.num_items,
        interactions=len(dataset.train),
        widths=tuple(table.shape[1] for table in dataset.features.values()),
        entries={name: experiment.inputs[name].matrix.nse for name in ("user_user", "item_item")},
        ranked_users=int((blocks.users >= 0).sum()),
        excluded=blocks.excluded_rows.shape[1],
    )


def described(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, np.dtype(x.dtype), x.sharding) for x in leaves]


@pytest.mark.parametrize("parallel", ["data", "row"])
def test_the_shapes_are_those_of_a_run(parallel):
    config = tiny_config(parallel=parallel, protocol="strict", evaluation__block_size=16)
    experiment = build_experiment(config)
    placed = place(experiment, jax.devices()[:1])
    sizes = sizes_from(experiment)
    absent = place(abstract_experiment(experiment.config, sizes), jax.devices()[:1])
    assert described(absent.like()) == described(placed.like())
    assert described(placed_inputs(absent, sizes, filled=1.0)) == described(placed.inputs())
    sampler = placed.sampler(make_sampler(experiment.dataset, "strict"))
    assert described(placed_sampler(absent, sizes)) == described(sampler)
    blocks, _ = blocks_and_positives(experiment.dataset, "valid", 16, placed.num_block_shares)
    assert described(placed_blocks(absent, sizes)) == described(placed.whole(blocks))


@pytest.mark.parametrize("parallel", ["data", "row"])
def test_every_program_is_lowered_compiled_and_described(parallel):
    experiment = build_experiment(tiny_config(parallel=parallel, protocol="strict"))
    sizes = sizes_from(experiment)
    placement = place(abstract_experiment(experiment.config, sizes), jax.devices()[:1])
    for program in PROGRAMS[parallel]:
        lowered = lower(placement, sizes, program, 1.0)
        products = re.findall(r"stablehlo\.dot_general.*f32>", lowered.as_text())
        assert bool(products) == (program in ("steps", "rank"))
        assert [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line] == []
        compiled, _ = compile_program(lowered, 1)
        assert compiled.peak >= compiled.arguments > 0
        text = report(program, compiled, compiled.peak - 1, "cuda", {"propagation": 1e6})
        assert "TOO MUCH" in text
        assert "kernel launches" in text
        assert "TOO MUCH" not in report(program, compiled, compiled.peak, "tpu", None)


def test_presets():
    assert sizes_of("users=10^6") == sizes_of("users=1000000")
    assert sizes_of("users=10^8").items == 10**7
    assert config_of("clothing", "row", 64).batch_size == 64
    assert config_of("baby", "row").batch_size == 2048
    for name in ("amazon", "users=", "users=10^", "users=12"):
        with pytest.raises(SystemExit, match=r"tiktok, baby, clothing, or users=10\^6"):
            sizes_of(name)


def test_errors_of_the_platforms_are_explained():
    held = RuntimeError(
        'Internal error when accessing libtpu multi-process lockfile. Run "$ sudo rm /tmp/libtpu_lockfile".'
    )
    assert "Another process holds libtpu" in explain("tpu", "v5e:1x1", held)
    assert "requirements-tpu.txt" in explain("tpu", "v5e:1x1", RuntimeError("no libtpu"))
    assert "requirements-cuda-compile.txt" in explain(
        "cuda", "1x1x1", RuntimeError("topology not implemented for cuda")
    )


@pytest.fixture
def command(monkeypatch, capsys):
    """A function (memory of a device, *flags) -> (exit status, all that was printed), of the order of an epoch."""

    def run(memory, *flags):
        monkeypatch.setattr(compile_for, "absent_devices", lambda platform, topology: (jax.devices()[:1], memory))
        flags = ("--platform", "tpu", "--preset", "users=1000", "--programs", "order", *flags)
        monkeypatch.setattr("sys.argv", ["compile_for", *flags])
        with pytest.raises(SystemExit) as ended:
            compile_for.main()
        return ended.value.code, "".join(capsys.readouterr())

    return run


def test_the_exit_status_says_whether_it_fits(command, monkeypatch, tmp_path):
    code, said = command(10**9, "--json", str(tmp_path / "figures.json"))
    assert (code, "TOO MUCH" in said) == (0, False)
    peak = json.loads((tmp_path / "figures.json").read_text())["order"]["peak"]
    assert command(peak)[0] == 0
    code, said = command(peak - 1)
    assert (code, "TOO MUCH" in said) == (1, True)

    def no_room(lowered, num_devices):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 155G\nmore")

    monkeypatch.setattr(compile_for, "compile_program", no_room)
    code, said = command(10**9)
    assert code == 1
    assert "order: TOO MUCH for a chip, says its compiler: RESOURCE_EXHAUSTED: Ran out of memory" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--programs", "draw"], "there is no such program"),
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--filled", "0"], "--filled 0.0: a share"),
        (["--filled", "70"], "--filled 70.0: a share"),
    ],
)
def test_flags_that_cannot_be(command, flags, words):
    code, said = command(10**9, *flags)
    assert code == 2
    assert words in said


def test_more_interactions_than_int32_counts():
    with pytest.raises(SystemExit, match=r"8,000,000,000 are too many"):
        sizes_of("users=10^9")
