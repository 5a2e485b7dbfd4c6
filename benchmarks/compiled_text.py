"""What a compiled program does, counted in its text (`compiled.as_text()`), whatever platform it was compiled for.

An operation counts as often as it runs: inside of a loop times the loop's trip count. XLA's own cost analysis counts a
body once. A loop whose trip count the text does not tell counts once, and is named.

Bytes are those of the memory of the chip (a TPU's scratch memory is left out): what an operation reads and writes, of
a fusion its operands and results. Of what is sliced or gathered from, only the rows that are taken count, and at most
the whole, once, as if what is read again lay in a cache; where an array is updated in place, only the update.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # others: the digits of their names
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute")
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "call", "conditional", "opt-barrier", "async-start", "add-dependency"),
}
_SLICES = {"slice", "dynamic-slice", "gather"}
_VIEWS = {"bitcast", "reshape", "get-tuple-element", "copy"}
_PRODUCTS = {"dot", "convolution"}
_GPU_SORT, _GPU_PRODUCT = "cub$DeviceRadixSort", ("__cublas$", "__triton")


@dataclasses.dataclass
class Operation:
    """An instruction. `shape` is its text, such as "f32[2,3]{1,0}"; `line` the whole of it."""

    name: str
    shape: str
    opcode: str
    operands: list[str]
    line: str

    @property
    def title(self) -> str:
        """Where it comes from, as jax names it; or else its name."""
        found = re.search(r'op_name="([^"]*)"', self.line)
        return found[1] if found else self.name

    def called(self, *attributes: str) -> list[str]:
        """Names of the computations that it calls by these attributes."""
        lists = re.findall(rf"\b(?:{'|'.join(attributes)})=\{{?((?:%[\w.\-]+(?:, )?)+)", self.line)
        return [name for names in lists for name in re.findall(r"%([\w.\-]+)", names)]


@dataclasses.dataclass
class Computation:
    """A computation of the program; the operations by name, in order, and the last, its result."""

    operations: dict[str, Operation]
    root: str

    def parameter(self, number: int) -> str:
        """The name of a parameter."""
        return next(o.name for o in self.operations.values() if o.opcode == "parameter" and f"({number})" in o.line)

    def users(self, name: str) -> list[Operation]:
        """The operations that read it."""
        return [o for o in self.operations.values() if name in o.operands]


@dataclasses.dataclass
class Counts:
    """What runs in one call of the program; loops of unknown length count once.

    Attributes:
      bytes: read and written in the memory of a chip.
      launches: operations that run on their own (on a GPU kernels, copies and library calls).
      sorts, gathers, scatters: how many run.
      float_scatter_adds: scatters that add floats to places which may coincide: on a GPU, atomics.
      sent: bytes that a device sends, by kind of collective, in a ring of all devices.
      products: (type, precision asked for) -> how many run.
      largest: (bytes, how often, opcode, title), the ten that move most.
      unknown_loops: titles of loops whose trip count the text does not tell.
    """

    bytes: int
    launches: int
    sorts: int
    gathers: int
    scatters: int
    float_scatter_adds: int
    sent: dict[str, float]
    products: dict[tuple[str, str], int]
    largest: list[tuple[int, int, str, str]]
    unknown_loops: list[str]


def count(text: str, num_devices: int = 1) -> Counts:
    """Counts what a compiled program does.

    Args:
      text: of the program.
      num_devices: all of which take part in every collective.
    """
    computations, entry = parse(text)
    ran: collections.Counter[str] = collections.Counter()
    products: collections.Counter[tuple[str, str]] = collections.Counter()
    sent = dict.fromkeys(_COLLECTIVES, 0.0)
    moved: collections.Counter[tuple[str, str]] = collections.Counter()
    times_moved: collections.Counter[tuple[str, str]] = collections.Counter()
    unknown: list[str] = []
    for computation, operation, times, is_fused in _runs(computations, entry, unknown):
        kind = operation.opcode.removesuffix("-start")
        if kind == "sort" or _GPU_SORT in operation.line:
            ran["sort"] += times
        elif kind in ("gather", "scatter"):
            ran[kind] += times
            ran["atomic"] += times * _adds_floats(operation, computations)
        if kind in _COLLECTIVES:
            sent[kind] += times * _sent(operation, computation, num_devices)
        if kind in _PRODUCTS or any(f'custom_call_target="{name}' in operation.line for name in _GPU_PRODUCT):
            products[operation.shape.lstrip("(").split("[")[0], _precision(operation)] += times
        if is_fused or operation.opcode in _FREE or operation.opcode.endswith("-done"):
            continue
        ran["launch"] += times
        key = operation.opcode, operation.title
        moved[key] += times * moved_bytes(operation, computation, computations)
        times_moved[key] += times
    largest = [(size, times_moved[key], *key) for key, size in moved.most_common(10) if size]
    return Counts(
        bytes=moved.total(),
        launches=ran["launch"],
        sorts=ran["sort"],
        gathers=ran["gather"],
        scatters=ran["scatter"],
        float_scatter_adds=ran["atomic"],
        sent=sent,
        products=dict(products),
        largest=largest,
        unknown_loops=unknown,
    )


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations by name, and the name of the entry."""
    computations, entry = {}, ""
    for header, body in re.findall(r"^((?:ENTRY )?%[^\n]*) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        name = re.search(r"%([\w.\-]+)", header)[1]
        entry = name if header.startswith("ENTRY") else entry
        operations, root = {}, ""
        for line in body.splitlines():
            found = re.match(r"\s+(ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)", line)
            if not found:
                continue
            operands = re.findall(r"%([\w.\-]+)", _until_closed(found[5]))
            operations[found[2]] = Operation(found[2], found[3], found[4], operands, line)
            root = found[2] if found[1] else root
        computations[name] = Computation(operations, root)
    return computations, entry


def num_bytes(shape: str) -> int:
    """Bytes of a shape or a tuple of shapes in the chip's memory: "(f32[2,3]{1,0}, s32[4]{0:S(1)})" -> 24."""
    total = 0
    for kind, dims, layout in re.findall(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", shape):
        if re.search(r"S\([1-9]", layout):
            continue
        bits = _BITS.get(kind) or int((re.search(r"\d+", kind) or [0])[0])
        total += math.prod(int(size) for size in dims.split(",") if size) * bits // 8
    return total


def trip_count(loop: Operation, caller: Computation, computations: dict[str, Computation]) -> int | None:
    """How often a while loop runs, or None where the text does not tell.

    Either XLA says so, or a counter goes up by one from a constant until it is no longer below another one.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.line):
        return int(known[1])
    condition, body = (computations[loop.called(name)[0]] for name in ("condition", "body"))
    test = condition.operations[condition.root]
    if test.opcode == "fusion":
        condition = computations[test.called("calls")[0]]
        test = condition.operations[condition.root]
    if test.opcode != "compare" or "direction=LT" not in test.line:
        return None
    counter, limit = (condition.operations.get(name) for name in test.operands)
    place = _place(counter)
    start = None if place is None else _first_value(loop, caller, place)
    if limit is not None and (place_of_limit := _place(limit)) is not None:
        stop = _first_value(loop, caller, place_of_limit) if _is_kept(body, place_of_limit) else None
    else:
        stop = _constant(limit)
    if place is None or start is None or stop is None or not _goes_up_by_one(body, place, loop, caller):
        return None
    return max(stop - start, 0)


def moved_bytes(operation: Operation, computation: Computation, computations: dict[str, Computation]) -> int:
    """Bytes that an operation reads and writes in the chip's memory, when it runs once."""
    shapes = [computation.operations[name].shape for name in operation.operands]
    if operation.opcode == "slice-start":  # its result is (the whole source, the slice, a context)
        part = operation.shape.split("), ", 1)[1].rsplit(", ", 1)[0]
        return num_bytes(_in_memory(part)) + num_bytes(part)
    if operation.opcode.endswith("-start") and operation.shape.startswith("("):
        return num_bytes(operation.shape)  # source and target
    if operation.opcode in _SLICES:
        taken = min(num_bytes(shapes[0]), num_bytes(_in_memory(operation.shape)))
        return taken + num_bytes(operation.shape) + sum(map(num_bytes, shapes[1:]))
    if operation.opcode == "dynamic-update-slice":
        return num_bytes(shapes[1]) + min(num_bytes(shapes[0]), num_bytes(_in_memory(shapes[1])))
    if operation.opcode != "fusion":
        return num_bytes(operation.shape) + sum(map(num_bytes, shapes))
    fused = computations[operation.called("calls")[0]]
    read = sum(min(num_bytes(shape), _read(fused, fused.parameter(i), computations)) for i, shape in enumerate(shapes))
    return read + min(num_bytes(operation.shape), _written(fused, fused.root))


def _runs(
    computations: dict[str, Computation], name: str, unknown: list[str], times: int = 1, is_fused: bool = False
) -> Iterator[tuple[Computation, Operation, int, bool]]:
    """(computation, operation, how often it runs, whether as a part of a fusion) of all that runs."""
    computation = computations[name]
    for operation in computation.operations.values():
        yield computation, operation, times, is_fused
        repeats = 1
        if operation.opcode == "while":
            trips = trip_count(operation, computation, computations)
            if trips is None:
                unknown.append(operation.title)
            repeats = 1 if trips is None else trips
        attributes = ["calls", "body", "branch_computations", "true_computation", "false_computation"]
        attributes += ["to_apply"] if operation.opcode == "call" else []
        for callee in operation.called(*attributes):
            fused = is_fused or operation.opcode == "fusion"
            yield from _runs(computations, callee, unknown, times * repeats, fused)


def _read(fused: Computation, name: str, computations: dict[str, Computation]) -> int:
    """Bytes read of a value inside of a fusion; more than it has where it is read whole."""
    total = 0
    for user in fused.users(name):
        if user.opcode in _SLICES and user.operands[0] == name:
            total += num_bytes(_in_memory(user.shape))
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode in _VIEWS:
            total += _read(fused, user.name, computations)
        elif user.opcode == "fusion":
            inner = computations[user.called("calls")[0]]
            total += _read(inner, inner.parameter(user.operands.index(name)), computations)
        else:
            return 2**62
    return total


def _written(fused: Computation, name: str) -> int:
    """Bytes that a fusion writes of a result: an update in place writes the update."""
    operation = fused.operations[name]
    if operation.opcode == "tuple":
        return sum(min(num_bytes(fused.operations[o].shape), _written(fused, o)) for o in operation.operands)
    if operation.opcode in _VIEWS and operation.operands:
        return _written(fused, operation.operands[0])
    if operation.opcode == "dynamic-update-slice":
        return num_bytes(_in_memory(fused.operations[operation.operands[1]].shape))
    return 2**62 if operation.opcode == "parameter" else num_bytes(operation.shape)


def _in_memory(shape: str) -> str:
    return re.sub(r"S\(\d+\)", "", shape)


def _sent(operation: Operation, computation: Computation, num_devices: int) -> float:
    size = sum(num_bytes(_in_memory(computation.operations[name].shape)) for name in operation.operands)
    share = (num_devices - 1) / num_devices
    factors = {"all-gather": num_devices - 1, "all-reduce": 2 * share, "reduce-scatter": share}
    return size * factors.get(operation.opcode.removesuffix("-start"), 1)


def _precision(operation: Operation) -> str:
    found = re.search(r"operand_precision\"?[=:][{\[]\"?(\w+)", operation.line)
    return found[1].lower() if found else "default"


def _adds_floats(scatter: Operation, computations: dict[str, Computation]) -> bool:
    if "unique_indices=true" in scatter.line or not re.match(r"\(?(bf16|f\d+)\[", scatter.shape):
        return False
    return any(o.opcode == "add" for name in scatter.called("to_apply") for o in computations[name].operations.values())


def _until_closed(text: str) -> str:
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:place]
    return text


def _place(operation: Operation | None) -> int | None:
    """Which element of the loop's state is read: a parameter of a fused test stands for none that is known."""
    found = operation and operation.opcode == "get-tuple-element" and re.search(r"index=(\d+)", operation.line)
    return int(found[1]) if found else None


def _constant(operation: Operation | None) -> int | None:
    found = operation and re.search(r"[su]\d+\[\]\S* constant\((-?\d+)\)", operation.line)
    return int(found[1]) if found else None


def _first_value(loop: Operation, caller: Computation, place: int) -> int | None:
    state = caller.operations[loop.operands[0]]
    if state.opcode != "tuple":
        return None
    return _constant(_original(state.operands[place], caller))


def _original(name: str, computation: Computation) -> Operation:
    """What a value is a copy of, or itself."""
    operation = computation.operations[name]
    while operation.opcode in ("copy", "bitcast"):
        operation = computation.operations[operation.operands[0]]
    return operation


def _is_kept(body: Computation, place: int) -> bool:
    return _place(_original(body.operations[body.root].operands[place], body)) == place


def _goes_up_by_one(body: Computation, place: int, loop: Operation, caller: Computation) -> bool:
    added = _original(body.operations[body.root].operands[place], body)
    if added.opcode != "add":
        return False
    first, second = (_original(name, body) for name in added.operands)
    kept = _place(second)
    step = _constant(second) if kept is None else _is_kept(body, kept) and _first_value(loop, caller, kept)
    return _place(first) == place and step == 1
