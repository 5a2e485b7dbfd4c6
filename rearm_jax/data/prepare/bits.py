"""Sets of places in a text as bits: one for each byte, 64 in a word, the first in the lowest place.

They take an eighth of the memory of bools, and an operation treats 64 bytes of the text at once.
"""

import numpy as np

_PIECE = 1 << 17  # bytes at a time, whose bools stay in a core's cache
_ALL = np.uint64(2**64 - 1)


def places_of(value: int, data: np.ndarray) -> np.ndarray:
    """The places of a byte in a text, uint8 (n,) -> uint64 (n / 64,), the last word filled up with zeros."""
    octets = np.zeros(8 * (-(-len(data) // 64)), np.uint8)
    for start in range(0, len(data), _PIECE):
        packed = np.packbits(data[start : start + _PIECE] == value, bitorder="little")
        octets[start // 8 : start // 8 + len(packed)] = packed
    return octets.view("<u8")


def positions(bits: np.ndarray) -> np.ndarray:
    """The places of the bits that are set, int64 (n,), in ascending order."""
    words = np.flatnonzero(bits)
    octets = bits[words].view(np.uint8)
    some = np.flatnonzero(octets)
    found = np.flatnonzero(np.unpackbits(octets[some], bitorder="little"))
    octet = some[found >> 3]
    return 64 * words[octet >> 3] + 8 * (octet & 7) + (found & 7)


def count(bits: np.ndarray) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits).sum())


def ranks(bits: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How many bits are set up to each of some places, it included: int64 (n,)."""
    counts = np.bitwise_count(bits)
    word, behind = places >> 6, (63 - (places & 63)).astype(np.uint64)
    return (np.cumsum(counts, dtype=np.int64) - counts)[word] + np.bitwise_count(bits[word] << behind)


def onward(bits: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The first bit that is set at each of some places or behind, int64 (n,); there must be one."""
    word = places >> 6
    rest = bits[word] & (_ALL << (places & 63).astype(np.uint64))
    ends = rest == 0
    words = np.flatnonzero(bits)
    word[ends] = words[np.searchsorted(words, word[ends], side="right")]
    rest[ends] = bits[word[ends]]
    return 64 * word + np.bitwise_count((rest & -rest) - np.uint64(1))


def before(bits: np.ndarray, place: int) -> np.ndarray:
    """The bits before a place; the others are zeros."""
    kept = bits.copy()
    kept[(place + 63) // 64 :] = 0
    if place % 64:
        kept[place // 64] &= _ALL >> np.uint64(64 - place % 64)
    return kept


def first(bits: np.ndarray) -> int:
    """The place of the first bit that is set; beyond all of them if there is none."""
    words = np.flatnonzero(bits)
    if not len(words):
        return 64 * len(bits)
    word = int(bits[words[0]])
    return 64 * int(words[0]) + (word & -word).bit_length() - 1


def end(bits: np.ndarray) -> int:
    """The place behind the last bit that is set; 0 if there is none."""
    words = np.flatnonzero(bits)
    return 64 * int(words[-1]) + int(bits[words[-1]]).bit_length() if len(words) else 0


def previous(bits: np.ndarray) -> np.ndarray:
    """For each place the bit before it; for the first zero."""
    moved = bits << np.uint64(1)
    moved[1:] |= bits[:-1] >> np.uint64(63)
    return moved


def following(bits: np.ndarray) -> np.ndarray:
    """For each place the bit behind it; for the last zero."""
    moved = bits >> np.uint64(1)
    moved[:-1] |= bits[1:] << np.uint64(63)
    return moved


def are_odd(bits: np.ndarray) -> np.ndarray:
    """For each place whether the number of bits set up to it, it included, is odd."""
    odd, moved = bits.copy(), np.empty_like(bits)
    for shift in (1, 2, 4, 8, 16, 32):
        odd ^= np.left_shift(odd, np.uint64(shift), out=moved)
    words = np.right_shift(odd, np.uint64(63), out=moved)
    odd ^= np.negative(np.bitwise_xor.accumulate(words) ^ words)
    return odd


def are_alike(marks: np.ndarray, ends: np.ndarray, number: int) -> bool:
    """Whether each stretch up to one of the ends holds the same number of marks, at least one.

    A counter runs over the places, plus one at a mark, minus `number` at an end, modulo a power of two beyond `number`.
    It is zero at every end only if no stretch holds fewer; with the right sum, none holds more. Each of its digits is
    an array of bits, and one where it has flipped an odd number of times.
    """
    if count(marks) != number * count(ends):
        return False
    flips, both = (marks | ends if number % 2 else marks), np.uint64(0)
    for digit in range(number.bit_length()):
        after = are_odd(flips)
        if (after & ends).any():
            return False
        carry = (flips & ~after) | both
        added = (-number >> (digit + 1)) & 1
        flips, both = (carry ^ ends, carry & ends) if added else (carry, np.uint64(0))
    return True
