"""What is counted in a compiled program, against programs written by hand and of known content."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled_text import count, num_bytes

LOOP = """HloModule m

%body (s: (s32[], f32[8,4], s32[])) -> (s32[], f32[8,4], s32[]) {
  %s = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}, s32[]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %n = s32[] get-tuple-element(%s), index=2
  %one = s32[] constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %sorted = f32[8,4]{1,0} sort(%x), dimensions={0}, to_apply=%less, metadata={op_name="jit(f)/sort"}
  ROOT %out = (s32[], f32[8,4], s32[]) tuple(%next, %sorted, %n)
}

%condition (t: (s32[], f32[8,4], s32[])) -> pred[] {
  %t = (s32[], f32[8,4], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%t), index=0
  LIMIT
  ROOT %lt = pred[] compare(%j, %limit), direction=LT
}

%less (a: f32[], b: f32[]) -> pred[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %l = pred[] compare(%a, %b), direction=LT
}

ENTRY %main (p: f32[8,4], q: s32[]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = s32[] parameter(1)
  %start = s32[] constant(2)
  %copied = s32[] copy(%start)
  %seven = s32[] constant(7)
  %state = (s32[], f32[8,4], s32[]) tuple(%copied, %p, THIRD)
  %w = (s32[], f32[8,4], s32[]) while(%state), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}
  ROOT %r = f32[8,4]{1,0} get-tuple-element(%w), index=1
}
"""
KEPT = "%limit = s32[] get-tuple-element(%t), index=2"


@pytest.mark.parametrize(
    ("limit", "third", "trips"),
    [
        ("%limit = s32[] constant(7)", "%q", 5),
        (KEPT, "%seven", 5),
        ("%limit = s32[] constant(1)", "%q", 0),
        (KEPT, "%q", None),
    ],
)
def test_a_body_counts_as_often_as_it_runs(limit, third, trips):
    counts = count(LOOP.replace("LIMIT", limit).replace("THIRD", third))
    assert counts.sorts == (1 if trips is None else trips)
    assert counts.unknown_loops == (["jit(f)/while"] if trips is None else [])
    sorts = [size for size, _, opcode, _ in counts.largest if opcode == "sort"]
    assert sum(sorts) == counts.sorts * 2 * 8 * 4 * 4


def test_a_loop_that_counts_in_other_steps_is_not_guessed():
    text = LOOP.replace("LIMIT", "%limit = s32[] constant(7)").replace("THIRD", "%q")
    assert count(text.replace("constant(1)", "constant(2)")).unknown_loops == ["jit(f)/while"]
    assert count(text.replace("direction=LT\n}\n\n%less", "direction=LE\n}\n\n%less")).unknown_loops == ["jit(f)/while"]


def test_a_counter_may_be_copied_on_the_way():
    text = (
        LOOP.replace("LIMIT", KEPT)
        .replace("THIRD", "%seven")
        .replace("tuple(%next, %sorted, %n)", "tuple(%next, %sorted, %m)")
    )
    text = text.replace("add(%i, %one)", "add(%k, %one)").replace(
        "  %one =", "  %k = s32[] copy(%i)\n  %m = s32[] copy(%n)\n  %one ="
    )
    assert count(text).sorts == 5


def test_xla_may_say_the_trip_count():
    text = LOOP.replace("LIMIT", KEPT).replace("THIRD", "%q")
    text = text.replace("body=%body,", 'body=%body, backend_config={"known_trip_count":{"n":"11"}},')
    assert count(text).sorts == 11


FUSED = """HloModule m

%rows (t: f32[1000,8], i: s32[16], c: f32[16,8]) -> f32[16,8] {
  %t = f32[1000,8]{1,0} parameter(0)
  %i = s32[16]{0} parameter(1)
  %c = f32[16,8]{1,0} parameter(2)
  %g = f32[16,8]{1,0} gather(%t, %i), offset_dims={1}, slice_sizes={1,8}
  ROOT %m = f32[16,8]{1,0} multiply(%g, %c)
}

