"""Places in a text as bits, against Python's own integers and lists."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearm_jax.data.prepare import bits

TEXTS = st.lists(st.sampled_from(b"a,\n"), min_size=1, max_size=300).map(bytes)


def places(text, sign):
    return [i for i, byte in enumerate(text) if byte == sign]


def packed(text, sign):
    return bits.places_of(sign, np.frombuffer(text, np.uint8))


@given(TEXTS, st.integers(0, 300))
def test_places(text, place):
    found, commas = packed(text, ord(",")), places(text, ord(","))
    assert int.from_bytes(found.tobytes(), "little") == sum(1 << i for i in commas)
    assert bits.positions(found).tolist() == commas
    assert bits.count(found) == len(commas)
    assert bits.first(found) == (commas[0] if commas else 64 * len(found))
    assert bits.end(found) == (commas[-1] + 1 if commas else 0)
    onward = [next(i for i in commas if i >= at) for at in range(commas[-1] + 1 if commas else 0)]
    assert bits.onward(found, np.arange(len(onward))).tolist() == onward
    place = min(place, len(text))
    assert bits.positions(bits.before(found, place)).tolist() == [i for i in commas if i < place]
    assert bits.positions(bits.previous(found)).tolist() == [i + 1 for i in commas if i + 1 < 64 * len(found)]
    assert bits.positions(bits.following(found)).tolist() == [i - 1 for i in commas if i]
    up_to = list(accumulate(byte == ord(",") for byte in text))
    assert bits.ranks(found, np.arange(len(text))).tolist() == up_to
    odd = bits.positions(bits.are_odd(found))
    assert odd[odd < len(text)].tolist() == [i for i, number in enumerate(up_to) if number % 2]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 8])
@given(st.data())
def test_stretches_that_are_alike(number, data):
    """Of a few stretches, most have `number` marks, and the sum is often right though some have more and some fewer."""
    near = st.sampled_from([number] * 4 + [0, number - 1, number + 1, 2 * number, number + 4, number + 8])
    numbers = data.draw(st.lists(near, min_size=1, max_size=30))
    if data.draw(st.booleans()):
        numbers.append(max(0, number * (len(numbers) + 1) - sum(numbers)))
    gaps = data.draw(st.lists(st.integers(0, 70), min_size=len(numbers), max_size=len(numbers)))
    text = b"".join(b"a" * gap + b"," * marks + b"\n" for gap, marks in zip(gaps, numbers, strict=True))
    found = bits.are_alike(packed(text, ord(",")), packed(text, ord("\n")), number)
    assert found == all(marks == number for marks in numbers)
