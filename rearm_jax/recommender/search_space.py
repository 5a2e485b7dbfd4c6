"""Where good settings of a model may be, and a fair list of them to try: the same number for every model, seeded.

A model declares its `search_space` beside its settings: the name of a setting -> the range that it is looked for in.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Any number from low to high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"{self}: low must be below high")

    def at(self, share: float) -> float:
        """The value at a share of the range, from 0 to 1."""
        return min(self.low + share * (self.high - self.low), self.high)


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """Any number from low to high, each factor as likely as another."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"{self}: low must be above 0 and below high")

    def at(self, share: float) -> float:
        """The value at a share of the range, from 0 to 1."""
        return min(self.low * (self.high / self.low) ** share, self.high)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, each as likely as another."""

    values: tuple

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple) or len(set(self.values)) < max(2, len(self.values)):
            raise ValueError(f"{self}: values must be a tuple of two or more, all different")

    def at(self, share: float) -> Any:
        """The value at a share of the range, from 0 to 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Range = Uniform | LogUniform | Choice
SearchSpace = Mapping[str, Range]


def search_list(space: SearchSpace, n: int, seed: int) -> list[dict[str, Any]]:
    """Settings to try: first {}, the defaults, then scrambled Sobol points (Sobol 1967, Owen 1998) of the space.

    The first n of a longer list are the list of n, so that tries can be added later; the order of `space` does not
    matter. An empty space has nothing to try but the defaults. A space of few choices may give the same ones twice.

    Args:
      space: dotted name of a setting -> its range.
      n: how many, at least 1.
      seed: of the scrambling.

    Raises:
      ValueError: n is below 1.
    """
    from scipy.stats import qmc  # takes a quarter of the time that the rest of the package takes to import

    if n < 1:
        raise ValueError(f"n = {n}: at least one try, that of the defaults")
    names, tries = sorted(space), list[dict[str, Any]]([{}])
    if not names or n == 1:
        return tries[:n]
    sobol = qmc.Sobol(len(names), seed=seed)
    # Numbers of points that are powers of 2 are what Sobol's sequence is balanced for.
    points = sobol.random_base2((n - 2).bit_length())[: n - 1]
    return tries + [{name: space[name].at(share) for name, share in zip(names, point, strict=True)} for point in points]