%update (u: f32[1000,8], v: f32[16,8], k: s32[]) -> f32[1000,8] {
  %u = f32[1000,8]{1,0} parameter(0)
  %v = f32[16,8]{1,0} parameter(1)
  %k = s32[] parameter(2)
  ROOT %d = f32[1000,8]{1,0} dynamic-update-slice(%u, %v, %k, %k)
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (x: f32[1000,8], y: s32[16], z: s32[]) -> f32[1000,8] {
  %x = f32[1000,8]{1,0} parameter(0)
  %y = s32[16]{0:T(128)S(1)} parameter(1)
  %z = s32[] parameter(2)
  %copied = f32[16,8]{1,0:S(1)} custom-call(), custom_call_target="Allocate"
  %f = f32[16,8]{1,0} fusion(%x, %y, %copied), kind=kLoop, calls=%rows
  %h = f32[1000,8]{1,0} fusion(%x, %f, %z), kind=kLoop, calls=%update
  ROOT %s = f32[1000,8]{1,0} scatter(%h, %y, %f), to_apply=%add, SCATTER
}
"""


def test_bytes_are_those_that_move():
    rows, table = 16 * 8 * 4, 1000 * 8 * 4
    taken = rows + rows  # rows read and the result; what lies in scratch memory is not counted
    updated = rows + 4 + rows  # the update, its place, and what it overwrites
    scattered = table + rows + table
    assert count(FUSED.replace("SCATTER", "indices_are_sorted=true")).bytes == taken + updated + scattered


def test_scatters_that_are_atomics_on_a_gpu():
    for flags, atomics in (("indices_are_sorted=true", 1), ("unique_indices=true", 0)):
        counts = count(FUSED.replace("SCATTER", flags))
        assert (counts.gathers, counts.scatters, counts.float_scatter_adds) == (1, 1, atomics)
    assert count(FUSED.replace("SCATTER", "").replace("f32[] add", "f32[] maximum")).float_scatter_adds == 0


COLLECTIVES = """HloModule m

%add (b: f32[], c: f32[]) -> f32[] {
  %b = f32[] parameter(0)
  %c = f32[] parameter(1)
  ROOT %d = f32[] add(%b, %c)
}

ENTRY %main (x: f32[2,3], i: s32[4], j: f32[], k: bf16[24]) -> f32[8,3] {
  %x = f32[2,3]{1,0} parameter(0)
  %i = s32[4]{0} parameter(1)
  %j = f32[] parameter(2)
  %k = bf16[24]{0} parameter(3)
  %p = f32[2,3]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,3},{1,0},{2,1},{3,2}}
  %s = (s32[4]{0}, f32[]) all-reduce(%i, %j), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %r = bf16[6]{0} reduce-scatter(%k), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
  %b = (f32[2,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%p), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %g = f32[8,3]{1,0} all-gather-done(%b)
}
"""


def test_collectives():
    assert count(COLLECTIVES, 4).sent == {
        "collective-permute": 24,
        "all-reduce": 2 * 0.75 * 20,
        "reduce-scatter": 0.75 * 48,
        "all-gather": 3 * 24,
    }


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0:T(8,128)}", 24),
        ("(bf16[5]{0}, s32[]{:T(128)}, pred[3]{0}, /*index=3*/u8[2]{0})", 19),
        ("(f32[4]{0:T(128)S(1)}, f32[2]{0:S(0)})", 8),
        ("s4[6]{0}", 3),
        ("token[]", 0),
    ],
)
def test_bytes_of_a_shape(shape, size):
    assert num_bytes(shape) == size


def test_a_jitted_program_of_known_content():
    def f(x, w, n):
        x = jax.lax.fori_loop(0, 6, lambda _, x: jnp.tanh(jnp.matmul(x, w, precision="highest")), x)
        x = jax.lax.fori_loop(0, n, lambda _, x: jnp.sort(x, axis=0), x)
        return jnp.sort(x, axis=1)

    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 64), (64, 64)))
    counts = count(jax.jit(f).lower(*shapes, 3).compile().as_text())
    assert sum(counts.products.values()) == 6
    assert counts.sorts == 2
    assert len(counts.unknown_loops) == 1
    assert "while" in counts.unknown_loops[0]
    assert counts.bytes >= 6 * 3 * 64 * 64 * 4
