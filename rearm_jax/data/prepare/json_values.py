"""Objects of JSON that one reader takes for another than the next: names given twice, and numbers that are rounded."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal

from rearm_jax.data.prepare.reading import Refused
from rearm_jax.data.prepare.text import Text

TWICE = "a name that is given twice"
_ROUNDED = "a number that floats of 64 bits round to another whole number"
_BLOCK = 1 << 22
_ESCAPED_NAME = re.compile(rb'("[^"\n]*\\[^"\n]*")\s*:')
_LONG_NUMBER = re.compile(rb"[0-9]{15}[.eE]")  # shorter ones are exact
_EXACT = 2**53  # up to here every whole number is one


def doubtful_lines(text: Text, names: Iterable[str]) -> Iterator[Refused]:
    """Lines that give one of some names more than once: polars takes one value, and others the other. And lines with
    a whole number, of any name, that is not the one that stands there once it is read as a float."""
    spellings = {
        name: {json.dumps(name, ensure_ascii=plain).encode() for plain in (True, False)} for name in sorted(set(names))
    }
    number = 1
    for start, end in text.blocks(text.start, _BLOCK):
        block = text.data[start:end]
        if b"\\" in block:
            _note_spellings(block, spellings)
        doubtful = [keys for keys in spellings.values() if _two_in_a_line(keys).search(block) is not None]
        has_long = _LONG_NUMBER.search(block) is not None
        for i, line in enumerate(block.split(b"\n"), number) if doubtful or has_long else ():
            found = None
            if any(sum(line.count(key) for key in keys) > 1 for keys in doubtful):
                found = _repeated_name(line)
            if found is not None:
                yield Refused(i, 1, TWICE, f"{TWICE} ({found!r}): {text.shown(line)}")
            elif has_long and _LONG_NUMBER.search(line) and (rounded := _rounded_number(line)) is not None:
                yield Refused(
                    i,
                    1,
                    _ROUNDED,
                    f"{_ROUNDED} ({rounded}; write it without a point, or in quotes): {text.shown(line)}",
                )
        number += block.count(b"\n")


def _note_spellings(block: bytes, spellings: dict[str, set[bytes]]) -> None:
    """Adds to the spellings of the names those of a block that have escapes."""
    for written in set(_ESCAPED_NAME.findall(block)):
        with contextlib.suppress(ValueError):  # what is no name is refused elsewhere
            spellings.get(json.loads(written), set()).add(written)


def _two_in_a_line(keys: set[bytes]) -> re.Pattern[bytes]:
    either = b"|".join(re.escape(key) for key in sorted(keys))
    return re.compile(rb"(?:%b)[^\n]*(?:%b)" % (either, either))


def _repeated_name(line: bytes) -> str | None:
    """The first name that an object of JSON gives again."""
    names: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        names[:] = [name for name, _ in pairs]  # the outermost object comes last

    with contextlib.suppress(ValueError, RecursionError):  # what is no object is refused elsewhere
        json.loads(line, object_pairs_hook=note)
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _rounded_number(line: bytes) -> str | None:
    """The first number of an object of JSON, with a point or an exponent, that is beyond 2^53 and no float."""
    rounded: list[str] = []

    def note(written: str) -> float:
        value = float(written)
        if _EXACT <= abs(value) < float("inf") and Decimal(written) != Decimal(value):
            rounded.append(written)
        return value

    with contextlib.suppress(ValueError, RecursionError):
        json.loads(line, parse_float=note)
    return rounded[0] if rounded else None
