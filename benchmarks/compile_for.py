"""Compiles the programs of a run for devices that are not there, and says what they need and do.

    python -m benchmarks.compile_for --platform tpu --topology v5e:4x4 --preset baby --parallel row
    python -m benchmarks.compile_for --platform cuda --preset tiktok

Needs requirements-tpu.txt or requirements-cuda-compile.txt in an environment of its own. Presets: tiktok, baby,
clothing, users=10^6 and any other number (benchmarks/absent_data.py). The programs are the placement's own; with
--parallel data the jit(shard_map) that pmap stands for, since pmap is lowered for present devices alone. Everything is
counted in the compiled text (benchmarks/compiled_text.py), a loop's body as often as it runs; the train step is one
step. Says nothing of time. Exits with 1 when a program's peak exceeds the memory of a chip, or its compiler finds no
room.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.absent_data import (
    Sizes,
    abstract_experiment,
    config_of,
    placed_blocks,
    placed_inputs,
    placed_sampler,
    sizes_of,
)
from benchmarks.absent_devices import TOPOLOGIES, absent_devices
from benchmarks.compiled_text import Counts, count
from benchmarks.devices import predict_traffic
from rearm_jax.parallel.mesh import replicated
from rearm_jax.training.evaluator import rank_blocks
from rearm_jax.training.order import epoch_order
from rearm_jax.training.placement import Placement, RowPlacement, place
from rearm_jax.training.step import draw_epoch, steps_with_rates

PROGRAMS = {"data": ("steps", "rank", "order"), "row": ("steps", "rank", "order", "draw")}  # by config.parallel


@dataclasses.dataclass
class Compiled:
    """A compiled program: seconds, bytes on each device, and what it does."""

    seconds: float
    arguments: int
    temporaries: int
    peak: int
    counts: Counts


def lower(placement: Placement, sizes: Sizes, program: str, filled: float) -> jax.stages.Lowered:
    """One of PROGRAMS, from shapes alone.

    Args:
      placement: of an `abstract_experiment`, on the devices to compile for.
      sizes: of its preset.
      program: "steps" trains; "rank" makes the lists of an evaluation; "order" is what is drawn for an epoch; "draw"
        draws the parameters before training, by row.
      filled: see `placed_inputs`.
    """
    experiment, whole = placement.experiment, replicated(placement.devices)
    config, state, inputs = experiment.config, placement.like(), placed_inputs(placement, sizes, filled)

    if isinstance(placement, RowPlacement) and program == "draw":
        return placement.lower_draw()
    model, rates = experiment.split_rates()
    rates = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype, sharding=whole), rates)

    if program == "steps":
        steps = functools.partial(steps_with_rates, model, experiment.optimizer, config.batch_size)
        order = jax.eval_shape(lambda key: epoch_order(key, sizes.interactions), jax.random.key(0))
        order = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), order)
        number = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
        args = state, inputs, placed_sampler(placement, sizes), order, number, rates
        return placement.lower(steps, args, donate=True)
    if program == "rank":
        rank = functools.partial(rank_blocks, model, placement.rank, max(config.evaluation.ks))
        return placement.lower(rank, (state.params, inputs, placed_blocks(placement, sizes), rates["model"]))
    draw = functools.partial(draw_epoch, model, sizes.interactions, config.batch_size)
    return placement.lower(draw, (state, inputs))


def compile_program(lowered: jax.stages.Lowered, num_devices: int) -> tuple[Compiled, str]:
    """Compiles, and reads what came of it; the compiled text beside it."""
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    stats: Any = compiled.memory_analysis()
    text = compiled.as_text()
    # Results lie beside arguments and temporaries, but for those in the place of a donated argument.
    peak = stats.argument_size_in_bytes + stats.temp_size_in_bytes + stats.output_size_in_bytes
    peak -= stats.alias_size_in_bytes
    counts = count(text, num_devices)
    return Compiled(seconds, stats.argument_size_in_bytes, stats.temp_size_in_bytes, peak, counts), text


def report(name: str, compiled: Compiled, memory: int, platform: str, predicted: dict[str, float] | None) -> str:
    """What is printed of a program."""
    counts = compiled.counts
    lines = [
        f"{name}: compiled in {compiled.seconds:.0f} s",
        f"  memory: arguments {_mb(compiled.arguments)}, temporaries {_mb(compiled.temporaries)}, peak "
        f"{_mb(compiled.peak)} of {_mb(memory)} MB" + ("" if compiled.peak <= memory else ": TOO MUCH"),
        f"  moved: {_mb(counts.bytes)} MB",
        f"  sorts {counts.sorts}, gathers {counts.gathers}, scatters {counts.scatters}, of which add floats to places "
        f"that may coincide {counts.float_scatter_adds}",
    ]
    if platform == "cuda":
        lines.append(f"  kernel launches: {counts.launches}")
    sent = {kind: size for kind, size in counts.sent.items() if size}
    lines.append("  sent: " + (", ".join(f"{kind} {_mb(size)}" for kind, size in sent.items()) or "0") + " MB")
    if predicted is not None:
        lines.append(f"  sent, by the formula of docs/scaling.md: {_mb(sum(predicted.values()))} MB")
    precisions = (f"{times} x {kind} {precision}" for (kind, precision), times in sorted(counts.products.items()))
    lines.append("  products: " + (", ".join(precisions) or "none"))
    lines += [f"  a loop of unknown length, counted once: {title}" for title in counts.unknown_loops]
    lines.append("  the largest operations, MB moved:")
    lines += [f"    {_mb(size)}  {times} x {opcode}  {title}" for size, times, opcode, title in counts.largest]
    return "\n".join(lines)


def main() -> None:
    """Compiles what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=("tpu", "cuda"), required=True)
    parser.add_argument("--topology", help=f"by default {TOPOLOGIES}")
    parser.add_argument("--preset", required=True, help="tiktok, baby, clothing or users=10^6")
    parser.add_argument("--parallel", choices=("data", "row"), default="data")
    parser.add_argument("--batch", type=int, help="rows of a batch, in the place of the preset's")
    parser.add_argument("--ring_dtype", choices=("float32", "bfloat16"), default="float32", help="as config.ring_dtype")
    parser.add_argument("--filled", type=float, default=0.7, help="by row, share of entries in the graphs' blocks")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS["row"], help="by default all")
    parser.add_argument("--dump", type=Path, help="folder for the compiled texts")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    programs = arguments.programs or PROGRAMS[arguments.parallel]
    if absent := set(programs) - set(PROGRAMS[arguments.parallel]):
        parser.error(f"--programs {absent.pop()}: with --parallel {arguments.parallel} there is no such program")
    if arguments.batch is not None and arguments.batch < 1:
        parser.error(f"--batch {arguments.batch}: must be at least 1")
    if not 0 < arguments.filled <= 1:
        parser.error(f"--filled {arguments.filled}: a share, above 0 and at most 1")
    sizes = sizes_of(arguments.preset)
    devices, memory = absent_devices(arguments.platform, arguments.topology)
    config = config_of(arguments.preset, arguments.parallel, arguments.batch, arguments.ring_dtype)
    placement = place(abstract_experiment(config, sizes), devices)
    print(f"{arguments.preset} on {len(devices)} x {devices[0].device_kind}, parallel {arguments.parallel}", flush=True)
    if arguments.parallel == "data":
        print("As jit(shard_map), which pmap stands for: pmap is lowered for present devices alone", flush=True)
    figures, without_room = {}, False
    for program in programs:
        lowered = lower(placement, sizes, program, arguments.filled)
        try:
            compiled, text = compile_program(lowered, len(devices))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"{program}: TOO MUCH for a chip, says its compiler: {str(error).splitlines()[0]}", flush=True)
            without_room = True
            continue
        by_row = program == "steps" and arguments.parallel == "row"
        predicted = predict_traffic(placement.experiment, len(devices)) if by_row else None
        print(report(program, compiled, memory, arguments.platform, predicted), flush=True)
        figures[program] = dataclasses.asdict(compiled)
        if arguments.dump:
            arguments.dump.mkdir(parents=True, exist_ok=True)
            (arguments.dump / f"{program}.txt").write_text(text)
        if arguments.json:
            figures[program]["counts"]["products"] = [[*k, v] for k, v in compiled.counts.products.items()]
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(int(without_room or any(figure["peak"] > memory for figure in figures.values())))


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f}"


if __name__ == "__main__":
    main()
