"""What less precise products do to the numbers of the original, with the products of accelerators computed on a CPU.

python -m benchmarks.precision tests/golden/paper_baby.npz

Off the CPU, `config.matmul_precision` decides how a product of float32 matrices is computed: from factors rounded to
bfloat16 or TF32, or from several such products. Here every product of the forward pass and of its gradient rounds its
factors so, and sums in float32; propagation is the sum of entries that it is there. The rows of the table are explained
in tests/golden.py.
"""

import argparse
import functools
from collections.abc import Callable
from unittest import mock

import jax
from jax._src.lax import lax as private_lax  # products and their gradients all come through its dot_general

from rearm_jax.graphs import adjacency
from tests import golden

MANTISSA_BITS = {"bfloat16": 7, "TF32": 10}
NAMES = ("representation", "losses", "gradients", "representation_after", "metrics", "top20_agree")


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def rounded(x: jax.Array, mantissa_bits: int) -> jax.Array:
    """x with fewer bits; its derivative is that of x, as the hardware rounds inside of the product."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=mantissa_bits)


@rounded.defjvp
def _rounded_jvp(mantissa_bits, primals, tangents):
    return rounded(primals[0], mantissa_bits), tangents[0]


def in_one_pass(exact: Callable, bits: int) -> Callable:
    """The product of rounded factors."""

    def product(a, b, *args, **kwargs):
        return exact(rounded(a, bits), rounded(b, bits), *args, **kwargs)

    return product


def in_three_passes(exact: Callable, bits: int) -> Callable:
    """Each factor as the sum of two rounded ones; the product of the small parts is left out."""

    def product(a, b, *args, **kwargs):
        a_high, b_high = rounded(a, bits), rounded(b, bits)
        # The large parts carry the whole derivative.
        a_low, b_low = (jax.lax.stop_gradient(rounded(x - high, bits)) for x, high in ((a, a_high), (b, b_high)))
        small = exact(a_high, b_low, *args, **kwargs) + exact(a_low, b_high, *args, **kwargs)
        return exact(a_high, b_high, *args, **kwargs) + small

    return product


def measure(path: str, wrap: Callable[[Callable], Callable]) -> dict:
    """`tests.golden.compare` where each product is `wrap(product)`."""
    jax.clear_caches()
    product = wrap(private_lax.dot_general)
    with (
        mock.patch.object(private_lax, "dot_general", product),
        mock.patch.object(jax.lax, "dot_general", product),
        mock.patch.object(adjacency, "sparse_product", _sum_of_entries),
    ):
        return golden.compare(path)


def _sum_of_entries(matrix, indptr, x):
    return adjacency.sum_of_entries(matrix.data, matrix.indices, x, matrix.shape[0])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="+", help="golden files")
    columns = {
        "one pass of bfloat16": functools.partial(in_one_pass, bits=MANTISSA_BITS["bfloat16"]),
        "TF32": functools.partial(in_one_pass, bits=MANTISSA_BITS["TF32"]),
        "three passes of bfloat16": functools.partial(in_three_passes, bits=MANTISSA_BITS["bfloat16"]),
        "float32": lambda exact: exact,
    }
    for path in parser.parse_args().file:
        found = {name: measure(path, wrap) for name, wrap in columns.items()}
        print(f"| {path} | {' | '.join(found)} |")
        print("|---" * (len(found) + 1) + "|")
        for name in NAMES:
            print(f"| {name} | {' | '.join(f'{result[name]:.2g}' for result in found.values())} |")


if __name__ == "__main__":
    main()
